# SPDX-License-Identifier: MIT
"""Model files of other formats through the whole daemon."""
import json
import os
import shutil

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from daemon import MODEL, NAME, ROOT, run
from model_files import write_bert_gguf, write_gguf, write_int8

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model")


def answer(d, **fields):
    return d.complete(PROMPT, max_tokens=60, **fields)["choices"][0]["text"]


def test_gguf_answers_as_its_folder(daemon, start, gguf):
    d = start(model=gguf)
    assert answer(d) == answer(daemon)
    assert d.chat("Tell me a story.", max_tokens=30)["choices"] == daemon.chat("Tell me a story.", max_tokens=30)["choices"]


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("lone") / "model", alone=True)


def test_a_file_alone(daemon, start, lone):
    """Tokenizer, chat template and where a text ends come from its metadata."""
    d = start(model=lone)
    assert answer(d) == answer(daemon)
    assert d.chat("Tell me a story.", max_tokens=30)["choices"] == daemon.chat("Tell me a story.", max_tokens=30)["choices"]
    said = {"role": "user", "content": "<|im_end|> is no token of mine"}
    asked = {"model": NAME, "messages": [said]}
    assert d.post("/tokenize", **asked).json() == daemon.post("/tokenize", **asked).json()


@pytest.mark.parametrize("changes, said", [
    ({b"gpt2": b"gpt9"}, "tokenizer.ggml.model: expected llama, gpt2, bert, t5 or gemma4, got 'gpt9'"),
    ({b"gpt-2": b"gpt-9"}, 'tokenizer.ggml.pre "gpt-9" is not supported'),
    ({b"tokenizer.ggml.merges": b"tokenizer.ggml.scores"}, "tokenizer.ggml.scores: expected"),
    ({b"{% for message in": b"{% fur message in"}, "fur"),
])
def test_metadata_that_cannot_be_read(lone, tmp_path, changes, said):
    data = lone.read_bytes()
    for old, new in changes.items():
        assert data.count(old) >= 1
        data = data.replace(old, new)
    (tmp_path / "x.gguf").write_bytes(data)
    code, _, stderr = run("serve", f"--model.path={tmp_path / 'x.gguf'}", "--http.port=0")
    lines = [line for line in stderr.splitlines() if "level=info" not in line]
    assert code == 1 and len(lines) == 1 and said in lines[0], stderr


@pytest.mark.parametrize("format", ["q8_0", "q4_0", "q4_k"])
def test_weights_rounded_at_load(daemon, start, format):
    d = start({"model.quantize": format})
    logged = d.wait_log(r"msg=read .*dtype=(\S+)")[1]
    # rows of 192 are no blocks of Q4_K: most become Q8_0
    assert logged == ("Q4_0" if format == "q4_0" else "Q8_0")
    assert_near(d, daemon, 0.2 if format == "q8_0" else 1.5)


def test_int8_checkpoint(daemon, start, tmp_path):
    d = start(model=write_int8(tmp_path / "int8"))
    assert d.wait_log(r"msg=read .*dtype=(\S+)")[1] == "INT8"
    assert_near(d, daemon, 0.2)


def assert_near(d, reference, tolerance):
    """The log-probabilities of one text, which rounded weights change a little and not at all is suspicious."""
    def scores(of):
        text = PROMPT + answer(reference)
        got = of.complete(text, max_tokens=1, echo=True, logprobs=0)["choices"][0]["logprobs"]["token_logprobs"]
        return got[1:-1]
    a, b = scores(d), scores(reference)
    assert len(a) == len(b) > 30
    mean = sum(abs(x - y) for x, y in zip(a, b)) / len(a)
    assert 0 < mean < tolerance / 4
    assert max(abs(x - y) for x, y in zip(a, b)) < tolerance


def test_truncated_files_are_one_line(gguf, tmp_path):
    data = gguf.read_bytes()
    short = tmp_path / "short.gguf"
    for length, message in [(0, "is too short"), (300, "ends within"), (len(data) // 2, "lies outside the file"),
                            (len(data) - 4096, "lies outside the file")]:
        short.write_bytes(data[:length])
        code, _, stderr = run("serve", f"--model.path={short}", "--http.port=0")
        assert code == 1
        lines = [line for line in stderr.splitlines() if "level=info" not in line]
        assert len(lines) == 1 and lines[0].startswith("tokenlane: short.gguf: ") and message in lines[0], stderr


@pytest.mark.parametrize("format", ["gguf", "safetensors"])
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_file_truncated_while_it_is_served(start, gguf, tmp_path, format, isolation):
    copy = tmp_path / "model"
    copy.mkdir()
    for file in (gguf.parent if format == "gguf" else MODEL).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = copy / (gguf.name if format == "gguf" else "model.safetensors")
    d = start({"isolation": isolation}, model=weights if format == "gguf" else copy)
    before = answer(d)
    os.truncate(weights, 100)
    assert answer(d) == before


# --- encoders --------------------------------------------------------------------------------------

ENCODER = ROOT / "tests/golden/encoders/bert"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *("##" + letter for letter in LETTERS), "the", "##ing", ".", ",", "\u4e2d"]
TEXTS = ["The singing, the ringing.", "a", "Zoë at the Pier \u4e2d\u4e2d", "a [SEP] b \u00df 9", "walking " * 12]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The golden BERT with a small WordPiece: its folder, and that vocabulary."""
    folder = tmp_path_factory.mktemp("bert") / "model"
    shutil.copytree(ENCODER, folder)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    vocab = {piece: i for i, piece in enumerate(PIECES + [f"[unused{i}]" for i in range(size - len(PIECES))])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(PIECES[:4])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder, vocab


def embed(d, texts):
    answer = d.post("/v1/embeddings", model=NAME, input=texts)
    assert answer.status_code == 200, answer.text
    return answer.json()["usage"], [item["embedding"] for item in answer.json()["data"]]


def test_gguf_embeds_as_its_folder(start, bert, tmp_path):
    """An encoder as one file: tokenizer, pooling and weights from GGUF alone."""
    folder, vocab = bert
    whole, lone = start({"devices": "cpu:0"}, model=folder), start({"devices": "cpu:0"}, model=write_bert_gguf(tmp_path / "bert.gguf", folder, vocab))
    used, expected = embed(whole, TEXTS)
    assert len({tuple(v) for v in expected}) == len(TEXTS) and used["prompt_tokens"] > 40
    assert embed(lone, TEXTS) == (used, expected)
    first = start({"devices": "cpu:0"}, model=write_bert_gguf(tmp_path / "first.gguf", folder, vocab, pooling=2))
    assert all(a != b for a, b in zip(embed(first, TEXTS)[1], expected))


@pytest.mark.parametrize("pooling", [0, 4, 9])
def test_gguf_of_unknown_pooling_is_refused(start, bert, tmp_path, pooling):
    folder, vocab = bert
    d = start({"devices": "cpu:0"}, model=write_bert_gguf(tmp_path / "bert.gguf", folder, vocab, pooling), wait=False)
    assert d.wait_exit() == 1
    assert f"bert.pooling_type: expected 1 (mean), 2 (first token) or 3 (last token), got {pooling}" in d.stderr()
