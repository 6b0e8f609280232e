# SPDX-License-Identifier: MIT
"""The GPU bench's own arithmetic, where there is no GPU: a step's bytes and operations, ratios, what was missed."""
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from daemon import BINARY, BUILT, MODEL, ROOT, SAN

BUILD = pathlib.Path(BINARY).resolve().parents[1]
PROGRAM = BUILD / "gpu/bench_gpu"
COPY, PRODUCT = 1e9, 1e10

pytestmark = pytest.mark.skipif(bool(SAN) or "plugin" not in BUILT and not PROGRAM.exists(), reason="built without nvcc")


def measure(*more):
    done = subprocess.run([PROGRAM, "--device", "cpu:0", "--context", "64", "--prefill", "128", *more, MODEL], capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_bytes_operations_and_ratios():
    lines = measure("--copy", str(COPY), "--product", str(PRODUCT))
    c = json.loads((MODEL / "config.json").read_text())
    dim, layers, ffn, vocab, head = (c[k] for k in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "head_dim"))
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    matrices = layers * (dim * head * (2 * heads + 2 * kv_heads) + 3 * dim * ffn)
    weights = 2 * (matrices + vocab * dim + (2 * layers + 1) * dim)
    kv = 4 * layers * kv_heads * head
    assert f"a step reads {weights} bytes of weights and {kv} of KV a token;" in lines[1]
    rows = dict(re.match(r"model, (\w+, \S+(?: x \d+)?) +(\S+ ms +\S+) %", line).groups() for line in lines[2:])
    for what, figures in rows.items():
        ms, percent = (float(x) for x in re.match(r"(\S+) ms +(\S+)", figures).groups())
        if what.startswith("decode"):
            n = int(re.match(r"decode, (\d+) x 64", what)[1])
            expected = (weights + n * (64 + 8 + 32) * kv) / COPY
        else:
            expected = (2 * 128 * matrices + 2 * vocab * dim + 128 * 129 / 2 * 4 * layers * heads * head) / PRODUCT
        assert percent == pytest.approx(100 * expected / (ms / 1e3), rel=2e-2)
    assert len(rows) == 4


def test_drafts_against_one_row():
    lines = [line for line in measure("--copy", "1", "--product", "1", "--drafts", "150") if ", drafts" in line]
    rows = [re.match(r"model, drafts, (\d+) x (\d+) rows, (\d+) +(\S+) ms +(\S+) %$", line).groups() for line in lines]
    steps = [("1", "2"), ("1", "4"), ("1", "8"), ("16", "2"), ("16", "4")]
    assert [row[:3] for row in rows] == [(*step, context) for context in ("64", "150") for step in steps]
    assert all(float(ms) > 0 and float(percent) > 0 for *_, ms, percent in rows)


def test_rows_are_told_as_they_come():
    """So that a run that is cut off has not been for nothing."""
    command = [PROGRAM, "--device", "cpu:0", "--context", "64", "--prefill", "128", "--copy", "1", "--product", "1", MODEL]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as p:
        first = os.read(p.stdout.fileno(), 1 << 16)
        p.kill()
    assert first.startswith(b"copy ") and first.count(b"\n") < 6  # not all


def test_what_is_missed():
    """Against limits that nothing reaches, and that everything does. Of 16 sequences no ratio is wanted."""
    for limits, word in (("1e18", "MISSED"), ("1", "met")):
        lines = measure("--copy", limits, "--product", limits)[2:]
        assert [line.split()[-1] for line in lines] == [word, "%", word, word]
        assert "wanted  60 %" in lines[0] and "wanted  70 %" in lines[2] and "wanted  60 %" in lines[3]


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has a GPU")
def test_no_gpu_is_one_line():
    done = subprocess.run([sys.executable, ROOT / "bench/bench_gpu.py"], capture_output=True, text=True, env={**os.environ, "B": str(BUILD)})
    assert done.returncode == 77 and done.stderr == ""
    assert re.fullmatch(r"bench_gpu: no GPU to measure: [^\n]+\n", done.stdout)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setenv("B", str(BUILD))
    spec = importlib.util.spec_from_file_location("bench_gpu", ROOT / "bench/bench_gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_model_that_hangs_costs_no_others_figures(bench, tmp_path, monkeypatch, capfd):
    program = tmp_path / "gpu/bench_gpu"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\ncase $3 in *dies) exit 3 ;; *hangs) exec sleep 1000 ;; esac\necho "${3##*/}  1 ms  MISSED"\n')
    program.chmod(0o755)
    monkeypatch.setattr(bench, "BUILD", tmp_path)
    assert bench.measure([pathlib.Path("dies"), pathlib.Path("good")]) == ["dies: exit status 3"]
    monkeypatch.setattr(bench, "LIMIT_S", 0.5)
    assert bench.measure([pathlib.Path("hangs")]) == ["hangs: exit status -9"]
    assert bench.missed == ["good"] and capfd.readouterr().out == "good  1 ms  MISSED\n"


