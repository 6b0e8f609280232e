# SPDX-License-Identifier: MIT
"""Several models in one daemon: who answers, what each one's figures and faults are, what a configuration may say."""
import concurrent.futures
import json
import signal

import httpx
import pytest

import embedders
from daemon import MODEL, SLOW, events, model_with, run, wait_for
from simulated import vector

CHOSEN = {"model.path": None, "model.name": None}


def entry(name, path=MODEL, **more):
    return {"name": name, "path": str(path), **more}


def config(folder, *models, **more):
    path = folder / "tokenlane.json"
    path.write_text(json.dumps({"models": list(models), **more}, indent=1))
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The demo model, which reads only small letters and has a shorter context."""
    copy = model_with(tmp_path_factory.mktemp("other"), "config.json", lambda c: {**c, "max_position_embeddings": 512})
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    (copy / "tokenizer.json").write_text(json.dumps({**tokenizer, "normalizer": {"type": "Lowercase"}}))
    return copy


@pytest.fixture
def serve(tmp_path, start):
    """serve(model, ..., **options) -> Daemon with these models and an operator's socket."""
    def begin(*models, wait=True, **options):
        admin = tmp_path / "admin"
        keys = {k.replace("__", "."): v for k, v in options.items()}
        d = start({**CHOSEN, "devices": None, "config": config(tmp_path, *models), "admin.unix": admin, **keys}, wait=wait)
        d.admin = httpx.Client(transport=httpx.HTTPTransport(uds=str(admin)), base_url="http://admin", timeout=30)
        return d
    return begin


def ask(d, model, prompt="Once upon a time", **fields):
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 8, **fields}
    if model:
        body["model"] = model
    return d.post("/v1/completions", **body)


def sim(n, *, first=0):
    return [f"sim:{i}" for i in range(first, first + n)]


def replicas(d):
    return d.admin.get("/admin/replicas").json()["replicas"]


def state(d, replica):
    return replicas(d)[replica]["state"]


# --- who answers ---------------------------------------------------------------------------------

def test_each_model_answers_as_if_it_were_alone(serve, daemon, other):
    d = serve(entry("one", devices=["cpu:0"]), entry("two", other, devices=["cpu:0"], aliases=["deux", "org/two"]),
              entry("three", devices=sim(2), engine={"max_context": 128}))
    alone = daemon.complete("Once upon a time", max_tokens=8)["choices"][0]["text"]
    for model in ("one", None):
        answer = ask(d, model).json()
        assert answer["model"] == "one" and answer["choices"][0]["text"] == alone
    two = {model: ask(d, model, "Once Upon A Time").json() for model in ("two", "deux", "org/two")}
    assert [a["model"] for a in two.values()] == ["two", "deux", "org/two"]
    assert {a["choices"][0]["text"] for a in two.values()} == {ask(d, "one", "once upon a time").json()["choices"][0]["text"]}
    assert len({a["system_fingerprint"] for a in two.values()}) == 1
    assert two["two"]["system_fingerprint"] != ask(d, "one").json()["system_fingerprint"]
    with d.http.stream("POST", "/v1/completions", json={"model": "three", "prompt": "x", "max_tokens": 5, "stream": True}) as s:
        assert {e["model"] for e in events(s.iter_lines())} == {"three"}
    d.wait_rest()


