#!/usr/bin/env python3
"""Write the fixtures of the model families: tiny checkpoints with an oracle.

Rerun from the repository root with a Python that has torch, transformers and
safetensors:

    python tools/reference/family_fixtures.py [--out tests/fixtures/families] [NAME ...]

The oracle is transformers (fp32, one CPU thread, eager attention), and for
Baichuan baichuan_model.py (float64).  Each <out>/<name>/ holds

  config.json, model.safetensors
  reference.json         sequences with labels, loss, ten AdamW steps
  reference.safetensors  "logits.<i>" and "grad.<HF parameter name>"
  config.<dialect>.json  the same configuration in the other dialect (where the
                         model has one)

and <out>/rope/ one checkpoint with config.<scaling>.json and
reference.<scaling>.safetensors (logits, and the gradient of one q_proj) for
every rotary scaling.  Conventions are those of model_fixtures.py; sequences are
longer than every sliding window, and each is run alone, which is what packing
must reproduce.  No fixture is written before a check that its feature matters:
the same weights without it must give other logits.
"""
import argparse
import copy
import json
import pathlib
import shutil

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, CONFIG_MAPPING

from baichuan_model import Baichuan
from model_fixtures import compact, dump, random_labels

BASE = dict(vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
            rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
            pad_token_id=0)
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}

# name: (model_type, changes to BASE, changes that take the feature away)
MODELS = {
    "qwen3": ("qwen3", dict(head_dim=8, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
              dict(rope_parameters=PLAIN)),
    "qwen3_bias": ("qwen3", dict(head_dim=8, attention_bias=True, use_sliding_window=True, sliding_window=5,
                                 max_window_layers=1, rope_parameters=PLAIN), dict(use_sliding_window=False)),
    "mistral": ("mistral", dict(head_dim=8, sliding_window=6, rope_parameters=PLAIN), dict(sliding_window=None)),
    "qwen2_sliding": ("qwen2", dict(hidden_size=24, use_sliding_window=True, sliding_window=5, max_window_layers=1, rope_parameters=PLAIN),
                      dict(use_sliding_window=False, layer_types=None)),
    "gemma": ("gemma", dict(head_dim=8, tie_word_embeddings=True, rope_parameters=PLAIN), dict(head_dim=8, rope_parameters={"rope_type": "default", "rope_theta": 100.0})),
    "gemma2": ("gemma2", dict(head_dim=8, tie_word_embeddings=True, sliding_window=6, query_pre_attn_scalar=12,
                              attn_logit_softcapping=0.8, final_logit_softcapping=2.0, rope_parameters=PLAIN),
               dict(attn_logit_softcapping=None)),
    "gemma3": ("gemma3_text", dict(head_dim=8, tie_word_embeddings=True, sliding_window=5, query_pre_attn_scalar=12,
                                   num_hidden_layers=3, layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                                   rope_parameters={"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                                                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}),
               dict(rope_parameters={k: dict(PLAIN) for k in ("full_attention", "sliding_attention")})),
    "phi3": ("phi3", dict(num_attention_heads=2, num_key_value_heads=1, sliding_window=7, rope_parameters={**PLAIN, "partial_rotary_factor": 0.5}), dict(
        rope_parameters={**PLAIN, "partial_rotary_factor": 1.0})),
    "phi3_long": ("phi3", dict(num_attention_heads=2, num_key_value_heads=1, original_max_position_embeddings=16, rope_parameters={
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [1.2, 2.0, 4.5, 8.0],
        "partial_rotary_factor": 1.0}), dict(rope_parameters={**PLAIN, "partial_rotary_factor": 1.0})),
    "baichuan2_7b": ("baichuan", dict(hidden_size=24, z_loss_weight=0.05), dict(z_loss_weight=0.0)),
    "baichuan2_13b": ("baichuan", dict(hidden_size=24, num_attention_heads=6, z_loss_weight=0.0), {}),
}
ROPE = {
    "default": PLAIN,
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 8},
    "yarn_mscale": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 8,
                    "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 8.0, "beta_slow": 0.5, "truncate": False},
    "yarn_factor": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 8,
                    "attention_factor": 1.3},
    "llama3": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16},
}
# Beyond the 16 positions that the rope models were made for, below them, and exactly as many.
ROPE_LENGTHS = (29, 12, 16, 17)


