#!/usr/bin/env python3
"""Write the model fixtures: small checkpoints with transformers as the oracle.

Rerun from the repository root with a Python that has torch, transformers,
safetensors and numpy:

    python tools/reference/model_fixtures.py [--out tests/fixtures/models]

For each model <name> it writes <out>/<name>/ with

  config.json              the configuration (dialect: see MODELS below)
  config.<dialect>.json    the same configuration in the other dialect
  model*.safetensors       the weights (and an index where sharded)
  reference.json           sequences, labels, loss, generation
  reference.safetensors    "logits.<i>" [T,V], "nll.<i>" [T-1] and
                           "grad.<HF parameter name>" (tied weights once)

and for the models in RUNS an <out>/<name>/adamw_run.json (a 50-step AdamW run)
with <out>/<name>/adamw_run.safetensors (final values of one small tensor per
kind).  Everything is fp32 on one CPU thread with eager attention and fixed
seeds.  Every fixture is validated by reloading it from disk, in both dialects.

Conventions
  - a sequence is run alone, at positions 0..T-1, with no padding;
  - labels are given unshifted, as transformers takes them: logits[t] predicts
    labels[t+1], and labels[0] is never used; -100 is not counted;
  - loss = sum of nll over all counted labels / number of counted labels, both
    over the whole batch (or the whole optimiser step), never per sequence;
  - nll.<i>[t] = -log p(ids[t+1] | ids[..t]) for every t, masked or not;
  - the learning rate of step s (0-based) is the one in force while that step
    is taken: with warm-up the first step has learning rate 0, as transformers'
    get_cosine_schedule_with_warmup steps it;
  - grad_norm is the norm before clipping.
"""
import argparse
import copy
import json
import pathlib
import shutil

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM,
                          get_cosine_schedule_with_warmup)

EXTRA = {"keep": [1, 2.5, "x"]}
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
               "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}

