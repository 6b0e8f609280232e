# SPDX-License-Identifier: MIT
"""HTTP/1.1 on the wire: raw bytes to the real daemon, good and hostile."""
import contextlib
import json
import pathlib
import select
import signal
import socket
import struct
import threading
import time

import pytest

from daemon import LONG, MODEL, NAME, SAN, SLOW, Daemon, events, wait_for
from simulated import Vocabulary
from wire import Wire

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SMALL = {"prompt": "a", "max_tokens": 1, "temperature": 0}
BODY = json.dumps(SMALL).encode()
ENDLESS = {"prompt": "Once upon a time", "max_tokens": LONG, "ignore_eos": True, "stream": True, "temperature": 0}
GET = "GET /health HTTP/1.1\r\nHost: a\r\n"
POST = f"POST {TEXT} HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + "Transfer-Encoding: chunked\r\n\r\n"
BEHIND = "GET /version HTTP/1.1\r\nHost: a\r\n\r\n"  # must not be taken for a request after an error


@pytest.fixture
def wire(daemon):
    with Wire(daemon.port) as w:
        yield w


@pytest.fixture(scope="module")
def tight(tmp_path_factory):
    """A daemon with small limits; its unix socket is tight.path."""
    folder = tmp_path_factory.mktemp("tight")
    d = Daemon(folder / "log", {"http.max_body_bytes": 1024, "http.max_header_bytes": 512, "http.max_headers": 10,
                                "http.max_url_bytes": 64, "http.max_write_queue_bytes": 65536, "http.unix": folder / "socket"})
    d.path = str(folder / "socket")
    yield d
    d.wait_rest()
    d.stop()


def reset(w):
    """Ends the connection with a reset instead of an orderly end."""
    w.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    w.socket.close()


# --- connections ------------------------------------------------------------------------------
def test_keep_alive(wire):
    for i in range(100):
        answer = wire.get("/health").expect(200)
        assert answer.json() == {"status": "ok"} and answer.field("connection") is None
    wire.post(TEXT, **SMALL).expect(200)
    assert wire.get("/health", "Connection: close").expect(200).field("connection") == "close"
    wire.expect_end()


def test_http_1_0(daemon):
    with Wire(daemon.port) as w:
        assert w.get("/health", version="1.0").expect(200).field("connection") == "close"
        w.expect_end()
    with Wire(daemon.port) as w:
        for _ in range(3):
            assert w.get("/health", "Connection: keep-alive", version="1.0").expect(200).field("connection") == "keep-alive"
        w.send("GET /health HTTP/1.0\r\n\r\n").expect(200)  # it knew no Host
        w.expect_end()


def test_http_1_0_stream_ends_with_the_connection(daemon):
    content = json.dumps({**SMALL, "max_tokens": 5, "stream": True})
    with Wire(daemon.port) as w:
        answer = w.send(f"POST {TEXT} HTTP/1.0\r\nContent-Length: {len(content)}\r\n\r\n{content}").expect(200)
        assert answer.field("transfer-encoding") is None and answer.body.endswith(b"data: [DONE]\n\n")


def test_pipelined_answers_keep_their_order(wire):
    for n in range(1, 13):  # some take long, some are answered at once
        wire.post(TEXT, **{**SMALL, "max_tokens": n, "ignore_eos": True})
        wire.get("/health").get("/nowhere")
    for n in range(1, 13):
        assert wire.expect(200).json()["usage"]["completion_tokens"] == n
        assert wire.expect(200).json() == {"status": "ok"}
        wire.expect(404).error()


def test_pieces_of_any_size(wire):
    request = CHUNKED.encode() + b"%x;a=b\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(BODY), BODY)
    whole = wire.send(request).expect(200).json()["choices"]
    for size in (1, 2, 3, 7, 64):
        pieces = [request[i:i + size] for i in range(0, len(request), size)]
        assert wire.send(*pieces).expect(200).json()["choices"] == whole


def test_empty_lines_before_a_request(wire):
    wire.send("\r\n\r\n", GET, "\r\n").expect(200)


@pytest.mark.parametrize("target", ["/health?", "/health?a=/../b", "http://a/health", "HTTP://a:80/health?x", "/health?%zz"])
def test_forms_of_the_target(wire, target):
    wire.get(target).expect(200)


