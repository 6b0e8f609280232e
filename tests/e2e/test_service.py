# SPDX-License-Identifier: MIT
"""The process: commands, configuration, models that are broken, signals, sockets, systemd."""
import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import httpx
import pytest

from daemon import BINARY, LONG, MODEL, NAME, ROOT, SAN, SLOW, events, run

NO_FLAGS = {"model.path": None, "model.name": None, "http.port": None, "drain_timeout_ms": None}


def write(path, text):
    path.write_text(text if isinstance(text, str) else json.dumps(text, indent=1))
    return path


@contextlib.contextmanager
def long_stream(d, http=None, **fields):
    """A stream that has begun and has far to go: the lines that are still to come."""
    body = {"model": NAME, "prompt": "Once upon a time", "temperature": 0, "max_tokens": LONG, "ignore_eos": True,
            "stream": True, "stream_options": {"include_usage": True}, **fields}
    with (http or d.http).stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines).startswith("data: {")
        yield lines


# --- commands -----------------------------------------------------------------------------
def test_commands():
    assert run("version") == (0, "tokenlane 0.1.0\n", "")
    for arguments in ([], ["help"], ["--help"], *([c, o] for c in ("serve", "check-config", "keys", "tokenize", "render", "models") for o in ("--help", "-h"))):
        code, out, err = run(*arguments)
        assert code == 0 and out.startswith("usage: tokenlane") and not err
    code, out, err = run("sing")
    assert code == 2 and not out and err.startswith("usage: tokenlane")


@pytest.mark.parametrize("arguments", [["version"], ["--help"], ["keys"], ["models", "--supported"], ["check-config", "--model.path", MODEL],
                                       ["tokenize", MODEL], ["render", MODEL]], ids=lambda a: a[0])
