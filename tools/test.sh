#!/usr/bin/env bash
# Builds the ci preset and runs every test: fast C++ tests first, then Python.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
tools/build.sh ci
export COLLEGIUM_CLI=$PWD/build/ci/cli/collegium COLLEGIUM_TEST_INSPECT=$PWD/build/ci/tests/test_inspect
ctest --test-dir build/ci --output-on-failure
PYTHONPATH=$PWD/build/ci/python:$PWD/python "$python" -m pytest -q tests/python
# Operators and parity once more with the loops that most processors have, but for what is about tracing; ctest did so
# for C++.
if grep -qsw avx2 /proc/cpuinfo; then
  COLLEGIUM_ISA=avx2 PYTHONPATH=$PWD/build/ci/python:$PWD/python "$python" -m pytest -q \
    tests/python/test_ops.py tests/python/test_parity.py -k "not compile and not opcheck and not fake"
fi