@pytest.mark.parametrize("host", ["", "a", "a:", "a:80", "127.0.0.1:8080", "[::1]", "[::1]:80", "a_b.c-d~", "xn--bcher-kva.example"])
def test_good_hosts(wire, host):
    wire.send(f"GET /health HTTP/1.1\r\nHost:{host}\r\n\r\n").expect(200)


# --- bodies --------------------------------------------------------------------------------------
def chunks_of(content, size):
    return b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in
                    (content[i:i + size] for i in range(0, len(content), size)))


@pytest.mark.parametrize("coded", [
    chunks_of(BODY, 1) + b"0\r\n\r\n", chunks_of(BODY, 10) + b"0\r\n\r\n", b"%016x\r\n%b\r\n000\r\n\r\n" % (len(BODY), BODY),
    b"%x;x;y=z\r\n%b\r\n0;q=\"a b\"\r\n\r\n" % (len(BODY), BODY), b"%x\r\n%b\r\n0\r\nA: b\r\nC: d\r\n\r\n" % (len(BODY), BODY)])
def test_chunked_bodies(wire, coded):
    wire.send(CHUNKED, coded, BEHIND)
    assert wire.expect(200).json()["usage"]["completion_tokens"] == 1
    assert "version" in wire.expect(200).json()


def test_chunked_has_any_case(wire):
    wire.send(POST, "TRANSFER-ENCODING:\t Chunked \r\n\r\n", chunks_of(BODY, 9), "0\r\n\r\n").expect(200)


def test_body_of_a_get_is_not_a_request(wire):
    wire.send(GET, f"Content-Length: {len(BEHIND)}\r\n\r\n", BEHIND).expect(200)
    wire.get("/nowhere").expect(404)


@pytest.mark.parametrize("framing, body", [(f"Content-Length: {len(BODY)}", BODY), ("Transfer-Encoding: chunked", chunks_of(BODY, 8) + b"0\r\n\r\n")])
def test_expect_continue(wire, framing, body):
    for _ in range(2):
        wire.send(POST, framing, "\r\nExpect: 100-Continue\r\n\r\n")
        assert wire.answer().status == 100
        wire.send(body).expect(200)


def test_expectations_that_fail(wire, tight):
    wire.send(POST, "Content-Length: 5\r\nExpect: a-cup-of-tea\r\n\r\n")
    assert "100-continue" in wire.expect_refusal(417)
    with Wire(tight.port) as w:  # no interim answer where the body is refused
        w.send(POST, "Content-Length: 1025\r\nExpect: 100-continue\r\n\r\n").expect_refusal(413)


# --- methods and paths ---------------------------------------------------------------------------------
@pytest.mark.parametrize("path, status", [("/health", 200), ("/v1/models", 200), ("/version", 200), ("/ready", 200), ("/nowhere", 404), (TEXT, 405)])
def test_head_is_get_without_a_body(wire, path, status):
    known, bare = wire.get(path).expect(status), wire.get(path, method="HEAD").answer(to_head=True)
    assert bare.status == status
    own = ("date", "x-request-id")
    assert [f for f in bare.fields if f[0] not in own] == [f for f in known.fields if f[0] not in own]
    wire.get("/health").expect(200)  # nothing of a body came


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/completions/", "/V1/COMPLETIONS", "//health", "/health/", "/v1/../health", "/%68ealth", "*"])
def test_not_found(wire, path):
    assert wire.get(path).expect(404).error()["type"] == "invalid_request_error"
    wire.post(path, **SMALL).expect(404)


@pytest.mark.parametrize("path, meant", [("/chat/completions", CHAT), ("/v1/v1/chat/completions", CHAT), ("/v1/completions/", TEXT), ("/v1/models/", "/v1/models"),
                                         ("//health", "/health"), ("/models", "/v1/models"), ("/openai/v1/completions//", TEXT)])
def test_paths_that_are_nearly_right(wire, path, meant):
    """As they come of a base URL with a /v1 too few or too many."""
    assert wire.get(path).expect(404).error()["message"] == f"there is nothing at this path, but at {meant}"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/files", "/s", "/ompletions", "/xhealth", "/v1/COMPLETIONS"])
def test_paths_that_are_wrong(wire, path):
    assert wire.get(path).expect(404).error()["message"] == "there is nothing at this path"


@pytest.mark.parametrize("path, allowed", [(TEXT, "POST"), (CHAT, "POST"), ("/tokenize", "POST"), ("/health", "GET, HEAD"), ("/metrics", "GET, HEAD"),
                                           ("/v1/models", "GET, HEAD")])
