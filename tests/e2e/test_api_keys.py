# SPDX-License-Identifier: MIT
"""Keys that clients have to show, and pages that may read answers."""
import json
import signal

import openai
import pytest

from daemon import MODEL, NAME, SLOW, Daemon, run
from wire import Wire

KEY, OTHER = "sk-tokenlane-1", "sk-tokenlane-2"
GUARDED = [("GET", "/v1/models"), ("GET", f"/v1/models/{NAME}"), ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"),
           ("POST", "/v1/embeddings"), ("POST", "/v1/rerank"), ("POST", "/v2/rerank"), ("POST", "/rerank"), ("POST", "/v1/score"), ("POST", "/score"),
           ("POST", "/tokenize"), ("POST", "/detokenize"), ("GET", "/health/"), ("GET", "/v1/../health"), ("GET", "/nothing")]
OPEN = ["/health", "/ready", "/version", "/metrics"]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("guarded") / "log",
               {"http.api_keys": f"{KEY},{OTHER}", "http.cors_origins": "https://Chat.Example:443/", "log.access": "true", "log.level": "debug"})
    yield d
    d.wait_rest()
    d.stop()


def client(d, key, **more):
    return openai.OpenAI(base_url=d.url + "/v1", api_key=key, max_retries=0, timeout=60 * SLOW, **more)


def allowed(d, key):
    return d.http.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_openai_client(guarded):
    for key in (KEY, OTHER):
        with client(guarded, key) as c:
            assert c.models.list().data[0].id == NAME
            answer = c.chat.completions.create(model=NAME, max_tokens=3, messages=[{"role": "user", "content": "Hello"}])
            assert answer.usage.completion_tokens == 3
    for key in ("wrong", KEY[:-1], KEY + "1", KEY.upper(), f"{KEY},{OTHER}"):
        with client(guarded, key) as c, pytest.raises(openai.AuthenticationError) as refused:
            c.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "Hello"}], stream=True)
        assert refused.value.code == "invalid_api_key" and key not in str(refused.value)
        assert refused.value.response.headers["www-authenticate"] == "Bearer"
    with client(guarded, KEY) as c, pytest.raises(openai.AuthenticationError, match="expected an API key"):
        c.models.list(extra_headers={"Authorization": openai.Omit()})


@pytest.mark.parametrize("method,path", GUARDED)
def test_what_is_guarded(guarded, method, path):
    with Wire(guarded.port) as w:
        w.get(path, method=method)
        assert w.expect_refusal(401)
    with Wire(guarded.port) as w:
        w.get(path, f"X-Api-Key: {KEY}", method=method)
        assert w.answer().status != 401


def test_what_is_open(guarded):
    for path in OPEN:
        for method in ("GET", "HEAD"):
            assert guarded.http.request(method, path).status_code == 200


def test_bodies_need_a_key(guarded):
    for path, method in [*[(path, "GET") for path in OPEN], ("/v1/models", "OPTIONS")]:
        status = 405 if method == "OPTIONS" else 200
        for body in ("Content-Length: 8000000", "Transfer-Encoding: chunked"):
            with Wire(guarded.port) as w:
                w.get(path, body, method=method).expect_refusal(401)
        for fields in (["Content-Length: 0"], []):
            with Wire(guarded.port) as w:
                w.get(path, *fields, method=method).expect(status)


@pytest.mark.parametrize("fields,status", [
    ([f"Authorization: bearer {KEY}"], 200), ([f"Authorization: Bearer   {KEY}  "], 200), ([f"x-api-key: {OTHER}"], 200),
    (["Authorization: Bearer wrong", f"X-Api-Key: {KEY}"], 200),  # a proxy's own beside ours
    ([f"Authorization: {KEY}"], 401), ([f"Authorization: Basic {KEY}"], 401), (["Authorization: Bearer"], 401), (["Authorization: Bearer "], 401),
    ([f"Authorization: Bearer {KEY} {OTHER}"], 401), ([f"Authorization: Bearer {'x' * 8000}"], 401), (["X-Api-Key:"], 401)])
def test_headers(guarded, fields, status):
    with Wire(guarded.port) as w:
        w.get("/v1/models", *fields)
        assert w.answer().status == status


def test_kept_connections(guarded):
    with Wire(guarded.port) as w:  # each request shows its own key
        for _ in range(3):
            w.get("/v1/models", f"Authorization: Bearer {KEY}").expect(200)
            w.get("/health").expect(200)
        w.get("/v1/models").expect_refusal(401)
    with Wire(guarded.port) as w:  # requests behind one that is refused are not looked at
        w.send(*[f"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Api-Key: {k}\r\n\r\n" for k in (KEY, "wrong", KEY)])
        w.expect(200)
        w.expect_refusal(401)


def test_large_body_is_refused_early(guarded):
    with Wire(guarded.port) as w:  # not a byte of the body has come
        w.send("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\nExpect: 100-continue\r\nX-Api-Key: wrong\r\n\r\n")
        w.expect_refusal(401)
    before = guarded.total("tokenlane_http_requests_total", route="/v1/completions", code="401")
    with Wire(guarded.port) as w:
        w.send("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\nX-Api-Key: wrong\r\n\r\n", "x" * 500000)
        w.expect_refusal(401)
    assert guarded.total("tokenlane_http_requests_total", route="/v1/completions", code="401") == before + 1


