# SPDX-License-Identifier: MIT
"""compile_commands.json for clangd and clang-tidy:

    python3 tests/lint/compile_commands.py 'FLAGS' FILE.c... >compile_commands.json

FLAGS as a shell would read them. Files that the Makefile compiles for another
instruction set (its `%_avx2.o: CFLAGS +=` rules) get those flags as well.
"""

import json
import os
import re
import shlex
import sys


def rules_of_makefile():
    """(pattern of the source, flags) of each pattern rule that only adds to CFLAGS."""
    text = open("Makefile", encoding="utf-8").read()
    for pattern, flags in re.findall(r"^\$\(B\)/obj/(\S*%\S*)\.o: CFLAGS \+= (.*)$", text, re.M):
        yield re.compile(".*".join(map(re.escape, f"src/{pattern}.c".split("%"))) + "$"), shlex.split(flags)


def main():
    flags, sources = shlex.split(sys.argv[1]), sys.argv[2:]
    rules = list(rules_of_makefile())
    commands = []
    for source in sources:
        extra = [flag for pattern, more in rules if pattern.match(source) for flag in more]
        commands.append({
            "directory": os.getcwd(),
            "file": source,
            "arguments": ["cc", *flags, *extra, "-c", source],
        })
    json.dump(commands, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
