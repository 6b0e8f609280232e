#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Does the daemon keep its GPUs busy, however many there are? Tokens per second of 1 to 64 simulated GPUs (real HTTP over
loopback, full batches) against N times one, with answers streamed and not; the processor time of a token by thread, and
the point from which the processors are full.

    B=build/plain python3 bench/scaling.py [--gpus 1,2,4,...] [--loops 1,2,4] [--rounds N]

Writes build/scaling.json, which plot.py draws. One GPU is measured again in each round, so that other programs on the
machine hit both sides. Standard library only."""

import argparse
import json
import os
import statistics
import sys

from run import ROOT, cpu_name
from sim_daemon import STEP_US, allow_files, throughput

FULL = 0.95  # of the processors' time


def rate_of(batch):
    """Tokens per second of one GPU that does nothing but run full steps."""
    return batch / STEP_US * 1e6


def sweep(gpus, loops, stream, rounds, batch):
    """One line for each number of GPUs: medians over the rounds."""
    ones, found = [], {n: [] for n in gpus}
    for _ in range(rounds):
        ones.append(throughput(1, loops, stream, batch)["tokens_per_s"])
        for n in gpus:
            found[n].append(throughput(n, loops, stream, batch))
    one = statistics.median(ones)
    for n in gpus:
        middle = sorted(found[n], key=lambda r: r["tokens_per_s"])[rounds // 2]
        yield {**middle, "efficiency": middle["tokens_per_s"] / (n * one), "of_formula": middle["tokens_per_s"] / (n * rate_of(batch))}


def is_full(r):
    """By us: what else runs on the machine is not our limit."""
    return r["processors_busy"] >= FULL and r["ours_busy"] >= 0.75 * r["processors_busy"]


def print_line(r):
    cost = r["us_per_token"]
    full = "  full" if is_full(r) else "  others run" if r["processors_busy"] - r["ours_busy"] > 0.1 else ""
    print(f"{r['gpus']:>5} {r['loops']:>5}  {'streamed' if r['stream'] else 'whole':<9}{r['tokens_per_s']:>10.0f}{100 * r['efficiency']:>8.1f} %"
          f"{100 * r['of_formula']:>8.1f} %{cost['worker']:>8.2f}{cost['loop']:>8.2f}{cost['client']:>8.2f}"
          f"{100 * r['ours_busy']:>7.0f} %{100 * r['processors_busy']:>7.0f} %{full}", flush=True)  # fmt: skip


def where_full(lines, batch):
    """In words, for each kind of answer."""
    for stream in (False, True):
        kind = "streamed" if stream else "whole"
        some = [r for r in lines if r["stream"] is stream]
        full = [r for r in some if is_full(r)]
        if not some:
            continue
        last = some[-1]
        cost = last["us_per_token"]
        per_token = cost["worker"] + cost["loop"] + cost["other"] + cost["client"]
        limit = os.cpu_count() / (per_token * 1e-6)
        point = f"full from {full[0]['gpus']} GPUs on" if full else f"not full with {last['gpus']} GPUs"
        yield (f"{kind}: {os.cpu_count()} processors are {point}; a token takes {per_token:.1f} us of them (worker {cost['worker']:.1f}, "
               f"loop {cost['loop']:.1f}, client {cost['client']:.1f}), so about {limit:.0f} tokens/s fit, {limit / rate_of(batch):.0f} such GPUs")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", default="1,2,4,8,16,32,64")
    parser.add_argument("--loops", default="1,2,4")
    parser.add_argument("--batch", type=int, default=64, help="sequences of a GPU's step of 20 ms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=os.path.join(ROOT, "build", "scaling.json"))
    a = parser.parse_args()
    allow_files()
    load = os.getloadavg()[0]
    print(f"{cpu_name()}, {os.cpu_count()} processors, load average {load:.2f} before; a GPU makes at most {rate_of(a.batch):.0f} tokens/s")
    print(f"{'GPUs':>5} {'loops':>5}  {'answers':<9}{'tokens/s':>10}{'of N x 1':>10}{'formula':>10}{'worker':>8}{'loop':>8}{'client':>8}{'we use':>9}{'all use':>9}")
    print(f"{'':>50}{'microseconds per token':>24}{'of the processors':>18}")
    lines = []
    for loops in map(int, a.loops.split(",")):
        for stream in (False, True):
            for line in sweep(list(map(int, a.gpus.split(","))), loops, stream, a.rounds, a.batch):
                lines.append(line)
                print_line(line)
    for text in where_full(lines, a.batch):
        print(text)
    with open(a.out, "w", encoding="utf-8") as file:
        json.dump({"cpu": cpu_name(), "processors": os.cpu_count(), "load_average_before": load, "lines": lines}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
