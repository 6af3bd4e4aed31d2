"""The tokens of a comparison: a data file for attune, and for the peers the same samples, step by step, as ids and labels.

Ids and labels come from attune itself (`attune data inspect`), the order of the samples from order.py.
"""

import json
import random
import subprocess

import order


def call(attune, *arguments):
    done = subprocess.run([str(a) for a in (attune, *arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]


def samples(attune, settings):
    """Every sample of a run's data, in the file's order: {"ids", "labels"}, -100 where nothing is learnt."""
    out = []
    for sample in call(attune, "data", "inspect", "--json", "--count", 10**9, *settings):
        if not set(sample["weights"]) <= {0, 1}:
            raise SystemExit(f"error: {sample['where']}: loss weights other than 0 and 1 are not compared here; take them out of the data")
        out.append({"ids": sample["ids"], "labels": [i if w else -100 for i, w in zip(sample["ids"], sample["weights"])]})
    return out


def write_steps(path, all_samples, count, batch, seed, room):
    """The steps as attune takes them, one a line: a list of samples. Returns [{"lengths", "labelled"}] of the steps."""
    lengths = [len(s["ids"]) for s in all_samples]
    sizes = []
    with open(path, "w", encoding="utf-8") as file:
        for number, members in enumerate(order.steps(lengths, count, batch, seed, room)):
            # Best fit puts long samples of a pack first; a peer's loader would not: it deals them at random.
            random.Random(number).shuffle(members)
            step = [all_samples[i] for i in members]
            file.write(json.dumps(step) + "\n")
            sizes.append({"lengths": [len(s["ids"]) for s in step], "labelled": sum(label != -100 for s in step for label in s["labels"][1:])})
    return sizes


def tokenize(attune, model, texts, scratch):
    scratch.write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in texts), encoding="utf-8")
    ids = call(attune, "tokenize", "--model", model, "--file", scratch, "--jsonl", "--add-special")
    scratch.unlink()
    return ids


def fitting_texts(attune, model, passages, length, count, scratch, seed):
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
            keep = []
            for i, ids in enumerate(tokenize(attune, model, texts, scratch)):
                if len(ids) == length:
                    found.append(texts[i])
                    continue
                change = round((length - len(ids)) * sizes[i] / max(1, len(ids)))
                sizes[i] = max(1, min(len(drafts[i]), sizes[i] + (change or (1 if len(ids) < length else -1))))
                keep.append(i)
            drafts, sizes = [drafts[i] for i in keep], [sizes[i] for i in keep]
            if len(found) >= count:
                return found[:count]
            if not drafts:
                break
    raise SystemExit(f"error: only {len(found)} of {count} documents of {length} tokens were found")


def write_texts(path, texts):
    path.write_text("".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts), encoding="utf-8")


def write_documents(attune, model, text, length, count, path, seed):
    """A pre-training file of `count` documents that become samples of exactly `length` tokens. `text`: JSONL with "text"."""
    with open(text, encoding="utf-8") as file:
        passages = [json.loads(line)["text"] for line in file if line.strip()]
    settings = [f"model_name_or_path={model}", f"dataset={path}", "stage=pt", f"cutoff_len={length}"]
    scratch = path.with_suffix(".scratch")
    # Training closes a document with the end-of-text token, where the tokenizer has one.
    write_texts(path, ["word"])
    closing = len(samples(attune, settings)[0]["ids"]) - len(tokenize(attune, model, ["word"], scratch)[0])
    write_texts(path, fitting_texts(attune, model, passages, length - closing, count, scratch, seed))
    lengths = [len(s["ids"]) for s in samples(attune, settings)]
    if lengths != [length] * count:
        raise SystemExit(f"error: the documents of {path} do not become {count} samples of {length} tokens")