def randomise(named, seed, centred=False):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in named:
            if name.endswith("norm.weight"):
                p.copy_((0.0 if centred else 1.0) + 0.1 * torch.randn(p.shape, generator=g))
            else:
                p.copy_(0.2 * torch.randn(p.shape, generator=g))


def fresh(model):
    """Dynamic rotary state remembers the longest sequence seen: forget it."""
    rotary = getattr(getattr(model, "model", None), "rotary_emb", None)
    if hasattr(rotary, "original_inv_freq"):
        rotary.inv_freq = rotary.original_inv_freq.clone()
        rotary.max_seq_len_cached = rotary.original_max_seq_len


def logits_of(model, ids):
    if isinstance(model, Baichuan):
        return model.logits(ids)
    fresh(model)
    return model(input_ids=torch.tensor([ids])).logits[0]


def loss_sum(model, s):
    logits = logits_of(model, s["ids"])
    lab = torch.tensor(s["labels"][1:])
    total = F.cross_entropy(logits[:-1], lab, ignore_index=-100, reduction="sum")
    if isinstance(model, Baichuan):
        counted = logits[:-1][lab != -100]
        total = total + model.c["z_loss_weight"] * counted.max(-1).values.pow(2).sum()
    return total, int((lab != -100).sum()), logits


def sequences(seed, lengths, vocab):
    g = torch.Generator().manual_seed(seed)
    out = []
    for n in lengths:
        ids = [1] + torch.randint(4, vocab, (n - 1,), generator=g).tolist()
        out.append({"ids": ids, "labels": random_labels(ids, g)})
    return out


