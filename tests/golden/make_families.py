#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes more of tokenizers/ (see make_tokenizers.py, whose corpus it takes): BPE of SentencePiece origin,
Unigram and WordPiece in the set-ups of well-known models, trained here on the corpus.

    venv/bin/python make_families.py

Unigram's normalizer is SentencePiece's own nmt_nfkc map, out of a model that sentencepiece trains.
"""
import base64
import io
import json
import os

from make_tokenizers import CORPUS, HERE, LLAMA3, SENTENCES, bos, byte_level, make, random_texts, split
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPACE = "\u2581"
LINES = SENTENCES * 4 + CORPUS[16:] + ["word normal the café, l'école", "don't can't it's they've we're I'm do not . , ? !"] * 3


def write(name, tokenizer, n_random=60, patch=None):
    folder = os.path.join(HERE, "tokenizers", name)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "tokenizer.json")
    text = json.loads(tokenizer.to_str())
    if patch:
        patch(text)
    with open(path, "w") as f:
        json.dump(text, f, ensure_ascii=False, separators=(",", ":"))
    tokenizer = Tokenizer.from_file(path)
    cases = []
    for t in CORPUS + random_texts(len(name), n_random):
        ids, full = tokenizer.encode(t, add_special_tokens=False).ids, tokenizer.encode(t).ids
        cases.append({"text": t, "ids": ids, "ids_special": full, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
                      "decoded_skip": tokenizer.decode(full, skip_special_tokens=True)})
    with open(os.path.join(folder, "cases.json"), "w") as f:
        json.dump(cases, f, ensure_ascii=True, separators=(",", ":"))
    print(name, tokenizer.get_vocab_size(), len(cases))


# --- BPE over characters ---------------------------------------------------------------------------


def spm_bpe(vocab=900, fallback=True, fuse=True, unk="<unk>", bytes_known=range(256)):
    """Merges learnt over words that begin with the blank's sign, as SentencePiece does; rare characters stay unknown."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=vocab, limit_alphabet=160, show_progress=False, max_token_length=16))
    learnt = json.loads(trained.to_str())["model"]
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in bytes_known] + [t for t, _ in sorted(learnt["vocab"].items(), key=lambda x: x[1])]
    return models.BPE(vocab={t: i for i, t in enumerate(names)}, merges=[tuple(m) for m in learnt["merges"]], unk_token=unk, fuse_unk=fuse,
                      byte_fallback=fallback)


SPECIAL = [AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")]


def spm(name, normalizer=None, pre=None, decoder=None, special=SPECIAL, added=(), model=None, post=True):
    tokenizer = Tokenizer(model or spm_bpe())
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    if decoder:
        tokenizer.decoder = decoder
    tokenizer.add_special_tokens(list(special))
    for token in added:
        tokenizer.add_special_tokens([token]) if token.special else tokenizer.add_tokens([token])
    if post:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    write(name, tokenizer)


def llama2_decoder(strip=True):
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * strip)


def make_spm():
    prepend = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    spm("llama2", prepend, None, llama2_decoder())
    spm("mistral", None, pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False), llama2_decoder())
    spm("gemma", normalizers.Replace(" ", SPACE), pre_tokenizers.Split(" ", "merged_with_previous"), llama2_decoder(False),
        added=[AddedToken("\n\n", normalized=False), AddedToken("  ", normalized=False), AddedToken("<|im_start|>", special=True, normalized=False)])
    spm("phi3", prepend, None, llama2_decoder(),
        added=[AddedToken("<|endoftext|>", special=True, normalized=False), AddedToken("<|im_end|>", special=True, normalized=False, rstrip=True),
               AddedToken("<|im_start|>", normalized=False, rstrip=True), AddedToken("<|both|>", normalized=True, lstrip=True, rstrip=True)])
    # first in the text, though blanks were taken off; words of their own; metaspace's decoder
    spm("metaspace_first", normalizers.Strip(), pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Metaspace(SPACE, prepend_scheme="first")]), decoders.Metaspace(SPACE, prepend_scheme="first"))
    spm("metaspace_never", normalizers.Replace(Regex(r"\w\s+"), "a "), pre_tokenizers.Metaspace(SPACE, prepend_scheme="never"),
        decoders.Metaspace(SPACE, prepend_scheme="never"), model=spm_bpe(fallback=False))
    # unknown tokens one by one; bytes only for some; no decoder at all
    spm("bpe_unk", normalizers.NFC(), pre_tokenizers.Metaspace(), None, model=spm_bpe(fallback=True, fuse=False, bytes_known=range(0x60, 0xD0)))


