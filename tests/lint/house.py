# SPDX-License-Identifier: MIT
"""The house rules that a compiler does not check. From the repository's root:

    python3 tests/lint/house.py BUILD_DIR

prints each violation as "file:line: rule" and exits with 1 if there is one. The
rooms and what each may use come from the Makefile's LINK_ table, which is itself
checked against the floors below.
"""

import os
import re
import subprocess
import sys

# A room may use rooms on lower floors only.
FLOORS = {
    "base": 0, "config": 1, "log": 1, "metrics": 1, "trace": 1, "model": 2, "text": 3, "grammar": 3, "schedule": 4, "device": 4,
    "engine": 5, "http": 6, "route": 6, "api": 7, "daemon": 8,
}
# Public headers whose name is not their room's.
HEADER_ROOM = {"step": "model", "tensor": "model", "slice": "model", "adapter": "model", "sim": "device", "text_lane": "text"}

TOP_LEVEL = {"src", "include", "config", "tests", "bench", "systemd", "Makefile", "README.md", "LICENSE",
             "ARCHITECTURE.md"}
IGNORED_TOP_LEVEL = {"build", "compile_commands.json"}

C_ENDINGS = (".c", ".h", ".cu", ".cuh")
TEXT_ENDINGS = C_ENDINGS + (".py", ".sh")
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 100

LOCK_FREE_ROOMS = ("http", "api", "route", "engine", "schedule", "text", "grammar", "metrics", "log", "trace")
LOCKS = re.compile(r"^(pthread_(mutex|rwlock|cond|spin)_\w+|sem_\w+|mtx_\w+|cnd_\w+"
                   r"|uv_(mutex|rwlock|cond|sem)_\w+|uv_queue_work)(@.*)?$")

violations = []


def report(path, line, rule):
    violations.append((path, line, rule))


def files_under(*folders, endings):
    found = []
    for folder in folders:
        for at, names, files in os.walk(folder):
            names[:] = sorted(n for n in names if n != "__pycache__" and not n.startswith("."))
            found += [os.path.join(at, f) for f in sorted(files) if f.endswith(endings)]
    return found


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return file.read().split("\n")


# --- the Makefile's table -----------------------------------------------------


def read_links():
    """LINK_<room> of the Makefile as {room: set of rooms}."""
    text = open("Makefile", encoding="utf-8").read()
    raw = dict(re.findall(r"^LINK_(\w+) := (.*)$", text, re.M))
    links = {}
    for room in raw:
        words = raw[room]
        while "$(LINK_" in words:
            words = re.sub(r"\$\(LINK_(\w+)\)", lambda m: raw[m.group(1)], words)
        links[room] = set(words.split()) - {"llhttp"}
    for room, used in links.items():
        for other in sorted(used - {room}):
            if room not in FLOORS or other not in FLOORS:
                report("Makefile", 1, f"LINK_{room}: room {room} or {other} has no floor in tests/lint/house.py")
            elif FLOORS[other] >= FLOORS[room]:
                report("Makefile", 1, f"LINK_{room}: {other} does not lie on a lower floor than {room}")
    return links


# --- includes -------------------------------------------------------------------


def room_of_header(name):
    """The owner of "tokenlane/<name>"."""
    if name.startswith("base/"):
        return "base"
    stem = name.removesuffix(".h")
    return HEADER_ROOM.get(stem, stem)


def room_of_file(path):
    parts = path.split("/")
    if parts[0] == "src" and len(parts) > 2:
        return parts[1]
    if parts[:2] == ["tests", "unit"] and len(parts) > 3:
        return parts[2]
    if parts[:2] == ["include", "tokenlane"]:
        return room_of_header("/".join(parts[2:]))
    return None


def check_includes(path, lines, links, users):
    room = room_of_file(path)
    for number, line in enumerate(lines, 1):
        match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not match:
            continue
        name = match.group(1)
        if name.startswith("tokenlane/"):
            owner = room_of_header(name.removeprefix("tokenlane/"))
            users.setdefault(name, set()).add(room)
            if room and owner not in links.get(room, set()):
                report(path, number, f"room {room} may not use room {owner} (LINK_{room} in the Makefile)")
        elif name.split("/")[0] in links and "/" in name:
            # a test may look into the rooms that it is linked with
            allowed = links.get(room, set()) if path.startswith("tests/") else {room}
            if room and name.split("/")[0] not in allowed:
                report(path, number, f"'{name}' is private to room {name.split('/')[0]}")
        elif not os.path.exists(os.path.join(os.path.dirname(path), name)) and not os.path.exists(
                os.path.join("tests/unit", name)):
            report(path, number, f"'{name}' is neither a public header, a room's own, nor beside this file")


def check_public_headers(users, links):
    # A room that is still to be written may be the one that includes the header.
    if any(not files_under(f"src/{room}", endings=".c") for room in links):
        return
    for path in files_under("include/tokenlane", endings=".h"):
        name = path.removeprefix("include/")
        owner = room_of_header(name.removeprefix("tokenlane/"))
        if not {u for u in users.get(name, set()) if u and u != owner}:
            report(path, 1, f"no room but {owner} includes it: it belongs in src/{owner}")


