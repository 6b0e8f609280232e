# SPDX-License-Identifier: MIT
"""Requests large enough to be read by a text lane instead of the loop."""
import concurrent.futures
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
