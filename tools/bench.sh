#!/usr/bin/env bash
# Runs every benchmark of the ci preset: ours beside rivals, interleaved. Results go to build/ci/bench/results.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
"$python" -m pip install -q --disable-pip-version-check $(grep -v -e "^#" -e "^-r" requirements-bench.txt)
results=build/ci/bench/results
mkdir -p "$results"
echo "== kernels, routers and dense products, without Python"
build/ci/cli/collegium bench --skew all --out "$results/bench.html" | tee "$results/bench.txt"
echo "== experts inside transformers"
PYTHONPATH=$PWD/build/ci/python "$python" bench/experts.py --json "$results/experts.json"
echo "== layers: attention"
build/ci/bench/layer/bench_layer_attention | tee "$results/layer_attention.txt"
echo "== training step"
PYTHONPATH=$PWD/build/ci/python "$python" bench/training_step.py --json "$results/training_step.json"
echo "== training steps of OLMoE- and Mixtral-shaped models, with and without torch.compile"
PYTHONPATH=$PWD/build/ci/python "$python" bench/models.py --json "$results/models.json"
echo "== routers"
PYTHONPATH=$PWD/build/ci/python "$python" bench/routers.py --json "$results/routers.json"
echo "== atomic experts"
build/ci/bench/kernels/bench_kernels_product_keys 9 2 wall "$results/product_keys.json" | tee "$results/kernels_product_keys.txt"
"$python" bench/product_keys.py "$results/product_keys.json" "$results/product_keys.svg"
PYTHONPATH=$PWD/build/ci/python "$python" bench/atomic.py --json "$results/atomic.json"
if "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
  echo "== experts on the CUDA device"
  PYTHONPATH=$PWD/build/ci/python "$python" bench/cuda.py --json "$results/cuda.json"
fi