# --- Unigram -----------------------------------------------------------------------------------------


def charsmap():
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(SENTENCES * 4), model_writer=model, vocab_size=420, hard_vocab_limit=False,
                                             normalization_rule_name="nmt_nfkc", minloglevel=2)
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    return proto.normalizer_spec.precompiled_charsmap


def unigram(name, normalizer, pre, decoder, post, vocab=700, fallback=False, patch=None):
    trained = Tokenizer(models.Unigram())
    trained.normalizer, trained.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    trained.train_from_iterator(LINES, trainers.UnigramTrainer(vocab_size=vocab, show_progress=False, unk_token="<unk>", special_tokens=[]))
    pieces = [p for p in json.loads(trained.to_str())["model"]["vocab"] if p[0] != "<unk>" and (len(p[0]) > 1 or ord(p[0]) < 0x4E00)]
    head = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["<s>", 0.0]] + ([[f"<0x{b:02X}>", 0.0] for b in range(256)] if fallback else [])
    tokenizer = Tokenizer(models.Unigram([tuple(p) for p in head + pieces], unk_id=2, byte_fallback=fallback))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre, decoder
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<pad>", "</s>", "<unk>", "<s>")])
    tokenizer.add_special_tokens([AddedToken("<mask>", special=True, lstrip=True, normalized=False)])
    tokenizer.post_processor = post(tokenizer)
    write(name, tokenizer, patch=patch)


def with_map(text):
    """Only here does the map enter: the library's Python cannot make this normalizer of anything else."""
    return normalizers.Precompiled(text)


def make_unigram():
    table = charsmap()
    print("charsmap", len(table), len(base64.b64encode(table)))
    eos = lambda t: processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    both = lambda t: processors.RobertaProcessing(("</s>", 1), ("<s>", 3))
    cls = lambda t: processors.BertProcessing(("</s>", 1), ("<s>", 3))
    meta, meta_decoder = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always"), decoders.Metaspace(SPACE, prepend_scheme="always")
    unigram("t5", with_map(table), meta, meta_decoder, eos)
    unigram("xlmr", with_map(table), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), meta]), meta_decoder, both)
    unigram("albert", normalizers.Sequence([normalizers.Replace("``", '"'), normalizers.Replace("''", '"'), normalizers.NFKD(), normalizers.StripAccents(),
                                            normalizers.Lowercase(), with_map(table), normalizers.Replace(Regex(" {2,}"), " ")]), meta, meta_decoder, cls)
    unigram("unigram_bytes", normalizers.NFKC(), pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False), llama2_decoder(), eos, fallback=True)


# --- WordPiece -----------------------------------------------------------------------------------------


def wordpiece(name, normalizer, pre, cleanup=True, post=processors.TemplateProcessing, max_chars=100, vocab=700):
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = normalizer, pre
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=vocab, limit_alphabet=140, show_progress=False, special_tokens=special))
    tokenizer = Tokenizer(models.WordPiece(trained.get_vocab(with_added_tokens=False), unk_token="[UNK]", max_input_chars_per_word=max_chars))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre, decoders.WordPiece("##", cleanup)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    ids = {t: tokenizer.token_to_id(t) for t in special}
    if post is processors.TemplateProcessing:
        tokenizer.post_processor = post(single="[CLS] $A [SEP]", special_tokens=[(t, ids[t]) for t in ("[CLS]", "[SEP]")])
    else:
        tokenizer.post_processor = processors.Sequence([post(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])), processors.TemplateProcessing(
            single="[MASK] $A [PAD] [PAD]", special_tokens=[("[MASK]", ids["[MASK]"]), ("[PAD]", ids["[PAD]"])])])
    write(name, tokenizer)


def make_wordpiece():
    wordpiece("bert_uncased", normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer())
    wordpiece("bert_cased", normalizers.BertNormalizer(lowercase=False), pre_tokenizers.BertPreTokenizer(), cleanup=False, post=processors.BertProcessing)
    wordpiece("wordpiece_words", normalizers.Sequence([normalizers.NFD(), normalizers.BertNormalizer(True, False, False, True)]),
              pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.Digits()]), max_chars=7)
    wordpiece("wordpiece_lines", normalizers.NFKC(), pre_tokenizers.Sequence([pre_tokenizers.CharDelimiterSplit(" "), pre_tokenizers.Punctuation("merged_with_next")]))


# --- byte-level ones that make_tokenizers.py lacks ------------------------------------------------------


