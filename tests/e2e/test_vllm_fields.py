# SPDX-License-Identifier: MIT
"""The request fields that vLLM has beside OpenAI's, sent as its users do: OpenAI's client with extra_body."""
import re

import pytest

from daemon import NAME, model_with

openai = pytest.importorskip("openai")
EOS = 2  # <|im_end|> of the demo model


def complete(client, prompt="Once upon a time", stream=False, **fields):
    """One greedy completion: its text, and the choice or the last chunk's."""
    own = {k: fields.pop(k) for k in ("max_tokens", "stop", "logprobs", "n", "echo") if k in fields}
    answer = client.completions.create(model=NAME, prompt=prompt, temperature=0, stream=stream, extra_body=fields, **own)
    if not stream:
        return answer.choices[0].text, answer.choices[0]
    choices = [c.choices[0] for c in answer]
    assert all((c.finish_reason, c.stop_reason) == (None, None) for c in choices[:-1])
    return "".join(c.text for c in choices), choices[-1]


def ask(client, text="Who is Clara?", stream=False, **fields):
    """The same of a chat."""
    own = {k: fields.pop(k) for k in ("max_tokens", "stop", "logprobs", "n") if k in fields}
    answer = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": text}], temperature=0,
                                            stream=stream, extra_body=fields, **own)
    if not stream:
        return answer.choices[0].message.content, answer.choices[0]
    choices = [c.choices[0] for c in answer]
    assert not any(c.finish_reason or hasattr(c, "stop_reason") for c in choices[:-1])
    return "".join(c.delta.content or "" for c in choices), choices[-1]


MAKE = pytest.mark.parametrize("make", [complete, ask])
STREAM = pytest.mark.parametrize("stream", [False, True])


def pieces(daemon, text):
    """Its tokens and the text of each. The demo's tokenizer makes of a text what the model made it of, mostly."""
    ids = daemon.tokens(text)
    return [(i, daemon.post("/detokenize", tokens=[i]).json()["prompt"]) for i in ids]


def distinct(daemon, text, after=3):
    """A token of the text that has not come before: (what is before it, id, its text)."""
    seen, before = set(), ""
    for at, (token, piece) in enumerate(pieces(daemon, text)):
        if at >= after and token not in seen:
            return before, token, piece
        seen.add(token)
        before += piece
    raise AssertionError(text)


# --- stop_token_ids, stop_reason, include_stop_str_in_output -------------------------------------------


@STREAM
@MAKE
def test_a_stop_id_ends_the_answer_and_has_no_text(daemon, client, make, stream):
    whole, choice = make(client, max_tokens=40)
    assert choice.stop_reason is None
    before, token, piece = distinct(daemon, whole)
    text, choice = make(client, max_tokens=40, stream=stream, stop_token_ids=[0, token])
    assert (text, choice.finish_reason, choice.stop_reason) == (before, "stop", token)
    text, choice = make(client, max_tokens=40, stream=stream, stop_token_ids=[token], include_stop_str_in_output=True)
    assert (text, choice.finish_reason, choice.stop_reason) == (before + piece, "stop", token)


@STREAM
@MAKE
def test_a_stop_string_is_named_and_can_be_kept(daemon, client, make, stream):
    whole, _ = make(client, max_tokens=40)
    stop = whole[10:14]
    text, choice = make(client, max_tokens=40, stream=stream, stop=["\0", stop])
    assert (text, choice.finish_reason, choice.stop_reason) == (whole[:whole.index(stop)], "stop", stop)
    text, choice = make(client, max_tokens=40, stream=stream, stop=["\0", stop], include_stop_str_in_output=True)
    assert (text, choice.finish_reason, choice.stop_reason) == (whole[:whole.index(stop)] + stop, "stop", stop)


@STREAM
def test_eos_gives_no_reason(client, stream):
    _, choice = ask(client, stream=stream)
    assert (choice.finish_reason, choice.stop_reason) == ("stop", None)
    _, choice = ask(client, stream=stream, stop_token_ids=[EOS])  # it would have ended here anyhow
    assert (choice.finish_reason, choice.stop_reason) == ("stop", None)


