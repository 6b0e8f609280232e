# SPDX-License-Identifier: MIT
"""Models that make embeddings and scores, each shared by several devices: what one device says, and ranks that fail."""
import pytest

import embedders
from daemon import NAME, run
from simulated import vector
from test_cuda_vectors import text, vectors, write
from test_faults import PLACES, faults, wait_state
from test_isolation import children

TEXTS = [text(i) for i in range(40)]


def group(ranks, kind="cpu", **more):
    return {"devices": ",".join(f"{kind}:{i}" for i in range(ranks)), "engine.tensor_parallel": ranks, **more}


@pytest.mark.parametrize("name, ranks", [("bert", 3), ("bert_max", 3), ("nomic_bert", 3), ("modernbert", 2), ("qwen3", 2), ("qwen3", 4)])
def test_embeddings_are_those_of_one_device(start, tmp_path, name, ranks):
    """Post-norm and pre-norm, biases and gates, dense layers, fewer KV heads than ranks."""
    folder = write(tmp_path / "model", name)
    one, shared = start({"devices": "cpu:0"}, model=folder), start(group(ranks), model=folder)
    alone = vectors(shared, TEXTS[7:8])
    for got, expected in zip(vectors(shared, TEXTS), vectors(one, TEXTS)):
        assert got == pytest.approx(expected, abs=2e-5)
    assert alone == vectors(shared, TEXTS[7:8])  # to the bit, whatever else is in the batch
    assert shared.http.get("/v1/models").json()["data"][0]["task"] == "embed"
    shared.wait_rest()


@PLACES
def test_scores_are_those_of_one_device(start, tmp_path, isolation):
    folder = write(tmp_path / "model", "roberta_score")
    one, shared = start({"devices": "cpu:0"}, model=folder), start(group(3, isolation=isolation), model=folder)
    assert list(children(shared)) == (["cpu:0,cpu:1,cpu:2"] if isolation == "process" else [])

    def scores(d):
        ranked = d.post("/v1/rerank", model=NAME, query="w4 w9", documents=TEXTS[1:])
        scored = d.post("/v1/score", model=NAME, text_1="w1 w2", text_2=TEXTS[1:9])
        assert ranked.status_code == scored.status_code == 200, ranked.text + scored.text
        return ({r["index"]: r["relevance_score"] for r in ranked.json()["results"]}, [s["score"] for s in scored.json()["data"]])

    (ranked, scored), (expected_ranked, expected_scored) = scores(shared), scores(one)
    assert ranked == pytest.approx(expected_ranked, abs=1e-5) and list(ranked.values()) == sorted(ranked.values(), reverse=True)
    assert scored == pytest.approx(expected_scored, abs=1e-5)
    shared.wait_rest()


def test_two_groups(start, tmp_path):
    """Whichever of them answers."""
    folder = write(tmp_path / "model", "qwen3")
    d = start({**group(4), "engine.tensor_parallel": 2, "engine.max_batch_size": 4, "route.policy": "round_robin"}, model=folder)
    alone = [vectors(d, [t])[0] for t in TEXTS[:8]]
    assert vectors(d, TEXTS[:8] * 5) == alone * 5
    assert all(d.total("tokenlane_steps_total", replica=str(i)) > 0 for i in range(2))


def test_heads_that_cannot_be_divided(tmp_path):
    folder = write(tmp_path / "model", "bert")
    code, _, stderr = run("serve", f"--model.path={folder}", "--http.port=0", "--devices=cpu:0,cpu:1", "--engine.tensor_parallel=2")
    assert code == 1 and "engine.tensor_parallel: the model's 3 attention heads cannot be divided among 2 devices" in stderr


@PLACES
def test_ranks_that_fail_cost_no_vector(start, tmp_path, isolation):
    """Of two groups of two one loses ranks again and again; every number is checked."""
    folder, tokenizer = embedders.write(tmp_path / "model")
    d = start(group(4, "sim", **{"engine.tensor_parallel": 2, "isolation": isolation, "sim.base_us": 1000, "sim.per_token_ns": 1000,
                                 "engine.max_batch_size": 8, "health.late_ms": 2000, "health.backoff_ms": 20, "health.max_faults": 0,
                                 "sim.faults": "1@8:die,0@30:error,1@50:error"}), model=folder)
    texts = [f"river {i} house" for i in range(200)]
    expected = [vector(tokenizer.encode(t).ids, embedders.DIM) for t in texts]
    for _ in range(30):
        for got, right in zip(vectors(d, texts), expected):
            assert got == pytest.approx(right, abs=1e-6)
        wait_state(d, 0, "ready", 20)
        if faults(d) == 3:
            break
    assert faults(d, replica="0") == 3 and faults(d, replica="1") == 0
    assert d.total("tokenlane_resubmitted_sequences_total") > 0
    d.wait_rest()