def test_unknown_models_are_told_which_there_are(serve):
    d = serve(entry("one", devices=sim(1)), entry("two", devices=sim(1, first=1), aliases=["deux"]))
    for path, body in (("/v1/completions", {"prompt": "x"}), ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
                       ("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})):
        answer = d.post(path, model="three", **body)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found", answer.text
        assert "'one', 'two'" in answer.json()["error"]["message"]
    assert d.http.get("/v1/models/three").status_code == 404


def test_models_are_listed_with_their_own_facts(serve, other):
    d = serve(entry("one", other, devices=["cpu:0"]),
              entry("two", devices=sim(1), aliases=["deux"], engine={"max_context": 128}))
    data = {m["id"]: m for m in d.http.get("/v1/models").json()["data"]}
    assert list(data) == ["one", "two", "deux"]
    assert [m["root"] for m in data.values()] == ["one", "two", "two"]
    assert data["two"]["max_model_len"] == data["deux"]["max_model_len"] == 128 != data["one"]["max_model_len"]
    assert data["two"]["simulated"] and "simulated" not in data["one"]
    assert d.http.get("/v1/models/deux").json() == data["deux"]


def test_text_is_the_models_own(serve, other):
    d = serve(entry("one", devices=sim(1)), entry("two", other, devices=sim(1, first=1)))
    asked = {m: d.post("/tokenize", model=m, prompt="Hello World").json() for m in ("one", "two")}
    assert asked["one"] == d.post("/tokenize", prompt="Hello World").json() and asked["one"] != asked["two"]
    long = "Word WORD " * 2000  # read by a text lane
    assert d.post("/tokenize", model="two", prompt=long).json()["count"] != d.post("/tokenize", model="one", prompt=long).json()["count"]


# --- each one's limits, figures, faults --------------------------------------------------------------

def test_limits_are_the_models_own(serve):
    slow = {"sim": {"base_us": 20000}, "limits": {"max_queue": 1}}
    d = serve(entry("one", devices=sim(1), **slow), entry("two", devices=sim(1, first=1)))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, d, "one", max_tokens=100)
        wait_for(lambda: d.total("tokenlane_sequences_running", model="one") == 1, 10, "it to run")
        assert ask(d, "one").status_code == 429 and ask(d, "two").status_code == 200
        long = "word " * 4000
        assert ask(d, "two", long, max_tokens=1).status_code == 400  # too long for it, but not refused as if it were full
        assert first.result().status_code == 200
    assert d.total("tokenlane_route_refused_total", model="one") == 1 and d.total("tokenlane_route_refused_total", model="two") == 0


def test_metrics_and_replicas_name_the_model(serve):
    d = serve(entry('a "quoted" \\ name', devices=sim(2)), entry("two", devices=sim(1, first=2)))
    first = 'a "quoted" \\ name'
    assert ask(d, first, max_tokens=5).status_code == ask(d, "two", max_tokens=7).status_code == 200
    d.wait_rest()
    made = "tokenlane_generated_tokens_total"
    assert d.total(made, model="two", replica="2") == 7 + 2  # and the test generation
    assert d.total(made, model=first) == 5 + 2 * 2
    for name in ("tokenlane_time_to_first_token_seconds_count", "tokenlane_replica_state", "tokenlane_kv_blocks",
                 "tokenlane_replica_device"):
        labels = [dict(l) for (n, l) in d.metrics() if n == name]
        assert {(l["model"], l["replica"]) for l in labels} == {(first, "0"), (first, "1"), ("two", "2")}, name
    assert [(r["id"], r["model"], r["devices"]) for r in replicas(d)] == [
        (0, first, ["sim:0"]), (1, first, ["sim:1"]), (2, "two", ["sim:2"])]


def test_drain_and_resume_are_by_the_number_among_all(serve):
    d = serve(entry("one", devices=sim(1)), entry("two", devices=sim(1, first=1)))
    assert d.admin.post("/admin/replicas/1/drain").json()["state"] == "draining"
    assert state(d, 0) == "ready"
    assert ask(d, "two").status_code == 503 and ask(d, "one").status_code == 200
    ready = d.http.get("/ready")
    assert ready.status_code == 503 and "'two'" in ready.text and "'one'" not in ready.text
    assert d.admin.post("/admin/replicas/1/resume").json()["state"] == "ready"
    assert ask(d, "two").status_code == 200 and d.http.get("/ready").status_code == 200
    assert d.admin.post("/admin/replicas/2/drain").status_code == 404


def test_a_fault_of_one_does_not_touch_the_other(serve):
    d = serve(entry("one", devices=sim(2), sim={"faults": ["0@20:die", "1@20:die"]}),
              entry("two", devices=sim(2, first=2)), health__late_ms=500, health__max_faults=1)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        lost = pool.submit(ask, d, "one", max_tokens=100)
        twos = [pool.submit(ask, d, "two", max_tokens=150) for _ in range(6)]
        wait_for(lambda: {state(d, 0), state(d, 1)} == {"out"}, 20, "one to be out")
        assert all(t.result().status_code == 200 for t in twos)
        assert lost.result().status_code >= 500
    assert [state(d, i) for i in (2, 3)] == ["ready", "ready"]
    assert d.total("tokenlane_replica_faults_total", model="two") == 0
    assert ask(d, "one").status_code == 503 and "'one'" in d.http.get("/ready").text
    assert ask(d, "two").status_code == 200
    d.wait_log(r"msg=replica replica=[01] state=out .*model=one")


def test_processes_are_the_models_own(serve):
    """A crash of one model's process costs that model a step, and the other nothing."""
    d = serve(entry("one", devices=sim(1), isolation="process", sim={"faults": ["0@20:die"]}, health={"backoff_ms": 1}),
              entry("two", devices=["cpu:0"]))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        both = [pool.submit(ask, d, m, max_tokens=30, ignore_eos=True) for m in ("one", "two")]
        assert [b.result().json()["usage"]["completion_tokens"] for b in both] == [30, 30]
    assert d.total("tokenlane_replica_faults_total", model="one") == 1
    assert d.total("tokenlane_replica_faults_total", model="two") == 0
    d.wait_rest()


# --- life ------------------------------------------------------------------------------------------------

def test_reload_names_what_changed_and_changes_nothing(serve, tmp_path):
    one, two = entry("one", devices=sim(1)), entry("two", devices=sim(1, first=1))
    d = serve(one, two)
    config(tmp_path, one, {**two, "engine": {"max_batch_size": 3}})
    d.signal(signal.SIGHUP)
    d.wait_log(r'changed keys need a restart" keys=models\[1\]\.engine\.max_batch_size')
    config(tmp_path, one)
    d.signal(signal.SIGHUP)
    d.wait_log(r'changed keys need a restart" keys=models$|changed keys need a restart" keys=models\s')
    assert ask(d, "two").status_code == 200
    config(tmp_path, one, {"name": "two"})
    d.signal(signal.SIGHUP)
    d.wait_log(r"was not read again.*models\[1\]\.path: is required")
    assert [m["id"] for m in d.http.get("/v1/models").json()["data"]] == ["one", "two"]


def test_embeddings_beside_text_end_before_the_daemon(serve, tmp_path):
    """Inputs for which there is no room yet, on devices that fail, and large bodies of both kinds: all are answered by their
    own model while the daemon drains."""
    folder, tokenizer = embedders.write(tmp_path / "embedder")
    slow = {"sim": {"base_us": 5000}}
    d = serve(entry("text", devices=sim(2), **slow),
              entry("embed", folder, devices=sim(2, first=2), sim={"base_us": 5000, "faults": ["2@12:error", "3@15:die"]},
                    engine={"max_batch_size": 4}, limits={"max_queue": 40}, health={"backoff_ms": 1}), http__threads=2)
    inputs = [f"word {i} " + "light stone " * (i % 9) for i in range(150)]
    assert d.post("/v1/embeddings", model="text", input="a").json()["error"]["param"] == "model"
    assert ask(d, "embed").json()["error"]["param"] == "model"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        post = lambda path, **body: httpx.post(d.url + path, json=body, timeout=60 * SLOW)  # noqa: E731
        vectors = [pool.submit(post, "/v1/embeddings", model="embed", input=inputs) for _ in range(2)]
        texts = [pool.submit(post, "/v1/completions", model="text", prompt="x " * n, max_tokens=150, temperature=0, ignore_eos=True) for n in (5, 200)]
        wait_for(lambda: d.total("tokenlane_steps_total", model="embed") > 5 and d.total("tokenlane_sequences_running", model="text") == 2,
                 10, "all to run")
        d.signal()
        for t in texts:
            assert t.result().json()["choices"][0]["finish_reason"] in ("length", "stop"), t.result().text
        for v in vectors:
            assert v.result().status_code == 200, v.result().text
            for item, t in zip(v.result().json()["data"], inputs):
                assert item["embedding"] == pytest.approx(vector(tokenizer.encode(t).ids, embedders.DIM), abs=1e-6)
    assert d.wait_exit() == 0
    assert "a request failed" not in d.stderr()


def test_what_runs_on_any_model_ends_before_the_daemon(serve):
    slow = {"sim": {"base_us": 5000}}
    d = serve(entry("one", devices=sim(1), **slow), entry("two", devices=sim(1, first=1), **slow))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        both = [pool.submit(ask, d, m, max_tokens=100) for m in ("one", "two")]
        wait_for(lambda: d.total("tokenlane_sequences_running") == 2, 10, "both to run")
        d.signal()
        for b in both:
            assert b.result().json()["choices"][0]["finish_reason"] == "length"
    assert d.wait_exit() == 0


def test_a_model_that_does_not_load_is_named(serve, tmp_path):
    d = serve(entry("one", devices=sim(1)), entry("two", tmp_path / "nothing"), wait=False)
    assert d.process.wait(60) == 1
    assert "tokenlane: two: " in d.stderr()


# --- what a configuration may say ------------------------------------------------------------------------------

REFUSED = [
    ([entry("x"), entry("y", "/nowhere")], {}, "models[1].path: expected a folder with config.json in it or a .gguf file, got /nowhere: No such file"),
    ([entry("x", "/"), entry("y")], {}, "models[0].path: config.json: unable to open //config.json"),
    ([{"name": "x"}], {}, r"models[0].path: is required"),
    ([entry("x"), entry("y", engine={"max_batch_size": 600})], {}, "models[1].engine.max_batch_tokens: expected at least"),
    ([entry("x", aliases=["y"]), entry("y")], {}, "models[1].name: expected ids that no other model has, got y"),
    ([entry("x"), entry("y", aliases=["x"])], {}, "models[1].aliases: expected ids that no other model has, got x"),
    ([entry("x", devices=["sim:0"]), entry("y", devices=["sim:0"])], {}, "models[1].devices: expected devices of its own, got sim:0"),
    ([entry("x", devices=["foo"])], {}, "models[0].devices: expected devices such as"),
    ([entry("x", devices=["sim:0"], sim={"faults": ["3@1:error"]})], {}, "models[0].sim.faults"),
    ([entry("x", pth="y")], {}, "models[0].pth: no such key"),
    ([entry("x", http={"port": 1})], {}, "models[0].http.port: is not for one model"),
    ([entry("x", engine={"max_context": "y"})], {}, "models[0].engine.max_context: expected an integer"),
    ([], {}, "models: expected at least one model"),
    (["x"], {}, "models: expected a list of objects, got a string"),
    ([entry("x")], {"model": {"path": "y"}}, "model.path: expected either models or model.*, got both"),
]


@pytest.mark.parametrize("models, more, message", REFUSED, ids=[r[2].split(":")[0] + str(i) for i, r in enumerate(REFUSED)])
def test_wrong_configurations_are_refused_by_key_and_line(tmp_path, models, more, message):
    code, _, stderr = run("check-config", "--config", config(tmp_path, *models, **more))
    assert code == 1 and message in stderr and "tokenlane.json:" in stderr, stderr


def test_check_config_says_where_the_model_is_named(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"model":\n {"path": "nothing"}}')
    says = "model.path: expected a folder with config.json in it or a .gguf file, got "
    code, out, err = run("check-config", "--config", file)
    assert (code, out, err) == (1, "", f"tokenlane: {file}:2: {says}{tmp_path}/nothing: No such file or directory\n")
    code, out, err = run("check-config", "--config", file, "--model.path=/nowhere.gguf")  # the option's fault
    assert (code, out, err) == (1, "", f"tokenlane: {says}/nowhere.gguf: No such file or directory\n")
    assert run("check-config", "--config", file, "--model.path", MODEL)[0] == 0


def test_right_configurations_pass(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/z").symlink_to(MODEL)
    path = config(tmp_path, entry("x", "m/z"), entry("y", "m/z", devices=["cpu:0", "cpu:1"]), {"path": "m/z/"}, engine={"max_batch_size": 7})
    assert run("check-config", "--config", path, "--engine.max_context=99")[:2] == (0, "the configuration is valid\n")
    code, _, stderr = run("check-config", "--config", path, "--model.name=x")
    assert code == 1 and "either models or model.*" in stderr
