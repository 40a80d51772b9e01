#!/usr/bin/env bash
# Every benchmark of the ci preset, ours beside rivals: the command's on one page, then the two that are programs of their
# own. Results go to build/ci/bench/results; options go to `collegium bench` (tools/bench.sh --quick -n 1).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
"$python" -m pip install -q --disable-pip-version-check $(grep -v -e "^#" -e "^-r" requirements-bench.txt)
results=build/ci/bench/results
mkdir -p "$results"
build/ci/cli/collegium bench --skew all --python "$python" --out "$results/bench.html" --out "$results/bench.json" "$@" \
  | tee "$results/bench.txt"
echo "== attention"
build/ci/bench/layer/bench_layer_attention | tee "$results/layer_attention.txt"
echo "== choosing among many experts"
build/ci/bench/kernels/bench_kernels_product_keys 9 2 wall "$results/product_keys.json" | tee "$results/kernels_product_keys.txt"
"$python" bench/product_keys.py "$results/product_keys.json" "$results/product_keys.svg"
