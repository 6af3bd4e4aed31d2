#!/usr/bin/env python3
"""Write tests/fixtures/models/stories260k_reference.json from the stories260k checkpoint.

Rerun from the repository root with a Python that has torch, safetensors,
sentencepiece and (for the cross-check) transformers:

    python tools/reference/stories_reference.py <folder of stories260k> \\
        [--out tests/fixtures/models/stories260k_reference.json]

The folder holds config.json, model.safetensors and tokenizer.model.  The model
is evaluated here in float64 throughout (transformers keeps its norms, rotary
tables and softmax in float32 whatever the model's dtype), by a forward pass
written out below; it is cross-checked against transformers in float32.

  lines[i].ids   BOS + sentencepiece encoding
  lines[i].nll   nll[t] = -log p(ids[t+1] | ids[..t]), float64
  generation     greedy continuation; least_margin is the smallest gap between
                 the best and the second logit along the way
"""
import argparse
import json
import math
import pathlib

import sentencepiece
import torch
from safetensors.torch import load_file

LINES = [
    "Once upon a time, there was a little girl named Lily.",
    "She loved to play outside in the park with her red ball.",
    "One day, Tom and his mom went to the store to buy some apples.",
    "\"Can I have a cookie?\" asked the boy. His mom smiled and said, \"Yes, you can.\"",
    "The dog ran fast, but the cat was faster!",
    "Ben was sad because his toy car was broken. He started to cry.",
    "They lived happily ever after.\nThe end.",
    "It was a big, big storm; the wind blew and the rain fell all night long.",
    "  two leading spaces, and  two inside",
    "Numbers such as 3, 42 and 1987 are rare in stories.",
    "Zoë ate a crème brûlée at the café on her 7th birthday 🎂.",
    "小猫喜欢吃鱼。",
    "naïve façade — “quoted” … €5 ½",
    "tab\there, and a CRLF\r\nthere",
    "a",
    "",
]


class Model:
    def __init__(self, folder):
        self.c = c = json.loads((folder / "config.json").read_text())
        self.w = {k: v.double() for k, v in load_file(folder / "model.safetensors").items()}
        self.h, self.kv = c["num_attention_heads"], c["num_key_value_heads"]
        self.d = c["hidden_size"] // self.h
        assert c["model_type"] == "llama" and not c.get("rope_scaling")

    def norm(self, x, name):
        v = x.pow(2).mean(-1, keepdim=True) + self.c["rms_norm_eps"]
        return x / v.sqrt() * self.w[name + ".weight"]

    def lin(self, x, name):
        return x @ self.w[name + ".weight"].T

    def rope(self, x):                      # [heads, T, d], halves rotated
        n = self.d // 2
        inv = self.c["rope_theta"] ** (-torch.arange(n, dtype=torch.float64) / n)
        a = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * inv
        x1, x2 = x[..., :n], x[..., n:]
        return torch.cat([x1 * a.cos() - x2 * a.sin(), x2 * a.cos() + x1 * a.sin()], -1)

    def __call__(self, ids):
        T = len(ids)
        x = self.w["model.embed_tokens.weight"][torch.tensor(ids)]
        mask = torch.full((T, T), -math.inf, dtype=torch.float64).triu(1)
        for i in range(self.c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            y = self.norm(x, p + "input_layernorm")
            q, k, v = (self.lin(y, p + f"self_attn.{s}_proj").view(T, -1, self.d).transpose(0, 1)
                       for s in "qkv")
            q, k = self.rope(q), self.rope(k)
            k, v = (t.repeat_interleave(self.h // self.kv, 0) for t in (k, v))
            a = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(self.d) + mask, -1) @ v
            x = x + self.lin(a.transpose(0, 1).reshape(T, -1), p + "self_attn.o_proj")
            y = self.norm(x, p + "post_attention_layernorm")
            y = torch.nn.functional.silu(self.lin(y, p + "mlp.gate_proj")) * self.lin(y, p + "mlp.up_proj")
            x = x + self.lin(y, p + "mlp.down_proj")
        head = "model.embed_tokens" if self.c["tie_word_embeddings"] else "lm_head"
        return self.lin(self.norm(x, "model.norm"), head)


def main():
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("folder", type=pathlib.Path)
    ap.add_argument("--out", default="tests/fixtures/models/stories260k_reference.json", type=pathlib.Path)
    args = ap.parse_args()
    torch.set_num_threads(1)
    m = Model(args.folder)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(args.folder / "tokenizer.model"))
    bos = sp.bos_id()
    lines = []
    for text in LINES:
        ids = [bos] + sp.encode(text)
        lp = torch.log_softmax(m(ids), -1)
        nll = [-lp[t, ids[t + 1]].item() for t in range(len(ids) - 1)]
        lines.append({"text": text, "ids": ids, "decoded": sp.decode(ids), "nll": nll})
    prompt = "Once upon a time"
    start = [bos] + sp.encode(prompt)
    ids, margin = list(start), math.inf
    for _ in range(200):
        top = m(ids)[-1].topk(2)
        margin = min(margin, (top.values[0] - top.values[1]).item())
        ids.append(top.indices[0].item())
    total = sum(sum(x["nll"]) for x in lines)
    count = sum(len(x["nll"]) for x in lines)
    rows = ",\n".join("  " + json.dumps(x, ensure_ascii=False, separators=(",", ":")) for x in lines)
    gen = {"prompt": prompt, "prompt_ids": start, "greedy": ids[len(start):],
           "text": sp.decode(ids), "least_margin": margin}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(f'{{"bos": {bos}, "eos": {sp.eos_id()}, "vocab_size": {sp.vocab_size()},\n'
                        f' "mean_nll": {total / count!r}, "tokens": {count},\n'
                        f' "lines": [\n{rows}\n ],\n'
                        f' "generation": {json.dumps(gen, ensure_ascii=False, separators=(",", ":"))}}}\n')

    # Reload, and compare with transformers in float32.
    ref = json.loads(args.out.read_text())
    from transformers import LlamaForCausalLM
    hf = LlamaForCausalLM.from_pretrained(args.folder, dtype=torch.float32, attn_implementation="eager")
    worst = 0.0
    with torch.no_grad():
        for x in ref["lines"]:
            if len(x["ids"]) < 2:
                continue
            lp = torch.log_softmax(hf(input_ids=torch.tensor([x["ids"]])).logits[0], -1)
            worst = max([worst] + [abs(-lp[t, x["ids"][t + 1]].item() - x["nll"][t])
                                   for t in range(len(x["nll"]))])
        assert worst < 1e-3, worst
        g = ref["generation"]
        pred = hf(input_ids=torch.tensor([g["prompt_ids"] + g["greedy"]])).logits[0].argmax(-1)
        same = (pred[len(g["prompt_ids"]) - 1:-1] == torch.tensor(g["greedy"])).all().item()
    print(f"{args.out}: {args.out.stat().st_size} bytes, mean nll {total / count:.6f} over {count} tokens;"
          f" worst difference from transformers fp32 {worst:.2e}; greedy agrees: {same},"
          f" least margin {margin:.4f}")


if __name__ == "__main__":
    main()
