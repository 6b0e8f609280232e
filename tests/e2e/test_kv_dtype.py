# SPDX-License-Identifier: MIT
"""engine.kv_dtype: keys and values of a byte. Twice the tokens fit, answers are nearly the model's own, and whatever holds for answers
otherwise holds with them: the same in batches, from the prefix cache, with drafts, in a process and on several lanes."""
import concurrent.futures
import re

import pytest

from daemon import DEVICES, Daemon, run, MODEL

BYTES = {"engine.kv_dtype": "fp8_e4m3"}
STORY = "Once upon a time there was a boy called Ben who lived in a little house near the sea. "
PROMPTS = [STORY * 3, STORY + "One day Anna", "The dog", "Leo said that", STORY * 2 + "Then"]


def ask(d, prompt):
    (choice,) = d.complete(prompt, max_tokens=40, ignore_eos=True, logprobs=2)["choices"]
    return choice


@pytest.fixture(scope="module")
def bytes_daemon(tmp_path_factory):
    d = Daemon(tmp_path_factory.mktemp("bytes") / "log", {**BYTES, "engine.prefix_cache": "false"})
    yield d
    d.wait_rest()
    d.stop()


@pytest.fixture(scope="module")
def want(bytes_daemon):
    """One after the other, nothing shared or guessed."""
    return [ask(bytes_daemon, p) for p in PROMPTS]


def scores(d, text):
    """The log-probability of each token but the first."""
    (choice,) = d.complete(text, max_tokens=1, echo=True, logprobs=1)["choices"]
    return choice["logprobs"]["token_logprobs"][1:-1]


def test_answers_are_near(daemon, bytes_daemon):
    """How near, on 400 tokens that the model made: bench/README.md has the same figures of other models."""
    text = STORY + daemon.complete(STORY, max_tokens=400, ignore_eos=True, temperature=1, seed=3)["choices"][0]["text"]
    off = [abs(a - b) for a, b in zip(scores(daemon, text), scores(bytes_daemon, text))]
    print(f"{len(off)} tokens: off by {sum(off) / len(off):.4f} in the mean, {max(off):.3f} at most")
    assert len(off) > 300 and sum(off) / len(off) < 0.05 and 0 < max(off) < 1


HOW = {"batch": {}, "prefix cache": {"engine.prefix_cache": "true"}, "small steps": {"engine.max_batch_tokens": 64, "engine.max_batch_size": 8},
       "drafts": {"engine.draft_tokens": 4}, "process": {"isolation": "process"}, "lanes": {"cpu.threads": 2}}


@pytest.mark.skipif(DEVICES not in (None, "cpu:0"), reason="to the bit on the CPU only")
@pytest.mark.parametrize("how", HOW)
def test_answers_are_the_same(start, want, how):
    d = start({**BYTES, "engine.prefix_cache": "false", **HOW[how]})
    for _ in range(2):
        with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
            assert list(pool.map(lambda p: ask(d, p), PROMPTS)) == want
    d.wait_rest()


def test_in_a_group(start, want):
    d = start({**BYTES, "devices": "cpu:0,cpu:1", "engine.tensor_parallel": 2})
    for got, expected in zip([ask(d, p) for p in PROMPTS], want):
        alike = sum(a == b for a, b in zip(got["logprobs"]["tokens"], expected["logprobs"]["tokens"]))
        assert alike > 20 or got["text"][:20] == expected["text"][:20]
    d.wait_rest()


def test_twice_the_tokens(start):
    """Of a model in BF16, in the same memory; and the answers are another model's to those who compare fingerprints."""
    blocks, prints = [], []
    for options in ({}, BYTES):
        d = start({"engine.kv_memory_bytes": 2 << 20, "engine.max_context": 256, **options})
        blocks.append(d.total("tokenlane_kv_blocks"))
        prints.append(d.complete("The dog", max_tokens=1)["system_fingerprint"])
        assert f"kv_dtype={'F8_E4M3' if options else 'BF16'}" in d.log.read_text()
    assert blocks[1] in (2 * blocks[0], 2 * blocks[0] + 1) and prints[0] != prints[1]


def test_what_the_configuration_says_wrong():
    code, _, err = run("serve", "--model.path", MODEL, "--engine.kv_dtype", "fp8")
    assert code != 0 and re.search(r"engine.kv_dtype: expected one of auto\|fp8_e4m3, got fp8", err)