def test_output_that_is_lost_is_an_error(arguments, tmp_path):
    with open("/dev/full", "w") as full:
        (tmp_path / "in").write_text('[{"role": "user", "content": "hi"}]')
        with open(tmp_path / "in") as stdin:
            p = subprocess.run([BINARY, *map(str, arguments)], stdin=stdin, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert (p.returncode, p.stderr) == (1, "tokenlane: standard output cannot be written\n")


def test_documented_keys_are_the_keys():
    assert run("keys")[1] in (ROOT / "config/README.md").read_text()


# --- configuration -------------------------------------------------------------------------
def test_flags_win_over_the_file(start, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/small").symlink_to(MODEL)
    file = write(tmp_path / "tokenlane.json", {
        "model": {"path": "models/small", "name": "of-file", "aliases": ["alias-of-file"]},  # path: from the file's folder
        "http": {"port": 0, "threads": 2}, "engine": {"max_context": 256}})
    d = start({**NO_FLAGS, "config": file, "engine.max_context": 128, "model.name": "of-flag"})
    d.wait_listening()
    assert [m["id"] for m in d.http.get("/v1/models").json()["data"]] == ["of-flag", "alias-of-file"]
    assert " context=128 " in d.wait_log("msg=ready .*")[0]
    threads = [(t / "comm").read_text().strip() for t in pathlib.Path(f"/proc/{d.process.pid}/task").iterdir()]
    assert {"tl-loop-0", "tl-loop-1"} <= set(threads)


@pytest.mark.parametrize("flags", [["--config", "FILE"], ["--http.port", "1", "--config=FILE"]])
def test_check_config_good(flags):
    flags = [f.replace("FILE", str(ROOT / "config/tokenlane.json")) for f in flags]
    assert run("check-config", *flags) == (0, "the configuration is valid\n", "")


MODEL_KEY = '"model": {"path": "m"}'
BAD_FILES = {  # name: (text, line, what the message says)
    "unknown": ('{\n"drain_timeout": 1}', 2, "drain_timeout: no such key; the nearest is drain_timeout_ms"),
    "unknown in group": ('{"http": {\n"host": "",\n"prot": 1}}', 3, "http.prot: no such key; the nearest is http.port"),
    "unknown group": ('{\n"htpp": {\n"port": 1}}', 3, "htpp.port: no such key; the nearest is http.port"),
    "too deep": ('{"http": {\n"port": {"x": 1}}}', 2, "http.port: expected an integer from 0 to 65535, got an object"),
    "dotted": ('{\n"http.port": 1}', 2, "http.port: expected nested objects, got a name with a dot"),
    "string for integer": ('{"http": {\n"port": "80"}}', 2, "http.port: expected an integer from 0 to 65535, got a string"),
    "fraction": ('{"engine": {\n\n"max_context": 1.5}}', 3, "engine.max_context: expected an integer"),
    "integer for string": ('{"model": {\n"path": 5}}', 2, "model.path: expected a string, got an integer"),
    "null": ('{\n"devices": null}', 2, "devices: expected a list of strings"),
    "list of integers": ('{"devices": \n\n[0]}', 1, "devices: expected a list of strings"),
    "string for bool": ('{"cpu": {\n"pin": "true"}}', 2, "cpu.pin: expected true or false, got a string"),
    "too large": ('{"http":\n {"port": 65536}}', 2, "http.port: expected an integer from 0 to 65535, got 65536"),
    "too small": ('{"http": {"threads": 0}}', 1, "http.threads: expected an integer from 1 to 64, got 0"),
    "beyond 64 bits": ('{"http": {\n"port": 99999999999999999999}}', 2, ""),
    "choice": ('{"log": {\n"level": "loud"}}', 2, "log.level: expected one of error|warn|info|debug, got loud"),
    "twice": ('{"http": {"port": 1,\n"host": "",\n"port": 2}}', 3, '"port"'),
    "syntax": ('{"http":\n {"port": 1,}}', 2, ""),
    "not an object": ("[]", 1, "expected a JSON object"),
    "empty": ("", 1, ""),
    "text after it": ('{}\n\nx', 3, ""),
    "two keys": (f'{{{MODEL_KEY},\n"engine": {{\n"max_batch_size": 64,\n"max_batch_tokens": 32}}}}', 4,
                 "engine.max_batch_tokens: expected at least engine.max_batch_size (64), got 32"),
    "device": (f'{{{MODEL_KEY},\n"devices": ["cpu:0", "abacus:1"]}}', 2,
               "devices: expected devices such as cpu:0, got 'abacus:1'"),
    "device twice": (f'{{{MODEL_KEY},\n"devices": ["cpu:0", "cpu:0"]}}', 2,
                     "devices: expected different devices, got cpu:0 twice"),
    "no listener": (f'{{{MODEL_KEY},\n"http": {{\n"host": ""}}}}', 3, "http.host: expected an address, or http.unix to be set"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_check_config_names_file_line_and_key(name, tmp_path):
    text, line, says = BAD_FILES[name]
    file = write(tmp_path / "bad.json", text)
    code, out, err = run("check-config", "--config", file)
    assert (code, out) == (1, "")
    assert err.startswith(f"tokenlane: {file}:{line}: {says}") or (says == '"port"' and says in err), err
    assert err.count("\n") == 1 and len(err) > len(f"tokenlane: {file}:{line}: ") + 5
    assert run("serve", "--config", file) == (1, "", err)  # and serve says the same


@pytest.mark.parametrize("flags, says", [
    ([], "model.path: is required"),
    (["--model.path", "m", "--http.prot", "1"], "http.prot: no such key; the nearest is http.port"),
    (["--model.path", "m", "--http.port", "70000"], "http.port: expected an integer from 0 to 65535, got 70000"),
    (["--model.path", "m", "--cpu.pin=maybe"], "cpu.pin: expected true or false, got maybe"),
    (["--model.path"], "--model.path: expected a value"),
    (["--", "x"], "expected --KEY VALUE, got --"),
    (["model.path=m"], "expected --KEY VALUE, got model.path=m"),
    (["--config", "/nowhere/x.json"], "/nowhere/x.json: cannot be read: No such file or directory"),
    (["--config", "/tmp"], "/tmp: cannot be read: Is a directory"),
    # the option's fault, not the file's, which has the key as well
    (["--config", ROOT / "config/tokenlane.json", "--devices", "cpu:0,cpu:0"], "devices: expected different devices"),
])
def test_check_config_flags(flags, says):
    code, out, err = run("check-config", *flags)
    assert (code, out) == (1, "") and err.startswith("tokenlane: " + says), err


# --- models that cannot be served -------------------------------------------------------------
def header_of(folder):
    data = (folder / "model.safetensors").read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n]), data[8 + n:]


def put_header(folder, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def change_tensor(name=None, **fields):
    """Damages one entry of the header; field=None removes it, no fields: the whole entry."""
    def damage(folder):
        header, data = header_of(folder)
        key = name or next(k for k in header if k != "__metadata__")
        if fields:
            header[key].update(fields)
        else:
            del header[key]
        put_header(folder, header, data)
    return damage


def cut(file, size):
    return lambda folder: os.truncate(folder / file, size)


def remove(*files):
    return lambda folder: [(folder / f).unlink() for f in files]


def change_json(file, **fields):
    return lambda folder: write(folder / file, {**json.loads((folder / file).read_text()), **fields})


def put(file, text):
    return lambda folder: write(folder / file, text)


def swap_shape(folder):
    header, data = header_of(folder)
    entry = header["model.layers.0.mlp.up_proj.weight"]
    entry["shape"].reverse()
    put_header(folder, header, data)


def overlap(folder):
    header, data = header_of(folder)
    header["model.layers.1.mlp.up_proj.weight"]["data_offsets"] = header["model.layers.0.mlp.up_proj.weight"]["data_offsets"]
    put_header(folder, header, data)


def instead(file, *others):
    """Others lie where the file should."""
    return lambda folder: [(folder / other).touch() for other in others] and (folder / file).unlink()


def pointer(file):
    """What a clone without Git LFS has."""
    return lambda folder: (folder / file).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a2146' * 8}\nsize 4526208\n")


UP = "model.layers.0.mlp.up_proj.weight"
BROKEN = {  # name: (damage, what the message says)
    "no folder": (shutil.rmtree, "config.json"),
    "no config.json": (remove("config.json"), "config.json"),
    "config.json cut": (cut("config.json", 100), "config.json"),
    "config.json is a list": (put("config.json", []), "config.json"),
    "other architecture": (change_json("config.json", architectures=["Parrot"]), "Parrot"),
    "no layers": (change_json("config.json", num_hidden_layers=0), "num_hidden_layers"),
    "more layers": (change_json("config.json", num_hidden_layers=6), "model.layers.5."),
    "huge": (change_json("config.json", hidden_size=1 << 40, intermediate_size=1 << 40), "hidden_size"),
    "other vocabulary": (change_json("config.json", vocab_size=1537), "model.embed_tokens.weight"),
    "no weights": (remove("model.safetensors"), "model.safetensors"),
    "no tokenizer": (remove("tokenizer.json"), "tokenizer.json"),
    "tokenizer cut": (cut("tokenizer.json", 2000), "tokenizer.json"),
    "tokenizer is empty": (put("tokenizer.json", {}), "tokenizer.json"),
    "weights empty": (cut("model.safetensors", 0), "model.safetensors"),
    "weights cut in the length": (cut("model.safetensors", 7), "model.safetensors"),
    "weights cut in the header": (cut("model.safetensors", 300), "model.safetensors"),
    "weights cut in the data": (cut("model.safetensors", 3 << 20), "data_offsets lie outside the file"),
    "header longer than the file": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}"), "model.safetensors"),
    "header is no JSON": (lambda f: put_header(f, b"{nonsense", b""), "model.safetensors"),
    "header is a list": (lambda f: put_header(f, b"[]", b""), "model.safetensors"),
    "no tensors": (lambda f: put_header(f, {}, b""), "model.embed_tokens.weight"),
    "tensor missing": (change_tensor(UP), UP),
    "offsets beyond the file": (change_tensor(UP, data_offsets=[0, 1 << 60]), UP),
    "offsets negative": (change_tensor(UP, data_offsets=[-8, 8]), UP),
    "offsets backwards": (change_tensor(UP, data_offsets=[200, 100]), UP),
    "offsets are text": (change_tensor(UP, data_offsets=["0", "8"]), UP),
    "shape overflows": (change_tensor(UP, shape=[1 << 33, 1 << 33]), UP),
    "shape negative": (change_tensor(UP, shape=[-1, -98304]), UP),
    "shape swapped": (swap_shape, UP),
    "another number format": (change_tensor(UP, dtype="F32"), UP),
    "unknown number format": (change_tensor(UP, dtype="Q9"), UP),
    "two tensors at one place": (overlap, "overlaps another tensor"),
    "shard missing": (put("model.safetensors.index.json", {"weight_map": {UP: "part-2.safetensors"}}), "part-2.safetensors"),
    "shard elsewhere": (put("model.safetensors.index.json", {"weight_map": {UP: "../secret"}}), "model.safetensors.index.json"),
    **{f"pointer for {file}": (pointer(file), f"{file}: is a Git LFS pointer") for file in
       ("config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json")},
    "PyTorch's weights": (instead("model.safetensors", "pytorch_model-00001-of-00002.bin"), "bin is not read, only safetensors and GGUF are"),
    "a GGUF file among others": (instead("model.safetensors", "pytorch_model.bin", "my-q4.gguf"), "to serve my-q4.gguf, name that file"),
    "a GGUF file alone": (instead("config.json", "my-q4.gguf"), "to serve my-q4.gguf, name that file"),
    "shards without their index": (instead("model.safetensors", "model-00001-of-00002.safetensors"), "the model.safetensors.index.json that model-00001"),
    "only SentencePiece's tokenizer": (instead("tokenizer.json", "tokenizer.model"), "tokenizer.json: is missing; tokenizer.model is not read"),
    "template does not parse": (change_json("tokenizer_config.json", chat_template="{% if %}"), "template"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_model(name, tmp_path):
    damage, says = BROKEN[name]
    shutil.copytree(MODEL, tmp_path / "m")
    damage(tmp_path / "m")
    code, _, err = run("serve", "--model.path", tmp_path / "m", "--http.port", 0, seconds=30)
    last = err.splitlines()[-1]
    assert code == 1 and last.startswith("tokenlane: ") and says in last, err
    assert "msg=ready" not in err
    code, out, err = run("check-config", "--model.path", tmp_path / "m")  # says the same
    assert (code, out) == (1, "") and err.startswith("tokenlane: model.path: ") and says in err, err


def test_too_few_files():
    p = subprocess.run(["sh", "-c", 'ulimit -n 8; exec "$@"', "sh", BINARY, "serve", "--model.path", str(MODEL), "--http.port", "0"],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert (p.returncode, p.stderr.splitlines()[-1]) == (1, "tokenlane: cannot make an event loop: too many open files")


@pytest.mark.parametrize("make, says", [(lambda f: f.write_bytes((MODEL / "model.safetensors").read_bytes()), "model.path: expected a folder with config.json"),
                                        (pointer("x.gguf"), "x.gguf: is a Git LFS pointer")], ids=["weights", "pointer"])
def test_a_path_that_is_no_model(make, says, tmp_path):
    file = tmp_path / ("x.gguf" if "LFS" in says else "model.safetensors")
    make(tmp_path if "LFS" in says else file)
    code, _, err = run("serve", "--model.path", file, "--http.port", 0, seconds=30)
    assert code == 1 and says in err.splitlines()[-1], err


def test_context_that_does_not_fit_the_cache():
    code, _, err = run("serve", "--model.path", MODEL, "--http.port", 0, "--engine.kv_memory_bytes", 100000)
    assert code == 1 and "tokenlane: engine.kv_memory_bytes: a context of 1024 tokens needs" in err


# --- progress ------------------------------------------------------------------------------------
def test_progress_lines(start):
    d = start({"devices": "cpu:0,cpu:1"})
    lines = re.findall(r'msg="loading weights" percent=(\d+)', d.stderr())
    assert lines[-1] == "100" and lines == sorted(set(lines), key=int) and "\r" not in d.stderr()


def test_progress_bar_on_a_terminal():
    try:
        master, slave = pty.openpty()
    except OSError:
        pytest.skip("no pseudo terminals here")  # a chroot without /dev/pts
    process = subprocess.Popen([BINARY, "serve", "--model.path", MODEL, "--http.port", "0", "--devices", "cpu:0,cpu:1"],
                               stderr=slave, stdin=subprocess.DEVNULL)
    os.close(slave)
    seen = b""
    while b"msg=ready" not in seen:
        seen += os.read(master, 4096)
    process.terminate()
    with contextlib.suppress(OSError):  # the terminal is gone with its last process
        while part := os.read(master, 4096):
            seen += part
    os.close(master)
    assert process.wait(30 * SLOW) == 0
    assert re.search(rb"\rloading weights \[#{40}\] 100 %  8 of 8 MiB\r?\n", seen), seen
    assert b'msg="loading weights"' not in seen


# --- ready ------------------------------------------------------------------------------------------
def test_lives_before_it_is_ready(start):
    """/health answers while the model loads; /ready and requests say not yet."""
    d = start(wait=False)
    d.wait_listening()
    seen = set()
    while d.http.get("/ready").status_code != 200:
        assert d.http.get("/health").status_code == 200
        seen.add(d.post("/v1/completions", model=NAME, prompt="a", max_tokens=1).status_code)
    assert seen <= {200, 503}
    d.wait_ready()
    assert d.complete("Once", max_tokens=1)["usage"]["completion_tokens"] == 1


# --- signals ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_drain(start, number):
    d = start({"http.threads": 2})
    with httpx.Client(base_url=d.url, timeout=30 * SLOW) as other, long_stream(d) as lines, long_stream(d, other) as more:
        d.signal(number)
        d.wait_log("msg=draining requests=2")
        with contextlib.suppress(httpx.TransportError):  # closed, or it says so
            assert httpx.get(d.url + "/ready", timeout=30 * SLOW).status_code == 503
        for rest in (lines, more):
            got = events(rest)
            assert got[-2]["choices"][0]["finish_reason"] == "length"
            assert got[-1]["usage"]["completion_tokens"] == LONG
    assert d.wait_exit() == 0
    assert "timeout; ending" not in d.stderr() and d.stderr().rstrip().endswith("msg=stopped")
    with pytest.raises(httpx.ConnectError):
        httpx.get(d.url + "/ready")


def assert_cut(lines):
    """The stream ends early: an error event, or the connection goes."""
    with pytest.raises((httpx.TransportError, AssertionError, KeyError)):
        for event in events(lines):
            assert "error" not in event


def test_drain_timeout(start):
    d = start({"drain_timeout_ms": 50})
    with long_stream(d) as lines:
        d.signal()
        d.wait_log('msg="drain timeout; ending what runs" requests=1')
        assert_cut(lines)
    assert d.wait_exit() == 0


def test_second_signal_ends_at_once(start):
    d = start({"drain_timeout_ms": 86400000, "devices": "cpu:0,cpu:1"})
    with long_stream(d) as lines, httpx.Client(base_url=d.url) as other, long_stream(d, other) as more:
        d.signal()
        d.wait_log("msg=draining requests=2")
        d.signal()
        d.wait_log('msg="second signal; ending what runs"')
        assert_cut(lines)
        assert_cut(more)
    assert d.wait_exit() == 0


def test_signal_without_work(start):
    d = start({"drain_timeout_ms": 86400000})
    with httpx.Client(base_url=d.url) as idle:  # a connection that does nothing keeps nobody
        idle.get("/health")
        d.signal()
        assert d.wait_exit() == 0


def test_signal_while_it_starts(start):
    """At whatever moment: it ends, cleanly if it had set itself up."""
    for delay in range(8):
        # an exit at once joins no thread: that is no leak
        d = start(wait=False, env={"TSAN_OPTIONS": "halt_on_error=1:report_thread_leaks=0"})
        time.sleep(delay * 0.03 * SLOW)
        d.signal()
        assert d.wait_exit() in (0, -signal.SIGTERM)


# --- addresses ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("first, second", [(1, 1), (2, 2), (1, 2), (2, 1)])
def test_port_in_use(start, first, second):
    """Also when both have several loops, whose sockets share the port."""
    d = start({"http.threads": first})
    code, _, err = run("serve", "--model.path", MODEL, "--http.port", d.port, "--http.threads", second)
    assert code == 1
    assert f"tokenlane: http.port: cannot listen on 127.0.0.1 port {d.port}: Address already in use" in err


@pytest.mark.parametrize("flags, says", [
    (["--http.host", "no.such.host.invalid"], "http.host: 'no.such.host.invalid': "),
    (["--http.host", "192.0.2.1"], "http.port: cannot listen on 192.0.2.1 port 0: "),
    (["--http.unix", "/nowhere/socket"], "http.unix: cannot listen on '/nowhere/socket': "),
    (["--http.unix", "/tmp/" + 200 * "x"], "http.unix: the path is longer than 107 bytes"),
])
def test_address_that_cannot_be(flags, says):
    code, _, err = run("serve", "--model.path", MODEL, "--http.port", 0, *flags, seconds=60)
    assert code == 1 and err.splitlines()[-1].startswith("tokenlane: " + says), err


def unix_client(path):
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://local", timeout=30 * SLOW)


@pytest.fixture
def short(tmp_path_factory):
    """A folder whose path leaves room in sun_path."""
    folder = tmp_path_factory.mktemp("s")
    yield folder


def test_unix_socket(start, short):
    path = short / "api"
    with socket.socket(socket.AF_UNIX) as old:  # what a crash leaves behind
        old.bind(str(path))
    d = start({"http.unix": path, "http.threads": 2})  # beside TCP
    with unix_client(path) as local:
        assert local.get("/ready").status_code == d.http.get("/ready").status_code == 200
        with long_stream(d, local, max_tokens=8) as lines:
            events(lines)
    code, _, err = run("serve", "--model.path", MODEL, "--http.host=", "--http.unix", path)
    assert code == 1 and f"http.unix: cannot listen on '{path}': Address already in use" in err
    with unix_client(path) as local:  # the loser has left the owner's socket alone
        assert local.get("/ready").status_code == 200
    d.signal()
    assert d.wait_exit() == 0 and not path.exists()


def test_unix_socket_alone_and_a_file_in_its_way(start, short):
    path = write(short / "api", "precious")
    code, _, err = run("serve", "--model.path", MODEL, "--http.host=", "--http.unix", path)
    assert code == 1 and "Address already in use" in err and path.read_text() == "precious"
    path.unlink()
    d = start({"http.unix": path, "http.host": ""})
    with unix_client(path) as local:
        assert local.get("/ready").status_code == 200
    assert "port=" not in d.stderr()


# --- systemd ------------------------------------------------------------------------------------------------
def test_notify(start, short):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short / "notify"))
        manager.settimeout(30 * SLOW)
        d = start(env={"NOTIFY_SOCKET": str(short / "notify")}, wait=False)
        assert manager.recv(100) == b"READY=1"
        assert 'msg="test generation"' in d.stderr() or d.wait_log('msg="test generation"')  # the log's writer may lag
        d.wait_listening()
        assert d.http.get("/ready").status_code == 200
        with long_stream(d, max_tokens=LONG // 3) as lines:
            d.signal()
            assert manager.recv(100) == b"STOPPING=1"
            assert d.process.poll() is None
            events(lines)
        assert d.wait_exit() == 0


def test_not_ready_without_a_model(short):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short / "notify"))
        assert run("serve", "--model.path", short, "--http.port", 0,
                   env={**os.environ, "NOTIFY_SOCKET": str(short / "notify")})[0] == 1
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)


def passed(*sockets):
    """Daemon's arguments so that it gets the sockets as systemd passes them: from 3 on, LISTEN_PID its own."""
    high = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 50) for s in sockets]
    moves = "".join(f"exec {3 + i}<&{fd} {fd}<&-; " for i, fd in enumerate(high))
    script = moves + f'LISTEN_PID=$$ LISTEN_FDS={len(high)} exec "$@"'
    return {"command": ["bash", "-c", script, "bash"], "pass_fds": high, "env": {}}


