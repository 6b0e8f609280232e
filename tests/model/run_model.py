#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the protocols between threads, twice over:

 - the real code of src/, under every interleaving within bounds (interleave.h), and then each bug of mutants.py put into
   it, which must be caught;
 - the protocols as Promela models, exhaustively, and each with the bugs that it knows (BUG_x), which must be caught.

    python3 tests/model/run_model.py BUILD_DIR [--quick] [--deep] [--only NAME]

--quick: no spin (make check runs this); --deep: larger bounds. Exit status 1 if anything is not as it must be."""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import time

from mutants import BROADCAST, CHILD, EVENTS, INBOX, MEET, MPSC, MUTANTS, SPSC, WAKER, WAKER_H

CC = os.environ.get("CC", "gcc")
FLAGS = ["-std=c17", "-g", "-O1", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-DCHILD_SPINS=1", "-Itests/model"]
# the checker stands where TSan's library would; the code must not take its branch for TSan
CHECKED = ["-fsanitize=thread", "-U__SANITIZE_THREAD__", "-Wno-tsan" if "clang" not in CC else "-Wno-unknown-warning-option"]
REAL = [MPSC, SPSC, BROADCAST, WAKER, MEET, EVENTS, INBOX, CHILD]
LIMIT_S = 120


def run(command, seconds=LIMIT_S, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, **options)


def must(command, **options):
    done = run(command, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}:\n{done.stdout[-2000:]}")
    return done.stdout


def compile_object(source, target, includes, checked=True):
    must([CC, *FLAGS, *includes, *(CHECKED if checked else []), "-c", source, "-o", target])
    return target


class Checker:
    """The real code and the checker as a program; then variants of it with one object replaced."""

    def __init__(self, folder):
        self.folder, self.includes = folder, ["-Iinclude", "-Isrc"]
        os.makedirs(folder, exist_ok=True)
        self.runtime = [compile_object(f"tests/model/{n}.c", f"{folder}/{n}.o", self.includes, False) for n in ("interleave", "interleave_memory")]
        self.objects = {s: compile_object(s, self.place(s), self.includes) for s in [*REAL, "tests/model/check_structures.c"]}
        self.program = self.link(self.objects, "check")

    def place(self, source):
        return os.path.join(self.folder, os.path.basename(source)[:-2] + ".o")

    def link(self, objects, name):
        target = os.path.join(self.folder, name)
        must([CC, "-o", target, *self.runtime, *objects.values()])
        return target

    def mutant(self, name, path, old, new):
        """The program with `new` in place of `old` in this file."""
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if text.count(old) != 1:
            sys.exit(f"mutants.py: {name}: its place occurs {text.count(old)} times in {path}: the code has changed, adapt the mutant")
        folder = os.path.join(self.folder, name)
        shutil.rmtree(folder, ignore_errors=True)
        changed = os.path.join(folder, path)
        os.makedirs(os.path.dirname(changed))
        with open(changed, "w", encoding="utf-8") as file:
            file.write(text.replace(old, new))
        objects = dict(self.objects)
        includes = [f"-I{folder}/include", *self.includes]
        # a header is seen by the cases, a source replaces its object
        for source in ["tests/model/check_structures.c"] if path == WAKER_H else [path]:
            mutated = source if path == WAKER_H else changed
            objects[source] = compile_object(mutated, os.path.join(folder, "mutated.o"), includes + ["-Wno-unused"])
        return self.link(objects, f"{name}/check")


def check_mutant(checker, mutant):
    name, path, old, new, cases = mutant
    program = checker.mutant(name, path, old, new)
    for case in cases:
        try:
            done = run([program, case])
        except subprocess.TimeoutExpired:
            continue
        if done.returncode != 0:
            said = re.search(r": run (\d+): (.*)", done.stdout)
            return name, True, f"{case}, run {said[1]}: {said[2]}" if said else f"{case}: exit {done.returncode}"
    return name, False, f"NOT caught by {', '.join(cases)}"


def real_code(folder, deep, only):
    checker = Checker(folder)
    fine = True
    done = run([checker.program, *(["--deep"] if deep else [])], 3600 if deep else LIMIT_S)
    print(done.stdout, end="")
    if done.returncode != 0:
        print("the real code FAILED")
        return False
    caught = 0
    wanted = [m for m in MUTANTS if not only or only in m[0]]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, ok, said in pool.map(lambda m: check_mutant(checker, m), wanted):
            print(f"  bug {name:<38} {'caught' if ok else 'MISSED'}: {said}")
            fine &= ok
            caught += ok
    print(f"interleaver: {caught} of {len(wanted)} seeded bugs caught")
    return fine


# --- spin ------------------------------------------------------------------------------------


def spin_once(model, folder, define):
    """(whether spin found no error, states)"""
    os.makedirs(folder, exist_ok=True)
    flags = [f"-D{define}"] if define else []
    must(["spin", *flags, "-a", os.path.abspath(model)], cwd=folder)
    must([CC, "-O1", "-w", "-DSAFETY", "-DMEMLIM=2048", "-o", "pan", "pan.c"], cwd=folder)
    done = run(["./pan", "-m200000"], cwd=folder)
    errors, states = re.search(r"errors: (\d+)", done.stdout), re.search(r"(\d+) states, stored", done.stdout)
    if not errors or "search not completed" in done.stdout and errors[1] == "0" or "max search depth too small" in done.stdout:
        sys.exit(f"{model} {define}:\n{done.stdout[-2000:]}")
    return errors[1] == "0", int(states[1])


def known_bugs(path):
    with open(path, encoding="utf-8") as file:
        return sorted(set(re.findall(r"(?:ifdef|ifndef) (BUG_\w+)", file.read())))


def models(folder, only):
    jobs = []
    for name in sorted(os.listdir("tests/model")):
        if name.endswith(".pml") and only in name:
            path = os.path.join("tests/model", name)
            jobs += [(name, path, bug) for bug in [None, *known_bugs(path)]]
    fine, n_bugs = True, 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda j: spin_once(j[1], os.path.join(folder, f"{j[0][:-4]}-{j[2] or 'right'}"), j[2]), jobs)
        for (name, _, bug), (right, states) in zip(jobs, results):
            if bug:
                print(f"  bug {bug[4:].lower():<38} {'MISSED' if right else 'caught'} ({states} states)")
                n_bugs += not right
            else:
                print(f"{name:<16} {states:>9} states, all: {'no fault' if right else 'FAULT'}")
            fine &= right == (bug is None)
    print(f"spin: {n_bugs} seeded bugs caught")
    return fine


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("--only", default="")
    a = parser.parse_args()
    began = time.monotonic()
    folder = os.path.abspath(os.path.join(a.build, "model"))
    fine = real_code(folder, a.deep, a.only)
    if not a.quick:
        fine &= models(folder, a.only)
    print(f"{'all as it must be' if fine else 'FAILED'}, {time.monotonic() - began:.0f} s")
    return not fine


if __name__ == "__main__":
    sys.exit(main())
