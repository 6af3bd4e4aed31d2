"""Writes a pre-training file whose documents are exactly T tokens long, and the token ids in attune's order.

    corpus.py --attune PROGRAM --model DIR --text FILE.jsonl --tokens T --documents N --out DIR

DIR/data.jsonl     {"text": …}, one document a line, for `attune train`
DIR/stream.jsonl   the same documents as ids, in the order in which attune takes them with the given seed; the PyTorch
                   side reads them from the top. With equal weights the losses of both can be compared step by step.
"""

import argparse
import json
import pathlib
import random
import subprocess

MASK = (1 << 64) - 1


def mix(a, *rest):
    """util/rng.h: mix_key."""
    a = (a + 0x9E3779B97F4A7C15) & MASK
    a = ((a ^ (a >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    a = ((a ^ (a >> 27)) * 0x94D049BB133111EB) & MASK
    a ^= a >> 31
    return mix(a ^ rest[0], *rest[1:]) if rest else a


def permutation(n, seed, epoch):
    """data/order.cpp: Permutation, as a list."""
    half = 1
    while (1 << (2 * half)) < n:
        half += 1
    key, mask = mix(seed, epoch), (1 << half) - 1
    out = []
    for place in range(n):
        x = place
        while True:
            left, right = x >> half, x & mask
            for number in range(6):
                left, right = right, left ^ (mix(key, number, right) & mask)
            x = (left << half) | right
            if x < n:
                break
        out.append(x)
    return out


def packed_order(n, seed, epoch=0, window=1024):
    """data/order.cpp: packs of one document each (every document fills its pack)."""
    order, out = permutation(n, seed, epoch), []
    for begin in range(0, n, window):
        places = order[begin:begin + window]
        deal = permutation(len(places), mix(seed, 0x9ACC), mix(epoch, begin))
        out += [places[i] for i in deal]
    return out


def write_texts(path, texts):
    path.write_text("".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts), encoding="utf-8")


def tokenize(attune, model, texts, path):
    path.write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in texts), encoding="utf-8")
    done = subprocess.run([attune, "tokenize", "--model", model, "--file", path, "--jsonl", "--add-special"],
                          check=True, stdout=subprocess.PIPE, text=True)
    path.unlink()
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def as_trained(attune, model, data, tokens, count):
    """The samples of a pre-training file as attune trains them, in the file's order."""
    done = subprocess.run([attune, "data", "inspect", "--json", "--count", str(count), f"model_name_or_path={model}",
                           f"dataset={data}", "stage=pt", f"cutoff_len={tokens}"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return [json.loads(line)["ids"] for line in done.stdout.splitlines() if line.strip()]


def documents(attune, model, passages, length, count, scratch, seed):
    """Texts that become exactly `length` tokens: drafts are shortened or lengthened by words until they fit."""
    rng, found = random.Random(seed), []
    for _ in range(20):
        drafts = []
        while len(drafts) < 2 * (count - len(found)) + 8:
            words = []
            while len(words) < 2 * length:
                words += rng.choice(passages).split()
            drafts.append(words)
        # Tokens per word are nearly constant within a draft: shorten towards the length in a few rounds.
        sizes = [len(d) for d in drafts]
        for _ in range(12):
            texts = [" ".join(d[:n]) for d, n in zip(drafts, sizes)]
            encoded = tokenize(attune, model, texts, scratch)
            keep = []
            for i, ids in enumerate(encoded):
                if len(ids) == length:
                    found.append(texts[i])
                    continue
                step = round((length - len(ids)) * sizes[i] / max(1, len(ids)))
                sizes[i] = max(1, min(len(drafts[i]), sizes[i] + (step or (1 if len(ids) < length else -1))))
                keep.append(i)
            drafts, sizes = [drafts[i] for i in keep], [sizes[i] for i in keep]
            if len(found) >= count:
                return found[:count]
            if not drafts:
                break
    raise SystemExit(f"only {len(found)} of {count} documents of {length} tokens were found")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attune", required=True)
    parser.add_argument("--model", required=True, help="directory with the tokenizer")
    parser.add_argument("--text", required=True, help='JSONL with "text"')
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--documents", type=int, required=True)
    parser.add_argument("--seed", type=int, default=42, help="the seed of the training run")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with open(args.text, encoding="utf-8") as file:
        passages = [json.loads(line)["text"] for line in file if line.strip()]
    scratch, data = out / "scratch.jsonl", out / "data.jsonl"
    # Training closes a document with the end-of-text token, where the tokenizer has one.
    write_texts(data, ["word"])
    closing = len(as_trained(args.attune, args.model, data, args.tokens, 1)[0]) - len(
        tokenize(args.attune, args.model, ["word"], scratch)[0])
    texts = documents(args.attune, args.model, passages, args.tokens - closing, args.documents, scratch, args.seed)
    write_texts(data, texts)
    samples = as_trained(args.attune, args.model, data, args.tokens, len(texts) + 1)
    if len(samples) != len(texts) or any(len(ids) != args.tokens for ids in samples):
        raise SystemExit(f"the documents do not become {len(texts)} samples of {args.tokens} tokens")
    with open(out / "stream.jsonl", "w", encoding="utf-8") as file:
        for i in packed_order(len(samples), args.seed):
            file.write(json.dumps(samples[i]) + "\n")


if __name__ == "__main__":
    main()
