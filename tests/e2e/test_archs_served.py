# SPDX-License-Identifier: MIT
"""Golden models of classes that no other test serves, through the whole daemon: learned positions, layers that see both sides. Their ids are
spelled as words, so that texts are the tokens that transformers had."""
import json
import math
import struct

import pytest

from daemon import NAME, ROOT, events
from test_cuda_vectors import write as write_encoder

GOLDEN = ROOT / "tests/golden"


def write(folder, name):
    """tests/golden/arch/NAME with a tokenizer that reads "w5 w7" as [5, 7], and the other way round; (folder, its cases)."""
    place = GOLDEN / "arch" / name
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(place / "model.safetensors")
    config = json.loads((place / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False}, "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "unk_token": "w0", "vocab": {f"w{i}": i for i in range(config.get("text_config", config)["vocab_size"])}}}))
    return folder, json.loads((place / "golden.json").read_text())["cases"]


def words(tokens):
    return " ".join(f"w{t}" for t in tokens)


@pytest.mark.parametrize("name", ["gpt2", "falcon_new", "opt"])
@pytest.mark.parametrize("options", [{}, {"engine.max_batch_tokens": 16, "engine.max_batch_size": 4, "cpu.threads": 2}])
def test_completions_are_transformers(start, tmp_path, name, options):
    """The second time from the prefix cache."""
    folder, cases = write(tmp_path / "model", name)
    d = start({"devices": "cpu:0", **options}, model=folder)
    for case in [*cases, *cases]:
        n = len(case["tokens"])
        answer = d.post("/v1/completions", model=NAME, prompt=words(case["prompt"]), max_tokens=n, temperature=0)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["text"].split() == words(case["tokens"]).split()
    assert d.total("tokenlane_prefix_cache_hit_tokens_total") > 0


def test_streams_as_far_as_there_are_places(start, tmp_path):
    """GPT-2's positions are learned: there are no more than its file has."""
    folder, _ = write(tmp_path / "model", "gpt2")
    d = start({"devices": "cpu:0"}, model=folder)
    places = json.loads((folder / "config.json").read_text())["n_positions"]
    prompt = words(1 + i % 100 for i in range(places - 3))
    body = {"model": NAME, "prompt": prompt, "temperature": 0, "max_tokens": 3}
    whole = d.post("/v1/completions", **body).json()["choices"][0]
    assert len(whole["text"].split()) == 3 and whole["finish_reason"] == "length"
    with d.http.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        streamed = [choice for event in events(answer.iter_lines()) for choice in event["choices"]]
    assert "".join(choice["text"] for choice in streamed) == whole["text"]
    beyond = d.post("/v1/completions", **body | {"max_tokens": 4})
    assert beyond.status_code == 400 and beyond.json()["error"]["code"] == "context_length_exceeded"
    chat = d.post("/v1/chat/completions", model=NAME, messages=[{"role": "user", "content": "w5"}])
    assert chat.status_code == 400 and "no chat template; use /v1/completions" in chat.json()["error"]["message"]


def test_what_is_no_number_stays_none(start, tmp_path):
    """OPT's function makes 0 of what is below it, and of that alone."""
    folder, _ = write(tmp_path / "model", "opt")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    length = int.from_bytes(weights[:8], "little")
    first, end = json.loads(weights[8:8 + length])["model.decoder.layers.0.fc1.bias"]["data_offsets"]
    weights[8 + length + first:8 + length + end] = struct.pack("<f", math.nan) * ((end - first) // 4)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(weights)
    d = start({"devices": "cpu:0"}, model=folder, wait=False)
    d.wait_log("what the model makes is not numbers")
    assert d.wait_exit() != 0


def test_vectors_of_both_sides(start, tmp_path):
    """EmbeddingGemma's, alone and together, with windows narrower than the texts."""
    folder = write_encoder(tmp_path / "model", "gemma")
    cases = json.loads((GOLDEN / "encoders/gemma/golden.json").read_text())["cases"]
    d = start({"devices": "cpu:0", "engine.max_batch_tokens": 200}, model=folder)
    texts = [words(c["tokens"]) for c in cases]
    together = d.post("/v1/embeddings", model=NAME, input=texts)
    assert together.status_code == 200, together.text
    for case, text, item in zip(cases, texts, together.json()["data"], strict=True):
        alone = d.post("/v1/embeddings", model=NAME, input=text).json()["data"][0]["embedding"]
        assert item["embedding"] == pytest.approx(case["vector"], abs=2e-3)
        assert alone == pytest.approx(case["vector"], abs=2e-3)
