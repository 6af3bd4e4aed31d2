"""Writes tests/fixtures/tokenizers/: small tokenizers and what the reference libraries make of hard strings.

Needs the packages tokenizers and sentencepiece. Run from the repository root:
    python tools/reference/tokenizer_fixtures.py [path of a SentencePiece tokenizer.model to copy]
"""
import json
import pathlib
import random
import shutil
import sys

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "fixtures" / "tokenizers"
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 12345 o'clock, and they'll say: don't!",
    "Once upon a time there was a little robot who wanted to learn how to read and write.",
    "人工智能正在改变世界。大模型可以写代码、翻译文章和回答问题。今天天气很好,我们去公园玩吧!",
    "在中国的北方,冬天很冷,人们喜欢吃饺子。在南方,人们更喜欢吃汤圆。",
    "def main(argc, argv):\n    for i in range(10):\n        print(i, end='\\n')\n    return 0\n",
    "Füße, naïve café, Ångström, señor, Москва и Санкт-Петербург, שלום עולם, مرحبا بالعالم, こんにちは世界, 안녕하세요",
    "🙂🙃👩‍👩‍👧‍👦🏳️‍🌈 emoji and math ∑∏√∞ ≤ ≥ ½ ² Ⅳ 1,234,567.89 €100",
] * 3
random.seed(20)


def hard_strings():
    out = ["", " ", "  ", "\n", "\r\n", "\t", " \n ", "a", " a", "a ", "Hello, world!", "don't DON'T we'LL I'ſ", "1234567890 ١٢٣ ²³ ½ Ⅳ",
           "e\u0301 \u00e9 A\u030a \u212b \u1e9b\u0323 q\u0307\u0323", "\u1112\u1161\u11ab 한", "👩‍👩‍👧‍👦🏳️‍🌈", "\u0000\u0001\u007f\u0085\u00a0\u180e\u200b\u2028\u3000x",
           "\U00031350\U0002ebf0 \u1c89\ua7cb", "مرحبا بالعالم 123", "人工智能,2024年", "   leading", "trailing   ", "a\n\n\nb\r\n\r\nc", "\ufffd\ufeff", "x" * 200, "ab" * 100,
           "人" * 90, " " * 100, "<|start|>hi<|end|>", "<|start|> <|end|>\n", "<|sta<|start|>rt|>", "<tool>x</tool>", "< tool>", "word aword worda word.",
           "left   left  x", "strip   \n x", "strip\u3000y", " both  both ", "CAFÉ CAFE\u0301 café", "a▁b ▁▁", "<s>x</s>", "<unk>", "<0x41>", "\\n \\\\ \"q\""]
    pools = ["abc XYZ  '.,!?", "0123456789 ", "人工智能大模型你好,。", " \t\n\r\u00a0\u3000", "éàüñçøÅ\u0301\u0308\u0323", "приветмир ", "سلام ", "🙂👩‍🚀🏽\ufe0f", "{}[]()<>|/\\\"'`~@#$%^&*_+-=", "가각힣ᄒ\u1161\u11ab"]
    words = ["<|start|>", "<|end|>", "<tool>", "word", "left", "strip", "both", "café", "'ll", "'S", "  ", "\n\n", "the", " the"]
    while len(out) < 330:
        text = ""
        for _ in range(random.randrange(1, 14)):
            text += random.choice(words) if random.random() < 0.25 else random.choice(random.choice(pools)) * random.choice([1, 1, 1, 2, 5])
        out.append(text)
    return out


