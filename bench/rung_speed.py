#!/usr/bin/env python3
"""Speed and memory of every rung of bench/rungs.py on one model, in turns: `attune bench` with random weights and tokens.

    bench/rung_speed.py MODEL [--rounds 2] [--steps 2] [key=value ...]

MODEL is a directory with a config.json. Speeds are compared as shares of the peak measured around each step, so that a machine that
changes its speed does no harm; medians over the rounds. ATTUNE: the program, default build/attune.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

import rungs

ATTUNE = os.environ.get("ATTUNE", rungs.ROOT / "build" / "attune")


def bench(model, settings, more, steps):
    done = subprocess.run([ATTUNE, "bench", f"model_name_or_path={model}", *(f"{k}={v}" for k, v in settings.items()), *more, "--steps", str(steps), "--json"],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    results = {name: [] for name in rungs.RUNGS}
    for number in range(args.rounds):
        for name, (_, settings, _) in rungs.RUNGS.items():
            if name == "adamw fp32":
                settings = {"bf16": "false"}
            results[name].append(bench(args.model, settings, args.settings, args.steps))
            print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
    reference = results["adamw bf16, fp32 masters"]
    pace = statistics.median(r["calibration"]["bf16_tflops"] for runs in results.values() for r in runs)
    print("| rung | bytes a parameter | s a step | optimizer, s | beside AdamW in bf16 with fp32 masters | peak, GB |\n|---|---|---|---|---|---|")
    for name, runs in results.items():
        # A share of the precision's own peak becomes a time at the median bf16 pace.
        def seconds(r):
            return r["step"]["seconds"] * r["calibration"]["bf16_tflops"] / pace

        parts = [r["step"]["parts"].get("optimizer", 0) for r in runs]
        ratio = statistics.median(seconds(b) / seconds(r) for r, b in zip(runs, reference))
        print(f"| {name} | {rungs.RUNGS[name][0]} | {statistics.median(map(seconds, runs)):.2f} | {statistics.median(parts):.2f} | {100 * ratio:.0f} % of its tokens/s "
              f"| {max(r['step']['peak_memory_bytes'] for r in runs) / 1e9:.2f} |")


if __name__ == "__main__":
    main()
