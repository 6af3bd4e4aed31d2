#!/bin/bash
# What the GPU build does on a GPU machine, in one table: correctness, determinism, memory, speed. Builds nothing and needs no
# network: it takes the bundle that `cmake --build build/cuda --target bundle` made, Python, and for the peers PyTorch with
# transformers.
#
#   scripts/gpu_check.sh [--bundle DIR|ARCHIVE] [--only ops,train,memory,speed …] [--shapes 0.5B,1.5B,7B]
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 bench/gpu_check.py "$@"
