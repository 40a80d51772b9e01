#!/usr/bin/env bash
# Configures and builds one preset (see CMakePresets.json): tools/build.sh PRESET [TARGET…]
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1; shift
cmake --preset "$preset" -Wno-dev > "/tmp/collegium-configure-$$.log" 2>&1 || { cat "/tmp/collegium-configure-$$.log"; rm -f "/tmp/collegium-configure-$$.log"; exit 1; }
rm -f "/tmp/collegium-configure-$$.log"
# One job a core, but a libtorch file takes about 1.5 GB.
memory_jobs=$(awk '/MemAvailable/ {print int($2 / 1600000)}' /proc/meminfo)
jobs=$(nproc); ((memory_jobs < jobs)) && jobs=$memory_jobs; ((jobs < 1)) && jobs=1
cmake --build "build/$preset" -j "$jobs" ${*:+--target "$@"}
