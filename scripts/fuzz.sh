#!/usr/bin/env bash
# Fuzzes the readers of untrusted input with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   scripts/fuzz.sh [SECONDS] [TARGET…]     default: 60 seconds each of all targets, one behind the other
#
# Needs Debian's clang-14 and libclang-rt-14-dev. New inputs are kept in build/fuzz/corpus/TARGET, what fails in
# build/fuzz/found/TARGET. A finding belongs, made small, into tests/fuzz/corpus/TARGET: the tests replay it.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

seconds="${1:-60}"
[[ "$seconds" =~ ^[0-9]+$ ]] || { echo "usage: scripts/fuzz.sh [SECONDS] [TARGET…]" >&2; exit 2; }
shift || true
all=(tokenizer_json sentencepiece_model chat_template safetensors torch_bin records config token_file)
targets=("$@")
[[ ${#targets[@]} -gt 0 ]] || targets=("${all[@]}")
for target in "${targets[@]}"; do
  [[ " ${all[*]} " == *" $target "* ]] || { echo "error: unknown target \"$target\"; known: ${all[*]}" >&2; exit 2; }
done
command -v clang++-14 > /dev/null || { echo "error: clang++-14 is missing: apt-get install clang-14 libclang-rt-14-dev" >&2; exit 2; }

cmake -S "$root" -B "$root/build/fuzz" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DATTUNE_FUZZ=ON \
  -DCMAKE_CXX_COMPILER=clang++-14 > /dev/null
cmake --build "$root/build/fuzz" --target "${targets[@]/#/fuzz_}"

status=0
for target in "${targets[@]}"; do
  corpus="$root/build/fuzz/corpus/$target" found="$root/build/fuzz/found/$target"
  mkdir -p "$corpus" "$found"
  limit=65536
  [[ "$target" != chat_template && "$target" != config ]] || limit=4096
  echo "== $target, $seconds s" >&2
  "$root/build/fuzz/fuzz_$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -malloc_limit_mb=1024 \
    -max_len="$limit" -print_final_stats=1 -artifact_prefix="$found/" "$corpus" "$root/tests/fuzz/corpus/$target" || status=1
done
exit $status
