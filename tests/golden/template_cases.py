# SPDX-License-Identifier: MIT
"""The cases of make_templates.py: (name, template, trusted, untrusted)."""

CASES = []


def add(name, template, untrusted=None, **trusted):
    CASES.append((name, template, trusted, untrusted or {}))


def units(group, rows, **variables):
    """Expressions or whole templates that share their variables."""
    for i, row in enumerate(rows):
        add(f"{group} {i}: {row[:40]!r}", row if "{" in row and ("{{" in row or "{%" in row) else "{{ " + row + " }}", variables)


# --- chat templates in the manner of the well-known ones ------------------------------
CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

CHATML_DEFAULT_SYSTEM = """{% for message in messages %}
{% if loop.first and messages[0].role != 'system' %}
<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}
<|im_start|>{{ message.role }}
{{ message.content | trim }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""

LLAMA3 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message comes first, if there is one. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "Available functions:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
{%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {{- "Functions you may call:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

QWEN25 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\nSignatures:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\n<tool_call>\\n{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}

{#- This block checks for alternating user/assistant messages, skipping tool calling messages #}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
            {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}
        {{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""

# parts of contents, a recursive macro over a JSON schema, string building in a namespace
GEMMA4 = """{%- macro value_of(argument, quoted=True) -%}
    {%- if argument is string -%}
        {{- '<|"|>' + argument + '<|"|>' -}}
    {%- elif argument is boolean -%}{{- 'true' if argument else 'false' -}}
    {%- elif argument is mapping -%}{{- '{' -}}
        {%- set ns = namespace(comma=false) -%}
        {%- for key, value in argument | dictsort -%}
            {%- if ns.comma %},{% endif -%}{%- set ns.comma = true -%}
            {{- '<|"|>' + key + '<|"|>' if quoted else key -}}
            :{{- value_of(value, quoted=quoted) -}}
        {%- endfor -%}{{- '}' -}}
    {%- elif argument is sequence -%}{{- '[' -}}
        {%- for item in argument -%}{{- value_of(item, quoted=quoted) -}}{%- if not loop.last %},{% endif -%}{%- endfor -%}{{- ']' -}}
    {%- else -%}{{- argument -}}{%- endif -%}
{%- endmacro -%}
{%- macro without_thoughts(text) -%}
    {%- set ns = namespace(result='') -%}
    {%- for part in text.split('<channel|>') -%}{%- set ns.result = ns.result + part.split('<|channel>')[0] -%}{%- endfor -%}
    {{- ns.result | trim -}}
{%- endmacro -%}
{%- set ns = namespace(before=None, user=-1) -%}
{{- bos_token -}}
{%- if (enable_thinking is defined and enable_thinking) or tools -%}
    {{- '<|turn>system\\n' -}}{%- if enable_thinking is defined and enable_thinking -%}{{- '<|think|>\\n' -}}{%- endif -%}
    {%- for tool in tools or [] %}{{- '<|tool>declaration:' + tool.function.name -}}{{ value_of(tool.function.parameters.properties) | trim }}{{- '<tool|>' -}}{%- endfor %}
    {{- '<turn|>\\n' -}}
{%- endif %}
{%- for message in messages -%}{%- if message['role'] == 'user' -%}{%- set ns.user = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for message in messages if message['role'] != 'tool' -%}
    {{- '<|turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}
    {%- set thought = message.get('reasoning') or message.get('reasoning_content') -%}
    {%- if thought and loop.index0 > ns.user -%}{{- '<|channel>thought\\n' + thought + '\\n<channel|>' -}}{%- endif -%}
    {%- for call in message['tool_calls'] or [] -%}
        {{- '<|tool_call>call:' + call['function']['name'] + '{' -}}
        {%- if call['function']['arguments'] is mapping -%}
            {%- for key, value in call['function']['arguments'] | dictsort -%}{%- if not loop.first %},{% endif -%}{{- key -}}:{{- value_of(value, quoted=False) -}}{%- endfor -%}
        {%- else -%}{{- call['function']['arguments'] -}}{%- endif -%}
        {{- '}<tool_call|>' -}}
        {%- for answer in messages if answer.get('tool_call_id') == call.get('id') -%}{{- '<|tool_response>response:' + call['function']['name'] + '{value:' + value_of(answer['content'], quoted=False) + '}<tool_response|>' -}}{%- set ns.before = 'tool' -%}{%- endfor -%}
    {%- endfor -%}
    {%- if message['content'] is string -%}{{- without_thoughts(message['content']) if message['role'] == 'assistant' else message['content'] | trim -}}{%- endif -%}
    {%- if not (message['tool_calls'] and not message['content']) -%}{%- set ns.before = None -%}{{- '<turn|>\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {%- if ns.before != 'tool' -%}{{- '<|turn>model\\n' -}}{%- endif -%}
    {%- if not enable_thinking | default(false) -%}{{- '<|channel>thought\\n<channel|>' -}}{%- endif -%}
{%- endif -%}
"""

HARMONY = """{%- macro render_type(spec, depth=0) -%}
  {%- if spec.type == "array" -%}
    {{- render_type(spec['items'], depth + 1) }}[]
  {%- elif spec.type == "object" -%}
    {
    {%- for name, sub in spec.properties.items() %}
      {{- name }}{{ "" if name in (spec.required or []) else "?" }}: {{ render_type(sub, depth=depth + 1) -}}
      {%- if not loop.last %}, {% endif -%}
    {%- endfor -%}
    }
  {%- elif spec.enum is defined -%}
    {{- spec.enum | map('tojson') | join(' | ') }}
  {%- elif spec.type is iterable and spec.type is not string -%}
    {{- spec.type | join(' | ') }}
  {%- else -%}
    {{- spec.type | default('any') }}
  {%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(text='', count=0) -%}
{%- for message in messages -%}
  {%- set ns.count = ns.count + 1 -%}
  {%- if message.content is string -%}
    {%- set ns.text = ns.text ~ '<|start|>' ~ message.role ~ '<|message|>' ~ message.content ~ '<|end|>' -%}
  {%- else -%}
    {%- set ns.text = ns.text ~ '<|start|>' ~ message.role ~ '<|message|>' -%}
    {%- for part in message.content or [] if part.type == 'text' -%}
      {%- set ns.text = ns.text ~ part.text -%}
    {%- else -%}
      {%- set ns.text = ns.text ~ '(nothing)' -%}
    {%- endfor -%}
    {%- set ns.text = ns.text ~ '<|end|>' -%}
  {%- endif -%}
{%- endfor -%}
{%- for tool in tools or [] %}
// {{ tool.function.description | default('no description', true) }}
type {{ tool.function.name }} = (_: {{ render_type(tool.function.parameters) }}) => any;
{% endfor -%}
{{ ns.text }}{{ '<|start|>assistant' if add_generation_prompt }}
[{{ ns.count }}]"""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather <now> & \"here\" für Ort",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "where"},
                "unit": {"type": "string", "enum": ["C", "F"]},
                "days": {"type": "array", "items": {"type": "integer"}},
                "more": {"type": ["string", "null"]},
            },
            "required": ["place"],
        },
    },
}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number", "maximum": 1.5e300}, "b": {"type": "number", "minimum": -0.0}}}}}


def m(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments, **more):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


CONVERSATIONS = {
    "one": [m("user", "Hello!")],
    "system": [m("system", "Be brief."), m("user", "Hi")],
    "turns": [m("user", "1+1?"), m("assistant", "2"), m("user", "2+2?"), m("assistant", " 4 \n"), m("user", "thanks")],
    "unicode": [m("system", "Ты — помощник 🤖"), m("user", "\u00a0Größe? 你好\u3000"), m("assistant", "é\u0301 ẞ ﬁ 👩‍👩‍👧"), m("user", "\u2028line\u0085break")],
    "edges": [m("user", "\n\n  lead and trail \t\n"), m("assistant", ""), m("user", "{{ messages }} {% raw %} {# no #}"), m("assistant", "<|im_end|>\n<|im_start|>system"), m("user", "\r\n'\"\\ \x00\x7f")],
    "think": [m("user", "think"), m("assistant", "<think>\nhm\nwell\n</think>\n\nYes."), m("user", "again"), m("assistant", "<think>\nmore\n</think>\n\nNo.")],
    "reasoning": [m("user", "think"), m("assistant", "Yes.", reasoning_content="\nbecause\n")],
    "tools": [
        m("system", "Use tools."),
        m("user", "Weather in Köln?"),
        m("assistant", "", tool_calls=[call("get_weather", {"place": "Köln", "days": [1, 2], "x": None, "f": 0.1, "ok": True}, id="abcdefghi")]),
        m("tool", "{\"temp\": 21.5}", tool_call_id="abcdefghi"),
        m("assistant", "21.5°C"),
        m("user", "ok"),
    ],
    "two calls": [
        m("user", "Both"),
        m("assistant", None, tool_calls=[call("add", {"a": 1, "b": 2}, id="123456789"), call("add", "{\"a\": 3}", id="987654321")]),
        m("tool", "3", tool_call_id="123456789"),
        m("tool", "4", tool_call_id="987654321"),
    ],
    "bad order": [m("user", "a"), m("user", "b")],
    "strange role": [m("user", "a"), m("assistant", "b"), m("critic", "c")],
    "parts": [m("user", [{"type": "text", "text": "See "}, {"type": "image"}, {"type": "text", "text": "this"}]), m("assistant", []), m("user", None)],
    "empty": [],
}

TEMPLATES = {
    "chatml": CHATML,
    "chatml system": CHATML_DEFAULT_SYSTEM,
    "llama3": LLAMA3,
    "qwen2.5": QWEN25,
    "qwen3": QWEN3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "harmony": HARMONY,
}

for template_name, template in TEMPLATES.items():
    for conversation, messages in CONVERSATIONS.items():
        for prompt in (True, False) if conversation in ("one", "think") else (True,):
            add(f"{template_name}, {conversation}, {prompt}", template, {"messages": messages}, bos_token="<s>", eos_token="</s>", add_generation_prompt=prompt)
    for conversation in ("one", "system", "tools", "two calls", "empty"):
        add(f"{template_name}, tools with {conversation}", template, {"messages": CONVERSATIONS[conversation], "tools": [WEATHER, ADD]}, bos_token="<s>", eos_token="</s>", add_generation_prompt=True)
add("llama3, tools in system", LLAMA3, {"messages": CONVERSATIONS["system"], "tools": [WEATHER]}, bos_token="<s>", tools_in_user_message=False, date_string="1 Jan 2025", add_generation_prompt=True)
for conversation in ("think", "reasoning", "tools", "two calls"):
    add(f"gemma 4, {conversation}", GEMMA4, {"messages": CONVERSATIONS[conversation], "tools": [WEATHER, ADD]}, bos_token="<bos>", add_generation_prompt=True, enable_thinking=conversation == "two calls")
add("qwen3, no thinking", QWEN3, {"messages": CONVERSATIONS["think"]}, add_generation_prompt=True, enable_thinking=False)

# --- white space ----------------------------------------------------------------------------
WHITE = [
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a {% if true %} b {% endif %} c", "a\n{%- if true -%}\n b \n{%- endif -%}\nc",
    "  {{ 1 }}  \n  {{- 2 -}}  \n 3", "{# c #}\nx", "  {# c #}\nx", "x {# c #}\ny", "x {#- c -#} y", "x{# c +#}\ny", "x\n  {#+ c #}y",
    "  {%+ if true %}\nx\n  {%+ endif %}", "{% if true +%}\nx{% endif +%}\n\ny", "\n{% set a = 1 %}\n\n{{ a }}\n\n", "x\n\n", "x\r\ny\rz\r\n", "\n",
    "{% raw %}\n  {{ x }} {% if %}\n{% endraw %}\nz", "  {% raw -%}   a  {%- endraw -%}  b", "a\n  {%- raw %}  b  {% endraw +%}\n c", "x  {% raw %}y{% endraw %}", "\t{% set a = 1 %}\tx",
    "{{ '{{' }}{{ '}}' }}{{ \"%}\" }}", "{%set a=1%}{{a}}", "{{{'a':{'b':1}}}}", "{{ {'a': {'b': 1}}['a'] }}", "{{-1}} {{- -1 -}} x", "a{{+1}}b",
    "\u00a0{%- if true %}x{% endif -%}\u2003y", "{{ 1 }}\n", "{{ 1 }}\n\n", "{% for x in [1,2] %}\n  {{ x }}\n{% endfor %}\n", "{% for x in [1,2] -%}\n  {{ x }}\n{%- endfor %}\nz",
    "{#\n multi\n line #}x", "{# {% if %} {{ #}x", "{##}x{#-#} y", "a{% print 1, 2 %}b", "{%- if true: %}x{%- endif %}", "x{#-#}\n\ny",
    "   \n   {%- set x = 1 %}\n   \n{{ x }}",
]
for i, text in enumerate(WHITE):
    add(f"white {i}", text)

# --- literals and operators --------------------------------------------------------------------
units("literal", [
    "'a\\n\\t\\\\\\'\\x41\\u00e9\\U0001F600\\101\\q'", '"d\'q" \'x\' "y"', "'\\é\\中'", "'line\\\nbreak'", "1_000 + 0x1F + 0b11 + 0o17", "1.5e3", "1e-7", "1_0.5", "00", "[1, 2, 3,]", "(1,)", "()", "(1, 2)", "1, 2",
    "{'a': 1, 'b': [1, {'c': none}], 1: 2.0, none: true}", "{}", "[none, true, false, None, True, False]", "{'a': 1, 'a': 2}", "[\"it's\", 'say \"hi\"', 'both \\' \"']", "['\\n\\x00\\u200b\\xa0é😀\\\\\\x7f']", "[[], {}, (), '', 0.0]", "007", "1.foo", "'abc", "[1, 2", "{1: }", "0.1.real", "''", "['a' 'b', undefined_thing]", "9223372036854775807",
])
units("float", ["1.0", "0.1 + 0.2", "1e16", "1e15", "123456789012345680.0", "1e22", "1e-4", "1e-5", "-0.0", "1.5", "2.5e-8", "1e100", "3.14159", "100.0", "5e-324", "1.7976931348623157e308", "1e400", "-1e400", "[1.0, 2.50]", "0.00001234", "12345.678e10"])
units("operator", [
    "1 + 2 * 3 - 4", "7 / 2", "7 // 2", "-7 // 2", "-7 % 3", "7 % -3", "7.5 // 2", "-7.5 % 2", "7.5 % -2", "2 ** 10", "2 ** 3 ** 2", "2 ** -1", "-2 ** 2", "2.0 ** 0.5", "1 / 0", "1 // 0", "1 % 0", "1.0 / 0", "'a' + 'b' ~ 1 ~ none ~ 2.0", "1 ~ 2 + 3", "'ab' * 3", "3 * 'ab'", "'ab' * -1", "[1] * 2 + [3]", "(1,) + (2,)", "'a' + 1", "1 + 'a'", "[1] + (2,)", "none + 1", "true + true", "-true", "+3", "- -3", "-'a'", "not 1", "not not ''", "not 1 == 2",
    "1 < 2 < 3", "1 < 3 < 2", "1 == 1.0 == true", "'a' < 'b'", "'Z' < 'a'", "'é' < 'z'", "[1, 2] < [1, 3]", "[1] < [1, 0]", "(1, 2) == [1, 2]", "1 < 'a'", "none == false", "none < 1", "{} == {}", "{'a': 1, 'b': 2} == {'b': 2, 'a': 1}", "[1] == [1.0]", "1 != 2", "'a' >= 'a'", "2 <= 1",
    "1 in [1, 2]", "3 not in [1, 2]", "'a' in 'cat'", "'' in 'cat'", "1 in 'cat'", "'k' in {'k': 1}", "1 in {'k': 1}", "[] in {}", "1 in none", "nope in 'x'", "'x' in nope", "1 in range(3)", "0 or 'x'", "'' or none", "1 and 2", "0 and nope.x", "1 or nope.x", "none or [] or 'z'", "'y' if 1 else 'n'", "'y' if 0", "'a' if 0 else 'b' if 0 else 'c'", "1 if 2 if 3 else 4 else 5", "1 + 2 if false else 3 + 4",
    "not x is defined", "1 is number and 2 is even", "'%s-%d-%5.2f|%-5s|%05d|%x|%%' % ('a', 3, 3.14159, 'l', 42, 255)", "'%s' % 'x'", "'%(a)s' % {'a': 1}", "'%s %s' % 'x'", "'%d' % 'x'", "'x' % ()", "'x' % 1", "'%r' % ['a']", "'%c%c' % ('x', 65)", "'%10s|%-10s|%.2s' % ('é', 'é', 'éàü')", "'%e %g %G' % (1234.5, 0.00001, 1e20)", "'%+d % d' % (1, 1)", "1 > 2 or 2 > 1 and not false", "(1, 2)[0]", "'a'.b.c", "3 if nope is defined else 4", "nope == nope2", "nope == none", "nope + 1", "1 + nope", "-nope", "nope < 1", "nope ~ 'x'", "[nope]", "nope | length", "nope()", "nope.a", "nope['a']", "nope[0:1]", "9223372036854775807 + 1" if False else "1 + 1",
])
units("subscript", [
    "d.a", "d['a']", "d.nope", "d['nope']", "d.nope.x", "d.items", "d['items']", "d.get('a')", "d.get('z')", "d.get('z', 5)", "d.get(1)", "l[0]", "l[-1]", "l[9]", "l[9].x", "l['x']", "l.0", "l.1", "l.0.real", "l[true]", "l[1.0]", "s[0]", "s[-1]", "s[99]", "s[1:3]", "s[::-1]", "s[::2]", "s[-3:]", "s[:-1]", "s[5:2]", "s[-100:100]", "s[3::-1]", "s[:0]", "s[none:2]", "s['a':]", "s[::0]",
    "l[1:]", "l[:2]", "l[::-1]", "l[-2:]", "l[::2]", "l[4:1:-2]", "l[10:]", "(1, 2, 3)[1:]", "range(10)[2:8:2] | list", "range(10)[::-3] | list", "range(10)[-1]", "d['b'].c", "d.b['c']", "d.b.c", "none.x", "none['x']", "1.5['x']", "true.x", "d[[1]]", "d.__class__", "''.__class__.__mro__", "l.append", "l.append(1)", "d.update({})", "d.pop('a')", "d._hidden", "d.__dunder__", "d.keys() | list", "d.values() | list | length", "d.items() | list | first", "d.keys()", "{'x': 1}.items()", "s.upper", "s.nope", "l[0:2][1]", "l[nope:]", "d[nope]", "d.b.c.d.e", "d['a', 'b']", "l[-9]", "dd['keys']", "dd.keys() | list", "dd.values() | list", "e[1:4]", "e[-2]", "e[::-1]", "e[1::2]", "e[2]", "e | length", "e[4:]",
], d={"a": 1, "b": {"c": [1]}, "_hidden": 7}, l=[10, 20, 30, 40, 50], s="abcdéf", dd={"keys": "k", "values": 2}, e="a😀é中\u0301z")

# --- statements -----------------------------------------------------------------------------------
STATEMENTS = [
    "{% for x in l %}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}", "{% for x in [] %}x{% else %}none{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for c in 'aé中' %}[{{ c }}]{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}", "{% for x in l %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }} {% endfor %}", "{% for x in l %}{{ loop.previtem }}<{{ x }}<{{ loop.nextitem }} {% endfor %}", "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in [1,1,2,2,1] %}{{ loop.changed(x) }} {% endfor %}",
    "{% for x in l %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% for y in l %}{% if y > x %}{% break %}{% endif %}{{ y }}{% endfor %};{% endfor %}", "{% break %}", "{% for x in l %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}", "{% for x in none %}{% endfor %}", "{% for x in 5 %}{% endfor %}", "{% for x in nope %}x{% else %}e{% endfor %}", "{% for a, b in [(1, 2), [3, 4], 'xy'] %}{{ a }}{{ b }} {% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for a, b in [(1,)] %}{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in [1] %}{% endfor %}",
    "{% for item in tree recursive %}<{{ item.n }}{{ loop.depth }}{% if item.c %}{{ loop(item.c) }}{% endif %}>{% endfor %}", "{% for x in l %}{{ loop(x) }}{% endfor %}", "{% set x = 1 %}{% for i in [1,2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }}", "{% if true %}{% set y = 3 %}{% endif %}{{ y }}", "{% set ns = namespace(a=1, b='x') %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c }}", "{% set ns = namespace({'q': 1}) %}{{ ns.q }}{{ ns['q'] }}{{ ns.q is defined }}{{ ns.z is defined }}", "{% set d.x = 1 %}", "{% set nope.x = 1 %}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = 'xy' %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set a, b = [1] %}", "{% set x %}a{{ 1 }}b{% endset %}{{ x }}{{ x | length }}", "{% set x | upper | replace('A', 'z') %}abc{% endset %}{{ x }}", "{% set ns = namespace() %}{% set ns.t %}body{% endset %}{{ ns.t }}", "{% set 1 = 2 %}", "{% set true = 2 %}", "{% set x %}{% set y = 1 %}{% endset %}{{ y }}",
    "{% macro f(a, b=2, *c) %}{% endmacro %}", "{% macro f(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(b=5, a=4) }} {{ f() }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(z=2) }}", "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, x=3) }}", "{% macro f(a, b=a) %}{{ b }}{% endmacro %}{{ f(7) }}", "{% macro f(a=1, b) %}{% endmacro %}", "{% macro f() %}{{ g }}{% endmacro %}{% set g = 4 %}{{ f() }}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% macro f() %}{% set q = 1 %}{% endmacro %}{{ f() }}{{ q }}", "{% for x in l %}{% macro f() %}{{ x }}{% endmacro %}{{ f() }}{% endfor %}", "{% macro box(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call box('b') %}in{{ l[0] }}{% endcall %}", "{% macro each(xs) %}{% for x in xs %}{{ caller(x, loop.index) }}{% endfor %}{% endmacro %}{% call(v, i) each(l) %}[{{ i }}:{{ v }}]{% endcall %}", "{% macro f() %}{{ caller is defined }}{% endmacro %}{{ f() }}", "{% macro f() %}x{% endmacro %}{% call f() %}y{% endcall %}", "{% call 1 %}{% endcall %}", "{% set m = {'f': 1} %}{% macro f(x) %}({{ x }}){% endmacro %}{{ f(f(f(1))) }}", "{% macro f(x) %}{{ x | upper }}{% endmacro %}{{ ['a', 'b'] | map('upper') | join(f('-')) }}",
    "{% filter upper %}abc {{ 'def' }}{% endfilter %}", "{% filter replace('a', 'b') | trim %}  aaa {% endfilter %}|", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% set a = 5 %}{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}", "{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z }}", "{% generation %}a{{ l }}{% set w = 1 %}{% endgeneration %}{{ w }}", "{% for x in l %}{% generation %}{{ x }}{% endgeneration %}{% endfor %}", "{% if false %}a{% elif true %}b{% elif nope.x %}c{% else %}d{% endif %}", "{% if 0 %}a{% elif none %}b{% else %}c{% endif %}", "{% if l and d and not nope %}y{% endif %}", "{% if (1, 2) %}t{% endif %}", "{% if x = 1 %}{% endif %}", "{% set x = 1 if true else 2 %}{{ x }}", "{% set f = raise_exception %}{{ f('boom') }}", "{{ raise_exception('a\nb') }}", "{{ raise_exception(message='named') }}", "{{ raise_exception(5) }}", "{{ raise_exception() }}",
    "{% set it = l | select('odd') %}{% for x in it %}{{ x }}{% endfor %}|{% for x in it %}{{ x }}{% endfor %}", "{% set it = l | map('string') %}{{ it is iterable }}{{ it is sequence }}{{ it | first }}{{ it | list }}", "{% set ns = namespace(n=0) %}{% for x in l if ns.n < 2 %}{% set ns.n = ns.n + 1 %}{{ x }}{% endfor %}", "{% for x in l | reverse %}{{ x }}{{ loop.length }}{{ loop.last }}{% endfor %}", "{% for x in l | map('string') %}{{ loop.revindex }}{{ x }}{% endfor %}", "{% for x in l | map('string') %}{{ loop.nextitem }}{{ loop.length }}{{ loop.revindex0 }}{{ loop.last }}{{ x }} {% endfor %}", "{% for x in range(3) %}{% set loop_i = loop.index %}{% for y in range(2) %}{{ loop_i }}{{ loop.index }} {% endfor %}{% endfor %}", "{% for x in l %}{% set y %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endset %}[{{ y }}]{% endfor %}", "{% for x in range(0) %}{% else %}{% for y in [1] %}{{ y }}{% endfor %}{% endfor %}", "{% for x in l %}{% for y in [] %}{% else %}{% break %}{% endfor %}{{ x }}{% endfor %}", "{{ loop }}", "{% for x in l %}{{ loop.foo is defined }}{% endfor %}", "{% for loop_x in l %}{{ loop is iterable }}{% endfor %}", "{% for x in l %}{% include 'x' %}{% endfor %}", "{% set l = l + [9] %}{{ l }}", "{% for x in l %}{% set l = [] %}{{ x }}{% endfor %}{{ l }}", "{% set self = 1 %}{{ self }}", "{{ dict(a=1, b=2) }}{{ dict({'x': 1}, y=2) }}{{ dict([(1, 2)]) }}", "{{ range(5) | list }}{{ range(2, 5) | list }}{{ range(5, 0, -2) | list }}{{ range(0) | list }}", "{{ range(3) }}{{ range(0, 4, 2) }}{{ range(3) | length }}", "{{ range(1, 2, 0) }}", "{{ range(100001) }}", "{{ range('a') }}", "{{ range() }}", "{% set range = 3 %}{{ range }}", "{% for x in dict(a=1) %}{{ x }}{% endfor %}", "{{ namespace(a=[1, 'x']).a }}", "{% set ns = namespace(x=1) %}{% set ns2 = ns %}{% set ns2.x = 2 %}{{ ns.x }}", "{% macro f(x) %}{% set x.v = 5 %}{% endmacro %}{% set ns = namespace(v=1) %}{{ f(ns) }}{{ ns.v }}",
    "{{ l | map('nosuch') | list }}", "{% if 'nosuch' is filter %}{{ 1 | nosuch }}{% endif %}ok", "{{ 1 | nosuch }}", "{{ (1 | nosuch) if false else 2 }}", "{{ 1 is nosuch }}", "{% if 1 is nosuch %}{% endif %}", "{{ 'upper' is filter }}{{ 'odd' is test }}", "{% for x in [1] %}{{ x | nosuch }}{% endfor %}", "{{ [1,2] | sum(nope=1) }}", "{{ 'a' | upper(1) }}", "{{ f(**{'a': 1}) if f is defined }}", "{% macro f(a, b, c=3) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(*[1, 2]) }}{{ f(*[1], **{'b': 5, 'c': 6}) }}", "{% macro f(a) %}{% endmacro %}{{ f(1, a=2) }}", "{% set x = [1, 2 %}", "{% if true %}", "{% endif %}", "{% for x in l %}{% endif %}", "{% unknown %}", "{{ 1", "{{ }}", "{{ 1 2 }}", "{% %}", "{{ 'a' 1 }}", "{# never ends", "{% raw %}x", "{{ ) }}", "{{ (1] }}", "{{ a.1b }}", "{{ a. }}", "{{ | upper }}", "{{ a | }}", "{{ a is }}", "{{ a is not }}", "{% for in l %}{% endfor %}", "{% for x l %}{% endfor %}", "{% set %}{% endset %}", "{% macro %}{% endmacro %}", "{{ $ }}", "{{ 'x\\xZZ' }}", "{% if %}{% endif %}", "{{ {1} }}", "{{ [,] }}", "{{ f(a=1, 2) }}", "{{ f(**a, b) }}", "{{ 1 if }}", "{% else %}", "{% set x = %}", "{{ a b }}", "{{ not }}", "{{ 1 + }}", "{% filter nosuch %}{% endfilter %}", "{% with a %}{% endwith %}", "a\nb\n{% if x %}\nc\n{{ y }}\n{% for %}", "\n\n{{ 'x }}", "{{\n\n\n1 +\n}}",
]
for i, text in enumerate(STATEMENTS):
    add(f"statement {i}: {text[:30]!r}", text, {"l": [1, 2, 3], "d": {"a": 1, "b": [2]}, "tree": [{"n": 1, "c": [{"n": 2, "c": [{"n": 3}]}, {"n": 4}]}, {"n": 5}]})

# --- filters ---------------------------------------------------------------------------------------
DATA = dict(
    users=[{"name": "Bob", "age": 30, "tags": ["x"], "a": {"b": 1}}, {"name": "alice", "age": 25, "a": {"b": 3}}, {"name": "Carol", "age": 30, "admin": True, "a": {"b": 2}}],
    nums=[3, 1, 2, 2], words=["b", "A", "c", "a", "B"], d={"b": 2, "A": 1, "c": [1, 2.5, None, True, "é\n\"/<&>\u2028\x01\x7f"], "e": {}, "f": []}, html="<a href=\"x\">'&'</a>", text="first line\n\nsecond line\n  third", uni="ǆ ß İI ﬁ ΑΣ ΣΑΣ. straße ñ", empty="", big=12345678901234567,
)
units("filter", [
    "d | tojson", "d | tojson(indent=2)", "d | tojson(indent=0)", "d | tojson(indent='--')", "d | tojson(separators=(',', ':'))", "d | tojson(sort_keys=true)", "d | tojson(ensure_ascii=true)", "d | tojson(true)", "d | tojson(indent=4, sort_keys=true, separators=(', ', ' = '))", "[] | tojson(indent=2)", "{} | tojson(indent=2)", "{1: 1, none: 2, true: 3, 1.5: 4} | tojson", "(1, 'x') | tojson", "'x' | tojson", "none | tojson", "1.0 | tojson", "1e400 | tojson", "nope | tojson", "users | map(attribute='name') | tojson", "users | map(attribute='name') | list | tojson", "{(1, 2): 3} | tojson", "'😀' | tojson(true)", "[[1, [2, []]]] | tojson(indent=1)", "big | tojson", "range(3) | tojson", "'</script>' | tojson", "uni | tojson",
    "' x\u00a0\u3000\\n' | trim", "'xxaxx' | trim('x')", "'abcba' | trim('ab')", "5 | trim", "none | trim", "nope | trim", "'abc' | upper", "uni | upper", "uni | lower", "uni | title", "uni | capitalize", "'hello wORLD-foo (bar) [baz] o\\'neil' | title", "'hello wORLD' | capitalize", "5 | upper", "none | lower", "'' | capitalize", "'ǆa' | capitalize", "'ßa' | capitalize", "'ßa' | title",
    "nums | length", "'é中' | length", "d | count", "5 | length", "none | length", "nums | first", "nums | last", "[] | first", "[] | last", "'é中' | first", "'é中' | last", "'' | first is defined", "d | first", "d | last", "5 | first", "nums | map('string') | last", "nums | join", "nums | join(', ')", "users | join('|', attribute='name')", "'abc' | join('-')", "[1, none, 'x', 2.0, [1]] | join(' ')", "[] | join('x')", "5 | join", "users | join(attribute='a.b')", "nope | join",
    "nope | default('x')", "nope | default", "none | default('x')", "none | default('x', true)", "'' | d('x', boolean=true)", "0 | d('x')", "d.nope | default({'q': 1})", "d.nope.x | default('x')", "'aXbXc' | replace('X', '-')", "'aXbXc' | replace('X', '-', 1)", "'abc' | replace('', '.')", "'aaa' | replace('aa', 'b')", "5 | replace('5', 6)", "'abc' | replace('b', none)", "'abc' | replace('z', 'y')", "'x' | replace('x')", "'é中é' | replace('é', '')",
    "'abc' | list", "d | list", "5 | list", "nope | list", "(1, 2) | list", "d.items() | list | length", "5 | string", "none | string", "[1, 'a'] | string", "nope | string", "'12' | int", "'abc' | int", "'abc' | int(7)", "'3.9' | int", "3.9 | int", "-3.9 | int", "'0x1f' | int(base=16)", "'1f' | int(0, 16)", "'  42  ' | int", "'1_000' | int", "'1__0' | int", "true | int", "none | int", "none | int(5)", "nope | int", "[] | int", "'-5' | int", "'+5' | int", "'' | int", "'1e3' | int", "'inf' | int(3)", "'077' | int(0, 8)", "'0b11' | int(0, 0)", "'zz' | int(0, 36)", "'1.5' | float", "'x' | float", "'x' | float(2.5)", "3 | float", "none | float", "'inf' | float", "'-Infinity' | float", "'nan' | float", "' 1_0.5 ' | float", "'1e5' | float", "'.5' | float", "'5.' | float", "'1_' | float", "'0x10' | float",
    "d | items | list | length", "{'a': 1} | items | list", "nope | items | list", "5 | items", "{'b': 1, 'A': 2, 'c': 0} | dictsort", "{'b': 1, 'A': 2} | dictsort(true)", "{'b': 1, 'A': 2, 'c': 0} | dictsort(by='value')", "{'b': 1, 'A': 2} | dictsort(reverse=true)", "{'b': 1, 'A': 2, 'c': 0} | dictsort(false, 'value', true)", "{'b': 1} | dictsort(by='x')", "{'b': 1, 2: 2} | dictsort", "nope | dictsort",
    "users | map(attribute='name') | join(',')", "users | map(attribute='a.b') | list", "users | map(attribute='tags.0') | list", "users | map(attribute='tags', default='none') | list", "users | map(attribute='nope') | list", "words | map('upper') | list", "words | map('replace', 'a', 'z') | list", "nums | map('float') | list", "words | map", "[[1, 2], [3]] | map('sum') | list", "[['b', 'a']] | map('sort') | list", "[1, 2] | map(attribute=0) | list", "[[5, 6]] | map(attribute=1) | list", "['a'] | map('default', 'x') | list", "5 | map('upper') | list", "0 | map('upper') | list",
    "nums | select('odd') | list", "nums | reject('odd') | list", "nums | select('gt', 1) | list", "nums | select('==', 2) | list", "nums | select('in', [1, 2]) | list", "[0, 1, '', 'x', none] | select | list", "[0, 1, ''] | reject | list", "users | selectattr('admin') | map(attribute='name') | list", "users | rejectattr('admin') | map(attribute='name') | list", "users | selectattr('age', 'equalto', 30) | map(attribute='name') | list", "users | selectattr('a.b', 'gt', 1) | map(attribute='name') | list", "users | rejectattr('age', 'lt', 28) | list | length", "users | selectattr('tags', 'defined') | list | length", "nums | select('nosuch') | list", "users | selectattr | list", "nums | select('divisibleby', 3) | list", "users | selectattr('name', 'in', ['Bob']) | list | length", "users | selectattr('tags', 'undefined') | map(attribute='name') | list", "none | select | list",
    "[1, 2, 1, 'a', 'A', 'b'] | unique | list", "words | unique | list", "words | unique(true) | list", "users | unique(attribute='age') | map(attribute='name') | list", "[[1], [1]] | unique | list", "[1, true, 1.0] | unique | list", "words | sort", "words | sort(case_sensitive=true)", "words | sort(reverse=true)", "nums | sort", "nums | sort(true)", "users | sort(attribute='age') | map(attribute='name') | list", "users | sort(attribute='age', reverse=true) | map(attribute='name') | list", "users | sort(attribute='age,name') | map(attribute='name') | list", "users | sort(attribute='a.b') | map(attribute='name') | list", "[1, 'a'] | sort", "[none, 1] | sort", "[[2, 1], [1, 2]] | sort", "'bca' | sort", "d | sort", "[2.5, 1, true] | sort", "[3,1,2] | sort | reverse | list", "users | sort(attribute='nope') | length",
    "nums | reverse | list", "'é中a' | reverse", "nums | reverse", "d | reverse | list", "5 | reverse", "nums | sum", "users | sum(attribute='age')", "nums | sum(start=10)", "[[1], [2]] | sum(start=[])", "[0.1, 0.2] | sum", "['a'] | sum", "[] | sum", "nums | min", "nums | max", "words | min", "words | max", "words | max(true)", "[] | min", "[] | max is defined", "users | min(attribute='age')", "(users | max(attribute='name')).name", "[1, 'a'] | max", "'hello' | max",
    "{% for g in users | groupby('age') %}{{ g.grouper }}:{{ g.list | map(attribute='name') | join(',') }};{% endfor %}", "{% for k, v in users | groupby('age') %}{{ k }}={{ v | length }};{% endfor %}", "{% for k, v in users | groupby('tags', default='none') %}{{ k }};{% endfor %}", "['a', 'B', 'A'] | groupby(0)", "{% for k, v in [{'n': 'x'}, {'n': 'X'}, {'n': 'y'}] | groupby('n') %}{{ k }}{{ v | length }} {% endfor %}", "{% for k, v in [{'n': 'x'}, {'n': 'X'}] | groupby('n', case_sensitive=true) %}{{ k }}{{ v | length }} {% endfor %}", "{{ ([{'n': 1}] | groupby('n'))[0] }}",
    "text | indent", "text | indent(2)", "text | indent(2, true)", "text | indent(2, first=true, blank=true)", "text | indent('> ')", "text | indent(width='> ', blank=true)", "'' | indent", "'a\\n' | indent", "5 | indent", "nope | indent", "2.5 | round", "3.5 | round", "2.567 | round(2)", "2.5 | round(0, 'ceil')", "2.1 | round(method='floor')", "2.55 | round(1)", "42 | round", "1234 | round(-2)", "1250 | round(-2)", "1350 | round(-2)", "1234.5 | round(-2)", "-2.5 | round", "42.55 | round(1, 'floor')", "'x' | round", "5 | round(1, 'ceil')", "0.5 | round", "1e300 | round(2)", "2.5 | round(method='x')", "-5 | abs", "-5.5 | abs", "'x' | abs", "true | abs", "nope | abs",
    "nums | batch(3) | list", "nums | batch(3, 0) | list", "nums | batch(2) | map('join', '-') | list", "[] | batch(2) | list", "range(7) | slice(3) | list", "range(7) | slice(3, 'x') | list", "html | e", "html | escape", "html | safe", "html | e | e", "(html | safe) ~ '<'", "(html | safe) + '<'", "'<' + ('<' | safe)", "('<%s>' | safe) % '<'" if False else "1", "html | e | upper", "html | e | length", "(html | e)[:5] + '<'", "('a' | safe) is escaped", "[html | safe]", "('<' | safe).join(['<', 'x'])", "('<' | safe).replace('<', '&')", "('<' | safe) | replace('<', '&')", "5 | e", "'%s and %d' | format('x', 5)", "'%(a)s' | format(a=1)", "'%s' | format", "'%s %%' | format(1)", "text | wordcount", "'foo bar baz' | truncate(9)", "'foo bar baz' | truncate(5, true, leeway=0)", "'foo bar baz' | truncate(8, leeway=0)", "'foo bar baz' | truncate(8, false, '', 0)", "'x' | center(5) ~ '|'", "'abc' | center(6) ~ '|'", "d | attr('b')", "'x' | attr('upper') is callable", "'a b/é&' | urlencode", "text | upper | lower | title", "nums | join(',') | length", "words | map('length') | sum", "(nums | sort)[0]", "nums|sort|first + 1", "-nums[0] | abs", "'a' ~ 'b' | upper", "('a' ~ 'b') | upper", "users[0].name | upper", "users | map(attribute='name') | map('lower') | select('in', 'alice bob') | list", "nums | list | tojson", "text.split('\\n') | select | map('trim') | list", "d.c | tojson", "d.c | string", "d | string", "uni.split()", "empty | default('e')", "empty or 'e'", "big + 1", "[d.b, d.A] | max", "'x' | string | safe | string",
], **DATA)

# --- tests -----------------------------------------------------------------------------------------
VALUES = ["none", "true", "0", "2", "3", "1.5", "'a'", "'A1'", "''", "[1]", "()", "{'a': 1}", "nope", "range(2)", "'aé'", "[1] | map('string')", "raise_exception", "'x'.upper", "{}.items()", "('x' | safe)", "namespace()"]
for test in "defined undefined none string number integer float boolean mapping sequence iterable true false callable lower upper escaped".split():
    add(f"test {test}", "".join(f"{{{{ ({v}) is {test} }}}} {{{{ ({v}) is not {test} }}}};" for v in VALUES))
units("test", [
    "2 is even", "2 is odd", "3 is odd", "2.0 is even", "'a' is odd", "nope is odd", "6 is divisibleby 3", "6 is divisibleby(4)", "6 is divisibleby 0", "1 is eq 1", "1 is equalto(1.0)", "1 is ne 2", "1 is lt 2", "1 is lessthan 2", "2 is gt 1", "2 is greaterthan 1", "2 is ge 2", "2 is le 1", "1 is in [1]", "1 is not in [1]", "'a' is in 'cat'", "none is sameas none", "1 is sameas true", "true is sameas true", "[] is sameas []", "l is sameas l", "1 is eq(1) and 2 is eq 2", "1 is defined is defined", "x is defined and y is not defined", "l[0] is defined", "l[9] is defined", "d.x is defined", "d.x.y is defined", "1 is divisibleby", "1 is even or false", "(1 is even) ~ 'x'", "not 1 is even", "1 is number if true else 0", "1 is eq l[0]", "l is eq [1]", "'a' is eq 'a' 'b'", "1 is in(l)", "1 is not number", "1 is not not number", "'é' is lower", "'É1' is upper", "'ǅ' is upper", "5 is lower",
], l=[1], d={"a": 1}, x=1)

# --- methods ---------------------------------------------------------------------------------------
units("method", [
    "s.split()", "s.split(' ')", "s.split(' ', 1)", "s.split(none, 1)", "s.split(maxsplit=1)", "s.split('')", "s.split(5)", "'a,b,,c'.split(',')", "''.split()", "''.split(',')", "'a--b--c'.split('--')", "'  a  b '.split()", "s.rsplit(' ', 1)", "'a b  c '.rsplit(none, 1)", "'a,b,c'.rsplit(',', 1)", "'aaa'.rsplit('aa')", "s.strip()", "s.strip(' H')", "s.lstrip()", "s.rstrip()", "'xxaxx'.strip('x')", "'xxaxx'.lstrip('x')", "'xxaxx'.rstrip('x')", "'é中é'.strip('é')", "s.strip(none)", "s.strip(5)", "s.startswith('  H')", "s.startswith(('z', '  '))", "s.startswith('H', 2)", "s.startswith(5)", "s.endswith('d \\n')", "s.endswith(('x', '\\n'))", "'abc'.endswith('b', 0, 2)", "s.upper()", "s.lower()", "s.title()", "\"they're bill's ǆx ßx\".title()", "s.capitalize()", "s.swapcase()", "'ΑΣ ΣΑΣ'.lower()", "'ß ﬁ ŉ'.upper()", "'İ'.lower() | length", "s.replace('l', 'L')", "s.replace('l', 'L', 1)", "'abc'.replace('', '-')", "'abc'.replace('', '-', 2)", "s.replace('l')", "s.replace(1, 2)", "','.join(['a', 'b'])", "','.join('xyz')", "','.join([1])", "','.join(d)", "', '.join(d.keys())", "s.find('o')", "s.find('zz')", "'é中x'.find('x')", "'aXbX'.find('X', 2)", "'aXbX'.find('X', -1)", "'aXbX'.rfind('X')", "'aXbX'.rfind('X', 0, 3)", "'abc'.index('c')", "'abc'.index('z')", "'abcabc'.rindex('b')", "'banana'.count('a')", "'banana'.count('ana')", "'é中'.count('')", "'banana'.count('a', 2)", "'banana'.count('a', 2, 4)", "'a\\nb\\r\\nc\\x0bd\\u2028e\\n'.splitlines()", "'a\\nb\\n'.splitlines(true)", "''.splitlines()", "'\\n'.splitlines()", "'prefix-x'.removeprefix('prefix-')", "'x.txt'.removesuffix('.txt')", "'x'.removeprefix('y')", "'x'.removesuffix('')", "'123'.isdigit()", "'12a'.isdigit()", "''.isdigit()", "'²'.isdigit()", "'²'.isdecimal()", "'½'.isnumeric()", "'abcé'.isalpha()", "'a1'.isalpha()", "'a1'.isalnum()", "' \\t'.isspace()", "'é'.isascii()", "'Ab'.islower()", "'ab1'.islower()", "'1'.islower()", "'AB'.isupper()", "'42'.zfill(5)", "'-42'.zfill(5)", "'+4'.zfill(4)", "'é'.zfill(3)", "'42'.zfill(1)", "'ab'.center(7) ~ '|'", "'ab'.center(5, '*')", "'abc'.center(6, '*')", "'a'.ljust(3, '.')", "'a'.rjust(3, '.')", "'a'.rjust(3, 'xy')", "'a-b-c'.partition('-')", "'abc'.partition('-')", "'a-b-c'.rpartition('-')", "'abc'.rpartition('-')", "d.get('a')", "d.get('z')", "d.get('z', 'x')", "d.get()", "d.keys() | list", "d.values() | list", "d.items() | list", "d.keys()", "d.values()", "d.items()", "d.copy()", "'a' in d.keys()", "1 in d.values()", "('a', 1) in d.items()", "d.items() | length", "d.clear()", "d.setdefault('a')", "l.index(2)", "l.index(9)", "l.count(2)", "l.copy()", "l.sort()", "l.pop()", "l.insert(0, 1)", "(1, 2).index(2)", "(1, 2).count(1)", "s.nosuch()", "l.nosuch", "5.0.is_integer()", "1.5.is_integer()", "s.upper().lower().strip().split('l')[0]", "s.split('\\n')[0].strip().split(' ')[-1]", "('<think>x</think>y'.split('</think>')[0]).split('<think>')[-1]", "'a'.join", "s.format", "'%s' % s.strip()", "s[2:].split()[0]", "s.strip()[0] | upper", "s.encode", "l.__len__()", "'x'.isprintable()", "'\\n'.isprintable()", "'abc'.find('')", "'abc'.rfind('')", "'abc'.split('b')[1]", "s.casefold()", "'a\\x1cb\\x85c'.split()", "'é'.center(4, 'ü')",
], s="  Hello World \n", d={"a": 1, "b": [2]}, l=[1, 2, 2])
