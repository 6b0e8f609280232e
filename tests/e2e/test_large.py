# SPDX-License-Identifier: MIT
"""Requests large enough to be read by a text lane instead of the loop."""
import concurrent.futures
import json
import socket
import time

import httpx
import pytest

from daemon import NAME, SLOW, wait_for

LONG_TEXT = "Ben is a fisherman. He lives in Saltbay. " * 25_000  # 1 MiB


@pytest.fixture(scope="module", params=[0, 1, 3])
def lanes(request, tmp_path_factory):
    from daemon import Daemon
    d = Daemon(tmp_path_factory.mktemp("lanes") / "log", {"text.threads": request.param})
    yield d
    d.wait_rest()
    d.stop()


def test_lane_and_loop_read_alike(lanes, daemon):
    """The same fields, errors and answers whoever reads them."""
    pad = " " * 20_000  # makes any body large
    for body in ('{"prompt": "Ben is a", "max_tokens": 8, "temperature": 0}', '{"prompt": 5}', '{"prompt": "a", "n": 0}',
                 '{"prompt": "a"', '{"prompt": "a", "stop": ["x", "y"], "logprobs": 2, "echo": true, "temperature": 0}'):
        large = lanes.http.post("/v1/completions", content=body + pad)
        small = lanes.http.post("/v1/completions", content=body)
        assert large.status_code == small.status_code
        if small.status_code == 200:
            assert large.json()["choices"] == small.json()["choices"] and large.json()["usage"] == small.json()["usage"]
        else:
            assert large.json()["error"].keys() == small.json()["error"].keys()
            assert large.json()["error"]["param"] == small.json()["error"]["param"]
    chat = [{"role": "user", "content": "Who is Anna?"}]
    assert (lanes.post("/v1/chat/completions", messages=chat, temperature=0, user=pad).json()["choices"]
            == lanes.post("/v1/chat/completions", messages=chat, temperature=0).json()["choices"])


def test_streams_from_a_lane(lanes):
    body = {"model": NAME, "prompt": "Once", "max_tokens": 20, "stream": True, "ignore_eos": True, "user": "u" * 20_000,
            "temperature": 0, "stream_options": {"include_usage": True}}
    with lanes.http.stream("POST", "/v1/completions", json=body) as answer:
        text = "".join(answer.iter_text())
    assert text.endswith("data: [DONE]\n\n") and '"completion_tokens":20' in text


def test_text_of_a_mebibyte(lanes):
    answer = lanes.post("/tokenize", prompt=LONG_TEXT)
    assert answer.status_code == 200
    assert lanes.post("/detokenize", tokens=answer.json()["tokens"]).json()["prompt"] == LONG_TEXT


def test_the_client_leaves_meanwhile(lanes):
    before = lanes.total("tokenlane_cancelled_requests_total")
    for _ in range(4):
        with pytest.raises(httpx.TimeoutException):
            httpx.post(lanes.url + "/tokenize", json={"prompt": LONG_TEXT * 4}, timeout=httpx.Timeout(60 * SLOW, read=0.001))
    assert lanes.complete("a", max_tokens=2)["choices"]
    if lanes.options["text.threads"] != "0":  # a loop that reads itself notices only when it has answered
        wait_for(lambda: lanes.total("tokenlane_cancelled_requests_total") > before, what="a client that left")


def test_others_go_on(start):
    """While a lane reads, its loop answers: many times as often as when it must read itself."""
    def answers_meanwhile(d):
        n = 0
        with concurrent.futures.ThreadPoolExecutor() as pool:
            work = [pool.submit(lambda: httpx.post(d.url + "/tokenize", json={"prompt": LONG_TEXT * 4}, timeout=60 * SLOW).status_code)
                    for _ in range(2)]
            time.sleep(0.02)  # until they are under way
            while not all(w.done() for w in work):
                assert d.http.get("/health").status_code == 200
                n += 1
            assert all(w.result() == 200 for w in work)
        return n
    alone, with_lane = (answers_meanwhile(start({"text.threads": n, "http.max_body_bytes": 1 << 24})) for n in (0, 1))
    assert with_lane > alone, (with_lane, alone)


def test_ends_while_a_lane_reads(start):
    d = start({"text.threads": 2, "drain_timeout_ms": 50})
    with concurrent.futures.ThreadPoolExecutor() as pool:
        work = [pool.submit(lambda: httpx.post(d.url + "/tokenize", json={"prompt": LONG_TEXT * 4}, timeout=60 * SLOW)) for _ in range(6)]
        time.sleep(0.05)
        d.signal()
        assert d.wait_exit() == 0
        for w in work:
            w.exception()  # answered or cut, but over


def test_unseeded_answers_differ(lanes):
    """Each call draws with a seed of its own, though lanes give them back together."""
    def ask(_):
        return lanes.post("/v1/completions", prompt="Tell me a story about", temperature=2, max_tokens=24, ignore_eos=True,
                          user="u" * 200_000).json()["choices"][0]["text"]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        texts = list(pool.map(ask, range(12)))
    assert len(set(texts)) >= 11, texts


def test_what_clients_left_is_not_read(start):
    """One lane with a backlog of clients that are gone: the next is served soon, and the end comes soon."""
    d = start({"text.threads": 1, "drain_timeout_ms": 100})
    body = json.dumps({"prompt": LONG_TEXT * 6}).encode()
    head = f"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    began = time.monotonic()
    assert httpx.post(d.url + "/tokenize", content=body, timeout=60 * SLOW).status_code == 200
    one = time.monotonic() - began
    for _ in range(8):
        with socket.create_connection(("127.0.0.1", d.port)) as s:
            s.sendall(head + body)
    wait_for(lambda: d.total("tokenlane_cancelled_requests_total") >= 7, what="clients that left")
    assert d.post("/v1/completions", prompt="a", max_tokens=1, user="u" * 20_000, timeout_ms=60_000 * SLOW).status_code == 200
    d.wait_rest()
    backlog = [socket.create_connection(("127.0.0.1", d.port)) for _ in range(6)]
    for s in backlog:
        s.sendall(head + body)
    d.signal()
    began = time.monotonic()
    assert d.wait_exit() == 0
    assert time.monotonic() - began < 4 * one + 2 * SLOW  # the job in hand, not all six
    for s in backlog:
        s.close()


def test_backlog_is_bounded(start):
    d = start({"text.threads": 1, "http.max_body_bytes": 1 << 26})
    body = json.dumps({"prompt": LONG_TEXT * 24}).encode()  # 24 MiB: the third or fourth is too much
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: httpx.post(d.url + "/tokenize", content=body, timeout=120 * SLOW), range(6)))
    codes = sorted(a.status_code for a in answers)
    assert codes[0] == 200 and codes[-1] == 429 and set(codes) == {200, 429}
    assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 429)