def test_method_not_allowed(wire, path, allowed):
    for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} - set(allowed.split(", ")):
        answer = wire.get(path, "Content-Length: 0", method=method).answer(to_head=method == "HEAD")
        assert (answer.status, answer.field("allow")) == (405, allowed)


# --- limits -----------------------------------------------------------------------------------------------
def body_of(length):
    content = json.dumps({**SMALL, "metadata": {"x": ""}})
    return content.replace('"x": ""', '"x": "' + "x" * (length - len(content)) + '"').encode()


def test_largest_body(tight):
    with Wire(tight.port) as w:
        w.send(POST, "Content-Length: 1024\r\n\r\n", body_of(1024)).expect(200)
        w.send(CHUNKED, chunks_of(body_of(1024), 100), "0\r\n\r\n").expect(200)
        w.send(POST, "Content-Length: 1025\r\n\r\n", body_of(1025), BEHIND).expect_refusal(413)
    with Wire(tight.port) as w:
        w.send(CHUNKED, chunks_of(body_of(1025), 100), "0\r\n\r\n", BEHIND).expect_refusal(413)


@pytest.mark.parametrize("length", ["1099511627776", "18446744073709551615"])
def test_announced_bodies_are_refused_at_once(tight, length):
    with Wire(tight.port) as w:
        w.send(POST, f"Content-Length: {length}\r\n\r\n").expect_refusal(413)


def test_answer_to_a_body_that_is_sent_on_is_not_lost(tight):
    """A client that sends everything before it reads gets the 413 and no reset."""
    with Wire(tight.port) as w:
        w.send(POST, "Content-Length: 500000\r\n\r\n", "x" * 500000).expect_refusal(413)


def test_longest_target(tight):
    with Wire(tight.port) as w:
        w.get("/health?" + "x" * 56).expect(200)
        w.get("/health?" + "x" * 57).send(BEHIND).expect_refusal(414)
    with Wire(tight.port) as w:
        w.send("GET /", "x" * 100000).expect_refusal(414)


def test_largest_header(tight):
    line = "X: " + "x" * (512 - len("Host: a\r\nX: \r\n\r\n"))
    with Wire(tight.port) as w:
        w.get("/health", line).expect(200)
        w.get("/health", line + "x").send(BEHIND).expect_refusal(431)
    with Wire(tight.port) as w:
        w.get("/health", *["A: b"] * 9).expect(200)
        w.get("/health", *["A: b"] * 10).send(BEHIND).expect_refusal(431)
    for endless in ("x" * 100000, "X: " + "x" * 100000, "X: x\r\n" * 10000):
        with Wire(tight.port) as w:
            w.send(GET, endless).expect_refusal(431)


def test_trailers_are_bounded_like_headers(tight):
    with Wire(tight.port) as w:
        w.send(CHUNKED, chunks_of(BODY, 50), "0\r\n", "A: " + "x" * 600 + "\r\n\r\n").expect_refusal(431)


def test_number_of_connections(start):
    d = start({"http.max_connections": 5})
    d.wait_rest()
    d.http.close()
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(d.port)) for _ in range(5)]
        for w in wires:
            w.get("/health").expect(200)
        for _ in range(3):
            with Wire(d.port) as more:
                more.expect_end()
        for w in wires:
            w.get("/health").expect(200)
    def again():
        with Wire(d.port) as w:
            with contextlib.suppress(BrokenPipeError):
                w.get("/health")
            return w.more()
    wait_for(again, what="room for a connection")


# --- time -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """A daemon that does not wait long."""
    d = Daemon(tmp_path_factory.mktemp("hasty") / "log", {
        "http.header_timeout_ms": 300, "http.body_timeout_ms": 300, "http.idle_timeout_ms": 600})
    yield d
    d.stop()


@pytest.mark.parametrize("begin", ["G", "GET /health HTTP/1.1\r\n", GET, GET + "X: y\r\n\r", POST + "Content-Length: 5\r\n\r\n",
                                   POST + "Content-Length: 5\r\n\r\n1234", CHUNKED, CHUNKED + "5\r\n123", CHUNKED + "1\r\n1\r\n0\r\n"])
def test_half_requests_get_408(hasty, begin):
    with Wire(hasty.port) as w:
        w.send(begin).expect_refusal(408)


