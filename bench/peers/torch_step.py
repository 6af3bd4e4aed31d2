"""Steps of full fine-tuning with PyTorch and transformers, for comparison with `attune train`.

    torch_step.py --model DIR [--ids stream.jsonl] --mode fp32|autocast|bf16 [--compile] …

DIR holds config.json and, unless --random, safetensors weights (`attune init` writes such a directory). Every batch is
a rectangle of --batch × --tokens ids, all of them labelled, so nothing is padding. Modes:

  fp32      fp32 throughout
  autocast  fp32 weights and optimizer, bf16 matrix work (what TrainingArguments' bf16: true does)
  bf16      weights, gradients and moments in bf16

Prints one JSON line. tokens_per_second is the median over the steps after --warmup; peak_memory_bytes is VmHWM.
"""

import argparse
import json
import os
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True)
parser.add_argument("--random", action="store_true", help="random weights instead of those in DIR")
parser.add_argument("--ids", help="JSONL of id lists, one sequence a line; default: random ids")
parser.add_argument("--tokens", type=int, default=512)
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--warmup", type=int, default=2)
parser.add_argument("--mode", choices=["fp32", "autocast", "bf16"], default="fp32")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--learning-rate", type=float, default=1e-5)
parser.add_argument("--max-grad-norm", type=float, default=1.0)
parser.add_argument("--seed", type=int, default=42)
args = parser.parse_args()
os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402  (after the number of threads is set)
import transformers  # noqa: E402


def peak_memory_bytes():
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def batches(vocab_size):
    """The batches of every step, from the file or from the seed."""
    need = args.steps * args.batch
    if args.ids:
        with open(args.ids, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
        rows = [r[:args.tokens] for r in rows if len(r) >= args.tokens]
        if len(rows) < need:
            raise SystemExit(f"{args.ids}: {len(rows)} sequences of {args.tokens} tokens, {need} are needed")
        ids = torch.tensor(rows[:need])
    else:
        ids = torch.randint(0, vocab_size, (need, args.tokens), generator=torch.Generator().manual_seed(args.seed))
    return ids.view(args.steps, args.batch, args.tokens)


def load():
    dtype = torch.bfloat16 if args.mode == "bf16" else torch.float32
    if args.random:
        torch.manual_seed(args.seed)
        config = transformers.AutoConfig.from_pretrained(args.model)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, attn_implementation="sdpa",
                                                                  local_files_only=True)
    model.config.use_cache = False
    return model.train()


def make_optimizer(model):
    options = {"lr": args.learning_rate, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    try:
        return torch.optim.AdamW(model.parameters(), fused=True, **options), True
    except RuntimeError:  # no fused kernel for this device
        return torch.optim.AdamW(model.parameters(), foreach=True, **options), False


def main():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    model = load()
    parameters = sum(p.numel() for p in model.parameters())
    optimizer, fused = make_optimizer(model)
    step_model = torch.compile(model) if args.compile else model
    losses, seconds = [], []
    for ids in batches(model.config.vocab_size):
        begin = time.monotonic()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.mode == "autocast"):
            loss = step_model(input_ids=ids, labels=ids).loss
        loss.backward()
        if args.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.monotonic() - begin)
    timed = seconds[args.warmup:] or seconds
    print(json.dumps({
        "tokens_per_second": args.batch * args.tokens / statistics.median(timed),
        "peak_memory_bytes": peak_memory_bytes(),
        "losses": losses,
        "seconds": seconds,
        "parameters": parameters,
        "mode": args.mode,
        "compile": args.compile,
        "fused_adamw": fused,
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }))


if __name__ == "__main__":
    main()