def test_socket_activation(start, short):
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(short / "api"))
        local.listen()
        port = tcp.getsockname()[1]
        early = socket.create_connection(("127.0.0.1", port))  # waits in the socket while the daemon starts
        early.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        d = start({"http.port": 8080, "http.threads": 2}, wait=False, **passed(tcp, local))
        d.wait_log("msg=ready ")
        assert early.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
        early.close()
        assert "listening on the sockets of systemd" in d.stderr() and "port=8080" not in d.stderr()
        http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30 * SLOW)
        with http, unix_client(short / "api") as other:
            for client in (http, other):
                assert client.get("/ready").status_code == 200
            with long_stream(d, http, max_tokens=LONG // 3) as lines:
                d.signal()
                d.wait_log("msg=draining")
                events(lines)
        assert d.wait_exit() == 0
        assert (short / "api").exists()  # systemd's, not the daemon's
        # who comes between two daemons waits for the next one
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(httpx.get(f"http://127.0.0.1:{port}/health", timeout=60 * SLOW)))
        waiting.start()
        start({"http.port": 8080}, wait=False, **passed(tcp, local)).wait_log("msg=ready ")
        waiting.join()
        assert answers[0].status_code == 200


def test_socket_of_a_wrong_kind(start):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        d = start(wait=False, **passed(udp))
        assert d.wait_exit() == 1
        assert "socket 1 that systemd passed is not a listening stream socket" in d.stderr()


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd-socket-activate is not installed")
def test_systemd_socket_activate(start, short):
    keep = [f"-E{v}" for v in ("ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS") if v in os.environ]
    d = start({"http.unix": "/nowhere"}, wait=False, command=["systemd-socket-activate", *keep, "-l", short / "api"])
    d.wait_log("Listening on")
    with unix_client(short / "api") as client:  # this starts the daemon
        assert client.get("/health").status_code == 200
    d.wait_log("msg=ready ")


