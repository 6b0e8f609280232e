# SPDX-License-Identifier: MIT
"""A mixture of experts through the whole daemon: one of which every expert is the demo's MLP answers as the demo does."""
import pytest

from alike import texts_together
from model_files import write_experts

PROMPTS = ["Once upon a time", "The dog said that", "Clara", "Tell me a story about Ben."]


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    return write_experts(tmp_path_factory.mktemp("experts") / "model")


def answers(d, prompts=PROMPTS):
    return texts_together(d, prompts, 40)


@pytest.mark.parametrize("options", [{"cpu.threads": 2}, {"isolation": "process", "cpu.threads": 2},
                                     {"devices": "cpu:0,cpu:1", "engine.tensor_parallel": 2, "cpu.threads": 2}])
def test_answers_as_the_model_that_each_expert_is(daemon, start, experts, options):
    d = start(options, model=experts)
    assert d.wait_log(r"msg=read .*architecture=(\S+)")[1] == "mixtral"
    got = answers(d)
    assert len(set(got)) == len(PROMPTS)
    assert got == answers(daemon)


def test_rounded_while_it_loads(start, experts):
    """Alone and together: the same text, of experts as blocks too."""
    d = start({"model.quantize": "q8_0"}, model=experts)
    assert d.wait_log(r"msg=read .*dtype=(\S+)")[1] == "Q8_0"
    together = answers(d)
    assert together == [answers(d, [p])[0] for p in PROMPTS]
