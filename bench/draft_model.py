#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a draft model (model.draft) brings and costs: daemons with and without, the same requests in turn.

    B=build/plain python3 bench/draft_model.py [--folder FOLDER] [--rounds N] [--streams 1,4] [-- OPTIONS OF THE DAEMONS]

Models of random weights: one of 0.5 B parameters whose last 28 layers add nothing to what the first two make, or little, and of which those two are the draft
model, an eighth of its bytes. So it is always right, or now and then; another one of that size, of other numbers, is never. All tokens are drawn, so that no text repeats itself."""

import argparse
import concurrent.futures
import contextlib
import os
import statistics
import subprocess
import sys
import time

from drafts import ask, counted
from run import ROOT, daemon, get

SMALL = 2  # layers of the draft model
MODELS = {
    "draft": ["--layers", SMALL],
    "stranger": ["--layers", SMALL, "--seed", 7],
    "silent": ["--faint-from", SMALL],
    "faint": ["--faint-from", SMALL, "--faint", 12],
}
CASES = {"always right": ("silent", "draft", 1), "now and then": ("faint", "draft", 0.2), "never": ("silent", "stranger", 1)}  # model, draft model, temperature
PROMPT = list(range(100, 164))


def make(folder, name):
    path = os.path.join(folder, name)
    if not os.path.exists(os.path.join(path, "model.safetensors")):
        subprocess.run([sys.executable, os.path.join(ROOT, "bench", "make_synthetic.py"), path, *map(str, MODELS[name])], check=True)
    return path


def crowd(url, streams, seed, temperature):
    """Seconds of so many at once."""
    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        began = time.monotonic()
        took = list(pool.map(lambda i: ask(url, {"temperature": temperature, "prompt": PROMPT}, seed * 100 + i), range(streams)))
        return took[0] if streams == 1 else time.monotonic() - began


def processor_seconds(url):
    """Of the daemon so far. On a busy machine the ratio of these says more than that of times."""
    return float(next(line.split()[1] for line in get(url + "/metrics").splitlines() if line.startswith("process_cpu_seconds_total ")))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--folder", default=os.path.join(ROOT, "build", "bench-drafts"))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--streams", default="1,4")
    p.add_argument("--cases", default=",".join(CASES))
    p.add_argument("more", nargs="*", help="options of the daemons, behind --")
    a = p.parse_args()
    for case in a.cases.split(","):
        model, draft = (make(a.folder, name) for name in CASES[case][:2])
        with contextlib.ExitStack() as stack:
            common = ["--model.name", "bench", "--engine.max_context", "1024", *a.more]
            plain, helped = (stack.enter_context(daemon(model, ["cpu:0"], *common, *more)) for more in ((), ("--model.draft", draft)))
            for streams in map(int, a.streams.split(",")):
                before = [counted(helped, f"tokenlane_draft_model_{what}_total") for what in ("tokens", "tokens_taken", "steps")]
                used = [processor_seconds(url) for url in (plain, helped)]
                took = [[crowd(url, streams, seed, CASES[case][2]) for url in (plain, helped)] for seed in range(1, a.rounds + 1)]
                tokens, taken, steps = (counted(helped, f"tokenlane_draft_model_{what}_total") - b for what, b in zip(("tokens", "tokens_taken", "steps"), before))
                used = [processor_seconds(url) - b for url, b in zip((plain, helped), used)]
                ratios = [without / with_it for without, with_it in took]
                print(f"{case}, {streams} streams: {statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f}), by processor time {used[0] / used[1]:.2f} x, {taken:g} of {tokens:g} guesses right, "
                      f"{steps:g} steps of the draft model", flush=True)


if __name__ == "__main__":
    main()
