#!/usr/bin/env bash
# The CPU kernels are compiled once per instruction set. A symbol that two of these objects share is merged by the
# linker, which may keep the AVX copy for every user, and a processor without AVX dies. So the AVX objects may define
# no global or weak symbol that does not carry their own namespace. Prints file and symbol of each violation.
#
#   scripts/check_isa.sh [BUILD]     BUILD: a Release build (default: build/)
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
build="${1:-$root/build}"

case "$(uname -m)" in
  x86_64 | amd64) ;;
  *) echo "check_isa: one instruction set on this processor, nothing to check"; exit 0 ;;
esac

bad=0 checked=0
for isa in avx2 avx512 avx512_bf16; do
  shopt -s nullglob
  objects=("$build/src/CMakeFiles/attune_cpu_$isa.dir/ops/cpu/"*.o)
  if [[ ${#objects[@]} -eq 0 ]]; then
    echo "error: no $isa objects below $build; build first (scripts/build.sh)" >&2
    exit 1
  fi
  for object in "${objects[@]}"; do
    checked=$((checked + 1))
    # Upper-case types are global, V and W weak, u unique; DW.ref.* are pointers that exception tables share, not code.
    while IFS= read -r symbol; do
      [[ "$symbol" == DW.ref.* || "$symbol" == *"attune::ops::cpu::$isa::"* ]] && continue
      echo "$isa/$(basename "$object" .o): $symbol"
      bad=$((bad + 1))
    done < <(nm -C --defined-only "$object" | sed -nE 's/^[0-9a-fA-F]* *[A-TV-Zu] //p')
  done
done
if [[ $bad -gt 0 ]]; then
  echo "check_isa: $bad symbols outside of their namespace: mark what they stand for [[gnu::always_inline]] or static, or avoid it"
  exit 1
fi
echo "check_isa: $checked objects, every symbol in the namespace of its instruction set"
