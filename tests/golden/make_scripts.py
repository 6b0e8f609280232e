#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes src/text/unicode_script.c: which characters the `tokenizers` library's UnicodeScripts keeps together. It is
asked, as make_classes.py asks it: a string of all characters falls into runs, and two runs are of one script if a
character of each stays together.

    venv/bin/python make_scripts.py
"""
import os

from make_classes import row
from tokenizers import pre_tokenizers

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/text/unicode_script.c")
SPLIT = pre_tokenizers.UnicodeScripts().pre_tokenize_str


def main():
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and SPLIT(chr(c))]
    pieces = [piece for piece, _ in SPLIT("".join(map(chr, points)))]
    known, ranges = [], []  # a character of each script; [first, last, number]
    for piece in pieces:
        number = next((i for i, other in enumerate(known) if len(SPLIT(other + piece[0])) == 1), len(known))
        if number == len(known):
            known.append(piece[0])
        for c in map(ord, piece):
            if ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == number + 1:
                ranges[-1][1] = c
            else:
                ranges.append([c, c, number + 1])
    print(len(known), "scripts", len(ranges), "ranges")
    text = ("/* SPDX-License-Identifier: MIT */\n/* Made by tests/golden/make_scripts.py; do not edit. */\n#include \"text/unicode_script.h\"\n\n"
            "#include \"text/unicode_search.h\"\n\nstatic const struct {\n  uint32_t first : 24, script : 8, last;\n} ranges[] = {\n")
    text += row((f"{{{a:#x}, {s}, {b:#x}}}" for a, b, s in ranges), 130)
    text += """
};

unsigned unicode_script(uint32_t code) {
  size_t n = sizeof ranges / sizeof *ranges, i = unicode_search(&ranges->last, sizeof *ranges / sizeof(uint32_t), n, code);
  return i < n && ranges[i].first <= code ? ranges[i].script : 0;
}
"""
    with open(OUT, "w") as f:
        f.write(text)


if __name__ == "__main__":
    main()
