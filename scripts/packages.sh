#!/usr/bin/env bash
# Installs what packages.txt lists and this machine lacks. Does nothing, and needs no network, when all of it is there.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

mapfile -t wanted < <(sed -e 's/#.*//' -e 's/[[:space:]]//g' "$root/packages.txt" | grep -v '^$')

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
  echo "note: this is not a Debian system, so nothing is installed here. The build needs (Debian's names):" >&2
  printf '  %s\n' "${wanted[@]}" >&2
  echo "docs/building.md says what each is for. Going on with what is there." >&2
  exit 0
fi

missing=()
for package in "${wanted[@]}"; do
  status="$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null || true)"
  [[ "$status" == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

echo "installing: ${missing[*]}" >&2
as_root=()
if [[ "$(id -u)" -ne 0 ]]; then
  if ! command -v sudo > /dev/null; then
    echo "error: installing packages needs root, and there is no sudo. As root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -q < /dev/null >&2
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" < /dev/null >&2
