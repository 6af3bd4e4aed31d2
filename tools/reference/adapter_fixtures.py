#!/usr/bin/env python3
"""Write the adapter fixtures: PEFT's own files and figures on the tiny models of tests/fixtures.

Rerun from the repository root with a Python that has torch, transformers, peft and safetensors:

    python tools/reference/adapter_fixtures.py [--out tests/fixtures/adapters] [--only NAME]

For each case <name> it writes <out>/<name>/ with

  adapter_config.json, adapter_model.safetensors   as PEFT saves them, with B (and all else) away from zero
  reference.json          base model, sequences, loss, and a 50-step AdamW run: losses and gradient norms
  reference.safetensors   "logits.<i>" [T,V] and "grad.<name in the adapter's file>"

Conventions are those of model_fixtures.py: a sequence is run alone, labels are unshifted, the loss is the mean over all
labelled tokens. The run begins with the saved adapter and goes over the same two sequences at every step.
"""
import argparse
import json
import pathlib
import shutil

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

FIXTURES = pathlib.Path("tests/fixtures")
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# name: (base, LoraConfig arguments, LoRA+ ratio, seed)
CASES = {
    "llama2_lora": ("models/llama2_tiny", dict(r=4, lora_alpha=8, target_modules=ALL), 0, 1),
    "qwen2_rslora": ("models/qwen2_tiny", dict(
        r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"v_proj": 2, r"layers\.1\.mlp\.down_proj": 5}, alpha_pattern={"down_proj": 7},
        bias="all", modules_to_save=["model.norm"]), 0, 2),
    "qwen2_head": ("models/qwen2_tiny", dict(
        r=2, lora_alpha=4, target_modules=r"model\.layers\.[01]\.self_attn\.(q|o)_proj", bias="lora_only",
        modules_to_save=["lm_head"]), 0, 3),
    "phi3_plus": ("families/phi3", dict(
        r=4, lora_alpha=8, target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
        layers_to_transform=[1]), 4.0, 4),
    "llama2_dora": ("models/llama2_tiny", dict(r=4, lora_alpha=8, use_dora=True, target_modules=ALL), 4.0, 5),
    "qwen2_dora": ("models/qwen2_tiny", dict(
        r=3, lora_alpha=5, use_dora=True, use_rslora=True, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
        bias="lora_only"), 0, 6),
    # Embedding and head; PEFT saves their own weights too. Tied ones part.
    "llama2_tables": ("models/llama2_tiny", dict(r=3, lora_alpha=6, target_modules=["q_proj", "embed_tokens", "lm_head"]), 4.0, 7),
    "qwen2_tables": ("models/qwen2_tiny", dict(r=2, lora_alpha=4, target_modules=["v_proj", "embed_tokens"]), 0, 8),
    "gemma_tables": ("families/gemma", dict(r=2, lora_alpha=4, target_modules=["down_proj", "embed_tokens", "lm_head"]), 0, 9),
    # Every other family, each with one peculiarity of its own: norms behind branches and soft caps, norms of q and k, windows.
    # (gemma3 at twice this alpha begins to oscillate in the last steps, and gradient norms follow the rounding of fp32.)
    "gemma2_lora": ("families/gemma2", dict(r=4, lora_alpha=8, target_modules=ALL), 0, 10),
    "gemma3_lora": ("families/gemma3", dict(r=4, lora_alpha=4, target_modules=ALL), 0, 11),
    "mistral_lora": ("families/mistral", dict(r=4, lora_alpha=8, target_modules=ALL), 0, 12),
    "qwen3_lora": ("families/qwen3", dict(r=4, lora_alpha=8, target_modules=ALL), 4.0, 13),
}
PLUS_EMBEDDING = 5e-4  # loraplus_lr_embedding, as LLaMA-Factory gives it to lora_embedding_B
HYPER = {"lr": 2e-3, "weight_decay": 0.01, "clip": 1.0, "steps": 50}


def load(base):
    return AutoModelForCausalLM.from_pretrained(FIXTURES / base, dtype=torch.float32, attn_implementation="eager").eval()


def file_name(parameter):
    """The name in adapter_model.safetensors of a parameter of the PEFT model."""
    name = parameter.replace(".modules_to_save.default", "").replace(".default", "")
    return name.removesuffix(".weight") if "lora_magnitude_vector" in name else name


