#!/usr/bin/env bash
# attune and PyTorch + transformers, in turns on this machine: the same weights, the same tokens, the same steps.
#
#   bench/peers/run.sh --tokenizer DIR [--config config.json] [--mode fp32|autocast|bf16] [--compile]
#                      [--steps N] [--warmup K] [--rounds R] [--batch B] [--tokens T] [--threads N] [--out DIR]
#
# --tokenizer  a directory with the tokenizer files of a model (tokenizer.json, tokenizer_config.json …)
# --config     shape of the model; default: the Qwen2.5-0.5B shape. Its vocab_size must hold the tokenizer's ids.
# --mode       fp32: both fp32. autocast: attune with bf16=true (fp32 masters) beside autocast with fp32 weights.
#              bf16: attune with bf16=true beside weights, gradients and moments in bf16.
# PYTHON       the interpreter with torch and transformers (default: python3)
# ATTUNE       the program (default: build/attune)
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
here="$root/bench/peers"
attune="${ATTUNE:-$root/build/attune}"
python="${PYTHON:-python3}"

tokenizer="" config="" mode=fp32 compile=() steps=8 warmup=2 rounds=3 batch=4 tokens=512 threads=2 out="$root/build/bench-peers"
while [[ $# -gt 0 ]]; do
  case "$1" in
    --compile) compile=(--compile); shift; continue ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    --tokenizer | --config | --mode | --steps | --warmup | --rounds | --batch | --tokens | --threads | --out)
      [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2"; shift 2 ;;
    *) echo "error: unknown argument \"$1\" (--help lists them)" >&2; exit 2 ;;
  esac
done
[[ -n "$tokenizer" ]] || { echo "error: --tokenizer DIR is missing (--help)" >&2; exit 2; }
[[ -x "$attune" ]] || { echo "error: $attune is missing: scripts/build.sh builds it" >&2; exit 1; }
"$python" -c 'import torch, transformers' || { echo "error: PYTHON ($python) has no torch and transformers" >&2; exit 1; }
case "$mode" in
  fp32) bf16=false ;;
  autocast | bf16) bf16=true ;;
  *) echo "error: --mode is fp32, autocast or bf16, not \"$mode\"" >&2; exit 2 ;;
esac
(( steps > warmup )) || { echo "error: --steps must be more than --warmup" >&2; exit 2; }

if [[ -e "$out" && ! -d "$out/shape" ]]; then
  echo "error: --out $out exists and is no earlier result of this script; it is not overwritten" >&2
  exit 2
fi
rm -rf "$out"
mkdir -p "$out/shape"
if [[ -n "$config" ]]; then
  cp "$config" "$out/shape/config.json"
else
  cat > "$out/shape/config.json" <<'JSON'
{
  "architectures": ["Qwen2ForCausalLM"],
  "model_type": "qwen2",
  "hidden_size": 896,
  "intermediate_size": 4864,
  "num_hidden_layers": 24,
  "num_attention_heads": 14,
  "num_key_value_heads": 2,
  "vocab_size": 151936,
  "max_position_embeddings": 32768,
  "rope_theta": 1000000.0,
  "rms_norm_eps": 1e-06,
  "hidden_act": "silu",
  "attention_dropout": 0.0,
  "initializer_range": 0.02,
  "use_sliding_window": false,
  "tie_word_embeddings": true,
  "torch_dtype": "float32"
}
JSON
fi
"$attune" init --config "$out/shape/config.json" --out "$out/model" --seed 42 --dtype fp32 --tokenizer "$tokenizer"
"$python" "$here/corpus.py" --attune "$attune" --model "$out/model" --text "$root/examples/medical/pretrain.jsonl" \
  --tokens "$tokens" --documents $((steps * batch)) --out "$out/data"
echo "{}" > "$out/attune.yaml"

run_attune() {
  OMP_NUM_THREADS="$threads" "$attune" train "$out/attune.yaml" stage=pt finetuning_type=full \
    model_name_or_path="$out/model" dataset="$out/data/data.jsonl" output_dir="$out/attune.$1" \
    packing=true cutoff_len="$tokens" per_device_train_batch_size="$batch" max_steps="$steps" bf16="$bf16" \
    learning_rate=1e-5 lr_scheduler_type=constant max_grad_norm=1.0 weight_decay=0 seed=42 logging_steps=1 save_strategy=no \
    > "$out/attune.$1.out" 2> "$out/attune.$1.log" || { cat "$out/attune.$1.log" >&2; exit 1; }
  rm -f "$out/attune.$1/"model*.safetensors  # only the figures are needed
}
run_torch() {
  "$python" "$here/torch_step.py" --model "$out/model" --ids "$out/data/stream.jsonl" --tokens "$tokens" --batch "$batch" \
    --steps "$steps" --warmup "$warmup" --mode "$mode" "${compile[@]}" --threads "$threads" --learning-rate 1e-5 \
    > "$out/torch.$1.part" 2> "$out/torch.$1.log" || { cat "$out/torch.$1.log" >&2; exit 1; }
  mv "$out/torch.$1.part" "$out/torch.$1.json"
}
# In turns, and each goes first in every other round: what else the machine does meets both.
for ((round = 1; round <= rounds; ++round)); do
  echo "round $round of $rounds" >&2
  if ((round % 2)); then run_attune "$round"; run_torch "$round"; else run_torch "$round"; run_attune "$round"; fi
done
echo "mode $mode, batch $batch × $tokens tokens; raw logs: $out" >&2
"$python" "$here/report.py" "$out" --warmup "$warmup"
