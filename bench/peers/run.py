#!/usr/bin/env python3
"""attune and its peers, in turns on this machine: the same weights, the same token ids and labels, the same steps.

    bench/peers/run.py --tokenizer DIR [--task pretrain|sft|packed-sft] [--data FILE] [--mode fp32|bf16] [--compile] …

pretrain    every token labelled, every sequence --tokens long: nothing is padding
sft         answers of a conversation file (--data), its own lengths; the peers pad each step's samples to the longest
packed-sft  attune packs into --batch sequences of --tokens a step; the peers take the same samples in batches of --rows,
            padded to the longest of each, with accumulation. Only tokens that are no padding count

Modes: fp32 beside fp32; bf16 (attune: bf16 with fp32 masters) beside fp32 weights with autocast and beside pure bf16: the
faster one counts. --compile adds torch.compile of each. With --adapter R all train LoRA of rank R on every linear module of the
layers (alpha 2R, no dropout) beside a frozen base, the peers with PEFT; all begin with the same A and B, which attune wrote. In
mode bf16 the base of both peers stands in bf16: beside adapters in fp32 with autocast (as trainers do), and beside adapters in bf16.
The pace of the machine is measured around every process; where it moved, the round is repeated for that peer. With --turns both stay
in memory and make one step each in turn: a pair of steps is a round (pretrain, one peer; memory for both). PYTHON: the
interpreter with torch and transformers (--adapter: and peft); ATTUNE and BENCH_KERNELS: the programs, default build/attune and build/bench_kernels.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pace
import report
import shapes
import sides
import tokens
import turns

PRETRAIN, SFT, PACKED = "pretrain", "sft", "packed-sft"
TOKENS = {PRETRAIN: 512, SFT: 1024, PACKED: 2048}
BATCH = {PRETRAIN: 4, SFT: 4, PACKED: 2}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="directory with the tokenizer files of a model")
    parser.add_argument("--config", type=pathlib.Path, help="config.json of the model; default: the Qwen2.5-0.5B shape")
    parser.add_argument("--task", choices=[PRETRAIN, SFT, PACKED], default=PRETRAIN)
    parser.add_argument("--data", type=pathlib.Path, help='conversations, or JSONL with "text"; pretrain has a default')
    parser.add_argument("--template", help="chat template by name; default: the tokenizer's own")
    parser.add_argument("--mode", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--adapter", type=int, metavar="RANK", help="LoRA of this rank in place of full tuning; the peers use PEFT")
    parser.add_argument("--compile", action="store_true", help="torch.compile beside eager, in the same rounds")
    parser.add_argument("--own-fp32", action="store_true", help="with --mode bf16: attune in fp32 too")
    parser.add_argument("--peer", action="append", metavar="NAME", help='only peers whose name holds this ("eager bf16"); may be repeated')
    parser.add_argument("--llama-cpp", metavar="BINARY", help="llama.cpp's llama-finetune, with --gguf; pretrain only")
    parser.add_argument("--gguf", help="the model in fp32 for --llama-cpp")
    parser.add_argument("--tokens", type=int, help="length of a sequence, of a pack, or where samples are cut; default by task: 512, 1024, 2048")
    parser.add_argument("--batch", type=int, help="samples of a step, or packs; default by task: 4, 4, 2")
    parser.add_argument("--rows", type=int, default=8, help="packed-sft: samples in a padded batch of the peers")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, help="steps whose time does not count; default: 2, with --compile 3")
    parser.add_argument("--rounds", type=int, default=5, help="comparable rounds wanted of each peer")
    parser.add_argument("--attempts", type=int, help="rounds at most; default: three times --rounds")
    parser.add_argument("--drift", type=float, default=0.05, help="by how much the pace may differ in a comparable round")
    parser.add_argument("--turns", action="store_true", help="both in memory, one step of each in turn; --peer has to name one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=pathlib.Path, default=pace.ROOT / "build" / "bench-peers")
    args = parser.parse_args()
    args.tokens = args.tokens or TOKENS[args.task]
    args.batch = args.batch or BATCH[args.task]
    args.attempts = args.attempts or 3 * args.rounds
    if args.warmup is None:
        args.warmup = 3 if args.compile else 2
    check(parser, args)
    args.data = (args.data or pace.ROOT / "examples" / "medical" / "pretrain.jsonl").resolve()
    return args


def check(parser, args):
    if args.steps <= args.warmup:
        parser.error(f"--steps {args.steps} must be more than the warm-up of {args.warmup}")
    if args.task != PRETRAIN and not args.data:
        parser.error(f"--task {args.task} needs --data, a file of conversations")
    if bool(args.llama_cpp) != bool(args.gguf):
        parser.error("--llama-cpp BINARY and --gguf FILE belong together")
    if args.llama_cpp and not (os.path.isfile(args.llama_cpp) and os.access(args.llama_cpp, os.X_OK)):
        parser.error(f"--llama-cpp: {args.llama_cpp} is missing or no program; build llama.cpp's target llama-finetune and name it here")
    if args.llama_cpp and args.task != PRETRAIN:
        parser.error("--llama-cpp: llama-finetune learns plain text, it goes with --task pretrain")
    if args.adapter is not None and (args.adapter < 1 or args.llama_cpp):
        parser.error("--adapter takes a rank of at least 1, and does not go with --llama-cpp, which tunes all weights")
    if args.turns and (args.task != PRETRAIN or args.device != "cpu" or args.llama_cpp):
        parser.error("--turns compares steps that are all alike on the CPU: it goes with --task pretrain, not with --llama-cpp or --device cuda")
    if args.own_fp32 and args.mode != "bf16":
        parser.error("--own-fp32 goes with --mode bf16")
    if not os.access(sides.ATTUNE, os.X_OK):
        parser.error(f"{sides.ATTUNE} is missing: scripts/build.sh builds it")
    pace.require(args.device)
    if args.device == "cuda" and args.llama_cpp:
        parser.error("--llama-cpp goes with --device cpu")
    needed = "torch, transformers" + (", peft" if args.adapter else "")
    if subprocess.run([sides.PYTHON, "-c", f"import {needed}"], stderr=subprocess.DEVNULL, check=False).returncode:
        parser.error(f"PYTHON ({sides.PYTHON}) does not have all of {needed}")
    if args.out.exists() and not (args.out / "shape").is_dir():
        parser.error(f"--out {args.out} exists and is no earlier result of this program; it is not overwritten")


def prepare(args):
    """The model, the data and the steps in args.out. Returns the model's config, attune's settings, the sizes of the steps."""
    shutil.rmtree(args.out, ignore_errors=True)
    (args.out / "shape").mkdir(parents=True)
    config = json.loads(args.config.read_text(encoding="utf-8")) if args.config else shapes.QWEN2_HALF_BILLION
    shape, model, data = args.out / "shape" / "config.json", args.out / "model", args.data
    shape.write_text(json.dumps(config), encoding="utf-8")
    subprocess.run([sides.ATTUNE, "init", "--config", shape, "--out", model, "--seed", "42", "--dtype", "fp32", "--tokenizer", args.tokenizer], check=True)
    if args.task == PRETRAIN:
        data = args.out / "data.jsonl"
        tokens.write_documents(sides.ATTUNE, model, args.data, args.tokens, args.steps * args.batch, data, seed=42)
    packing = args.task != SFT
    settings = [f"model_name_or_path={model}", f"dataset={data}", f"stage={'pt' if args.task == PRETRAIN else 'sft'}", f"cutoff_len={args.tokens}",
                f"packing={str(packing).lower()}", f"per_device_train_batch_size={args.batch}", f"max_steps={args.steps}"]
    if args.template:
        settings.append(f"template={args.template}")
    sizes = tokens.write_steps(args.out / "steps.jsonl", tokens.samples(sides.ATTUNE, settings), args.steps, args.batch, 42,
                               args.tokens if packing else None)
    return config, settings, sizes


def make_adapter(args, settings):
    """What all sides begin with: attune's own new adapter, saved after a step at rate 0."""
    target = args.out / "adapter"
    sides.execute([sides.ATTUNE, "train", *(s for s in settings if not s.startswith("max_steps=")), "max_steps=1", f"bf16={str(args.mode == 'bf16').lower()}", "finetuning_type=lora",
                   f"lora_rank={args.adapter}", f"lora_alpha={2 * args.adapter}", "lora_target=all", "lora_dropout=0", "learning_rate=0",
                   "seed=42", "save_strategy=no", f"output_dir={target}"], args.out / "adapter.log", args.threads)
    return target


