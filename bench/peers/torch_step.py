"""Steps of fine-tuning with PyTorch and transformers, all weights or a PEFT adapter, for comparison with `attune train`.

    torch_step.py --model DIR --steps steps.jsonl --mode fp32|autocast|bf16 [--compile] …

DIR holds config.json and safetensors weights (`attune init` writes such a directory). A line of steps.jsonl is a step: a
list of samples {"ids", "labels"}. They go through the model in batches of --rows, each padded on the right to its longest
sample; with several batches gradients accumulate, and the loss is the mean over the labelled tokens of the step. Modes:

  fp32      fp32 throughout
  autocast  fp32 weights and optimizer, bf16 matrix work (what TrainingArguments' bf16: true does)
  bf16      weights, gradients and moments in bf16

--adapter DIR trains that adapter beside the frozen model. With autocast the model then stands in bf16 and the adapter in fp32: nothing
would come of a frozen fp32 base but twice the memory, so that is how trainers set it up.

Prints a line for each step, and at last one of JSON. peak_memory_bytes is VmHWM, or with --device cuda what PyTorch has reserved of the GPU at most; state_bytes are weights, gradients and moments.
"""

import argparse
import json
import os
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True)
parser.add_argument("--steps", required=True)
parser.add_argument("--rows", type=int, required=True)
parser.add_argument("--mode", choices=["fp32", "autocast", "bf16"], required=True)
parser.add_argument("--adapter", help="directory of a PEFT adapter to train; without, all weights are trained")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--learning-rate", type=float, default=1e-5)
parser.add_argument("--max-grad-norm", type=float, default=1.0)
args = parser.parse_args()
os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402  (after the number of threads is set)
import transformers  # noqa: E402


def peak_memory_bytes():
    if args.device == "cuda":
        return torch.cuda.max_memory_reserved()
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def collate(samples):
    """As DataCollatorForSeq2Seq; without an attention mask where nothing is padding, which is faster."""
    longest = max(len(s["ids"]) for s in samples)

    def rectangle(rows, fill):
        return torch.tensor([row + [fill] * (longest - len(row)) for row in rows], device=args.device)

    batch = {"input_ids": rectangle([s["ids"] for s in samples], 0), "labels": rectangle([s["labels"] for s in samples], -100)}
    if any(len(s["ids"]) < longest for s in samples):
        batch["attention_mask"] = rectangle([[1] * len(s["ids"]) for s in samples], 0)
    return batch


def state_bytes(model, optimizer):
    def size(tensors):
        return sum(t.numel() * t.element_size() for t in tensors if torch.is_tensor(t))

    parameters = list(model.parameters())
    moments = (value for state in optimizer.state.values() for value in state.values())
    return size(parameters) + size(p.grad for p in parameters) + size(moments)


def main():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    narrow = args.mode == "bf16" or (args.adapter and args.mode == "autocast")
    dtype = torch.bfloat16 if narrow else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, attn_implementation="sdpa", local_files_only=True).to(args.device)
    model.config.use_cache = False
    program = f"PyTorch {torch.__version__}, transformers {transformers.__version__}"
    if args.adapter:
        import peft

        model = peft.PeftModel.from_pretrained(model, args.adapter, is_trainable=True, autocast_adapter_dtype=args.mode != "bf16")
        program += f", PEFT {peft.__version__}"
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, fused=True)
    step_model = torch.compile(model) if args.compile else model
    with open(args.steps, encoding="utf-8") as file:
        steps = [json.loads(line) for line in file]
    losses, seconds, state = [], [], 0
    for samples in steps:
        begin, total = time.monotonic(), 0.0
        labelled = torch.tensor(sum(label != -100 for s in samples for label in s["labels"][1:]), device=args.device)
        for first in range(0, len(samples), args.rows):
            batch = collate(samples[first:first + args.rows])
            with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.mode == "autocast"):
                loss = step_model(**batch, num_items_in_batch=labelled).loss
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, args.max_grad_norm)
        optimizer.step()
        state = state or state_bytes(model, optimizer)
        optimizer.zero_grad(set_to_none=True)
        if args.device == "cuda":
            torch.cuda.synchronize()
        losses.append(total)
        seconds.append(time.monotonic() - begin)
        print(f"step {len(seconds)}", flush=True)
    print(json.dumps({
        "peak_memory_bytes": peak_memory_bytes(),
        "state_bytes": state,
        "losses": losses,
        "seconds": seconds,
        "trained": sum(p.numel() for p in trained),
        "parameters": sum(p.numel() for p in model.parameters()),
        "program": program,
    }))


if __name__ == "__main__":
    main()
