# SPDX-License-Identifier: MIT
"""Whether two answers say the same. On the CPU that is equality, to the last bit of each log-probability. On a GPU the
algorithm of a product, and so the order of its sums, depends on how many rows a step has: there log-probabilities may differ by
TOLERANCE, and a greedy text may go on differently from where two tokens are as likely as that."""
import concurrent.futures

import pytest

from daemon import ON_GPU

TOLERANCE = 0.06
# For texts of which one is made among others and one alone, without log-probabilities that would show where they may part, or by draws.
exact = pytest.mark.skipif(ON_GPU, reason="on a GPU sums depend on how many rows a step has, and draws and near ties on the sums")


def texts_together(d, prompts, max_tokens):
    """Greedy answers to all of them, asked for at the same time."""
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(lambda p: d.complete(p, max_tokens=max_tokens)["choices"][0]["text"], prompts))


def margin(top):
    """How much likelier the best token is than the second."""
    best = sorted(top.values(), reverse=True)
    return best[0] - best[1] if len(best) > 1 else float("inf")


def close_up_to_doubt(got, expected, greedy, tolerance=TOLERANCE):
    """Choices with logprobs of at least 2. What follows a token that is another has another text before it: it is not compared."""
    a, b = got["logprobs"], expected["logprobs"]
    for i, (mine, theirs) in enumerate(zip(a["tokens"], b["tokens"])):
        # of the tokens that both name: the second of two near ones may be another
        for token in a["top_logprobs"][i].keys() & b["top_logprobs"][i].keys():
            assert abs(a["top_logprobs"][i][token] - b["top_logprobs"][i][token]) < tolerance, (i, token, a, b)
        if mine != theirs:
            assert not greedy or margin(b["top_logprobs"][i]) < tolerance, (i, mine, theirs, b["top_logprobs"][i])
            return
    assert len(a["tokens"]) == len(b["tokens"]) and got["text"] == expected["text"]


def assert_alike(got, expected, greedy=True):
    """Two choices."""
    if ON_GPU:
        close_up_to_doubt(got, expected, greedy)
    else:
        assert got == expected
