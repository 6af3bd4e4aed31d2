"""Writes src/text/unicode_components.inc: which characters some components of the tokenizers library take for
punctuation, numbers, marks and control characters. Its tables come from an older Unicode, so they are asked, not derived.
Run from the repository root: python tools/reference/component_tables.py"""
import pathlib

from tokenizers import normalizers, pre_tokenizers

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def bert(**on):
    options = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    return normalizers.BertNormalizer(**{**options, **on}).normalize_str


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def table(name, points):
    text, line = f"constexpr CodeRange {name}[] = {{", ""
    for a, b in ranges(points):
        part = f"{{0x{a:X}, 0x{b:X}}}, "
        if len(line) + len(part) > 108:
            text, line = text + "\n  " + line.rstrip(), ""
        line += part
    return text + "\n  " + line.rstrip(" ,") + "};\n"


strip, clean, accents, nfd = normalizers.StripAccents().normalize_str, bert(clean_text=True), bert(strip_accents=True), normalizers.NFD().normalize_str
split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
out = "// Written by tools/reference/component_tables.py; included by unicode.cpp only.\n// clang-format off\n"
out += table("kPunctuation", [c for c in POINTS if len(split(f"a{chr(c)}a")) == 3])
digits = pre_tokenizers.Digits(True).pre_tokenize_str
out += table("kNumeric", [c for c in POINTS if len(digits(f"a{chr(c)}a")) == 3])
out += table("kCombiningMarks", [c for c in POINTS if strip(chr(c)) == ""])
# Behind NFD only: what NFD rewrites does not come here.
out += table("kNonspacingMarks", [c for c in POINTS if nfd(chr(c)) == chr(c) and accents(chr(c)) == ""])
out += table("kBertControls", [c for c in POINTS if clean("a" + chr(c)) == "a" and c not in (0, 0xFFFD)])
pathlib.Path("src/text/unicode_components.inc").write_text(out + "// clang-format on\n")
