# SPDX-License-Identifier: MIT
"""LoRA adapters of models that make vectors: the request's `model` chooses, texts of both run in the same steps; what peft says of them."""
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon import NAME, ROOT
from test_cuda_vectors import text, write

GOLDEN = ROOT / "tests/golden"


def ask(d, model, texts):
    answer = d.post("/v1/embeddings", model=model, input=texts)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    return [item["embedding"] for item in answer.json()["data"]]


def test_what_peft_says(start, tmp_path):
    d = start({"model.adapters": f"it={GOLDEN / 'adapters/encoder_qwen3'}", "cpu.threads": 2}, model=write(tmp_path / "model", "qwen3"))
    for model, place in ((NAME, "encoders/qwen3"), ("it", "adapters/encoder_qwen3")):
        cases = json.loads((GOLDEN / place / "golden.json").read_text())["cases"]
        for got, case in zip(ask(d, model, [case["tokens"] for case in cases]), cases):
            assert got == pytest.approx(case["vector"], abs=5e-5)
    assert d.total("tokenlane_adapter_requests_total", adapter="it") == 1


@pytest.mark.parametrize("options", [{}, {"isolation": "process"}, {"devices": "cpu:0,cpu:1,cpu:2", "engine.tensor_parallel": 3}])
def test_side_by_side(start, tmp_path, options):
    d = start({"model.adapters": f"it={GOLDEN / 'adapters/encoder_bert'}", **options}, model=write(tmp_path / "model", "bert"))
    texts = [text(i) for i in range(30)]
    alone = {model: ask(d, model, texts) for model in (NAME, "it")}
    assert all(a != b for a, b in zip(alone[NAME], alone["it"]))
    jobs = [model for _ in range(4) for model in (NAME, "it")]
    with ThreadPoolExecutor(len(jobs)) as pool:
        assert list(pool.map(lambda model: ask(d, model, texts), jobs)) == [alone[model] for model in jobs]
    d.wait_rest()