def unit_files(folder, prefix):
    for name in ("tokenlane.service", "tokenlane.socket"):
        write(folder / name, (ROOT / "systemd" / name).read_text().replace("@PREFIX@", str(prefix)))
    return [folder / "tokenlane.service", folder / "tokenlane.socket"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_units(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tokenlane").symlink_to(BINARY)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *unit_files(tmp_path, tmp_path)],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "tokenlane." not in done.stderr, done.stderr


def test_unit_waits_longer_than_the_drain():
    unit = (ROOT / "systemd/tokenlane.service").read_text()
    standard = int(re.search(r"`drain_timeout_ms`[^|]*\|[^|]*\| (\d+) \|", run("keys")[1])[1])
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)[1]) * 1000 > standard
    assert re.search(r"^Type=notify$", unit, re.M) and not re.search(r"KillMode|SuccessExitStatus", unit)


@pytest.mark.plugin
def test_install(tmp_path, start):
    build = pathlib.Path(BINARY).parents[1]

    def make(target):  # -o: what is built is taken as it is
        subprocess.run(["make", "-s", "-C", ROOT, "-o", "all", target, f"B={build}", f"SAN={SAN}", f"DESTDIR={tmp_path}",
                        "PREFIX=/opt/tl"], check=True, capture_output=True, text=True)

    make("install")
    root, config = tmp_path / "opt/tl", tmp_path / "etc/tokenlane/tokenlane.json"
    assert (root / "bin/tokenlane").read_bytes() == pathlib.Path(BINARY).read_bytes()
    assert {p.name for p in (root / "share/tokenlane/demo").iterdir()} == {p.name for p in MODEL.iterdir()}
    assert "ExecStart=/opt/tl/bin/tokenlane serve --config /etc/tokenlane/tokenlane.json" in \
        (root / "lib/systemd/system/tokenlane.service").read_text()
    assert (root / "lib/systemd/system/tokenlane.socket").exists()
    assert json.loads(config.read_text())["model"]["path"] == "/opt/tl/share/tokenlane/demo"
    assert run("check-config", "--config", config, "--model.path", root / "share/tokenlane/demo")[0] == 0
    d = start({**NO_FLAGS, "config": config, "http.port": 0, "model.path": root / "share/tokenlane/demo"})
    assert d.http.get("/v1/models").json()["data"][0]["id"] == "tokenlane-demo"
    write(config, "{}")
    make("install")
    assert config.read_text() == "{}"  # the owner's changes stay
    make("uninstall")
    assert [p for p in tmp_path.rglob("*") if p.is_file() and "tokenlane" in p.name.lower()] == [config]
