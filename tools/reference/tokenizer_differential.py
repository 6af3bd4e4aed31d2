"""Compares `attune tokenize` with the packages tokenizers and sentencepiece on random and adversarial strings.

usage: tokenizer_differential.py ATTUNE CORPUS_FILE… [--count 100000] [--only NAME,…] [--keep DIR] [--seed N]

Small tokenizers of every shape are trained on the corpus files; each gets the same strings. Prints one line a
tokenizer; exit 1 where an id or a decoded text differs. --keep DIR leaves the trained tokenizers there.
"""
import argparse
import base64
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

MARK = "▁"


def strings(rng, count, corpus, specials):
    """Every code point once, then mixtures of hard parts."""
    out = ["", " ", "  ", "\n", "a", " a", "a ", MARK, MARK * 3, "a" + MARK + "b", "\u0000", "\ufffd", "\ufeffx", "<0x41>", "<0xE4><0xBD><0xA0>", "x" * 500, "ab" * 300, "人" * 400, " " * 300, "e\u0301" * 200, "\u0301" * 300]
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and not 0xF0010 <= c < 0xFFFF0 and not 0x100010 <= c < 0x10FFF0 and not 0xE1000 <= c < 0xF0000 and not 0x40000 <= c < 0xE0000]
    out += ["a ".join(map(chr, points[i:i + 8])) for i in range(0, len(points), 8)]
    pools = ["abcdefghij XYZ '.,!?", "0123456789 ½²Ⅳ①", "人工智能大模型你好,。!病症药", " \t\n\r\u00a0\u3000\u2028\u200b\u180e\u0085", "éàüñçøÅ\u0301\u0308\u0323\u0345\u1dce", "приветмир ", "سلام عليكم ", "שלום", "🙂👩‍🚀🏽\ufe0f🏳🌈\u200d🇩🇪",
             "{}[]()<>|/\\\"'`~@#$%^&*_+-=", "가각힣ᄒ\u1161\u11ab", MARK + " ab", "ﬁﬂ①㍿ｶﾞＡ１½ªº…㎏ﷺ", "नमस्ते", "ไทยภาษา", "\u0000\u0001\u007f\ufeff\ufffd\ufffe", "ßẞİıſΣς", "𝔸𝕓𝒸𐍈🈁𠀀𪚥"]
    words = ["the", " the", "  ", "\n\n", "don't", "<0x0A>", "##a", "\r\n", MARK + "the", "。", "患者", *specials]
    while len(out) < count:
        kind = rng.random()
        if kind < 0.25:
            at = rng.randrange(len(corpus))
            text = corpus[at:at + rng.randrange(1, 200)]
        elif kind < 0.35:
            text = "".join(chr(rng.choice(points)) for _ in range(rng.randrange(1, 12)))
        else:
            text = ""
            for _ in range(rng.randrange(1, 16)):
                text += rng.choice(words) if rng.random() < 0.25 else rng.choice(rng.choice(pools)) * rng.choice([1, 1, 1, 2, 5])
        out.append(text)
    return out


# --- trained models

RULES = """FB01\t66 69
FF21\t41
0D 0A\t20
09\t20
0A\t20
0D\t20
3000\t20
A0\t20
AD\t
65 301\tE9
2460\t31
FDFA\t635 644 649 20 627 644 644 647
"""


def train_sentencepiece(folder, name, corpus_file, small, **options):
    prefix = str(folder / name)
    if small:  # a few rules: the precompiled ones of NFKC have 300 kB
        rules = folder / "rules.tsv"
        rules.write_text(RULES)
        options["vocab_size"] = small
        if options["normalization_rule_name"] != "identity":
            options["normalization_rule_tsv"] = str(rules)
            del options["normalization_rule_name"]
    base = dict(input=corpus_file, model_prefix=prefix, vocab_size=2000, hard_vocab_limit=False, character_coverage=0.98, num_threads=2, minloglevel=2, max_sentence_length=20000, input_sentence_size=20000)
    sentencepiece.SentencePieceTrainer.train(**{**base, **options})
    model = proto.ModelProto()
    model.ParseFromString(pathlib.Path(prefix + ".model").read_bytes())
    return model


