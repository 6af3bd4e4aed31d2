#!/usr/bin/env python3
"""What an adapter costs beside the bare step: forward, and backward without the gradient of any matrix.

  bench/adapter_cost.py MODEL TEXT [--rank 16] [--rounds 3] [--steps 5] [--tokens 512] [--batch 4] [--out DIR] [key=value ...]

MODEL is a model directory, TEXT a file to learn (stage pt, packed). The bare step trains the first norm alone: backward passes
through every layer, and nothing but that norm has a gradient. Beside it LoRA, DoRA, LoRA on nf4 and full tuning, all in turns, every
other round the other way round. tokens/s: median over the steps after the first of all rounds; "dearer" compares within
each round, so that what else the machine does meets both. key=value are further settings of all runs (default: bf16=true).
ATTUNE: the program, default build/attune. Needs Python's standard library.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ATTUNE = os.environ.get("ATTUNE", str(ROOT / "build" / "attune"))
BARE = "bare step"


def ways(rank):
    lora = ["finetuning_type=lora", f"lora_rank={rank}"]
    return {BARE: ["finetuning_type=freeze", "unfrozen_parameters=^model.layers.0.input_layernorm.weight$"], f"LoRA, rank {rank}": lora,
            f"DoRA, rank {rank}": [*lora, "use_dora=true"], f"LoRA, rank {rank}, on nf4": [*lora, "quantization_bit=4"], "full": ["finetuning_type=full"]}


def measure(args, settings):
    """Rates of the steps after the first, and the peak."""
    out = args.out / "run"
    given = {"model_name_or_path": args.model, "stage": "pt", "dataset": args.text, "packing": "true", "cutoff_len": args.tokens,
             "per_device_train_batch_size": args.batch, "max_steps": args.steps, "logging_steps": 1, "save_strategy": "no", "bf16": "true",
             "overwrite_output_dir": "true", "output_dir": out} | dict(s.split("=", 1) for s in [*settings, *args.settings])
    done = subprocess.run([ATTUNE, "train", *(f"{k}={v}" for k, v in given.items())], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"attune train: {done.stderr.strip().splitlines()[-1]}")
    log = [json.loads(line) for line in (out / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()]
    rates = [e["throughput"] for e in log if "throughput" in e][1:]
    for weights in out.glob("*.safetensors"):
        weights.unlink()
    return rates, json.loads((out / "train_results.json").read_text(encoding="utf-8"))["peak_memory_bytes"]


def spread(values):
    return f"{statistics.median(values):.1f} % ({min(values):.1f} to {max(values):.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model"), parser.add_argument("text")
    for name, default in (("--rank", 16), ("--rounds", 3), ("--steps", 5), ("--tokens", 512), ("--batch", 4)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "bench-adapter-cost")
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    if args.steps < 2 or args.rounds < 1:
        parser.error("at least two steps, of which the first does not count, and one round")
    all_ways = ways(args.rank)
    rates, peaks = {name: [] for name in all_ways}, {name: 0 for name in all_ways}  # rates: a list a round
    for number in range(args.rounds):
        for name in list(all_ways) if number % 2 == 0 else reversed(all_ways):
            found, peak = measure(args, all_ways[name])
            rates[name].append(found)
            peaks[name] = max(peaks[name], peak)
            print(f"round {number + 1}, {name}: {statistics.median(found):.1f} tokens/s", file=sys.stderr, flush=True)
    print(f"{args.batch} x {args.tokens} tokens, {args.rounds} rounds of {args.steps - 1} timed steps\n")
    print("| | tokens/s | dearer than the bare step | peak memory, GB |\n|---|---|---|---|")
    for name in all_ways:
        dearer = [100 * (statistics.median(bare) / statistics.median(own) - 1) for bare, own in zip(rates[BARE], rates[name])]
        print(f"| {name} | {statistics.median(x for r in rates[name] for x in r):.1f} | {'' if name == BARE else spread(dearer)} | {peaks[name] / 1e9:.2f} |")


if __name__ == "__main__":
    main()
