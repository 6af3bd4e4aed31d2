"""Writes tests/fixtures/optim/{optimizers,schedules}.json: a hundred steps of PyTorch's and transformers' optimizers and
learning-rate schedules.

    python tools/reference/optimizer_fixtures.py        (torch, transformers)

Gradients and start come from a formula that the test repeats, so that only results are kept.
"""
import json
import math
import pathlib

import torch
from transformers import get_scheduler
from transformers.optimization import Adafactor

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "optim"
SHAPES = {"matrix": (5, 7), "vector": (6,)}
STEPS, KEPT, PEAK = 100, (1, 2, 10, 100), 0.02


def wave(a, count):
    """Numbers in (-1, 1) that fp32 holds exactly: sin, rounded to 2^-12."""
    return [math.floor(math.sin(0.7 * a + 1.3 * i) * 4096) / 4096 for i in range(count)]


def lion(parameters, lr, betas, weight_decay):
    """Chen et al. 2023, algorithm 2 (PyTorch has none)."""
    state = [torch.zeros_like(p) for p in parameters]

    def step():
        for p, m in zip(parameters, state):
            decay = weight_decay if p.dim() > 1 else 0
            update = torch.sign(betas[0] * m + (1 - betas[0]) * p.grad)
            p.data.mul_(1 - lr * decay).add_(update, alpha=-lr)
            m.mul_(betas[1]).add_(p.grad, alpha=1 - betas[1])

    return step


def run(make):
    parameters = []
    for k, shape in enumerate(SHAPES.values()):
        count = math.prod(shape)
        parameters.append(torch.nn.Parameter(torch.tensor(wave(100 + k, count), dtype=torch.float64).reshape(shape)))
    step = make(parameters)
    kept = {}
    for t in range(1, STEPS + 1):
        for k, p in enumerate(parameters):
            p.grad = torch.tensor(wave(t * 2 + k, p.numel()), dtype=torch.float64).reshape(p.shape)
        step()
        if t in KEPT:
            kept[str(t)] = {name: p.detach().flatten().tolist() for name, p in zip(SHAPES, parameters)}
    return kept


def groups(parameters, decay):
    """As Trainer does: no weight decay on vectors."""
    return [{"params": [parameters[0]], "weight_decay": decay}, {"params": [parameters[1]], "weight_decay": 0.0}]


def optimizers():
    o = torch.optim
    cases = {
        "adamw": lambda p: o.AdamW(groups(p, 0.1), lr=PEAK, betas=(0.9, 0.99), eps=1e-6).step,
        "adamw amsgrad=true": lambda p: o.AdamW(groups(p, 0.1), lr=PEAK, betas=(0.9, 0.99), eps=1e-6, amsgrad=True).step,
        "adam": lambda p: o.Adam(groups(p, 0.1), lr=PEAK, betas=(0.9, 0.99), eps=1e-6).step,
        "adam amsgrad=true": lambda p: o.Adam(groups(p, 0.1), lr=PEAK, betas=(0.9, 0.99), eps=1e-6, amsgrad=True).step,
        "sgd": lambda p: o.SGD(groups(p, 0.1), lr=PEAK).step,
        "sgd momentum=0.9": lambda p: o.SGD(groups(p, 0.1), lr=PEAK, momentum=0.9).step,
        "sgd momentum=0.9,nesterov=true": lambda p: o.SGD(groups(p, 0.1), lr=PEAK, momentum=0.9, nesterov=True).step,
        "lion": lambda p: lion(p, PEAK, (0.9, 0.99), 0.1),
        "adafactor": lambda p: Adafactor(groups(p, 0.1), lr=PEAK, scale_parameter=False, relative_step=False).step,
        "adafactor scale_parameter=true": lambda p: Adafactor(groups(p, 0.1), lr=PEAK, scale_parameter=True, relative_step=False).step,
        "adafactor clip_threshold=0.5,decay_rate=-0.6": lambda p: Adafactor(
            groups(p, 0.1), lr=PEAK, scale_parameter=False, relative_step=False, clip_threshold=0.5, decay_rate=-0.6).step,
    }
    return {name: run(make) for name, make in cases.items()}


def rates(make, steps=STEPS):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = make(optimizer)
    out = []
    for _ in range(steps):
        out.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return out


def schedules():
    def hf(name, **kwargs):
        return rates(lambda o: get_scheduler(name, o, num_warmup_steps=10, num_training_steps=STEPS, scheduler_specific_kwargs=kwargs or None))

    cases = {
        "linear": hf("linear"),
        "cosine": hf("cosine"),
        "cosine num_cycles=1.5": hf("cosine", num_cycles=1.5),
        "cosine_with_restarts num_cycles=3": hf("cosine_with_restarts", num_cycles=3),
        "cosine_with_min_lr min_lr=0.003": hf("cosine_with_min_lr", min_lr=0.003),
        "cosine_with_min_lr min_lr_rate=0.1": hf("cosine_with_min_lr", min_lr_rate=0.1),
        "polynomial": hf("polynomial"),
        "polynomial lr_end=0.001,power=2": hf("polynomial", lr_end=0.001, power=2),
        "inverse_sqrt": hf("inverse_sqrt"),
        "inverse_sqrt timescale=40": hf("inverse_sqrt", timescale=40),
        "constant": hf("constant"),
        "constant_with_warmup": hf("constant_with_warmup"),
    }
    for kind in ("linear", "cosine", "1-sqrt"):
        cases[f"warmup_stable_decay num_decay_steps=30,min_lr_ratio=0.1,warmup_type={kind},decay_type={kind}"] = hf(
            "warmup_stable_decay", num_decay_steps=30, min_lr_ratio=0.1, warmup_type=kind, decay_type=kind)
    cases["step step_size=30,gamma=0.5,per=step"] = rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 30, 0.5))
    # Epochs of 25 updates, stepped once an epoch as the classic loop does.
    per_epoch = rates(lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.3), 4)
    cases["step step_size=2,gamma=0.3"] = [per_epoch[i // 25] for i in range(STEPS)]
    return cases


OUT.mkdir(parents=True, exist_ok=True)
(OUT / "optimizers.json").write_text(json.dumps({"peak": PEAK, "runs": optimizers()}) + "\n")
(OUT / "schedules.json").write_text(json.dumps({"peak": PEAK, "total": STEPS, "warmup": 10, "epoch": 25, "rates": schedules()}) + "\n")
