#!/usr/bin/env bash
# One run in each precision, on the same data in the same order: losses side by side, and whether small rates move bf16.
#
#   bench/precision.sh MODEL DATA OUT [key=value …]     needs build/attune and python3
#
# MODEL is a trained base (Hugging Face directory), DATA any data set, key=value further settings of all runs.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
[[ $# -ge 3 ]] || { sed -n '2,6p' "${BASH_SOURCE[0]}" >&2; exit 2; }
model="$1" data="$2" out="$3"
shift 3

run() {  # name, settings…
  local name="$1"
  shift
  "$root/build/attune" train model_name_or_path="$model" dataset="$data" output_dir="$out/$name" overwrite_output_dir=true \
    save_strategy=no val_size=0.05 "$@" 2> "$out/$name.log" || { tail -3 "$out/$name.log" >&2; exit 1; }
}

mkdir -p "$out"
for precision in fp32 bf16=true pure_bf16=true fp16=true; do
  run "${precision%=true}" "$@" $([[ "$precision" == fp32 ]] || echo "$precision")
done
# A rate of 1e-5 is far below half the last digit of most bf16 weights.
kept=()
for setting in "$@"; do
  [[ "$setting" =~ ^(learning_rate|lr_scheduler_type|warmup_ratio|warmup_steps)= ]] || kept+=("$setting")
done
for precision in bf16=true pure_bf16=true; do
  run "${precision%=true}_small" "${kept[@]}" "$precision" learning_rate=1.0e-5 lr_scheduler_type=constant
done

python3 - "$out" <<'PYTHON'
import json, sys

out = sys.argv[1]
runs = {n: json.load(open(f"{out}/{n}/trainer_state.json"))["log_history"]
        for n in ("fp32", "bf16", "pure_bf16", "fp16", "bf16_small", "pure_bf16_small")}
curves = {n: {e["step"]: e["loss"] for e in h if "loss" in e} for n, h in runs.items()}
evals = {n: [e["eval_loss"] for e in h if "eval_loss" in e][-1] for n, h in runs.items()}
four = ["fp32", "bf16", "pure_bf16", "fp16"]
print("step      " + "".join(f"{n:>12}" for n in four))
steps = sorted(curves["fp32"])
for s in steps[:: max(1, len(steps) // 12)]:
    print(f"{s:<10}" + "".join(f"{curves[n][s]:12.4f}" for n in four))
print("validation" + "".join(f"{evals[n]:12.4f}" for n in four))
print("largest difference of a logged loss to fp32: " +
      ", ".join(f"{n} {max(abs(curves[n][s] - curves['fp32'][s]) for s in steps):.4f}" for n in four[1:]))
first = min(curves["bf16_small"])
print("learning rate 1e-5: " + ", ".join(
    f"{n} loss {curves[n + '_small'][first]:.4f} -> validation {evals[n + '_small']:.4f}" for n in ("bf16", "pure_bf16")))
PYTHON