def build(model_type, settings, seed):
    if model_type == "baichuan":
        config = {k: v for k, v in settings.items() if k != "num_key_value_heads"}
        config |= {"model_type": "baichuan", "architectures": ["BaichuanForCausalLM"], "hidden_act": "silu"}
        if config["num_attention_heads"] == 6:      # the larger model
            config["model_max_length"] = config.pop("max_position_embeddings")
        weights = {n: torch.zeros(s, dtype=torch.float64) for n, s in Baichuan.shapes(config).items()}
        randomise(weights.items(), seed)
        weights = {n: w.float().double() for n, w in weights.items()}
        return Baichuan(config, weights)
    config = CONFIG_MAPPING[model_type](**settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    randomise(model.named_parameters(), seed, model_type.startswith("gemma"))
    return model


def save(model, folder):
    folder.mkdir(parents=True)
    if isinstance(model, Baichuan):
        dump(folder / "config.json", {**model.c, "torch_dtype": "float32"})
        save_file({n: w.detach().float().contiguous() for n, w in model.w.items()}, folder / "model.safetensors",
                  metadata={"format": "pt"})
        return
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def legacy(cfg):
    """The v4 spelling, including Gemma 3's local base."""
    c = copy.deepcopy(cfg)
    rope = c.pop("rope_parameters")
    if "full_attention" in rope:
        c["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    rope = dict(rope)
    c["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        c["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    kind = rope.pop("rope_type")
    c["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    if kind == "longrope":
        c["rope_scaling"].pop("original_max_position_embeddings", None)
    c["torch_dtype"] = c.pop("dtype")
    return c


def reference(model, seed, vocab):
    seqs = sequences(seed + 100, (17, 9, 26), vocab)
    tensors, total, count = {}, 0.0, 0
    for i, s in enumerate(seqs):
        loss, n, logits = loss_sum(model, s)
        total, count = total + loss, count + n
        tensors[f"logits.{i}"] = logits.detach().float().contiguous()
    loss = total / count
    loss.backward()
    for n, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 1e-7, n
        tensors["grad." + n] = p.grad.float().contiguous()
        p.grad = None
    return {"sequences": seqs, "loss": loss.item(), "labelled": count}, tensors


def adamw_run(model, seed, vocab):
    pool = [[sequences(seed + 200 + 2 * s + m, (14, 8), vocab) for m in range(2)] for s in range(2)]
    vectors = [p for _, p in model.named_parameters() if p.dim() == 1]
    decay = [p for _, p in model.named_parameters() if p.dim() > 1]
    hyper = {"lr": 2e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0, "steps": 10}
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                            lr=hyper["lr"], betas=(0.9, 0.999), eps=1e-8)
    losses, norms = [], []
    for s in range(hyper["steps"]):
        batch = pool[s % 2]
        count = sum(sum(x != -100 for x in q["labels"][1:]) for m in batch for q in m)
        opt.zero_grad()
        total = 0.0
        for micro in batch:
            part = sum(loss_sum(model, q)[0] for q in micro) / count
            part.backward()
            total += part.item()
        norms.append(torch.nn.utils.clip_grad_norm_([p for _, p in model.named_parameters()], hyper["clip"]).item())
        losses.append(total)
        opt.step()
    assert losses[-1] < 0.95 * losses[0], losses
    return {"hyper": hyper, "loss": losses, "grad_norm": norms, "batches": pool}


def matters(model_type, settings, without, seed):
    """The feature that a fixture is for must show in its logits or loss."""
    if not without:
        return
    s = sequences(seed + 100, (26,), settings["vocab_size"])[0]
    with torch.no_grad():
        a, _, la = loss_sum(build(model_type, settings, seed), s)
        b, _, lb = loss_sum(build(model_type, {**settings, **without}, seed), s)
    assert (la - lb).abs().max() > 1e-3 or (a - b).abs() > 1e-3, (model_type, without)


def family(name, out, seed):
    model_type, changes, without = MODELS[name]
    settings = {**BASE, **changes}
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    matters(model_type, copy.deepcopy(settings), copy.deepcopy(without), seed)
    model = build(model_type, copy.deepcopy(settings), seed)
    save(model, folder)
    ref, tensors = reference(model, seed, settings["vocab_size"])
    ref["adamw"] = adamw_run(model, seed, settings["vocab_size"])
    compact(folder / "reference.json", ref)
    save_file(tensors, folder / "reference.safetensors", metadata={"format": "pt"})
    if model_type != "baichuan":
        dump(folder / "config.legacy.json", legacy(json.loads((folder / "config.json").read_text())))
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: loss {ref['loss']:.4f}, run {ref['adamw']['loss'][0]:.3f} -> {ref['adamw']['loss'][-1]:.3f}, {size / 1e3:.0f} kB")


def rope(out):
    folder = out / "rope"
    shutil.rmtree(folder, ignore_errors=True)
    settings = {**BASE, "head_dim": 8, "max_position_embeddings": 16}
    seqs = sequences(7, ROPE_LENGTHS, BASE["vocab_size"])
    plain = None
    for name, parameters in ROPE.items():
        model = build("llama", {**copy.deepcopy(settings), "rope_parameters": dict(parameters)}, 5)
        if plain is None:
            save(model, folder)
        config = json.loads((folder / "config.json").read_text())
        config["rope_parameters"] = dict(parameters)
        dump(folder / f"config.{name}.json", config)
        dump(folder / f"config.{name}.legacy.json", legacy(config))
        tensors, total, count = {}, 0.0, 0
        for i, s in enumerate(seqs):
            loss, n, logits = loss_sum(model, s)
            total, count = total + loss, count + n
            tensors[f"logits.{i}"] = logits.detach().contiguous()
        (total / count).backward()
        tensors["grad.q"] = model.model.layers[0].self_attn.q_proj.weight.grad.contiguous()
        if plain is None:
            plain = tensors
        else:
            assert (tensors["logits.0"] - plain["logits.0"]).abs().max() > 1e-3, name
        if name == "dynamic":      # the sequences that fit are those of the plain model
            assert torch.equal(tensors["logits.1"], plain["logits.1"])
        save_file(tensors, folder / f"reference.{name}.safetensors", metadata={"format": "pt"})
    compact(folder / "reference.json", {"sequences": seqs})
    print(f"rope: {sum(f.stat().st_size for f in folder.iterdir()) / 1e3:.0f} kB")


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--out", default="tests/fixtures/families", type=pathlib.Path)
    ap.add_argument("names", nargs="*")
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for i, name in enumerate(MODELS):
        if not args.names or name in args.names:
            family(name, args.out, 30 + i)
    if not args.names or "rope" in args.names:
        rope(args.out)
    for f in args.out.rglob("*"):
        if f.is_file():
            f.chmod(0o644)


if __name__ == "__main__":
    main()