def make_byte_level():
    make("falcon", pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), byte_level(use_regex=True), pre_tokenizers.Digits(),
                                            split("[0-9][0-9][0-9]")]), post=bos)
    cl100k = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
    make("phi4", pre_tokenizers.Sequence([split(cl100k, "removed", True), byte_level()]), special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    make("olmo2", pre_tokenizers.Sequence([split(LLAMA3), byte_level()]), vocab=700,
         added=[(AddedToken("    ", normalized=True), False), (AddedToken("\n\n", normalized=False), False)])
    make("words", pre_tokenizers.Sequence([split(r"\w+|[^\w\s]+|[\s\W]"), byte_level(add_prefix_space=True)]), vocab=500)


# --- words, and BPE whose tokens say where in a word they stand ----------------------------------------


def plain(name, model, trainer, normalizer, pre, decoder, special=("<unk>",), added=(), post=None):
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre
    if decoder:
        tokenizer.decoder = decoder
    tokenizer.train_from_iterator([line for line in LINES if "\0" not in line], trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in added])
    if post:
        tokenizer.post_processor = post(tokenizer)
    write(name, tokenizer)


def make_words():
    bpe = lambda special=("<unk>",), **keys: trainers.BpeTrainer(vocab_size=600, limit_alphabet=120, show_progress=False, special_tokens=list(special), **keys)
    words = lambda n: trainers.WordLevelTrainer(vocab_size=n, show_progress=False, special_tokens=["<unk>"])
    clip = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    ends = lambda t: processors.RobertaProcessing(("<|endoftext|>", t.token_to_id("<|endoftext|>")), ("<|startoftext|>", t.token_to_id("<|startoftext|>")))
    plain("gpt1", models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), bpe(end_of_word_suffix="</w>"), normalizers.BertNormalizer(),
          pre_tokenizers.BertPreTokenizer(), decoders.BPEDecoder("</w>"), added=["x</w>y</w>", "</w>"])
    plain("clip", models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"),
          bpe(("<|startoftext|>", "<|endoftext|>"), end_of_word_suffix="</w>", initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
          normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]),
          pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(clip), "removed", True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
          decoders.ByteLevel(), special=("<|startoftext|>", "<|endoftext|>"), post=ends)
    plain("bpe_prefix", models.BPE(unk_token="<unk>", fuse_unk=True, continuing_subword_prefix="##", end_of_word_suffix="@"),
          bpe(continuing_subword_prefix="##", end_of_word_suffix="@"), normalizers.Nmt(), pre_tokenizers.FixedLength(7), decoders.BPEDecoder("@"))
    plain("wordlevel", models.WordLevel(unk_token="<unk>"), words(400), normalizers.Sequence([normalizers.Nmt(), normalizers.Lowercase()]),
          pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(), pre_tokenizers.WhitespaceSplit()]), None)
    plain("wordlevel_bytes", models.WordLevel(unk_token="<unk>"), words(400), None, pre_tokenizers.ByteLevel(), decoders.ByteLevel())
    plain("scripts", models.WordLevel(unk_token="<unk>"), words(300), None, pre_tokenizers.UnicodeScripts(), None)
    plain("ctc", models.WordLevel(unk_token="<unk>"), words(150), normalizers.Replace(" ", "|"), pre_tokenizers.FixedLength(1),
          decoders.CTC("<pad>", "|", True), special=("<unk>", "<s>", "<pad>"), added=[" n't", "|do not|", "a<pad>b"])
    plain("byte_normalizer", models.BPE(), trainers.BpeTrainer(vocab_size=600, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
          normalizers.ByteLevel(), pre_tokenizers.Split("\u0120", "merged_with_next"), decoders.ByteLevel(), special=("<s>",))


# --- SentencePiece itself, for tokenizers that come as pieces with scores ---------------------------


def make_sentencepiece():
    """tokenizers_spm.json: the pieces of a BPE model as Llama 2's is made, and sentencepiece's own ids."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4), model_writer=model, vocab_size=700, hard_vocab_limit=False, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True,
        character_coverage=0.98, user_defined_symbols=["<sep>"], minloglevel=2)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    texts = [t for t in CORPUS + random_texts(3, 150) if t and "\0" not in t and SPACE not in t]
    with open(os.path.join(HERE, "tokenizers_spm.json"), "w") as f:
        json.dump({"pieces": [[p.piece, p.score, p.type] for p in proto.pieces], "cases": [{"text": t, "ids": processor.encode(t)} for t in texts]}, f,
                  ensure_ascii=True, separators=(",", ":"))
    print("sentencepiece", len(proto.pieces), len(texts))


if __name__ == "__main__":
    make_sentencepiece()
    make_words()
    make_byte_level()
    make_spm()
    make_wordpiece()
    make_unigram()
