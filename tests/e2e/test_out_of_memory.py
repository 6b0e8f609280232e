# SPDX-License-Identifier: MIT
"""Each allocation that a request needs fails, one after the other: the client is told so, or what it gets is right."""
import json
import mmap
import os
import pathlib
import re
import signal
import struct
import subprocess

import httpx
import pytest

from daemon import BINARY, BUILT, MODEL, NAME, SAN, SLOW, events, wait_for

LIBRARY = pathlib.Path(BINARY).parents[1] / "lib/fail_alloc.so"
pytestmark = pytest.mark.skipif(bool(SAN) or "fail_alloc" not in BUILT and not LIBRARY.exists(), reason="sanitizers have an allocator of their own")
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}}, "required": ["name"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "a_tool", "parameters": SCHEMA}}]
WHO = [{"role": "user", "content": "Who is Clara?"}]
REQUESTS = {
    "prompt": ("completions", {"prompt": "Max and Clara went to the river . ", "echo": True, "logprobs": 2, "max_tokens": 5}),
    "prompts": ("completions", {"prompt": ["y" * n for n in range(10, 300, 13)], "max_tokens": 1}),
    "regex": ("completions", {"prompt": "Say", "structured_outputs": {"regex": "[a-z]{3,9}( [a-z]{2,9}){1,3}"}, "max_tokens": 40}),
    "tools": ("chat/completions", {"messages": WHO, "tools": TOOLS, "tool_choice": "required", "max_tokens": 60}),
    "prediction": ("chat/completions", {"messages": WHO, "prediction": {"type": "content", "content": [{"type": "text", "text": "Clara is" * 20}]}, "max_tokens": 9}),
    "stream": ("completions", {"prompt": "The dog", "n": 2, "logprobs": 1, "stream": True, "max_tokens": 8}),
    "responses": ("responses", {"input": "Who is Tom?", "stream": True, "max_output_tokens": 30}),
}


@pytest.fixture
def failing(tmp_path):
    """(environment, fail(n, in_a_row) -> whether one has failed since it was last asked: from now on the n-th allocation will, and those behind it)."""
    with open(tmp_path / "left", "w+b") as file:
        file.truncate(mmap.PAGESIZE)
        orders = mmap.mmap(file.fileno(), mmap.PAGESIZE)

        def fail(n, in_a_row=1):
            left, before = struct.unpack_from("qq", orders)
            struct.pack_into("qq", orders, 0, n, in_a_row if n else 0)
            return before > 0 and left <= 0

        yield {"LD_PRELOAD": str(LIBRARY), "FAIL_ALLOC": file.name}, fail


@pytest.fixture
def short(start, failing):
    environment, fail = failing
    return start({"devices": "sim:0", "sim.base_us": 100, "sim.per_token_ns": 0, "engine.prefix_cache": "false",
                  "engine.draft_tokens": 4}, env=environment), fail


def content(answer):
    """What has to be right; None where the answer says that there was an error."""
    if answer.status_code != 200:
        assert answer.status_code == 500, answer.text
        return None
    if "event-stream" not in answer.headers["content-type"]:
        return [{**choice, "message": {**choice.get("message", {}), "tool_calls": [
            call["function"] for call in choice.get("message", {}).get("tool_calls") or []]}} for choice in answer.json()["choices"]]
    pieces = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]  # whole, whatever happened
    if '"error"' in answer.text.replace('"error":null', ""):
        return None
    if "sequence_number" in pieces[0]:
        return "".join(piece["delta"] for piece in pieces if "delta" in piece), pieces[-1]["type"]
    texts = {}
    for event in events(answer.text.splitlines()):
        for choice in event["choices"]:
            texts.setdefault(choice["index"], []).append((choice["text"], choice["logprobs"], choice["finish_reason"]))
    return {i: ("".join(text for text, _, _ in pieces), pieces[-1][2]) for i, pieces in texts.items()}


