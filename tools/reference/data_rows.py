"""Encodes and decodes every row of every data file below DATA with `attune tokenize` and with the reference
tokenizers, and compares.

usage: data_rows.py ATTUNE DATA_DIR TOKENIZERS_DIR [NAME…]     (needs tokenizers and sentencepiece)

TOKENIZERS_DIR holds one folder a tokenizer (tokenizer.json, else tokenizer.model). A row is one line of a text
file, one row of a CSV, one element of a JSON list or one JSON line; of rows that are JSON every string in them is a
text too. Exit 1 where anything differs.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import sentencepiece
from tokenizers import Tokenizer


def strings_of(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_of(item)


def texts_of(file):
    """(rows, their texts)"""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        document = json.loads(text)
        rows = document if isinstance(document, list) else list(document.values())
        return len(rows), [json.dumps(row, ensure_ascii=False) for row in rows] + [s for row in rows for s in strings_of(row)]
    lines = [line for line in text.split("\n") if line.strip()]
    if file.suffix == ".jsonl":
        return len(lines), lines + [s for line in lines for s in strings_of(json.loads(line))]
    return len(lines), lines


def run(program, directory, lines, *options):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
        file.flush()
        done = subprocess.run([program, "tokenize", "--model", str(directory), "--file", file.name, "--jsonl", *options], capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{directory}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def main():
    program, data, tokenizers = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    files = sorted(f for f in data.rglob("*") if f.suffix in (".json", ".jsonl", ".csv", ".txt"))
    rows, texts = 0, []
    for file in files:
        count, found = texts_of(file)
        rows += count
        texts += found
    all_texts = list(dict.fromkeys(texts))
    bad = 0
    for name in sys.argv[4:] or sorted(d.name for d in tokenizers.iterdir() if (d / "tokenizer.json").exists() or (d / "tokenizer.model").exists()):
        directory, texts = tokenizers / name, all_texts
        if (directory / "tokenizer.json").exists():
            reference = Tokenizer.from_file(str(directory / "tokenizer.json"))
            reference.no_padding()
            reference.no_truncation()
            # Without the tokens that tokenizer_config.json adds: the texts of the data have none of them.
            want = [e.ids for e in reference.encode_batch(texts, add_special_tokens=False)]
            decoded = reference.decode_batch(want, skip_special_tokens=False)
        else:
            reference = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
            control = [reference.id_to_piece(i) for i in range(reference.get_piece_size()) if reference.is_control(i) or reference.is_unknown(i)]
            # A control token in a text is one to attune, as to transformers; the library itself never looks for it.
            skipped = [t for t in texts if any(c in t for c in control)]
            texts = [t for t in texts if not any(c in t for c in control)]
            print(f"{name}: {len(skipped)} texts that name a control token are left out")
            want = reference.encode(texts)
            decoded = reference.decode(want)
        got = run(program, directory, texts)
        back = run(program, directory, want, "--decode")
        wrong = [(t, w, g) for t, w, g in zip(texts, want, got, strict=True) if w != g]
        lost = [(d, b) for d, b in zip(decoded, back, strict=True) if d != b]
        print(f"{name}: {rows} rows of {len(files)} files, {len(texts)} texts, {sum(map(len, want))} tokens: {len(wrong)} encode differently, {len(lost)} decode differently", flush=True)
        for row in wrong[:2] + lost[:2]:
            print("   ", *(ascii(part)[:300] for part in row), sep="\n      ")
        bad += len(wrong) + len(lost)
    sys.exit(bad > 0)


main()
