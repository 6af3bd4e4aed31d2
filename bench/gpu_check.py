#!/usr/bin/env python3
"""The checks behind scripts/gpu_check.sh: each gives lines of one table, and a check that fails makes the exit status 1.

    ops       the op table against its references, on the GPU; a part of it under compute-sanitizer where that is there
    score     log-likelihoods of the fixture models: GPU against CPU
    train     ten updates in each precision: GPU against CPU, and the same seed twice
    memory    what the device held at most against the plan
    speed     tokens/s and memory of the shapes of 0.5, 1.5 and 7 billion parameters beside PyTorch
    rung      7 billion parameters with two bytes each: does it fit where LoRA would
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench" / "peers"))

import shapes  # noqa: E402

CHECKS = ["ops", "score", "train", "memory", "speed", "rung"]
# Most that losses may differ from the CPU's, by precision.
LOSS_LIMIT = {"fp32": 1e-4, "bf16": 2e-2, "pure_bf16": 2e-2, "fp16": 2e-2}
SMALL = shapes.qwen2(256, 1024, 4, 8, 2) | {"vocab_size": 512, "tie_word_embeddings": False}
BILLIONS = {"0.5B": shapes.QWEN2_HALF_BILLION, "1.5B": shapes.qwen2(1536, 8960, 28, 12, 2),
            "7B": shapes.qwen2(3584, 18944, 28, 28, 4) | {"vocab_size": 152064, "tie_word_embeddings": False}}
MUST = {"0.5B": 110e3, "1.5B": 45e3, "7B": 11e3}  # tokens/s, bf16, T = 1024


class Table:
    def __init__(self):
        self.lines, self.failed = [], False

    def add(self, check, what, measured, wanted, good):
        self.lines.append((check, what, measured, wanted, "ok" if good else "FAILED"))
        self.failed |= not good
        print(f"  {check}: {what}: {measured} (wanted: {wanted}) {'ok' if good else 'FAILED'}", file=sys.stderr, flush=True)

    def show(self):
        rows = [("check", "what", "measured", "wanted", ""), *self.lines]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


class Bundle:
    def __init__(self, directory, shapes_wanted):
        self.shapes = shapes_wanted  # of the check of speed
        self.attune = directory / "attune"
        self.ops = directory / "test_ops_cuda"
        if not os.access(self.attune, os.X_OK):
            raise SystemExit(f"error: {self.attune} is missing or no program; `cmake --build build/cuda --target bundle` makes it, on a machine with nvcc")

    def run(self, *arguments):
        done = subprocess.run([self.attune, *map(str, arguments)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"attune {arguments[0]} ended with {done.returncode}: {done.stderr[-1500:]}")
        return done.stdout


def check_ops(bundle, work, table):
    del work
    done = subprocess.run([bundle.ops, "--gtest_brief=1"], capture_output=True, text=True, check=False, cwd=ROOT)
    said = (done.stdout + done.stderr).strip().splitlines()
    table.add("ops", "op table on the GPU", next((line for line in reversed(said) if "PASSED" in line or "FAILED" in line), said[-1] if said else "no output"),
              "all pass", done.returncode == 0)
    if done.returncode:
        print("\n".join(said[-40:]), file=sys.stderr)
    sanitizer = shutil.which("compute-sanitizer")
    if not sanitizer:
        print("  ops: compute-sanitizer is not there; left out", file=sys.stderr)
        return
    done = subprocess.run([sanitizer, "--error-exitcode=9", bundle.ops, "--gtest_brief=1", "--gtest_filter=*RmsNorm*:*Rope*:*Swiglu*:*Attention*:*Embedding*"],
                          capture_output=True, text=True, check=False, timeout=300, cwd=ROOT)
    table.add("ops", "compute-sanitizer", f"exit {done.returncode}", "exit 0", done.returncode == 0)


def make_model(bundle, work, config, name, dtype="fp32"):
    shape = work / f"{name}.json"
    shape.write_text(json.dumps(config), encoding="utf-8")
    bundle.run("init", "--config", shape, "--out", work / name, "--seed", 42, "--dtype", dtype, "--tokenizer", ROOT / "tests/fixtures/tokenizers/sentencepiece")
    return work / name


def check_score(bundle, work, table):
    text = work / "lines.txt"
    text.write_text("Once upon a time there was a little girl.\nThe dog ran to the park and saw a big red ball.\n", encoding="utf-8")
    model = make_model(bundle, work, SMALL, "scored")
    for compute, limit in (("fp32", 1e-4), ("bf16", 5e-2)):
        sides = [[json.loads(line)["nll"] for line in bundle.run("score", "--model", model, "--file", text, "--compute", compute, "--device", device).splitlines()]
                 for device in ("cpu", "cuda")]
        apart = max(abs(a - b) for one, two in zip(*sides) for a, b in zip(one, two))
        table.add("score", f"log-likelihoods, {compute}, largest difference from the CPU", f"{apart:.2e}", f"{limit:.0e}", apart <= limit)


def settings(model, output, precision, device, more=()):
    given = {"model_name_or_path": model, "dataset": ROOT / "examples/medical/pretrain.jsonl", "stage": "pt", "packing": "true", "cutoff_len": 256,
             "per_device_train_batch_size": 4, "max_steps": 10, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no",
             "seed": 42, "overwrite_output_dir": "true", "output_dir": output, "device": device}
    given |= dict(item.split("=", 1) for item in more)
    if precision != "fp32":
        given[precision] = "true"
    return [f"{key}={value}" for key, value in given.items()]


def losses(output):
    lines = [json.loads(line) for line in (output / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines if "throughput" in line]


def check_train(bundle, work, table):
    model = make_model(bundle, work, SMALL, "trained")
    for precision, limit in LOSS_LIMIT.items():
        for device in ("cpu", "cuda"):
            bundle.run("train", *settings(model, work / f"{precision}-{device}", precision, device))
        ours = [losses(work / f"{precision}-{device}") for device in ("cpu", "cuda")]
        apart = max(abs(a - b) for a, b in zip(*ours))
        table.add("train", f"ten updates, {precision}: largest difference from the CPU's loss", f"{apart:.2e}", f"{limit:.0e}", len(ours[1]) == 10 and apart <= limit)
    for precision in ("fp32", "pure_bf16"):
        bundle.run("train", *settings(model, work / "again", precision, "cuda", ["hidden_dropout=0.1"]))
        bundle.run("train", *settings(model, work / "once more", precision, "cuda", ["hidden_dropout=0.1"]))
        same = [(work / name / "model.safetensors").read_bytes() for name in ("again", "once more")]
        table.add("train", f"the same seed twice, {precision}", "same bits" if same[0] == same[1] else "other bits", "same bits", same[0] == same[1])


def check_memory(bundle, work, table):
    model = make_model(bundle, work, BILLIONS["0.5B"], "half")
    given = settings(model, work / "memory", "bf16", "cuda", ["cutoff_len=1024", "max_steps=2"])
    planned = json.loads(bundle.run("plan", *given, "--json"))["peak_memory_bytes"]
    bundle.run("train", *given)
    held = json.loads((work / "memory" / "train_results.json").read_text(encoding="utf-8"))["peak_device_memory_bytes"]
    table.add("memory", "device memory against the plan, 0.5B", f"{held / 1e9:.2f} of {planned / 1e9:.2f} GB planned", "3 %", abs(held - planned) <= 0.03 * planned)


def check_speed(bundle, work, table):
    for name in bundle.shapes:
        config = BILLIONS[name]
        shape = work / f"{name}.json"
        shape.write_text(json.dumps(config), encoding="utf-8")
        batch = {"0.5B": 16, "1.5B": 8, "7B": 2}[name]
        command = [sys.executable, ROOT / "bench/peers/run.py", "--device", "cuda", "--config", shape, "--tokenizer", ROOT / "tests/fixtures/tokenizers/sentencepiece",
                   "--tokens", "1024", "--batch", str(batch), "--steps", "10", "--warmup", "4", "--rounds", "1", "--out", work / f"peers-{name}",
                   "--threads", str(os.cpu_count()), *(["--compile"] if name != "7B" else ["--peer", "bf16", "--dtype", "bf16"])]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, env=os.environ | {"ATTUNE": str(bundle.attune)})
        print(done.stdout, done.stderr[-3000:], sep="\n", file=sys.stderr, flush=True)
        result = work / f"peers-{name}" / "summary.json"
        if done.returncode or not result.exists():
            table.add("speed", name, f"run.py ended with {done.returncode}: {done.stderr[-300:]}", "a figure", False)
            continue
        summary = json.loads(result.read_text(encoding="utf-8"))
        table.add("speed", f"{name} bf16, T=1024, tokens/s", f"{summary['tokens_per_second']:,.0f}", f"{MUST[name]:,.0f}", summary["tokens_per_second"] >= MUST[name])
        for peer, ratio in summary["ratios"].items():
            table.add("speed", f"{name} beside {peer}", f"{ratio:.2f}x", "seen", True)


def check_rung(bundle, work, table):
    model = make_model(bundle, work, BILLIONS["7B"], "seven", "bf16")
    given = settings(model, work / "rung", "pure_bf16", "cuda", ["cutoff_len=2048", "per_device_train_batch_size=1", "max_steps=3", "optim=adalomo",
                                                                "optimizer_in_backward=true", "gradient_checkpointing=block"])
    bundle.run("train", *given)
    held = json.loads((work / "rung" / "train_results.json").read_text(encoding="utf-8"))["peak_device_memory_bytes"] / 2**30
    table.add("rung", "7B full, T=2048, two bytes a parameter: peak", f"{held:.1f} GiB", "24 GiB", held <= 24)


def unpacked(bundle, place):
    """The directory of a bundle, which may be its archive: a fifth of its size, where it has to be sent somewhere."""
    if bundle.is_dir():
        return bundle.resolve()
    archive = bundle if bundle.is_file() else bundle.with_name(bundle.name + ".tar.xz")
    if not archive.is_file():
        raise SystemExit(f"error: {bundle} is missing; `cmake --build build/cuda --target bundle` makes it, on a machine with nvcc")
    with tarfile.open(archive) as packed:
        packed.extractall(place)
    return place / "attune-bundle"


def show_libraries():
    """This Python's NVIDIA libraries, cuBLASLt among them, for attune to find too."""
    found = [str(d) for entry in sys.path if entry for d in sorted(pathlib.Path(entry).glob("nvidia/*/lib"))]
    os.environ["LD_LIBRARY_PATH"] = ":".join([*filter(None, [os.environ.get("LD_LIBRARY_PATH")]), *found])