@pytest.mark.parametrize("in_a_row", [1, 6])
@pytest.mark.parametrize("what", REQUESTS)
def test_each_allocation_of_a_request(short, what, in_a_row):
    d, fail = short
    path, body = REQUESTS[what]

    def ask(http):
        return http.post(f"{d.url}/v1/{path}", json={"model": NAME, "temperature": 0, **({"ignore_eos": True} if what == "prompt" else {}), **body})

    with httpx.Client(timeout=10 * SLOW) as http:
        right = content(ask(http))
        assert right
        refused = 0
        for n in range(1, 1000):
            http.get(f"{d.url}/health")  # now there is a connection
            fail(n, in_a_row)
            try:
                got = content(ask(http))
            except httpx.RemoteProtocolError:
                got = None  # it was closed instead, in the middle of a stream perhaps
            failed = fail(0)
            assert got is None or got == right, f"allocation {n}: {got} instead of {right}"
            refused += got is None
            if not failed:
                break
        assert not failed and refused > 10
        assert content(ask(http)) == right
    d.wait_rest()


def test_a_connection_for_which_there_is_no_memory(short):
    """The next ones are accepted, and it is, too, as soon as there is some."""
    d, fail = short
    fail(1)
    for _ in range(3):
        with httpx.Client(timeout=10 * SLOW) as http:
            assert http.get(f"{d.url}/health").status_code == 200
    assert fail(0)


def test_each_allocation_of_a_reload(start, failing, tmp_path):
    """SIGHUP reads all of it or changes nothing, and says which."""
    environment, fail = failing
    config, sink = tmp_path / "tokenlane.json", tmp_path / "log"
    keys = [f"key-{i:030}" for i in range(20)]

    def write(level, keys):
        config.write_text(json.dumps({"log": {"level": level, "sink": str(sink)}, "http": {"api_keys": keys}, "devices": ["sim:0"]}, indent=1))

    write("info", keys)
    d = start({"config": config, "devices": None}, env={**environment, "FAIL_THREAD": "tokenlane"}, wait=False)
    wait_for(lambda: sink.exists() and "msg=ready" in sink.read_text(), 30)
    port = re.findall(r"port=(\d+)", sink.read_text())[0]

    def status(key):
        return httpx.get(f"http://127.0.0.1:{port}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code

    assert status(keys[3]) == 200 and status("other") == 401
    refused = 0
    for n in range(1, 3000):
        write("info", ["other"])
        before = len(sink.read_text())
        fail(n)
        d.signal(signal.SIGHUP)
        wait_for(lambda: "read again" in sink.read_text()[before:], 20)
        said, failed = sink.read_text()[before:], fail(0)
        assert d.process.poll() is None
        refused += "level=error" in said
        if "all stays as it was" in said or "keys were not" in said:
            assert status(keys[3]) == 200, said
        else:
            assert status("other") == 200 and status(keys[3]) == 401, said
            write("info", keys)
            before = len(sink.read_text())
            d.signal(signal.SIGHUP)
            wait_for(lambda: "was read again" in sink.read_text()[before:], 20)
        if not failed:
            break
    assert not failed and refused > 50


@pytest.mark.parametrize("command", [["check-config", "--model.path", MODEL], ["render", MODEL], ["tokenize", MODEL]])
def test_each_allocation_of_a_model_that_is_read(failing, command):
    """A command that reads a model's files says what it should, or ends with an error."""
    environment, fail = failing

    def ask():
        return subprocess.run([BINARY, *map(str, command)], input='{"messages": [{"role": "user", "content": "Hello"}]}', capture_output=True, text=True,
                              env={**os.environ, **environment, "FAIL_THREAD": "tokenlane"}, timeout=60)
    right = ask()
    assert right.returncode == 0, right.stderr
    n, failed, refused = 1, True, 0
    while failed:
        fail(n)
        got = ask()
        failed = fail(0)
        assert (got.returncode, got.stdout) == (0, right.stdout) or (got.returncode > 0 and len(got.stderr) > 20), f"allocation {n}: {got}"
        refused += got.returncode > 0
        n += 1 + n // 12
    assert refused > 15
