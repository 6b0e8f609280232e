# SPDX-License-Identifier: MIT
"""Logging of the real daemon: sinks, SIGHUP, access lines and request ids, crashes."""
import json
import os
import re
import signal
import socket
import struct
import threading
import time

import httpx
import pytest

from daemon import LONG, MODEL, SAN, SLOW, run, wait_for

LINE = re.compile(r"(<\d>)?ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=(error|warn|info|debug) module=\w+ msg=.")


def write_config(path, **log):
    path.write_text(json.dumps({"http": {"port": 0}, "model": {"path": str(MODEL), "name": "demo"}, "log": log}))


@pytest.fixture
def configured(start, tmp_path):
    """configured(log keys) -> (daemon, function that writes the file again with other keys and sends SIGHUP)"""
    def begin(**log):
        path = tmp_path / "config.json"
        write_config(path, **log)
        d = start({"config": path, "http.port": "None", "model.path": "None", "model.name": "None"}, wait=False)
        d.options["http.port"] = "0"

        def again(**new):
            write_config(path, **new)
            d.signal(signal.SIGHUP)
        return d, again
    return begin


def wait_text(path, pattern):
    return wait_for(lambda: path.exists() and re.search(pattern, path.read_text()), 20, f"/{pattern}/ in {path}")


def attach(d, port):
    d.port, d.url = port, f"http://127.0.0.1:{port}"
    d.http = httpx.Client(base_url=d.url, timeout=30 * SLOW)


# --- SIGHUP ---------------------------------------------------------------------------------------

def test_hangup_changes_levels_and_names_other_keys(configured, tmp_path):
    d, again = configured(level="warn", modules=["daemon=info", "http=info"])
    d.wait_ready()
    assert "module=model" not in d.stderr()
    again(level="info", access=True)
    d.wait_log(r"msg=\"the log's configuration was read again\" level=info sink=stderr format=logfmt\n")
    d.http.get("/health")
    d.wait_log(r"module=access msg=request method=GET path=/health status=200 ")
    again(level="error")
    wait_for(lambda: not d.http.get("/health") or True)
    time.sleep(0.3)
    before = d.stderr().count("module=access")
    d.http.get("/health")
    time.sleep(0.3)
    assert d.stderr().count("module=access") == before
    # keys that cannot change are named; a file with a mistake changes nothing
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["log"] = {"level": "info"}
    config["http"]["max_headers"] = 50
    config["limits"] = {"max_choices": 3}
    path.write_text(json.dumps(config))
    d.signal(signal.SIGHUP)
    d.wait_log(r"level=warn module=daemon msg=\"changed keys need a restart\" keys=\"http.max_headers, limits.max_choices\"\n")
    path.write_text('{\n"log": {"level": "loud"}}')
    d.signal(signal.SIGHUP)
    d.wait_log(r"msg=\"the configuration was not read again; all stays as it was\" reason=\".*config.json:2: log.level: ")
    assert d.http.get("/health").status_code == 200


def test_file_is_reopened(configured, tmp_path):
    log, moved = tmp_path / "t.log", tmp_path / "t.log.1"
    d, again = configured(sink=str(log), access=True)
    attach(d, int(wait_text(log, r"msg=listening address=\S+ port=(\d+)")[1]))
    wait_text(log, "msg=ready ")
    log.rename(moved)
    d.http.get("/health?first")
    wait_text(moved, "path=/health ")
    again(sink=str(log), access=True, format="json")
    wait_text(log, "was read again")
    d.http.get("/metrics")
    wait_text(log, r'"path":"/metrics"')
    assert "/metrics" not in moved.read_text() and "first" not in moved.read_text()  # no query in the log
    assert d.stderr() == ""
    again(sink=str(tmp_path / "no" / "folder"), access=True)
    wait_text(log, "the new sink cannot be opened; the old one stays")
    d.stop()
    assert "msg=stopped" in log.read_text() or '"stopped"' in log.read_text()


# --- formats and sinks ---------------------------------------------------------------------------------

def test_lines_are_logfmt(daemon):
    lines = daemon.stderr().splitlines()
    assert lines and all(LINE.match(line) for line in lines), lines


def test_json_lines(start):
    d = start({"log.format": "json", "log.access": "true", "log.level": "debug"}, wait=False)
    attach(d, int(d.wait_log(r'"msg":"listening","address":"127.0.0.1","port":(\d+)')[1]))
    d.wait_log('"msg":"ready"')
    d.http.get('/no"\\%01/é')
    d.wait_log('"status":404')
    lines = [json.loads(line) for line in d.stderr().splitlines()]
    assert {"ts", "level", "module", "msg"} <= set.intersection(*(set(line) for line in lines))
    access = [line for line in lines if line["module"] == "access"][-1]
    assert access["level"] == "info" and access["method"] == "GET" and access["bytes"] > 0 and access["ms"] > 0
    d.stop()
    for line in d.stderr().splitlines():
        json.loads(line)


