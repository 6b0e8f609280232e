# SPDX-License-Identifier: MIT
"""/metrics as Prometheus reads it, and what else the daemon says of itself."""
import contextlib
import os
import pathlib
import re
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon import LONG, NAME, ROOT, SLOW, wait_for
from wire import Wire

HTTP = {"route", "code"}
SERIES = [  # name without the ending of its kind, kind, labels
    ("tokenlane_http_requests", "counter", HTTP), ("tokenlane_http_request_seconds", "histogram", {"route"}),
    ("tokenlane_http_connections", "gauge", set()), ("tokenlane_http_received_bytes", "counter", set()),
    ("tokenlane_http_sent_bytes", "counter", set()), ("tokenlane_cancelled_requests", "counter", set()),
    ("tokenlane_sequences_running", "gauge", {"model", "replica"}), ("tokenlane_sequences_waiting", "gauge", {"model", "replica"}),
    ("tokenlane_prompt_tokens", "counter", {"model", "replica"}), ("tokenlane_generated_tokens", "counter", {"model", "replica"}),
    ("tokenlane_kv_blocks_used", "gauge", {"model", "replica"}), ("tokenlane_kv_blocks", "gauge", {"model", "replica"}),
    ("tokenlane_time_to_first_token_seconds", "histogram", {"model", "replica"}),
    ("tokenlane_time_between_tokens_seconds", "histogram", {"model", "replica"}), ("tokenlane_generation_seconds", "histogram", set()),
    ("tokenlane_queue_seconds", "histogram", {"model", "replica"}), ("tokenlane_step_seconds", "histogram", {"model", "replica"}),
    ("tokenlane_steps", "counter", {"model", "replica"}), ("tokenlane_preemptions", "counter", {"model", "replica"}),
    ("tokenlane_route_seconds", "histogram", {"model"}), ("tokenlane_route_refused", "counter", {"model", "reason"}),
    ("tokenlane_build_info", "gauge", {"version"}), ("process_cpu_seconds", "counter", set()),
    ("process_resident_memory_bytes", "gauge", set()), ("process_virtual_memory_bytes", "gauge", set()),
    ("process_open_fds", "gauge", set()), ("process_max_fds", "gauge", set()), ("process_start_time_seconds", "gauge", set()),
]


def families(daemon):
    return {f.name: f for f in text_string_to_metric_families(daemon.http.get("/metrics").text)}


class Growth:
    """What counters grew by since it was made."""

    def __init__(self, daemon):
        daemon.wait_rest()
        self.daemon, self.before = daemon, daemon.metrics()

    def __call__(self, name, **labels):
        old = sum(v for (n, l), v in self.before.items() if n == name and labels.items() <= dict(l).items())
        return self.daemon.total(name, **labels) - old


@pytest.fixture
def growth(daemon):
    return Growth(daemon)


# --- the format --------------------------------------------------------------------------------------


def test_metrics_are_plain_text(daemon):
    answer = daemon.http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize("name, kind, labels", SERIES)
def test_series(daemon, name, kind, labels):
    daemon.complete("Once", max_tokens=2)
    family = families(daemon)[name]
    assert family.type == kind and family.documentation and family.samples
    assert all(s.labels.keys() - {"le"} == labels and s.value >= 0 for s in family.samples)


def test_no_series_comes_twice_and_no_family_in_pieces(daemon):
    text = daemon.http.get("/metrics").text
    series = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
    heads = re.findall(r"^# TYPE (\S+)", text, re.M)
    assert len(series) == len(set(series)) and len(heads) == len(set(heads))
    order = [re.sub(r"_(bucket|sum|count)$", "", s.split("{")[0]) for s in series]
    assert len([n for n, before in zip(order, [None] + order) if n != before]) == len(heads)


def test_histograms_add_up(daemon):
    daemon.chat("Who is Ben?")
    for family in families(daemon).values():
        if family.type != "histogram":
            continue
        groups = {}
        for s in family.samples:
            rest = tuple(sorted((k, v) for k, v in s.labels.items() if k != "le"))
            groups.setdefault(rest, {})[s.labels.get("le", s.name[len(family.name):])] = s.value
        for group in groups.values():
            count, total = group.pop("_count"), group.pop("_sum")
            bounds = sorted(group, key=float)
            values = [group[b] for b in bounds]
            assert bounds[-1] == "+Inf" and values == sorted(values) and values[-1] == count
            assert total <= sum((n - m) * float(b) for b, n, m in zip(bounds, values, [0, *values]) if n > m) or values[-2] < count
            assert (total > 0) == (count > 0), family.name