def sequences(vocab, seed):
    g = torch.Generator().manual_seed(seed + 100)
    out = []
    for n, masked in ((17, 0), (11, 4)):
        ids = [1] + torch.randint(4, vocab, (n - 1,), generator=g).tolist()
        out.append({"ids": ids, "labels": [-100] * masked + ids[masked:]})
    return out


def loss_of(model, seqs):
    total, count, logits = 0.0, 0, []
    for s in seqs:
        z = model(input_ids=torch.tensor([s["ids"]])).logits[0]
        labels = torch.tensor(s["labels"][1:])
        total = total + F.cross_entropy(z[:-1], labels, ignore_index=-100, reduction="sum")
        count += int((labels != -100).sum())
        logits.append(z)
    return total / count, logits


def optimizer(model, ratio):
    groups = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        fast = ratio and ("lora_B" in name or p.ndim == 1)
        lr = PLUS_EMBEDDING if ratio and "lora_embedding_B" in name else HYPER["lr"] * (ratio if fast else 1)
        groups.setdefault((lr, 0.0 if p.ndim == 1 else HYPER["weight_decay"]), []).append(p)
    return torch.optim.AdamW([{"params": p, "lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()])


def make(name, out):
    base, arguments, ratio, seed = CASES[name]
    d = out / name
    shutil.rmtree(d, ignore_errors=True)
    d.mkdir(parents=True)
    torch.manual_seed(seed)
    model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **arguments)).eval()
    g = torch.Generator().manual_seed(seed)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for n, p in trained.items():
            if "lora_B" in n:
                p.copy_(0.1 * torch.randn(p.shape, generator=g))
            elif "lora_A" not in n:
                p.add_(0.05 * torch.randn(p.shape, generator=g))
    model.save_pretrained(d)
    (d / "README.md").unlink(missing_ok=True)
    config = json.loads((d / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    config["target_modules"] = sorted(config["target_modules"]) if isinstance(config["target_modules"], list) else config["target_modules"]
    (d / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")

    seqs = sequences(model.config.vocab_size, seed)
    loss, logits = loss_of(model, seqs)
    loss.backward()
    tensors = {f"logits.{i}": z.detach().clone().contiguous() for i, z in enumerate(logits)}
    tensors |= {"grad." + file_name(n): p.grad.clone().contiguous() for n, p in trained.items()}
    saved = set(load_file(d / "adapter_model.safetensors"))
    assert {k[5:] for k in tensors if k.startswith("grad.")} <= saved, sorted(saved)
    run = {"loss": [], "grad_norm": []}
    opt = optimizer(model, ratio)
    for _ in range(HYPER["steps"]):
        opt.zero_grad()
        step_loss, _ = loss_of(model, seqs)
        step_loss.backward()
        run["grad_norm"].append(torch.nn.utils.clip_grad_norm_(trained.values(), HYPER["clip"]).item())
        run["loss"].append(step_loss.item())
        opt.step()
    reference = {"base": base, "loraplus_lr_ratio": ratio, "loraplus_lr_embedding": PLUS_EMBEDDING, "hyper": HYPER, "sequences": seqs, **run}
    rows = [f" {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in reference.items()]
    (d / "reference.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")
    save_file(tensors, d / "reference.safetensors", metadata={"format": "pt"})

    # What was saved is what was run, and the adapter does something.
    again = PeftModel.from_pretrained(load(base), d).eval()
    with torch.no_grad():
        for i, z in enumerate(loss_of(again, seqs)[1]):
            assert (z - tensors[f"logits.{i}"]).abs().max() < 1e-5
        assert (loss_of(load(base), seqs)[1][0] - tensors["logits.0"]).abs().max() > 1e-2
    assert run["loss"][-1] < 0.8 * run["loss"][0]
    for f in d.iterdir():
        f.chmod(0o644)
    size = sum(f.stat().st_size for f in d.iterdir())
    assert size < 200_000, (name, size)
    print(f"{name}: loss {run['loss'][0]:.4f} -> {run['loss'][-1]:.4f}, {size / 1e3:.0f} kB")


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--out", default=FIXTURES / "adapters", type=pathlib.Path)
    ap.add_argument("--only", choices=CASES)
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in [args.only] if args.only else CASES:
        make(name, args.out)


if __name__ == "__main__":
    main()