# name: (class, config, stored dtype, dialect of config.json, shard size, seed)
MODELS = {
    "llama2_tiny": (LlamaForCausalLM, lambda: LlamaConfig(
        vocab_size=160, hidden_size=32, intermediate_size=56, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128,
        rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        torch.float32, "v5", None, 11),
    "llama3_tiny": (LlamaForCausalLM, lambda: LlamaConfig(
        vocab_size=200, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=[2, 3], rope_parameters=dict(LLAMA3_ROPE)),
        torch.float32, "legacy", None, 12),
    "qwen2_tiny": (Qwen2ForCausalLM, lambda: Qwen2Config(
        vocab_size=259, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        rms_norm_eps=1e-6, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        use_sliding_window=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
        torch.float32, "v5", None, 13),
    "qwen2_sharded": (Qwen2ForCausalLM, lambda: Qwen2Config(
        vocab_size=192, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        rms_norm_eps=1e-6, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
        use_sliding_window=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
        torch.bfloat16, "legacy", "30KB", 14),
}
RUNS = {"qwen2_tiny": ["model.norm.weight", "model.layers.0.self_attn.q_proj.bias",
                       "model.layers.1.self_attn.k_proj.weight"],
        "llama3_tiny": ["model.norm.weight", "model.layers.0.input_layernorm.weight",
                        "model.layers.1.self_attn.v_proj.weight"]}


def randomise(model, seed):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.copy_(1 + 0.1 * torch.randn(p.shape, generator=g))
            else:
                p.copy_(0.15 * torch.randn(p.shape, generator=g))


def legacy(cfg):
    """The v4 spelling: top-level rope_theta, rope_scaling with `type`, torch_dtype."""
    c = copy.deepcopy(cfg)
    rope = dict(c.pop("rope_parameters"))
    c["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    c["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    c["torch_dtype"] = c.pop("dtype")
    for key in ("layer_types", "pad_token_id"):   # not written by v4 for these
        c.pop(key, None)
    c["transformers_version"] = "4.41.0"
    return c


def dump(path, obj):
    path.write_text(json.dumps(obj, indent=1, ensure_ascii=False) + "\n")


def compact(path, obj):
    """JSON with one top-level key per line: small, and still diffable."""
    rows = [f" {json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in obj.items()]
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def load(folder):
    m = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                             attn_implementation="eager")
    return m.eval()


def nll_sum(model, ids, labels):
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    lab = torch.tensor(labels[1:])
    return F.cross_entropy(logits[:-1], lab, ignore_index=-100, reduction="sum"), \
        int((lab != -100).sum()), logits


def random_labels(ids, g):
    """Mask a prefix, and a short hole now and then."""
    lab = list(ids)
    k = int(torch.randint(0, max(1, len(ids) // 2), (1,), generator=g))
    for t in range(k):
        lab[t] = -100
    if len(ids) > 12:
        h = int(torch.randint(k, len(ids) - 2, (1,), generator=g))
        lab[h] = lab[h + 1] = -100
    return lab


def make_checkpoint(name, out):
    cls, config, dtype, dialect, shard, seed = MODELS[name]
    d = out / name
    if d.exists():
        shutil.rmtree(d)
    torch.manual_seed(seed)
    model = cls(config())
    randomise(model, seed)
    model = model.to(dtype)
    model.save_pretrained(d, max_shard_size=shard or "1GB")
    (d / "generation_config.json").unlink(missing_ok=True)
    cfg = json.loads((d / "config.json").read_text())
    cfg["dtype"] = str(dtype).removeprefix("torch.")
    cfg["attune_test_extra"] = EXTRA
    both = {"v5": cfg, "legacy": legacy(cfg)}
    dump(d / "config.json", both.pop(dialect))
    for other, c in both.items():
        dump(d / f"config.{other}.json", c)


def reference(model, seed):
    V = model.config.vocab_size
    g = torch.Generator().manual_seed(seed + 100)
    seqs = []
    for n, masked in ((17, False), (9, True), (33, True)):
        ids = [1] + torch.randint(4, V, (n - 1,), generator=g).tolist()
        seqs.append({"ids": ids, "labels": random_labels(ids, g) if masked else list(ids)})
    tensors, total, count = {}, 0.0, 0
    model.zero_grad()
    for i, s in enumerate(seqs):
        loss, n, logits = nll_sum(model, s["ids"], s["labels"])
        s["nll_sum"], s["labelled"] = loss.item(), n
        total, count = total + loss, count + n
        tensors[f"logits.{i}"] = logits.detach().clone().contiguous()
        tensors[f"nll.{i}"] = F.cross_entropy(logits[:-1], torch.tensor(s["ids"][1:]),
                                              reduction="none").detach().clone()
    loss = total / count
    loss.backward()
    for n, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 1e-7, n
        tensors["grad." + n] = p.grad.clone().contiguous()
    prompt = [1] + torch.randint(4, V, (4,), generator=g).tolist()
    ids, margin = list(prompt), float("inf")
    with torch.no_grad():
        for _ in range(24):
            top = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2)
            margin = min(margin, (top.values[0] - top.values[1]).item())
            ids.append(top.indices[0].item())
    return {"sequences": seqs, "loss": loss.item(), "labelled": count,
            "parameters": sum(p.numel() for p in model.parameters()),
            "generation": {"prompt": prompt, "greedy": ids[len(prompt):],
                           "least_margin": margin}}, tensors


def adamw_run(folder, name, seed):
    model = load(folder)
    V = model.config.vocab_size
    g = torch.Generator().manual_seed(seed + 200)
    pool = []
    for _ in range(5):
        step = []
        for _ in range(2):
            micro = []
            for _ in range(2):
                n = int(torch.randint(6, 29, (1,), generator=g))
                ids = [1] + torch.randint(4, V, (n - 1,), generator=g).tolist()
                micro.append({"ids": ids, "labels": random_labels(ids, g)})
            step.append(micro)
        pool.append(step)
    decay = [p for n, p in model.named_parameters()
             if not (n.endswith("bias") or n.endswith("norm.weight"))]
    plain = [p for n, p in model.named_parameters()
             if n.endswith("bias") or n.endswith("norm.weight")]
    hyper = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1,
             "clip": 1.0, "warmup_steps": 5, "steps": 50, "schedule": "cosine"}
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1},
                             {"params": plain, "weight_decay": 0.0}],
                            lr=hyper["lr"], betas=(0.9, 0.999), eps=1e-8)
    sched = get_cosine_schedule_with_warmup(opt, hyper["warmup_steps"], hyper["steps"])
    out = {"loss": [], "grad_norm": [], "lr": [], "labelled": []}
    for s in range(hyper["steps"]):
        batch = pool[s % len(pool)]
        count = sum(sum(x != -100 for x in q["labels"][1:]) for m in batch for q in m)
        opt.zero_grad()
        total = 0.0
        for micro in batch:
            part = sum(nll_sum(model, q["ids"], q["labels"])[0] for q in micro) / count
            part.backward()
            total += part.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), hyper["clip"])
        out["loss"].append(total)
        out["grad_norm"].append(norm.item())
        out["lr"].append(sched.get_last_lr()[0])
        out["labelled"].append(count)
        opt.step()
        sched.step()
    final = dict(model.named_parameters())
    save_file({n: final[n].detach().clone().contiguous() for n in RUNS[name]},
              folder / "adamw_run.safetensors", metadata={"format": "pt"})
    compact(folder / "adamw_run.json", {
        "about": "step s uses batches[s % len(batches)]: a list of micro-batches of sequences",
        "hyper": hyper, "no_decay": ["*bias", "*norm.weight"], **out, "batches": pool})
    return out