def test_ignore_eos_leaves_stop_ids_alone(client):
    usual, _ = ask(client)
    longer, choice = ask(client, max_tokens=300, ignore_eos=True)
    assert len(longer) > len(usual) and choice.finish_reason == "length"
    text, choice = ask(client, max_tokens=300, ignore_eos=True, stop_token_ids=[EOS])
    assert (text, choice.finish_reason, choice.stop_reason) == (usual, "stop", EOS)


def test_stop_ids_do_not_come_before_min_tokens(daemon, client):
    whole, _ = complete(client, max_tokens=40)
    before, token, piece = distinct(daemon, whole)
    text, choice = complete(client, max_tokens=40, logprobs=0, stop_token_ids=[token], min_tokens=20, ignore_eos=True)
    assert text.startswith(before) and not text.startswith(before + piece)  # something else had to come in its place
    assert len(choice.logprobs.tokens) >= 20 and piece not in choice.logprobs.tokens
    assert choice.stop_reason == (None if choice.finish_reason == "length" else token)


def test_log_probabilities_cover_what_is_in_the_text(daemon, client):
    whole, _ = complete(client, max_tokens=40)
    before, token, piece = distinct(daemon, whole)
    for fields, text in (({}, before), ({"include_stop_str_in_output": True}, before + piece)):
        got, choice = complete(client, max_tokens=40, logprobs=0, stop_token_ids=[token], **fields)
        assert got == text == "".join(choice.logprobs.tokens)


def test_stop_ids_are_each_choices_own(daemon, client):
    """With several prompts and choices each says what ended it."""
    whole, _ = complete(client, max_tokens=40)
    before, token, _ = distinct(daemon, whole)
    other, _ = complete(client, "Ben is", max_tokens=3)
    assert token not in daemon.tokens(other)
    answer = client.completions.create(model=NAME, prompt=["Once upon a time", "Ben is"], n=2, temperature=0, max_tokens=40,
                                       extra_body={"stop_token_ids": [token, daemon.tokens(other)[-1]]})
    assert [c.stop_reason for c in answer.choices] == [token] * 2 + daemon.tokens(other)[-1:] * 2
    assert [c.text for c in answer.choices[:2]] == [before] * 2 and other.startswith(answer.choices[2].text)


# --- skip_special_tokens ----------------------------------------------------------------------------------


@STREAM
@MAKE
def test_special_tokens_can_be_shown(client, make, stream):
    forced = {"max_tokens": 3, "stream": stream, "logit_bias": {"1": 100}}
    assert make(client, **forced)[0] == ""
    assert make(client, **forced, skip_special_tokens=True)[0] == ""
    assert make(client, **forced, skip_special_tokens=False)[0] == "<|im_start|>" * 3
    text, choice = make(client, **forced, skip_special_tokens=False, stop=["start|><|im"])
    assert (text, choice.finish_reason, choice.stop_reason) == ("<|im_", "stop", "start|><|im")
    assert make(client, **forced, stop=["start|><|im"])[1].finish_reason == "length"


@STREAM
def test_an_eos_is_shown_when_it_is_to_be_kept(client, stream):
    text, _ = ask(client)
    assert ask(client, stream=stream, skip_special_tokens=False)[0] == text
    assert ask(client, stream=stream, include_stop_str_in_output=True)[0] == text
    shown, choice = ask(client, stream=stream, include_stop_str_in_output=True, skip_special_tokens=False)
    assert (shown, choice.finish_reason, choice.stop_reason) == (text + "<|im_end|>", "stop", None)


def test_text_offsets_count_what_is_in_the_text(client):
    forced = {"max_tokens": 3, "logprobs": 0, "logit_bias": {"1": 100}}
    for skip, step in ((True, 0), (False, len("<|im_start|>"))):
        text, choice = complete(client, skip_special_tokens=skip, **forced)
        assert choice.logprobs.text_offset == [0, step, 2 * step] and len(text) == 3 * step


# --- bad_words ------------------------------------------------------------------------------------------------


def words_of(text):
    """Those that stand between blanks or before a mark."""
    return re.findall(r"(?<= )[A-Za-z]{3,}(?=[ .,!?])", text)


