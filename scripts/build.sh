#!/usr/bin/env bash
# Builds build/attune; with --tests also everything that the tests need.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

target=(--target attune)
for argument in "$@"; do
  case "$argument" in
    --tests) target=() ;;
    -h | --help) echo "usage: scripts/build.sh [--tests]"; exit 0 ;;
    *) echo "error: unknown argument \"$argument\"; usage: scripts/build.sh [--tests]" >&2; exit 2 ;;
  esac
done

bash "$root/scripts/packages.sh"
cmake -S "$root" -B "$root/build" -G Ninja -DCMAKE_BUILD_TYPE=Release
cmake --build "$root/build" "${target[@]}"
