#!/usr/bin/env python3
"""How much of fp32 AdamW's improvement each memory rung keeps, and at what speed and memory.

  bench/rungs.py MODEL DATA OUT [--seeds 3] [--only RUNG;RUNG] [--rates 1] [key=value ...]

MODEL is a trained base (Hugging Face directory), DATA a data set of which a tenth is held out, key=value further settings
of all runs. --rates multiplies every learning rate: small models want larger ones. Each rung runs with three learning rates and the
first seed; while the best is the smallest or largest of them, the next one (a factor of three) is tried too, four more at most. Then
it runs with its best rate and the other seeds.
"kept" is the rung's improvement of the validation loss over the base, divided by that of fp32 AdamW, both means over seeds.
Runs that are there already are not repeated. Needs build/attune and Python's standard library.
"""
import argparse, json, pathlib, statistics, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
IN_BACKWARD = {"optimizer_in_backward": "true"}
BF16 = {"pure_bf16": "true"}
# name: (bytes a parameter, settings, learning rates)
RUNGS = {
    "adamw fp32": ("16", {}, (1e-4, 3e-4, 1e-3)),
    "adamw bf16, fp32 masters": ("16", {"bf16": "true"}, (1e-4, 3e-4, 1e-3)),
    "adamw pure_bf16": ("8", BF16, (1e-4, 3e-4, 1e-3)),
    "adamw_8bit": ("6", BF16 | {"optim": "adamw_8bit"}, (1e-4, 3e-4, 1e-3)),
    "adamw_8bit in backward": ("4", BF16 | {"optim": "adamw_8bit"} | IN_BACKWARD, (1e-4, 3e-4, 1e-3)),
    "lion in backward": ("4", BF16 | {"optim": "lion"} | IN_BACKWARD, (1e-5, 3e-5, 1e-4)),
    "muon": ("6", BF16 | {"optim": "muon"}, (1e-4, 3e-4, 1e-3)),
    "galore_adamw": ("4+", BF16 | {"optim": "galore_adamw", "optim_args": "rank=64,update_proj_gap=50,scale=1.0"}, (1e-4, 3e-4, 1e-3)),
    "badam": ("2+", BF16 | {"use_badam": "true", "badam_switch_interval": "10"}, (3e-4, 1e-3, 3e-3)),
    "adafactor in backward": ("2", BF16 | {"optim": "adafactor"} | IN_BACKWARD, (1e-4, 3e-4, 1e-3)),
    "adalomo": ("2", BF16 | {"optim": "adalomo"}, (1e-3, 3e-3, 1e-2)),
    "apollo-mini in backward": ("2", BF16 | {"optim": "apollo_adamw_layerwise",
                                             "optim_args": "rank=1,scale=128.0,scale_type=tensor,update_proj_gap=200"},
                                (1e-4, 3e-4, 1e-3)),
    "lomo": ("2", BF16 | {"optim": "lomo"}, (3e-2, 1e-1, 3e-1)),
}


def run(args, name, settings, rate, seed):
    out = pathlib.Path(args.out) / f"{name} {rate:g} {seed}".replace(" ", "_").replace(",", "")
    log, results = out / "trainer_log.jsonl", out / "all_results.json"
    if not results.exists():
        settings = {"model_name_or_path": args.model, "dataset": args.data, "output_dir": str(out), "overwrite_output_dir": "true",
                    "save_strategy": "no", "val_size": "0.1", "eval_on_start": "true", "learning_rate": f"{rate:g}",
                    "seed": str(seed), "data_seed": str(seed)} | settings | dict(s.split("=", 1) for s in args.settings)
        done = subprocess.run([str(ROOT / "build/attune"), "train", *(f"{k}={v}" for k, v in settings.items())],
                              capture_output=True, text=True)
        if done.returncode:
            print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
            return {"base": float("nan"), "loss": float("inf"), "tokens_per_second": 0, "peak": 0}
        for weights in out.glob("*.safetensors"):
            weights.unlink()
    all_results = json.loads(results.read_text())
    evaluations = [e["eval_loss"] for e in map(json.loads, log.read_text().splitlines()) if "eval_loss" in e]
    return {"base": evaluations[0], "loss": evaluations[-1], "tokens_per_second": all_results["tokens_per_second"],
            "peak": all_results["peak_memory_bytes"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model"), parser.add_argument("data"), parser.add_argument("out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--rates", type=float, default=1)
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    chosen = [n for n in RUNGS if not args.only or n in args.only.split(";") or n == "adamw fp32"]
    reference = None
    print("| rung | bytes a parameter | rate | base | validation loss | kept | tokens/s | peak |")
    print("|---|---|---|---|---|---|---|---|")
    for name in chosen:
        width, settings, rates = RUNGS[name]
        rates = [float(f"{rate * args.rates:g}") for rate in rates]
        first = {rate: run(args, name, settings, rate, 1) for rate in rates}
        best = min(first, key=lambda rate: first[rate]["loss"])
        while best in (min(first), max(first)) and len(first) < 7:
            rate = float(f"{best * 3 if best == max(first) else best / 3:.3g}")
            first[rate] = run(args, name, settings, rate, 1)
            best = min(first, key=lambda r: first[r]["loss"])
        runs = [first[best]] + [run(args, name, settings, best, seed) for seed in range(2, args.seeds + 1)]
        gain = statistics.mean(r["base"] - r["loss"] for r in runs)
        reference = reference or gain
        spread = statistics.stdev([r["loss"] for r in runs]) if len(runs) > 1 else 0
        edge = " (edge)" if best in (min(first), max(first)) else ""
        print(f"| {name} | {width} | {best:g}{edge} | {statistics.mean(r['base'] for r in runs):.4f} | "
              f"{statistics.mean(r['loss'] for r in runs):.4f} ± {spread:.4f} | {100 * gain / reference:.1f} % | "
              f"{statistics.median(r['tokens_per_second'] for r in runs):.0f} | {max(r['peak'] for r in runs) / 1e6:.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
