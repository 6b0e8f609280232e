#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes templates.json: Jinja templates, their variables, and what jinja2
renders with the environment that transformers uses for chat templates.

  /tmp/venv-torch/bin/python tests/golden/make_templates.py

Each case is {name, template, trusted, untrusted} with either `expected`, or
`error`: "compile", "raise" (with the exact message), "undefined" (with the end
of the message) or "runtime"."""
import json
import pathlib

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from template_cases import CASES


class Raised(Exception):
    pass


class Generation(jinja2.ext.Extension):
    """{% generation %}, as transformers' AssistantTracker without the tracking."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _render(self, context, caller):
        return caller()


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise Raised(message)


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def run(case):
    try:
        template = environment().from_string(case["template"])
    except (jinja2.TemplateSyntaxError, jinja2.TemplateAssertionError, SyntaxError) as error:
        return {"error": "compile", "line": getattr(error, "lineno", None)}
    try:
        return {"expected": template.render(**{**case["untrusted"], **case["trusted"]})}
    except Raised as error:
        return {"error": "raise", "message": str(error)}
    except jinja2.UndefinedError as error:
        return {"error": "undefined", "message": str(error)}
    except Exception:
        return {"error": "runtime"}


def main():
    names = set()
    done = []
    for name, template, trusted, untrusted in CASES:
        assert name not in names, name
        names.add(name)
        case = {"name": name, "template": template, "trusted": trusted, "untrusted": untrusted}
        # what the tests see has gone through JSON
        case = json.loads(json.dumps(case))
        result = run(case)
        if " at 0x" in result.get("expected", ""):
            continue  # Python prints an address
        done.append({**case, **result})
    path = pathlib.Path(__file__).parent / "templates.json"
    lines = (json.dumps(case, ensure_ascii=False) for case in done)
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    kinds = {}
    for case in done:
        kind = case.get("error", "text")
        kinds[kind] = kinds.get(kind, 0) + 1
    print(len(done), kinds)


if __name__ == "__main__":
    main()
