# SPDX-License-Identifier: MIT
"""Small models that pool, for simulated devices: a configuration and a tokenizer, no weights."""
import json
import pathlib
import shutil

from tokenizers import Tokenizer, processors

from daemon import ROOT

DIM, VOCAB, CONTEXT = 16, 700, 128
CONFIG = {"model_type": "bert", "hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
          "vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
          "hidden_act": "gelu", "pad_token_id": 0}


def write(folder, class_name="BertModel", **more):
    """A folder with such a model, whose vectors have length 1 if they are embeddings; its tokenizer joins pairs as BERT
    does. Returns (folder, tokenizer)."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tests/golden/tokenizers/bert_uncased/tokenizer.json", folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    if class_name == "BertModel":
        parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        (folder / "modules.json").write_text(json.dumps([{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                                                         for i, (path, kind) in enumerate(parts)]))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": DIM, "pooling_mode_mean_tokens": True}))
    (folder / "config.json").write_text(json.dumps({**CONFIG, "architectures": [class_name], **more}))
    return folder, tokenizer


def write_scorer(folder, n_labels=1, **more):
    return write(folder, "BertForSequenceClassification", **more, num_labels=n_labels, id2label={str(i): f"L{i}" for i in range(n_labels)})
