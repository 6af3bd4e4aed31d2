#!/usr/bin/env python3
"""DPO beside TRL's DPOTrainer: the same model, the same pairs, full parameters, in turns on this machine.

    bench/peers/dpo.py --model DIR --data pairs.jsonl [--mode fp32|bf16] [--steps 4] [--rounds 3]

Both compute the reference's log-probabilities once (precompute_ref_log_probs) and take the same pairs; TRL pads every batch to its
longest answer, attune does not. tokens/s: tokens of both answers without padding, over the updates after the first. Beside it the peak
memory of both, and attune's own supervised tuning on the same tokens (the chosen and the rejected answers as conversations).
PYTHON: the interpreter with torch, transformers and trl; ATTUNE and BENCH_KERNELS as in run.py.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import pace
import sides

BETA, SEED = 0.1, 42


def pairs_of(path, count):
    text = pathlib.Path(path).read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line.strip()]
    out = []
    for row in rows:
        question = row.get("prompt") or row.get("instruction") or row["conversations"][-1]["value"]
        answers = [a["value"] if isinstance(a, dict) else a for a in (row["chosen"], row["rejected"])]
        if len(question) + max(map(len, answers)) < 900:  # nothing is cut: both sides must see the same tokens
            out.append({"prompt": [{"role": "user", "content": question}], "chosen": [{"role": "assistant", "content": answers[0]}],
                        "rejected": [{"role": "assistant", "content": answers[1]}]})
        if len(out) == count:
            break
    return out


def attune(args, out, data, number, stage):
    target = out / f"attune-{stage}.{number}"
    rows = args.batch if stage == "dpo" else 2 * args.batch
    settings = [f"model_name_or_path={args.model}", f"dataset={data}", f"stage={stage}", "finetuning_type=full", f"bf16={str(args.mode == 'bf16').lower()}",
                f"cutoff_len={args.tokens}", f"per_device_train_batch_size={rows}", f"max_steps={args.steps}", "learning_rate=1e-6",
                "lr_scheduler_type=constant", "weight_decay=0", "logging_steps=1", "save_strategy=no", "overwrite_output_dir=true", f"output_dir={target}"]
    if stage == "dpo":
        settings.append(f"pref_beta={BETA}")
    sides.execute([sides.ATTUNE, "train", *settings], out / f"attune-{stage}.{number}.log", args.threads)
    for weights in target.glob("model*.safetensors"):
        weights.unlink()
    log = [json.loads(line) for line in (target / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [e for e in log if "throughput" in e]
    tokens = [b["total_tokens"] - a["total_tokens"] for a, b in zip([{"total_tokens": 0}] + steps, steps)]
    seconds = [n / e["throughput"] for n, e in zip(tokens, steps)]
    return {"rate": sum(tokens[1:]) / sum(seconds[1:]), "losses": [e["loss"] for e in steps], "tokens": tokens,
            "memory": json.loads((target / "train_results.json").read_text(encoding="utf-8"))["peak_memory_bytes"]}


def trl(args, out, data, number):
    command = [sides.PYTHON, __file__, "--model", args.model, "--data", data, "--mode", args.mode, "--steps", args.steps, "--batch", args.batch,
               "--tokens", args.tokens, "--threads", args.threads, "--inside"]
    output, peak = sides.execute(command, out / f"trl.{number}.log", args.threads)
    return json.loads(output.splitlines()[-1]) | {"memory": peak}


def inside(args):
    """In the peer's own process."""
    import datasets
    import torch
    import transformers
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(args.threads)
    rows = [json.loads(line) for line in pathlib.Path(args.data).read_text(encoding="utf-8").splitlines()]
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="sdpa")
    work = tempfile.mkdtemp()
    config = DPOConfig(output_dir=work, use_cpu=True, bf16=args.mode == "bf16", per_device_train_batch_size=args.batch, max_steps=args.steps,
                       learning_rate=1e-6, lr_scheduler_type="constant", warmup_steps=0, weight_decay=0, logging_steps=1, save_strategy="no", report_to=[], beta=BETA,
                       max_length=args.tokens, precompute_ref_log_probs=True, seed=SEED, gradient_checkpointing=False, disable_tqdm=True,
                       optim="adamw_torch_fused")

    class Clock(transformers.TrainerCallback):
        seconds = []

        def on_step_begin(self, *_, **__):
            self.begin = time.perf_counter()

        def on_step_end(self, *_, **__):
            self.seconds.append(time.perf_counter() - self.begin)

    clock = Clock()
    trainer = DPOTrainer(model=model, args=config, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock])
    counted, collate = [], trainer.data_collator
    trainer.data_collator = lambda examples: counted.append(sum(len(e["prompt_ids"]) * 2 + len(e["chosen_ids"]) + len(e["rejected_ids"]) for e in examples)) or collate(examples)
    trainer.train()
    losses = [e["loss"] for e in trainer.state.log_history if "loss" in e]
    tokens = counted[-args.steps:]
    print(json.dumps({"rate": sum(tokens[1:]) / sum(clock.seconds[1:]), "losses": losses, "tokens": tokens}))
    shutil.rmtree(work)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model directory with tokenizer and chat template")
    parser.add_argument("--data", required=True, help="preference pairs")
    parser.add_argument("--mode", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=4, help="pairs of an update")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--drift", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("dpo.out"))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = arguments()
    if args.inside:
        inside(args)
        return
    pace.require()
    args.out.mkdir(parents=True, exist_ok=True)
    # As many pairs as the updates take, so that both see all of them, in whatever order.
    rows = pairs_of(args.data, args.batch * args.steps)
    if len(rows) < args.batch * args.steps:
        raise SystemExit(f"error: {args.data} has only {len(rows)} pairs that are short enough")
    data, chats = args.out / "pairs.jsonl", args.out / "chats.jsonl"
    data.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    chats.write_text("".join(json.dumps({"messages": r["prompt"] + r[s]}, ensure_ascii=False) + "\n" for r in rows for s in ["chosen", "rejected"]), encoding="utf-8")
    ratios, ours, theirs, plain = [], [], [], []
    for number in range(1, args.rounds + 1):
        marks, found = [pace.now(args.threads)], {}
        for side in [0, 1] if number % 2 else [1, 0]:
            found[side] = attune(args, args.out, data, number, "dpo") if side == 0 else trl(args, args.out, data, number)
            marks.append(pace.now(args.threads))
        moved = pace.moved(marks)
        ours.append(found[0]), theirs.append(found[1])
        plain.append(attune(args, args.out, chats, number, "sft"))
        valid = moved <= args.drift
        if valid:
            ratios.append(found[0]["rate"] / found[1]["rate"])
        print(f"round {number}: attune {found[0]['rate']:.1f} tokens/s, TRL {found[1]['rate']:.1f}, {found[0]['rate'] / found[1]['rate']:.2f} times; the pace moved by "
              f"{100 * moved:.1f} %{'' if valid else ': not counted'}", file=sys.stderr, flush=True)
    if sum(ours[0]["tokens"]) != sum(theirs[0]["tokens"]):
        print(f"note: attune took {sum(ours[0]['tokens'])} tokens, TRL {sum(theirs[0]['tokens'])}", file=sys.stderr)
    gb = lambda x: statistics.median(e["memory"] for e in x) / 1e9
    print(f"| DPO, {args.mode}, {args.batch} pairs an update | tokens/s | peak memory, GB | first loss |\n|---|---|---|---|")
    for name, x in [("attune", ours), ("TRL", theirs), ("attune, SFT on the same answers", plain)]:
        print(f"| {name} | {statistics.median(e['rate'] for e in x):.1f} | {gb(x):.2f} | {x[0]['losses'][0]:.5f} |")
    if ratios:
        print(f"\n{statistics.median(ratios):.2f} times TRL's tokens/s ({min(ratios):.2f}–{max(ratios):.2f}, {len(ratios)} comparable rounds)")
    print(f"memory of DPO beside SFT on the same tokens: {gb(ours) / gb(plain):.3f}; beside TRL: {gb(ours) / gb(theirs):.3f}")


if __name__ == "__main__":
    main()
