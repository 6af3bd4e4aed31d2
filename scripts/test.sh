#!/usr/bin/env bash
# Sets everything up, builds, and runs the tests. The last lines are ctest's summary.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

bash "$root/scripts/build.sh" --tests
bash "$root/scripts/check_rooms.sh"
bash "$root/scripts/check_isa.sh"
bash "$root/scripts/check_docs.sh"
exec ctest --test-dir "$root/build" --output-on-failure -j2
