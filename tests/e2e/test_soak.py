# SPDX-License-Identifier: MIT
"""Many clients of all kinds at once, the bad ones too; afterwards nothing is left behind.

`make soak` runs 64 of them for SOAK_SECONDS (60), without guessed tokens and with; the normal suite a small lot for some seconds, with."""
import asyncio
import collections
import json
import os
import pathlib
import random
import socket
import time

import pytest

from daemon import NAME, SAN

SECONDS = float(os.environ.get("SOAK_SECONDS", 60))
PROMPTS = ["Once upon a time", "Clara had a red ball .", "The dog", "Max and Clara went to the river . " * 8]
OPTIONS = {"http.threads": 2, "devices": "cpu:0,cpu:1", "limits.max_queue": 40, "engine.max_context": 512,
           "engine.max_batch_size": 16, "engine.max_batch_tokens": 48,  # prefill comes in chunks
           "engine.kv_memory_bytes": 34 * 20480,                        # 34 blocks: some are preempted
           "limits.max_waiting_tokens": 20000, "http.max_write_queue_bytes": 4096, "http.write_timeout_ms": 1500,
           "http.body_timeout_ms": 700, "http.header_timeout_ms": 700}


class Client:
    """One client: asks again and again in random ways, checks what it gets."""

    def __init__(self, d, expected, number):
        self.port, self.expected, self.number = d.port, expected, number
        self.random = random.Random(number)
        self.prompt = self.tokens = None
        self.done = collections.Counter()

    async def connect(self, receive_bytes=None):
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes:  # before the handshake: it bounds the window
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=1 << 22 if not receive_bytes else 4096)

    async def close(self):
        if self.random.random() < 0.5:
            self.writer.transport.abort()
        self.writer.close()

    def send(self, path, body, more=b""):
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.writer.write(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(text) + len(more)}\r\n\r\n".encode() + text)

    async def head(self):
        """Status and header of an answer."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        return int(lines[0].split()[1]), dict(line.split(": ", 1) for line in lines[1:] if line)

    async def chunks(self):
        """The events of a stream, to its last chunk."""
        while size := int(await self.reader.readline(), 16):
            part = await self.reader.readexactly(size + 2)
            for line in part.decode().splitlines():
                if line.startswith("data: "):
                    yield line[6:]
        await self.reader.readline()

    def body(self, **fields):
        self.prompt = self.random.choice(PROMPTS)
        self.tokens = self.random.choice([1, 2, 7, 16, 33, 64, 120])
        return {"model": NAME, "prompt": self.prompt, "max_tokens": self.tokens, "temperature": 0, "ignore_eos": True, **fields}

    async def refused(self, status, header):
        if status != 429:
            return False
        assert 1 <= int(header["retry-after"]) <= 60
        await self.reader.readexactly(int(header["content-length"]))
        await asyncio.sleep(0.05)
        return True

    # --- the ways in which they ask ---------------------------------------------------------
    async def whole_stream(self, n=1):
        self.send("/v1/completions", self.body(stream=True, n=n, stream_options={"include_usage": True}))
        status, header = await self.head()
        if await self.refused(status, header):
            return "refused"
        assert status == 200
        texts, finishes, last = [""] * n, [None] * n, None
        async for data in self.chunks():
            assert last != "[DONE]"
            last = data
            event = {"choices": []} if data == "[DONE]" else json.loads(data)
            for choice in event["choices"]:
                texts[choice["index"]] += choice["text"]
                finishes[choice["index"]] = choice["finish_reason"] or finishes[choice["index"]]
        assert last == "[DONE]" and finishes == ["length"] * n
        # greedy: n times the same, the beginning of what it gave when nobody else was there
        assert all(self.expected[self.prompt].startswith(text) for text in texts), texts
        assert len(set(texts)) == 1

    async def several_choices(self):
        return await self.whole_stream(n=3)

    async def plain(self):
        stop = self.random.choice([None, [" the", "never"]])
        self.send("/v1/completions", self.body(stop=stop, logprobs=self.random.choice([None, 3])))
        status, header = await self.head()
        if await self.refused(status, header):
            return "refused"
        answer = json.loads(await self.reader.readexactly(int(header["content-length"])))
        assert status == 200 and self.expected[self.prompt].startswith(answer["choices"][0]["text"]), answer

    async def chat(self):
        self.send("/v1/chat/completions", {"model": NAME, "messages": [{"role": "user", "content": "Who is Clara?"}], "max_tokens": 20})
        status, header = await self.head()
        answer = json.loads(await self.reader.readexactly(int(header["content-length"])))
        assert (status == 200 and answer["usage"]["completion_tokens"] <= 20) or status == 429
        return None if status == 200 else "refused"

    async def leaves_in_the_middle(self):
        self.send("/v1/completions", self.body(stream=True, max_tokens=300))
        status, header = await self.head()
        if await self.refused(status, header):
            return "refused"
        left = self.random.randrange(20)
        async for data in self.chunks():
            if (left := left - 1) < 0:
                break
        await self.close()

    async def leaves_at_once(self):
        self.send("/v1/completions", self.body(max_tokens=300, n=2))
        await asyncio.sleep(self.random.choice([0, 0.01, 0.1]))
        await self.close()

    async def leaves_within_the_request(self):
        self.send("/v1/completions", self.body(), more=b"more than comes")
        if self.random.random() < 0.2:
            assert (await self.head())[0] == 408
        await self.close()

    async def errs(self):
        body, expected = self.random.choice([(b"{nonsense", 400), (self.body(n=0), 400), (self.body(max_tokens=10**6), 400),
                                             (self.body(model="other"), 404), (self.body(tools=[]), 400), (b"[" * 1000, 400)])
        self.send("/v1/completions", body)
        status, header = await self.head()
        answer = json.loads(await self.reader.readexactly(int(header["content-length"])))
        assert status == expected and answer["error"]["message"], answer

    async def speaks_nonsense(self):
        self.writer.write(b"\x16\x03\x01 HTTP/9.9\r\n\r\n")
        assert (await self.head())[0] in (400, 505)
        await self.close()

    async def reads_slowly(self):
        """More comes than its window and the daemon's queue hold, but it does take it: nothing is lost."""
        await self.close()
        await self.connect(receive_bytes=2048)
        self.send("/v1/completions", self.body(stream=True, n=4, max_tokens=60, logprobs=5))
        status, header = await self.head()
        if await self.refused(status, header):
            return "refused"
        events = 0
        async for data in self.chunks():
            events += 1
            if events % 16 == 0:
                await asyncio.sleep(0.1)
        assert status == 200 and data == "[DONE]"

    async def never_reads(self):
        """The daemon cuts it once its time is up."""
        await self.close()
        await self.connect(receive_bytes=2048)
        self.send("/v1/completions", self.body(stream=True, n=4, max_tokens=300, logprobs=5))
        self.writer.transport.pause_reading()
        await asyncio.sleep(self.random.choice([1, 3]))
        await self.close()

    async def looks_around(self):
        path = self.random.choice(["/metrics", "/health", "/v1/models", "/ready"])
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        status, header = await self.head()
        assert status == 200
        await self.reader.readexactly(int(header["content-length"]))

    WAYS = {whole_stream: 12, several_choices: 2, plain: 6, chat: 3, leaves_in_the_middle: 4, leaves_at_once: 3,
            leaves_within_the_request: 1, errs: 3, speaks_nonsense: 1, reads_slowly: 1, never_reads: 1, looks_around: 2}

    async def run(self, until, closing):
        """Until the time is up, or the daemon closes after a signal (closing is set)."""
        self.writer, ways = None, list(self.WAYS)
        way = ways[self.number % len(ways)]  # so that none is left out
        while time.monotonic() < until:
            try:
                if not self.writer or self.writer.is_closing() or self.random.random() < 0.2:
                    if self.writer:
                        self.writer.close()
                    await self.connect()
                outcome = await way(self) or "done"
            except (OSError, asyncio.IncompleteReadError, ValueError, AssertionError) as error:
                if closing.is_set():
                    return
                raise AssertionError(f"{way.__name__} of {self.prompt!r} x {self.tokens} after {dict(self.done)}") from error
            self.done[way.__name__, outcome] += 1
            way = self.random.choices(ways, self.WAYS.values())[0]
        self.writer.close()