# --- single files ------------------------------------------------------------------


def comments_of(text):
    return " ".join(re.findall(r"/\*.*?\*/|//[^\n]*", text, re.S))


def check_text(path, lines):
    for number, line in enumerate(lines, 1):
        if "\t" in line:
            report(path, number, "tab")
        if line != line.rstrip():
            report(path, number, "blank at the end of the line")
    if len(lines) > 1 and lines[-1] != "":
        report(path, len(lines), "no newline at the end of the file")


def check_functions(path, lines):
    """A body begins with a line that ends in ') {' and belongs to a definition in column 0."""
    start = None
    for number, line in enumerate(lines, 1):
        if start is None and line.endswith(") {") and not line.startswith((" ", "#", "}", "/")):
            start = number
        elif start is None and line.endswith(") {") and re.match(r" {4,}\S", line) and open_definition(lines, number):
            start = number
        elif start is not None and line == "}":
            if number - start + 1 > MAX_FUNCTION_LINES and not has_reason(lines, start):
                report(path, start, f"function of {number - start + 1} lines without a comment 'Long because' above it")
            start = None


def open_definition(lines, number):
    """Whether this is the continued parameter list of a definition in column 0."""
    for back in range(number - 2, max(-1, number - 8), -1):
        line = lines[back]
        if line and not line[0].isspace():
            return "(" in line and ")" not in line.split("(")[-1] and not line.endswith((";", "{", "}"))
    return False


def has_reason(lines, start):
    above = []
    for back in range(start - 2, -1, -1):
        if lines[back] == "" or lines[back].startswith(("}", "#")):
            break
        above.append(lines[back])
    return any(re.match(r"\s*(/\*|\*|//)?\s*Long because\b", line) for line in above)


def check_atomics(path, text):
    comments = comments_of(text)
    if re.search(r"\bmemory_order_(acquire|release|acq_rel|seq_cst)\b", text) and "pair" not in comments:
        report(path, 1, "an ordered atomic access, but no comment says what it pairs with")
    for number, line in enumerate(text.split("\n"), 1):
        if "memory_order_relaxed" in line and "/*" not in line and not re.search(r"relaxed|pair", comments):
            report(path, number, "a relaxed atomic access, but no comment says why that is enough")
    code = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group(0)), text, flags=re.S)
    for number, line in enumerate(code.split("\n"), 1):
        if re.search(r"\batomic_(load|store|exchange|compare_exchange_\w+|fetch_\w+)\s*\(", line) and \
                "_explicit" not in line:
            report(path, number, "atomic access without an explicit order")


def check_c_file(path, lines):
    if not re.match(r"(/\*|//) SPDX-License-Identifier: MIT\b", lines[0]):
        report(path, 1, "the first line is not the SPDX line")
    if len(lines) - 1 > MAX_FILE_LINES:
        report(path, MAX_FILE_LINES, f"file of {len(lines) - 1} lines, at most {MAX_FILE_LINES} are allowed")
    check_functions(path, lines)
    if path.startswith(("src/", "include/")):
        check_atomics(path, "\n".join(lines))


def check_names(paths):
    first = {}
    for path in paths:
        other = first.setdefault(os.path.basename(path), path)
        if other != path:
            report(path, 1, f"has the name of {other}")


def check_top_level():
    for name in sorted(os.listdir(".")):
        if not name.startswith(".") and name not in TOP_LEVEL | IGNORED_TOP_LEVEL:
            report(name, 1, "does not belong at the top level")


# --- objects ----------------------------------------------------------------------------


def check_locks(build):
    for source in files_under(*(f"src/{room}" for room in LOCK_FREE_ROOMS), endings=".c"):
        made = os.path.join(build, "obj", source.removeprefix("src/").removesuffix(".c") + ".o")
        if not os.path.exists(made):
            report(source, 1, f"has no object {made}: build first")
            continue
        symbols = subprocess.run(["nm", "-u", made], capture_output=True, text=True, check=True).stdout
        for symbol in sorted({line.split()[-1] for line in symbols.splitlines() if line.strip()}):
            if LOCKS.match(symbol):
                report(source, 1, f"imports {symbol}: this room takes no lock")


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: house.py BUILD_DIR")
    links, users = read_links(), {}
    c_files = files_under("src", "include", "tests", "bench", endings=C_ENDINGS)
    for path in files_under("src", "include", "tests", "bench", "config", "systemd", endings=TEXT_ENDINGS):
        lines = read_lines(path)
        check_text(path, lines)
        if path.endswith(C_ENDINGS):
            check_c_file(path, lines)
            # a test shows that a header works, not that another room needs it
            check_includes(path, lines, links, {} if path.startswith("tests/") else users)
    check_names(c_files)
    check_public_headers(users, links)
    check_top_level()
    check_locks(sys.argv[1])
    for path, line, rule in sorted(violations):
        print(f"{path}:{line}: {rule}")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
