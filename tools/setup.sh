#!/usr/bin/env bash
# Installs what is missing: Debian or Ubuntu packages, and a Python environment in .venv with the pinned torch.
#   tools/setup.sh          what building and running need
#   tools/setup.sh test     and what the tests need
#   tools/setup.sh evidence and the chess engine whose games one recipe reads
# Your own torch (2.6 or newer) instead: PYTHON=/path/to/python make …; then no environment is made.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(g++ cmake ninja-build ccache git python3 python3-dev python3-pip python3-venv libcli11-dev libtomlplusplus-dev
          nlohmann-json3-dev libsqlite3-dev libssl-dev libarchive-dev libpcre2-dev)
# Text to train on comes from PyPI and npm, through their own clients.
command -v npm >/dev/null || packages+=(npm)
[[ "${1:-}" == test ]] && packages+=(doctest-dev zsh fish tmux)
[[ "${1:-}" == evidence ]] && packages+=(stockfish)
# Ubuntu has Chromium as a snap only; the tests of pages skip, with their reason, where no browser runs.
[[ "${1:-}" == test && "$(. /etc/os-release && echo "$ID")" != ubuntu ]] && packages+=(chromium)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
  as_root=(); ((EUID)) && as_root=(sudo)
  echo "installing: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends ${missing[*]} >/dev/null
fi

if [[ -n "${PYTHON:-}" ]]; then
  "$PYTHON" -c 'import torch; v = tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])); assert v >= (2, 6), torch.__version__' \
    || { echo "PYTHON=$PYTHON: needs torch 2.6 or newer"; exit 2; }
  [[ "${1:-}" == test ]] && "$PYTHON" -m pip install -q $(grep -v -e '^#' -e '^-r' -e '^torch' requirements-test.txt)
  exit 0
fi
[[ -x .venv/bin/python ]] || python3 -m venv .venv
file=requirements.txt; [[ "${1:-}" == test ]] && file=requirements-test.txt
stamp=.venv/.installed-$file
if ! cmp -s <(cat requirements.txt "$file") "$stamp"; then
  echo "installing Python packages of $file"
  # A CPU build of torch suffices; TORCH_INDEX names the index to take it from when the default one has none.
  .venv/bin/pip install -q --disable-pip-version-check ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r "$file"
  cat requirements.txt "$file" > "$stamp"
fi