def test_priorities_under_journald(start, tmp_path):
    """JOURNAL_STREAM names the file that stderr is."""
    log = tmp_path / "log0"
    log.touch()
    stat = log.stat()
    d = start(env={"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}, wait=False)
    d.wait_ready()
    assert all(re.match("<[3467]>ts=", line) for line in d.stderr().splitlines()), d.stderr()


def parse_journal(datagram):
    """The native protocol's fields."""
    fields = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            name, (length,) = line, struct.unpack("<Q", rest[:8])
            value, rest = rest[8:8 + length], rest[8 + length + 1:]
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name), name
        fields[name.decode()] = value.decode()
        datagram = rest
    return fields


def test_journald(start, tmp_path):
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(path))
        journald.settimeout(20 * SLOW)
        d = start({"log.sink": f"journald:{path}", "log.access": "true"}, wait=False)
        got = []
        while not got or got[-1].get("MESSAGE", "")[:6] != "ready ":
            got.append(parse_journal(journald.recv(65536)))
        listening = next(f for f in got if f["MESSAGE"].startswith("listening"))
        assert listening["MESSAGE"] == f"listening address=127.0.0.1 port={listening['TOKENLANE_PORT']}"
        assert listening["PRIORITY"] == "6" and listening["SYSLOG_IDENTIFIER"] == "tokenlane"
        assert listening["TOKENLANE_MODULE"] == "http" and listening["TOKENLANE_ADDRESS"] == "127.0.0.1"
        attach(d, int(listening["TOKENLANE_PORT"]))
        answer = d.http.get("/health")
        fields = parse_journal(journald.recv(65536))
        assert fields["TOKENLANE_REQUEST_ID"] == answer.headers["x-request-id"] and fields["TOKENLANE_STATUS"] == "200"
    d.http.get("/health")  # nobody is there
    assert d.http.get("/health").status_code == 200
    wait_for(lambda: d.total("tokenlane_log_dropped_total", reason="sink") > 0)
    d.stop()
    assert d.stderr() == ""


def test_no_journald_is_an_error_at_start(tmp_path):
    code, _, stderr = run("serve", f"--log.sink=journald:{tmp_path}/none", "--model.path", MODEL)
    assert code == 1 and stderr == f"tokenlane: log.sink: {tmp_path}/none: No such file or directory\n"


@pytest.mark.parametrize("option, message", [
    ("log.modules=http", "log.modules: expected MODULE=LEVEL"), ("log.modules=htp=info", "log.modules: no module 'htp'"),
    ("log.sink=stdout", "log.sink: expected stderr, journald"), ("log.format=xml", "log.format: expected one of logfmt|json"),
])
def test_wrong_keys(option, message):
    code, _, stderr = run("check-config", f"--{option}", "--model.path", MODEL)
    assert code == 1 and message in stderr


# --- sinks that take nothing ----------------------------------------------------------------------------------

def ask_many(d, n):
    """The slowest of n requests, in seconds."""
    slowest = 0
    for _ in range(n):
        began = time.monotonic()
        assert d.http.get("/health").status_code == 200
        slowest = max(slowest, time.monotonic() - began)
    return slowest


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_answers(d, port):
    attach(d, port)

    def ready():
        try:
            return d.http.get("/ready").status_code == 200
        except httpx.TransportError:
            return False
    wait_for(ready, 30, "/ready")


def test_full_disk(start):
    port = free_port()
    d = start({"log.sink": "/dev/full", "log.access": "true", "http.port": port}, wait=False)
    wait_answers(d, port)
    assert ask_many(d, 300) < 1 * SLOW
    assert d.chat("Tell me a story.", max_tokens=20)["choices"][0]["message"]["content"]
    wait_for(lambda: d.total("tokenlane_log_dropped_total", reason="sink") > 100)
    d.stop()