# --- what is counted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_counted(daemon, growth, stream):
    prompt, n = "Ben is a fisherman.", 25
    daemon.post("/v1/completions", prompt=prompt, max_tokens=n, ignore_eos=True, stream=stream)
    daemon.wait_rest()
    assert growth("tokenlane_http_requests_total", route="/v1/completions", code="200") == 1
    assert growth("tokenlane_http_request_seconds_count", route="/v1/completions") == 1
    assert growth("tokenlane_generated_tokens_total") == n
    assert growth("tokenlane_prompt_tokens_total") == len(daemon.tokens(prompt))
    assert growth("tokenlane_time_to_first_token_seconds_count") == 1
    assert growth("tokenlane_time_between_tokens_seconds_count") == n - 1
    assert growth("tokenlane_generation_seconds_count") == growth("tokenlane_route_seconds_count") == 1
    assert growth("tokenlane_queue_seconds_count") == 1
    assert growth("tokenlane_cancelled_requests_total") == growth("tokenlane_preemptions_total") == 0


def test_choices_are_counted_as_sequences(daemon, growth):
    daemon.complete(["Ben", "Anna"], n=3, max_tokens=4, ignore_eos=True)
    assert growth("tokenlane_generated_tokens_total") == 24
    assert growth("tokenlane_time_to_first_token_seconds_count") == 6
    assert growth("tokenlane_route_seconds_count") == 2  # the choices of a prompt go together
    assert growth("tokenlane_time_between_tokens_seconds_count") == 18
    assert growth("tokenlane_generation_seconds_count") == 1


