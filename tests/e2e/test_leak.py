# SPDX-License-Identifier: MIT
"""Thousands of requests, a third of them cut at a random moment: afterwards nothing is held by anybody.

`make soak` sends LEAK_REQUESTS (50,000), the normal suite 2,000."""
import asyncio
import collections
import json
import os
import random

import httpx
import pytest

from daemon import MODEL, NAME, SAN, wait_for
from simulated import Vocabulary
from test_soak import resident_mib

REQUESTS = int(os.environ.get("LEAK_REQUESTS", 50000))
CLIENTS, CUT, CHECKED = 64, 1 / 3, 1 / 8
# Prompts come in chunks, more wait than run, a few are refused, and blocks are short now and then.
OPTIONS = {"devices": "sim:0,sim:1", "http.threads": 2, "sim.base_us": 300, "sim.per_token_ns": 1000, "sim.kv_blocks": 20,
           "engine.max_batch_size": 8, "engine.max_batch_tokens": 48, "engine.max_context": 256, "limits.max_queue": 30,
           "limits.max_waiting_tokens": 20000}


class Client:
    def __init__(self, d, words, seed, left):
        self.port, self.words, self.left, self.random = d.port, words, left, random.Random(seed)
        self.done, self.writer = collections.Counter(), None

    def body(self):
        r = self.random
        self.prompt = [r.choice(self.words.ordinary) for _ in range(r.choice([1, 5, 20, 60, 150]))]
        self.n = r.choice([1, 3, 10, 30])
        body = {"model": NAME, "prompt": self.prompt, "max_tokens": self.n, "temperature": 0, "stream": r.random() < 0.7}
        if r.random() < 0.1:
            body.update(n=2, logprobs=r.choice([0, 3]))
        if r.random() < 0.02:
            body["user"] = "large enough for a text lane" * 400
        return body

    async def send(self):
        if not self.writer:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        text = json.dumps(self.body()).encode()
        self.writer.write(f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)

    async def answer(self):
        """(status, body) of an answer; a stream's body is its events."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        if b"content-length" in head:
            return status, await self.reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()
        return status, body

    def check(self, body):
        events = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")] or [json.loads(body)]
        text = "".join(e["choices"][0]["text"] for e in events if e["choices"] and e["choices"][0]["index"] == 0)
        assert text == self.words.expected_text(self.prompt, self.n)

    async def cut(self):
        """Ends the connection: at once, before the answer (it waits, or its prompt is computed), or in the middle of it."""
        moment = self.random.choice(["at once", "before it began", "in the middle"])
        if moment == "before it began":
            await asyncio.sleep(self.random.uniform(0, 0.03))
        if moment == "in the middle":
            await self.reader.read(self.random.choice([1, 400, 2000]))
        if self.random.random() < 0.5:
            self.writer.transport.abort()
        self.writer.close()
        self.writer = None
        self.done[moment] += 1

    async def run(self):
        while self.left:
            self.left.pop()
            await self.send()
            if self.random.random() < CUT:
                await self.cut()
                continue
            status, body = await self.answer()
            assert status in (200, 429), body
            self.done[status] += 1
            if status == 429:
                await asyncio.sleep(0.005)
            elif self.random.random() < CHECKED:
                self.check(body)
        if self.writer:
            self.writer.close()


def ask(d, words, n, seed):
    """n requests; what became of them."""
    async def everything():
        left = list(range(n))
        clients = [Client(d, words, seed * CLIENTS + i, left) for i in range(CLIENTS)]
        await asyncio.gather(*(c.run() for c in clients))
        return sum((c.done for c in clients), collections.Counter())
    return asyncio.run(everything())


def assert_nothing_is_held(d, files):
    d.wait_rest()
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(d.options["admin.unix"])), base_url="http://admin") as admin:
        def replicas():
            return admin.get("/admin/replicas").json()["replicas"]
        counters = ("load", "sequences", "reserved_tokens", "running", "waiting")
        wait_for(lambda: all(r[k] == 0 for r in replicas() for k in counters), 5, "zero everywhere")
        assert all(r["free_blocks"] == r["blocks"] for r in replicas())
    wait_for(lambda: open_files(d) <= files, 5, "all sockets to be closed")


def open_files(d):
    return len(os.listdir(f"/proc/{d.process.pid}/fd"))


def leak(start, tmp_path, n, most_mib):
    words = Vocabulary(MODEL)
    d = start({**OPTIONS, "admin.unix": tmp_path / "admin.sock"})
    d.complete([1], max_tokens=2)
    files, done, resident = open_files(d) + 1, collections.Counter(), []
    for part in range(10):
        done += ask(d, words, n // 10, part)
        assert_nothing_is_held(d, files)
        resident.append(resident_mib(d))
    print(f"\n{dict(done)}, {d.total('tokenlane_cancelled_requests_total'):.0f} cancelled, "
          f"{d.total('tokenlane_preemptions_total'):.0f} preemptions, MiB: {[round(r, 1) for r in resident]}")
    assert sum(done.values()) == n // 10 * 10 and min(done[m] for m in (200, "at once", "before it began", "in the middle")) > n / 20
    # others were answered before the daemon heard of it: more of them the slower the machine is
    assert d.total("tokenlane_cancelled_requests_total") > n / 50
    assert SAN or d.total("tokenlane_preemptions_total") > 0
    assert SAN or resident[-1] - resident[2] < most_mib  # what threads and buffers keep for themselves is there by then
    assert d.total("tokenlane_http_requests_total", code="500") == 0


def test_two_thousand_requests_leave_nothing(start, tmp_path):
    leak(start, tmp_path, 2000, 8)


@pytest.mark.soak
def test_fifty_thousand_requests_leave_nothing(start, tmp_path):
    leak(start, tmp_path, REQUESTS, 4)
