#!/usr/bin/env bash
# clang-tidy (settings in .clang-tidy) over all sources, or over the FILES named: tools/tidy.sh [FILE…]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
"$python" -m pip install -q --disable-pip-version-check clang-tidy==23.1.4
# Its own build folder: unity batches and precompiled headers hide which file a warning is about. The loops are compiled
# for one instruction set a file; page_assets.h is made by the build.
cmake -S . -B build/tidy -G Ninja -Wno-dev -DCMAKE_BUILD_TYPE=Release -DCMAKE_UNITY_BUILD=OFF -DCOLLEGIUM_TESTS=OFF \
  -DCOLLEGIUM_PYTHON=ON > /dev/null
ninja -C build/tidy embedded/web/page_assets.h > /dev/null
files=("$@")
(($#)) || mapfile -t files < <(find collegium cli python/core -name '*.cpp' ! -name 'isas_portable.cpp' ! -name 'pages_portable.cpp' | sort)
omp=$(dirname "$(g++ -print-file-name=include/omp.h)")  # clang has no omp.h of its own; GCC's declarations do
printf '%s\n' "${files[@]}" | xargs -P "$(nproc)" -n 4 "$(dirname "$python")/clang-tidy" -p build/tidy --quiet \
  --extra-arg="-idirafter$omp" --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-deprecated-declarations
