#!/usr/bin/env bash
# Packs what a build has made to run elsewhere: the program, the GPU plug-in and its tests where they are built, and the shared
# libraries they need but for glibc's own and the NVIDIA driver's. cuBLASLt is not in it: it is found on the machine (docs/building.md).
#
#   scripts/bundle.sh [BUILD]     writes BUILD/attune-bundle/ and BUILD/attune-bundle.tar.xz
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
build="$(cd "${1:-$root/build}" && pwd)"
out="$build/attune-bundle"

rm -rf "$out" "$out.tar.xz"
mkdir -p "$out/lib"
programs=()
for file in attune libattune_cuda.so test_ops_cuda; do
  [[ -e "$build/$file" ]] || continue
  strip -o "$out/$file" "$build/$file"
  programs+=("$build/$file")
done
[[ -e "$out/attune" ]] || { echo "error: $build/attune is missing; build it first (scripts/build.sh)" >&2; exit 1; }

# glibc must be the machine's own; libcuda comes with its driver.
own='^(linux-vdso|ld-linux.*|libc|libm|libdl|librt|libpthread|libresolv|libutil|libcuda)\.so'
ldd "${programs[@]}" | awk '$2 == "=>" { print $1, $3 }' | sort -u | while read -r name path; do
  [[ "$name" =~ $own ]] && continue
  [[ -e "$path" ]] || { echo "error: $name, which the program needs, was not found" >&2; exit 1; }
  cp -L "$path" "$out/lib/$name"
done
cp "$root/LICENSE" "$out/"
# Debian says where a library's copyright stands: what is passed on brings it along.
mkdir -p "$out/licenses"
for library in "$out/lib"/*; do
  package="$(dpkg-query -S "*/$(basename "$library")" 2>/dev/null | head -n 1 | cut -d: -f1 || true)"
  [[ -n "$package" && -e "/usr/share/doc/$package/copyright" ]] && cp -L "/usr/share/doc/$package/copyright" "$out/licenses/$package"
done
tar -C "$build" -cf - attune-bundle | xz -T0 -6 >"$out.tar.xz"

most=$((64 * 1000 * 1000)) size="$(stat -c %s "$out.tar.xz")"
echo "bundle: $out.tar.xz, $((size / 1000)) kB, $(find "$out/lib" -type f | wc -l) libraries"
[[ "$size" -lt "$most" ]] || { echo "error: the bundle is larger than 64 MB" >&2; exit 1; }
