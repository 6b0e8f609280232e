#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What `make bench` runs: every measurement once, a table at the end, build/bench.json.

    B=build/plain python3 bench/run.py [--only kernels,load,route,http] [--model FOLDER]

Standard library only. See bench/README.md for what each part means.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
B = os.environ.get("B") or os.path.join(ROOT, "build", "plain")
SYNTHETIC = os.path.join(ROOT, "build", "bench-model")
DEMO = os.path.join(ROOT, "config", "demo", "model")
READY_TIMEOUT_S = 300
HTTP_ROUNDS, HTTP_SECONDS, HTTP_CONNECTIONS = 3, 5, 32
# requests of one stream: about 10 to 20 s for the big model, a few for the small one
ROUNDS = {"synthetic": {1: 4, 2: 3, 4: 2, 8: 2, 16: 2}, "demo": {1: 60, 2: 60, 4: 50, 8: 40, 16: 30}}


class Skip(Exception):
    """A part cannot be measured here; says why."""


def program(name):
    path = os.path.join(B, "bin", name)
    if not os.access(path, os.X_OK):
        raise Skip(f"{path} is not built")
    return path


def run_json(command):
    """Runs a program that prints one JSON object. The load generator ends with 1 when requests failed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {(done.stderr + done.stdout)[-600:]}")
    return json.loads(done.stdout)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(url, process, log, timeout_s):
    """Until the URL answers 200."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            with open(log, encoding="utf-8", errors="replace") as file:
                raise RuntimeError(f"{process.args[0]} ended with {process.returncode}: {file.read()[-600:]}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            get(url)
            return
        time.sleep(0.05)
    raise RuntimeError(f"{url} did not answer within {timeout_s} s")


@contextlib.contextmanager
def daemon(model, devices, *options):
    """A daemon of our own, with further options of the command line; yields its URL once it is ready."""
    with tempfile.TemporaryDirectory(prefix="tokenlane-bench-") as folder:
        config, log, port = os.path.join(folder, "config.json"), os.path.join(folder, "log"), free_port()
        with open(config, "w", encoding="utf-8") as file:
            json.dump({"model": {"path": os.path.abspath(model)}, "devices": devices, "http": {"port": port}}, file)
        with open(log, "wb") as out:
            process = subprocess.Popen([program("tokenlane"), "serve", "--config", config, *options], stdout=out, stderr=out)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url + "/ready", process, log, READY_TIMEOUT_S)
            yield url
        finally:
            stop(process)


@contextlib.contextmanager
def nginx():
    """One worker that answers /health as the daemon does; yields its URL."""
    path = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not path:
        raise Skip("nginx is not installed")
    with tempfile.TemporaryDirectory(prefix="tokenlane-nginx-") as folder:
        config, log, port = os.path.join(folder, "nginx.conf"), os.path.join(folder, "error.log"), free_port()
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        with open(config, "w", encoding="utf-8") as file:
            file.write(
                f"daemon off; worker_processes 1; pid {folder}/pid; error_log {log};\n"
                "events { worker_connections 1024; }\n"
                f"http {{ access_log off; {temporary} default_type application/json;\n"
                "  keepalive_requests 1000000000; keepalive_timeout 75s; tcp_nodelay on;\n"
                f"  server {{ listen 127.0.0.1:{port} reuseport;\n"
                "    location = /health { return 200 '{\"status\":\"ok\"}'; } } }\n"
            )
        process = subprocess.Popen([path, "-p", folder, "-e", log, "-c", config])
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url + "/health", process, log, 10)
            yield url
        finally:
            stop(process)


# --- parts ----------------------------------------------------------------------------------


def make_model(path):
    if not os.path.exists(os.path.join(path, "model.safetensors")):
        subprocess.run([sys.executable, os.path.join(ROOT, "bench", "make_synthetic.py"), path], check=True)


def part_kernels(a):
    make_model(a.model)
    return run_json([program("bench_kernels"), "--json", "--model", a.model])


