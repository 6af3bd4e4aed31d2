"""The table of bench/peers/run.sh.

    report.py DIR --warmup K      DIR/attune.R/ (output_dir of round R) and DIR/torch.R.json
"""

import argparse
import json
import pathlib
import statistics


def attune_round(directory, warmup):
    log = [json.loads(line) for line in (directory / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [e for e in log if "throughput" in e]
    timed = steps[warmup:] or steps
    results = json.loads((directory / "train_results.json").read_text(encoding="utf-8"))
    return {"tokens_per_second": statistics.median(e["throughput"] for e in timed),
            "peak_memory_bytes": results["peak_memory_bytes"], "losses": [e["loss"] for e in steps]}


def spread(values):
    return f"{statistics.median(values):.3g} ({min(values):.3g}–{max(values):.3g})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--warmup", type=int, default=2)
    args = parser.parse_args()
    root = pathlib.Path(args.directory)
    rounds = sorted(int(p.stem.split(".")[1]) for p in root.glob("torch.*.json"))
    if not rounds:
        raise SystemExit(f"{root}: no finished round")
    ours = [attune_round(root / f"attune.{r}", args.warmup) for r in rounds]
    peer = [json.loads((root / f"torch.{r}.json").read_text(encoding="utf-8").splitlines()[-1]) for r in rounds]
    first = peer[0]
    name = f"PyTorch {first['versions']['torch']}, transformers {first['versions']['transformers']}, {first['mode']}" + (
        ", compiled" if first["compile"] else "")

    def row(label, a, b):
        print(f"| {label} | {a} | {b} |")

    row("", "attune", name)
    print("|---|---|---|")
    row("tokens/s: median (lowest–highest of the rounds)", spread([r["tokens_per_second"] for r in ours]),
        spread([r["tokens_per_second"] for r in peer]))
    row("peak memory (VmHWM), GB", f"{max(r['peak_memory_bytes'] for r in ours) / 1e9:.2f}",
        f"{max(r['peak_memory_bytes'] for r in peer) / 1e9:.2f}")
    row("loss, first step", f"{ours[0]['losses'][0]:.5f}", f"{first['losses'][0]:.5f}")
    row("loss, last step", f"{ours[0]['losses'][-1]:.5f}", f"{first['losses'][-1]:.5f}")
    ratios = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(ours, peer)]
    apart = max(abs(a - b) / abs(b) for a, b in zip(ours[0]["losses"], first["losses"]))
    print(f"\nspeed ratio, attune over PyTorch, round by round: {spread(ratios)} of {len(ratios)} rounds")
    print(f"{first['parameters'] / 1e6:.1f} M parameters, {first['threads']} threads, {len(first['losses'])} steps, "
          f"largest relative difference of a step's loss: {apart:.2e}")


if __name__ == "__main__":
    main()
