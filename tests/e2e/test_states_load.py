# SPDX-License-Identifier: MIT
"""Layers that keep a state, under load: what many clients get at the same time is, to the bit of each log-probability, what a server without a prefix
cache says to each alone. Prompts that begin alike, conversations, several choices, scores, stop strings, adapters, one of which makes no numbers,
clients that leave, priorities, and so few states and blocks that sequences are put back and what is kept is given up."""
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from adapter_files import random_tensors, write_adapter
from alike import exact
from daemon import NAME, SLOW, Daemon
from test_states_served import write_hybrid

WORDS = "the dog said that Ben and Lily went to a park near sea little house once upon time there was boy girl tree cat big red ball".split()
N = 24 // SLOW + 12


def requests():
    """Lists: a request, and what is said behind its answer for the next one."""
    draw = random.Random(5)

    def words(n):
        return " ".join(draw.choice(WORDS) for _ in range(n))
    begins = [words(n) for n in (20, 80, 120)]
    lists = []
    for i in range(N):
        one = {"prompt": f"{draw.choice(begins)} {words(draw.choice((1, 5, 20)))}", "max_tokens": draw.choice((1, 20, 50)), "temperature": 0,
               "model": draw.choice((NAME, NAME, NAME, "good", "broken")), "priority": draw.choice((0, 1, 1, 1, 2))}
        kind = i % 6
        one |= [{}, {"n": 2, "temperature": 0.8, "seed": i}, {"echo": True, "logprobs": 2}, {"stop": ["e "]}, {"logprobs": 1}, {"cache_salt": "x"}][kind]
        lists.append([one] + [f" {words(4)} " for _ in range(3 if kind == 0 else 0)])
    return lists


def answers(d, parts):
    """Choices of each turn; of the broken adapter whether there are none."""
    body, got = dict(parts[0]), []
    for more in parts[1:] + [None]:
        answer = d.post("/v1/completions", **body)
        if body["model"] == "broken":
            return answer.status_code >= 500
        got.append(answer.json()["choices"])
        body["prompt"] += got[-1][0]["text"] + (more or "")
    return got


def leave(d, parts, n_lines):
    body = {**parts[0], "stream": True, "max_tokens": 50, "echo": False}
    with d.http.stream("POST", "/v1/completions", json=body) as answer:
        for _, _ in zip(range(n_lines), answer.iter_lines()):
            pass


@pytest.fixture(scope="module", params=["qwen3_5_text", "lfm2", "granitemoehybrid"])
def served(request, tmp_path_factory):
    """Model, adapters, requests, and what is said to each alone."""
    root, short = tmp_path_factory.mktemp("load"), request.param == "lfm2"
    model, adapters = write_hybrid(root / "model", request.param), []
    for name, gain in (("good", 1), ("broken", 1e20)):
        tensors = {k: (shape, [v * gain for v in values]) for k, (shape, values) in random_tensors(3, targets=("k_proj", "v_proj"), strength=2).items()
                   if ".layers.3." in k}
        adapters.append(f"{name}={write_adapter(root / name, tensors=tensors)}")
    common, lists = {"model.adapters": ",".join(adapters)}, requests()
    d = Daemon(root / "log", common | {"cpu.threads": 1, "engine.prefix_cache": "false"}, model=model)
    alone = [answers(d, parts) for parts in lists]
    d.stop()
    assert all(a is not False for a in alone)
    return model, common, lists, alone, (300000, 276000, 270000) if short else (600000, 360000, 310000)


def stay_away(d, lists, ended):
    """Clients that leave, one after the other."""
    draw = random.Random(8)
    while not ended.is_set():
        leave(d, draw.choice(lists), draw.randint(0, 12))


@exact
@pytest.mark.parametrize("options", [{"engine.draft_tokens": 4}, {"few": 0, "engine.max_batch_tokens": 64}, {"few": 1, "engine.max_batch_tokens": 24},
                                     {"few": 2, "isolation": "process"}])
def test_as_if_alone(start, served, options):
    model, common, lists, alone, memory = served
    options = {"cpu.threads": 2, "engine.max_batch_size": 8, **common, **options}
    few = options.pop("few", None)
    if few is not None:
        options["engine.kv_memory_bytes"] = memory[few]
    d = start(options, model=model)
    assert few is None or 0 < d.total("tokenlane_states") < 50
    ended = threading.Event()
    leaver = threading.Thread(target=stay_away, args=(d, lists, ended))
    leaver.start()
    try:
        with ThreadPoolExecutor(12) as pool:
            got = list(pool.map(lambda parts: answers(d, parts), lists))
    finally:
        ended.set()
        leaver.join()
    for parts, mine, theirs in zip(lists, got, alone):
        assert mine == theirs, parts[0]
    d.wait_rest()
    assert d.total("tokenlane_states_used") == 0
