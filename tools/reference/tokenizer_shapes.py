"""Writes tests/fixtures/tokenizers/shapes.json (tokenizer.json in its many shapes, and what the reference library
makes of hard strings) and the SentencePiece models beside it. Run from the repository root."""
import json
import pathlib
import random
import tempfile

import sentencepiece
from tokenizer_differential import MARK, kinds, strings

OUT = pathlib.Path("tests/fixtures/tokenizers")
MODELS = ("uni_nmt_nfkc", "uni_nfkc_cf", "bpe_nfkc")


def texts(corpus):
    rng = random.Random(4)
    hard = ["", " ", "  a  b ", "\n", "a\tb\r\nc", "\r\n", "\u00adx", "e\u0301 \u00e9", "ﬁx ﬁ ab", "ＡBC １２", "①②", "ﷺ", "\u3000全角\u3000", MARK, MARK * 3 + "a", "the <tool> of", "<|user|>  x", "<s>x</s> y", "[CLS] [UNK] x",
            "<0x41>", "Füße ÀÉÎ naïve", "Москва", "🙂👩‍🚀", "人工智能,正在改变世界。", "\u0000\u0001x\ufffd", "don't stop", "12345 67", "x" * 40, "##ing", "日\u0301本", "ẞİ", "\U00011938 \u32ff \u0344 \U0001e030", "word " * 12, "a    b", "\u0301", "가각힣"]
    return hard + rng.sample(strings(rng, 34000, corpus, ["<tool>"])[-4000:], 24)


def main():
    corpus_file = OUT / "corpus.txt"
    rows = texts(corpus_file.read_text())
    shapes, base = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, tokenizer in kinds(folder, str(corpus_file), small=520).items():
            if isinstance(tokenizer, sentencepiece.SentencePieceProcessor):
                if name[4:] not in MODELS:
                    continue
                plain = [t for t in rows if not any(s in t for s in ("<s>", "</s>", "<unk>"))]
                (OUT / "sentencepiece" / (name[4:] + ".model")).write_bytes((folder / (name[4:] + ".model")).read_bytes())
                ids = tokenizer.encode(plain)
                shapes[name] = {"texts": plain, "ids": ids, "decoded": tokenizer.decode([[i for i in row if i] for row in ids])}
                continue
            full = json.loads(tokenizer.to_str())
            # Vocabularies that several shapes share are kept once.
            for key in ("vocab", "merges"):
                if key in full["model"]:
                    text = json.dumps(full["model"][key])
                    full["model"][key] = base.setdefault(text, f"{key}{len(base)}")
            ids = [e.ids for e in tokenizer.encode_batch(rows)]
            shapes[name] = {"json": full, "ids": ids, "decoded": tokenizer.decode_batch(ids, skip_special_tokens=False)}
            if name == "phi3":  # tools/reference/tokenizer_differential.py says why
                shapes[name]["decoded"] = []
    out = {"texts": rows, "shared": {name: json.loads(text) for text, name in base.items()}, "shapes": shapes}
    (OUT / "shapes.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


main()