def unigram_json(model, normalizer=None, pre=None, decoder=None, fallback=None, post=None):
    vocab = [(p.piece, p.score) for p in model.pieces]
    unk = next(i for i, p in enumerate(model.pieces) if p.type == 2)
    tokenizer = Tokenizer(models.Unigram(vocab, unk, model.trainer_spec.byte_fallback if fallback is None else fallback))
    charsmap = model.normalizer_spec.precompiled_charsmap
    tokenizer.normalizer = normalizer or normalizers.Sequence([normalizers.Precompiled(charsmap), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre or pre_tokenizers.Metaspace()
    tokenizer.decoder = decoder or decoders.Metaspace()
    tokenizer.add_special_tokens([p.piece for p in model.pieces if p.type == 3])
    if post:
        tokenizer.post_processor = post
    return tokenizer


def bpe_of(model):
    """Vocabulary and merges of a SentencePiece BPE model, as transformers converts it."""
    vocab = {p.piece: i for i, p in enumerate(model.pieces)}
    merges = []
    for piece, score in ((p.piece, p.score) for p in model.pieces):
        local = [(piece[:i], piece[i:], vocab[piece]) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        merges += sorted(local, key=lambda m: (vocab[m[0]], vocab[m[1]]))
    merges.sort(key=lambda m: m[2])
    return vocab, [(a, b) for a, b, _ in merges]


def bpe_json(vocab, merges, normalizer=None, pre=None, decoder=None, **options):
    tokenizer = Tokenizer(models.BPE(vocab, merges, **{"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, **options}))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoder or decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([t for t in ("<s>", "</s>", "<unk>") if t in vocab])
    return tokenizer


def kinds(folder, corpus_file, small=0):
    """name → tokenizer. `small`: the vocabulary of those for fixtures."""
    size = small or 3000
    n, p, d = normalizers, pre_tokenizers, decoders
    plain = train_sentencepiece(folder, "bpe_identity", corpus_file, small, model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, user_defined_symbols=["<tool>", "    "])
    nfkc = train_sentencepiece(folder, "bpe_nfkc", corpus_file, small, model_type="bpe", byte_fallback=False, normalization_rule_name="nmt_nfkc")
    uni = train_sentencepiece(folder, "uni_nmt_nfkc", corpus_file, small, model_type="unigram", normalization_rule_name="nmt_nfkc")
    cf = train_sentencepiece(folder, "uni_nfkc_cf", corpus_file, small, model_type="unigram", normalization_rule_name="nfkc_cf", user_defined_symbols=["<tool>", "ﬁx", "ab"])
    back = train_sentencepiece(folder, "uni_fallback", corpus_file, small, model_type="unigram", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False)
    vocab, merges = bpe_of(plain)
    llama = n.Sequence([n.Prepend(MARK), n.Replace(" ", MARK)])
    out = {}
    out["llama2"] = bpe_json(vocab, merges, llama)
    gemma = bpe_json(vocab, merges, n.Replace(" ", MARK), p.Split(" ", "merged_with_previous"), d.Sequence([d.Replace(MARK, " "), d.ByteFallback(), d.Fuse()]))
    gemma.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("\n\n", normalized=False)])
    out["gemma"] = gemma
    out["metaspace_first"] = bpe_json(vocab, merges, None, p.Metaspace(MARK, "first", False))
    out["metaspace_always_split"] = bpe_json(vocab, merges, None, p.Metaspace(MARK, "always", True), d.Metaspace(MARK, "always"))
    out["metaspace_never"] = bpe_json(vocab, merges, None, p.Metaspace(MARK, "never", True), d.Metaspace(MARK, "never"))
    phi = bpe_json(vocab, merges, llama)
    phi.add_tokens([AddedToken("<|user|>", rstrip=True, normalized=False, special=True), AddedToken("</s>", rstrip=True, normalized=False, special=True), AddedToken("患者", normalized=True), AddedToken("the", single_word=True, normalized=False)])
    phi.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    out["phi3"] = phi
    no_bytes = {k: i for i, k in enumerate(k for k in vocab if not (k.startswith("<0x") and k.endswith(">")))}
    out["no_fallback_fuse"] = bpe_json(no_bytes, merges, llama, byte_fallback=False, fuse_unk=True)
    out["no_fallback_each"] = bpe_json(no_bytes, merges, llama, p.Sequence([p.Digits(True), p.Punctuation("isolated")]), byte_fallback=False, fuse_unk=False)
    some = {k: i for i, k in enumerate(k for k in vocab if k not in ("<0xE4>", "<0xF0>", "<0x01>"))}
    out["some_bytes"] = bpe_json(some, merges, llama, fuse_unk=False)
    out["no_unk"] = bpe_json(no_bytes, merges, None, p.Whitespace(), d.Fuse(), byte_fallback=False, unk_token=None, fuse_unk=False)
    out["ignore_merges"] = bpe_json(vocab, merges[::2], None, p.Metaspace(), ignore_merges=True)
    words = Tokenizer(models.BPE(unk_token="[UNK]", continuing_subword_prefix="@@", end_of_word_suffix="</w>"))
    words.normalizer = n.Sequence([n.NFKD(), n.StripAccents(), n.Lowercase(), n.Strip()])
    words.pre_tokenizer = p.Sequence([p.WhitespaceSplit(), p.Punctuation("merged_with_previous"), p.Digits(False)])
    words.train([corpus_file], trainers.BpeTrainer(vocab_size=size, special_tokens=["[UNK]"], continuing_subword_prefix="@@", end_of_word_suffix="</w>", show_progress=False, limit_alphabet=500))
    out["subword_affixes"] = words
    out["unigram_nmt_nfkc"] = unigram_json(uni)
    out["unigram_t5"] = unigram_json(uni, pre=p.Sequence([p.WhitespaceSplit(), p.Metaspace()]), post=processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)]))
    out["unigram_strip"] = unigram_json(uni, n.Sequence([n.Precompiled(uni.normalizer_spec.precompiled_charsmap), n.Strip(False, True), n.Replace(Regex(" {2,}"), MARK)]), p.Metaspace(MARK, "first", True))
    out["unigram_nfkc_cf"] = unigram_json(cf, n.Sequence([n.Precompiled(cf.normalizer_spec.precompiled_charsmap)]))
    out["unigram_fallback"] = unigram_json(back, n.Sequence([n.Prepend(MARK), n.Replace(" ", MARK)]), p.Split(MARK, "merged_with_next"), d.Sequence([d.Replace(MARK, " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)]))
    out["unigram_unsplit"] = unigram_json(back, n.NFKC(), p.Metaspace(MARK, "always", False))
    for name, lower, accents, chinese in (("bert_lower", True, None, True), ("bert_cased", False, None, True), ("bert_accents", False, True, False)):
        t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        t.normalizer = n.BertNormalizer(True, chinese, accents, lower)
        t.pre_tokenizer = p.BertPreTokenizer()
        t.decoder = d.WordPiece("##", lower)
        t.train([corpus_file], trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False, limit_alphabet=1500))
        t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        out[name] = t
    roberta = Tokenizer(models.WordPiece(t.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=7))
    roberta.add_special_tokens(["[CLS]", "[SEP]"])
    roberta.normalizer = n.Sequence([n.NFD(), n.StripAccents(), n.Replace("x", "yy")])
    roberta.pre_tokenizer = p.Sequence([p.Whitespace(), p.Split(Regex("[aeiou]"), "contiguous")])
    roberta.post_processor = processors.Sequence([processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2), trim_offsets=False, add_prefix_space=False)])
    out["word_piece_short"] = roberta
    out["no_decoder"] = bpe_json(vocab, merges, n.Sequence([n.NFD(), n.Replace(Regex("\\s+"), MARK)]))
    out["no_decoder"].decoder = None
    for name in ("bpe_identity", "bpe_nfkc", "uni_nmt_nfkc", "uni_nfkc_cf", "uni_fallback"):
        out["spm_" + name] = sentencepiece.SentencePieceProcessor(model_file=str(folder / (name + ".model")))
    return out


# --- comparison

def attune(program, directory, lines, *options):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))
        file.flush()
        run = subprocess.run([program, "tokenize", "--model", str(directory), "--file", file.name, "--jsonl", *options], capture_output=True, text=True, encoding="utf-8")
    if run.returncode:
        sys.exit(f"{directory}: {run.stderr}")
    return run.stdout.split("\n")[:-1]