def test_time_adds_up(daemon, growth):
    daemon.complete("Once", max_tokens=LONG // 3, ignore_eos=True)
    whole = growth("tokenlane_http_request_seconds_sum", route="/v1/completions")
    tokens = growth("tokenlane_time_to_first_token_seconds_sum") + growth("tokenlane_time_between_tokens_seconds_sum")
    assert 0 < growth("tokenlane_step_seconds_sum") <= whole and 0 < tokens <= whole


@pytest.mark.parametrize("method, path, fields, code", [
    ("GET", "/health", None, 200), ("GET", "/v1/models", None, 200), ("HEAD", "/version", None, 200), ("POST", "/health", {}, 405),
    ("POST", "/v1/completions", {"prompt": 5}, 400), ("POST", "/v1/chat/completions", {"model": "x"}, 404),
    ("GET", "/nowhere", None, 404), ("POST", "/tokenize", {"prompt": "a"}, 200)])
def test_requests_are_counted_by_route_and_code(daemon, growth, method, path, fields, code):
    assert daemon.http.request(method, path, json=fields).status_code == code
    route = "other" if path == "/nowhere" else path
    assert growth("tokenlane_http_requests_total", route=route, code=str(code)) == 1
    assert growth("tokenlane_http_requests_total", route=route) == 1
    assert growth("tokenlane_generated_tokens_total") == 0


def test_bytes_are_counted(daemon, growth):
    sent = len(daemon.http.post("/tokenize", json={"prompt": "a b " * 10000}).content)
    assert growth("tokenlane_http_received_bytes_total") > 40000
    assert growth("tokenlane_http_sent_bytes_total") > sent


def test_gauges_follow_what_runs(daemon):
    daemon.wait_rest()
    body = {"model": NAME, "prompt": "Once", "max_tokens": LONG, "n": 8, "logprobs": 20, "ignore_eos": True, "stream": True}
    with daemon.http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()  # kept: the stream ends with its iterator
        next(lines)
        wait_for(lambda: daemon.total("tokenlane_sequences_running") == 8)  # they join one by one
        now = {name: daemon.total(f"tokenlane_{name}") for name in ("kv_blocks_used", "kv_blocks", "http_connections")}
        assert 8 <= now["kv_blocks_used"] <= now["kv_blocks"] and now["http_connections"] >= 2
    daemon.wait_rest()


def test_those_who_wait_are_shown_and_refusals_counted(start):
    d = start({"engine.max_batch_size": 1, "limits.max_queue": 16, "limits.max_waiting_tokens": 100000})
    body = {"model": NAME, "prompt": "Once", "max_tokens": LONG, "n": 16, "ignore_eos": True, "stream": True}
    with d.http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()  # kept: the stream ends with its iterator
        next(lines)
        wait_for(lambda: 1 <= d.total("tokenlane_sequences_waiting") <= 15)
        assert d.total("tokenlane_sequences_running") == 1
        assert d.post("/v1/completions", prompt="a", n=16).status_code == 429
        assert d.total("tokenlane_route_refused_total", reason="full") == 16
        assert d.total("tokenlane_http_requests_total", code="429") == 1
    d.wait_rest()
    assert d.total("tokenlane_cancelled_requests_total") == 1


def test_each_replica_has_its_own(start):
    d = start({"devices": "cpu:0,cpu:1", "cpu.threads": 1})
    assert {s.labels["replica"] for s in families(d)["tokenlane_kv_blocks"].samples} == {"0", "1"}
    growth = Growth(d)
    d.complete(["Ben", "Anna", "Leo", "Ida"], max_tokens=20, ignore_eos=True)
    made = [growth("tokenlane_generated_tokens_total", replica=r) for r in "01"]
    first = [growth("tokenlane_time_to_first_token_seconds_count", replica=r) for r in "01"]
    assert sum(made) == 80 and min(made) >= 20 and [20 * n for n in first] == made


def test_scrapes_while_it_works(daemon):
    """Counters never fall and histograms stay whole under load."""
    ends = threading.Event()

    def work():
        while not ends.is_set():
            daemon.complete("Once", max_tokens=30)
    worker = threading.Thread(target=work)
    worker.start()
    try:
        last = daemon.metrics()
        for _ in range(20):
            now = daemon.metrics()
            assert now.keys() == last.keys()
            assert all(now[k] >= last[k] for k in now if k[0].endswith(("_total", "_count", "_bucket")))
            last = now
    finally:
        ends.set()
        worker.join()


# --- the rest -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path, body", [("/health", {"status": "ok"}), ("/ready", {"status": "ready"})])
def test_it_says_how_it_is(daemon, path, body):
    assert daemon.http.get(path).json() == body
    head = daemon.http.head(path)
    assert head.status_code == 200 and head.content == b"" and int(head.headers["content-length"]) > 0


def test_version_is_the_makefiles(daemon):
    version = re.search(r"^VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.M)[1]
    assert daemon.http.get("/version").json() == {"version": version}
    assert daemon.total("tokenlane_build_info", version=version) == 1


def test_the_process(daemon, growth):
    """What prometheus_client says of its own process, of ours."""
    fields = pathlib.Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    booted = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME)
    started = booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    assert abs(daemon.total("process_start_time_seconds") - started) < 5 * SLOW
    assert daemon.total("process_cpu_seconds_total") >= (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") - 0.01
    limits = pathlib.Path(f"/proc/{daemon.process.pid}/limits").read_text()
    assert daemon.total("process_max_fds") == float(re.search(r"Max open files +(\S+)", limits)[1].replace("unlimited", "inf"))
    pages = pathlib.Path(f"/proc/{daemon.process.pid}/statm").read_text().split()
    page = os.sysconf("SC_PAGESIZE")
    assert abs(daemon.total("process_virtual_memory_bytes") / (int(pages[0]) * page) - 1) < 0.1
    assert abs(daemon.total("process_resident_memory_bytes") / (int(pages[1]) * page) - 1) < 0.2
    daemon.complete("Once", max_tokens=50, ignore_eos=True)
    assert growth("process_cpu_seconds_total") > 0


def test_open_files_are_counted(daemon):
    def count():
        return daemon.total("process_open_fds"), len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
    wait_for(lambda: len(set(count())) == 1)
    before = count()[0]
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(Wire(daemon.port)).get("/health").expect(200)
        wait_for(lambda: count() == (before + 5, before + 5))


def test_fingerprint(daemon):
    """The same for every answer of this model on this machine."""
    prints = {daemon.complete("a", max_tokens=1)["system_fingerprint"], daemon.chat("a", max_tokens=1)["system_fingerprint"]}
    assert len(prints) == 1 and re.fullmatch("fp_[0-9a-f]{10}", prints.pop())