def sweep(kind, model):
    """1 to 16 streams of 64 prompt tokens and 64 generated ones."""
    if not os.path.exists(os.path.join(model, "config.json")):
        return {"skipped": f"there is no model in {model}"}
    points = {}
    with daemon(model, ["cpu:0"]) as url:
        for n, rounds in ROUNDS[kind].items():
            say(f"  {kind} model, {n} streams")
            points[str(n)] = run_json(
                [program("load"), "--url", url, "--json", "--streams", str(n), "--requests", str(n * rounds)]
                + ["--warmup", str(n), "--prompt-tokens", "64", "--max-tokens", "64"]
            )
    one, sixteen = (points[n]["output_tokens_per_s"] for n in ("1", "16"))
    return {"streams": points, "ratio_16_to_1": sixteen / one}


def part_load(a):
    make_model(a.model)
    return {"synthetic": sweep("synthetic", a.model), "demo": sweep("demo", a.demo)}


def histogram(text, name):
    """{upper bound: cumulative count}, summed over labels."""
    buckets = {}
    for line in text.splitlines():
        found = re.match(re.escape(name) + r'_bucket\{.*\ble="([^"]+)"\}\s+(\S+)', line)
        if found:
            bound = float(found[1])
            buckets[bound] = buckets.get(bound, 0) + float(found[2])
    return dict(sorted(buckets.items()))


def quantile(buckets, q):
    """(bound of the bucket in which it lies, value interpolated in it as Prometheus does)."""
    total = max(buckets.values(), default=0)
    if not total:
        raise RuntimeError("the histogram is empty")
    below, from_bound = 0.0, 0.0
    for bound, count in buckets.items():
        if count >= q * total:
            share = (q * total - below) / (count - below) if count > below else 1.0
            return bound, from_bound if bound == float("inf") else from_bound + (bound - from_bound) * share
        below, from_bound = count, bound
    raise RuntimeError("the histogram has no last bucket")


def part_route(a):
    if not os.path.exists(os.path.join(a.demo, "config.json")):
        raise Skip(f"there is no model in {a.demo}")
    with daemon(a.demo, ["cpu:0", "cpu:1"]) as url:
        load = run_json(
            [program("load"), "--url", url, "--json", "--streams", "64", "--requests", "1280", "--warmup", "64"]
            + ["--prompt-tokens", "64", "--max-tokens", "64"]
        )
        buckets = histogram(get(url + "/metrics"), "tokenlane_route_seconds")
    bound, value = quantile(buckets, 0.99)
    return {"load": load, "routed": max(buckets.values()), "route_p99_us": value * 1e6, "route_p99_bound_us": bound * 1e6}


def wrk(url):
    out = subprocess.run(
        ["wrk", "-t1", f"-c{HTTP_CONNECTIONS}", f"-d{HTTP_SECONDS}s", url + "/health"],
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    if re.search(r"Non-2xx|Socket errors", out):
        raise RuntimeError("wrk: " + out[-400:])
    return float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])


def part_http(a):
    if not shutil.which("wrk"):
        raise Skip("wrk is not installed")
    model = a.demo if os.path.exists(os.path.join(a.demo, "config.json")) else a.model
    make_model(a.model)
    ours, theirs = [], []
    with nginx() as their_url, daemon(model, ["cpu:0"]) as our_url:
        for _ in range(HTTP_ROUNDS):
            ours.append(wrk(our_url))
            theirs.append(wrk(their_url))
    ratio = statistics.median(x / y for x, y in zip(ours, theirs))
    return {"tokenlane_per_s": ours, "nginx_per_s": theirs, "ratio": ratio}


# --- output ---------------------------------------------------------------------------------


def say(text):
    print(text, file=sys.stderr, flush=True)