def load(d, expected, clients, seconds, during=None):
    """Runs the clients for so long; `during` is called in the middle. What they did: {(way, outcome): times}."""
    async def everything():
        closing = asyncio.Event()
        until = time.monotonic() + seconds
        mine = [Client(d, expected, i) for i in range(clients)]
        tasks = [asyncio.create_task(c.run(until, closing)) for c in mine]
        if during:
            await asyncio.sleep(seconds / 2)
            closing.set()
            during()
        await asyncio.gather(*tasks)
        return sum((c.done for c in mine), collections.Counter())
    return asyncio.run(everything())


def resident_mib(d):
    status = pathlib.Path(f"/proc/{d.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def soak(start, clients, seconds, drafts):
    d = start({**OPTIONS, "engine.draft_tokens": drafts})
    expected = {p: d.complete(p, max_tokens=130, ignore_eos=True)["choices"][0]["text"] for p in PROMPTS}  # one by one
    warm_up = load(d, expected, clients, seconds / 3)
    d.wait_rest()
    before = resident_mib(d)
    done = load(d, expected, clients, seconds)
    d.wait_rest()
    grown = resident_mib(d) - before
    print(f"\n{clients} clients, {seconds:.0f} s; resident {before:.0f} MiB + {grown:.1f} MiB; preempted",
          int(d.total("tokenlane_preemptions_total")), dict(done))
    # every way was taken, and most requests were served
    assert {way for way, _ in warm_up + done} == {way.__name__ for way in Client.WAYS}
    assert done["whole_stream", "done"] > done["whole_stream", "refused"]
    assert (SAN or d.total("tokenlane_preemptions_total") > 0) and d.total("tokenlane_cancelled_requests_total") > 0
    assert d.total("tokenlane_http_requests_total", code="500") == 0
    guessed, taken = d.total("tokenlane_draft_tokens_total"), d.total("tokenlane_draft_tokens_taken_total")
    print(f"{taken:.0f} of {guessed:.0f} guesses right")
    assert guessed > taken > 0 if drafts else guessed == 0
    assert SAN or grown < 16, f"{grown} MiB more than after the warm-up"
    assert d.total("tokenlane_http_connections") <= 2  # the test's own
    assert d.complete(PROMPTS[0], max_tokens=130, ignore_eos=True)["choices"][0]["text"] == expected[PROMPTS[0]]
    d.http.close()
    load(d, expected, clients, min(seconds, 8) / 2, during=d.signal)  # and SIGTERM amid it all
    assert d.wait_exit(90) == 0


def test_small_soak(start):
    soak(start, 24, 4, 6)


@pytest.mark.soak
@pytest.mark.parametrize("drafts", [0, 6])
def test_soak(start, drafts):
    soak(start, 64, SECONDS, drafts)
