# SPDX-License-Identifier: MIT
"""A context that nobody has set: what the model was made for, or what there is memory for."""

import httpx
import pytest

from daemon import model_with, run

BLOCK = 16 * 2 * 2 * 32 * 2 * 5  # bytes of a KV block of the demo model: tokens, K and V, heads, head size, BF16, layers
BLOCKS = 300


@pytest.fixture(scope="module")
def long_model(tmp_path_factory):
    """The demo model, as if it were made for a million tokens."""
    return model_with(tmp_path_factory.mktemp("long"), "config.json", lambda c: {**c, "max_position_embeddings": 1 << 20})


@pytest.mark.parametrize("more", [{}, {"isolation": "process"}, {"devices": "cpu:0,cpu:1", "engine.tensor_parallel": 2}],
                         ids=["thread", "process", "group"])
def test_the_context_is_what_there_is_memory_for(start, long_model, more):
    d = start({"engine.kv_memory_bytes": BLOCKS * BLOCK + BLOCK // 2, "engine.max_batch_size": 4, **more}, model=long_model)
    d.wait_log("there is memory for a shorter context than the model was made for")
    assert httpx.get(f"{d.url}/v1/models").json()["data"][0]["max_model_len"] == BLOCKS * 16
    text = "Once upon a time there was a dog. " * 400  # more than half of it
    answer = d.complete(text, max_tokens=8, ignore_eos=True)
    assert BLOCKS * 8 < answer["usage"]["prompt_tokens"] and answer["usage"]["completion_tokens"] == 8
    refused = httpx.post(f"{d.url}/v1/completions", json={"prompt": text * 2, "max_tokens": 8})
    assert refused.status_code == 400 and str(BLOCKS * 16) in refused.json()["error"]["message"]


@pytest.mark.parametrize("blocks, more, needed", [(BLOCKS, [f"--engine.max_context={BLOCKS * 16 + 1}"], BLOCKS * 16 + 1), (200, [], 4096)],
                         ids=["set", "too short"])
def test_what_must_fit(long_model, blocks, more, needed):
    code, _, errors = run("serve", f"--model.path={long_model}", "--http.port=0", f"--engine.kv_memory_bytes={blocks * BLOCK}", *more)
    assert code == 1 and f"engine.kv_memory_bytes: a context of {needed} tokens needs" in errors