def byte_level(vocab_size=700):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=2, show_progress=False, special_tokens=["<|start|>", "<|end|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern) if len(pattern) > 1 else pattern, behavior, invert)


def raw(add_prefix_space=False, use_regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def variants():
    """name → change of the small GPT-2 style tokenizer"""
    def flags(t):
        t.normalizer = normalizers.NFC()
        t.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("word", single_word=True, normalized=False),
                      AddedToken("left", lstrip=True, normalized=False), AddedToken("strip", rstrip=True, normalized=False),
                      AddedToken("both", lstrip=True, rstrip=True, normalized=True), AddedToken("caf\u00e9", normalized=True)])
        t.post_processor = processors.TemplateProcessing(single="<|start|> $A <|end|>", special_tokens=[("<|start|>", 0), ("<|end|>", 1)])

    def pre(*steps):
        def change(t):
            t.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
        return change

    def ignore(t):
        t.pre_tokenizer = pre_tokenizers.Sequence([split(LLAMA3), raw()])
        model = json.loads(t.to_str())
        model["model"]["ignore_merges"] = True
        model["model"]["merges"] = model["model"]["merges"][::2]
        return Tokenizer.from_str(json.dumps(model))

    def unknown(t):
        model = json.loads(t.to_str())
        for gone in ("x", "Q", "å", "Ġ"):
            if gone in model["model"]["vocab"] and not any(gone in pair for pair in model["model"]["merges"]):
                del model["model"]["vocab"][gone]
        model["model"]["unk_token"] = "<|end|>"
        model["model"]["fuse_unk"] = True
        return Tokenizer.from_str(json.dumps(model))

    def forms(form):
        def change(t):
            t.normalizer = normalizers.Sequence([form, normalizers.Replace("x", "yy"), normalizers.Replace(Regex("0+"), "0")])
        return change

    def trimmed(t):
        t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])

    return {
        "flags": flags, "qwen": pre(split(QWEN), raw()), "gpt4o": pre(split(GPT4O), raw()),
        "deepseek": pre(*[split(p) for p in DEEPSEEK], raw()), "ignore_merges": ignore, "unknown": unknown,
        "prefix_space": pre(raw(True, True)), "falcon": pre(pre_tokenizers.Punctuation("contiguous"), raw(False, True), pre_tokenizers.Digits(False), split("[0-9][0-9][0-9]")),
        "starcoder": pre(pre_tokenizers.Digits(True), raw(False, True)), "words_prefixed": pre(pre_tokenizers.Whitespace(), raw(True)),
        "merged_next": pre(split("[\\s]", "merged_with_next"), pre_tokenizers.WhitespaceSplit(), raw()), "merged_previous": pre(split(" ", "merged_with_previous"), raw()),
        "contiguous": pre(split("[aeiou]", "contiguous"), split("\\w+", "removed", True), raw()), "nfkd": forms(normalizers.NFKD()), "nfd": forms(normalizers.NFD()), "trimmed": trimmed,
    }


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    strings = hard_strings()
    (OUT / "strings.json").write_text(json.dumps(strings, ensure_ascii=True, indent=0))
    base = json.loads(byte_level().to_str())
    (OUT / "base.json").write_text(json.dumps(base, ensure_ascii=False, separators=(",", ":")))
    changes, expected = {}, {}
    for name, change in {"base": lambda t: None, **variants()}.items():
        tokenizer = Tokenizer.from_str(json.dumps(base))
        tokenizer = change(tokenizer) or tokenizer
        full = json.loads(tokenizer.to_str())
        # Only what differs from base.json is kept: top-level members and members of "model".
        changes[name] = {k: v for k, v in full.items() if k != "model" and v != base[k]}
        changes[name]["model"] = {k: v for k, v in full["model"].items() if v != base["model"][k]}
        encoded = [tokenizer.encode(s, add_special_tokens=False).ids for s in strings]
        expected[name] = {"ids": encoded, "special": tokenizer.encode("Hello").ids,
                          "decoded": [tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded] if name == "flags" else []}
    (OUT / "variants.json").write_text(json.dumps(changes, ensure_ascii=False, separators=(",", ":")))
    if len(sys.argv) > 1:
        (OUT / "sentencepiece").mkdir(exist_ok=True)
        shutil.copyfile(sys.argv[1], OUT / "sentencepiece" / "tokenizer.model")
    model = sentencepiece.SentencePieceProcessor(model_file=str(OUT / "sentencepiece" / "tokenizer.model"))
    pieces = [model.encode(s) for s in strings]
    expected["sentencepiece"] = {"ids": pieces, "decoded": [model.decode(ids) for ids in pieces]}
    (OUT / "expected.json").write_text(json.dumps(expected, separators=(",", ":")))
    (OUT / "corpus.txt").write_text("\n".join(CORPUS))
    trained = {}
    for name, pattern in (("gpt2", None), ("qwen2", QWEN)):
        tokenizer = byte_level()
        if pattern:
            tokenizer.normalizer = normalizers.NFC()
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split(pattern), raw()])
        trainer = trainers.BpeTrainer(vocab_size=600, min_frequency=2, show_progress=False, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        tokenizer.train_from_iterator(["\n".join(CORPUS)], trainer)
        trained[name] = json.loads(tokenizer.to_str())["model"]["merges"]
    (OUT / "trained.json").write_text(json.dumps(trained, ensure_ascii=False, separators=(",", ":")))


main()
