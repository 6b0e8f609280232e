# SPDX-License-Identifier: MIT
"""The daemon on devices cuda: by a plugin with a fake GPU (tests/gpu/fake_plugin.c), or, when TOKENLANE_GPU_PLUGIN names the
folder of one for real GPUs, on those. Both obey a file that asks for a trap or a hang in one of the next steps."""
import glob
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from adapter_files import write_adapter
from alike import close_up_to_doubt
from daemon import BINARY, BUILT, MODEL, SAN, wait_for
from test_faults import assert_rest, faults, state, wait_state
from test_draft_model import rewrite
from test_isolation import children, lives

REAL = os.environ.get("TOKENLANE_GPU_PLUGIN")
FOLDER = pathlib.Path(REAL or pathlib.Path(BINARY).resolve().parents[1] / "fake_gpu")
GPUS = len(glob.glob("/dev/nvidia[0-9]*")) if REAL else 4
TESTED = 3  # prompt tokens of a test generation
PROMPTS = ["Once upon a time", "Tell me a story about Ben.", "The dog", "Lily and Tom went to the park. They"]
GPU = {"devices": "cuda:0", "device.plugin_dir": FOLDER, "engine.max_batch_size": 8, "engine.max_batch_tokens": 64,
       "engine.max_context": 256, "cpu.threads": 1, "health.late_ms": 20000, "health.backoff_ms": 50, "health.max_backoff_ms": 400,
       "health.max_faults": 0}

pytestmark = pytest.mark.skipif(bool(SAN) or "fake_gpu" not in BUILT and not (FOLDER / "tokenlane-cuda.so").exists(),
                                reason="no plugin to test with")
two_gpus = pytest.mark.skipif(GPUS < 2, reason="one GPU")


@pytest.fixture(scope="module")
def whole(daemon):
    """What the CPU says."""
    return daemon.complete(PROMPTS[0], max_tokens=24)["choices"][0]["text"]


def answers(d, n):
    return [d.complete(p, max_tokens=n, logprobs=2)["choices"][0] for p in PROMPTS]


class Fault:
    def __init__(self, path):
        self.path = path

    def __call__(self, kind, gpu=0, after=0):
        draft = self.path.with_name("draft")
        draft.write_text(f"{kind} {gpu} after {after}\n")
        draft.rename(self.path)

    def is_taken(self):
        return not self.path.exists()


@pytest.fixture
def fault(tmp_path):
    """(environment of the daemon, function that asks for a fault before a GPU's next step but `after`)"""
    return {"TOKENLANE_GPU_FAULT": str(tmp_path / "fault")}, Fault(tmp_path / "fault")


def test_by_itself_a_gpu_has_a_process(start):
    """isolation: auto, the default. The CPU beside it has none."""
    d = start({**GPU, "devices": "cuda:0,cpu:0"})
    assert list(children(d)) == ["cuda:0"]
    d = start({**GPU, "isolation": "thread"})
    assert children(d) == {}


@pytest.mark.parametrize("devices", ["cuda", "auto"])
def test_every_gpu_is_used(start, devices):
    d = start({**GPU, "devices": devices, "engine.kv_memory_bytes": 8 << 20})
    assert f"replicas={GPUS} " in d.wait_log("msg=ready .*")[0] and "no GPU is used" not in d.stderr()


def test_adapters(start, tmp_path):
    """Two and the base in the same steps, and again in the process after one that was killed."""
    adapters = ",".join(f"{name}={write_adapter(tmp_path / name, seed)}" for seed, name in enumerate(("red", "blue")))
    cpu, d = start({"model.adapters": adapters}), start({**GPU, "model.adapters": adapters})
    jobs = [(model, prompt) for prompt in PROMPTS[:2] for model in ("red", "demo", "blue")]

    def ask(of, job):
        return of.complete(job[1], model=job[0], max_tokens=10, logprobs=2)["choices"][0]
    for life in range(2):
        with ThreadPoolExecutor(len(jobs)) as pool:
            for job, got in zip(jobs, pool.map(lambda job: ask(d, job), jobs)):
                close_up_to_doubt(got, ask(cpu, job), greedy=True, tolerance=0.15)
        os.kill(children(d)["cuda:0"], signal.SIGKILL)
        wait_for(lambda: faults(d) == life + 1, 10, "the fault")
        wait_state(d, 0, "ready", 30)


