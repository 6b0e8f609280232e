# SPDX-License-Identifier: MIT
"""/v1/embeddings, /v1/rerank and /v1/score on simulated devices, whose vectors a formula gives: every answer is checked
number by number, through batches, replicas, faults and cancels."""
import base64
import json
import math
import os
import pathlib
import shutil
import signal
import socket
import struct
import threading
import time

import httpx
import openai
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import embedders
from daemon import NAME, ROOT, SLOW, run, wait_for
from simulated import vector
from test_trace import PARENT, TRACE, collect  # noqa: F401 (a fixture)


WORDS = ["alpha", "beta", "gamma", "delta", "river", "house", "seven", "light", "stone", "green"]


def text(i):
    return " ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 2 + i % 9)) + f" {i}"


def devices(n, **more):
    return {"devices": ",".join(f"sim:{i}" for i in range(n)), "sim.base_us": 1000, "sim.per_token_ns": 1000, **more}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return embedders.write(tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def scorer_model(tmp_path_factory):
    return embedders.write_scorer(tmp_path_factory.mktemp("scorer"))


@pytest.fixture
def embed(start, model):
    def begin(n=2, **options):
        return start(devices(n, **{k.replace("__", "."): v for k, v in options.items()}), model=model[0])
    return begin


@pytest.fixture
def scorer(start, scorer_model):
    return start(devices(2), model=scorer_model[0])


def floats(item):
    data = item["embedding"]
    if isinstance(data, str):
        raw = base64.b64decode(data)
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    return data


def check(items, texts, tokenizer):
    assert [item["index"] for item in items] == list(range(len(texts)))
    for item, t in zip(items, texts):
        ids = t if isinstance(t, list) else tokenizer.encode(t).ids
        assert floats(item) == pytest.approx(vector(ids, embedders.DIM), abs=1e-6), t


def embeddings(d, texts, **more):
    answer = d.post("/v1/embeddings", model=NAME, input=texts, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


# --- what is right ------------------------------------------------------------------------------


def test_openai_client(embed, model):
    d, tokenizer = embed(), model[1]
    texts = [text(i) for i in range(20)]
    with openai.OpenAI(base_url=d.url + "/v1", api_key="none", max_retries=0) as client:
        plain = client.embeddings.create(model=NAME, input=texts, encoding_format="float")
        packed = client.embeddings.create(model=NAME, input=texts)  # asks for base64 and unpacks it
        one = client.embeddings.create(model=NAME, input=texts[3], user="somebody")
        assert client.models.retrieve(NAME).model_extra["task"] == "embed"
    assert plain.object == "list" and plain.model == NAME and plain.data[0].object == "embedding"
    check([item.model_dump() for item in plain.data], texts, tokenizer)
    as_single = [struct.unpack("<16f", struct.pack("<16f", *item.embedding)) for item in plain.data]
    assert as_single == [tuple(item.embedding) for item in packed.data]  # to the bit
    assert one.data[0].embedding == packed.data[3].embedding
    n = sum(len(tokenizer.encode(t).ids) for t in texts)
    assert plain.usage.prompt_tokens == plain.usage.total_tokens == n
    assert d.total("tokenlane_pooled_inputs_total") == 41
    assert d.total("tokenlane_pooling_seconds_count") == 3
    d.wait_rest()


def test_forms_of_input(embed, model):
    d, tokenizer = embed(), model[1]
    check(embeddings(d, "one text")["data"], ["one text"], tokenizer)
    check(embeddings(d, [2, 77, 78, 3])["data"], [[2, 77, 78, 3]], tokenizer)  # ids as they are
    mixed = ["one", [5], "two words", [1, 2, 3], ""]  # no text is [CLS] [SEP]
    check(embeddings(d, mixed)["data"], mixed, tokenizer)
    check(embeddings(d, ["a [SEP] b"])["data"], ["a [SEP] b"], tokenizer)
    assert d.total("tokenlane_kv_blocks") == 0


def test_many_inputs_on_many_devices(embed, model):
    d, tokenizer = embed(4, engine__max_batch_size=16, engine__max_batch_tokens=200, http__threads=2), model[1]
    texts = [text(i) for i in range(700)]  # above 8 KiB: read by a text lane
    answers = []
    body = {"model": NAME, "input": texts}  # threads that share a client close each other's connections
    threads = [threading.Thread(target=lambda: answers.append(httpx.post(d.url + "/v1/embeddings", json=body, timeout=60 * SLOW).json()))
               for _ in range(3)]
    for t in threads:
        t.start()
    for i in range(20):
        check(embeddings(d, text(i))["data"], [text(i)], tokenizer)
    for t in threads:
        t.join()
    assert len(answers) == 3
    for answer in answers:
        check(answer["data"], texts, tokenizer)
    steps = [d.total("tokenlane_steps_total", replica=str(i)) for i in range(4)]
    assert min(steps) > max(steps) / 4, steps  # the router spreads them
    assert sum(steps) < 2120 / 2  # and the engine batches them
    d.wait_rest()


def test_dimensions(embed, model):
    d, tokenizer = embed(), model[1]
    for n in (1, 5, 16):
        whole = vector(tokenizer.encode("some words").ids, 16)
        length = math.sqrt(sum(v * v for v in whole[:n]))
        for form in ("float", "base64"):
            got = floats(embeddings(d, "some words", dimensions=n, encoding_format=form)["data"][0])
            assert got == pytest.approx([v / length for v in whole[:n]], abs=1e-6)


def test_truncation(embed, model):
    d, tokenizer = embed(), model[1]
    long = " ".join(WORDS * 20)
    ids = tokenizer.encode(long, add_special_tokens=False).ids
    assert len(ids) > 126
    refused = d.post("/v1/embeddings", input=["a", long])
    error = refused.json()["error"]
    assert refused.status_code == 400 and error["code"] == "context_length_exceeded" and error["param"] == "input[1]"
    assert "at most 128 tokens" in error["message"]
    for most in (-1, 128, 10, 3):
        kept = [2, *ids[:(128 if most < 0 else most) - 2], 3]
        check(embeddings(d, long, truncate_prompt_tokens=most)["data"], [kept], tokenizer)
    check(embeddings(d, [[7] * 300], truncate_prompt_tokens=-1)["data"], [[7] * 128], tokenizer)
    for most in (2, 129):
        assert "from 3 to 128" in d.post("/v1/embeddings", input="a", truncate_prompt_tokens=most).json()["error"]["message"]


def test_a_step_bounds_the_length(embed):
    d = embed(engine__max_batch_tokens=32, engine__max_batch_size=8)
    assert d.http.get("/v1/models").json()["data"][0]["max_model_len"] == 32
    assert d.post("/v1/embeddings", input=[[5] * 32]).status_code == 200
    assert "at most 32 tokens" in d.post("/v1/embeddings", input=[[5] * 33]).json()["error"]["message"]


# --- pairs -------------------------------------------------------------------------------------


def score(tokenizer, first, second, n=None):
    e = tokenizer.encode(first, second)
    ids, types = e.ids, e.type_ids
    return 1 / (1 + math.exp(-vector(ids, 1, types, normalize=False)[0]))


def test_rerank(scorer, scorer_model):
    tokenizer = scorer_model[1]
    documents = [text(i) for i in range(30)]
    expected = sorted(((score(tokenizer, "what is it", t), -i) for i, t in enumerate(documents)), reverse=True)
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        answer = scorer.post(path, model=NAME, query="what is it", documents=[documents[0], *({"text": t} for t in documents[1:])])
        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        assert [r["index"] for r in results] == [-i for _, i in expected]
        assert [r["relevance_score"] for r in results] == pytest.approx([s for s, _ in expected], abs=1e-6)
        assert all(r["document"]["text"] == documents[r["index"]] for r in results)
    best = scorer.post("/v1/rerank", query="what is it", documents=documents, top_n=3, return_documents=False).json()
    assert best["results"] == [{"index": -i, "relevance_score": pytest.approx(s, abs=1e-6)} for s, i in expected[:3]]
    assert best["usage"]["total_tokens"] == sum(len(tokenizer.encode("what is it", t).ids) for t in documents)
    assert len(scorer.post("/v1/rerank", query="q", documents=["a"], top_n=5).json()["results"]) == 1
    scorer.wait_rest()


def test_score(scorer, scorer_model):
    tokenizer = scorer_model[1]
    many = [text(i) for i in range(9)]

    def ask(one, two, path="/v1/score", **more):
        answer = scorer.post(path, model=NAME, text_1=one, text_2=two, **more)
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        assert [(d["index"], d["object"]) for d in data] == [(i, "score") for i in range(len(data))]
        return pytest.approx([d["score"] for d in data], abs=1e-6)

    assert [score(tokenizer, "a b", "c")] == ask("a b", "c")
    assert [score(tokenizer, "a b", t) for t in many] == ask("a b", many)
    assert [score(tokenizer, "a b", t) for t in many] == ask(["a b"], many, path="/score")
    assert [score(tokenizer, t, u) for t, u in zip(many, many[::-1])] == ask(many, many[::-1])
    long = " ".join(WORDS * 20)
    tokenizer.enable_truncation(50)
    assert [score(tokenizer, long, "short"), score(tokenizer, long, long)] == ask(long, ["short", long], truncate_prompt_tokens=50)
    tokenizer.no_truncation()


def test_no_document_ends_itself(scorer, scorer_model):
    """A document that spells [SEP] is words: it cannot pretend to be two texts."""
    results = {}
    for t in ("a [SEP] b", "a b"):
        results[t] = scorer.post("/v1/score", text_1="q", text_2=t).json()
    tokenizer = scorer_model[1]
    assert 3 in tokenizer.encode("a [SEP] b", add_special_tokens=False).ids
    assert results["a [SEP] b"]["usage"]["total_tokens"] == len(tokenizer.encode("q", "a [ sep ] b").ids)


def test_scores_of_a_model_on_the_cpu(start, tmp_path):
    """A small RoBERTa with one label, whose logits transformers gave (tests/golden/make_encoders.py): its ids are spelled as words."""
    folder = ROOT / "tests/golden/encoders/roberta_score"
    shutil.copytree(folder, tmp_path / "model")
    cases = [c for c in json.loads((folder / "golden.json").read_text())["cases"] if len(c["tokens"]) > 1 and not any(c["types"])]
    words = {"[UNK]": 0, **{f"w{i}": i for i in range(1, json.loads((folder / "config.json").read_text())["vocab_size"])}}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A:0 $B:0", special_tokens=[])
    tokenizer.save(str(tmp_path / "model/tokenizer.json"))
    d = start({"devices": "cpu:0"}, model=tmp_path / "model")
    assert len(cases) >= 2
    spelled = [[f"w{i}" for i in c["tokens"]] for c in cases]
    answer = d.post("/v1/score", text_1=[s[0] for s in spelled], text_2=[" ".join(s[1:]) for s in spelled])
    assert answer.status_code == 200, answer.text
    expected = [1 / (1 + math.exp(-c["vector"][0])) for c in cases]
    assert [item["score"] for item in answer.json()["data"]] == pytest.approx(expected, abs=1e-3)


# --- what is wrong ---------------------------------------------------------------------------------

BAD = [  # body, param, part of the message
    ({}, "input", "is required"),
    ({"input": 5}, "input", "a string, a list of strings"),
    ({"input": []}, "input", "at least one text, got an empty list"),
    ({"input": [[]]}, "input[0]", "has no tokens"),
    ({"input": ["a", 5]}, "input[1]", "a string or a list of token ids, got 5"),
    ({"input": ["a", {"text": "b"}]}, "input[1]", "a string or a list of token ids, got an object"),
    ({"input": [5, "a"]}, "input", "a token id from 0 to 699, got a string"),
    ({"input": [5, -1]}, "input", "a token id from 0 to 699, got -1"),
    ({"input": [[5], [700]]}, "input[1]", "input[1][0]: expected a token id from 0 to 699, got 700"),
    ({"input": [1.5]}, "input", "a token id from 0 to 699, got 1.5"),
    ({"input": ["a"] * 2049}, "input", "at most 2048 texts, got 2049"),
    ({"input": "a", "encoding_format": "int8"}, "encoding_format", "float or base64"),
    ({"input": "a", "encoding_format": 5}, "encoding_format", "float or base64"),
    ({"input": "a", "dimensions": 0}, "dimensions", "an integer from 1"),
    ({"input": "a", "dimensions": 17}, "dimensions", "from 1 to 16"),
    ({"input": "a", "dimensions": "4"}, "dimensions", "an integer"),
    ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "-1"),
    ({"input": "a", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "-1"),
    ({"input": "a", "priority": "soon"}, "priority", "low, normal"),
    ({"input": "a", "timeout_ms": 0}, "timeout_ms", "an integer from 1"),
    ({"input": "a", "user": 5}, "user", "a string"),
    ({"input": "a", "temperature": 1}, "temperature", "not a field of this endpoint"),
    ({"input": "a", "top_n": 1}, "top_n", "not a field of this endpoint"),
]
BAD_RERANK = [
    ({"documents": ["a"]}, "query", "is required"),
    ({"query": "a"}, "documents", "is required"),
    ({"query": ["a"], "documents": ["a"]}, "query", "a string"),
    ({"query": "a", "documents": "a"}, "documents", "a list of strings"),
    ({"query": "a", "documents": []}, "documents", "at least one text"),
    ({"query": "a", "documents": ["a", 5]}, "documents[1]", "a string or an object with a text, got 5"),
    ({"query": "a", "documents": [{"title": "b"}]}, "documents[0]", "a string or an object with a text, got an object"),
    ({"query": "a", "documents": [{"text": 5}]}, "documents[0]", "a string or an object with a text"),
    ({"query": "a", "documents": ["a"] * 2049}, "documents", "at most 2048"),
    ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n", "an integer from 1"),
    ({"query": "a", "documents": ["a"], "return_documents": 1}, "return_documents", "true or false"),
    ({"query": "word " * 200, "documents": ["a"]}, "query", "at most 128 tokens"),
    ({"query": "a", "documents": ["a", "word " * 200]}, "documents[1]", "at most 128 tokens"),
    ({"query": "word " * 70, "documents": ["a", "word " * 70]}, "documents[1]", "at most 128 tokens"),
    ({"query": "a", "documents": ["a"], "input": "a"}, "input", "not a field"),
]
BAD_SCORE = [
    ({"text_1": "a"}, "text_2", "is required"),
    ({"text_1": 5, "text_2": "a"}, "text_1", "a string or a list of strings"),
    ({"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1", "as many as text_2 has (3), got 2"),
    ({"text_1": [], "text_2": []}, "text_2", "at least one text"),
    ({"text_1": "a", "text_2": ["b", None]}, "text_2[1]", "a string, got null"),
    ({"text_1": "a", "text_2": {"text": "b"}}, "text_2", "a string or a list"),
]


def assert_refused(d, path, cases):
    for body, param, part in cases:
        answer = d.post(path, **body)
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"] == param and part in error["message"], (str(body)[:200], error)
        assert error["type"] == "invalid_request_error"
    assert d.total("tokenlane_steps_total") <= 2  # the test vectors of the boot


def test_bad_embeddings(embed):
    assert_refused(embed(), "/v1/embeddings", BAD)


def test_bad_pairs(scorer):
    assert_refused(scorer, "/v1/rerank", BAD_RERANK)
    assert_refused(scorer, "/v1/score", BAD_SCORE)


def without_row(make, folder):
    """A model whose tokenizer has tokens beyond its 200 rows, such as some that were added later; and a word that is one."""
    folder, tokenizer = make(folder, vocab_size=200)
    word = next(w for w, i in sorted(tokenizer.get_vocab().items()) if i >= 200 and w.isalpha() and tokenizer.encode(w, add_special_tokens=False).ids == [i])
    return folder, word


def test_tokens_that_the_model_has_no_row_for(start, tmp_path):
    part = "is not one of the model's 200"
    folder, bad = without_row(embedders.write, tmp_path / "embed")
    assert_refused(start(devices(1), model=folder), "/v1/embeddings", [({"input": bad}, "input", part), ({"input": ["a", bad]}, "input[1]", part)])
    folder, bad = without_row(embedders.write_scorer, tmp_path / "score")
    d = start(devices(1), model=folder)
    assert_refused(d, "/v1/score", [({"text_1": "a", "text_2": ["a", bad]}, "text_2[1]", part), ({"text_1": bad, "text_2": "a"}, "text_1", part),
                                    ({"text_1": [bad, "a"], "text_2": ["a", "b"]}, "text_1[0]", part)])
    assert_refused(d, "/v1/rerank", [({"query": "a", "documents": [bad]}, "documents[0]", part)])


def test_wrong_kind_of_model(embed, scorer, daemon, start, tmp_path):
    one = embed(1)
    bodies = {"/v1/embeddings": {"input": "a"}, "/v1/rerank": {"query": "a", "documents": ["b"]}, "/v1/score": {"text_1": "a", "text_2": "b"},
              "/v1/completions": {"prompt": "a"}, "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]}}
    right = {one: ["/v1/embeddings"], scorer: ["/v1/rerank", "/v1/score"], daemon: ["/v1/completions", "/v1/chat/completions"]}
    for d, paths in right.items():
        for path, body in bodies.items():
            answer = d.post(path, **body)
            if path in paths:
                assert answer.status_code == 200, answer.text
                continue
            error = answer.json()["error"]
            assert answer.status_code == 400 and error["param"] == "model" and f"'{NAME}'" in error["message"], error
            assert all(p in error["message"] for p in paths), error
    assert one.post("/v1/embeddings", model="other", input="a").status_code == 404
    assert [d.http.get("/v1/models").json()["data"][0]["task"] for d in right] == ["embed", "score", "generate"]
    labels = start(devices(1), model=embedders.write_scorer(tmp_path / "labels", 3)[0])
    assert labels.http.get("/v1/models").json()["data"][0]["task"] == "classify"
    assert "3 labels" in labels.post("/v1/rerank", **bodies["/v1/rerank"]).json()["error"]["message"]
    assert one.post("/tokenize", prompt="a").json()["count"] == 3


# --- load, cancels, faults ------------------------------------------------------------------------------


def test_more_inputs_than_the_queue_holds(embed, model):
    d, tokenizer = embed(1, limits__max_queue=100, engine__max_batch_size=16), model[1]
    texts = [text(i) for i in range(1000)]
    check(embeddings(d, texts)["data"], texts, tokenizer)
    d.wait_rest()


@pytest.mark.parametrize("places", [1, 2, 8, 40])
def test_a_short_queue(embed, model, places):
    """A request of more texts than the queue ever holds is fed in parts, and leaves half of the places to others."""
    d, tokenizer = embed(1, limits__max_queue=places, engine__max_batch_size=2, sim__base_us=10000), model[1]
    texts = [text(i) for i in range(120)]
    large = []
    thread = threading.Thread(target=lambda: large.append(embeddings(d, texts)))
    thread.start()
    wait_for(lambda: d.total("tokenlane_sequences_waiting") + d.total("tokenlane_sequences_running") > 0, what="the large one")
    most, refused, n = 0, 0, 0
    while places > 1 and thread.is_alive():
        answer = d.post("/v1/embeddings", input="one more")
        refused += answer.status_code != 200
        n += 1
        most = max(most, d.total("tokenlane_sequences_waiting") + d.total("tokenlane_sequences_running"))
    thread.join()
    assert refused == 0 and (n > 0 or places == 1) and most <= places // 2 + 1  # the last of the others may still be counted
    check(large[0]["data"], texts, tokenizer)
    d.wait_rest()


def test_overload(embed, model):
    """The queue full: 429 that says when; those who wait are served."""
    d, tokenizer = embed(1, limits__max_queue=70, engine__max_batch_size=4, sim__base_us=30000), model[1]
    texts = [text(i) for i in range(200)]
    large = []
    threads = [threading.Thread(target=lambda: large.append(httpx.post(d.url + "/v1/embeddings", json={"input": texts}, timeout=60 * SLOW)))
               for _ in range(2)]
    for t, n in zip(threads, (30, 64)):  # one request alone has at most half
        t.start()
        wait_for(lambda: d.total("tokenlane_sequences_waiting") + d.total("tokenlane_sequences_running") > n, what="a full queue")  # noqa: B023
    answers = [d.post("/v1/embeddings", input=["a"] * 10) for _ in range(40)]
    refused = [a for a in answers if a.status_code == 429]
    assert refused and all(1 <= int(a.headers["Retry-After"]) <= 60 for a in refused)
    assert all(a.json()["error"]["code"] == "server_overloaded" for a in refused)
    for t in threads:
        t.join()
    served = [a for a in large if a.status_code == 200]
    assert served
    for answer in served:
        check(answer.json()["data"], texts, tokenizer)
    d.wait_rest()


def test_client_leaves(embed):
    d = embed(1, engine__max_batch_size=1, sim__base_us=50000)
    body = '{"input":[' + ",".join(['"a b c"'] * 300) + "]}"
    with socket.create_connection(("127.0.0.1", d.port)) as s:
        s.sendall(f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        wait_for(lambda: d.total("tokenlane_sequences_waiting") > 10, what="the queue")
    began = d.total("tokenlane_steps_total")
    d.wait_rest()
    assert d.total("tokenlane_steps_total") - began < 100  # most of it was never computed
    assert d.total("tokenlane_cancelled_requests_total") == 1


def test_timeout(embed):
    d = embed(1, engine__max_batch_size=1, sim__base_us=50000)
    answer = d.post("/v1/embeddings", input=["a"] * 100, timeout_ms=300)
    assert answer.status_code == 504 and answer.json()["error"]["param"] == "timeout_ms"
    d.wait_rest()


def test_faults_move_inputs(embed, model):
    """One of three devices fails again and again: every vector is right, no request notices."""
    faults = ",".join(f"0@{step}:{kind}" for step, kind in ((8, "error"), (20, "die"), (40, "hang"), (60, "error")))
    d = embed(3, engine__max_batch_size=8, sim__faults=faults, health__late_ms=300, health__backoff_ms=20, health__max_faults=0)
    tokenizer = model[1]
    texts = [text(i) for i in range(150)]
    end = time.monotonic() + 60 * SLOW
    while d.total("tokenlane_resubmitted_sequences_total") < 10 or d.total("tokenlane_steps_total", replica="0") < 65:
        check(embeddings(d, texts)["data"], texts, tokenizer)
        assert time.monotonic() < end
    d.wait_rest()


def test_no_device_left(embed):
    """Two faults in steps that computed it: 500, and nothing hangs."""
    d = embed(2, sim__faults="0@2:error,1@2:error", health__backoff_ms=60000, health__max_backoff_ms=60000)
    answer = d.post("/v1/embeddings", input="a")
    assert answer.status_code == 500, answer.text
    assert answer.json()["error"]["type"] == "server_error"
    d.wait_rest()
    assert d.post("/v1/embeddings", input="a").status_code == 503


# --- traces ----------------------------------------------------------------------------------------------


def test_traced(embed, collect):  # noqa: F811
    collector = collect()
    d = embed(1, trace__endpoint=collector.url)
    answer = d.http.post("/v1/embeddings", json={"input": ["a b", "c"]}, headers={"traceparent": PARENT})
    assert answer.status_code == 200
    root, children = collector.wait_request(TRACE)
    assert [s.name for s in sorted(children, key=lambda s: s.start)][:3] == ["parse", "tokenize", "route"]
    assert sorted(s.name for s in children) == sorted(["parse", "tokenize", "route", "queue", "queue", "prefill", "prefill", "write"])
    assert root.attributes["gen_ai.operation.name"] == "embeddings"
    assert root.attributes["gen_ai.usage.input_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert root.attributes["gen_ai.response.id"] == answer.json()["id"]
    assert "gen_ai.usage.output_tokens" not in root.attributes


def test_devices_in_processes_of_their_own(embed, model):
    """The same vectors through shared memory, also after a process was killed."""
    d, tokenizer = embed(2, isolation="process", health__backoff_ms=20, engine__max_batch_size=16), model[1]
    texts = [text(i) for i in range(100)]
    check(embeddings(d, texts)["data"], texts, tokenizer)
    children = pathlib.Path(f"/proc/{d.process.pid}/task/{d.process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[0]), signal.SIGKILL)
    for _ in range(3):
        check(embeddings(d, texts)["data"], texts, tokenizer)
    d.wait_log(r"state=ready")
    check(embeddings(d, texts)["data"], texts, tokenizer)
    d.wait_rest()


def test_pairs_in_processes_of_their_own(start, scorer_model):
    d, tokenizer = start(devices(1, isolation="process"), model=scorer_model[0]), scorer_model[1]
    got = d.post("/v1/score", text_1="a b", text_2=["c", "d e"]).json()["data"]
    assert [g["score"] for g in got] == pytest.approx([score(tokenizer, "a b", t) for t in ("c", "d e")], abs=1e-6)