def test_the_daemons_part(bench, tmp_path, monkeypatch, capsys):
    """On the CPU, with the demo model: it starts, is asked, and its pause between steps is read."""
    monkeypatch.setattr(bench, "STREAMS", 4)
    monkeypatch.setattr(bench, "PROMPT", 20)
    monkeypatch.setattr(bench, "NEW", 30)
    monkeypatch.setattr(bench, "READY_S", -1)
    bench.daemon(MODEL, tmp_path / "log", devices="sim:0")
    out = capsys.readouterr().out.splitlines()
    assert re.match(r"model, start to ready +\d+\.\d+ s +wanted < -1 s  MISSED$", out[0])
    assert re.match(r"model, between steps as the worker sees it, 4 streams +\d+\.\d+ us +wanted < 30 us  (met|MISSED)$", out[1])
    assert bench.missed[0] == "model, start to ready"
    text = 'x_bucket{a="1",le="0.1"} 3\nx_bucket{a="1",le="0.5"} 8\nx_bucket{a="1",le="+Inf"} 9\n'
    assert bench.median_bound(text, "x") == 0.5


def measure_synthetic(folder, *kind):
    dims = {"hidden": 64, "layers": 2, "ffn": 128, "heads": 2, "kv-heads": 1, "head-dim": 32, "vocab": 300}
    flags = [text for name, n in dims.items() for text in (f"--{name}", str(n))]
    subprocess.run([sys.executable, ROOT / "bench/make_synthetic.py", folder, *flags, *kind, "--untied"], check=True)
    return subprocess.run([PROGRAM, "--device", "cpu:0", "--context", "64", "--prefill", "128", "--copy", "1", "--product", "1", folder],
                          capture_output=True, text=True, timeout=120)


def test_fp8_models(tmp_path):
    """They load, their logits are a distribution, and their bytes count as bytes."""
    done = measure_synthetic(tmp_path / "m", "--fp8")
    layers = 2 * (64 * 32 * (2 * 2 + 2 * 1) + 3 * 64 * 128)
    scales = 2 * 7 * 4
    assert f"m: a step reads {layers + scales + 2 * (5 * 64 + 300 * 64)} bytes of weights" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0 and done.stdout.count(" met") == 3


def test_models_with_states(tmp_path):
    """Three of four layers have one: they load, and a step reads and writes S once."""
    done = measure_synthetic(tmp_path / "m", "--states", "--layers", "4", "--state-heads", "2", "--state-dim", "20")
    attention, mlp = 64 * (2 * 64 + 2 * 32 + 64) + 2 * 32, 3 * 64 * 128
    delta = 64 * (2 * 40 + 3 * 80 + 2 * 4) + 160 * 4 + 2 * 4 + 20
    weights = 2 * (3 * delta + attention + 4 * mlp + 9 * 64 + 300 * 64)
    states = 3 * 2 * 4 * 20 * 20 * 4
    assert f"m: a step reads {weights + states} bytes of weights and 128 of KV a token" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0 and done.stdout.count(" %") == 4 and "wanted" not in done.stdout


def test_models_with_experts(tmp_path):
    """Of a layer's experts those that a row chooses are counted, the router in 16 bits; nothing is wanted of their speed."""
    done = measure_synthetic(tmp_path / "m", "--fp8", "--experts", "8", "--experts-used", "2")
    attention, expert, router = 64 * 32 * (2 * 2 + 2 * 1) + 4 * 4, 3 * (64 * 128 + 4), 2 * 8 * 64
    layers = 2 * (attention + 2 * expert + router)
    assert f"m: a step reads {layers + 2 * (5 * 64 + 300 * 64)} bytes of weights" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0 and done.stdout.count(" %") == 4 and "wanted" not in done.stdout
