#!/usr/bin/env bash
# Checks who includes whom: every folder of src/ is a room, and may include only what its row below allows.
# docs/architecture.md explains the order. Prints file:line of each violation; exit 1 when there is one.
#
#   scripts/check_rooms.sh [SRC]     SRC: the folder to check (default: src/)
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
src="${1:-src}"

# room: rooms it may include. Rows are transitive: ops may include tensor, and so all that tensor may. "*": everything.
read -r -d '' table <<'TABLE' || true
util:
tensor:     util
ops:        tensor
nn:         ops
formats:    tensor
models:     nn formats
text:       util
data:       text tensor
tuning:     models
objectives: models data
optim:      nn
infer:      models text
dist:       nn
runs:       util
train:      models data text tuning objectives optim infer dist runs
plan:       train
bench:      plan
eval:       train plan
serve:      *
cli:        *
TABLE

find "$src" -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  sort -z |
  awk -v table="$table" -v src="${src%/}" '
    function allow(room, other) { allowed[room, other] = 1 }
    BEGIN {
      rows = split(table, line, "\n")
      for (i = 1; i <= rows; ++i) {
        n = split(line[i], word, /[ :]+/)
        known[word[1]] = 1
        allow(word[1], word[1])
        for (j = 2; j <= n; ++j) if (word[j] != "") allow(word[1], word[j])
      }
      # Transitive closure: a dozen rooms, so the plain way.
      do {
        grown = 0
        for (pair in allowed) {
          split(pair, p, SUBSEP)
          for (other in known)
            if ((p[2], other) in allowed && !((p[1], other) in allowed)) { allow(p[1], other); grown = 1 }
        }
      } while (grown)
      RS = "\0"
      while ((getline file) > 0) files[++count] = file
      RS = "\n"
      for (f = 1; f <= count; ++f) check(files[f])
      if (count == 0) { print "error: no source files below " src; exit 1 }
      if (bad) { printf "check_rooms: %d violation%s in %d files\n", bad, bad == 1 ? "" : "s", count; exit 1 }
      printf "check_rooms: %d files, every include within its row\n", count
      exit 0
    }
    function report(file, number, text) { printf "%s:%d: %s\n", file, number, text; ++bad }
    function check(file,   path, room, text, number, target, other) {
      path = substr(file, length(src) + 2)
      if (path !~ /\//) { report(file, 1, "lies in no room"); return }
      room = path
      sub(/\/.*/, "", room)
      if (!(room in known)) { report(file, 1, "room \"" room "\" has no row in scripts/check_rooms.sh"); return }
      number = 0
      while ((getline text < file) > 0) {
        ++number
        if (text !~ /^[ \t]*#[ \t]*include[ \t]*[<"]/) continue
        target = text
        sub(/^[^<"]*[<"]/, "", target)
        sub(/[>"].*/, "", target)
        if (target ~ /(^|\/)(dnnl|oneapi)/ && path != "ops/blas/onednn.cpp")
          report(file, number, "<" target ">: only ops/blas/onednn.cpp speaks oneDNN")
        if (target ~ /^Eigen\//  && path != "ops/blas/eigen.cpp")
          report(file, number, "<" target ">: only ops/blas/eigen.cpp speaks Eigen")
        if (target ~ /^(cuda|cublas|cudnn|nccl)[A-Za-z_]*\.h$/ && path !~ /^ops\/cuda\//)
          report(file, number, "<" target ">: only ops/cuda/ speaks CUDA")
        if (target ~ /^CLI(11)?[\/.]/ && room != "cli") report(file, number, "<" target ">: only cli/ speaks CLI11")
        if (text ~ /include[ \t]*</) {
          other = target
          sub(/\/.*/, "", other)
          if (target ~ /\// && other in known) report(file, number, "<" target ">: a file of ours, write it in quotes")
          continue
        }
        other = target
        sub(/\/.*/, "", other)
        if (target !~ /\// || !(other in known)) report(file, number, "\"" target "\": write the path from src/, beginning with a room")
        else if (!((room, other) in allowed) && !((room, "*") in allowed))
          report(file, number, room "/ may not include " other "/ (" target ")")
      }
      close(file)
    }
  '
