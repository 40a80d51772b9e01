# Verbs only; the work is in CMake, tools/ and the command line.
PRESET ?= release
ROOM ?= *
# Threads that wait asleep cost a few percent on an idle machine and save most of the time on a busy one.
COLLEGIUM = OMP_WAIT_POLICY=passive build/release/cli/collegium

.PHONY: demo test build dev evidence bench docs format tidy clean

demo: build            ## install, build, train a small model, write its report
	$(COLLEGIUM) train recipes/model/tiny_moe.toml --name demo

test:                  ## install what the tests need, build everything, run all tests
	tools/setup.sh test
	tools/test.sh

build:                 ## the command line, in build/release
	tools/setup.sh
	tools/build.sh release

dev:                   ## everything with quick rebuilds, in build/dev
	tools/setup.sh test
	tools/build.sh dev

evidence:              ## train every recipe of ROOM against its baseline; results go to docs/evidence
	tools/setup.sh evidence
	tools/build.sh release
	$(COLLEGIUM) evidence $(wildcard recipes/$(ROOM)/*.toml) --store docs/evidence --runs runs/evidence

bench:                 ## speed and memory against rivals, drawn on one page
	tools/setup.sh test
	tools/build.sh ci
	tools/bench.sh

docs: build            ## the generated pages of docs/
	$(COLLEGIUM) docs cli > docs/cli.md
	$(COLLEGIUM) docs mechanisms > docs/mechanisms.md

format:                ## clang-format, pinned, through pre-commit
	.venv/bin/pip install -q pre-commit==4.3.0
	.venv/bin/pre-commit run --all-files

tidy:                  ## clang-tidy, pinned, over all sources (slow: minutes for the first files, then seconds a file)
	tools/setup.sh
	tools/tidy.sh

clean:
	rm -rf build