@pytest.mark.parametrize("begin", [GET + "X: ", POST + "Content-Length: 1000\r\n\r\n"])
def test_dripping_does_not_help(hasty, begin):
    with Wire(hasty.port) as w:
        w.send(begin)
        def drip():
            w.socket.settimeout(0.02)
            with contextlib.suppress(TimeoutError):
                return w.more()
            w.send("x")
        wait_for(drip, what="408")
        w.expect_refusal(408)


def test_what_came_while_the_daemon_stood_still_is_in_time(hasty):
    """Stopped, or in a debugger, or its machine was paused: the limits are for clients, and these bytes were there."""
    with Wire(hasty.port) as w:
        w.send(POST, f"Content-Length: {len(BODY)}\r\n\r\n", BODY[:3])
        hasty.http.get("/health")  # it has read so much
        hasty.signal(signal.SIGSTOP)
        try:
            w.send(BODY[3:])
            time.sleep(1.5)
        finally:
            hasty.signal(signal.SIGCONT)
        w.expect(200)


def test_idle_connections_are_closed_without_a_word(hasty):
    with Wire(hasty.port) as fresh, Wire(hasty.port) as used, Wire(hasty.port) as busy:
        used.get("/health").expect(200)
        busy.post(TEXT, **ENDLESS)
        fresh.expect_end()
        used.expect_end()
        assert busy.expect(200).body.endswith(b"data: [DONE]\n\n")  # who waits for an answer is not idle


