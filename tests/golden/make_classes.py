#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes src/text/unicode_class.c: the character classes as the `tokenizers` library has them, asked of it
for every code point (its parts follow different versions of Unicode, so no one table would agree).

    venv/bin/python make_classes.py
"""
import os
import unicodedata

from tokenizers import normalizers, pre_tokenizers

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/text/unicode_class.c")


def removed(normalizer):
    return [c for c in POINTS if normalizer.normalize_str("a" + chr(c) + "a") == "aa"]


def pieces(pre_tokenizer, n):
    return [c for c in POINTS if len(pre_tokenizer.pre_tokenize_str("a" + chr(c) + "a")) == n]


def ranges(points):
    out = []
    for c in points:
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def bert(**keys):
    return normalizers.BertNormalizer(**{"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False, **keys})


def moved(form):
    """Marks whose combining class the library knows: they change places with U+0315 (232), U+0334 (1) or U+0301 (230)."""
    return [c for c in POINTS if unicodedata.normalize("NFD", chr(c)) == chr(c) and
            any(form.normalize_str("a" + x + y) != "a" + x + y for x, y in ((chr(c), "\u0334"), ("\u0315", chr(c)), ("\u0345", chr(c)), (chr(c), "\u0301")))]


CLASSES = [
    ("word", "Letters, marks, digits, connectors: what a single_word token may not touch, what Whitespace keeps together.",
     lambda: pieces(pre_tokenizers.Whitespace(), 1)),
    ("punctuation", "Punctuation and BertPreTokenizer.", lambda: pieces(pre_tokenizers.Punctuation(), 3)),
    ("numeric", "Digits.", lambda: pieces(pre_tokenizers.Digits(individual_digits=True), 3)),
    ("mark", "StripAccents.", lambda: removed(normalizers.StripAccents())),
    ("nonspacing", "BertNormalizer with strip_accents.", lambda: removed(bert(strip_accents=True))),
    ("control", "BertNormalizer with clean_text.", lambda: removed(bert(clean_text=True))),
    ("ordered", "Marks that canonical ordering moves.", lambda: moved(normalizers.NFD())),
    ("compatible", "Characters that NFKD changes.", lambda: [c for c in POINTS if normalizers.NFKD().normalize_str(chr(c)) != chr(c)]),
    ("canonical", "Characters that NFD changes, Hangul syllables left out.",
     lambda: [c for c in POINTS if not 0xAC00 <= c <= 0xD7A3 and normalizers.NFD().normalize_str(chr(c)) != chr(c)]),
]


def lower():
    """Ranges [first, last] whose lower case is the character + delta; every other one from `first`."""
    one = normalizers.Lowercase()
    out = []
    for c in POINTS:
        low = one.normalize_str(chr(c))
        if low == chr(c) or len(low) != 1:
            continue
        delta = ord(low) - c
        last = out[-1] if out else None
        if last and last[2] == delta and c - last[1] in (1, 2) and (last[3] in (0, c - last[1])):
            last[1], last[3] = c, c - last[1]
        else:
            out.append([c, c, delta, 0])
    return out


def row(values, width):
    lines, line = [], " "
    for v in values:
        if len(line) + len(v) + 2 > width:
            lines.append(line)
            line = " "
        line += " " + v + ","
    return "\n".join(lines + [line])


def main():
    text = ("/* SPDX-License-Identifier: MIT */\n/* Made by tests/golden/make_classes.py; do not edit. */\n#include \"text/unicode_class.h\"\n\n"
            "#include \"text/unicode_search.h\"\n\nstruct range {\n  uint32_t first, last;\n};\n\nstruct lower {\n  uint32_t first, last;\n  int32_t delta;\n"
            "  uint32_t step;\n};\n")
    for name, _, find in CLASSES:
        found = ranges(find())
        print(name, len(found))
        text += f"\nstatic const struct range {name}[] = {{\n" + row((f"{{{a:#x}, {b:#x}}}" for a, b in found), 130) + "\n};\n"
    low = lower()
    print("lower", len(low))
    text += "\nstatic const struct lower lower[] = {\n" + row((f"{{{a:#x}, {b:#x}, {d}, {s or 1}}}" for a, b, d, s in low), 130) + "\n};\n"
    text += """
static bool within(const struct range *ranges, size_t n, uint32_t code) {
  size_t i = unicode_search(&ranges->last, sizeof *ranges / sizeof(uint32_t), n, code);
  return i < n && ranges[i].first <= code;
}
"""
    for name, why, _ in CLASSES:
        text += f"\nbool unicode_is_{name}(uint32_t code) {{\n  return within({name}, sizeof {name} / sizeof *{name}, code);\n}}\n"
    text += """
uint32_t unicode_lower(uint32_t code) {
  size_t n = sizeof lower / sizeof *lower, i = unicode_search(&lower->last, sizeof *lower / sizeof(uint32_t), n, code);
  if (i == n || lower[i].first > code) return code;
  return (code - lower[i].first) % lower[i].step ? code : code + (uint32_t)lower[i].delta;
}
"""
    with open(OUT, "w") as f:
        f.write(text)
    head = ("/* SPDX-License-Identifier: MIT */\n/* Character classes as the `tokenizers` library has them (see tests/golden/make_classes.py). */\n"
            "#ifndef TEXT_UNICODE_CLASS_H\n#define TEXT_UNICODE_CLASS_H\n\n#include <stdbool.h>\n#include <stdint.h>\n\n")
    head += "".join(f"/* {why} */\nbool unicode_is_{name}(uint32_t code);\n" for name, why, _ in CLASSES)
    head += "/* The lower case, where it is one character; U+0130's is two. */\nuint32_t unicode_lower(uint32_t code);\n\n#endif\n"
    with open(OUT[:-1] + "h", "w") as f:
        f.write(head)


if __name__ == "__main__":
    main()
