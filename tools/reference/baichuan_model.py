"""Baichuan 1 and 2, written out in float64 from their published definition.

This is the oracle for the Baichuan fixtures: it shares no code with attune or
transformers.  What it follows:

  - `self_attn.W_pack.weight` [3H, H]: rows of Q, then K, then V;
  - 7B (config has max_position_embeddings): rotary embedding, base 10000, the
    two halves of a head rotated against each other;
  - 13B (only model_max_length): no rotation; the scores of head h get
    m_h * (j - i).  m for a power of two n is s, s^2, ... with
    s = 2^(-(2^-(log2 n - 3))); other n take those of the power of two below,
    then every second one of the next;
  - Baichuan 2 NormHead: logits = x @ normalize(lm_head rows); the gradient goes
    through the normalisation and the saved rows are not normalised;
  - z-loss: z_loss_weight * mean over the labelled tokens of (largest logit)^2
    is added to the cross-entropy.
"""
import math

import torch


def slopes(n):
    def power_of_two(n):
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start ** i for i in range(n)]
    if math.log2(n).is_integer():
        return power_of_two(n)
    p = 2 ** math.floor(math.log2(n))
    return power_of_two(p) + slopes(2 * p)[0::2][:n - p]


class Baichuan:
    """`weights`: dict of float64 tensors by Hugging Face name."""

    def __init__(self, config, weights):
        self.c, self.w = config, weights
        self.h = config["num_attention_heads"]
        self.d = config["hidden_size"] // self.h
        self.alibi = "max_position_embeddings" not in config
        self.norm_head = config["vocab_size"] != 64000
        for p in weights.values():
            p.requires_grad_(True)

    @staticmethod
    def shapes(config):
        h, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
        out = {"model.embed_tokens.weight": (v, h)}
        for i in range(config["num_hidden_layers"]):
            p = f"model.layers.{i}."
            out |= {p + "self_attn.W_pack.weight": (3 * h, h), p + "self_attn.o_proj.weight": (h, h),
                    p + "mlp.gate_proj.weight": (f, h), p + "mlp.down_proj.weight": (h, f),
                    p + "mlp.up_proj.weight": (f, h), p + "input_layernorm.weight": (h,),
                    p + "post_attention_layernorm.weight": (h,)}
        return out | {"model.norm.weight": (h,), "lm_head.weight": (v, h)}

    def named_parameters(self):
        return self.w.items()

    def norm(self, x, name):
        eps = self.c["rms_norm_eps"]
        return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * self.w[name + ".weight"]

    def rotate(self, x):
        n = self.d // 2
        inv = 10000.0 ** (-torch.arange(n, dtype=torch.float64) / n)
        angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * inv
        a, b = x[..., :n], x[..., n:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    def logits(self, ids):
        t = len(ids)
        x = self.w["model.embed_tokens.weight"][torch.tensor(ids)]
        i, j = torch.arange(t)[:, None], torch.arange(t)[None, :]
        hidden = torch.where(j > i, -math.inf, 0.0).double()
        bias = torch.zeros(self.h, 1, 1, dtype=torch.float64)
        if self.alibi:
            bias = torch.tensor(slopes(self.h), dtype=torch.float64)[:, None, None] * (j - i)
        for layer in range(self.c["num_hidden_layers"]):
            p = f"model.layers.{layer}."
            packed = self.norm(x, p + "input_layernorm") @ self.w[p + "self_attn.W_pack.weight"].T
            q, k, v = (s.reshape(t, self.h, self.d).transpose(0, 1) for s in packed.chunk(3, -1))
            if not self.alibi:
                q, k = self.rotate(q), self.rotate(k)
            a = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(self.d) + bias + hidden, -1) @ v
            x = x + a.transpose(0, 1).reshape(t, -1) @ self.w[p + "self_attn.o_proj.weight"].T
            y = self.norm(x, p + "post_attention_layernorm")
            gate, up = y @ self.w[p + "mlp.gate_proj.weight"].T, y @ self.w[p + "mlp.up_proj.weight"].T
            x = x + (gate * torch.sigmoid(gate) * up) @ self.w[p + "mlp.down_proj.weight"].T
        head = self.w["lm_head.weight"]
        if self.norm_head:
            head = head / head.pow(2).sum(-1, keepdim=True).sqrt().clamp_min(1e-12)
        return self.norm(x, "model.norm") @ head.T