def compare(program, name, tokenizer, directory, texts, rng):
    is_spm = isinstance(tokenizer, sentencepiece.SentencePieceProcessor)
    if is_spm:
        texts = [t for t in texts if not any(s in t for s in ("<s>", "</s>", "<unk>"))]
        want = tokenizer.encode(texts)
    else:
        tokenizer.save(str(directory / "tokenizer.json"))
        encoded = tokenizer.encode_batch(texts)
        want = [e.ids for e in encoded]
    got = [json.loads(line) for line in attune(program, directory, map(json.dumps, texts), *([] if is_spm else ["--add-special"]))]
    bad = [(t, w, g) for t, w, g in zip(texts, want, got, strict=True) if w != g]
    # Decoding: the ids of the texts, and random ids.
    size = tokenizer.get_piece_size() if is_spm else tokenizer.get_vocab_size()
    # Version 0.23 of the library shows an added token that is looked for in the normalised text in its normalised
    # form ("▁word"); that is not followed here.
    odd = set() if is_spm else {i for i, t in tokenizer.get_added_tokens_decoder().items() if t.normalized and tokenizer.id_to_token(i) != t.content}
    known = [i for i in range(size) if i not in odd and not (is_spm and (tokenizer.is_control(i) or tokenizer.is_unknown(i)))]
    ids = [row for row in want[::3] if odd.isdisjoint(row)] + [[rng.choice(known) for _ in range(rng.randrange(0, 12))] for _ in range(len(texts) // 5)]
    if is_spm:
        ids = [[i for i in row if not tokenizer.is_unknown(i)] for row in ids]
    back = [json.loads(line) for line in attune(program, directory, map(json.dumps, ids), "--decode")]
    text = tokenizer.decode(ids) if is_spm else tokenizer.decode_batch(ids, skip_special_tokens=False)
    wrong = [(i, w, g) for i, w, g in zip(ids, text, back, strict=True) if w != g]
    print(f"{name}: {len(texts)} strings, {len(bad)} differ; {len(ids)} decoded, {len(wrong)} differ", flush=True)
    for row in (bad[:3] + wrong[:3]):
        print("   ", *map(ascii, row), sep="\n      ")
    return not bad and not wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("attune")
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("--count", type=int, default=100000)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        corpus = "\n".join(pathlib.Path(f).read_text(encoding="utf-8")[:1_500_000] for f in args.corpus)
        corpus_file = folder / "corpus.txt"
        corpus_file.write_text(corpus, encoding="utf-8")
        texts = strings(rng, args.count, corpus, ["<tool>", "<|user|>", "[CLS]", "[UNK]", "<s>", "</s>", "ﬁx"])
        good = True
        for name, tokenizer in kinds(folder, str(corpus_file)).items():
            if args.only and name not in args.only.split(","):
                continue
            directory = folder / ("dir_" + name)
            directory.mkdir(exist_ok=True)
            if name.startswith("spm_"):
                (directory / "tokenizer.model").write_bytes((folder / (name[4:] + ".model")).read_bytes())
            good &= compare(args.attune, name, tokenizer, directory, texts, rng)
        sys.exit(not good)


if __name__ == "__main__":
    main()
