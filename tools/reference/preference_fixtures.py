#!/usr/bin/env python3
"""Writes tests/fixtures/preferences: what TRL's trainers compute for pairs and judged answers on a tiny model.

    tools/reference/preference_fixtures.py [--out tests/fixtures/preferences]

Needs torch, transformers and trl (0.29 … 1.x). TRL's loss code runs unchanged (DPOTrainer._compute_loss,
KTOTrainer._compute_loss, RewardTrainer.compute_loss, ORPOTrainer and CPOTrainer.get_batch_loss_metrics) on a stand-in for
the trainer that holds its settings; the model is tests/fixtures/models/qwen2_tiny in fp32.

pairs.json     pairs, log-probabilities under a reference model that is not the policy, and for each loss its value, the
               gradient's norm of every tensor and some gradients whole
curves.json    20 updates of AdamW (no decay, constant rate, gradients clipped at norm 1), the reference being the model at the start
"""
import argparse
import copy
import json
import math
import pathlib
import types

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import DPOTrainer, KTOTrainer, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/fixtures/models/qwen2_tiny"
WHOLE = ["model.norm.weight", "model.layers.0.self_attn.q_proj.bias", "model.layers.1.input_layernorm.weight"]
BETA = 0.1
DPO = {"sigmoid": 0.0, "hinge": 0.0, "ipo": 0.0, "robust": 0.1, "exo_pair": 0.1, "nca_pair": 0.0, "bco_pair": 0.0, "sppo_hard": 0.0,
       "aot": 0.1, "apo_zero": 0.0, "apo_down": 0.0, "discopop": 0.0, "sigmoid_norm": 0.0}
STEPS, RATE = 20, 1e-3


class Accelerator:
    device = torch.device("cpu")
    gather = staticmethod(lambda x: x)
    gather_for_metrics = staticmethod(lambda x: x)

    @staticmethod
    def unwrap_model(model):
        return model


class Metrics(dict):
    def __missing__(self, key):
        self[key] = []
        return self[key]