@STREAM
@MAKE
def test_bad_words_do_not_come(client, make, stream):
    """Each greedy answer loses a word of the one before, some of several tokens, until a dozen are forbidden."""
    prompt, bad = "Tell me a story about Ben.", []
    before, _ = make(client, prompt, max_tokens=60)
    for _ in range(12):
        bad.append(words_of(before)[0])
        text, _ = make(client, prompt, max_tokens=60, stream=stream, bad_words=bad)
        assert text != before and not any(w in words_of(text) for w in bad), (bad, text)
        before = text


def test_only_the_last_token_of_a_bad_word_is_forbidden(daemon, client):
    whole, _ = complete(client, max_tokens=60)
    word = re.search(r"(?<= )[a-z]+ [a-z]+(?= )", whole)[0]
    ids = daemon.tokens(" " + word)
    assert len(ids) >= 2, word
    text, choice = complete(client, max_tokens=60, bad_words=[word], logprobs=0)
    assert text != whole
    at = whole.index(" " + word)
    head = daemon.post("/detokenize", tokens=ids[:-1]).json()["prompt"]
    assert text.startswith(whole[:at] + head) and not text.startswith(whole[:at] + " " + word)


def test_bad_words_keep_apart_what_runs_beside_them(daemon, client):
    """Choices with and without bad words in one batch, drawn at random: each is what it is alone."""
    fields = {"model": NAME, "prompt": "Once upon a time", "max_tokens": 40, "temperature": 1, "seed": 5, "n": 4}
    free = client.completions.create(**fields)
    bad = sorted({w for c in free.choices for w in words_of(c.text)[:2]})
    without = client.completions.create(**fields, extra_body={"bad_words": bad, "return_token_ids": True})
    spellings = [daemon.tokens(blank + w) for w in bad for blank in ("", " ")]
    for choice in without.choices:
        ids = choice.token_ids
        assert not [s for s in spellings for i in range(len(ids)) if ids[i:i + len(s)] == s], (bad, choice.text)
    assert [c.text for c in client.completions.create(**fields).choices] == [c.text for c in free.choices]
    again = client.completions.create(**fields, extra_body={"bad_words": bad})
    assert [c.text for c in again.choices] == [c.text for c in without.choices]


def test_words_of_the_prompt_are_no_part_of_a_bad_word(daemon, client):
    """Once + upon: the first token of the word is the prompt's, so the second may come, as in vLLM."""
    ids = daemon.tokens("Once upon")
    assert len(ids) >= 2
    prompt = daemon.post("/detokenize", tokens=ids[:-1]).json()["prompt"]
    usual, _ = complete(client, prompt, max_tokens=2)
    assert complete(client, prompt, max_tokens=2, bad_words=["Once upon"])[0] == usual


# --- return_token_ids, return_tokens_as_token_ids ---------------------------------------------------------------


def streamed_ids(chunks, index=0):
    """What the chunks of one choice say: the prompt's ids, and the generated ones."""
    mine = [c.choices[0] for c in chunks if c.choices[0].index == index]
    prompts = [x.prompt_token_ids for x in mine if hasattr(x, "prompt_token_ids")]
    assert all(hasattr(x, "token_ids") for x in mine)
    return prompts, sum((x.token_ids for x in mine), [])


def test_ids_of_completions(daemon, client):
    fields = {"model": NAME, "prompt": ["Once upon a time", [5, 6, 7]], "n": 2, "temperature": 1, "seed": 3, "max_tokens": 20}
    extra = {"return_token_ids": True}
    plain = client.completions.create(**fields, extra_body=extra)
    expected = [daemon.tokens("Once upon a time")] * 2 + [[5, 6, 7]] * 2
    assert [c.prompt_token_ids for c in plain.choices] == expected
    for choice in plain.choices:
        assert daemon.post("/detokenize", tokens=choice.token_ids).json()["prompt"].removesuffix("<|im_end|>") == choice.text
    assert sum(len(c.token_ids) for c in plain.choices) == plain.usage.completion_tokens
    chunks = list(client.completions.create(**fields, stream=True, extra_body=extra))
    for choice in plain.choices:
        assert streamed_ids(chunks, choice.index) == ([choice.prompt_token_ids], choice.token_ids)


