"""OpenAI's own client against the real server."""

import asyncio
import json
import time

import openai
import pytest

from tests.serving.running_server import web
from tests.serving.tiny_server import CONTEXT, LEARNT, MODEL, SENTENCE

WHO = [{"role": "user", "content": "Who are you?"}]
NEVER_END = {"0": -100, "1": -100}  # the ids of <|document|> and <|end|>


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}v1", api_key="not needed", max_retries=0) as client:
        yield client


def ask(client, **settings):
    return client.chat.completions.create(**{"model": MODEL, "messages": WHO, "temperature": 0, **settings})


def text_of(answer):
    return answer.choices[0].message.content


def test_models_are_listed_and_found(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "athanor"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("../other")
    assert caught.value.code == "model_not_found" and caught.value.param == "model"


@pytest.mark.parametrize(("question", "expected"), LEARNT)
def test_what_was_learnt_is_answered_whole_and_streamed(client, question, expected):
    messages = [{"role": "user", "content": question}]
    whole = ask(client, messages=messages)
    assert text_of(whole) == expected and whole.choices[0].finish_reason == "stop"
    pieces = list(ask(client, messages=messages, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == expected
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-1].choices == [] and pieces[-1].usage == whole.usage
    assert [piece.choices[0].finish_reason for piece in pieces[:-1]][-1] == "stop"
    assert all(piece.usage is None for piece in pieces[:-1]) and len({piece.id for piece in pieces}) == 1


def test_usage_counts_tokens(client):
    usage = ask(client, max_tokens=3).usage
    assert usage.completion_tokens == 3 and usage.total_tokens == usage.prompt_tokens + 3


def test_streams_without_the_option_carry_no_usage(client):
    assert all(piece.usage is None and piece.choices for piece in ask(client, stream=True))


def test_content_parts_and_developer_turns_mean_the_same_as_plain_ones(client):
    parts = [{"role": "user", "content": [{"type": "text", "text": "Who are"}, {"type": "text", "text": " you?"}]}]
    assert text_of(ask(client, messages=parts)) == SENTENCE
    drawn = {"temperature": 1, "seed": 3, "max_tokens": 9}
    system = ask(client, messages=[{"role": "system", "content": "Be kind."}, *WHO], **drawn)
    other = ask(client, messages=[{"role": "developer", "content": "Be kind."}, *WHO], **drawn)
    assert text_of(system) == text_of(other) and system.usage == other.usage


def test_an_answer_can_be_sent_back_as_the_client_received_it(client):
    answer = ask(client).choices[0].message
    turns = [*WHO, answer, {"role": "user", "content": "What is 47 + 38?"}]
    assert ask(client, messages=turns).usage.prompt_tokens > ask(client).usage.prompt_tokens


def test_length_limits(client):
    for name in ("max_tokens", "max_completion_tokens"):
        answer = ask(client, **{name: 4})
        assert answer.choices[0].finish_reason == "length" and SENTENCE.startswith(text_of(answer))


def test_stop_strings_end_the_answer_and_are_not_shown(client):
    for stop in ("tiny", ["never said", "tiny model"]):
        answer = ask(client, stop=stop)
        assert text_of(answer) == "I am a " and answer.choices[0].finish_reason == "stop"
        streamed = "".join(piece.choices[0].delta.content or "" for piece in ask(client, stop=stop, stream=True))
        assert streamed == "I am a "


def test_n_choices_differ_and_a_seed_repeats_them(client):
    settings = {"n": 3, "temperature": 1.8, "max_tokens": 20, "logit_bias": NEVER_END}
    first, second = (ask(client, seed=7, **settings) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert texts == [choice.message.content for choice in second.choices]
    assert first.usage.completion_tokens == 60
    streamed = ["", "", ""]
    for piece in ask(client, seed=7, stream=True, **settings):
        streamed[piece.choices[0].index] += piece.choices[0].delta.content or ""
    assert streamed == texts
    assert text_of(ask(client, seed=8, **settings)) != texts[0]


def test_every_number_of_the_request_reaches_the_engine(client):
    """Each setting changes the answer as it should, or leaves it as it must."""
    wild = {"temperature": 2, "seed": 1, "max_tokens": 12, "logit_bias": NEVER_END}
    base = text_of(ask(client, **wild))
    assert text_of(ask(client, **wild, top_p=1e-6)) != base
    greedy = text_of(ask(client, max_tokens=12))
    assert text_of(ask(client, **wild, top_p=1e-6)) == text_of(ask(client, **wild | {"temperature": 0})) == greedy
    assert text_of(ask(client, **wild, extra_body={"top_k": 1})) == greedy
    assert text_of(ask(client, **wild, extra_body={"min_p": 1.0})) == greedy
    for settings in ({"presence_penalty": 2}, {"frequency_penalty": 2}, {"extra_body": {"repetition_penalty": 9.0}}):
        long = {"max_tokens": 40, "logit_bias": NEVER_END, "temperature": 0}
        assert text_of(ask(client, **long, **settings)) != text_of(ask(client, **long))


def test_completions_continue_documents(client):
    call = {"model": MODEL, "prompt": "Who", "max_tokens": 8, "temperature": 0, "logit_bias": NEVER_END}
    whole = client.completions.create(**call)
    assert whole.choices[0].text and whole.choices[0].finish_reason == "length" and whole.object == "text_completion"
    streamed = client.completions.create(**call, stream=True)
    assert "".join(piece.choices[0].text for piece in streamed) == whole.choices[0].text
    several = client.completions.create(**{**call, "prompt": ["Who", "What"], "n": 2, "echo": True})
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[1].text == "Who" + whole.choices[0].text and several.choices[2].text.startswith("What")


def said(content, **message):
    return {"messages": [{"role": "user", "content": content, **message}]}


@pytest.mark.parametrize(
    ("settings", "param", "code"),
    [
        ({"model": "gpt-4"}, "model", "model_not_found"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"max_tokens": "ten"}, "max_tokens", "invalid_type"),
        ({"extra_body": {"tempurature": 1}}, "tempurature", "unknown_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"user": "me"}, "user", "unsupported_parameter"),
        ({"max_tokens": CONTEXT}, "messages", "context_length_exceeded"),
        (said("long " * 999), "messages", "context_length_exceeded"),
        (said("4", role="tool", tool_call_id="1"), "messages[0].role", "invalid_value"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value"),
    ],
)
def test_errors_have_openai_types(client, settings, param, code):
    kind = openai.NotFoundError if code == "model_not_found" else openai.BadRequestError
    with pytest.raises(kind) as caught:
        ask(client, **settings)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.type == "invalid_request_error" and caught.value.body["message"]


def test_unknown_fields_are_refused_with_the_nearest_spelling(client):
    with pytest.raises(openai.BadRequestError, match="did you mean 'temperature'"):
        ask(client, extra_body={"tempurature": 1})


def test_fields_that_ask_for_nothing_are_accepted(client):
    neutral = {"tools": [], "response_format": {"type": "text"}, "logprobs": False, "store": False, "stop": None}
    assert text_of(ask(client, **neutral)) == SENTENCE


def test_twenty_streams_at_once_say_the_same_as_one(server):
    async def one(client):
        pieces, firsts = [], 0.0
        stream = await client.chat.completions.create(model=MODEL, messages=WHO, temperature=0, stream=True)
        async for piece in stream:
            firsts = firsts or time.perf_counter()
            pieces.append(piece.choices[0].delta.content or "")
        return "".join(pieces)

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=f"{server.url}v1", api_key="-", max_retries=0) as client:
            return await asyncio.gather(*(one(client) for _ in range(20)))

    assert asyncio.run(all_of_them()) == [SENTENCE] * 20
    assert server.answers_taken() == 0


def test_why_names_the_document_that_says_it(server):
    spans = web.post(f"{server.url}why", json={"text": f"Well. {SENTENCE} Indeed."}).json()["spans"]
    match = spans[0]["matches"][0]
    assert SENTENCE in spans[0]["text"] and spans[0]["count"] == 1
    assert (match["document"], match["line"], match["step"]) == ("notes/about.md", 2, 10)
    assert web.post(f"{server.url}why", json={"text": "zzzz" * 20}).json() == {"spans": []}


def test_the_description_of_the_interface_lists_every_field(server):
    paths = web.get(f"{server.url}openapi.json").json()["paths"]
    body = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"messages", "stop", "seed", "n", "top_p", "stream_options"} <= set(body["properties"])
    assert body["additionalProperties"] is False
    json.dumps(paths)
