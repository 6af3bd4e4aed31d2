#!/usr/bin/env python3
"""How the cost of training grows: tokens/s of `attune train` over the length of sequences and over the size of the model.

    bench/scaling.py --tokenizer DIR [--only length|size] [--rounds 3] [--most-gb 20] [--docs docs]

Random weights, full fine-tuning, every token labelled. Lengths: 256 to 4096 at the Qwen2.5-0.5B shape, the same tokens a
step; sizes: 0.1 to 1.5 B parameters at 512 tokens. Each model trains with the first settings of the ladder below whose plan
stays under --most-gb. The pace of the machine is measured around every run; where it moved, the run is repeated, and if it
moved every time, the table says by how much. --keep goes on where an earlier call was stopped. Writes
scaling.md, scaling_length.svg and scaling_size.svg into --docs, raw results into --work. --tokenizer: its ids must fit
--vocabulary. ATTUNE and BENCH_KERNELS: the programs, default build/attune and build/bench_kernels.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench" / "peers"))

import chart  # noqa: E402
import pace  # noqa: E402
import shapes  # noqa: E402
import sides  # noqa: E402
import tokens  # noqa: E402

MODELS = {  # 0.5B and 1.5B are Qwen2.5's
    "0.1B": shapes.qwen2(512, 1536, 8, 8, 2),
    "0.25B": shapes.qwen2(768, 3072, 16, 12, 2),
    "0.5B": shapes.QWEN2_HALF_BILLION,
    "1B": shapes.qwen2(1280, 6912, 26, 10, 2),
    "1.5B": shapes.qwen2(1536, 8960, 28, 12, 2),
}
SIZES = list(MODELS)
LENGTHS = [256, 512, 1024, 2048, 4096]
LADDER = {
    "bf16, AdamW": ["bf16=true"],
    "pure bf16, AdamW": ["pure_bf16=true"],
    "pure bf16, 8-bit AdamW": ["pure_bf16=true", "optim=adamw_8bit"],
    "pure bf16, 8-bit AdamW, in backward": ["pure_bf16=true", "optim=adamw_8bit", "optimizer_in_backward=true"],
    "pure bf16, Adafactor, in backward": ["pure_bf16=true", "optim=adafactor", "optimizer_in_backward=true"],
}


class Point:
    """One model at one length, with the settings that fit."""

    def __init__(self, name, length, batch, args):
        self.name, self.length, self.batch, self.args = name, length, batch, args
        self.runs, self.unsteady = [], []  # at a steady pace, and the others
        self.config = MODELS[name] | {"vocab_size": args.vocabulary}
        model = args.work / name
        if not model.exists():
            shape = args.work / f"{name}.json"
            shape.write_text(json.dumps(self.config), encoding="utf-8")
            subprocess.run([sides.ATTUNE, "init", "--config", shape, "--out", model, "--dtype", "bf16", "--tokenizer", args.tokenizer], check=True)
        count = args.steps * batch
        data = args.work / f"text-{length}-{count}.jsonl"
        if not data.exists():
            tokens.write_documents(sides.ATTUNE, model, args.text, length, count, data, seed=42)
        common = [f"model_name_or_path={model}", f"dataset={data}", "stage=pt", f"cutoff_len={length}", "packing=true",
                  f"per_device_train_batch_size={batch}", f"max_steps={args.steps}"]
        for self.settings, extra in LADDER.items():
            plan = tokens.call(sides.ATTUNE, "plan", *common, *extra, "finetuning_type=full", f"output_dir={args.work / 'output'}", "--json")[0]
            if plan["peak_memory_bytes"] <= args.most_gb * 1e9:
                break
        else:
            raise SystemExit(f"error: {name} with {batch} × {length} tokens does not fit into {args.most_gb} GB, not even with {self.settings}")
        self.parameters = plan["parameters"]
        self.side = sides.Attune(f"{name} {batch}x{length}", "bf16", [*common, *extra], args.threads)

    def measure(self, number):
        """One run; whether it counts."""
        before = pace.now(self.args.threads)
        result = self.side.run(self.args.work, number)
        after = pace.now(self.args.threads)
        timed = slice(self.args.warmup, None)
        rate = sum(result["tokens"][timed]) / sum(result["seconds"][timed])
        flops = shapes.step_flops(self.config, [self.length], self.length - 1) / self.length
        run = {"point": self.side.name, "settings": self.settings, "rate": rate, "before": before, "after": after, "peak": result["peak_memory_bytes"],
               "share": rate * flops / max(pace.peak(before, "bf16"), pace.peak(after, "bf16")), "moved": pace.moved([before, after])}
        with open(self.args.work / "runs.jsonl", "a", encoding="utf-8") as raw:
            raw.write(json.dumps(run) + "\n")
        self.add(run)
        print(f"{self.side.name}: {rate:.1f} tokens/s, {100 * run['share']:.1f} % of the peak, the pace moved by {100 * run['moved']:.1f} %",
              file=sys.stderr, flush=True)

    def add(self, run):
        (self.runs if run["moved"] <= self.args.drift else self.unsteady).append(run)

    def counted(self):
        return self.runs or self.unsteady

    def steadiness(self):
        return str(len(self.runs)) if self.runs else f"none steady: the pace moved by {100 * min(r['moved'] for r in self.unsteady):.0f} %"

    def of_runs(self, key, scale=1):
        values = [scale * r[key] for r in self.counted()]
        return min(values), statistics.median(values), max(values)


def table(points):
    lines = ["| parameters | T × sequences | settings | tokens/s: median (lowest–highest) | share of the bf16 peak | peak memory, GB | runs |",
             "|---|---|---|---|---|---|---|"]
    for p in points:
        rate, share, peak = p.of_runs("rate"), p.of_runs("share", 100), p.of_runs("peak", 1e-9)
        lines.append(f"| {p.parameters / 1e9:.2f} B | {p.length} × {p.batch} | {p.settings} | {rate[1]:.1f} ({rate[0]:.1f}–{rate[2]:.1f}) "
                     f"| {share[1]:.1f} % ({share[0]:.1f}–{share[2]:.1f}) | {peak[2]:.2f} | {p.steadiness()} |")
    return "\n".join(lines)


def panels(points, logarithmic):
    rates, shares = [p.of_runs("rate") for p in points], [p.of_runs("share", 100) for p in points]
    highest = max(r[2] for r in rates)
    ticks = chart.decades(min(r[0] for r in rates), highest) if logarithmic else chart.ticks_to(highest)
    return [chart.Panel("tokens/s", rates, ticks, logarithmic),
            chart.Panel("share of the calibrated bf16 peak, %", shares, list(range(0, 101, 25)))]


def write(series, args):
    out = ["# How the cost of training grows", "", "Written by `bench/scaling.py`; how it measures: [benchmarks.md](benchmarks.md#growth).", ""]
    peaks = [r[when] for points in series.values() for p in points for r in p.counted() for when in ("before", "after")]
    middle = {k: statistics.median(x[k] for x in peaks) for k in ("bf16", "fp32", "read")}
    out += [f"{sides.version_of(sides.ATTUNE)}, {args.threads} threads, {args.steps} steps a run of which {args.warmup} are warm-up. "
            f"Peak around the runs (median): bf16 {middle['bf16'] / 1e9:.0f}, fp32 {middle['fp32'] / 1e9:.0f} GFLOP/s, read {middle['read'] / 1e9:.0f} GB/s."]
    if "length" in series:
        points = series["length"]
        picture = chart.svg(f"{points[0].name} parameters: length of sequences", "tokens a sequence", [p.length for p in points],
                            [str(p.length) for p in points], panels(points, False))
        (args.docs / "scaling_length.svg").write_text(picture, encoding="utf-8")
        out += ["", "## Length of sequences", "", "![tokens/s over length](scaling_length.svg)", "", table(points)]
    if "size" in series:
        points = series["size"]
        picture = chart.svg(f"{points[0].length} tokens a sequence: size of the model", "parameters, settings", [p.parameters for p in points],
                            [f"{p.parameters / 1e9:.2f} B, {p.settings}".replace(", ", "\n") for p in points], panels(points, True))
        (args.docs / "scaling_size.svg").write_text(picture, encoding="utf-8")
        out += ["", "## Size of the model", "", "![tokens/s over size](scaling_size.svg)", "", table(points)]
    (args.docs / "scaling.md").write_text("\n".join(out) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--vocabulary", type=int, default=shapes.QWEN2["vocab_size"])
    parser.add_argument("--text", type=pathlib.Path, default=ROOT / "examples" / "medical" / "pretrain.jsonl", help='JSONL with "text"')
    parser.add_argument("--only", choices=["length", "size"])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--lengths-model", choices=SIZES, default="0.5B")
    parser.add_argument("--lengths-tokens", type=int, default=4096, help="tokens of a step")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--size-length", type=int, default=512)
    parser.add_argument("--size-batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attempts", type=int, help="rounds at most; default: three times --rounds")
    parser.add_argument("--drift", type=float, default=0.05, help="by how much the pace may differ around a run")
    parser.add_argument("--most-gb", type=float, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="take the runs that --work has already, and make those that lack")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build" / "bench-scaling")
    parser.add_argument("--docs", type=pathlib.Path, default=ROOT / "docs")
    args = parser.parse_args()
    if args.steps <= args.warmup:
        parser.error("--steps must be more than --warmup")
    if not os.access(sides.ATTUNE, os.X_OK):
        parser.error(f"{sides.ATTUNE} is missing: scripts/build.sh builds it")
    pace.require("cpu")
    if args.work.exists() and not (args.work / "runs.jsonl").exists():
        parser.error(f"--work {args.work} exists and is no earlier result of this program; it is not overwritten")
    if not args.keep:
        shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True, exist_ok=True)
    (args.work / "runs.jsonl").touch()
    earlier = [json.loads(line) for line in (args.work / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    series = {}
    if args.only != "size":
        series["length"] = [Point(args.lengths_model, n, max(1, args.lengths_tokens // n), args) for n in args.lengths]
    if args.only != "length":
        series["size"] = [Point(n, args.size_length, args.size_batch, args) for n in args.sizes]
    points = [p for s in series.values() for p in s]
    for point in points:
        for run in earlier:
            if run["point"] == point.side.name and run["settings"] == point.settings:
                point.add(run)
    attempts = args.attempts or 3 * args.rounds
    for number in range(1, attempts + 1):
        for point in points:
            if len(point.runs) < args.rounds and len(point.runs) + len(point.unsteady) < min(number, attempts):
                point.measure(number)
    write(series, args)


if __name__ == "__main__":
    main()
