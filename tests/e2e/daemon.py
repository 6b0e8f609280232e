# SPDX-License-Identifier: MIT
"""A daemon under test: started, watched, asked, ended."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TOKENLANE_BIN") or str(ROOT / "build/plain/bin/tokenlane")
MODEL = pathlib.Path(os.environ.get("TOKENLANE_MODEL") or ROOT / "config/demo/model").resolve()
SAN = os.environ.get("TOKENLANE_SAN", "")
SLOW = 20 if "thread" in SAN else 6 if SAN else 1  # how much longer everything may take
LONG = 200 if SAN else 900  # tokens of a generation that is to last
NAME = "demo"
BUILT = os.environ.get("TOKENLANE_BUILT", "").split()  # what make says is there: its tests fail where it is not, they are not skipped
DEVICES = os.environ.get("TOKENLANE_DEVICES")  # what tests run on that do not say
ON_GPU = (DEVICES or "").startswith("cuda")
# Of daemons with devices cuda, unless a test says otherwise. By default the first takes nine tenths of the memory, and a test may have
# several; with blocks from the prefix cache a prompt is fewer rows the second time, and its logits are no more the same to the bit.
GPU_OPTIONS = {"engine.kv_memory_bytes": 64 << 20, "engine.prefix_cache": "false"}
REPORT = re.compile(r"Sanitizer|runtime error:|Assertion|BUG_ON")


def wait_for(condition, seconds=10.0, what="it"):
    """The first true result of condition()."""
    end = time.monotonic() + seconds * SLOW
    while not (result := condition()):
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.01)
    return result


class Daemon:
    """tokenlane serve with the demo model on a free port; options are configuration keys."""

    def __init__(self, log, options=(), model=MODEL, command=None, env=None, wait=True, **popen):
        self.log = pathlib.Path(log)
        self.options = {"model.path": str(model), "model.name": NAME, "http.port": "0", "drain_timeout_ms": "60000"}
        if DEVICES:
            self.options["devices"] = DEVICES
        self.options.update({k: str(v) for k, v in dict(options).items()})
        # Of a model so small most of several threads' time is their meetings: with two, and other programs on two processors, each step
        # took ten times as long. test_batch, test_experts_served and some others say how many more, so that the pool of each kind of device has some.
        self.options.setdefault("cpu.threads", "1")
        if self.options.get("devices", "").startswith("cuda"):
            self.options = {**{k: str(v) for k, v in GPU_OPTIONS.items()}, **self.options}
        flags = [f"--{k}={v}" for k, v in self.options.items() if v != "None"]
        environment = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1",
                       "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1", **os.environ, **(env or {})}
        with open(self.log, "wb") as stderr:
            self.process = subprocess.Popen([*(command or []), BINARY, "serve", *flags], stdin=subprocess.DEVNULL,
                                            stdout=stderr, stderr=stderr, env=environment, **popen)
        self.http = None
        if wait:
            self.wait_ready()

    # --- what it says ---------------------------------------------------------------------
    def stderr(self):
        return self.log.read_text(errors="replace")

    def wait_log(self, pattern, seconds=20.0):
        def look():
            ended = self.process.poll() is not None  # asked first: the log then has its last words
            text = self.stderr()
            found = re.search(pattern, text)
            assert found or not ended, f"the daemon ended:\n{text}"
            return found
        return wait_for(look, seconds, f"/{pattern}/ in the daemon's log")

    def wait_listening(self):
        self.port = int(self.wait_log(r"msg=listening address=\S+ port=(\d+)")[1])
        self.url = f"http://127.0.0.1:{self.port}"
        # No limit of connections kept: beyond it one thread closes what another is about to look at ("Bad file descriptor").
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self.http = httpx.Client(base_url=self.url, timeout=30 * SLOW, limits=limits)

    def wait_ready(self):
        if self.options["http.port"] != "None" and self.options.get("http.host") != "":
            self.wait_listening()
        self.wait_log(r"msg=ready ")

    # --- what it is asked -------------------------------------------------------------------
    def post(self, path, **body):
        return self.http.post(path, json=body)

    def complete(self, prompt, **fields):
        """One greedy completion, unless the fields say otherwise."""
        answer = self.post("/v1/completions", **{"model": NAME, "prompt": prompt, "temperature": 0, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def chat(self, text, **fields):
        answer = self.post("/v1/chat/completions", **{
            "model": NAME, "messages": [{"role": "user", "content": text}], "temperature": 0, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def tokens(self, text):
        return self.post("/tokenize", prompt=text).json()["tokens"]

    def metrics(self, name=""):
        """{(name, sorted labels): value}, of all or of one name only: to read the others takes twenty times as long."""
        text = self.http.get("/metrics").text
        if name:
            text = "".join(line for line in text.splitlines(True) if line.startswith(name))
        return {(s.name, tuple(sorted(s.labels.items()))): s.value
                for family in text_string_to_metric_families(text) for s in family.samples}

    def total(self, name, **labels):
        """A metric summed over all label sets that contain `labels`."""
        return sum(v for (n, l), v in self.metrics(name).items() if n == name and labels.items() <= dict(l).items())

    def wait_rest(self):
        """Until nothing runs, nothing waits and no KV block is in use."""
        names = ("tokenlane_sequences_running", "tokenlane_sequences_waiting", "tokenlane_kv_blocks_used")
        wait_for(lambda: all(self.total(n) == 0 for n in names), 20, "gauges at rest")

    # --- how it ends ------------------------------------------------------------------------
    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait_exit(self, seconds=30.0):
        return self.process.wait(seconds * SLOW)

    def stop(self):
        """Ends it as systemd would; it must end cleanly and without a sanitizer's report."""
        if self.http:
            self.http.close()
        if self.process.poll() is None:
            self.signal()
            try:
                code = self.wait_exit()
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the daemon did not end after SIGTERM:\n{self.stderr()}") from None
            assert code == 0, f"exit status {code} after SIGTERM:\n{self.stderr()}"
        assert not REPORT.search(self.stderr()), self.stderr()


def run(*arguments, seconds=20, **options):
    """A command of tokenlane that ends by itself: (exit status, stdout, stderr)."""
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=seconds * SLOW,
                          stdin=subprocess.DEVNULL, **options)
    assert not REPORT.search(done.stderr), done.stderr
    return done.returncode, done.stdout, done.stderr


def model_with(folder, name, change):
    """A copy of the demo model in `folder` whose JSON file `name` is changed by change(json) -> json."""
    copy = pathlib.Path(folder) / "model"
    shutil.copytree(MODEL, copy, dirs_exist_ok=True)
    (copy / name).write_text(json.dumps(change(json.loads((copy / name).read_text()))))
    return copy


def events(lines):
    """The JSON of server-sent events up to [DONE], which must come."""
    out = []
    for line in lines:
        if not line:
            continue
        assert line.startswith("data: "), line
        if line == "data: [DONE]":
            return out
        out.append(json.loads(line[6:]))
    raise AssertionError("the stream ended without [DONE]")
