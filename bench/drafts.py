#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What guessing tokens ahead (engine.draft_tokens) brings and costs: two daemons, with and without, the same requests in turn.

    B=build/plain python3 bench/drafts.py [--model FOLDER] [--drafts 4,8] [--rounds N] [-- OPTIONS OF THE DAEMONS]

A model of random weights says nothing, so texts are made that are alike what matters: `quotes` repeats what it has said (greedily it
falls into a circle: nearly every guess is right), `doubts` draws among four tokens (matches are everywhere, three of four guesses are wrong),
`news` draws among all (nothing is ever found). Real texts lie between these."""

import argparse
import contextlib
import json
import statistics
import time
import urllib.request

from run import SYNTHETIC, daemon, get, make_model

TOKENS = 96
WORKS = {
    "quotes": {"temperature": 0, "prompt": [5, 6, 7, 8, 9, 10, 11, 12] * 8},
    "doubts": {"temperature": 1, "prompt": [5, 6, 7, 8] * 16, "allowed_token_ids": [5, 6, 7, 8]},
    "news": {"temperature": 1, "prompt": list(range(100, 164))},
}


def ask(url, work, seed):
    """Seconds for TOKENS tokens, the first one and the prompt not counted."""
    body = {"model": "bench", "max_tokens": TOKENS, "ignore_eos": True, "seed": seed, "stream": True, **work}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        times = [time.monotonic() for line in answer if line.startswith(b"data: {")]
    return times[-1] - times[0]


def counted(url, name):
    return sum(float(line.split()[-1]) for line in get(url + "/metrics").splitlines() if line.startswith(name + "{"))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=SYNTHETIC)
    p.add_argument("--drafts", default="4,8")
    p.add_argument("--rounds", type=int, default=4)
    p.add_argument("more", nargs="*", help="options of the daemons, behind --")
    a = p.parse_args()
    if a.model == SYNTHETIC:
        make_model(a.model)
    with contextlib.ExitStack() as stack:
        urls = {n: stack.enter_context(daemon(a.model, ["cpu:0"], "--model.name", "bench", "--engine.draft_tokens", str(n),
                                              "--engine.max_context", "1024", "--admin.unix", "", *a.more))
                for n in [0, *map(int, a.drafts.split(","))]}
        for name, work in WORKS.items():
            took = {n: [] for n in urls}
            before = {n: (counted(url, "tokenlane_draft_tokens_total"), counted(url, "tokenlane_draft_tokens_taken_total")) for n, url in urls.items()}
            for seed in range(a.rounds):
                for n, url in urls.items():
                    took[n].append(ask(url, work, seed))
            plain = statistics.median(took[0])
            print(f"{name}: without {(TOKENS - 1) / plain:.1f} tokens/s")
            for n, url in urls.items():
                if n == 0:
                    continue
                guessed, taken = (counted(url, m) - b for m, b in zip(("tokenlane_draft_tokens_total", "tokenlane_draft_tokens_taken_total"), before[n]))
                ratio = statistics.median(mine / theirs for mine, theirs in zip(took[0], took[n]))
                print(f"  up to {n}: {ratio:.2f} x, {taken:g} of {guessed:g} guesses right")


if __name__ == "__main__":
    main()