def validate(name, out):
    """Reload from disk, in both dialects, and compare with the reference."""
    d = out / name
    ref, t = json.loads((d / "reference.json").read_text()), load_file(d / "reference.safetensors")
    main = (d / "config.json").read_text()
    for f in sorted(d.glob("config*.json")):
        tmp = d / "config.json"
        tmp.write_text(f.read_text())
        try:
            model = load(d)
        finally:
            tmp.write_text(main)
        with torch.no_grad():
            for i, s in enumerate(ref["sequences"]):
                logits = model(input_ids=torch.tensor([s["ids"]])).logits[0]
                assert torch.equal(logits, t[f"logits.{i}"]), (name, f.name, i)
    assert json.loads(main)["attune_test_extra"] == EXTRA
    names = {n for n, _ in model.named_parameters()}
    assert names == {k[5:] for k in t if k.startswith("grad.")}
    if MODELS[name][4]:
        index = json.loads((d / "model.safetensors.index.json").read_text())
        assert len(set(index["weight_map"].values())) >= 2
    stored = [k for f in d.glob("model*.safetensors") for k in load_file(f)]
    assert ("lm_head.weight" in stored) != model.config.tie_word_embeddings
    if name in RUNS:
        run = json.loads((d / "adamw_run.json").read_text())
        assert run["loss"][-1] < 0.7 * run["loss"][0] and len(run["loss"]) == 50
        assert all(k in stored for k in load_file(d / "adamw_run.safetensors"))
    # Without the rope scaling the answer must differ, or the fixture proves nothing.
    if name == "llama3_tiny":
        c = model.config
        c.rope_parameters = {"rope_type": "default", "rope_theta": 500000.0}
        other = LlamaForCausalLM._from_config(c, attn_implementation="eager")
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            delta = (other(input_ids=torch.tensor([ref["sequences"][2]["ids"]])).logits[0]
                     - t["logits.2"]).abs().max().item()
        assert delta > 1e-2, delta


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("--out", default="tests/fixtures/models", type=pathlib.Path)
    out = ap.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name, spec in MODELS.items():
        make_checkpoint(name, out)
        ref, tensors = reference(load(out / name), spec[5])
        compact(out / name / "reference.json", ref)
        save_file(tensors, out / name / "reference.safetensors", metadata={"format": "pt"})
        line = f"{name}: loss {ref['loss']:.4f} margin {ref['generation']['least_margin']:.4f}"
        if name in RUNS:
            run = adamw_run(out / name, name, spec[5])
            line += f" run {run['loss'][0]:.3f} -> {run['loss'][-1]:.3f}" \
                    f" norms {min(run['grad_norm']):.2f}..{max(run['grad_norm']):.2f}"
        validate(name, out)
        for f in (out / name).iterdir():
            f.chmod(0o644)
        size = sum(f.stat().st_size for f in (out / name).iterdir())
        print(line, f"{size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
