# SPDX-License-Identifier: MIT
"""A client that writes raw bytes and takes answers apart without trusting them."""
import json
import socket

from daemon import SLOW


class Answer:
    def __init__(self, head, body):
        line, *fields = head.decode("ascii").split("\r\n")
        version, status, self.reason = line.split(" ", 2)
        assert version == "HTTP/1.1", line
        self.status, self.body = int(status), body
        self.fields = [(n.lower(), v.strip()) for n, _, v in (f.partition(":") for f in fields)]

    def field(self, name):
        found = [v for n, v in self.fields if n == name]
        assert len(found) <= 1, f"{name} comes twice"
        return found[0] if found else None

    def json(self):
        return json.loads(self.body)

    def error(self):
        """The members of an error in OpenAI's shape."""
        assert self.field("content-type") == "application/json"
        assert set(self.json()["error"]) == {"message", "type", "param", "code"}
        return self.json()["error"]


class Wire:
    """One connection: Wire(port), Wire("/path/of/socket"). Nothing is sent but what a test sends."""

    def __init__(self, to, receive_buffer=None):
        self.socket = socket.socket(socket.AF_INET if isinstance(to, int) else socket.AF_UNIX)
        self.socket.settimeout(20 * SLOW)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", to) if isinstance(to, int) else to)
        if isinstance(to, int):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.got = b""
        self.ended = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *parts):
        for part in parts:
            self.socket.sendall(part if isinstance(part, bytes) else part.encode())
        return self

    def get(self, target, *fields, method="GET", version="1.1"):
        return self.send("\r\n".join([f"{method} {target} HTTP/{version}", "Host: a", *fields, "", ""]))

    def post(self, target, *fields, **body):
        content = json.dumps(body)
        return self.send("\r\n".join([f"POST {target} HTTP/1.1", "Host: a", f"Content-Length: {len(content)}", *fields, "", content]))

    def more(self):
        try:
            part = self.socket.recv(1 << 18)
        except ConnectionResetError:
            part = b""
        self.got += part
        self.ended = not part
        return bool(part)

    def until(self, end):
        """Everything up to and with `end`."""
        searched = 0
        while (at := self.got.find(end, searched)) < 0:
            searched = max(0, len(self.got) - len(end))
            assert self.more(), f"the end, where {end} was expected: {self.got[-300:]}"
        return self.take(at + len(end))

    def take(self, n):
        while len(self.got) < n:
            assert self.more(), f"the end, where {n} bytes were expected: {self.got[-300:]}"
        part, self.got = self.got[:n], self.got[n:]
        return part

    def head(self):
        """An answer without its body."""
        return Answer(self.until(b"\r\n\r\n")[:-4], b"")

    def chunk(self):
        n = int(self.until(b"\r\n")[:-2], 16)
        data = self.take(n)
        assert self.take(2) == b"\r\n"
        return data

    def answer(self, to_head=False):
        answer = self.head()
        assert answer.status < 200 or (answer.field("date") and answer.field("x-request-id") and answer.field("server").startswith("tokenlane/"))
        if to_head or answer.status < 200 or answer.status == 204:
            return answer
        if answer.field("transfer-encoding"):
            assert answer.field("transfer-encoding") == "chunked" and answer.field("content-length") is None
            while data := self.chunk():
                answer.body += data
        elif answer.field("content-length") is not None:
            answer.body = self.take(int(answer.field("content-length")))
        else:
            while self.more():
                continue
            answer.body, self.got = self.got, b""
        return answer

    def expect(self, status):
        answer = self.answer()
        assert answer.status == status, (answer.status, answer.body[:300])
        return answer

    def expect_end(self):
        """The server ends the connection, and nothing comes before that."""
        while not self.ended:
            self.more()
            assert not self.got, self.got[:300]

    def expect_refusal(self, status):
        """An error that ends the connection."""
        answer = self.expect(status)
        assert answer.error()["message"] and answer.field("connection") == "close"
        self.expect_end()
        return answer.error()["message"]
