"""Writes tests/fixtures/optim/low_memory.json: steps of the low-memory optimizers, each as its published code makes them.

    python tools/reference/low_memory_fixtures.py        (numpy, torch with torch.optim.Muon)

bitsandbytes' block-wise AdamW in numpy (csrc/kernels.cu, functional.py: create_dynamic_map), LOMO and AdaLomo (OpenLMLab/LOMO,
lomo_optim), GaLore (jiaweizzhao/GaLore, galore_torch), APOLLO (apollo_torch, with its random numbers replaced by the
program's own, so that both project alike). Gradients and start come from a formula that the test repeats.
"""
import json
import math
import pathlib

import numpy as np
import torch

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "optim" / "low_memory.json"
LR, BETAS, EPS, DECAY, SEED = 0.02, (0.9, 0.99), 1e-6, 0.1, 42
F = np.float32
M64 = (1 << 64) - 1


# The program's counter-based numbers (src/util/rng.h) and name hash ---------------------------------------------------

def mix(*words):
    def one(a):
        a = (a + 0x9E3779B97F4A7C15) & M64
        a = ((a ^ (a >> 30)) * 0xBF58476D1CE4E5B9) & M64
        a = ((a ^ (a >> 27)) * 0x94D049BB133111EB) & M64
        return a ^ (a >> 31)
    key = words[0]
    for w in words[1:]:
        key = one(key) ^ w
    return one(key)


