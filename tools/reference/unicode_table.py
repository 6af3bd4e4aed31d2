"""Writes src/text/unicode_table.inc: what the Hugging Face tokenizers library (Oniguruma, Unicode 16) knows
about characters and PCRE2 10.42 (Unicode 14) does not. Run: python tools/reference/unicode_table.py"""
import ctypes
import pathlib
import subprocess
import tempfile
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split()
PROBE = r"""
#define PCRE2_CODE_UNIT_WIDTH 32
#include <pcre2.h>
#include <stdio.h>
#include <string.h>
int main(int n, char** names) {
  for (int k = 1; k < n; ++k) {
    uint32_t pattern[64]; char text[64]; sprintf(text, "^%s", names[k]);
    size_t length = strlen(text); for (size_t i = 0; i < length; ++i) pattern[i] = text[i];
    int error; PCRE2_SIZE at;
    pcre2_code* code = pcre2_compile(pattern, length, PCRE2_UTF | PCRE2_UCP, &error, &at, 0);
    pcre2_match_data* match = pcre2_match_data_create(4, 0);
    for (uint32_t c = 0; c < 0x110000; ++c)
      if ((c < 0xD800 || c > 0xDFFF) && pcre2_match(code, &c, 1, 0, PCRE2_NO_UTF_CHECK, match, 0) > 0)
        printf("%s %u\n", names[k], c);
  }
}
"""


def onig(pattern):
    splitter = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    found = set()
    for i in range(0, len(points), 20000):
        for piece, _ in splitter.pre_tokenize_str("".join(map(chr, points[i:i + 20000]))):
            found.update(map(ord, piece))
    return found


def pcre(patterns):
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "probe.c")
        source.write_text(PROBE)
        program = str(source.with_suffix(""))
        subprocess.run(["gcc", "-O1", str(source), "-lpcre2-32", "-o", program], check=True)
        found = {p: set() for p in patterns}
        for line in subprocess.run([program, *patterns], capture_output=True, text=True, check=True).stdout.splitlines():
            pattern, point = line.split()
            found[pattern].add(int(point))
        return found


def utf8proc_nfkd(text):
    library = ctypes.CDLL("libutf8proc.so.2")
    library.utf8proc_NFKD.restype = ctypes.c_char_p
    return (library.utf8proc_NFKD(text.encode()) or b"").decode()


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


theirs = pcre([r"\p{%s}" % c for c in CATEGORIES] + [r"\p{sc:Han}"])
lines, word = [], set()
for category in CATEGORIES:
    known = onig(r"\p{%s}" % category)
    lost = theirs[r"\p{%s}" % category] - known - onig(r"\p{%s}" % category[0])
    assert not lost, (category, [hex(c) for c in lost][:5])  # only moves inside a major category are tolerable
    lines += [(a, b, category) for a, b in ranges(known - theirs[r"\p{%s}" % category])]
    if category[0] in "LM" or category in ("Nd", "Nl", "Pc"):
        word |= known
onig_word = onig(r"\w")
assert not word - onig_word, [hex(c) for c in word - onig_word][:9]
han = onig(r"\p{Han}")
assert not theirs[r"\p{sc:Han}"] - han
# The library's normaliser knows an older Unicode: marks it takes for letters stay where they are.
nfd = normalizers.NFD().normalize_str
late = [c for c in range(0x300, 0x110000) if unicodedata.combining(chr(c)) and not 0xD800 <= c < 0xE000]
late = [c for c in late if unicodedata.decomposition(chr(c)) == ""
        and not (nfd("a" + chr(c) + "\u0334").endswith(chr(c)) and unicodedata.combining(chr(c)) > 1
                 or nfd("a\u0345" + chr(c)).endswith("\u0345") and unicodedata.combining(chr(c)) < 240)]
late = [c for c in late if unicodedata.combining(chr(c)) < 240]
target = pathlib.Path(__file__).resolve().parents[2] / "src" / "text" / "unicode_table.inc"
with open(target, "w") as out:
    out.write("// Written by tools/reference/unicode_table.py; included by unicode.cpp only.\n// clang-format off\n")
    out.write("constexpr NewCharacters kNewCharacters[] = {  // sorted; assigned after Unicode 14\n")
    out.writelines(f'  {{0x{a:X}, 0x{b:X}, "{c}"}},\n' for a, b, c in sorted(lines))
    out.write("};\nconstexpr CodeRange kFurtherWord[] = {  // \\w besides L, M, Nd, Nl, Pc\n")
    out.writelines(f"  {{0x{a:X}, 0x{b:X}}},\n" for a, b in ranges(onig_word - word))
    out.write("};\nconstexpr CodeRange kNewHan[] = {\n")
    out.writelines(f"  {{0x{a:X}, 0x{b:X}}},\n" for a, b in ranges(han - theirs[r"\p{sc:Han}"]))
    out.write("};\nconstexpr CodeRange kLateMarks[] = {  // combine, but not for the library's normaliser\n")
    out.writelines(f"  {{0x{a:X}, 0x{b:X}}},\n" for a, b in ranges(late))
    out.write("};\n")
    nfkd = normalizers.NFKD().normalize_str
    out.write("constexpr CodeRange kLateDecompositions[] = {  // the library's normaliser leaves them as they are\n")
    lost = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and nfkd(chr(c)) == chr(c) and {unicodedata.normalize("NFKD", chr(c)), utf8proc_nfkd(chr(c))} != {chr(c)}]
    out.writelines(f"  {{0x{a:X}, 0x{b:X}}},\n" for a, b in ranges(lost))
    out.write("};\n")