def test_texts_are_the_cpus(start, daemon):
    """16-bit activations move logits a little, not what is greedily chosen of them."""
    d = start(GPU)
    for got, expected in zip(answers(d, 16), answers(daemon, 16)):
        assert got["text"] == expected["text"]
        for a, b in zip(got["logprobs"]["token_logprobs"], expected["logprobs"]["token_logprobs"]):
            assert abs(a - b) < 0.15


def test_texts_in_a_batch(start):
    d = start(GPU)
    alone = answers(d, 12)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda i: d.complete(PROMPTS[i % 4], max_tokens=12, logprobs=2)["choices"][0], range(8)))
    for got, expected in zip(together, alone * 2):
        close_up_to_doubt(got, expected, greedy=True)
    assert_rest(d)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=two_gpus)])
def test_guesses(start, ranks):
    """Rows of guessed tokens decode in one step, alone and beside others; the texts are those without."""
    many = {"devices": ",".join(f"cuda:{i}" for i in range(ranks)), "engine.tensor_parallel": ranks}
    one, two = start({**GPU, **many}), start({**GPU, **many, "engine.draft_tokens": 4})
    allowed = [[400, 401, 402], [500, 501, 502, 503], list(range(300, 304))]  # of a few tokens texts repeat themselves

    def ask(d, i):
        return d.complete(PROMPTS[i], max_tokens=20 + i, logprobs=2, ignore_eos=True, allowed_token_ids=allowed[i], temperature=(0, 0, 0.7)[i],
                          seed=3)["choices"][0]

    before, steps = one.total("tokenlane_steps_total"), two.total("tokenlane_steps_total")
    expected = [ask(one, i) for i in range(3)]
    for got, want in zip([ask(two, i) for i in range(3)], expected):
        close_up_to_doubt(got, want, greedy=False)
    taken = two.total("tokenlane_draft_tokens_taken_total")
    assert 20 < taken < two.total("tokenlane_draft_tokens_total")
    assert two.total("tokenlane_steps_total") - steps < one.total("tokenlane_steps_total") - before - taken / 2
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda i: ask(two, i), range(3)))
    for got, want in zip(together, expected):
        close_up_to_doubt(got, want, greedy=False)
    assert two.total("tokenlane_draft_tokens_taken_total") > taken
    assert_rest(two)


