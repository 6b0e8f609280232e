# SPDX-License-Identifier: MIT
"""Each allocation that a request needs fails, one after the other: the client is told so, or what it gets is right."""
import json
import mmap
import pathlib
import struct

import httpx
import pytest

from daemon import BINARY, BUILT, NAME, SAN, SLOW, events

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
def short(start, tmp_path):
    """(daemon, fail(n, in_a_row) -> whether one has failed since it was last asked: from now on the n-th allocation will, and those behind it)."""
    with open(tmp_path / "left", "w+b") as file:
        file.truncate(mmap.PAGESIZE)
        orders = mmap.mmap(file.fileno(), mmap.PAGESIZE)

        def fail(n, in_a_row=1):
            left, before = struct.unpack_from("qq", orders)
            struct.pack_into("qq", orders, 0, n, in_a_row if n else 0)
            return before > 0 and left <= 0

        yield start({"devices": "sim:0", "sim.base_us": 100, "sim.per_token_ns": 0, "engine.prefix_cache": "false",
                     "engine.draft_tokens": 4},
                    env={"LD_PRELOAD": str(LIBRARY), "FAIL_ALLOC": file.name}), fail


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