def philox(key, counter):
    k0, k1, c = key & 0xFFFFFFFF, key >> 32, [counter & 0xFFFFFFFF, counter >> 32, 0, 0]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def normals(key, count):
    out = []
    for at in range(0, count, 4):
        w = philox(key, at // 4)
        for a, b in ((w[0], w[1]), (w[2], w[3])):
            r, angle = math.sqrt(-2 * math.log((a + 1) * 2.0**-32)), b * 2.0**-32 * 2 * math.pi
            out += [r * math.cos(angle), r * math.sin(angle)]
    return np.array(out[:count])




def wave(a, count):
    """Numbers in (-1, 1) that fp32 holds exactly, without a pattern that a small matrix would show."""
    return np.floor(np.sin(0.7 * a + 1.3 * np.arange(count) + 0.011 * np.arange(count) ** 2) * 4096) / 4096


def start(k, shape):
    return wave(100 + k, math.prod(shape)).reshape(shape)


def gradient(t, k, shape):
    return wave(t * 2 + k, math.prod(shape)).reshape(shape)


# Each rule: a generator function over (parameter, step, gradient), in double.

class AdamW:
    """galore_torch and apollo_torch take transformers' old AdamW: eps joins √v before the bias correction."""

    def __init__(self, shape):
        self.m, self.v = np.zeros(shape), np.zeros(shape)

    def direction(self, g, t):
        self.m = BETAS[0] * self.m + (1 - BETAS[0]) * g
        self.v = BETAS[1] * self.v + (1 - BETAS[1]) * g * g
        step = LR * math.sqrt(1 - BETAS[1] ** t) / (1 - BETAS[0] ** t)
        return self.m / (np.sqrt(self.v) + EPS), step


def on_the_right(side, shape):
    tall = shape[0] >= shape[1]
    return {"std": tall, "reverse_std": not tall, "right": True, "left": False}[side]


def singular_vectors(g, rank, right):
    """[rank, n]. The moments outlive a projection, so signs matter at a new one; LAPACK's are arbitrary. Here and in the
    program the largest component is positive."""
    u, _, vh = np.linalg.svd(g, full_matrices=False)
    vectors = vh[:rank] if right else u[:, :rank].T
    return vectors * np.sign(vectors[np.arange(rank), np.abs(vectors).argmax(1)])[:, None]


def galore(shape, rank=2, gap=3, scale=0.25, side="std"):
    right, state = on_the_right(side, shape), {}

    def step(p, g, t):
        if (t - 1) % gap == 0:
            vectors = singular_vectors(g, rank, right)
            state["P"] = vectors if right else vectors.T
        low = g @ state["P"].T if right else state["P"].T @ g
        state.setdefault("adam", AdamW(low.shape))
        norm, size = state["adam"].direction(low, t)
        p = p - size * scale * (norm @ state["P"] if right else state["P"] @ norm)
        return p - LR * DECAY * p

    return step


def apollo(shape, key, rank=1, gap=3, scale=1.0, scale_type="channel", side="std", front=False, random=True):
    right, state = on_the_right(side, shape), {}

    def step(p, g, t):
        if (t - 1) % gap == 0:
            n = shape[1] if right else shape[0]
            if random:
                P = normals(mix(SEED, key, 0xA90110, (t - 1) // gap), rank * n).reshape(rank, n) / math.sqrt(rank)
            else:
                P = singular_vectors(g, rank, right)
            state["P"] = P
        low = g @ state["P"].T if right else state["P"] @ g
        state.setdefault("adam", AdamW(low.shape))
        norm, size = state["adam"].direction(low, t)
        if scale_type == "channel":
            axis = 1 if right else 0
            factor = np.linalg.norm(norm, axis=axis) / (np.linalg.norm(low, axis=axis) + 1e-8)
            factor = factor[:, None] if right else factor[None, :]
        else:
            factor = np.linalg.norm(norm) / (np.linalg.norm(low) + 1e-8)
        scaled = g * factor
        if front:
            scaled = scaled * math.sqrt(scale)
        size_now = np.linalg.norm(scaled)
        if "norm" in state:
            limiter = max(size_now / (state["norm"] + 1e-8), 1.01) / 1.01
            scaled, size_now = scaled / limiter, size_now / limiter
        state["norm"] = size_now
        if not front:
            scaled = scaled * math.sqrt(scale)
        p = p - size * scaled
        return p - LR * DECAY * p

    return step


def lomo(shape):
    def step(p, g, t):
        return p * (1 - LR * DECAY) - LR * g
    return step


def adalomo(shape):
    row, col = np.zeros(shape[0]), np.zeros(shape[1])

    def step(p, g, t):
        beta = 1.0 - t ** -0.8
        update = g * g + 1e-30
        row[:] = beta * row + (1 - beta) * update.mean(-1)
        col[:] = beta * col + (1 - beta) * update.mean(-2)
        update = g * ((row / row.mean()) ** -0.5)[:, None] * (col ** -0.5)[None, :]
        update = update / max(1.0, math.sqrt((update ** 2).mean()) / 1.0)
        lr = LR * max(1e-3, math.sqrt((p ** 2).mean()))
        return p * (1 - lr * DECAY) - lr * update

    return step


# bitsandbytes ---------------------------------------------------------------------------------------------------------

def create_dynamic_map(signed):
    """As bitsandbytes' functional.py, with torch's own rounding."""
    data = [0.0, 1.0]
    for i in range(7):
        borders = torch.linspace(0.1, 1, (1 if signed else 2) * 2 ** i + 1, dtype=torch.float32)
        means = (10 ** (i - 6) * ((borders[:-1] + borders[1:]) / 2)).tolist()
        data += means + ([-x for x in means] if signed else [])
    assert len(data) == 256
    return np.sort(np.array(data, dtype=F))


def exact_map(signed):
    """The same numbers in double, rounded once: within two units of fp32's last digit."""
    data = [0.0, 1.0]
    for i in range(7):
        n = (1 if signed else 2) * 2 ** i
        means = [10.0 ** (i - 6) * (0.1 + 0.9 * (j + 0.5) / n) for j in range(n)]
        data += means + ([-x for x in means] if signed else [])
    out = np.sort(np.array(data)).astype(F)
    assert np.abs(out - create_dynamic_map(signed)).max() < 1.2e-7
    return out


MAPS = exact_map(True), exact_map(False)


def encode(x, signed):
    """Nearest codes of a block, the lower one on a border; a negative m never becomes 0."""
    table = MAPS[0 if signed else 1]
    largest = F(np.abs(x).max())
    usable = largest >= np.finfo(F).tiny
    y = x * (F(1) / largest if usable else F(0))
    y = np.clip(y, F(-1), F(1))
    if not signed:
        codes = np.searchsorted((table[:-1] + table[1:]) * F(0.5), y, side="left")
    else:
        positive = table[127:]
        k = np.searchsorted((positive[:-1] + positive[1:]) * F(0.5), np.abs(y), side="left")
        codes = np.where(np.signbit(x), 127 - np.clip(k, 1, 127), 127 + k)
    return codes.astype(np.uint8), largest if usable else F(0)


def adamw_8bit(steps, shape, gradients):
    n, p = math.prod(shape), start(0, shape).astype(F).ravel()
    blocks = [slice(i, min(n, i + 256)) for i in range(0, n, 256)]
    codes = [np.zeros(n, np.uint8), np.zeros(n, np.uint8)]
    scales = np.zeros((2, len(blocks)), F)
    b1, b2, lr, eps = F(BETAS[0]), F(BETAS[1]), F(LR), F(EPS)
    for t in range(1, steps + 1):
        g = gradients(t).astype(F).ravel()
        size = lr / F(1 - float(b1) ** t)
        unbiased = F(1) / np.sqrt(F(1 - float(b2) ** t))
        p = p * (F(1) - lr * F(DECAY))
        for i, b in enumerate(blocks):
            m = MAPS[0][codes[0][b]] * scales[0, i]
            v = MAPS[1][codes[1][b]] * scales[1, i]
            m = b1 * m + (F(1) - b1) * g[b]
            v = b2 * v + (F(1) - b2) * g[b] * g[b]
            p[b] = p[b] - size * m / (np.sqrt(v) * unbiased + eps)
            codes[0][b], scales[0, i] = encode(m, True)
            codes[1][b], scales[1, i] = encode(v, False)
    return p, codes, scales


def adversarial(t, shape):
    """Blocks of 256: zeros, one huge number, numbers down to subnormal ones, signs of one kind, ordinary ones."""
    g = gradient(t, 0, shape).ravel()
    g[0:256] = 0
    g[300] = 1e6
    g[512:768] *= 10.0 ** -np.linspace(0, 44, 256)
    g[768:1024] = -np.abs(g[768:1024])
    g[1024:1280] *= 1e-42
    return g.reshape(shape)


def muon(shape, steps, kept, **options):
    p = torch.nn.Parameter(torch.tensor(start(0, shape), dtype=torch.float32))
    o = torch.optim.Muon([p], lr=LR, weight_decay=DECAY, **options)
    out = {}
    for t in range(1, steps + 1):
        p.grad = torch.tensor(gradient(t, 0, shape), dtype=torch.float32)
        o.step()
        if t in kept:
            out[str(t)] = p.detach().flatten().tolist()
    return out


def muon_fp32(shape, steps, kept, nesterov=True, adjust="original"):
    """torch.optim.Muon's steps, but with Newton–Schulz in double instead of bfloat16."""
    p, b = start(0, shape), np.zeros(shape)
    out = {}
    for t in range(1, steps + 1):
        g = gradient(t, 0, shape)
        b = b + (1 - 0.95) * (g - b)
        x = g + 0.95 * (b - g) if nesterov else b
        tall = shape[0] > shape[1]
        x = x.T if tall else x
        x = x / max(np.linalg.norm(x), 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x = x.T if tall else x
        ratio = math.sqrt(max(1, shape[0] / shape[1])) if adjust == "original" else 0.2 * math.sqrt(max(shape))
        p = p * (1 - LR * DECAY) - LR * ratio * x
        if t in kept:
            out[str(t)] = p.ravel().tolist()
    return out


def run(rule, shape, steps=20, kept=(2, 20)):
    p, out = start(0, shape), {}
    for t in range(1, steps + 1):
        p = rule(p, gradient(t, 0, shape), t)
        if t in kept:
            out[str(t)] = p.ravel().tolist()
    return out


def main():
    import xxhash
    key = xxhash.xxh3_64_intdigest(b"model.layers.0.matrix.weight")
    tall, wide = (11, 7), (6, 13)
    cases = []

    def case(name, shape, arguments, steps):
        cases.append({"name": name, "shape": list(shape), "arguments": arguments, "steps": steps})

    for shape in (tall, wide):
        case("lomo", shape, {}, run(lomo(shape), shape))
        case("adalomo", shape, {}, run(adalomo(shape), shape))
        for side in ("std", "reverse_std", "right", "left"):
            case("galore", shape, {"rank": 2, "update_gap": 3, "scale": 0.25, "side": side}, run(galore(shape, side=side), shape))
        for rank in (1, 3):
            for scale_type in ("channel", "tensor"):
                a = {"rank": rank, "update_gap": 3, "scale": 2.0, "scale_type": scale_type}
                case("apollo", shape, a, run(apollo(shape, key, rank=rank, scale=2.0, scale_type=scale_type), shape))
        case("apollo", shape, {"rank": 1, "update_gap": 5, "scale": 4.0, "scale_front": True},
             run(apollo(shape, key, gap=5, scale=4.0, front=True), shape))
        case("apollo", shape, {"rank": 2, "update_gap": 4, "scale": 1.0, "random": False},
             run(apollo(shape, key, rank=2, gap=4, random=False), shape))
        case("muon", shape, {}, muon_fp32(shape, 20, (2, 20)))
        case("muon", shape, {"adjust_lr": "match_rms_adamw", "nesterov": False},
             muon_fp32(shape, 20, (2, 20), nesterov=False, adjust="match_rms_adamw"))

    bf16 = [{"shape": list(s), "adjust_lr": a or "original", "steps": muon(s, 20, (1, 20), adjust_lr_fn=a)}
            for s in (tall, wide) for a in (None, "match_rms_adamw")]

    shape = (18, 256)
    p, codes, scales = adamw_8bit(100, shape, lambda t: adversarial(t, shape))
    eight = {"shape": list(shape), "steps": 100, "weights": [float(x) for x in p],
             "m": codes[0].tobytes().hex(), "v": codes[1].tobytes().hex(), "m_absmax": [float(x) for x in scales[0]],
             "v_absmax": [float(x) for x in scales[1]],
             "signed_map": [float(x) for x in create_dynamic_map(True)], "unsigned_map": [float(x) for x in create_dynamic_map(False)]}
    def short(x):
        """Nine digits tell all fp32 numbers apart."""
        if isinstance(x, float):
            return float(f"{x:.9g}")
        return {k: short(v) for k, v in x.items()} if isinstance(x, dict) else [short(v) for v in x] if isinstance(x, list) else x

    OUT.write_text(json.dumps(short({"lr": LR, "cases": cases, "muon_bf16": bf16, "adamw_8bit": eight}), separators=(",", ":")) + "\n")


main()