def test_stopped_reader(start, tmp_path):
    """stderr's reader stops: answers come as before, SIGTERM ends the daemon, a reader that goes on sees whole lines."""
    port = free_port()
    reading, writing = os.pipe()
    d = start({"log.access": "true", "http.port": port}, wait=False,
              command=["bash", "-c", f"exec 2>&{writing} {writing}>&-; exec \"$@\"", "bash"], pass_fds=[writing])
    os.close(writing)
    wait_answers(d, port)
    assert ask_many(d, 1500) < 1 * SLOW
    wait_for(lambda: d.total("tokenlane_log_dropped_total", reason="ring_full") > 0 or ask_many(d, 100) < 0, 30)
    chunks = []
    reader = threading.Thread(target=lambda: chunks.extend(iter(lambda: os.read(reading, 65536), b"")))
    reader.start()
    wait_for(lambda: b"a full log ring dropped records" in b"".join(chunks))
    d.stop()
    reader.join()
    os.close(reading)
    lines = b"".join(chunks).decode().splitlines()
    assert all(LINE.match(line) for line in lines)


def test_stopped_reader_does_not_hold_up_the_end(start):
    port = free_port()
    reading, writing = os.pipe()
    d = start({"log.access": "true", "http.port": port}, wait=False,
              command=["bash", "-c", f"exec 2>&{writing} {writing}>&-; exec \"$@\"", "bash"], pass_fds=[writing])
    os.close(writing)
    wait_answers(d, port)
    ask_many(d, 1500)
    began = time.monotonic()
    d.stop()
    assert time.monotonic() - began < 5 * SLOW
    os.close(reading)


# --- request ids and access lines ---------------------------------------------------------------------------------

def access_line(d, request_id):
    return d.wait_log(rf"module=access msg=request (.*) request_id={re.escape(request_id)}\n")[1]


def test_request_ids(start):
    d = start({"log.access": "true"})
    seen = set()
    for _ in range(50):
        made = d.http.get("/health").headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made) and made not in seen
        seen.add(made)
    given = "My-Id_1.2:3/4+5@6"
    answer = d.http.get("/health?secret", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] == given
    assert re.fullmatch(rf"method=GET path=/health status=200 bytes={len(answer.content)} ms=[\d.e-]+", access_line(d, given))
    for bad in ("a b", "x" * 129, "a\"b", "ü".encode(), ""):
        made = d.http.get("/health", headers={"X-Request-Id": bad}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made)
    for path, body, status in (("/nothing", None, 404), ("/v1/chat/completions", {}, 400)):
        answer = d.http.request("POST" if body is not None else "GET", path, json=body)
        assert answer.status_code == status and f"path={path} status={status} " in access_line(d, answer.headers["x-request-id"])


def test_streams_and_clients_that_leave(start):
    d = start({"log.access": "true"})
    body = {"model": "demo", "messages": [{"role": "user", "content": "Tell me a story."}], "stream": True}
    with d.http.stream("POST", "/v1/chat/completions", json={**body, "max_tokens": 5}) as answer:
        length = len(answer.read())
        line = access_line(d, answer.headers["x-request-id"])
    assert f"status=200 bytes={length} " in line
    with d.http.stream("POST", "/v1/chat/completions", json={**body, "max_tokens": LONG},
                       headers={"x-request-id": "left-early"}) as answer:
        next(answer.iter_lines())
    assert "method=POST path=/v1/chat/completions status=200 " in access_line(d, "left-early")
    with socket.create_connection(("127.0.0.1", d.port)) as s:  # not even a header
        s.sendall(b"NONSENSE\r\n\r\n")
        head = s.recv(4096).decode()
    made = re.search(r"X-Request-Id: ([0-9a-f]{32})\r\n", head)[1]
    assert access_line(d, made).startswith("method=- path=- status=")


def test_access_lines_are_off_unless_asked_for(start):
    d = start()
    assert d.http.get("/health").headers["x-request-id"]
    time.sleep(0.3)
    assert "module=access" not in d.stderr()


# --- crashes -----------------------------------------------------------------------------------------------------------

@pytest.mark.skipif(SAN != "", reason="the sanitizer's own handler ends the process")
def test_crash_writes_the_tail(start, tmp_path):
    """The log goes to a pipe that nobody reads: what it could not take stands on stderr when SIGSEGV comes."""
    port, fifo = free_port(), tmp_path / "fifo"
    os.mkfifo(fifo)
    holder = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    d = start({"log.sink": fifo, "log.access": "true", "http.port": port}, wait=False)
    wait_answers(d, port)
    ask_many(d, 1500)
    last = d.http.get("/health", headers={"x-request-id": "first"}).headers["x-request-id"]
    assert last == "first"
    d.signal(signal.SIGSEGV)
    assert d.wait_exit() == -signal.SIGSEGV
    os.close(holder)
    lines = d.stderr().splitlines()
    assert 'msg="fatal signal; what the log had not written yet follows" signal=SIGSEGV' in lines[0]
    assert len(lines) > 100 and all(LINE.match(line) for line in lines)
    assert "module=access" in lines[1]
    d.process.returncode = 0  # it has ended as it should: stop() looks no further