def checked(bundle, wanted):
    offered, table = json.loads(bundle.run("doctor", "--json")), Table()
    if not offered["gpus"]:
        raise SystemExit(f"error: attune sees no GPU here: {offered.get('gpu_problem', 'no reason given')}")
    print(f"{offered['gpus'][0]['name']}, {offered['gpus'][0]['memory_bytes'] / 2**30:.0f} GiB", file=sys.stderr)
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="attune-gpu-") as work:
            try:
                globals()[f"check_{name}"](bundle, pathlib.Path(work), table)
            except (RuntimeError, OSError, subprocess.SubprocessError, ValueError, KeyError) as problem:
                table.add(name, "ended early", str(problem).strip().splitlines()[-1][:200] if str(problem).strip() else type(problem).__name__, "to the end", False)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=pathlib.Path, default=ROOT / "build" / "cuda" / "attune-bundle", help="directory or archive; default: build/cuda/attune-bundle, or its .tar.xz")
    parser.add_argument("--only", default=",".join(CHECKS), help="checks by name, with commas")
    parser.add_argument("--shapes", default=",".join(BILLIONS), help="of the check of speed, with commas; each takes some minutes")
    args = parser.parse_args()
    wanted = args.only.split(",")
    unknown = [c for c in wanted if c not in CHECKS]
    if unknown:
        parser.error(f"--only {unknown[0]}: known are {', '.join(CHECKS)}")
    unknown = [s for s in args.shapes.split(",") if s not in BILLIONS]
    if unknown:
        parser.error(f"--shapes {unknown[0]}: known are {', '.join(BILLIONS)}")
    show_libraries()
    with tempfile.TemporaryDirectory(prefix="attune-bundle-") as place:
        table = checked(Bundle(unpacked(args.bundle, pathlib.Path(place)), args.shapes.split(",")), wanted)
    table.show()
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
