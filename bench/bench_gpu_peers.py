# SPDX-License-Identifier: MIT
"""transformers on the models of bench_gpu.py: static cache, compiled, greedy. The time of a decode step at 1 and 16 sequences of
1024 tokens; one line where this Python has no torch with CUDA.

    python3 bench/bench_gpu_peers.py [--limit SECONDS] MODEL ...

Each model and batch has a child; all load, compile and warm up side by side, since that is mostly the processors' work. When each is
ready or has ended, one line says so, and a line on stdin (or its end) lets them measure, one after the other, alone.

A step is model.forward, compiled, in a loop of our own with one cache. generate() would compile its own call of the forward too, has
a new cache in each call, for which CUDA graphs are recorded again, and waits for the GPU in each step; the prompt is not compiled.
The children share Inductor's cache, as a training's ranks do: a second run on the same machine is ready sooner."""
import argparse
import contextlib
import os
import pathlib
import select
import signal
import subprocess
import sys
import threading
import time

CONTEXT, ROOM, BATCHES = 1024, 96, (1, 16)  # tokens; of the cache for those that are made
UNTIMED, STEPS, RUNS = 3, 64, 5             # the first steps compile, warm up and record
MEASURE_S = 60


def what(path, n):
    return f"{pathlib.Path(path).name}, transformers, decode, {n} x {CONTEXT}"


def prepared(path, n, device):
    """What times that many decode steps after a prompt and UNTIMED steps."""
    import torch
    import transformers
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).to(device).eval()
    decode = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True, dynamic=False)
    cache = transformers.StaticCache(config=model.config, max_cache_len=CONTEXT + ROOM)
    prompt = torch.randint(model.config.vocab_size, (n, CONTEXT), device=device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    @torch.no_grad()
    def seconds(steps):
        cache.reset()
        token = model(prompt, past_key_values=cache, logits_to_keep=1).logits.argmax(-1)
        for i in range(UNTIMED + steps):
            if i == UNTIMED:
                wait()
                began = time.monotonic()
            token = decode(token, past_key_values=cache).logits.argmax(-1)
        wait()
        return time.monotonic() - began

    return seconds


def child(path, n, device):
    tell = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        seconds = prepared(path, n, device)
        seconds(1)
        print("ready", file=tell)
        if sys.stdin.readline():  # else the parent is gone
            times = sorted(seconds(STEPS) for _ in range(RUNS))
            print(f"{what(path, n):44} {times[RUNS // 2] / STEPS * 1e3:10.3f} ms", file=tell)
    except Exception as error:  # of whatever kind: the row says it, the other children go on
        print(f"{what(path, n):44} failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}", file=tell)


class Child:
    """Its process with all that it starts; killed where an answer takes too long."""

    def __init__(self, path, n, device, threads, limit_s):
        self.what = what(path, n)
        env = {**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.process = subprocess.Popen([sys.executable, __file__, "--child", str(n), "--device", device, path], env=env, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self.limit("ready", limit_s)

    def limit(self, what, limit_s):
        self.late = None
        self.timer = threading.Timer(limit_s, self.give_up, (f"not {what} after {limit_s:g} s",))
        self.timer.start()

    def give_up(self, late):
        if not select.select([self.process.stdout], [], [], 0)[0]:  # an answer may be there, another child's is read first
            self.late = late
            self.kill()

    def kill(self):
        if self.process.returncode is None:  # not waited for: the group is still its own
            os.killpg(self.process.pid, signal.SIGKILL)

    def answer(self):
        line = self.process.stdout.readline().rstrip()
        self.timer.cancel()
        return line or f"{self.what:44} {self.late or 'ended without a word'}"

    def measure(self):
        self.limit("measured", MEASURE_S)
        with contextlib.suppress(BrokenPipeError):  # it ended meanwhile
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        return self.answer()

    def end(self):
        self.timer.cancel()
        self.kill()
        self.process.communicate()


def measure_all(children, began):
    answers = [c.answer() for c in children]
    print(f"transformers: ready after {time.monotonic() - began:.0f} s", flush=True)
    sys.stdin.readline()
    for c, answer in zip(children, answers):
        print(c.measure() if answer == "ready" else answer, flush=True)
        c.end()  # its memory and its threads are the next one's


def unable(device):
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as missing:
        return str(missing)
    return None if device != "cuda" or torch.cuda.is_available() else "torch has no CUDA"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=float, default=240, metavar="SECONDS", help="until each is ready")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--child", type=int, metavar="BATCH", help="be the child for this batch")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    asked = parser.parse_args()
    if asked.child:
        return child(asked.models[0], asked.child, asked.device)
    if why := unable(asked.device):
        print(f"transformers: not run: {why}")
        return
    pairs = [(path, n) for path in asked.models for n in BATCHES]
    threads = max(1, len(os.sched_getaffinity(0)) // len(pairs))
    began = time.monotonic()
    children = [Child(path, n, asked.device, threads, asked.limit) for path, n in pairs]
    try:
        measure_all(children, began)
    finally:
        for c in children:
            c.end()


if __name__ == "__main__":
    main()
