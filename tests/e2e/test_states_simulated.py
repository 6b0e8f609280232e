# SPDX-License-Identifier: MIT
"""Models whose layers keep a state on simulated devices: a state that is behind another prefix than the one a chunk goes on from changes the text,
which is known beforehand. Many prompts that begin alike, conversations, forks, scored prompts, few blocks, devices that fail."""
import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon import MODEL, SLOW
from simulated import Vocabulary, expected

FEW = {"devices": "sim:0,sim:1", "sim.base_us": 300, "sim.per_token_ns": 1000, "sim.per_block_ns": 10, "http.threads": 2, "engine.max_batch_size": 6,
       "engine.max_batch_tokens": 64, "engine.max_context": 512, "sim.kv_blocks": 60,
       "health.late_ms": 2000 * SLOW, "health.backoff_ms": 50, "health.max_backoff_ms": 400, "health.max_faults": 0}


@pytest.fixture(scope="module")
def words():
    return Vocabulary(MODEL)


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recurrent") / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, folder / name)
    config = json.loads((MODEL / "config.json").read_text())
    n = config["num_hidden_layers"]
    for key in ("rope_scaling", "rope_parameters"):
        config.pop(key, None)
    config |= {"architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2", "conv_L_cache": 3, "block_auto_adjust_ff_dim": False, "rope_theta": 10000.0,
               "layer_types": ["full_attention" if layer % 2 else "conv" for layer in range(n)]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class Load:
    def __init__(self, d, words):
        self.d, self.words, rng = d, words, random.Random(1)
        self.begins = [[rng.choice(words.ordinary) for _ in range(200)] for _ in range(3)]

    def turns(self, seed):
        """A conversation: what was said, and some more, each time."""
        rng = random.Random(seed)
        prompt = self.begins[seed % 3][:rng.randint(60, 200)]
        for _ in range(4):
            prompt += [rng.choice(self.words.ordinary) for _ in range(rng.randint(1, 30))]
            n = rng.randint(1, 40)
            more = {"temperature": 0.8, "seed": rng.randrange(1 << 30)} if rng.random() < 0.5 else {"temperature": 0}
            if rng.random() < 0.2:
                more |= {"n": 3}
            if rng.random() < 0.1:
                more |= {"echo": True, "logprobs": 1}
            answer = self.d.complete(prompt, max_tokens=n, **more)
            choice = answer["choices"][0]
            drawn = {k: v for k, v in more.items() if k in ("temperature", "seed")}
            said = self.words.expected_text(prompt, n, **drawn)
            assert choice["text"].endswith(said) if "echo" in more else choice["text"] == said
            prompt += expected(prompt, n, self.words.ordinary, **drawn)

    def run(self, n, clients=16):
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(self.turns, range(n)))


@pytest.mark.parametrize("options", [{}, {"isolation": "process"}, {"engine.tensor_parallel": 2}, {"engine.prefix_cache": "false"},
                                     {"sim.faults": "0@50:error,0@100:oom,0@150:error"}])
def test_conversations(start, recurrent, words, options):
    d = start({**FEW, **options}, model=recurrent)
    Load(d, words).run(40 // SLOW)
    assert "sim.faults" not in options or d.total("tokenlane_replica_faults_total") >= 1
    if "engine.prefix_cache" not in options:
        assert d.total("tokenlane_prefix_cache_hit_tokens_total") > 1000 / SLOW
        assert d.total("tokenlane_prefix_cache_states") > 0
    d.wait_rest()
    assert d.total("tokenlane_states_used") == 0