def test_keys_are_not_said(guarded):
    text = guarded.stderr()
    assert "requests need an API key" in text and "API keys in the command line" in text and "status=401" in text
    assert KEY not in text and OTHER not in text


# --- where keys come from ------------------------------------------------------------------------
def test_file_and_reload(start, tmp_path):
    keys, config = tmp_path / "keys", tmp_path / "config.json"
    keys.write_text(f"# ours\n\n  {KEY}  \r\n")
    keys.chmod(0o600)
    config.write_text(json.dumps({"http": {"api_key_file": "keys"}}))  # from the file's folder
    d = start({"config": config}, env={"TOKENLANE_API_KEY": "sk-environment"})
    assert allowed(d, KEY) and allowed(d, "sk-environment") and not allowed(d, OTHER) and not allowed(d, "# ours")
    assert "can read" not in d.stderr()

    def reload(text, log):
        keys.write_text(text)
        seen = d.stderr().count(log)
        d.signal(signal.SIGHUP)
        d.wait_log(f"(?s)(?:{log}.*){{{seen + 1}}}")

    reload(f"{OTHER}\n", "configuration was read again")
    assert allowed(d, OTHER) and allowed(d, "sk-environment") and not allowed(d, KEY)
    for text in ("", "# none\n", f"{KEY}\nwith blank\n", "\0\n", "x" * 600, f"{KEY}\n" * 10000):  # what is wrong opens nothing
        reload(text, "keys were not read again")
        assert allowed(d, OTHER) and not allowed(d, KEY) and not allowed(d, "x")
    keys.chmod(0o644)
    reload(KEY, "every user of this machine can read http.api_key_file")
    d.wait_log("changed keys need a restart|read again")
    assert allowed(d, KEY) and not allowed(d, OTHER)
    assert "need a restart" not in d.stderr() and KEY not in d.stderr() and OTHER not in d.stderr() and "with blank" not in d.stderr()


def test_without_a_key_any_more(start, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"http": {"api_keys": [KEY]}}))
    d = start({"config": config})
    assert not allowed(d, OTHER) and "requests need no API key" not in d.stderr()
    config.write_text('{"http": {"api_keys": ["%s" "%s"]}}' % (KEY, OTHER))  # what is there is not said
    d.signal(signal.SIGHUP)
    d.wait_log("']' expected")
    assert not allowed(d, OTHER) and KEY not in d.stderr() and OTHER not in d.stderr()
    config.write_text("{}")
    d.signal(signal.SIGHUP)
    d.wait_log("requests need no API key")  # it may not have been meant
    assert allowed(d, OTHER)


def test_environment(start):
    d = start(env={"TOKENLANE_API_KEY": KEY})
    assert allowed(d, KEY) and not allowed(d, OTHER)


@pytest.mark.parametrize("options,message", [
    (["--http.api_keys", f"{KEY},with blank"], "http.api_keys: expected keys of 1 to 512 visible ASCII characters, number 2 is none"),
    (["--http.api_keys", f"{KEY},"], None), (["--http.api_keys", f"{KEY},,{OTHER}"], "number 2 is none"),
    (["--http.api_keys", KEY, OTHER], "expected --KEY VALUE, and commas between the keys"),
    (["--api-key", KEY, OTHER], "expected --KEY VALUE"), (["--api-key", KEY], "api-key: no such key"),
    (["--http.cors_origins", "https://a.example/app"], "http.cors_origins: expected"), (["--http.cors_origins", "null"], "http.cors_origins: expected"),
    (["--http.cors_origins", "https://a.example,http://localhost:3000"], None)])
def test_check_config(options, message):
    code, out, err = run("check-config", "--model.path", MODEL, *options)
    assert (code == 0) == (message is None) and (message or "") in err
    assert KEY not in out + err and OTHER not in out + err


def test_missing_file(tmp_path):
    code, _, err = run("serve", "--model.path", MODEL, "--http.port", "0", "--http.api_key_file", tmp_path / "none")
    assert code == 1 and "http.api_key_file: " in err and "No such file" in err


# --- pages of other origins ----------------------------------------------------------------------
def test_pages(guarded):
    page = {"Origin": "https://chat.example"}
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    answer = guarded.http.options("/v1/chat/completions", headers={**page, **ask})  # browsers show no key here
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == page["Origin"]
    assert "authorization" in answer.headers["access-control-allow-headers"] and "POST" in answer.headers["access-control-allow-methods"]
    body = {"prompt": "a", "max_tokens": 2, "stream": True}
    with guarded.http.stream("POST", "/v1/completions", headers={**page, "Authorization": f"Bearer {KEY}"}, json=body) as answer:
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == page["Origin"]
        assert answer.headers["vary"] == "Origin" and answer.read().endswith(b"data: [DONE]\n\n")
    for origin in ("https://evil.example", "https://chat.example.evil", "http://chat.example", "null"):
        answer = guarded.http.options("/v1/models", headers={"Origin": origin, **ask})
        assert answer.status_code == 405 and "access-control-allow-origin" not in answer.headers


def test_no_pages_unless_allowed(daemon):
    answer = daemon.http.get("/v1/models", headers={"Origin": "https://chat.example"})
    assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers and "vary" not in answer.headers
