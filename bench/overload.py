#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What does the daemon do with ten times more than it can? Requests come whatever it answers (open loop) at 10 times
what its simulated GPUs make when they are full (closed loop, measured just before). One table; exit status 1 if a
figure is missed.

    B=build/plain python3 bench/overload.py [--seconds N]

Standard library only."""

import argparse
import json
import os
import statistics
import sys
import time
import urllib.error
import urllib.request

from run import cpu_name
from sim_daemon import allow_files, sim_daemon, start_load

GPUS, BATCH, STEP_US, ANSWER = 4, 32, 20000, 64  # 100 requests/s
QUEUE = BATCH + 8  # of a GPU: what waits is taken within a quarter of an answer's time
TIMES = 10
PEAK_S, WARM_S = 4, 2
PROBE_TOKENS, PROBE_S, GAP_S = 2, 4, 0.02
HUNG_S = 20  # the longest answer takes 2
GOODPUT, REFUSED_MS, GROWN_MIB, NORMAL_S = 0.95, 10.0, 8.0, 2.0


def resident_mib(pid):
    with open(f"/proc/{pid}/statm", encoding="utf-8") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def window(d, seconds):
    """Tokens per second from now on, and the memory meanwhile."""
    began, tokens, resident = time.monotonic(), d.tokens(), []
    while time.monotonic() < began + seconds:
        time.sleep(0.25)
        resident.append(resident_mib(d.pid()))
    return (d.tokens() - tokens) / (time.monotonic() - began), resident


def probe(d):
    """Seconds that a short request takes; infinite if it is refused."""
    body = b'{"model":"model","prompt":[1,2,3,4],"max_tokens":%d,"ignore_eos":true}' % PROBE_TOKENS
    began = time.monotonic()
    try:
        with urllib.request.urlopen(urllib.request.Request(d.url + "/v1/completions", body), timeout=HUNG_S) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        if error.code != 429:
            raise
        return float("inf")
    return time.monotonic() - began


def time_to_normal(d, ended, normal):
    """Seconds from `ended` until short requests take no longer than they should, for good."""
    since = time.monotonic()
    while time.monotonic() < ended + PROBE_S:
        if probe(d) > normal:
            since = time.monotonic()
        time.sleep(GAP_S)
    return since - ended


def closed_loop(d):
    """Tokens per second with all places taken."""
    load = start_load(d.url, QUEUE * GPUS, duration=WARM_S + PEAK_S, timeout=HUNG_S, **{"max-tokens": ANSWER})
    time.sleep(WARM_S)
    rate, _ = window(d, PEAK_S)
    load.communicate()
    return rate


def open_loop(d, rate, seconds, normal):
    began = time.monotonic()
    load = start_load(d.url, 1, rate=rate, duration=seconds, timeout=HUNG_S, **{"max-tokens": ANSWER})
    time.sleep(WARM_S)
    goodput, resident = window(d, seconds - WARM_S)
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    to_normal = time_to_normal(d, began + seconds, normal)
    result = json.loads(load.communicate()[0])
    return goodput, resident, to_normal, result


def measure(seconds):
    """{figure: value} of one run, the peak in the same daemon just before."""
    devices = {"limits.max_queue": QUEUE, "model.name": "model"}
    with sim_daemon(GPUS, batch=BATCH, step_us=STEP_US, **devices) as d:
        quiet = [probe(d) for _ in range(20)]
        peak = closed_loop(d)
        rate = TIMES * peak / ANSWER
        goodput, resident, to_normal, load = open_loop(d, rate, seconds, 2 * max(quiet))
        d.wait_rest()
    middle = len(resident) // 2
    others = {k: v for k, v in load["failures"].items() if k != "429"}
    return {"peak": peak, "goodput": goodput, "of_peak": goodput / peak, "rate": rate, "served": load["completed"],
            "refused": load["failures"].get("429", 0), "failed": others, "refused_ms": load["refused_ms"], "served_ms": load["e2e_ms"],
            "quiet_ms": 1e3 * statistics.median(quiet), "resident_mib": max(resident),
            "grown_mib": max(resident[middle:]) - max(resident[:middle]), "to_normal_s": to_normal}  # fmt: skip


def rows(r):
    """(what, measured, wanted, whether it is met, note)"""
    p99 = r["refused_ms"]["p99"]
    yield ("goodput, of the peak", f"{100 * r['of_peak']:.1f} %", f">= {100 * GOODPUT:g} %", r["of_peak"] >= GOODPUT,
           f"{r['goodput']:.0f} of {r['peak']:.0f} tokens/s; {r['served']} served, p50 {r['served_ms']['p50']:.0f} ms")  # fmt: skip
    yield ("refusals, p99", f"{p99:.2f} ms", f"< {REFUSED_MS:g} ms", p99 < REFUSED_MS,
           f"{r['refused']} of {r['rate']:.0f} requests/s, p50 {r['refused_ms']['p50']:.2f} ms, from when they were due")  # fmt: skip
    yield ("memory, second half", f"{r['grown_mib']:+.1f} MiB", f"< {GROWN_MIB:g} MiB", r["grown_mib"] < GROWN_MIB,
           f"{r['resident_mib']:.0f} MiB at most")  # fmt: skip
    yield ("normal again after", f"{r['to_normal_s']:.2f} s", f"< {NORMAL_S:g} s", r["to_normal_s"] < NORMAL_S,
           f"a short request takes {r['quiet_ms']:.0f} ms on the idle server; normal is within twice the longest of 20 of them")  # fmt: skip
    yield "hung, or failed otherwise", f"{sum(r['failed'].values())}", "0", not r["failed"], str(r["failed"] or "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    a = parser.parse_args()
    allow_files()
    print(f"{cpu_name()}, {os.cpu_count()} processors, load average {os.getloadavg()[0]:.2f} before; {GPUS} simulated GPUs, {a.seconds:g} s")
    missed = 0
    for what, value, wanted, ok, note in rows(measure(a.seconds)):
        missed += not ok
        print(f"{what:<28}{value:>12}{wanted:>12}  {'yes' if ok else 'NO ':<4}{note}", flush=True)
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