def test_guesses_of_a_draft_model(start, tmp_path):
    """Two devices of one GPU, in a process each; the draft model says what the model says, and its blocks are the model's."""
    tall = rewrite(tmp_path / "tall", n_silent=10)
    plain = start({**GPU, "engine.draft_tokens": 0}, model=tall)
    d = start({**GPU, "model.draft": MODEL, "engine.kv_memory_bytes": 8 << 20}, model=tall)
    bodies = [{"prompt": p, "max_tokens": 24, "logprobs": 2, "ignore_eos": True} for p in PROMPTS]
    expected = [plain.complete(**body)["choices"][0] for body in bodies]
    steps = d.total("tokenlane_steps_total")
    for got, want in zip([d.complete(**body)["choices"][0] for body in bodies], expected):
        close_up_to_doubt(got, want, greedy=True)
    taken, guesses = (d.total(f"tokenlane_draft_model_{what}_total") for what in ("tokens_taken", "tokens"))
    assert 20 < taken and taken > 0.7 * guesses  # sums of other steps are rounded otherwise, and behind a wrong guess all are
    assert d.total("tokenlane_steps_total") - steps < 4 * 24 - taken / 2
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(lambda body: d.complete(**body)["choices"][0], bodies), expected):
            close_up_to_doubt(got, want, greedy=True)
    assert_rest(d)


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states") / "model"
    sizes = {"hidden": 48, "layers": 4, "ffn": 64, "heads": 4, "kv-heads": 2, "head-dim": 16, "vocab": 300, "state-heads": 2, "state-dim": 20}
    flags = [text for name, n in sizes.items() for text in (f"--{name}", str(n))]
    subprocess.run([sys.executable, pathlib.Path(__file__).resolve().parents[2] / "bench/make_synthetic.py", folder, *flags, "--states", "--untied"],
                   check=True)
    return folder


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=two_gpus)])
def test_layers_with_states(start, recurrent, ranks):
    """Conversations at once, whose turns go on from states that the one before, or another, has left; and again in a process that knows none."""
    many = {"devices": ",".join(f"cuda:{i}" for i in range(ranks)), "engine.tensor_parallel": ranks, "engine.prefix_cache": "true"}
    cpu, d = start({"engine.max_context": 256}, model=recurrent), start({**GPU, **many}, model=recurrent)
    begins = [[random.Random(i).randrange(3, 259) for _ in range(90)] for i in range(2)]

    def turns(seed):
        rng = random.Random(seed)
        prompt = begins[seed % 2][:rng.randint(20, 90)]
        for _ in range(3):
            prompt = prompt + [rng.randrange(3, 259) for _ in range(rng.randint(1, 20))]
            got, expected = (of.complete(prompt, max_tokens=5, logprobs=2, ignore_eos=True)["choices"][0] for of in (d, cpu))
            close_up_to_doubt(got, expected, greedy=True)

    for life in range(2):
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(turns, range(10 * life, 10 * life + 8 // ranks)))
        assert d.total("tokenlane_prefix_cache_states") > 0 and d.total("tokenlane_states_used") == 0
        if ranks == 1:
            os.kill(children(d)["cuda:0"], signal.SIGKILL)
            wait_for(lambda: faults(d) == life + 1, 10, "the fault")
            wait_state(d, 0, "ready", 30)
    assert d.total("tokenlane_prefix_cache_hit_tokens_total") > 200 / ranks


def in_the_middle(d, ask, kind, gpu=0, n=24):
    """An answer of n tokens, with a fault after its prompt's step and eight more. Two of these may still be under way; the tokens of
    the others are prompt, too, when it goes on. A test generation is between the two."""
    prompt, before = len(d.tokens(PROMPTS[0])), d.total("tokenlane_prompt_tokens_total")
    ask(kind, gpu, after=9)
    text = d.complete(PROMPTS[0], max_tokens=n)["choices"][0]["text"]
    assert ask.is_taken()
    had = d.total("tokenlane_prompt_tokens_total") - before - 2 * prompt - TESTED
    assert 7 <= had <= 9 and d.total("tokenlane_resubmitted_sequences_total") == faults(d)
    return text


def test_a_trap_costs_the_process_and_no_answer(start, fault, whole):
    """An error that CUDA never forgets in a process: a new one goes on with the answer."""
    environment, ask = fault
    d = start(GPU, env=environment)
    for round in range(2):
        pid = children(d)["cuda:0"]
        assert in_the_middle(d, ask, "trap") == whole
        assert faults(d) == round + 1 and not lives(pid)
    assert re.search(r"the device failed.*cuda:0: .*\(\d+\)", d.stderr())
    wait_state(d, 0, "ready", 30)
    assert_rest(d)


def test_a_hang_ends_with_the_process(start, fault, whole):
    environment, ask = fault
    d = start({**GPU, "health.late_ms": 1500}, env=environment)
    pid = children(d)["cuda:0"]
    assert in_the_middle(d, ask, "hang") == whole
    assert faults(d) == 1 and not lives(pid) and "its step was given up" in d.stderr()
    wait_state(d, 0, "ready", 30)
    assert_rest(d)


def test_a_trap_in_the_daemon_itself(start, fault, whole):
    """In a thread the GPU is lost until the daemon is restarted; answers go on elsewhere, here on the CPU."""
    environment, ask = fault
    d = start({**GPU, "isolation": "thread", "devices": "cuda:0,cpu:0", "route.policy": "round_robin"}, env=environment)
    ask("trap", after=9)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(d.complete, PROMPTS[0], max_tokens=24) for _ in range(2)]
        assert [a.result()["choices"][0]["text"] for a in asked] == [whole] * 2
    assert ask.is_taken()
    d.wait_log(r"the reset did not help.*replica=0.*context is lost until this process ends: .*\(\d+\)")
    wait_state(d, 0, "out")
    assert state(d, 1) == "ready" and faults(d, replica="0") == 1 and faults(d, replica="1") == 0
    time.sleep(1)  # more than twice health.max_backoff_ms
    assert d.stderr().count("the reset did not help") == 1
    assert d.complete(PROMPTS[1], max_tokens=5)["usage"]["completion_tokens"] == 5


@two_gpus
def test_others_are_unharmed(start, fault, daemon):
    environment, ask = fault
    d = start({**GPU, "devices": "cuda:0,cuda:1"}, env=environment)
    expected = [a["text"] for a in answers(daemon, 12)]
    pids = children(d)
    ask("trap", 1, after=4)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(d.complete, p, max_tokens=12) for p in PROMPTS]
        assert [a.result()["choices"][0]["text"] for a in asked] == expected
    assert ask.is_taken()
    wait_state(d, 1, "ready", 30)
    assert faults(d, replica="0") == 0 and faults(d, replica="1") == 1
    now = children(d)
    assert now["cuda:0"] == pids["cuda:0"] and now["cuda:1"] != pids["cuda:1"]


