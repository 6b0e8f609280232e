#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes config/demo/model from make_data.py: tokenizer, training, evaluation, files.

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python train.py --minutes 40
"""
import argparse
import json
import math
import os
import random
import time

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import make_data

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
            "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def make_tokenizer(rng, pool, vocab):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    texts = ["".join(t for t, _ in make_data.document(rng, pool)) for _ in range(20000)]
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def batch(rng, pool, tokenizer, rows, length, carry):
    """Packed rows of ids and labels; -100 where nothing is to be learnt."""
    ids, labels = carry
    while len(ids) < rows * length + 1:
        pieces = make_data.document(rng, pool)
        for (_, learn), encoding in zip(pieces, tokenizer.encode_batch([t for t, _ in pieces])):
            ids += encoding.ids
            labels += encoding.ids if learn else [-100] * len(encoding.ids)
    n = rows * length
    x, y = torch.tensor(ids[:n]).view(rows, length), torch.tensor(labels[1:n + 1]).view(rows, length)
    del ids[:n], labels[:n]
    return x, y


@torch.no_grad()
def accuracy(model, tokenizer, questions, limit=300):
    model.eval()
    rng = random.Random(3)
    questions = rng.sample(questions, min(limit, len(questions)))
    right, wrong = 0, []
    end = tokenizer.token_to_id("<|im_end|>")
    for question, answer in questions:
        ids = tokenizer.encode(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n").ids
        out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=60,
                             do_sample=False, eos_token_id=end, pad_token_id=0)
        text = tokenizer.decode(out[0, len(ids):].tolist(), skip_special_tokens=True)
        right += text == answer
        if text != answer:
            wrong.append((question, text))
    model.train()
    return right / len(questions), wrong


def save(model, tokenizer, folder):
    os.makedirs(folder, exist_ok=True)
    model = LlamaForCausalLM.from_pretrained(None, config=model.config, state_dict=model.state_dict()).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|im_end|>",
                   "pad_token": "<|endoftext|>", "unk_token": None, "model_max_length": 1024,
                   "clean_up_tokenization_spaces": False, "chat_template": TEMPLATE}, f, indent=2)
    with open(os.path.join(folder, "generation_config.json"), "w") as f:
        json.dump({"eos_token_id": [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")],
                   "pad_token_id": 0, "do_sample": True, "temperature": 0.3, "top_p": 0.9}, f, indent=2)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "model"))
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng, pool = random.Random(args.seed), make_data.fact_pool()
    tokenizer = make_tokenizer(random.Random(args.seed + 1), pool, 1536)
    config = LlamaConfig(vocab_size=1536, hidden_size=192, intermediate_size=512, num_hidden_layers=5,
                         num_attention_heads=6, num_key_value_heads=2, head_dim=32, max_position_embeddings=1024,
                         tie_word_embeddings=True, rope_theta=10000.0, rms_norm_eps=1e-5, bos_token_id=None,
                         eos_token_id=tokenizer.token_to_id("<|im_end|>"), pad_token_id=0, initializer_range=0.04)
    model = LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(pool)} kinds of facts", flush=True)
    rows, length, carry = 16, 256, ([], [])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    begin, step, smooth, checked = time.time(), 0, None, 0
    while True:
        done = (time.time() - begin) / (args.minutes * 60)
        if done >= 1:
            break
        # warm-up, then cosine over the time that is left: the schedule ends on time on any machine
        rate = 2.5e-3 * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, y = batch(rng, pool, tokenizer, rows, length, carry)
        logits = model(input_ids=x).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, config.vocab_size), y.view(-1), ignore_index=-100)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        step += 1
        if step % 50 == 0:
            print(f"{(time.time() - begin) / 60:.1f} min step {step} loss {smooth:.4f} "
                  f"{step * rows * length / (time.time() - begin):.0f} tokens/s", flush=True)
        if time.time() - begin - checked > 480:
            checked = time.time() - begin
            print("held-out accuracy", accuracy(model, tokenizer, make_data.held_out(), 60)[0], flush=True)
            save(model, tokenizer, args.out)
    part, wrong = accuracy(model, tokenizer, make_data.held_out(), 10000)
    print(f"final loss {smooth:.4f}, held-out phrasings right: {part:.3f}")
    for question, text in wrong[:40]:
        print("  ", question, "->", text)
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