def all_sides(args, settings):
    """attune first; what it is compared with after it."""
    adapter = make_adapter(args, settings) if args.adapter else None

    def attune(mode):
        return sides.Attune(f"attune {mode}", mode, [*settings, f"bf16={str(mode == 'bf16').lower()}"], args.threads, adapter, args.device)

    rows = args.rows if args.task == PACKED else args.batch
    out = [attune(args.mode)]
    for compiled in [False, True] if args.compile else [False]:
        for mode in ["autocast", "bf16"] if args.mode == "bf16" else ["fp32"]:
            out.append(sides.Torch(mode, compiled, args.out / "model", args.out / "steps.jsonl", rows, args.threads, adapter, args.device))
    if args.own_fp32:
        out.append(attune("fp32"))
    if args.llama_cpp:
        text = args.out / "data.txt"
        documents = (args.out / "data.jsonl").read_text(encoding="utf-8").splitlines()
        text.write_text("\n".join(json.loads(d)["text"] for d in documents), encoding="utf-8")
        out.append(sides.LlamaCpp(args.llama_cpp, args.gguf, text, args.tokens, args.threads))
    return out


def run_round(number, ours, peers, args, sizes):
    """attune goes first in every other round and last in the others: what else the machine does meets all."""
    turn = [ours, *peers] if number % 2 else [*reversed(peers), ours]
    result, before = {}, pace.now(args.threads, args.device, sides.PYTHON)
    for side in turn:
        measured = side.run(args.out, number)
        after = pace.now(args.threads, args.device, sides.PYTHON)
        if "tokens" in measured and measured["tokens"] != [sum(s["lengths"]) for s in sizes]:
            raise SystemExit("error: attune took other samples than its peers: bench/peers/order.py no longer does what data/order.cpp does")
        result[side.name] = {"result": measured, "before": before, "after": after}
        print(f"  {side.name}: {report.rate(measured, sizes, args.warmup):.1f} tokens/s, the pace moved by "
              f"{100 * pace.moved([before, after]):.1f} %", file=sys.stderr, flush=True)
        before = after
        if side is ours and pace.moved([result[ours.name][when] for when in ("before", "after")]) > args.drift:
            break  # nothing in this round can be compared any more
    return result


