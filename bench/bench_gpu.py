# SPDX-License-Identifier: MIT
"""How close does the CUDA backend come to its GPU, and to transformers? B names the build folder.

    make gpu-tests && B=build/plain python3 bench/bench_gpu.py [--models FOLDER] [MODEL ...]       (in a bundle: ./run-gpu-suite --bench)

Makes random-weight models with the dimensions of Llama 3.2 1B and Llama 3.1 8B in BF16 and FP8, one with experts and one whose layers keep a state (45 GB, kept in FOLDER), runs
bench_gpu on them, the daemon for what only it can show, and transformers, on those in BF16, if this Python has it with CUDA: that compiles before
we measure, and measures after us. Each row: what, figure, ratio or what was wanted. With the names of some models only those, and no
transformers."""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ["B"]).resolve()
MODELS = {"1b": ["--hidden", 2048, "--layers", 16, "--ffn", 8192, "--heads", 32, "--kv-heads", 8, "--head-dim", 64],
          "8b": ["--hidden", 4096, "--layers", 32, "--ffn", 14336, "--heads", 32, "--kv-heads", 8, "--head-dim", 128, "--untied"]}
MODELS |= {name + "-fp8": [*dims, "--fp8"] for name, dims in MODELS.items()}
MODELS["8b-fp8-blocks"] = [*MODELS["8b"], "--fp8-blocks"]
# layers like Qwen3 30B-A3B's, a sixth of them
MODELS["experts"] = ["--hidden", 2048, "--layers", 8, "--ffn", 768, "--heads", 32, "--kv-heads", 4, "--head-dim", 128, "--experts", 128,
                     "--experts-used", 8, "--untied"]
# layers like Qwen3.5 4B's, half of them
MODELS["states"] = ["--hidden", 2560, "--layers", 16, "--ffn", 9216, "--heads", 16, "--kv-heads", 4, "--head-dim", 256, "--states"]
STREAMS, PROMPT, NEW = 64, 1000, 200
READY_S, GAP_US = 6, 30
DRAFTS = 8000  # tokens of the longer context of steps with guesses
LIMIT_S = 150  # of a model, or of a daemon's start: one that hangs or dies costs no other's figures
missed = []


def row(what, value, unit, wanted, met):
    line = f"{what:44} {value:10.3f} {unit:5} {'':8}  wanted {wanted}  {'met' if met else 'MISSED'}"
    print(line, flush=True)
    note(line)


def note(line):
    if line.endswith("MISSED"):
        missed.append(line.split("  ")[0].strip())


def make_models(folder, names):
    for name in names:
        if not (folder / name / "model.safetensors").exists():
            print(f"making {folder / name}", flush=True)
            subprocess.run([sys.executable, ROOT / "bench/make_synthetic.py", folder / name, "--vocab", "128256", "--context", "8192",
                            *map(str, MODELS[name])], check=True)
    return [folder / name for name in names]


def device_table(*model):
    """bench_gpu's own rows; 77: there is no GPU."""
    with subprocess.Popen([BUILD / "gpu/bench_gpu", "--plugin_dir", BUILD / "lib", *model, "--drafts", str(DRAFTS)], stdout=subprocess.PIPE, text=True) as p:
        end = threading.Timer(LIMIT_S, p.kill)
        end.start()
        for line in p.stdout:
            print(line, end="", flush=True)
            note(line.rstrip())
        end.cancel()
    return p.returncode


def measure(models):
    """A process each; those that failed, and how."""
    statuses = {model.name: device_table(model) for model in models}
    return [f"{name}: exit status {status}" for name, status in statuses.items() if status]


def buckets(text, name):
    """(upper bound, observations up to it), over all label sets."""
    counts = {}
    for bound, n in re.findall(rf'^{name}_bucket{{.*le="([^"]+)"}} (\S+)$', text, re.M):
        counts[float(bound)] = counts.get(float(bound), 0) + float(n)
    return sorted(counts.items())


def median_bound(text, name):
    """The upper bound of the bucket that holds the median."""
    counts = buckets(text, name)
    half = max((n for _, n in counts), default=0) / 2
    return min((b for b, n in counts if n >= half and half > 0), default=float("nan"))


def ask(url, seed):
    body = {"model": "bench", "prompt": [300 + (seed * 7919 + i * 104729) % 1000 for i in range(PROMPT)], "max_tokens": NEW,
            "ignore_eos": True, "temperature": 0}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=LIMIT_S).read()


def daemon(model, log, devices="cuda:0"):
    """Start to ready from the page cache, and the pause between decode steps."""
    for file in model.glob("*.safetensors"):
        with open(file, "rb", buffering=0) as f:
            while f.read(1 << 26):
                pass
    began = time.monotonic()
    with open(log, "w+") as out:
        process = subprocess.Popen([BUILD / "bin/tokenlane", "serve", "--model.path", model, "--model.name", "bench", "--devices", devices,
                                    "--http.port", "0", "--engine.max_batch_size", str(STREAMS), "--engine.max_context", "2048"],
                                   stdout=out, stderr=out)
        try:
            while "msg=ready" not in (text := pathlib.Path(log).read_text()):
                if process.poll() is not None:
                    raise RuntimeError(f"the daemon ended: {text[-500:]}")
                if time.monotonic() - began > LIMIT_S:
                    raise RuntimeError(f"the daemon is not ready after {LIMIT_S} s: {text[-500:]}")
                time.sleep(0.005)
            ready = time.monotonic() - began
            row(f"{model.name}, start to ready", ready, "s", f"< {READY_S} s", ready < READY_S)
            url = f"http://127.0.0.1:{re.search(r'msg=listening .*port=([0-9]+)', text)[1]}"
            with ThreadPoolExecutor(STREAMS) as pool:
                list(pool.map(lambda i: ask(url, i), range(STREAMS)))
            metrics = urllib.request.urlopen(url + "/metrics", timeout=60).read().decode()
            gap = median_bound(metrics, "tokenlane_step_gap_seconds") * 1e6
            row(f"{model.name}, between steps as the worker sees it, {STREAMS} streams", gap, "us", f"< {GAP_US} us", gap < GAP_US)
            print("  steps with a pause of up to s:", " ".join(f"{bound}: {n:g}" for bound, n in buckets(metrics, "tokenlane_step_gap_seconds")))
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def start_peers(models):
    """Returns when they have compiled and wait, or cannot be measured, and says which."""
    peers = subprocess.Popen([sys.executable, ROOT / "bench/bench_gpu_peers.py", *models], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True)
    print(peers.stdout.readline(), end="", flush=True)
    return peers


def measure_peers(peers):
    with peers:
        peers.stdin.close()  # what they wait for
        for line in peers.stdout:
            print(line, end="", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=pathlib.Path, default=BUILD / "bench-gpu", help="where the models are, or are made")
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(MODELS):
        parser.error(f"no model {', '.join(unknown)}")
    folder, names = asked.models, asked.names or list(MODELS)
    if (status := device_table()) != 0:
        sys.exit(status)
    models = make_models(folder, names)
    peers = None if asked.names else start_peers([folder / "1b", folder / "8b"])
    failed = measure(models)
    if "8b" in names:
        try:
            daemon(folder / "8b", folder / "daemon.log")
        except (RuntimeError, OSError) as error:
            failed.append(f"8b by the daemon: {error}")
    if peers:
        measure_peers(peers)
    print(f"{len(missed)} missed" + "".join(f"\n  {what}" for what in missed))
    print("".join(f"failed: {what}\n" for what in failed), end="")
    sys.exit(int(bool(failed)))


if __name__ == "__main__":
    main()
