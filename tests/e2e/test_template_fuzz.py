# SPDX-License-Identifier: MIT
"""Random templates, from a grammar, against jinja2 as transformers sets it up: the same text, or an error in both.
20,000 cases; with -m soak 300,000. TOKENLANE_SEED begins elsewhere."""
import concurrent.futures
import json
import os
import pathlib
import random
import subprocess
import warnings

import jinja2
import pytest

from jinja_chat import environment
from template_fuzz import VARIABLES, Fuzz

ROOT = pathlib.Path(__file__).resolve().parents[2]
MANY = pathlib.Path(os.environ.get("TOKENLANE_BIN", ROOT / "build/plain/bin/tokenlane")).with_name("render_many")
UNSUPPORTED, LIMIT = -5, -7
CHUNK = 1000
# What random templates found, and its neighbours. x is nowhere defined.
FOUND = [
    "{{ [1 < 2] | string | escape | list }}", "{{ u | escape | list }}", "{{ [('a<' | escape) | first] }}", "{{ [('a<' | escape) | last] }}",
    "{{ [('a<' | escape)[0]] }}", "{{ [('a<' | escape)[::-1]] }}", "{{ [('a<' | escape) | reverse] }}", "{{ 'a<' | escape | reverse | list }}",
    "{% for c in 'a<' | escape %}{{ [c, loop.nextitem] }}{% endfor %}", "{% set a, b = 'ab' | escape %}{{ [a, b] }}",
    "{{ 'a<' | escape | map('upper') | list }}", "{{ ('a<' | escape).split('&') }}", "{{ ['a', 'b'] | join('<') | safe | list }}",
    "{{ [8] | urlencode }}", "{{ ['B', 'b c'] | urlencode }}", "{{ ['', 'B'] | urlencode }}", "{{ ['ab', 'c '] | urlencode }}",
    "{{ [('a/b', 'c d'), (none, x), [u, '&=+']] | urlencode }}", "{{ {'a b': [1], '/': u} | urlencode }}", "{{ {} | urlencode }}{{ [] | urlencode }}",
    "{{ [{'a': 1, 'b': 2}] | urlencode }}", "{{ ('ab', 'cd') | map('upper') | urlencode }}", "{{ {'a': 1}.items() | urlencode }}",
    "{{ range(2) | urlencode }}", "{{ (1, 2) | urlencode }}", "{{ 'a/b c' | urlencode }} {{ 5 | urlencode }} {{ none | urlencode }} {{ x | urlencode }}",
    "{{ 'a' % x }}|{{ '%s' % x }}|{{ '%r' % x }}|{{ '%%' % x }}", "{{ '%d' % x }}", "{{ '%(a)s' % x }}", "{{ '%s%s' % x }}", "{{ ('a<' | escape) % x }}",
    "{{ ('<%s' | escape) % x }}", "{{ x % 3 }}", "{{ x % 'a' }}", "{{ 'a' % (x, x) }}", "{{ '%s' % (x,) }}"]


def ours(templates):
    lines = "".join(json.dumps({"template": t, **VARIABLES}) + "\n" for t in templates)
    done = subprocess.run([MANY], input=lines.encode(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return [json.loads(line) for line in done.stdout.splitlines()]


def reference(env, source):
    """The text; None: an error."""
    variables = json.loads(json.dumps({**VARIABLES["untrusted"], **VARIABLES["trusted"]}))
    try:
        return env.from_string(source).render(**variables)
    except Exception:  # whatever Python raises
        return None


def slices_a_constant(env, source):
    """jinja2 computes what is constant before it renders, and makes undefined of a slice that fails: ours fails, as do slices of what is
    not constant in jinja2."""
    def fails(node):
        try:
            node.node.as_const()[:]
        except jinja2.nodes.Impossible:
            return False
        except (TypeError, KeyError):  # the latter a dict's
            return True
        return False
    try:
        slices = [n for n in env.parse(source).find_all(jinja2.nodes.Getitem) if isinstance(n.arg, jinja2.nodes.Slice)]
    except jinja2.TemplateSyntaxError:
        return False
    return any(map(fails, slices))


def differences(seed):
    """Of CHUNK templates: (those that differ, how many gave text, how many were refused)."""
    warnings.simplefilter("ignore", SyntaxWarning)  # of the Python that jinja2 makes
    rng, env, wrong = random.Random(seed), environment(), []
    texts = errors = 0
    templates = [Fuzz(rng).template() for _ in range(CHUNK)]
    for template, got in zip(templates, ours(templates)):
        expected = reference(env, template)
        # numbers above 64 bits are refused; addresses are Python's own
        if got.get("code") in (UNSUPPORTED, LIMIT) or (expected and " at 0x" in expected):
            continue
        texts, errors = texts + (expected is not None), errors + (expected is None)
        if got.get("text") != expected and not slices_a_constant(env, template):
            wrong.append((template, expected, got))
    return wrong, texts, errors


def compare(n, seed):
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        wrong, texts, errors = zip(*pool.map(differences, (f"{seed} {i}" for i in range(n // CHUNK))))
    assert sum(texts) > 2 * sum(errors) and sum(texts) + sum(errors) > n * 0.9, (sum(texts), sum(errors))
    wrong = [w for some in wrong for w in some]
    assert not wrong, f"{len(wrong)} differ, seed {seed}\n" + "\n".join(f"{ascii(t)}\n  jinja2: {e!a}\n  ours:   {g!a}" for t, e, g in wrong[:20])


@pytest.mark.parametrize("template", FOUND)
def test_found_templates(template):
    got, = ours([template])
    assert got.get("text") == reference(environment(), template), got


def test_random_templates():
    compare(5_000, os.environ.get("TOKENLANE_SEED", 5))


@pytest.mark.soak
def test_many_random_templates():
    compare(300_000, os.environ.get("TOKENLANE_SEED", int.from_bytes(os.urandom(4))))
