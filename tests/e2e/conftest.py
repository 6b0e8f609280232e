# SPDX-License-Identifier: MIT
"""Real daemons on loopback ports. TOKENLANE_BIN, TOKENLANE_MODEL and TOKENLANE_SAN say which."""
import itertools
import pathlib
import re

import certifi
import pytest

from daemon import SLOW, Daemon

running = []  # daemons whose log a failed test shows


@pytest.fixture(scope="session", autouse=True)
def one_certificate(tmp_path_factory):
    """No test speaks TLS, but every client reads all certificates that there are, which takes most of what a short test does: here it is one."""
    file = tmp_path_factory.mktemp("certificates") / "one.pem"
    file.write_text(re.search("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", pathlib.Path(certifi.where()).read_text(), re.S)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    """The daemon that most tests share: two loops, one replica."""
    d = Daemon(tmp_path_factory.mktemp("shared") / "log",
               {"http.threads": 2, "model.aliases": "other-name,org/demo"})
    running.append(d)
    yield d
    d.wait_rest()
    running.remove(d)
    d.stop()


@pytest.fixture
def start(tmp_path):
    """start(options, ...) -> Daemon of the test's own; ended with the test."""
    numbers, mine = itertools.count(), []

    def begin(options=(), wait=True, **more):
        d = Daemon(tmp_path / f"log{next(numbers)}", options, wait=False, **more)
        mine.append(d)
        running.append(d)
        if wait:
            d.wait_ready()
        return d

    yield begin
    for d in mine:
        running.remove(d)
    for d in mine:
        d.stop()


@pytest.fixture(scope="session")
def client(daemon):
    openai = pytest.importorskip("openai")  # a machine with a GPU may lack it
    with openai.OpenAI(base_url=daemon.url + "/v1", api_key="none", max_retries=0, timeout=60 * SLOW) as c:
        yield c


@pytest.fixture(scope="session")
def story(daemon):
    """A long greedy answer, for tests that cut it."""
    text = daemon.chat("Tell me a story about Ben.", max_tokens=300)["choices"][0]["message"]["content"]
    assert len(text) > 100, text
    return text


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for d in running:
            report.sections.append((f"stderr of {' '.join(map(str, d.process.args[1:]))}", d.stderr()[-4000:]))
    return report
