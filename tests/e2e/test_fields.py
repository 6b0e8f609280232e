# SPDX-License-Identifier: MIT
"""Every field of a request: what is refused, how the error says it, and what is still taken."""
import json
import re

import pytest

from daemon import NAME

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
NEEDED = {CHAT: {"messages": [{"role": "user", "content": "hi"}]}, TEXT: {"prompt": "hi"},
          "/tokenize": {"prompt": "hi"}, "/detokenize": {"tokens": [5]}}
LEAK = re.compile(r"0x[0-9a-f]{5}|/(src|usr|home|tmp|work|root|build)\b|\.[ch]:\d|\(nil\)")

NUMBER, INTEGER, BOOL = ("a number from", "an integer", "true or false")
WRONG = [  # endpoint or both, field, what the message says is expected, values
    ("temperature", NUMBER, ["1", True, [], {}, -0.1, 2.1, 1e300]),
    ("top_p", NUMBER, ["1", False, -0.1, 1.1]),
    ("min_p", NUMBER, ["1", [0.5], -1, 1.5]),
    ("presence_penalty", NUMBER, ["0", -2.1, 2.1]),
    ("frequency_penalty", NUMBER, [{}, -2.1, 2.1]),
    ("repetition_penalty", NUMBER, ["1", 0, -1, 101]),
    ("max_tokens", INTEGER, ["5", 1.5, 16.0, True, -1, 2**40, [1]]),
    ("max_completion_tokens", INTEGER, ["5", 0, -1, 1e3]),
    ("min_tokens", INTEGER, ["5", -1, 0.5]),
    ("min_tokens", "at most max_tokens", [20]),
    ("n", INTEGER, ["2", 0, -1, 1.0, 17, 2**62]),
    ("top_k", INTEGER, ["5", -2, 0.5]),
    ("seed", INTEGER, ["5", 0.5, True, []]),
    ("stop", "a string or a list of up to 32", [5, True, {}, ["a"] * 33, list("abcdefghij") * 1000]),
    ("stop", "not empty", [""]),
    ("stop", "at most 1024 bytes", ["x" * 1025]),
    ("stop", "at most 4096 bytes in all", [["x" * 1024] * 4 + ["x"], ["x" * 200] * 32]),
    ("stop[1]", "a string that is not empty", [{"stop": ["a", ""]}, {"stop": ["a", 5]}, {"stop": ["a", None]}]),
    ("stop_token_ids", "a list", [5, "5", {}, True]),
    ("stop_token_ids", "at most 128 token ids", [[5] * 129]),
    ("stop_token_ids", "a token id from 0 to 1535", [[1536], [5, -1], [1.0], ["5"], [True], [[5]], [2**40]]),
    ("include_stop_str_in_output", BOOL, [1, "true", []]),
    ("skip_special_tokens", BOOL, [0, "false", []]),
    ("add_special_tokens", BOOL, [1, "true", []]),
    ("return_token_ids", BOOL, [1, "true", []]),
    ("return_tokens_as_token_ids", BOOL, [1, "true", []]),
    ("bad_words", "a list", ["a", 5, {}, True]),
    ("bad_words", "at most 128 strings", [["a"] * 129]),
    ("bad_words[1]", "a string that is not empty", [{"bad_words": ["a", v]} for v in ("", 5, None, [], True)]),
    ("bad_words[0]", "at most 1024 bytes", [{"bad_words": ["x" * 1025]}]),
    ("logit_bias", "an object", [[], "5", 5]),
    ("logit_bias", "token ids in decimal", [{"a": 1}, {"-1": 1}, {"": 1}, {"1.0": 1}, {"9" * 30: 1}]),
    ("logit_bias", "from 0 to 1535", [{"1536": 1}, {"999999999": -100}]),
    ("logit_bias", "a number from -100 to 100", [{"5": "1"}, {"5": 101}, {"5": -100.5}, {"5": None}, {"5": [1]}]),
    ("logit_bias", "at most 1024 entries", [{str(i): 1 for i in range(1025)}]),
    ("ignore_eos", BOOL, [1, "true", []]),
    ("stream", BOOL, [1, "true", []]),
    ("stream_options", "an object", [{"stream": True, "stream_options": v} for v in (True, "usage", [])]),
    ("stream_options.include_usage", BOOL, [{"stream": True, "stream_options": {"include_usage": 1}}]),
    ("stream_options.continuous_usage_stats", BOOL, [{"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": 1}}]),
    ("prompt_logprobs", "an integer from 0 to 20", [-1, 21, True, "5", 1.0]),
    ("prompt_logprobs", "stream to be false", [{"stream": True, "prompt_logprobs": 0}]),
    ("request_id", "a string of 1 to 64", [5, "", "a b", 'a"b', "a\\b", "a\n", "é", "a\0b", "x" * 65]),
    ("stream_options", "stream to be true", [{"include_usage": True}]),
    ("user", "a string", [5, {}]),
    ("model", "a string", [5, ["demo"]]),
]
WRONG_TEXT = [
    ("prompt", "a string, a list of strings", [5, True, {}]),
    ("prompt", "at least one", [[]]),
    ("prompt", "at most 64 prompts", [["a"] * 65]),
    ("prompt", "is required", [None]),
    ("prompt", "at least one token, got none", ["", [""], [[]]]),
    ("prompt[1]", "a string or a list of token ids", [{"prompt": ["a", 5]}, {"prompt": [[5], None]}]),
    ("prompt", "a token id from 0 to 1535", [[5, 1536], [-1], [5, "a"], [1.5], [5, True], [2**40]]),
    ("prompt[1]", "a token id from 0 to 1535", [{"prompt": [[5], [1536]]}]),
    ("echo", BOOL, [1, "yes"]),
    ("truncate_prompt_tokens", "-1 (what the model takes) or an integer from 1", ["5", 1.5, True, 0, -2]),
    ("truncate_prompt_tokens", "-1 or an integer from 1 to 1024", [1025, 1 << 24]),
    ("max_tokens", "together with echo", [0]),
    ("logprobs", "an integer from 0 to 20", [-1, 21, True, "5", 1.0]),
    ("n", "at most 262144 tokens", [{"prompt": ["a"] * 64, "n": 16, "max_tokens": 1000}]),
    ("prompt", "maximum context length is 1024 tokens", [[5] * 1024, "a b " * 50000]),
]
WRONG_CHAT = [
    ("messages", "a list of at least one message", [[], {}, "hi", 5]),
    ("messages", "is required", [None]),
    ("messages[0]", "an object", [{"messages": v} for v in ([5], ["hi"], [None], [[]])]),
    ("messages[0].role", "a string that is not empty", [{"messages": [{"content": "a"}]},
                                                       {"messages": [{"role": 5, "content": "a"}]},
                                                       {"messages": [{"role": "", "content": "a"}]}]),
    ("messages[1].content", "a string or a list of text parts", [
        {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": v}]} for v in (5, None, {})]),
    ("messages[0].content", '"type": "text"', [{"messages": [{"role": "user", "content": [v]}]} for v in (
        5, {"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"}, {"text": "a"}, {"type": "text", "text": 5})]),
    ("max_tokens", INTEGER, [0]),
    ("logprobs", BOOL, [1, "true"]),
    ("top_logprobs", "from 0 to 20", [{"logprobs": True, "top_logprobs": v} for v in (-1, 21, "5", 1.5, True)]),
    ("top_logprobs", "logprobs to be true", [1]),
    ("messages", "maximum context length is 1024 tokens", [{**NEEDED[CHAT], "max_tokens": 1024}]),
]
UNSUPPORTED = [
    (CHAT, "tools", [{"type": "function", "function": {"name": "f"}}]),
    (CHAT, "functions", [{"name": "f"}]), (CHAT, "function_call", {"name": "f"}), (CHAT, "audio", {"voice": "alloy"}),
    (CHAT, "modalities", ["text", "audio"]), (CHAT, "web_search_options", {}),
    (CHAT, "reasoning_effort", "high"), (TEXT, "best_of", 2), (TEXT, "suffix", "end"), (TEXT, "suffix", "auto"),
    (CHAT, "use_beam_search", True), (CHAT, "echo", True), (TEXT, "prompt_embeds", "AAAA"), (CHAT, "logits_processors", ["x"]), (TEXT, "kv_transfer_params", {"a": 1}),
    (CHAT, "vllm_xargs", {"a": 1}), (CHAT, "mm_processor_kwargs", {"a": 1}), (TEXT, "early_stopping", True), (TEXT, "guided_whitespace_pattern", " "),
    *((e, name, value) for e in (CHAT, TEXT) for name, value in (  # llama.cpp's
        ("cache_prompt", False), ("n_predict", 5), ("n_probs", 1), ("n_keep", -1), ("id_slot", 0), ("samplers", ["top_k"]), ("repeat_penalty", 1.1), ("mirostat", 2),
        ("typical_p", 0.9), ("dynatemp_range", 0.5), ("dry_multiplier", 0.8), ("xtc_probability", 0.1), ("timings_per_token", True), ("return_progress", True))),
]
ELSEWHERE = [(CHAT, "prompt", "a"), (CHAT, "truncate_prompt_tokens", 5), (TEXT, "messages", []), (TEXT, "top_logprobs", 5),
             (TEXT, "tools", []), (CHAT, "max_token", 5), (TEXT, "tool_choice", "auto"), (CHAT, "é" * 200, 1)]


def body(endpoint, field, value):
    """A request that is right but for one field; a dict with that field's own name is more fields of the body."""
    fields = value if isinstance(value, dict) and {re.split(r"[.\[]", field)[0]} & value.keys() else {field: value}
    return {"model": NAME, "max_tokens": 8, **NEEDED[endpoint], **fields} if endpoint in (CHAT, TEXT) else \
        {**NEEDED[endpoint], **fields}


def cases():
    for endpoints, table in (((CHAT, TEXT), WRONG), ((TEXT,), WRONG_TEXT), ((CHAT,), WRONG_CHAT)):
        for field, expected, values in table:
            yield from (pytest.param(e, field, expected, values, id=f"{e[4:]} {field}: {expected}") for e in endpoints)


def refused(answer, status=400):
    """The error of an answer, which must have OpenAI's shape and keep its secrets."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert answer.json().keys() == {"error"} and error.keys() == {"message", "type", "param", "code"}
    assert error["message"] and not LEAK.search(error["message"]), error["message"]
    return error


@pytest.mark.parametrize("endpoint, field, expected, values", list(cases()))
def test_wrong_values(daemon, endpoint, field, expected, values):
    for value in values:
        error = refused(daemon.post(endpoint, **body(endpoint, field, value)))
        assert error["param"] == field and error["type"] == "invalid_request_error", error
        assert expected in error["message"], error
        assert field.split("[")[0] in error["message"], error
        if expected in (NUMBER, INTEGER, BOOL):
            assert re.search(r", got \S", error["message"]), error


@pytest.mark.parametrize("endpoint, field, value", UNSUPPORTED)
def test_what_cannot_be_done_is_refused_by_name(daemon, endpoint, field, value):
    error = refused(daemon.post(endpoint, **body(endpoint, field, value)))
    assert error["param"] == field and re.match(rf"{field}: .*support", error["message"])


@pytest.mark.parametrize("endpoint, field, value", ELSEWHERE)
def test_unknown_fields_are_refused_by_name(daemon, endpoint, field, value):
    error = refused(daemon.post(endpoint, **body(endpoint, field, value)))
    assert field.startswith(error["param"].rstrip("\ufffd")) and "is not a field of this endpoint" in error["message"]


@pytest.mark.parametrize("endpoint", [CHAT, TEXT, "/tokenize", "/detokenize"])
def test_unknown_models_are_not_found(daemon, endpoint):
    for name in ("gpt-4o", "", "demo\0", "Demo", "../demo"):
        error = refused(daemon.post(endpoint, **body(endpoint, "model", name)), 404)
        assert (error["param"], error["code"]) == ("model", "model_not_found") and "'demo'" in error["message"]


@pytest.mark.parametrize("endpoint, fields, param", [
    ("/tokenize", {"prompt": 5}, "prompt"), ("/tokenize", {"prompt": None}, "prompt"),
    ("/tokenize", {"messages": []}, "messages"), ("/tokenize", {"messages": "hi"}, "messages"),
    ("/tokenize", {"messages": [5]}, "messages[0]"), ("/tokenize", {"add_special_tokens": 1}, "add_special_tokens"),
    ("/tokenize", {"add_generation_prompt": "no"}, "add_generation_prompt"), ("/tokenize", {"model": 5}, "model"),
    ("/detokenize", {"tokens": "5"}, "tokens"), ("/detokenize", {"tokens": None}, "tokens"),
    ("/detokenize", {"tokens": [5, -1]}, "tokens"), ("/detokenize", {"tokens": [1536]}, "tokens"),
    ("/detokenize", {"tokens": [1.5]}, "tokens"), ("/detokenize", {"tokens": ["a"]}, "tokens")])
def test_wrong_values_for_the_tokenizer(daemon, endpoint, fields, param):
    error = refused(daemon.post(endpoint, **{**NEEDED[endpoint], **fields}))
    assert error["param"] == param and f"{param.split('[')[0]}" in error["message"] and "expected" in error["message"]


def test_other_fields_of_the_tokenizer(daemon):
    """What vLLM's and llama.cpp's servers know is done, or refused by name."""
    for endpoint, field, value in (("/tokenize", "with_pieces", True), ("/tokenize", "return_token_strs", True), ("/tokenize", "add_specials", False),
                                   ("/tokenize", "max_tokens", 5), ("/detokenize", "skip_special_tokens", True), ("/detokenize", "prompt", "a")):
        assert refused(daemon.post(endpoint, **{**NEEDED[endpoint], field: value}))["param"] == field
    plain = daemon.post("/tokenize", content="hi", with_pieces=False, return_token_strs=None).json()
    assert plain == daemon.post("/tokenize", content="hi", add_special=False).json()  # this tokenizer has no BOS


@pytest.mark.parametrize("endpoint", NEEDED)
@pytest.mark.parametrize("text, says", [
    (b"", "empty"), (b"{", "JSON"), (b"[]", "object"), (b"null", "object"), (b'"a"', "object"), (b"{}x", "JSON"),
    (b'{"prompt": "\xff"}', "JSON"), (b'{"prompt": "\\ud800"}', "JSON"), (b'{"n": 1e999}', "not supported"), (b'{"n": NaN}', "JSON"),
    (b'{"n": 1\0}', "NUL"), (b"[" * 100 + b"]" * 100, "deeper than 64"), (b"[" + b"{}," * 1000001 + b"{}]", "values")])
def test_bodies_that_are_no_object(daemon, endpoint, text, says):
    error = refused(daemon.http.post(endpoint, content=text, headers={"content-type": "application/json"}))
    assert says in error["message"] and error["param"] is None


def test_a_byte_order_mark_is_passed_over(daemon):
    text = b"\xef\xbb\xbf" + json.dumps({"prompt": "hi", "max_tokens": 1}).encode()
    assert daemon.http.post(TEXT, content=text).status_code == 200
    for wrong in (text[:3], text[:2], text[:3] + text, text.decode().encode("utf-16")):
        refused(daemon.http.post(TEXT, content=wrong))


def test_a_refused_request_costs_nothing(daemon):
    daemon.wait_rest()
    before = daemon.total("tokenlane_prompt_tokens_total")
    refused(daemon.post(TEXT, **body(TEXT, "n", {"prompt": ["a"] * 64, "n": 16, "max_tokens": 1000})))
    assert daemon.total("tokenlane_prompt_tokens_total") == before


# --- what is taken ---------------------------------------------------------------------------------

TAKEN = [
    ("temperature", [0, 2, 0.5, 1e-9]), ("top_p", [0, 1]), ("min_p", [0, 1]), ("top_k", [-1, 0, 1, 1 << 24]),
    ("presence_penalty", [-2, 2]), ("frequency_penalty", [-2, 2]), ("repetition_penalty", [0.01, 100]),
    ("max_tokens", [1, 900]), ("max_completion_tokens", [1]), ("min_tokens", [0, 8]), ("n", [1, 16]),
    ("seed", [0, -1, 2**63 - 1, -2**63]), ("stop", ["a", [], list("abcd") * 8, ["x" * 1024] * 4, "x" * 1024, "\0", "é"]),
    ("logit_bias", [{}, {"5": 100}, {"0": -100, "1535": 0.5}, {str(i): 1 for i in range(1024)},
                    {str(i): -100 for i in range(1023)}]),
    ("stop_token_ids", [[], [0, 1535], [5] * 128]), ("include_stop_str_in_output", [False, True]),
    ("bad_words", [[], ["a"], ["\0", " ", "é", "<|im_end|>"], ["zebra"] * 128, ["x" * 1024]]),
    ("skip_special_tokens", [False, True]), ("spaces_between_special_tokens", [True]),
    ("request_id", ["a", "x" * 64]), ("early_stopping", [False]), ("logits_processors", [[]]), ("mm_processor_kwargs", [{}]), ("guided_decoding_backend", ["auto"]),
    ("cache_prompt", [True]), ("id_slot", [-1]), ("n_probs", [0]), ("repeat_penalty", [1, 1.0]), ("mirostat", [0]), ("typical_p", [1, 1.0]), ("xtc_probability", [0, 0.0]),
    ("prompt_logprobs", [0, 20]), ("ignore_eos", [False]), ("response_format", [{"type": "text"}]), ("stream", [False]), ("user", ["", "me"]), ("metadata", [{"a": "b"}]),
]
TAKEN_CHAT = [
    ("logprobs", [False, True]), ("top_logprobs", [0, {"logprobs": True, "top_logprobs": 20}]), ("tools", [[]]),
    ("tool_choice", ["auto", "none"]), ("modalities", [["text"]]),
    ("store", [True]), ("service_tier", ["auto"]), ("parallel_tool_calls", [True, False]), ("reasoning_effort", ["none"]), ("echo", [False]),
    ("messages", [[{"role": r, "content": "a", "name": "n"}] for r in ("user", "system", "developer", "assistant", "tool", "x")]),
    ("messages", [[{"role": "user", "content": ""}], [{"role": "user", "content": []}], [{"role": "user", "content": "\0"}]]),
]
TAKEN_TEXT = [("truncate_prompt_tokens", [-1, 1, 1016]), ("logprobs", [0, 20]), ("echo", [True, False]), ("best_of", [1]), ("suffix", [""]), ("max_tokens", [{"max_tokens": 0, "echo": True}]),
              ("prompt", ["\0", [0, 1, 2, 1535], ["a"] * 64, [[5]] * 64, ["a", [5]], "<|im_start|>"])]


@pytest.mark.parametrize("endpoint, field, values", [
    (endpoint, *row) for endpoints, table in (((CHAT, TEXT), TAKEN), ((CHAT,), TAKEN_CHAT), ((TEXT,), TAKEN_TEXT))
    for row in table for endpoint in endpoints])
def test_right_values(daemon, endpoint, field, values):
    for value in [*values, *([] if field in NEEDED[endpoint] else [None])]:
        answer = daemon.post(endpoint, **body(endpoint, field, value))
        assert answer.status_code == 200, (value, answer.text)


def test_the_last_of_equal_names_counts(daemon):
    text = json.dumps({"prompt": "Ben", "temperature": 0})[:-1] + ', "max_tokens": 9, "max_tokens": 3}'
    assert daemon.http.post(TEXT, content=text).json()["usage"]["completion_tokens"] == 3


def test_limits_are_configured(start):
    d = start({"limits.max_choices": 2, "limits.max_prompts": 3, "limits.max_total_tokens": 100,
               "limits.max_stop_bytes": 5, "limits.max_logit_bias": 1, "http.max_body_bytes": 2000})
    for field, value, says in [("n", 3, "1 to 2"), ("prompt", ["a"] * 4, "at most 3"), ("n", {"n": 2, "max_tokens": 50}, "100"),
                               ("stop", "abcdef", "at most 5"), ("logit_bias", {"1": 1, "2": 1}, "at most 1")]:
        error = refused(d.post(TEXT, **body(TEXT, field, value)))
        assert error["param"] == field and says in error["message"]
    refused(d.post(TEXT, prompt="a" * 2000), 413)
    assert d.post(TEXT, prompt="a", n=2, max_tokens=20).status_code == 200


def test_number_of_logprobs_is_bounded(start):
    d = start({"limits.max_logprobs": 100})
    fields = {"prompt": "a b c", "max_tokens": 10}
    assert d.post("/v1/completions", **fields, logprobs=9).status_code == 200
    refused = d.post("/v1/completions", **fields, logprobs=9, n=2)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "logprobs"
    assert d.post("/v1/completions", **fields, logprobs=9, echo=True).status_code == 400
    assert d.post("/v1/completions", **fields, n=2, echo=True).status_code == 200
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 30, "logprobs": True}
    assert d.post("/v1/chat/completions", **chat).status_code == 200
    assert d.post("/v1/chat/completions", **chat, top_logprobs=5).json()["error"]["param"] == "top_logprobs"


def test_the_limits_of_a_template_are_its_own(start):
    d = start({"limits.template_fuel": 1000})
    error = d.post("/v1/chat/completions", messages=[{"role": "user", "content": "a"}] * 100).json()["error"]
    assert error["code"] is None and "evaluation steps" in error["message"] and error["param"] == "messages"
