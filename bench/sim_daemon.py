# SPDX-License-Identifier: MIT
"""A daemon on simulated GPUs under the load generator, and what its threads cost: shared by scaling.py and prove.py."""

import contextlib
import json
import os
import re
import resource
import subprocess
import tempfile
import time

from run import B, DEMO, free_port, get, program, stop, wait_for

BATCH, STEP_US = 32, 20000  # of one simulated GPU: 1600 tokens/s at most
SPARE_STREAMS = 8  # per GPU: a place that becomes free is taken in the next step
PROMPT, ANSWER = 16, 256
TICK = os.sysconf("SC_CLK_TCK")


def allow_files():
    """A connection takes one in the daemon and one in the load generator."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65536), hard))


class SimDaemon:
    def __init__(self, url, process, folder):
        self.url, self.process, self.folder = url, process, folder

    def threads(self):
        """{thread id: (name, seconds of processor time)}"""
        found = {}
        base = f"/proc/{self.pid()}/task"
        for tid in os.listdir(base):
            with contextlib.suppress(OSError):
                name = open(f"{base}/{tid}/comm", encoding="utf-8").read().strip()
                found[int(tid)] = (name, int(open(f"{base}/{tid}/schedstat", encoding="utf-8").read().split()[0]) * 1e-9)
        return found

    def pid(self):
        """Of the daemon itself, which may run under a tracer."""
        base = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        with contextlib.suppress(OSError):
            for child in open(base, encoding="utf-8").read().split():
                if os.path.basename(os.readlink(f"/proc/{child}/exe")) == "tokenlane":
                    return int(child)
        return self.process.pid

    def counter(self, name):
        """A metric summed over its labels."""
        return sum(float(v) for v in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", get(self.url + "/metrics"), re.M))

    def wait_rest(self, seconds=30):
        """Until nothing runs, nothing waits and no KV block is in use."""
        names = ("tokenlane_sequences_running", "tokenlane_sequences_waiting", "tokenlane_kv_blocks_used")
        deadline = time.monotonic() + seconds
        while any(self.counter(n) for n in names):
            if time.monotonic() > deadline:
                raise RuntimeError(f"not at rest after {seconds} s: {[(n, self.counter(n)) for n in names]}")
            time.sleep(0.02)

    def tokens(self):
        return self.counter("tokenlane_generated_tokens_total")


@contextlib.contextmanager
def sim_daemon(n, loops=1, command=(), env=None, step_us=STEP_US, batch=BATCH, **options):
    with tempfile.TemporaryDirectory(prefix="tokenlane-prove-") as folder:
        log, port = os.path.join(folder, "log"), free_port()
        options = {"model.path": DEMO, "devices": ",".join(f"sim:{i}" for i in range(n)), "http.port": port,
                   "http.threads": loops, "sim.base_us": step_us, "sim.per_token_ns": 0, "sim.per_block_ns": 0,
                   "engine.max_batch_size": batch, "http.max_connections": 16384, **options}  # fmt: skip
        flags = [f"--{k}={v}" for k, v in options.items()]
        with open(log, "wb") as out:
            process = subprocess.Popen([*command, program("tokenlane"), "serve", *flags], stdout=out, stderr=out,
                                       env={**os.environ, **(env or {})})  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        d = SimDaemon(url, process, folder)
        try:
            wait_for(url + "/ready", process, log, 60)
            yield d
        finally:
            if d.pid() != process.pid:  # a tracer ends when what it traces does
                with contextlib.suppress(OSError):
                    os.kill(d.pid(), 15)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
            if process.poll() is None:
                stop(process)


def start_load(url, streams, stream=True, **options):
    options = {"streams": streams, "prompt-tokens": PROMPT, "max-tokens": ANSWER, **options}
    flags = [x for k, v in options.items() for x in (f"--{k}", str(v))]
    command = [program("load"), "--url", url, "--json", *flags, *([] if stream else ["--no-stream"])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_load(process):
    out, err = process.communicate()
    result = json.loads(out) if out else {}
    if process.returncode != 0 or result.get("failed"):
        raise RuntimeError(f"load: exit {process.returncode}, {result.get('failures')} {err[-300:]}")
    return result


def run_load(url, streams, **options):
    return end_load(start_load(url, streams, **options))


def processor_time():
    """(busy, all) seconds of all processors since boot."""
    with open("/proc/stat", encoding="utf-8") as file:
        values = [int(v) / TICK for v in file.readline().split()[1:9]]
    return sum(values) - values[3] - values[4], sum(values)


def process_seconds(pid):
    values = open(f"/proc/{pid}/stat", encoding="utf-8").read().rsplit(")", 1)[1].split()
    return (int(values[11]) + int(values[12])) / TICK


def by_kind(before, after):
    """{"loop" | "worker" | "other": seconds of processor time between two of threads()}"""
    spent = {"loop": 0.0, "worker": 0.0, "other": 0.0}
    for tid, (name, seconds) in after.items():
        kind = "loop" if name.startswith("tl-loop") else "worker" if name.startswith("tl-worker") else "other"
        spent[kind] += seconds - before.get(tid, (name, 0.0))[1]
    return spent


def throughput(n, loops=1, stream=False, batch=BATCH, warm_s=1.5, window_s=2.5):
    """Tokens per second of n GPUs in a window in which all their batches are full, and where the time went."""
    with sim_daemon(n, loops, batch=batch) as d:
        load = start_load(d.url, (batch + SPARE_STREAMS) * n, stream, duration=warm_s + window_s, timeout=60)
        time.sleep(warm_s)
        threads, processors, generator = d.threads(), processor_time(), process_seconds(load.pid)
        t0, tokens = time.monotonic(), d.tokens()
        time.sleep(window_s)
        t1, made = time.monotonic(), d.tokens()
        spent = by_kind(threads, d.threads())
        busy, total = (a - b for a, b in zip(processor_time(), processors))
        generator = process_seconds(load.pid) - generator
        chunks = end_load(load)
    made -= tokens
    return {"gpus": n, "loops": loops, "stream": stream, "tokens_per_s": made / (t1 - t0),
            "us_per_token": {k: v / made * 1e6 for k, v in {**spent, "client": generator}.items()},
            "processors_busy": busy / total, "ours_busy": (sum(spent.values()) + generator) / total,
            "itl_p99_ms": chunks["itl_ms"]["p99"]}  # fmt: skip
