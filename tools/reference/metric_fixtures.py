"""Writes tests/fixtures/eval/metrics.json: scores of answers by the packages that people compare with.

    pip install rouge-score rouge-chinese nltk sacrebleu
    python tools/reference/metric_fixtures.py

rouge_score counts ASCII words; for other scripts it is given the tokens of a naive tokenizer that stands here. sacrebleu and
NLTK get tokens, too. The F1 is SQuAD's, by the rule, not by the package.
"""
import collections
import json
import pathlib
import re
import string
import unicodedata

import sacrebleu
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score import rouge_scorer

PAIRS = [
    ("The cat sat on the mat.", "The cat is on the mat."),
    ("the quick brown fox jumps over the lazy dog", "A quick, brown fox jumped over a lazy dog!"),
    ("It's 3.14, don't you know?", "Don't you know it's 3.14?"),
    ("repeat repeat repeat word", "repeat word word"),
    ("", "something"),
    ("something", ""),
    ("", ""),
    ("Yes.", "yes"),
    ("ab", "ab"),
    ("abc def", "abc xyz"),
    ("aspirin 100 mg daily", "Aspirin 100mg, once daily"),
    ("支持细胞错位", "支持细胞的错位"),
    ("患者应当多喝水，注意休息。", "建议患者多休息，多喝水！"),
    ("使用 Qwen2 模型进行 fine-tuning", "使用Qwen2模型做fine-tuning"),
    ("食管克罗恩病", "肛裂"),
    ("東京へ行きます", "東京に行きました"),
    ("서울에 갑니다", "서울로 갑니다"),
    ("Ünïcode Straße ÉCOLE", "ünïcode strasse école"),
    ("a an the", "the"),
    ("one two three four five six seven eight", "one two three four five six seven nine"),
    ("(A) option — the “first” one", "option A: the first one"),
    ("line one\nline two\ttabbed", "line one line two tabbed"),
    ("x" * 40, "x" * 30),
    ("🙂 fine 🙂", "fine 🙂"),
]


def cjk(c):
    o = ord(c)
    return any(a <= o <= b for a, b in [(0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)])


def word_part(c):
    return unicodedata.category(c)[0] in "LNM"


def words(text):
    return "".join(f" {c} " if cjk(c) else c.lower() if word_part(c) else " " for c in text).split()


def answer_tokens(text):
    kept = "".join(c for c in text.lower() if c not in string.punctuation and unicodedata.category(c)[0] != "P")
    kept = re.sub(r"\b(a|an|the)\b", " ", kept)
    return "".join(f" {c} " if cjk(c) else c for c in kept).split()


def bleu_tokens(text):
    return "".join(" " if c.isspace() else f" {c} " if cjk(c) or not word_part(c) else c for c in text).split()


def f1(prediction, reference):
    p, r = answer_tokens(prediction), answer_tokens(reference)
    if not p or not r:
        return float(p == r)
    hits = sum((collections.Counter(p) & collections.Counter(r)).values())
    return 2 * hits / (len(p) + len(r)) if hits else 0.0


class Naive:
    def tokenize(self, text):
        return words(text)


def main():
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Naive())
    plain = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    rows = []
    for prediction, reference in PAIRS:
        scores = scorer.score(reference, prediction)
        if (prediction + reference).isascii():
            own = plain.score(reference, prediction)
            assert all(abs(own[k].fmeasure - scores[k].fmeasure) < 1e-12 for k in own), (prediction, reference)
        bleu = sentence_bleu([list(reference)], list(prediction), smoothing_function=SmoothingFunction().method3) if prediction else 0.0
        rows.append({"prediction": prediction, "reference": reference, "f1": f1(prediction, reference),
                     "rouge_1": scores["rouge1"].fmeasure, "rouge_2": scores["rouge2"].fmeasure, "rouge_l": scores["rougeL"].fmeasure,
                     "sentence_bleu_4": float(bleu)})
    join = lambda texts: [" ".join(bleu_tokens(t)) for t in texts]
    corpus = sacrebleu.corpus_bleu(join(p for p, _ in PAIRS), [join(r for _, r in PAIRS)], tokenize="none", smooth_method="none", force=True)
    out = {"pairs": rows, "corpus_bleu": corpus.score / 100}
    target = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/eval/metrics.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{target}: {len(rows)} pairs, corpus BLEU {corpus.score:.3f}")


if __name__ == "__main__":
    main()