# --- what is no request ---------------------------------------------------------------------------------------
NO_HEADER = {
    "no Host": ("GET /health HTTP/1.1\r\n\r\n", 400), "two Hosts": (GET + "Host: a\r\n\r\n", 400),
    **{f"Host {host!r}": (f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n", 400) for host in
       ("a b", "a,b", "a/b", "http://a", "a@b", "a:b", "a:80:80", "[::1", "[::1]x", "[a.example]", "a\tb", "<a>", "a\\b", "\xe4.example")},
    "folded line": (GET + "X: y\r\n z\r\n\r\n", 400), "line folded by a tab": (GET + "X: y\r\n\tz\r\n\r\n", 400),
    "first line folded": ("GET /health HTTP/1.1\r\n Host: a\r\n\r\n", 400), "space before the colon": (GET + "X : y\r\n\r\n", 400),
    "tab before the colon": (GET + "X\t: y\r\n\r\n", 400), "space before Content-Length's colon": (POST + "Content-Length : 3\r\n\r\nabc", 400),
    "empty name": (GET + ": y\r\n\r\n", 400), "no colon": (GET + "Xy\r\n\r\n", 400), "name with a space": (GET + "X Y: z\r\n\r\n", 400),
    "name in brackets": (GET + "(X): z\r\n\r\n", 400), "name with a high byte": (GET.encode() + b"X\xe4: z\r\n\r\n", 400),
    "NUL in a name": (GET + "X\0: y\r\n\r\n", 400), "NUL in a value": (GET + "X: y\0z\r\n\r\n", 400),
    "control byte in a value": (GET + "X: y\x01\r\n\r\n", 400), "DEL in a value": (GET + "X: y\x7f\r\n\r\n", 400),
    "bare CR in a value": (GET + "X: y\rz\r\n\r\n", 400), "bare LF": (GET + "X: y\n\r\n", 400), "only LF": ("GET /health HTTP/1.1\nHost: a\n\n", 400),
    "header ended by a bare LF": (GET + "\n", 400),
}
NO_LINE = {
    **{f"target with {byte!r}": (b"GET /a" + byte + b"b HTTP/1.1\r\nHost: a\r\n\r\n", 400) for byte in
       (b"\0", b"\x01", b"\t", b"\x1f", b"\x7f", b"\x80", b"\xc3\xa4", b"\r")},
    "two spaces": ("GET  /health HTTP/1.1\r\nHost: a\r\n\r\n", 400), "target with a space": ("GET /he alth HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two spaces before the version": ("GET /health  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space behind the version": ("GET /health HTTP/1.1 \r\nHost: a\r\n\r\n", 505), "space before the method": (" GET /health HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "no target": ("GET HTTP/1.1\r\nHost: a\r\n\r\n", 400), "no slash": ("GET health HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "other scheme": ("GET ftp://a/health HTTP/1.1\r\nHost: a\r\n\r\n", 400), "scheme without host": ("GET http:///health HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "HTTP/0.9": ("GET /health\r\n\r\n", 505), "HTTP/1.2": ("GET /health HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "HTTP/2.0": ("GET /health HTTP/2.0\r\nHost: a\r\n\r\n", 505), "HTTP/2's preface": ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/1.10": ("GET /health HTTP/1.10\r\nHost: a\r\n\r\n", 505), "http/1.1": ("GET /health http/1.1\r\nHost: a\r\n\r\n", 400),
    "unknown method": ("BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n", 501), "method in small letters": ("get /health HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "CONNECT": ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400), "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
}
NO_FRAMING = {
    "both lengths": (POST + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "both, the other way round": (POST + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400), "the same length twice": (POST + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    **{f"length {length!r}": (POST + f"Content-Length: {length}\r\n\r\nabc", 400) for length in
       ("", "-3", "+3", "3,3", "3 3", "0x3", "3.0", "three", "18446744073709551616")},
    "two codings": (POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "coding in HTTP/1.0": (CHUNKED.replace("1.1", "1.0") + "0\r\n\r\n", 400),
    **{f"coding {coding!r}": (POST + f"Transfer-Encoding: {coding}\r\n\r\n0\r\n\r\n", status) for coding, status in
       {"gzip": 501, "identity": 501, "gzip, chunked": 501, "chunked, gzip": 400, "xchunked": 501, "chunked;q=1": 501, "": 501}.items()},
    **{f"chunk size {size!r}": (CHUNKED + size + "\r\nabc\r\n0\r\n\r\n", 400) for size in
       ("", "x", "-3", "+3", "0x3", " 3", "3 ", "3\t", "3 4", "3.0", "g", "10000000000000003", "ffffffffffffffffff")},
    "chunk that is longer": (CHUNKED + "3\r\nabcd\r\n0\r\n\r\n", 400), "chunk without CR": (CHUNKED + "3\r\nabc\n0\r\n\r\n", 400),
    "chunk size without CR": (CHUNKED + "3\nabc\r\n0\r\n\r\n", 400), "last chunk without CR": (CHUNKED + "0\n\r\n", 400),
    "long extension": (CHUNKED + "3;" + "x" * 1500 + "\r\nabc\r\n0\r\n\r\n", 400),
    "long value of an extension": (CHUNKED + "3;x=" + "y" * 1500 + "\r\nabc\r\n0\r\n\r\n", 400),
    "many extensions": (CHUNKED + ("1;" + "x" * 200 + "\r\na\r\n") * 8 + "0\r\n\r\n", 400),
    "control byte in an extension": (CHUNKED + "3;x\x01\r\nabc\r\n0\r\n\r\n", 400), "bare LF in an extension": (CHUNKED + "3;x\nabc\r\n0\r\n\r\n", 400),
    **{f"content in {coding}": (POST + f"Content-Encoding: {coding}\r\nContent-Length: 2\r\n\r\n{{}}", 415) for coding in ("gzip", "br", "identity, gzip")},
    "folded trailer": (CHUNKED + "0\r\nA: b\r\n c\r\n\r\n", 400), "trailer without a name": (CHUNKED + "0\r\n: b\r\n\r\n", 400),
    "control byte in a trailer": (CHUNKED + "0\r\nA: \x02\r\n\r\n", 400),
}
WRONG = {**NO_HEADER, **NO_LINE, **NO_FRAMING}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_end_the_connection(daemon, name):
    """They get one answer that says what is wrong; what stands behind them is not read as a request."""
    request, status = WRONG[name]
    request = request if isinstance(request, bytes) else request.encode("latin-1")
    with Wire(daemon.port) as w:
        w.get("/health").expect(200)  # the first request proves nothing about the second
        w.send(request, BEHIND).expect_refusal(status)


# --- unix socket ---------------------------------------------------------------------------------------------
def test_unix_socket(tight):
    with Wire(tight.path) as w, Wire(tight.port) as other:
        answers = [x.post(TEXT, **{**SMALL, "max_tokens": 8}).expect(200).json()["choices"] for x in (w, other)]
        assert answers[0] == answers[1]
        w.send("nonsense\r\n\r\n").expect_refusal(501)


# --- clients that go, clients that do not read ----------------------------------------------------------------------
def counters(d):
    return d.total("tokenlane_cancelled_requests_total"), d.total("tokenlane_generated_tokens_total")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("leave", [lambda w: w.socket.close(), reset, lambda w: w.socket.shutdown(socket.SHUT_WR)], ids=["close", "reset", "half"])
def test_a_client_that_goes_cancels_its_work(daemon, stream, leave):
    cancelled, generated = counters(daemon)
    with Wire(daemon.port) as w:
        w.post(TEXT, **{**ENDLESS, "n": 16, "stream": stream})
        wait_for(lambda: daemon.total("tokenlane_sequences_running") > 0, what="a running sequence")
        if stream:
            w.head()
            w.chunk()
        leave(w)
        wait_for(lambda: counters(daemon)[0] == cancelled + 1, what="the cancelled request")
        daemon.wait_rest()
    assert counters(daemon)[1] - generated < 16 * LONG


def test_a_client_that_goes_takes_its_pipeline_along(daemon):
    cancelled, _ = counters(daemon)
    with Wire(daemon.port) as w:
        for _ in range(5):
            w.post(TEXT, **{**ENDLESS, "n": 4})
        w.head()
    wait_for(lambda: counters(daemon)[0] == cancelled + 1, what="the cancelled request")
    daemon.wait_rest()
    assert counters(daemon)[0] == cancelled + 1  # the others had not begun


MANY = min(LONG, 500)
BIG = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": MANY, "ignore_eos": True, "stream": True,
       "temperature": 0, "n": 2, "logprobs": True, "top_logprobs": 20}  # more than 1 KB a token


def test_slow_client_is_cut_while_others_go_on(start, tmp_path):
    d = start({"http.write_timeout_ms": 500, "http.max_write_queue_bytes": 4096, "http.unix": tmp_path / "socket"})
    with Wire(str(tmp_path / "socket")) as slow, Wire(str(tmp_path / "socket")) as patient:
        slow.post(CHAT, **BIG)
        patient.post(CHAT, **{**BIG, "n": 1})
        got = []
        reader = threading.Thread(target=lambda: got.append(patient.expect(200).body))
        reader.start()
        answers = [d.complete("Once upon a time", max_tokens=10)["choices"] for _ in range(10)]
        reader.join()
        assert answers.count(answers[0]) == 10 and got[0].endswith(b"data: [DONE]\n\n")
        wait_for(lambda: counters(d)[0] == 1, 60, "the slow client's end")
        d.wait_rest()
        wait_for(lambda: d.total("tokenlane_http_connections") == 2, what="its connection to close")
        while slow.more():
            continue
        assert slow.got.startswith(b"HTTP/1.1 200 OK\r\n") and b"[DONE]" not in slow.got and not slow.got.endswith(b"0\r\n\r\n")


def resident_bytes(d):
    return int(pathlib.Path(f"/proc/{d.process.pid}/statm").read_text().split()[1]) * 4096


def test_write_queue_is_bounded(tight):
    """All is generated, yet not turned into bytes before the client reads; then nothing is missing."""
    tight.chat("Hello", max_tokens=4, n=2, logprobs=True, top_logprobs=20)  # memory that all requests share
    generated, memory = counters(tight)[1], resident_bytes(tight)
    with Wire(tight.path) as w:
        w.post(CHAT, **BIG)
        wait_for(lambda: counters(tight)[1] - generated == 2 * MANY, 60, "all tokens")
        wait_for(lambda: tight.total("tokenlane_sequences_running") == 0, what="the end of the sequences")
        memory = resident_bytes(tight) - memory
        body = w.expect(200).body
    events = [json.loads(line[6:]) for line in body.decode().split("\n\n") if line not in ("", "data: [DONE]")]
    assert body.endswith(b"data: [DONE]\n\n") and (SAN or memory < len(body) / 2), (memory, len(body))
    for i in range(2):
        mine = [e["choices"][0] for e in events if e["choices"][0]["index"] == i]
        assert sum(len(c["logprobs"]["content"]) for c in mine if c["logprobs"]) == MANY and mine[-1]["finish_reason"] == "length"


def test_many_half_requests_hinder_nobody(daemon):
    before = daemon.total("tokenlane_http_connections")
    with contextlib.ExitStack() as stack:
        for i in range(200):
            stack.enter_context(Wire(daemon.port)).send((GET + "X: ", CHUNKED + "5\r\n", "G")[i % 3])
        for _ in range(20):
            assert daemon.complete("a", max_tokens=2)["choices"]
    wait_for(lambda: daemon.total("tokenlane_http_connections") <= before + 1, what="connections to close")


def test_clients_on_all_loops_at_once(daemon):
    """Streams, plain answers, refusals and cut connections side by side."""
    failures = []

    def one(seed):
        try:
            for i in range(6):
                with Wire(daemon.port) as w:
                    w.post(TEXT, **{**ENDLESS, "max_tokens": 20, "stream": bool(i & 1), "model": NAME})
                    if (seed + i) % 3 == 0:
                        continue  # gone
                    assert b"choices" in w.expect(200).body
                    w.send("GET / HTTP/1.1\r\n\r\n").expect_refusal(400)
        except Exception as e:  # pylint: disable=broad-except
            failures.append(e)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    daemon.wait_rest()


def test_a_client_that_goes_behind_its_pipeline(daemon):
    """So much was sent ahead that the server does not read on: it sees the end all the same."""
    made = counters(daemon)[1]
    with Wire(daemon.port) as w:
        w.post(TEXT, prompt="Once", n=8, max_tokens=LONG, ignore_eos=True)
        wait_for(lambda: counters(daemon)[1] > made, what="its first tokens")
        w.send((GET + "\r\n") * 3000)  # more than it reads ahead, less than its socket holds
    daemon.wait_rest()
    assert counters(daemon)[1] - made < 8 * LONG, "all was generated for nobody"


def test_a_finished_stream_does_not_wait_for_its_reader(start, tmp_path):
    """Once all is generated only bytes wait for a client that reads nothing, and it still gets all of them."""
    words = Vocabulary(MODEL)
    d = start({"devices": "sim:0", "sim.base_us": 100, "sim.per_token_ns": 0, "http.max_write_queue_bytes": 4096,
               "http.unix": tmp_path / "socket"})
    with Wire(str(tmp_path / "socket")) as w:
        w.post(TEXT, prompt=[5, 6], n=8, max_tokens=900, ignore_eos=True, stream=True, temperature=0, model=NAME)
        wait_for(lambda: d.total("tokenlane_generation_seconds_count") == 1, what="the request's end")
        d.wait_rest()
        texts = [""] * 8
        for event in events(w.expect(200).body.decode().split("\n")):
            texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert texts == [words.expected_text([5, 6], 900)] * 8


def fill(w):
    """Sends requests until no socket buffer takes more; how many bytes."""
    w.socket.setblocking(False)
    sent = 0
    while select.select([], [w.socket], [], 0.3)[1]:
        with contextlib.suppress(BlockingIOError):
            sent += w.socket.send((GET + "\r\n").encode() * 3000)
    w.socket.settimeout(20 * SLOW)
    return sent


def test_a_client_that_goes_behind_more_than_sockets_hold(start):
    """The end of its input cannot even reach the server's socket: something must be said to it to learn that nobody listens."""
    d = start({"devices": "sim:0", "sim.base_us": 20000})
    with Wire(d.port) as w:
        w.post(TEXT, prompt="Once", n=8, max_tokens=LONG, ignore_eos=True)
        wait_for(lambda: d.total("tokenlane_sequences_running") == 8, what="its sequences")
        assert fill(w) > 1 << 17
    wait_for(lambda: d.total("tokenlane_cancelled_requests_total") == 1, 5, "the cancelled request")
    d.wait_rest()
    assert counters(d)[1] < 8 * LONG, "all was generated for nobody"


def test_a_client_behind_much_that_stays(start):
    """What it is told meanwhile is no answer, and it gets that."""
    d = start({"devices": "sim:0", "sim.base_us": 20000})
    with Wire(d.port) as w:
        w.post(TEXT, prompt="Once", max_tokens=120, ignore_eos=True)
        sent = fill(w)
        answers = [w.answer()]
        while answers[-1].status == 102:
            answers.append(w.answer())
        assert len(answers) > 1 and answers[-1].status == 200 and answers[-1].json()["usage"]["completion_tokens"] == 120
        for _ in range(min(sent // len(GET + "\r\n"), 100)):
            w.expect(200)


def test_stop_strings_without_a_reader(tight):
    """They end the work although nothing of it can be sent."""
    before = counters(tight)[1]
    fields = {"prompt": "Once", "n": 16, "max_tokens": MANY, "stop": ["a", "e", "i", "o"], "min_tokens": 10, "ignore_eos": True,
              "logprobs": 20, "stream": True}
    with Wire(tight.path) as w:
        w.post(TEXT, **fields)
        tight.wait_rest()
    assert counters(tight)[1] - before < 16 * MANY / 2
