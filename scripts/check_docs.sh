#!/usr/bin/env bash
# docs/configuration.md ends with the reference that the program itself prints. Checks that it is not stale;
# --write brings it up to date.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
document="$root/docs/configuration.md"
attune="${ATTUNE:-$root/build/attune}"

wanted="$(sed '/^<!-- From here on/q' "$document"; "$attune" train --help-config)"
if [[ "${1:-}" == --write ]]; then
  printf '%s\n' "$wanted" > "$document"
elif ! diff -u "$document" <(printf '%s\n' "$wanted"); then
  echo "check_docs: docs/configuration.md is stale; run scripts/check_docs.sh --write" >&2
  exit 1
else
  echo "check_docs: docs/configuration.md is what the program says"
fi
