#!/usr/bin/env python3
"""Planned memory and time beside measured ones: runs `attune plan` and `attune train` in turns and prints a table.

    bench/plan.py --tokenizer DIR --text FILE --chat FILE [--work DIR] [--rounds 3] [--only NAME …] [--most-gb 8]

--tokenizer: a directory with tokenizer files whose ids fit the models below (vocab_size 32000). --text: JSON lines for stage pt;
--chat: alpaca for stage sft. Every run is short. Medians over the rounds; raw results go to WORK/plan.jsonl.
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
ATTUNE = os.environ.get("ATTUNE", ROOT / "build" / "attune")

# hidden, intermediate, layers, heads, kv heads, words
MODELS = {
    "47M": (512, 2048, 8, 8, 2, 32000),
    "130M": (768, 2560, 14, 12, 4, 32000),
    "0.4B": (1024, 4096, 24, 16, 4, 32000),
    "1.3B": (2048, 6144, 24, 16, 4, 32000),
    "1.5B": (1536, 8960, 28, 12, 2, 151936),
}
BF16, PURE = "bf16=true", "pure_bf16=true"
INSIDE = "optimizer_in_backward=true"
BLOCK, PACK = "gradient_checkpointing=block", "packing=true"


def row(model, length, batch, steps, *settings, stage="pt"):
    return {"model": model, "length": length, "batch": batch, "steps": steps, "stage": stage, "settings": list(settings)}


CONFIGURATIONS = [
    row("47M", 256, 4, 6, PACK),
    row("47M", 512, 4, 4, BF16, PACK),
    row("47M", 512, 4, 4, BF16, PACK, "gradient_checkpointing=none"),
    row("47M", 512, 4, 4, PURE, PACK, BLOCK),
    row("47M", 1024, 2, 4, BF16, PACK),
    row("47M", 512, 4, 6, stage="sft"),
    row("47M", 512, 8, 6, BF16, stage="sft"),
    row("47M", 512, 2, 4, BF16, PACK, "gradient_accumulation_steps=4"),
    row("47M", 512, 4, 4, PURE, PACK, "optim=adafactor", INSIDE),
    row("47M", 512, 4, 4, PURE, PACK, "optim=lion"),
    row("47M", 256, 4, 4, PACK, "optim=sgd"),
    row("47M", 512, 4, 4, PURE, PACK, "optim=adamw_8bit"),
    row("47M", 512, 4, 4, PURE, PACK, "optim=adamw_8bit", INSIDE),
    row("47M", 512, 4, 4, PURE, PACK, "optim=apollo_adamw_layerwise", "optim_args=rank=1,scale=128.0,scale_type=tensor"),
    row("47M", 512, 4, 4, PURE, PACK, "optim=galore_adamw", "optim_args=rank=64"),
    row("47M", 512, 4, 4, BF16, PACK, "use_badam=true"),
    row("130M", 512, 4, 3, PURE, PACK, "optim=lomo"),
    row("130M", 512, 4, 3, PURE, PACK, "optim=adalomo"),
    row("130M", 512, 4, 2, PURE, PACK, "optim=muon"),
    row("130M", 512, 2, 4, PACK),
    row("130M", 512, 4, 4, BF16, PACK),
    row("130M", 1024, 2, 3, BF16, PACK, BLOCK),
    row("130M", 512, 4, 4, PURE, BF16, stage="sft"),
    row("130M", 512, 2, 3, PURE, PACK, "optim=adafactor", INSIDE, BLOCK),
    row("130M", 512, 2, 3, BF16, PACK, "finetuning_type=freeze", "freeze_trainable_layers=4"),
    row("0.4B", 512, 1, 3, PURE, PACK),
    row("0.4B", 512, 1, 3, BF16, PACK, BLOCK),
    row("0.4B", 256, 2, 3, PURE, PACK, "optim=adafactor", INSIDE),
    row("1.3B", 512, 1, 2, PURE, PACK, "optim=adafactor", INSIDE, BLOCK),
    row("1.3B", 256, 1, 2, PURE, PACK, "optim=sgd", INSIDE),
    row("1.5B", 512, 1, 2, PURE, PACK, "optim=adamw_8bit", INSIDE),
    row("1.5B", 512, 1, 2, PURE, PACK, "optim=adafactor", INSIDE, BLOCK),
]


def name_of(c):
    return " ".join([c["model"], f"T={c['length']}", f"B={c['batch']}", c["stage"], *c["settings"]])


def make_model(work, name, tokenizer):
    target = work / name
    if (target / "config.json").exists():
        return target
    d, ff, layers, heads, kv, words = MODELS[name]
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": d, "intermediate_size": ff,
              "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": words,
              "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu",
              "tie_word_embeddings": d < 1024 or name == "1.5B", "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16"}
    file = work / f"{name}.json"
    file.write_text(json.dumps(config))
    subprocess.run([ATTUNE, "init", "--config", file, "--out", target, "--dtype", "bf16", "--tokenizer", tokenizer], check=True,
                   stderr=subprocess.DEVNULL)
    return target


def call(command):
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout)


def measure(c, model, args):
    output = args.work / "output"
    data = args.text if c["stage"] == "pt" else args.chat
    settings = [f"model_name_or_path={model}", f"stage={c['stage']}", f"dataset={data}", f"cutoff_len={c['length']}",
                f"per_device_train_batch_size={c['batch']}", f"max_steps={c['steps']}", "save_strategy=no", "template=default",
                f"output_dir={output}", *c["settings"]]
    if c["stage"] == "sft":  # one whole epoch: its largest micro-batch is what memory is planned for
        settings.append(f"max_samples={c['batch'] * c['steps']}")
    if not any(s.startswith("finetuning_type") for s in settings):
        settings.append("finetuning_type=full")
    shutil.rmtree(output, ignore_errors=True)
    plan = call([ATTUNE, "plan", *settings, "--json"])
    if plan["peak_memory_bytes"] > args.most_gb * 1e9:
        return None
    run = call([ATTUNE, "train", *settings, "--json", "--force"])
    # Before and after the run: the machine is not always as fast.
    again = call([ATTUNE, "plan", *settings, "--json"])
    return {"name": name_of(c), "planned_bytes": plan["peak_memory_bytes"], "bytes": run["peak_memory_bytes"],
            "planned_seconds": (plan["duration_seconds"] + again["duration_seconds"]) / 2, "seconds": run["duration_seconds"]}


def main():
    parser = argparse.ArgumentParser()
    for name in ("tokenizer", "text", "chat"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/attune-bench-plan"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--most-gb", type=float, default=8)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results = {}
    with open(args.work / "plan.jsonl", "a", encoding="utf-8") as raw:
        for _ in range(args.rounds):
            for c in CONFIGURATIONS:
                if args.only and not any(o in name_of(c) for o in args.only):
                    continue
                try:
                    result = measure(c, make_model(args.work, c["model"], args.tokenizer), args)
                except RuntimeError as error:
                    print(f"{name_of(c)}: {error}", file=sys.stderr)
                    continue
                if result is None:
                    print(f"{name_of(c)}: left out, needs more than {args.most_gb} GB", file=sys.stderr)
                    continue
                raw.write(json.dumps(result) + "\n")
                raw.flush()
                results.setdefault(result["name"], []).append(result)
    print("| configuration | planned GB | measured GB | off by | planned s | measured s | off by |\n|---|---|---|---|---|---|---|")
    for name, runs in results.items():
        middle = {key: statistics.median(r[key] for r in runs) for key in ("planned_bytes", "bytes", "planned_seconds", "seconds")}
        ratio = statistics.median(r["planned_seconds"] / r["seconds"] for r in runs)
        print(f"| {name} | {middle['planned_bytes'] / 1e9:.3f} | {middle['bytes'] / 1e9:.3f} "
              f"| {(middle['planned_bytes'] - middle['bytes']) / 1e6:+.0f} MB, {100 * (middle['planned_bytes'] / middle['bytes'] - 1):+.1f} % "
              f"| {middle['planned_seconds']:.1f} | {middle['seconds']:.1f} | {100 * (ratio - 1):+.0f} % |")


if __name__ == "__main__":
    main()