def test_ids_of_chats(daemon, client):
    fields = {"model": NAME, "messages": [{"role": "user", "content": "Who is Clara?"}], "temperature": 0, "n": 2}
    extra = {"return_token_ids": True}
    plain = client.chat.completions.create(**fields, extra_body=extra)
    prompt = daemon.post("/tokenize", messages=fields["messages"]).json()["tokens"]
    assert plain.prompt_token_ids == prompt and plain.choices[0].token_ids == plain.choices[1].token_ids
    assert plain.choices[0].token_ids[-1] == EOS and len(plain.choices[0].token_ids) * 2 == plain.usage.completion_tokens
    chunks = list(client.chat.completions.create(**fields, stream=True, extra_body=extra))
    assert [c.prompt_token_ids for c in chunks if hasattr(c, "prompt_token_ids")] == [prompt] * 2  # with the role
    for index in (0, 1):
        mine = [c.choices[0] for c in chunks if c.choices[0].index == index]
        assert not hasattr(mine[0], "token_ids") and sum((x.token_ids for x in mine[1:]), []) == plain.choices[0].token_ids


@STREAM
def test_ids_come_without_text(client, stream):
    """A token that has no text, or whose text is held back for a stop string, is told of at once."""
    text, choice = complete(client, max_tokens=3, stream=stream, logit_bias={"1": 100}, return_token_ids=True)
    assert text == "" and (stream or choice.token_ids == [1, 1, 1])
    whole, _ = complete(client, max_tokens=20)
    fields = {"model": NAME, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 20, "stop": [whole[5:12]]}
    plain = client.completions.create(**fields, extra_body={"return_token_ids": True}).choices[0]
    assert plain.text == whole[:5] and plain.stop_reason == whole[5:12]
    _, ids = streamed_ids(list(client.completions.create(**fields, stream=True, extra_body={"return_token_ids": True})))
    assert ids == plain.token_ids


def test_ids_are_returned_only_if_asked_for(client):
    for answer in (client.completions.create(model=NAME, prompt="Ben", max_tokens=2),
                   client.completions.create(model=NAME, prompt="Ben", max_tokens=2, extra_body={"return_token_ids": False})):
        assert not {"token_ids", "prompt_token_ids"} & (answer.model_dump().keys() | answer.choices[0].model_dump().keys())


@STREAM
@MAKE
def test_tokens_as_ids(client, make, stream):
    top = {"logprobs": 2} if make is complete else {"logprobs": True, "top_logprobs": 2}
    names, _ = tokens_named(client, make, stream, max_tokens=8, **top)
    ids, tops = tokens_named(client, make, stream, max_tokens=8, return_tokens_as_token_ids=True, **top)
    assert len(names) == len(ids) and all(re.fullmatch(r"token_id:\d+", i) for i in ids + tops)
    _, choice = make(client, "Once" if make is complete else "Who is Clara?", max_tokens=8, return_token_ids=True)
    assert ids == [f"token_id:{i}" for i in choice.token_ids][:len(ids)]


def tokens_named(client, make, stream, **fields):
    """The names of the tokens that came, and of the likely ones beside them."""
    own = {k: fields.pop(k) for k in ("max_tokens", "logprobs", "top_logprobs") if k in fields}
    if make is complete:
        answer = client.completions.create(model=NAME, prompt="Once", temperature=0, stream=stream, extra_body=fields, **own)
    else:
        answer = client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "Who is Clara?"}],
                                                temperature=0, stream=stream, extra_body=fields, **own)
    logprobs = [c.choices[0].logprobs for c in (answer if stream else [answer]) if c.choices[0].logprobs]
    if make is complete:
        return sum((x.tokens for x in logprobs), []), [k for x in logprobs for t in x.top_logprobs for k in t]
    content = sum((x.content for x in logprobs), [])
    assert all(t.bytes is not None for t in content)
    return [t.token for t in content], [k.token for t in content for k in t.top_logprobs]


# --- truncate_prompt_tokens, add_special_tokens --------------------------------------------------------------------

LONG = "Once upon a time there was a fisherman called Ben. He lived in Saltbay."


def prompt_of(client, prompt, max_tokens=1, **fields):
    """The prompt's tokens as the model sees them."""
    return client.completions.create(model=NAME, prompt=prompt, max_tokens=max_tokens,
                                     extra_body={"return_token_ids": True, **fields}).choices[0].prompt_token_ids


