# SPDX-License-Identifier: MIT
"""bench_gpu_peers.py's children and bench_gpu.py's talk with it. torch and transformers are stand-ins that do nothing."""
import importlib.util
import itertools
import pathlib
import re
import subprocess
import sys
import time

import pytest

from daemon import ROOT

PEERS = ROOT / "bench/bench_gpu_peers.py"
READY = r"transformers: ready after \d+ s\n"
TORCH = """
import os, sys
from unittest import mock

def synchronize():
    with open(os.environ["SYNCHRONIZED"], "a") as log:
        print(os.getpid(), file=log)

fake = mock.MagicMock()
fake.no_grad = lambda: lambda function: function
fake.cuda.synchronize = synchronize
fake.cuda.is_available = lambda: "NO_CUDA" not in os.environ
sys.modules[__name__] = fake
"""
TRANSFORMERS = """
import os, threading, time
from unittest import mock

StaticCache = mock.MagicMock()

class AutoModelForCausalLM:
    @staticmethod
    def from_pretrained(path, **_):
        print("a library's chatter")
        if path.endswith("fails"):
            raise ValueError("no weights\\nand more")
        if path.endswith("hangs"):
            time.sleep(1000)
        if path.endswith("dies"):
            os._exit(3)
        if path.endswith("dies-waiting"):
            threading.Timer(0.5, os._exit, (3,)).start()
        return mock.MagicMock()
"""


@pytest.fixture
def log(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text(TORCH)
    (tmp_path / "transformers.py").write_text(TRANSFORMERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SYNCHRONIZED", str(tmp_path / "log"))
    return tmp_path / "log"


def start(*args):
    return subprocess.Popen([sys.executable, PEERS, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def row(name, n, figure=r" +\d+\.\d{3} ms"):
    return rf"{name}, transformers, decode, {n} x 1024 *{figure}\n"


def test_all_are_ready_wait_and_measure_alone(log):
    with start("x/1b", "x/8b") as peers:
        assert re.fullmatch(READY, peers.stdout.readline())
        log.unlink()  # what the warm-up waited for
        time.sleep(0.3)
        assert not log.exists()
        peers.stdin.write("\n")
        peers.stdin.flush()
        rows = peers.stdout.read()
        assert re.fullmatch("".join(row(name, n) for name in ("1b", "8b") for n in (1, 16)), rows), rows
        assert len(list(itertools.groupby(log.read_text().split()))) == 4
        assert peers.wait() == 0


def test_one_that_fails_costs_no_others_figures(log):
    """The end of stdin counts as a line."""
    with start("--limit", "20", "fails", "dies", "dies-waiting", "1b") as peers:
        ready = peers.stdout.readline()
        time.sleep(1)
        out = ready + peers.communicate()[0]
    why = {"fails": "failed: ValueError: no weights", "dies": "ended without a word", "dies-waiting": "ended without a word"}
    assert re.fullmatch(READY + "".join(row(name, n, " " + text) for name, text in why.items() for n in (1, 16)) + row("1b", 1)
                        + row("1b", 16), out), out


def test_one_that_is_never_ready_is_killed(log):
    began = time.monotonic()
    with start("--limit", "6", "hangs", "1b") as peers:
        out = peers.communicate("\n")[0]
    late = " not ready after 6 s"
    assert re.fullmatch(READY + row("hangs", 1, late) + row("hangs", 16, late) + row("1b", 1) + row("1b", 16), out), out
    assert 6 <= time.monotonic() - began < 100


def is_running(pid):
    try:
        return bool(pathlib.Path(f"/proc/{pid}/cmdline").read_text())  # a zombie's is empty
    except OSError:
        return False


def test_nothing_is_left_when_it_ends(log):
    """Killed itself, its children read the end of their stdin."""
    with start("1b") as peers:
        peers.stdout.readline()
        children = pathlib.Path(f"/proc/{peers.pid}/task/{peers.pid}/children").read_text().split()
        peers.kill()
    assert len(children) == 2
    end = time.monotonic() + 20
    while any(is_running(pid) for pid in children):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def bench(monkeypatch, tmp_path):
    monkeypatch.setenv("B", str(tmp_path))
    spec = importlib.util.spec_from_file_location("bench_gpu", ROOT / "bench/bench_gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_bench_gpu_measures_between_their_ready_and_their_rows(log, bench, capfd):
    peers = bench.start_peers(["1b"])
    assert re.fullmatch(READY, capfd.readouterr().out)
    bench.measure_peers(peers)
    assert re.fullmatch(row("1b", 1) + row("1b", 16), capfd.readouterr().out)
    assert peers.returncode == 0


def test_no_cuda_is_one_line(log, bench, capfd, monkeypatch):
    monkeypatch.setenv("NO_CUDA", "1")
    bench.measure_peers(bench.start_peers(["1b"]))
    assert capfd.readouterr().out == "transformers: not run: torch has no CUDA\n"
