#!/usr/bin/env bash
# Builds the ci preset and runs every test: fast C++ tests first, then Python.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
tools/build.sh ci
export COLLEGIUM_CLI=$PWD/build/ci/cli/collegium COLLEGIUM_TEST_INSPECT=$PWD/build/ci/tests/test_inspect
# Some tests read real archives. Without a network they skip, and say so.
for source in shakespeare udhr mnist; do
  "$COLLEGIUM_CLI" data get "$source" > /dev/null || echo "$source is not here: the tests that read it skip"
done
ctest --test-dir build/ci --output-on-failure
PYTHONPATH=$PWD/build/ci/python:$PWD/python "$python" -m pytest -q tests/python
# Operators and parity once more with the loops that most processors have, but for what is about tracing; ctest did so
# for C++.
if grep -qsw avx2 /proc/cpuinfo; then
  COLLEGIUM_ISA=avx2 PYTHONPATH=$PWD/build/ci/python:$PWD/python "$python" -m pytest -q \
    tests/python/test_ops.py tests/python/test_parity.py -k "not compile and not opcheck and not fake"
fi
