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
import sys

import jinja2

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
import jinja_chat
from template_cases import CASES


class Raised(Exception):
    pass


def raise_exception(message):
    raise Raised(message)


def environment():
    env = jinja_chat.environment()
    env.globals["raise_exception"] = raise_exception
    del env.globals["strftime_now"]  # the unit test does not pin the time
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
