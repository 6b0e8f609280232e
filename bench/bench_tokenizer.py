# SPDX-License-Identifier: MIT
"""How fast are the tokenizers? Tokenlane's against the `tokenizers` library, side by side, one thread each, on 1 MB of
English, of source code and of Chinese.

    make bench-tokenizer

Vocabularies of usual sizes are trained on the texts once and kept in build/bench-tokenizers. English and code are Python's own
manual and library; Chinese are words made of characters by their frequency (no such text lies on every machine). The library's
figure is the better of encode and encode_batch_fast, which computes no offsets.
"""
import json
import os
import pathlib
import pydoc_data.topics
import random
import struct
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEPT = ROOT / "build/bench-tokenizers"
MANY = pathlib.Path(os.environ.get("B", ROOT / "build/plain")) / "bin/tokenize_many"
SIZE, ROUNDS = 1_000_000, 5
SPACE = "\u2581"
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def clip(text):
    return text.encode()[:SIZE].decode(errors="ignore")


def english():
    import inspect
    import pkgutil

    parts = [pydoc_data.topics.topics[k] for k in sorted(pydoc_data.topics.topics)]
    for module in sorted(m.name for m in pkgutil.iter_modules([str(pathlib.Path(os.__file__).parent)])):
        if module in ("antigravity", "this", "idlelib", "test", "lib2to3") or module.startswith("_"):
            continue
        try:
            loaded = __import__(module)
        except Exception:
            continue
        parts += [d for d in (inspect.getdoc(v) for v in vars(loaded).values() if callable(v)) if d]
    return clip("\n".join(parts))


def code():
    folder = pathlib.Path(os.__file__).parent
    return clip("\n".join(f.read_text(errors="ignore") for f in sorted(folder.glob("*.py"))))


def chinese():
    rng = random.Random(1)
    letters = [chr(c) for c in range(0x4E00, 0x4E00 + 20000, 6)]
    rng.shuffle(letters)
    weights = [1 / (i + 3) for i in range(len(letters))]
    words = ["".join(rng.choices(letters, weights, k=rng.choice([1, 1, 2, 2, 2, 2, 3, 4]))) for _ in range(40000)]
    zipf = [1 / (i + 10) for i in range(len(words))]
    out = []
    for _ in range(SIZE // 90):
        out.append("".join(rng.choices(words, zipf, k=rng.randrange(3, 14))) + rng.choice("，，，。。！？；：\n"))
    return clip("".join(out))


def byte_level(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=32000, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def sentencepiece_bpe(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator([line for t in texts for line in t.split("\n")], trainers.BpeTrainer(vocab_size=32000, show_progress=False, limit_alphabet=3000, max_token_length=16))
    learnt = json.loads(tokenizer.to_str())["model"]
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + [t for t, _ in sorted(learnt["vocab"].items(), key=lambda x: x[1])]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(names)}, [tuple(m) for m in learnt["merges"]], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    return tokenizer


def unigram(texts):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    lines = [line[:200] for t in texts for line in t.replace("，", "\n").replace("。", "\n").split("\n")]
    tokenizer.train_from_iterator(lines, trainers.UnigramTrainer(vocab_size=16000, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"]))
    return tokenizer


def wordpiece(texts):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=30000, show_progress=False, special_tokens=["[UNK]"]))
    return tokenizer


KINDS = {"BPE, bytes (Llama 3)": byte_level, "BPE, characters (Llama 2)": sentencepiece_bpe, "Unigram (T5)": unigram, "WordPiece (BERT)": wordpiece}


def file_of(kind, texts):
    path = KEPT / (KINDS[kind].__name__ + ".json")
    if not path.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        print(f"training {kind} ...", file=sys.stderr)
        KINDS[kind](list(texts.values())).save(str(path))
    return path


def best_of(call):
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - begin)
    return best, result


def ours(path, text):
    raw = text.encode()
    with tempfile.TemporaryFile() as file:
        file.write(struct.pack("<I", len(raw)) + raw)
        file.seek(0)
        out = subprocess.run([MANY, path, "bench", str(ROUNDS)], stdin=file, capture_output=True, check=True).stdout.split()
    return int(out[0]) / 1e9, int(out[1])


def main():
    texts = {"English": english(), "code": code(), "Chinese": chinese()}
    slower = 0
    print(f"{'':26} {'text':8} {'tokens':>8} {'tokenlane MB/s':>15} {'tokenizers MB/s':>16} {'ratio':>6}")
    for kind in KINDS:
        path = file_of(kind, texts)
        reference = Tokenizer.from_file(str(path))
        for name, text in texts.items():
            mega = len(text.encode()) / 1e6
            mine, n = ours(path, text)
            theirs, encoding = best_of(lambda: reference.encode(text, add_special_tokens=False))
            fast, _ = best_of(lambda: reference.encode_batch_fast([text], add_special_tokens=False))
            theirs = min(theirs, fast)
            assert n == len(encoding.ids), (kind, name, n, len(encoding.ids))
            slower += mine > theirs
            print(f"{kind:26} {name:8} {n:8} {mega / mine:15.1f} {mega / theirs:16.1f} {theirs / mine:6.1f}", flush=True)
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
