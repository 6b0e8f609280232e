# SPDX-License-Identifier: MIT
"""What the compiler says of each kernel, against tests/lint/kernel_resources.txt:

    python3 tests/lint/kernel_resources.py FOLDER          reads FOLDER/*.report (ptxas -v)
    python3 tests/lint/kernel_resources.py FOLDER --write  makes the table of them

No kernel may spill or have a stack, or take more registers on any architecture than
the table allows, or shared memory that its launch does not ask for. Fewer registers are
fine; another compiler's figures within the limits too.
"""

import glob
import os
import re
import subprocess
import sys

TABLE = "tests/lint/kernel_resources.txt"
HEADER = """\
# Registers of each kernel, the most of any architecture, and how many of its threads that
# lets a multiprocessor hold (65536 registers). Made by kernel_resources.py --write.
"""


def read_report(path):
    """(kernel, architecture, {figure: number}) of each kernel in a ptxas report."""
    entry, found = None, []
    for line in open(path, encoding="utf-8"):
        start = re.search(r"Compiling entry function '(\w+)' for '(sm_\w+)'", line)
        if start:
            entry = (start.group(1), start.group(2), {})
            found.append(entry)
        for figure, pattern in (("stack", r"(\d+) bytes stack frame"), ("spill", r"(\d+) bytes spill stores"),
                                ("registers", r"Used (\d+) registers"), ("shared", r"(\d+) bytes smem")):
            match = re.search(pattern, line)
            if match and entry:
                entry[2][figure] = int(match.group(1))
    return found


def demangle(names):
    """What c++filt makes of them, without the argument, which is a struct always."""
    lines = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return dict(zip(names, [re.sub(r"^void |\(tl_cuda_\w+\)$", "", line) for line in lines.splitlines()]))


def read_table():
    limits = {}
    for line in open(TABLE, encoding="utf-8"):
        if not line.startswith("#") and line.strip():
            name, registers = line.rsplit(None, 2)[:2]
            limits[name.strip()] = int(registers)
    return limits


def write_table(most):
    with open(TABLE, "w", encoding="utf-8") as file:
        file.write(HEADER)
        for name in sorted(most):
            threads = min(2048, 65536 // ((most[name] + 7) // 8 * 8) // 32 * 32)
            file.write(f"{name:40s} {most[name]:4d} {threads:6d}\n")


def main():
    folder, write = sys.argv[1], "--write" in sys.argv[2:]
    entries = [e for path in sorted(glob.glob(os.path.join(folder, "*.report"))) for e in read_report(path)]
    if not entries:
        sys.exit(f"{folder}: no reports: build the kernels first")
    names = demangle(sorted({e[0] for e in entries}))
    limits, wrong, most = {} if write else read_table(), [], {}
    for mangled, architecture, figures in entries:
        name = names[mangled]
        most[name] = max(most.get(name, 0), figures["registers"])
        for figure in ("stack", "spill", "shared"):
            if figures.get(figure, 0):
                wrong.append(f"{name}, {architecture}: {figures[figure]} bytes {figure}")
        if not write and figures["registers"] > limits.get(name, -1):
            known = f"the table allows {limits[name]}" if name in limits else "not in the table"
            wrong.append(f"{name}, {architecture}: {figures['registers']} registers, {known}")
    for name in sorted(set(limits) - set(most)):
        wrong.append(f"{name}: in the table, but not compiled")
    if write:
        write_table(most)
    for line in wrong:
        print(f"{TABLE}: {line}")
    print(f"kernel resources: {len(most)} kernels for {len({e[1] for e in entries})} architectures, {len(wrong)} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
