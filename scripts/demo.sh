#!/usr/bin/env bash
# The whole way of a specialist on the embedded example: tokenizer, pre-training, full-parameter tuning, evaluation.
# Sets everything up itself. The last line on stdout is JSON; everything else is for reading.
#
#   scripts/demo.sh [--full]     --full: as a pipeline, with preferences as a third stage
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
full=false
case "${1:-}" in
  "") ;;
  --full) full=true ;;
  *) echo "error: $1: expected --full or nothing" >&2; exit 2 ;;
esac
bash scripts/build.sh >&2

attune=build/attune
out=${ATTUNE_DEMO_DIR:-demo-output}
data=examples/medical
rm -rf "$out"
mkdir -p "$out"
start=$(date +%s)

step() { printf '\n== %s\n' "$*" >&2; }
# The value of a number in a line of JSON.
number() { grep -o "\"$2\": [0-9.eE+-]*" <<<"$1" | head -n 1 | sed 's/.*: //'; }
percent() { awk -v x="$1" 'BEGIN { printf "%5.1f %%", 100 * x }'; }
# Small models answer fastest on one thread each: the questions of one stage are asked side by side.
ask() { OMP_NUM_THREADS=1 "$attune" eval --model "$1" --file "$data/$2" --max-new-tokens 12 --json "${@:3}"; }

step "1. a tokenizer from the domain's own text"
"$attune" tokenizer train "$data/pretrain.jsonl" "$data/train.jsonl" --vocab-size 2000 --out "$out/tokenizer"

step "2. a small model, randomly initialised, and a quarter of the time on plain medical text"
"$attune" init --config "$data/model.json" --tokenizer "$out/tokenizer" --out "$out/base" --seed 7
pretrained=$out/pretrained specialist=$out/specialist
if $full; then
  # Plain text, questions and answers, preferences: each stage begins with the result of the one before.
  "$attune" train "$data/pipeline.yaml" model_name_or_path="$out/base" output_dir="$out/way"
  pretrained=$out/way/1-pt specialist=$out/way/2-sft
else
  "$attune" train "$data/pretrain.yaml" model_name_or_path="$out/base" output_dir="$pretrained"
fi

step "3. before tuning: the held-out questions, asked of the pre-trained model"
ask "$pretrained" test_phrasings.jsonl --template chatml --predictions "$out/before.jsonl" --baseline-from "$data/train.jsonl" >"$out/before.json" &
ask "$pretrained" test_phrasings.jsonl --prompt-column cloze >"$out/cloze.json"
wait $!
before=$(<"$out/before.json")
cloze=$(<"$out/cloze.json")

step "4. tune every parameter on questions and answers"
if $full; then echo "(done in step 2)" >&2; else "$attune" train "$data/sft.yaml" model_name_or_path="$pretrained" output_dir="$specialist"; fi

step "5. after tuning: the same questions"
ask "$specialist" test_pairings.jsonl --template chatml >"$out/pairings.json" &
ask "$specialist" test_phrasings.jsonl --template chatml --predictions "$out/after.jsonl" >"$out/after.json"
wait $!
pairings=$(<"$out/pairings.json")
after=$(<"$out/after.json")
if $full; then
  step "6. after the preferences: the same questions, and how often the right answer is the likelier one"
  preferred=$(ask "$out/way/3-dpo" test_phrasings.jsonl --template chatml)
  specialist=$out/way/3-dpo
fi

questions=$(($(number "$after" questions) + $(number "$pairings" questions)))
seconds=$(($(date +%s) - start))
cat <<TABLE

  held-out questions answered exactly                    before     after
  new pairings of known phrasings and known facts             –   $(percent "$(number "$pairings" exact_match)")
  phrasings never seen in training                      $(percent "$(number "$before" exact_match)")   $(percent "$(number "$after" exact_match)")
  the pre-trained model, asked to complete a sentence   $(percent "$(number "$cloze" exact_match)")
  always giving the most frequent answer                $(percent "$(number "$before" majority_baseline)")

  answers side by side (question | before | after | reference):
TABLE
# Every 150th question: both languages, several relations.
paste -d '\n' "$out/before.jsonl" "$out/after.jsonl" | awk '
  function field(line, name,   s) { s = line; sub(".*\"" name "\": \"", "", s); sub("\"[,}].*", "", s); return s }
  NR % 2 == 1 { before = $0; next }
  (NR / 2) % 150 == 1 { printf "  %s | %s | %s | %s\n", field($0, "prompt"), substr(field(before, "predict"), 1, 40), field($0, "predict"), field($0, "label") }'
cat <<END

  The tuned model lies in $specialist (loss curve: training_loss.svg). Try it:
    $attune generate --model $specialist --chat --prompt "Which disease does a lack of vitamin C cause?"
  This shows that the whole way works. It does not make a medical adviser: the facts are few and the model is tiny.

END
if $full; then
  printf '  phrasings never seen, after the preferences: %s; the stages side by side: %s\n\n' "$(percent "$(number "$preferred" exact_match)")" "$out/way/pipeline.json"
fi
printf '{"exact_match_before":%s,"exact_match_after":%s,"exact_match_pairings":%s,"cloze_baseline":%s,"majority_baseline":%s,"heldout_questions":%d,"seconds":%d,"model":"%s"}\n' \
  "$(number "$before" exact_match)" "$(number "$after" exact_match)" "$(number "$pairings" exact_match)" \
  "$(number "$cloze" exact_match)" "$(number "$before" majority_baseline)" "$questions" "$seconds" "$specialist"