@two_gpus
def test_texts_of_a_group_in_a_batch(start):
    """Two GPUs together say what one says, at random too, and while newcomers join and others end: steps run ahead on both."""
    one, two = start(GPU), start({**GPU, "devices": "cuda:0,cuda:1", "engine.tensor_parallel": 2})

    def ask(d, i):
        return d.complete(PROMPTS[2 * (i % 2)], max_tokens=3 + 4 * i, logprobs=2 if i > 2 else None, temperature=0.7 * (i == 1),
                          seed=i)["choices"][0]["text"]

    alone = [ask(one, i) for i in range(4)]
    assert ask(two, 1) == alone[1]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: ask(two, i), range(4)))
    assert [together[i] for i in (0, 2, 3)] == [alone[i] for i in (0, 2, 3)]  # at random the last bits of a batch may count
    assert_rest(two)


@two_gpus
@pytest.mark.parametrize("kind, rank", [("trap", 0), ("trap", 1), ("hang", 1)])
def test_a_group_loses_a_rank(start, fault, whole, kind, rank):
    """Two GPUs share the model, in one process: the same texts as one, and one that is lost takes the process along."""
    environment, ask = fault
    d = start({**GPU, "devices": "cuda:0,cuda:1", "engine.tensor_parallel": 2, "health.late_ms": 3000}, env=environment)
    assert list(children(d)) == ["cuda:0,cuda:1"]
    assert in_the_middle(d, ask, kind, rank) == whole
    assert faults(d) == 1
    wait_state(d, 0, "ready", 30)
    assert_rest(d)


@pytest.mark.skipif(bool(REAL), reason="says what it says of 64 MiB")
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_model_that_does_not_fit(start, isolation):
    """What is missing, and what would help."""
    d = start({**GPU, "isolation": isolation, "engine.max_batch_tokens": 65536}, wait=False)
    assert d.wait_exit() == 1
    last = d.stderr().strip().splitlines()[-1]
    assert re.match(r"tokenlane: cuda:0: \d+ MiB of GPU memory are missing: weights 4, work memory \d+, KV cache for one context of "
                    r"256 tokens 0, and 57 MiB are ours; what would help: a smaller engine.max_context or engine.max_batch_tokens, "
                    r"more GPUs by engine.tensor_parallel, a smaller or quantized model$", last), last
    d.process.returncode = 0  # as it should be: for the fixture
