#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What does tracing every request cost? The real daemon on simulated GPUs under the same load, with tracing off and with all
requests sampled and exported, in turn: requests/s, latency, and the processor time of a request by thread.

    B=build/plain python3 bench/trace_cost.py [--rounds N]

The requests are short (16 + 16 tokens, 8 or 9 spans), which is the worst case: a request of 256 tokens has as many spans."""

import argparse
import http.server
import statistics
import threading
import time

from sim_daemon import allow_files, by_kind, end_load, sim_daemon, start_load

GPUS, STREAMS, TOKENS, STEP_US = 4, 160, 16, 4000
WARM_S, WINDOW_S = 1.0, 3.0


class Sink(http.server.BaseHTTPRequestHandler):
    """Takes everything and looks at nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def log_message(self, *_):
        pass


def requests_of(d):
    return d.counter("tokenlane_generation_seconds_count")


def measure(stream, **options):
    with sim_daemon(GPUS, step_us=STEP_US, **options) as d:
        load = start_load(d.url, STREAMS, stream, **{"max-tokens": TOKENS}, duration=WARM_S + WINDOW_S, timeout=60)
        time.sleep(WARM_S)
        threads, n, t0 = d.threads(), requests_of(d), time.monotonic()
        time.sleep(WINDOW_S)
        spent, n, t1 = by_kind(threads, d.threads()), requests_of(d) - n, time.monotonic()
        lost = d.counter("tokenlane_trace_spans_lost_total")
        sent = d.counter("tokenlane_trace_spans_exported_total")
        report = end_load(load)
    return {"requests_per_s": n / (t1 - t0), **{k: v / n * 1e6 for k, v in spent.items()}, "p50": report["ttft_ms"]["p50"],
            "p99": report["ttft_ms"]["p99"], "lost": lost / max(1, lost + sent)}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    allow_files()
    sink = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    sink.daemon_threads = True
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    endpoint = {"trace.endpoint": f"http://127.0.0.1:{sink.server_address[1]}/v1/traces"}
    print(f"{'':<10}{'tracing':<9}{'requests/s':>11}{'loop':>8}{'worker':>8}{'others':>8}  us a request{'TTFT p50':>11}{'p99':>9} ms{'lost':>8}")
    for stream in (False, True):
        found = {False: [], True: []}
        for _ in range(rounds):
            for on in (False, True):
                found[on].append(measure(stream, **(endpoint if on else {})))
        middle = {on: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for on, rs in found.items()}
        for on, m in middle.items():
            print(f"{'streamed' if stream else 'whole':<10}{'all' if on else 'off':<9}{m['requests_per_s']:>11.0f}{m['loop']:>8.1f}{m['worker']:>8.1f}"
                  f"{m['other']:>8.1f}{'':<14}{m['p50']:>11.2f}{m['p99']:>9.2f}   {100 * m['lost']:>6.1f} %")  # fmt: skip
        # of neighbours in time, so that other work on the machine hits both alike
        ratio = {k: statistics.median(on[k] / off[k] for off, on in zip(found[False], found[True])) for k in ("requests_per_s", "loop", "worker")}
        print(f"{'':<10}{'ratio':<9}{ratio['requests_per_s']:>11.3f}{ratio['loop']:>8.2f}{ratio['worker']:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
