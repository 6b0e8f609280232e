# SPDX-License-Identifier: MIT
"""Traces of the real daemon: W3C headers, OTLP to a collector of our own, trace files, log levels by admin."""
import base64
import http.server
import json
import re
import socket
import threading
import time

import httpx
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from daemon import LONG, SLOW, events, wait_for

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
CHILDREN = ["parse", "tokenize", "route", "queue", "prefill", "decode", "detokenize", "write"]


def to_protobuf(body):
    """OTLP's JSON as protobuf: the types themselves refuse what they do not know. Ids are hexadecimal in
    OTLP and base64 in protobuf's own JSON."""
    message = json.loads(body)
    for span in message["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for name in ("traceId", "spanId", "parentSpanId"):
            if name in span:
                assert re.fullmatch("[0-9a-f]+", span[name]), span
                span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    return json_format.ParseDict(message, ExportTraceServiceRequest())


def plain(value):
    kind = value.WhichOneof("value")
    return [plain(v) for v in value.array_value.values] if kind == "array_value" else getattr(value, kind)


class Span:
    def __init__(self, span, resource):
        self.name, self.trace, self.id = span.name, span.trace_id.hex(), span.span_id.hex()
        self.parent, self.state = span.parent_span_id.hex(), span.trace_state
        self.start, self.end = span.start_time_unix_nano, span.end_time_unix_nano
        self.kind, self.status, self.flags, self.resource = span.kind, span.status.code, span.flags, resource
        self.attributes = {a.key: plain(a.value) for a in span.attributes}
        assert len(span.trace_id) == 16 and len(span.span_id) == 8 and len(span.parent_span_id) in (0, 8)

    def __repr__(self):
        return f"<{self.name} {self.attributes}>"


class Collector:
    """OTLP/HTTP on a port of its own; `answer(request number)` -> (status, headers) or None for silence."""

    def __init__(self, answer=lambda n: (200, {})):
        self.spans, self.n_requests, self.ending = [], 0, threading.Event()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                assert self.path == "/v1/traces" and self.headers["Content-Type"] == "application/json"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.n_requests += 1
                says = answer(collector.n_requests)
                if says is None:
                    collector.ending.wait()
                    return
                status, headers = says
                if status == 200:
                    for resource in to_protobuf(body).resource_spans:
                        about = {a.key: plain(a.value) for a in resource.resource.attributes}
                        collector.spans += [Span(s, about) for scope in resource.scope_spans for s in scope.spans]
                self.send_response(status)
                for header in headers.items():
                    self.send_header(*header)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1/traces"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.ending.set()
        self.server.shutdown()
        self.server.server_close()

    def wait_request(self, trace, seconds=20):
        """The root span of a trace and its children by name, once the root has come."""
        def look():
            roots = [s for s in self.spans if s.trace == trace and s.kind == 2]
            return roots and roots[0]
        root = wait_for(look, seconds, f"trace {trace}")
        return root, [s for s in list(self.spans) if s.trace == trace and s is not root]


@pytest.fixture
def collect():
    made = []

    def begin(*arguments):
        made.append(Collector(*arguments))
        return made[-1]
    yield begin
    for collector in made:
        collector.close()


def ask(d, headers=None, **fields):
    body = {"model": "demo", "messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0, **fields}
    return d.http.post("/v1/chat/completions", json=body, headers=headers or {})


def parts(answer):
    return re.fullmatch("00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])", answer.headers["traceparent"]).groups()


def by_name(spans):
    out = {}
    for span in sorted(spans, key=lambda s: s.start):
        out.setdefault(span.name, []).append(span)
    return out


def check_nesting(root, children):
    for child in children:
        assert child.parent == root.id and child.kind == 1, child
        assert root.start <= child.start <= child.end <= root.end, (child, child.start - root.start, root.end - child.end)
    assert len({s.id for s in [root, *children]}) == 1 + len(children)


# --- a request's spans ------------------------------------------------------------------------------------

@pytest.mark.parametrize("stream", [False, True])
def test_spans_of_a_request(start, collect, stream):
    c = collect()
    d = start({"trace.endpoint": c.url, "log.access": "true", "trace.service_name": "my service"})
    before = time.time_ns()
    answer = ask(d, max_tokens=20, stream=stream, stream_options={"include_usage": True} if stream else None)
    after = time.time_ns()
    assert answer.status_code == 200
    whole = answer.json() if not stream else events(answer.iter_lines())[-1]
    trace, span, flags = parts(answer)
    assert flags == "01" and answer.headers["x-request-id"] == trace  # one id to look for
    d.wait_log(rf"module=access msg=request .* request_id={trace} trace_id={trace}\n")
    root, children = c.wait_request(trace)
    assert root.id == span and root.parent == "" and root.name == "POST /v1/chat/completions"
    a = root.attributes
    assert a["tokenlane.request_id"] == trace and a["http.request.method"] == "POST"
    assert a["http.route"] == a["url.path"] == "/v1/chat/completions"
    assert a["http.response.status_code"] == 200 and root.status == 0 and "error.type" not in a
    assert a["gen_ai.operation.name"] == "chat" and a["gen_ai.request.model"] == "demo"
    assert a["gen_ai.usage.input_tokens"] == whole["usage"]["prompt_tokens"]
    assert a["gen_ai.usage.output_tokens"] == whole["usage"]["completion_tokens"] == 20
    assert a["gen_ai.response.finish_reasons"] == ["length"] and a["gen_ai.response.id"] == whole["id"]
    assert a["tokenlane.replica"] == 0 and a["tokenlane.stream"] is stream and a["gen_ai.request.choice.count"] == 1
    assert root.resource["service.name"] == "my service" and root.resource["service.version"]
    wait_for(lambda: len(c.wait_request(trace)[1]) == len(CHILDREN), 20, "all spans")
    root, children = c.wait_request(trace)
    names = by_name(children)
    assert sorted(names) == sorted(CHILDREN) and all(len(s) == 1 for s in names.values())
    check_nesting(root, children)
    in_order = [names[n][0] for n in ("parse", "tokenize", "route", "queue", "prefill", "decode")]
    for one, next_one in zip(in_order, in_order[1:]):
        assert one.end <= next_one.start, (one, next_one)
    assert names["detokenize"][0].start >= names["decode"][0].start
    assert before - 10**7 <= root.start <= root.end <= after + 10**7 * SLOW
    assert names["tokenize"][0].attributes["gen_ai.usage.input_tokens"] == whole["usage"]["prompt_tokens"]
    assert names["prefill"][0].attributes["tokenlane.tokens"] == whole["usage"]["prompt_tokens"]
    assert names["decode"][0].attributes["tokenlane.tokens"] == 20
    assert names["detokenize"][0].attributes["tokenlane.tokens"] == 20
    assert names["write"][0].attributes["tokenlane.bytes"] > len(answer.content)
    wait_for(lambda: d.total("tokenlane_trace_spans_exported_total") == len(c.spans))


def test_choices_prompts_and_chunks(start, collect):
    """Each choice has its spans; a long prompt has a span for each chunk; a large body is read by a text lane."""
    c = collect()
    d = start({"trace.endpoint": c.url, "devices": "sim:0", "engine.max_batch_tokens": 64, "sim.base_us": 1000,
               "engine.prefix_cache": "false"})
    prompt = [5 + i % 50 for i in range(200)]
    answer = d.post("/v1/completions", model="demo", prompt=prompt, max_tokens=4, n=1)
    trace = parts(answer)[0]
    wait_for(lambda: any(s.name == "decode" for s in c.wait_request(trace)[1]))
    names = by_name(c.wait_request(trace)[1])
    chunks = [(s.attributes["tokenlane.position"], s.attributes["tokenlane.tokens"]) for s in names["prefill"]]
    assert len(chunks) >= 4 and sum(n for _, n in chunks) == 200
    assert all(a + n == b for (a, n), (b, _) in zip(chunks, chunks[1:])) and chunks[0][0] == 0
    answer = ask(d, n=3, max_tokens=5)
    root, _ = c.wait_request(parts(answer)[0])
    wait_for(lambda: len(by_name(c.wait_request(root.trace)[1]).get("detokenize", [])) == 3)
    root, children = c.wait_request(root.trace)
    check_nesting(root, children)
    names = by_name(children)
    for name in ("queue", "decode", "detokenize"):
        assert sorted(s.attributes["tokenlane.choice"] for s in names[name]) == [0, 1, 2], name
    assert root.attributes["gen_ai.usage.output_tokens"] == 15 and root.attributes["gen_ai.request.choice.count"] == 3
    answer = ask(d, messages=[{"role": "user", "content": "word " * 100}], max_tokens=1, user="x" * 9000)
    root, children = c.wait_request(parts(answer)[0])
    assert root.attributes["http.response.status_code"] == 200
    assert by_name(children)["parse"][0].attributes["http.request.body.size"] > 9000


# --- W3C Trace Context --------------------------------------------------------------------------------------

def test_traceparent_is_continued(start, collect):
    c = collect()
    d = start({"trace.endpoint": c.url, "trace.sample_per_mille": 0, "log.access": "true"})
    answer = ask(d, {"traceparent": PARENT, "tracestate": "congo=t61rcWkgMzE,rojo=1", "X-Request-Id": "mine"}, max_tokens=3)
    trace, span, flags = parts(answer)
    assert trace == TRACE and span != SPAN and flags == "01"
    assert answer.headers["tracestate"] == "congo=t61rcWkgMzE,rojo=1" and answer.headers["x-request-id"] == "mine"
    root, _ = c.wait_request(TRACE)
    assert root.parent == SPAN and root.id == span and root.state == "congo=t61rcWkgMzE,rojo=1"
    assert root.flags & 0x301 == 0x301 and root.attributes["tokenlane.request_id"] == "mine"
    d.wait_log(rf"request_id=mine trace_id={TRACE}\n")
    # not sampled by the caller: continued, not exported
    answer = ask(d, {"traceparent": PARENT[:-2] + "00"}, max_tokens=3)
    assert parts(answer)[0] == TRACE and parts(answer)[2] == "00"
    # the same id twice is no id; nor is a wrong one. Then nothing is sampled, by trace.sample_per_mille
    for headers in ([("traceparent", PARENT), ("traceparent", PARENT)], [("traceparent", PARENT.upper())],
                    [("traceparent", PARENT + "-more")], [("traceparent", "ff" + PARENT[2:])], [("traceparent", "")],
                    [("traceparent", "00-" + "0" * 32 + PARENT[35:])], [("traceparent", "x" * 8000)]):
        answer = ask(d, [*headers, ("tracestate", "a=b")], max_tokens=3)
        trace, _, flags = parts(answer)
        assert trace != TRACE and flags == "00" and "tracestate" not in answer.headers, headers
        assert answer.headers["x-request-id"] == trace
    # a bad tracestate does not spoil the traceparent; several are one list
    answer = ask(d, [("traceparent", PARENT), ("tracestate", "a=b"), ("tracestate", "c=d")], max_tokens=3)
    assert answer.headers["tracestate"] == "a=b,c=d"
    answer = ask(d, [("traceparent", PARENT), ("tracestate", "a=b"), ("tracestate", "A=")], max_tokens=3)
    assert parts(answer)[0] == TRACE and "tracestate" not in answer.headers
    time.sleep(1.2)
    assert {s.trace for s in c.spans} == {TRACE} and len([s for s in c.spans if s.kind == 2]) == 3


def test_nothing_is_traced_unless_asked_for(start):
    d = start()
    answer = ask(d, {"traceparent": PARENT}, max_tokens=3)
    assert answer.status_code == 200 and "traceparent" not in answer.headers
    assert d.total("tokenlane_trace_spans_exported_total") == 0


def test_errors(start, collect):
    c = collect()
    d = start({"trace.endpoint": c.url})
    answer = ask(d, max_tokens=-5)
    assert answer.status_code == 400
    root, children = c.wait_request(parts(answer)[0])
    assert root.attributes["http.response.status_code"] == 400 and root.status == 0  # the client's business
    assert [s.name for s in children if s.status == 2] == ["parse"]
    answer = ask(d, timeout_ms=1, max_tokens=LONG)
    assert answer.status_code == 504
    trace = parts(answer)[0]
    root, _ = c.wait_request(trace)
    assert root.status == 2 and root.attributes["error.type"] == "504"
    d.wait_log(rf"level=warn module=api msg=\"a request failed\" status=504 reason=.* request_id={trace} trace_id={trace}\n")
    body = {"model": "demo", "messages": [{"role": "user", "content": "Go on."}], "stream": True, "max_tokens": LONG,
            "ignore_eos": True}
    with d.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_lines())
        trace = parts(answer)[0]
    root, _ = c.wait_request(trace)
    assert root.status == 2 and root.attributes["error.type"] == "client_disconnected"
    wait_for(lambda: by_name(c.wait_request(trace)[1]).get("decode"))
    assert by_name(c.wait_request(trace)[1])["decode"][0].attributes["error.type"] == "cancelled"


def test_resubmitted_request_shows_both_tries(start, collect):
    c = collect()
    d = start({"trace.endpoint": c.url, "devices": "sim:0,sim:1", "sim.base_us": 5000, "route.policy": "round_robin",
               "sim.faults": "0@10:error"})
    answers = [ask(d, max_tokens=20) for _ in range(2)]
    again = next(a for a in answers if len(by_name(c.wait_request(parts(a)[0])[1]).get("queue", [])) == 2)
    root, children = c.wait_request(parts(again)[0])
    names = by_name(children)
    assert again.status_code == 200 and root.status == 0
    tries = {(s.attributes["tokenlane.try"], s.attributes["tokenlane.replica"]) for s in names["queue"]}
    assert {t for t, _ in tries} == {1, 2} and len({r for _, r in tries}) == 2
    assert len(names["route"]) == 2
    failed = [s for s in children if s.status == 2]
    assert failed and all(s.attributes["error.type"] == "device_fault" and s.attributes["tokenlane.try"] == 1 for s in failed)
    assert sum(s.attributes["tokenlane.tokens"] for s in names["decode"]) == 20 and len(names["decode"]) == 2
    check_nesting(root, children)


# --- collectors that are not well ------------------------------------------------------------------------------

def slowest(d, n):
    longest = 0
    for _ in range(n):
        began = time.monotonic()
        assert ask(d, max_tokens=2).status_code == 200
        longest = max(longest, time.monotonic() - began)
    return longest


def test_dead_collectors_cost_nothing(start, collect):
    """Refused, silent or failing: requests are as fast as without a trace, SIGTERM ends the daemon soon."""
    plain_d = start()
    allowed = max(slowest(plain_d, 100) * 10, 0.5 * SLOW)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{s.getsockname()[1]}/v1/traces"
    silent, failing = collect(lambda n: None), collect(lambda n: (500, {}))
    for url in (refused, silent.url, failing.url):
        d = start({"trace.endpoint": url})
        assert slowest(d, 100) < allowed, url
        if url == failing.url:
            wait_for(lambda: d.total("tokenlane_trace_spans_lost_total", reason="failed") > 0)
            d.wait_log(r'module=trace msg="the collector does not take spans" reason="the collector answered with status 500"\n')
        began = time.monotonic()
        d.stop()
        assert time.monotonic() - began < 10 * SLOW, url


def test_collector_that_comes_back(start, collect):
    c = collect(lambda n: (503, {"Retry-After": "1"}) if n < 3 else (200, {}))
    d = start({"trace.endpoint": c.url})
    trace = parts(ask(d, max_tokens=2))[0]
    c.wait_request(trace, 30)
    assert c.n_requests >= 3 and d.total("tokenlane_trace_spans_lost_total") == 0
    last = parts(ask(d, max_tokens=2))[0]
    d.stop()  # sends what is left
    assert [s for s in c.spans if s.trace == last and s.kind == 2]


# --- the operator's side --------------------------------------------------------------------------------------------

@pytest.fixture
def operated(start, tmp_path):
    """operated(options) -> (daemon, client of its admin socket)"""
    clients = []

    def begin(options=()):
        path = tmp_path / "admin.sock"
        d = start({"admin.unix": path, **dict(options)})
        clients.append(httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://admin", timeout=60 * SLOW))
        return d, clients[-1]
    yield begin
    for client in clients:
        client.close()


def check_track(spans):
    """Events of a track must nest, or viewers throw them away."""
    open_until = []
    for e in sorted(spans, key=lambda e: (e["ts"], -e["dur"])):
        while open_until and open_until[-1] <= e["ts"] + 1e-3:
            open_until.pop()
        assert not open_until or e["ts"] + e["dur"] <= open_until[-1] + 1e-3, e
        open_until.append(e["ts"] + e["dur"])


def test_trace_file(operated):
    d, admin = operated({"http.threads": 2, "devices": "sim:0,sim:1", "sim.base_us": 2000})
    got = {}
    asking = threading.Thread(target=lambda: got.update(file=admin.get("/admin/trace?seconds=2")))
    asking.start()
    wait_for(lambda: "traceparent" in ask(d, max_tokens=2).headers, 10, "the recording")
    ids = [ask(d, max_tokens=10, n=2, stream=i % 2 == 1).headers["x-request-id"] for i in range(6)]
    with httpx.Client(transport=httpx.HTTPTransport(uds=d.options["admin.unix"]), base_url="http://admin") as other:
        assert other.get("/admin/trace?seconds=1").status_code == 429  # one at a time
        assert other.get("/admin/replicas").status_code == 200         # nor is the loop held
    asking.join()
    answer = got["file"]
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    trace = answer.json()
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    tracks = {}
    for e in spans:
        assert e["dur"] >= 0 and (e["pid"], e["tid"]) in names
        tracks.setdefault((e["pid"], e["tid"]), []).append(e)
    for track in tracks.values():
        check_track(track)
    assert {"loop 0", "loop 1", "worker 0", "worker 1"} <= set(names.values())
    assert set(ids) <= set(names.values())
    assert {e["name"] for e in spans} >= {*CHILDREN, "step", "POST /v1/chat/completions"}
    steps = [e for e in spans if e["name"] == "step"]
    assert all(names[e["pid"], e["tid"]].startswith("worker") for e in steps)
    roots = [e for e in spans if e["name"] == "POST /v1/chat/completions" and e["args"]["tokenlane.request_id"] in ids]
    assert len(roots) == len(ids) and all(e["args"]["gen_ai.usage.output_tokens"] == 20 for e in roots)
    # over: nothing is recorded any more
    assert "traceparent" not in ask(d, max_tokens=2).headers
    # nobody waits for it: the next one can be made
    with pytest.raises(httpx.ReadTimeout):
        httpx.Client(transport=httpx.HTTPTransport(uds=d.options["admin.unix"]), timeout=0.2).get("http://a/admin/trace?seconds=60")
    wait_for(lambda: admin.get("/admin/trace?seconds=1").status_code == 200, 20)


@pytest.mark.parametrize("query", ["", "?seconds=0", "?seconds=61", "?seconds=-1", "?seconds=1e9", "?seconds=1x",
                                   "?seconds=99999999999999999999", "?second=1", "?xseconds=1", "?seconds"])
def test_wrong_seconds(operated, query):
    _, admin = operated()
    answer = admin.get("/admin/trace" + query)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "seconds"


def test_stop_while_a_trace_file_is_made(operated):
    d, admin = operated()
    failed = []

    def get():
        try:
            admin.get("/admin/trace?seconds=60")
        except httpx.TransportError as e:
            failed.append(e)
    asking = threading.Thread(target=get)
    asking.start()
    wait_for(lambda: "traceparent" in ask(d, max_tokens=2).headers, 10, "the recording")
    began = time.monotonic()
    d.stop()
    assert time.monotonic() - began < 10 * SLOW
    asking.join()
    assert failed


def test_log_levels(operated):
    d, admin = operated({"log.modules": "engine=warn"})
    levels = admin.get("/admin/log").json()["modules"]
    assert levels["engine"] == "warn" and levels["http"] == "info" and levels["access"] == "error"
    assert admin.post("/admin/log/http?level=debug").json()["modules"] == {**levels, "http": "debug"}
    d.wait_log(r'module=api msg="an operator set a log level" of_module=http to=debug\n')
    assert admin.post("/admin/log/access?level=info").status_code == 200
    wanted = ask(d, max_tokens=2).headers["x-request-id"]
    d.wait_log(f"module=access msg=request .* request_id={wanted}")
    admin.post("/admin/log/access?level=error")
    assert set(admin.post("/admin/log/all?level=error").json()["modules"].values()) == {"error"}
    ask(d, {"X-Request-Id": "unseen"}, max_tokens=2)
    for path, status in (("/admin/log/http?level=loud", 400), ("/admin/log/http", 400), ("/admin/log/nothing?level=info", 404),
                         ("/admin/log/http?level=" + "x" * 100, 400), ("/admin/log/?level=info", 404)):
        assert admin.post(path).status_code == status, path
    time.sleep(0.2)
    assert "unseen" not in d.stderr()


def test_wrong_keys():
    from daemon import MODEL, run
    for option, message in (("trace.endpoint=localhost:4318", "trace.endpoint: expected a URL"),
                            ("trace.service_name=", "trace.service_name: expected a name"),
                            ("trace.sample_per_mille=1001", "trace.sample_per_mille: expected")):
        code, _, stderr = run("check-config", f"--{option}", "--model.path", MODEL)
        assert code == 1 and message in stderr, stderr