def summary(results):
    """Rows of (what, value, note)."""
    k, load, route, http = (results.get(name, {}) for name in PARTS)
    if "read_bytes_per_s" in k:
        yield "memory read", f"{k['read_bytes_per_s'] / 1e9:.1f} GB/s", f"{k['lanes']} lanes, {k['isa']}"
        yield "multiply-add peak", f"{k['peak_flops'] / 1e9:.0f} GF/s", ""
        one = k["decode"][0]
        yield "decode, 1 sequence", f"{one['tokens_per_s']:.1f} tok/s", f"{100 * one['of_read']:.0f}% of memory read"
        yield "decode, 16 to 1", f"{k['ratio_16_to_1']:.2f} x", "device alone"
        prefill = k["prefill"]
        note = f"{100 * prefill['of_peak']:.0f}% of multiply-add peak"
        yield f"prefill, {prefill['tokens']} tokens", f"{prefill['tokens_per_s']:.0f} tok/s", note
    for kind in ("synthetic", "demo"):
        for n, point in load.get(kind, {}).get("streams", {}).items():
            note = f"TTFT p50 {point['ttft_ms']['p50']:.1f} ms, ITL p50 {point['itl_ms']['p50']:.2f}"
            note += f" p99 {point['itl_ms']['p99']:.2f} ms"
            yield f"{kind}, {n} streams", f"{point['output_tokens_per_s']:.1f} tok/s", note
        if "ratio_16_to_1" in load.get(kind, {}):
            yield f"{kind}, 16 to 1", f"{load[kind]['ratio_16_to_1']:.2f} x", "through HTTP"
    if "route_p99_us" in route:
        note = f"bucket up to {route['route_p99_bound_us']:g} us, {route['routed']:.0f} requests, 64 streams, 2 replicas"
        yield "routing, p99", f"{route['route_p99_us']:.2f} us", note
    if "ratio" in http:
        ours, theirs = (statistics.median(http[key]) for key in ("tokenlane_per_s", "nginx_per_s"))
        yield "GET /health", f"{http['ratio']:.2f} x nginx", f"{ours:.0f} against {theirs:.0f} requests/s"
    for name, part in results.items():
        for label, value in [(name, part), *((f"{name}, {k}", v) for k, v in part.items() if isinstance(v, dict))]:
            for why in ("skipped", "failed"):
                if isinstance(value.get(why), str):
                    yield label, why, value[why].strip().replace("\n", " ")


def cpu_name():
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


PARTS = {"kernels": part_kernels, "load": part_load, "route": part_route, "http": part_http}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, by comma: " + ", ".join(PARTS))
    parser.add_argument("--model", default=SYNTHETIC, help="the big model; made if missing")
    parser.add_argument("--demo", default=DEMO, help="the small model")
    parser.add_argument("--out", default=os.path.join(ROOT, "build", "bench.json"))
    a = parser.parse_args()
    names = a.only.split(",")
    for name in names:
        if name not in PARTS:
            parser.error(f"--only: expected {', '.join(PARTS)}, got {name!r}")
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    machine = {"cpu": cpu_name(), "cores": cores, "load_average_before": load}
    results = {}
    for name in names:
        say(f"{name} ...")
        try:
            results[name] = PARTS[name](a)
        except Skip as why:
            results[name] = {"skipped": str(why)}
        except (RuntimeError, OSError, subprocess.SubprocessError, ValueError) as why:
            results[name] = {"failed": str(why)}
    print(f"{machine['cpu']}, {cores} cores, load average {load:.2f} before")
    for what, value, note in summary(results):
        print(f"  {what:<24} {value:>14}  {note}".rstrip())
    os.makedirs(os.path.dirname(os.path.abspath(a.out)), exist_ok=True)
    with open(a.out, "w", encoding="utf-8") as file:
        json.dump({"machine": machine, **results}, file, indent=1)
        file.write("\n")
    print(f"details: {os.path.relpath(a.out)}")
    return any("failed" in part for part in results.values())


if __name__ == "__main__":
    sys.exit(main())
