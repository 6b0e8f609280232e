# SPDX-License-Identifier: MIT
"""transformers on the models of bench_gpu.py: static cache, compiled. Prints the time of a decode step at 1 and 16 sequences of
1024 tokens; one line where this Python has no torch with CUDA."""
import pathlib
import sys
import time

CONTEXT, SHORT, LONG = 1024, 32, 96


def seconds(torch, model, ids, n_new):
    torch.cuda.synchronize()
    began = time.monotonic()
    model.generate(ids, attention_mask=torch.ones_like(ids), min_new_tokens=n_new, max_new_tokens=n_new, do_sample=False)
    torch.cuda.synchronize()
    return time.monotonic() - began


def measure(torch, transformers, path):
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).cuda().eval()
    model.generation_config.cache_implementation = "static"
    model.generation_config.pad_token_id = 0
    model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    for n in (1, 16):
        ids = torch.randint(300, 100000, (n, CONTEXT), device="cuda")
        for new in (SHORT, LONG, SHORT, LONG):  # compiles and records
            seconds(torch, model, ids, new)
        # the prompt's time is in both
        times = sorted(seconds(torch, model, ids, LONG) - seconds(torch, model, ids, SHORT) for _ in range(5))
        what = f"{pathlib.Path(path).name}, transformers, decode, {n} x {CONTEXT}"
        print(f"{what:44} {times[2] / (LONG - SHORT) * 1e3:10.3f} ms", flush=True)


def main():
    try:
        import torch
        import transformers
    except ImportError as missing:
        print(f"transformers: not run: {missing}")
        return
    if not torch.cuda.is_available():
        print("transformers: not run: torch has no CUDA")
        return
    for path in sys.argv[1:]:
        with torch.inference_mode():
            measure(torch, transformers, path)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