class Fused(torch.nn.Module):
    """What TRL's patched forward returns: log-probabilities of the labels, shifted, 0 where there is none."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, labels, use_cache=False, fused_lm_head=True, **unused):
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits[:, :-1]
        target = labels[:, 1:]
        logp = torch.log_softmax(logits, -1)
        own = logp.gather(-1, target.clamp(min=0).unsqueeze(-1)).squeeze(-1) * (target != -100)
        zero = torch.zeros_like(own)
        return types.SimpleNamespace(log_probs=own, entropy=zero, mean_logits=zero, is_top1=(logits.argmax(-1) == target), log_sum_sq_probs=zero)


def pad(rows, value):
    n = max(len(r) for r in rows)
    return torch.tensor([r + [value] * (n - len(r)) for r in rows])


def tensors(sequences):
    """(prompt, answer) → input_ids, attention_mask, completion_mask"""
    ids = pad([p + a for p, a in sequences], 0)
    attention = pad([[1] * (len(p) + len(a)) for p, a in sequences], 0)
    completion = pad([[0] * len(p) + [1] * len(a) for p, a in sequences], 0)
    return {"input_ids": ids, "attention_mask": attention, "completion_mask": completion}


def logps(model, sequences):
    t = tensors(sequences)
    labels = t["input_ids"].masked_fill(t["completion_mask"] == 0, -100)
    return Fused(model)(t["input_ids"], t["attention_mask"], labels).log_probs.sum(1)


def stand_in(**settings):
    s = types.SimpleNamespace(model=types.SimpleNamespace(training=True), accelerator=Accelerator(), _metrics={"train": Metrics(), "eval": Metrics()},
                              aux_loss_enabled=False, _total_train_tokens=0, _tp_size=1, precompute_ref_logps=True, beta=BETA,
                              label_smoothing=0.0, is_encoder_decoder=False, padding_value=0, pad_token_id=0, label_pad_token_id=-100)
    for k, v in settings.items():
        setattr(s, k, v)
    return s


def dpo_loss(model, pairs, refs, names, weights, smoothing=0.0, ld_alpha=None):
    trainer = stand_in(ld_alpha=ld_alpha, f_divergence_type="reverse_kl", loss_types=names, loss_weights=weights, label_smoothing=smoothing,
                       use_weighting=False, args=types.SimpleNamespace(discopop_tau=0.05))
    inputs = tensors([(p["prompt"], p["chosen"]) for p in pairs] + [(p["prompt"], p["rejected"]) for p in pairs])
    n = len(pairs)
    inputs["ref_chosen_logps"], inputs["ref_rejected_logps"] = torch.tensor(refs[:n]), torch.tensor(refs[n:])
    return DPOTrainer._compute_loss(trainer, Fused(model), inputs, False), trainer._metrics["train"]


def free_batch(pairs):
    batch = {}
    for side in ["chosen", "rejected"]:
        t = tensors([(p["prompt"], p[side]) for p in pairs])
        batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"] = t["input_ids"], t["attention_mask"]
        batch[f"{side}_labels"] = t["input_ids"].masked_fill(t["completion_mask"] == 0, -100)
    return batch


def free_loss(model, pairs, name):
    """orpo, simpo, cpo: they know no reference."""
    kind = ORPOTrainer if name == "orpo" else CPOTrainer
    trainer = stand_in(beta=2.0 if name == "simpo" else BETA, loss_type="simpo" if name == "simpo" else "sigmoid", simpo_gamma=0.5,
                       cpo_alpha=0.0 if name == "simpo" else 1.0, alpha=0.0)
    for method in ["concatenated_inputs", "get_batch_logps"]:
        setattr(trainer, method, getattr(kind, method))
    for method in ["concatenated_forward", "odds_ratio_loss", "cpo_loss"]:
        if hasattr(kind, method):
            setattr(trainer, method, types.MethodType(getattr(kind, method), trainer))
    return kind.get_batch_loss_metrics(trainer, model, free_batch(pairs))


def kto_loss(model, rows, refs, probe_refs):
    trainer = stand_in(calculate_KL=True, loss_type="kto", desirable_weight=1.0, undesirable_weight=1.25)
    trainer._compute_kl_logps = types.MethodType(KTOTrainer._compute_kl_logps, trainer)
    batch = tensors([(r["prompt"], r["answer"]) for r in rows])
    kl = tensors([(r["prompt"], rows[(i + 1) % len(rows)]["answer"]) for i, r in enumerate(rows)])
    batch |= {"KL_input_ids": kl["input_ids"], "KL_attention_mask": kl["attention_mask"], "KL_completion_mask": kl["completion_mask"],
              "label": torch.tensor([r["good"] for r in rows]), "ref_logps": torch.tensor(refs), "ref_KL_logps": torch.tensor(probe_refs)}
    return KTOTrainer._compute_loss(trainer, Fused(model), batch, False), trainer._metrics["train"]


def rm_loss(model, pairs, margins, center):
    trainer = stand_in(args=types.SimpleNamespace(center_rewards_coefficient=center))
    t = tensors([(p["prompt"], p["chosen"]) for p in pairs] + [(p["prompt"], p["rejected"]) for p in pairs])
    inputs = {"input_ids": t["input_ids"], "attention_mask": t["attention_mask"]}
    if margins:
        inputs["margin"] = torch.tensor(margins)
    return RewardTrainer.compute_loss(trainer, model, inputs), trainer._metrics["train"]


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    named = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.item(), "norms": {n: g.norm().item() for n, g in named.items()}, "whole": {n: named[n].flatten().tolist() for n in WHOLE}}


def numbers(metrics):
    return {k: (v[-1] if isinstance(v, list) else float(v)) for k, v in metrics.items()
            if k.startswith(("rewards/", "logps/", "nll", "kl")) or k in ("accuracy", "margin")}


def random_ids(n, vocab, generator):
    return torch.randint(3, vocab, (n,), generator=generator).tolist()


def make_pairs(count, vocab, generator, prompt=True, even=False):
    pairs = []
    for _ in range(count):
        a, b = [int(torch.randint(3, 9, (1,), generator=generator)) for _ in range(2)]
        p = 1 if not prompt else int(torch.randint(2, 7, (1,), generator=generator))
        pairs.append({"prompt": random_ids(p, vocab, generator), "chosen": random_ids(6 if even else a, vocab, generator),
                      "rejected": random_ids(b, vocab, generator)})
    return pairs


def curve(model, batches, loss_of):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0)
    losses = []
    for i in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, batches[i % len(batches)], i % len(batches))[0]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def rounded(x):
    if isinstance(x, float):
        return float(f"{x:.7g}")
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    return [rounded(v) for v in x] if isinstance(x, list) else x


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/fixtures/preferences")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)
    load = lambda: AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager")
    model = load()
    vocab = model.config.vocab_size
    reference = copy.deepcopy(model)
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=g))

    # TRL's SFT terms of orpo and cpo are means over all tokens of a batch, prompts included: with prompts of one token and
    # chosen answers of one length that is the same as the mean over answers.
    pairs, even = make_pairs(4, vocab, g), make_pairs(4, vocab, g, prompt=False, even=True)
    with torch.no_grad():
        order = [(p["prompt"], p[s]) for s in ["chosen", "rejected"] for p in pairs]
        refs = logps(reference, order).tolist()
    result = {"beta": BETA, "pairs": pairs, "even_pairs": even, "reference_chosen": refs[:4], "reference_rejected": refs[4:], "losses": {}}
    for name, smoothing in DPO.items():
        loss, metrics = dpo_loss(model, pairs, refs, [name], [1.0], smoothing)
        result["losses"][name] = gradients(model, loss) | {"label_smoothing": smoothing, "metrics": numbers(metrics)}
    loss, metrics = dpo_loss(model, pairs, refs, ["sigmoid", "bco_pair"], [0.8, 0.2])
    result["losses"]["mixture"] = gradients(model, loss) | {"label_smoothing": 0.0, "metrics": numbers(metrics)}
    for name in ["orpo", "simpo", "cpo"]:
        loss, metrics = free_loss(model, even, name)
        result["losses"][name] = gradients(model, loss) | {"label_smoothing": 0.0, "metrics": numbers(metrics)}

    rows = [{"prompt": p["prompt"], "answer": p["chosen" if i % 2 == 0 else "rejected"], "good": i % 3 != 1} for i, p in enumerate(pairs)]
    with torch.no_grad():
        own = logps(reference, [(r["prompt"], r["answer"]) for r in rows]).tolist()
        probes = logps(reference, [(r["prompt"], rows[(i + 1) % 4]["answer"]) for i, r in enumerate(rows)]).tolist()
    probes = [p - 1.0 for p in probes]  # so that the KL is above 0
    loss, metrics = kto_loss(model, rows, own, probes)
    result["kto"] = gradients(model, loss) | {"rows": rows, "reference": own, "reference_probes": probes, "bad_weight": 1.25, "metrics": numbers(metrics)}

    scorer = lambda: AutoModelForSequenceClassification.from_pretrained(MODEL, dtype=torch.float32, num_labels=1, pad_token_id=0, attn_implementation="eager")
    torch.manual_seed(3)
    rm = scorer()
    score = rm.score.weight.detach().flatten().tolist()
    margins = [0.5, 0.0, 1.0, 0.25]
    loss, metrics = rm_loss(rm, pairs, margins, 0.01)
    result["rm"] = gradients(rm, loss) | {"score": score, "margins": margins, "center": 0.01, "metrics": numbers(metrics)}
    (out / "pairs.json").write_text(json.dumps(rounded(result)))

    curves = {"learning_rate": RATE, "steps": STEPS, "beta": BETA, "losses": {}}
    batches = [make_pairs(4, vocab, g) for _ in range(5)]
    even_batches = [make_pairs(4, vocab, g, prompt=False, even=True) for _ in range(5)]
    curves["batches"], curves["even_batches"], curves["score"] = batches, even_batches, score
    with torch.no_grad():
        base = [logps(load(), [(p["prompt"], p[s]) for s in ["chosen", "rejected"] for p in b]).tolist() for b in batches]
    for name in ["sigmoid", "ipo"]:
        curves["losses"][name] = curve(load(), batches, lambda m, b, i: dpo_loss(m, b, base[i], [name], [1.0]))
    for name in ["orpo", "simpo"]:
        curves["losses"][name] = curve(load(), even_batches, lambda m, b, i: free_loss(m, b, name))
    judged = [[{"prompt": p["prompt"], "answer": p["chosen" if i % 2 == 0 else "rejected"], "good": i % 2 == 0} for i, p in enumerate(b)] for b in batches]
    with torch.no_grad():
        own = [logps(load(), [(r["prompt"], r["answer"]) for r in b]).tolist() for b in judged]
        probes = [logps(load(), [(r["prompt"], b[(i + 1) % 4]["answer"]) for i, r in enumerate(b)]).tolist() for b in judged]
    curves["judged"] = judged
    curves["losses"]["kto"] = curve(load(), judged, lambda m, b, i: kto_loss(m, b, own[i], probes[i]))
    torch.manual_seed(3)
    curves["losses"]["rm"] = curve(scorer(), batches, lambda m, b, i: rm_loss(m, b, None, None))
    assert all(math.isfinite(x) for c in curves["losses"].values() for x in c)
    (out / "curves.json").write_text(json.dumps(rounded(curves)))


if __name__ == "__main__":
    main()
