#!/usr/bin/env python3
"""Ways of adapting beside each other: trained parameters, validation loss, time, memory and what is forgotten.

  bench/adapters.py MODEL DATA OUT --other TEXT [--seeds 1] [--rates 1] [--only NAME;NAME] [key=value ...]

MODEL is a trained base (Hugging Face directory), DATA a data set of which a tenth is held out, TEXT a file of unrelated text,
one document a line: the loss on it is what the model forgets (`attune score`). key=value are further settings of all runs.
Every way runs with three learning rates times --rates and the best is shown by its validation loss; while the best is the smallest or
the largest of them, the next one (a factor of three) is tried too, two more at most. Runs that are there already are not
repeated. With --seeds the best rate runs with more of them (42, 43 …, which also hold out other rows), and figures are means; "±" is
the standard deviation, and "beside rank 8" is the difference to LoRA of rank 8 with the same seed. Behind it stands attune's own table of the
best run of each way (`attune runs compare`). Needs build/attune and Python's standard library.
"""
import argparse, json, pathlib, re, statistics, subprocess, sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIRST_SEED = 42
LORA = {"finetuning_type": "lora", "lora_rank": "8"}
TRAIN = LORA | {"use_tensor_train": "true", "tt_bond": "7"}
WAYS = {  # name: (settings, learning rates)
    "LoRA, rank 8": (LORA, (3e-4, 1e-3, 3e-3)),
    "full": ({"finetuning_type": "full"}, (3e-5, 1e-4, 3e-4)),
    "LoRA, rank 2": (LORA | {"lora_rank": "2"}, (3e-4, 1e-3, 3e-3)),
    "tensor train, bond 7": (TRAIN, (3e-4, 1e-3, 3e-3)),
    "weighted tensor train, bond 7": (TRAIN | {"tt_weighted": "true"}, (3e-4, 1e-3, 3e-3)),
    "tensor train, bond 4": (TRAIN | {"tt_bond": "4"}, (3e-4, 1e-3, 3e-3)),
}


def attune(*arguments):
    done = subprocess.run([str(ROOT / "build/attune"), *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"attune {arguments[0]}: {done.stderr.strip().splitlines()[-1]}")
    return done


def loss_of_text(args, *model):
    lines = attune("score", *model, "--file", args.other).stdout.splitlines()
    return statistics.mean(x for line in lines for x in json.loads(line)["nll"] if x is not None)


def run(args, name, settings, rate, seed=FIRST_SEED):
    out = pathlib.Path(args.out) / re.sub(r"[^a-z0-9.]+", "_", f"{name} {rate:g} {seed}".lower())
    summary = out / "adapters.json"
    if summary.exists():
        return json.loads(summary.read_text())
    settings = {"model_name_or_path": args.model, "dataset": args.data, "output_dir": str(out), "overwrite_output_dir": "true",
                "save_strategy": "no", "val_size": "0.1", "eval_on_start": "true", "learning_rate": f"{rate:g}",
                "seed": str(seed)} | settings | dict(s.split("=", 1) for s in args.settings)
    attune("train", *(f"{k}={v}" for k, v in settings.items()))
    figures = json.loads(attune("runs", "compare", "--json", str(out)).stdout)[0]
    model = ["--model", str(out)] if settings["finetuning_type"] == "full" else ["--model", args.model, "--adapter", str(out)]
    r = {"rate": rate, "trained": figures["trainable_parameters"], "base": figures["validation_loss"]["before"], "loss": figures["validation_loss"]["after"],
         "seconds": figures["duration_seconds"], "peak": figures["peak_memory_bytes"], "other": loss_of_text(args, *model), "directory": str(out)}
    summary.write_text(json.dumps(r))
    for weights in out.glob("*.safetensors"):
        weights.unlink()
    return r


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model"), parser.add_argument("data"), parser.add_argument("out")
    parser.add_argument("--other", required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rates", type=float, default=1)
    parser.add_argument("settings", nargs="*")
    args = parser.parse_intermixed_args()
    before = loss_of_text(args, "--model", args.model)
    print("| way | trained parameters | of rank 8 | rate | validation loss before | after | beside rank 8 | other text before | after | seconds | peak |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    reference, chosen = None, []
    for name, (settings, rates) in WAYS.items():
        if args.only and name not in args.only.split(";"):
            continue
        tried = {rate: run(args, name, settings, rate) for rate in (float(f"{r * args.rates:g}") for r in rates)}
        best = min(tried, key=lambda r: tried[r]["loss"])
        while best in (min(tried), max(tried)) and len(tried) < 5:
            rate = float(f"{best * 3 if best == max(tried) else best / 3:.3g}")
            tried[rate] = run(args, name, settings, rate)
            best = min(tried, key=lambda r: tried[r]["loss"])
        runs = [tried[best]] + [run(args, name, settings, best, FIRST_SEED + i) for i in range(1, args.seeds)]
        chosen.append(runs[0]["directory"])
        reference = runs if name == "LoRA, rank 8" else reference
        mean = {key: statistics.mean(r[key] for r in runs) for key in runs[0] if key != "directory"}
        spread = f" ± {statistics.stdev(r['loss'] for r in runs):.4f}" if len(runs) > 1 else ""
        trained, share, beside = runs[0]["trained"], "", ""
        if reference:
            share = f"{100 * trained / reference[0]['trained']:.1f} %"
            apart = [r["loss"] - q["loss"] for r, q in zip(runs, reference)]
            beside = f"{statistics.mean(apart):+.4f}" + (f" ± {statistics.stdev(apart):.4f}" if len(apart) > 1 and any(apart) else "")
        edge = " (edge)" if best in (min(tried), max(tried)) else ""
        print(f"| {name} | {trained:,} | {share} | {best:g}{edge} | {mean['base']:.4f} | {mean['loss']:.4f}{spread} | {beside} | {before:.4f} | "
              f"{mean['other']:.4f} | {mean['seconds']:.0f} | {max(r['peak'] for r in runs) / 1e6:.0f} MB |", flush=True)
        print(f"{name}: " + ", ".join(f"{rate:g}: {t['loss']:.4f} / {t['other']:.4f}" for rate, t in sorted(tried.items())), file=sys.stderr, flush=True)
    if chosen:
        print("\n" + attune("runs", "compare", "--markdown", *chosen).stdout, end="")


if __name__ == "__main__":
    main()
