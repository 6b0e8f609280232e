# SPDX-License-Identifier: MIT
"""Chat templates as transformers renders them: jinja2 with its settings, filters and functions, and what its
apply_chat_template does before and after. strftime_now() tells NOW."""
import copy
import datetime
import json

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = 1700000000
TAG = "CONTINUE_FINAL_MESSAGE_TAG "


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
    raise jinja2.exceptions.TemplateError(message)


def strftime_now(format):
    return datetime.datetime.fromtimestamp(NOW).strftime(format)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = strftime_now
    return env


def apply(source, messages, tools=None, documents=None, add_generation_prompt=True, continue_final_message=False, **kwargs):
    """The text; jinja2's exceptions, or ValueError for a last message that is not printed."""
    text = None
    if continue_final_message:
        messages = copy.deepcopy(messages)
        text = messages[-1]["content"]
        if isinstance(text, list):
            part = next(p for p in reversed(text) if "text" in p)
            text, part["text"] = part["text"], part["text"] + TAG
        else:
            messages[-1]["content"] += TAG
    rendered = environment().from_string(source).render(messages=messages, tools=tools, documents=documents,
                                                        add_generation_prompt=add_generation_prompt, **kwargs)
    if text is None:
        return rendered
    if text.strip() not in rendered or TAG.strip() not in rendered:
        raise ValueError("the final message does not appear")
    at = rendered.rindex(TAG.strip())
    return rendered[:at] if rendered[at:at + len(TAG)] == TAG else rendered[:at].rstrip()
