#!/usr/bin/env bash
# Do the tests notice bugs? Applies each change of tests/mutations/mutations.txt to a copy of the tree, rebuilds what it
# touches, and expects a test to fail. Prints a table; exits 1 where a mutant survives, 2 where the table does not fit.
#
#   scripts/mutation_test.sh [name pattern]        SOURCE=tree WORK=directory JOBS=n to choose others
set -euo pipefail
root=${SOURCE:-$(cd "$(dirname "$0")/.." && pwd)}
work=${WORK:-${TMPDIR:-/tmp}/attune-mutants-$(id -u)}  # a fixed name, so that ccache knows it next time
jobs=${JOBS:-$(nproc)}
pattern=${1:-.}
table=$root/tests/mutations/mutations.txt
tree=$work/tree build=$work/build

export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}  # the compiler wants the cores too

mkdir -p "$tree"
for part in CMakeLists.txt cmake src bench tests; do
  rm -rf "${tree:?}/$part"
  cp -rL --preserve=timestamps "$root/$part" "$tree/$part"
done

rooms=$(sed -n 's/^tests //p' "$table" | tr ' ' '\n' | sort -u)
cmake -S "$tree" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release >"$work/configure.log"
targets=$(printf 'test_%s ' $rooms)
echo "building $targets" >&2
ninja -C "$build" -j"$jobs" $targets >"$work/build.log" || { tail -20 "$work/build.log" >&2; exit 2; }
for room in $rooms; do
  "$build/test_$room" --gtest_brief=1 >"$work/test.log" 2>&1 || { tail -20 "$work/test.log" >&2; echo "test_$room fails without any mutant" >&2; exit 2; }
done

survived=0 wrong=0 caught=0
# One line a mutant: name, file, rooms, how to replace, original, mutated, separated by \x1f.
while IFS=$'\x1f' read -r name file tests how from to <&3; do
  [[ $name =~ $pattern ]] || continue
  cp -p "$tree/$file" "$work/original"
  if ! FROM=$from TO=$to HOW=$how perl -0777 -i -pe '
      my $n = () = /\Q$ENV{FROM}\E/g;
      exit 3 if $n == 0 || ($ENV{HOW} eq "-" && $n != 1);
      s/\Q$ENV{FROM}\E/$ENV{TO}/g' "$tree/$file" || cmp -s "$tree/$file" "$work/original"; then
    cp -p "$work/original" "$tree/$file"
    printf '%-12s %-58s %s\n' "NOT FOUND" "$name" "$file"
    wrong=$((wrong + 1))
    continue
  fi
  touch "$tree/$file"
  result=survived by=""
  if ! ninja -C "$build" -j"$jobs" $(printf 'test_%s ' $tests) >"$work/build.log" 2>&1; then
    result="no build"
  else
    for room in $tests; do
      if ! timeout 300 "$build/test_$room" --gtest_brief=1 --gtest_fail_fast >"$work/test.log" 2>&1; then
        result=caught
        by=$(sed -n 's/^\[  FAILED  \] \([^ ,]*\).*/\1/p' "$work/test.log" | head -1)
        by=${by:-crash of test_$room}
        break
      fi
    done
  fi
  cp "$work/original" "$tree/$file"
  touch "$tree/$file"
  printf '%-12s %-58s %s\n' "$result" "$name" "$by"
  case $result in
    caught) caught=$((caught + 1)) ;;
    survived) survived=$((survived + 1)) ;;
    *) wrong=$((wrong + 1)) ;;
  esac
done 3< <(perl -ne '
    chomp;
    if (/^\[(.*)\]$/) { $name = $1 }
    elsif (/^(file|tests) +(.*)$/) { $v{$1} = $2 }
    elsif (/^([-*]) (.*)$/) { ($how, $from) = ($1, $2) }
    elsif (/^\+ ?(.*)$/) { print join("\x1f", $name, $v{file}, $v{tests}, $how, $from, $1), "\n" }' "$table")

echo "$caught caught, $survived survived, $wrong could not be tried"
[[ $wrong == 0 ]] || exit 2
[[ $survived == 0 ]]