def test_the_last_tokens_of_a_prompt_stay(daemon, client):
    ids = daemon.tokens(LONG)
    for n in (1, 5, len(ids) - 1, len(ids), len(ids) + 1, 1000):
        for prompt in (LONG, ids):
            assert prompt_of(client, prompt, truncate_prompt_tokens=n) == ids[-n:]
    text = client.completions.create(model=NAME, prompt=daemon.post("/detokenize", tokens=ids[-5:]).json()["prompt"], temperature=0)
    for echo in (False, True):
        cut = client.completions.create(model=NAME, prompt=LONG, temperature=0, echo=echo, extra_body={"truncate_prompt_tokens": 5})
        head = daemon.post("/detokenize", tokens=ids[-5:]).json()["prompt"] if echo else ""
        assert cut.choices[0].text == head + text.choices[0].text and cut.usage.prompt_tokens == 5


def test_as_much_of_a_prompt_as_fits(daemon, client):
    long = LONG * 80
    ids = daemon.tokens(long)
    assert len(ids) > 1024
    for prompt in (long, ids):
        assert prompt_of(client, prompt, truncate_prompt_tokens=-1) == ids[-1023:]
        assert prompt_of(client, prompt, truncate_prompt_tokens=-1, max_tokens=24) == ids[-1000:]
        with pytest.raises(openai.BadRequestError, match="maximum context length is 1024 tokens"):
            prompt_of(client, prompt)
        with pytest.raises(openai.BadRequestError, match="maximum context length is 1024 tokens"):
            prompt_of(client, prompt, truncate_prompt_tokens=1024)
        with pytest.raises(openai.BadRequestError, match="maximum context length is 1024 tokens"):
            prompt_of(client, prompt, truncate_prompt_tokens=-1, max_tokens=1024)
    short = daemon.tokens(LONG)
    assert prompt_of(client, LONG, truncate_prompt_tokens=-1) == short


def with_bos(tokenizer):
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "pair": [], "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}
    tokenizer["post_processor"]["pair"] = [*tokenizer["post_processor"]["single"], {"Sequence": {"id": "B", "type_id": 1}}]
    return tokenizer


def test_special_tokens_around_a_prompt(start, tmp_path):
    d = start(model=model_with(tmp_path, "tokenizer.json", with_bos))
    ids = d.post("/tokenize", prompt=LONG, add_special_tokens=False).json()["tokens"]
    assert d.tokens(LONG) == [1, *ids]
    assert d.post("/tokenize", content=LONG, add_special=False).json()["tokens"] == ids  # as llama.cpp calls it
    messages = [{"role": "user", "content": "hi"}]
    chat = d.post("/tokenize", messages=messages).json()["tokens"]
    assert d.post("/tokenize", messages=messages, add_special_tokens=True).json()["tokens"] == [1, *chat]
    with openai.OpenAI(base_url=d.url + "/v1", api_key="none", max_retries=0) as client:
        assert prompt_of(client, LONG) == prompt_of(client, LONG, add_special_tokens=True) == [1, *ids]
        assert prompt_of(client, LONG, add_special_tokens=False) == prompt_of(client, ids) == ids
        assert prompt_of(client, LONG, truncate_prompt_tokens=4) == [1, *ids[-3:]]
        assert prompt_of(client, LONG, truncate_prompt_tokens=4, add_special_tokens=False) == ids[-4:]
        with pytest.raises(openai.BadRequestError, match="truncate_prompt_tokens: expected -1 or an integer from 2 to 1024"):
            prompt_of(client, LONG, truncate_prompt_tokens=1)
        for add in (None, False, True):
            fields = {"extra_body": {"return_token_ids": True, **({} if add is None else {"add_special_tokens": add})}}
            answer = client.chat.completions.create(model=NAME, messages=messages, max_tokens=1, **fields)
            assert answer.prompt_token_ids == [*([1] if add else []), *chat]
        tail = d.post("/detokenize", tokens=ids[-3:]).json()["prompt"]
        echo = client.completions.create(model=NAME, prompt=LONG, max_tokens=1, echo=True, logprobs=0, extra_body={"truncate_prompt_tokens": 4})
        assert echo.choices[0].text.startswith(tail) and echo.choices[0].logprobs.text_offset[:2] == [0, 0]