def all_rounds(ours, peers, args, sizes):
    """One round after the other, until every peer has enough that can be compared."""
    rounds = []
    for number in range(1, args.attempts + 1):
        wanted = [p for p in peers if sum(report.comparable(r, ours.name, p.name, args.drift) for r in rounds) < args.rounds]
        if not wanted:
            break
        print(f"round {number} (at most {args.attempts})", file=sys.stderr, flush=True)
        rounds.append(run_round(number, ours, wanted, args, sizes))
        yield rounds[-1]


def main():
    args = arguments()
    config, settings, sizes = prepare(args)
    ours, *peers = all_sides(args, settings)
    if args.peer:
        names = [p.name for p in peers]
        peers = [p for p in peers if any(word in p.name for word in args.peer)]
        if not peers:
            raise SystemExit(f"error: --peer {args.peer} names none of {names}")
    if args.turns and len(peers) != 1:
        raise SystemExit(f"error: --turns keeps attune and one peer in memory: --peer has to name one of {[p.name for p in peers]}")
    rounds = []
    for found in turns.run(ours, peers[0], args) if args.turns else all_rounds(ours, peers, args, sizes):
        rounds.append(found)
        with open(args.out / "rounds.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
    programs = dict.fromkeys(m["result"]["program"] for r in rounds for m in r.values())
    lengths = [n for s in sizes for n in s["lengths"]]
    paces = [m[when] for r in rounds for m in r.values() for when in ("before", "after")]
    tuned = f"LoRA of rank {args.adapter}" if args.adapter else "full"
    print(f"\ntask {args.task}, {tuned}, mode {args.mode}: {args.steps} steps ({args.warmup} of them warm-up) of {sum(lengths) / args.steps:.0f} tokens "
          f"({100 * sum(s['labelled'] for s in sizes) / sum(lengths):.0f} % labelled), samples of {min(lengths)} to {max(lengths)}; "
          f"{args.threads} threads; {'; '.join(programs)}")
    for precision, unit in (("bf16", "GFLOP/s"), ("fp32", "GFLOP/s"), ("read", "GB/s")):
        print(f"{precision} peak: {report.spread([p[precision] / 1e9 for p in paces])} {unit}", end="; " if precision != "read" else "\n")
    pairs = sum(p.name in r for r in rounds for p in peers)
    good = sum(report.comparable(r, ours.name, p.name, args.drift) for r in rounds for p in peers)
    print(f"{len(rounds)} rounds; {pairs - good} of {pairs} comparisons discarded, for the pace moved by more than {100 * args.drift:.0f} %\n")
    report.show(rounds, [ours, *peers], config, sizes, args.warmup, args.drift, args.adapter)
    (args.out / "summary.json").write_text(json.dumps(report.summary(rounds, [ours, *peers], sizes, args.warmup, args.drift)), encoding="utf-8")
    if good < args.rounds * len(peers):
        raise SystemExit(f"error: not every peer has {args.rounds} comparable rounds; repeat on a quieter machine, or with more --attempts")


if __name__ == "__main__":
    main()
