"""The chat template: masks cover what the assistant says, users cannot forge turns, `transformers` agrees to the id."""

import json
import re
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.base.records import write_records
from athanor.inference.runtime import Runtime
from athanor.serving import history
from athanor.serving.schema import Message
from athanor.store.artifact import Artifact, Store
from athanor.tokens.chat import has_our_template, jinja_of
from athanor.tokens.conversation import Conversation, ToolCall, Turn
from athanor.tokens.extend import extend
from athanor.tokens.template import MARKS, ChatTemplate, Rendered, defuse, is_ours, jinja_source, parse_tool_calls
from athanor.tokens.tokenizer import END, SPECIAL_TOKENS, Tokenizer
from athanor.training.sft import packed_conversations
from tests.tokens.adversarial import NASTY, conversations


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["Hello, how are you? 你好，今天星期几？ def f(x):\n    return x + 1\n", "<|user|> is text here 12345"] * 50
    return Tokenizer.train(texts, 500)


@settings(max_examples=150, deadline=None)
@given(text=st.text())
def test_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "<", "user", "好", " "]), max_size=8))
def test_no_text_becomes_a_special_token(tokenizer: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    assert not set(tokenizer.encode(text)) & set(tokenizer.special.values())
    assert not any(token in defuse(text) for token in SPECIAL_TOKENS)


def plain(text: str) -> str:
    """What the assistant's words become beside tools or calls."""
    return defuse(defuse(text), MARKS)


def pieces(rendered: Rendered) -> Iterator[list[int]]:
    """The runs of ids that are learnt."""
    for learnt, run in groupby(zip(rendered.mask, rendered.ids, strict=True), key=itemgetter(0)):
        if learnt:
            yield [index for _, index in run]


def test_the_mask_covers_exactly_what_the_assistant_says(tokenizer: Tokenizer) -> None:
    template = ChatTemplate(tokenizer)
    for conversation in conversations(600):
        rendered = template.render(conversation)
        turns = [turn for turn in conversation.turns if turn.role == "assistant"]
        for turn, ids in zip(turns, pieces(rendered), strict=True):
            text = tokenizer.decode(ids)
            assert text.endswith(END) and text.count(END) == 1
            breaks = plain if conversation.tools else defuse
            said, called = (text[: -len(END)], ()) if not turn.tool_calls else parse_tool_calls(text[: -len(END)])
            assert said == breaks(turn.content)
            assert [(one.name, one.arguments) for one in called] == [
                (one.name, one.arguments) for one in turn.tool_calls
            ]
        learners = [role for role, learnt in zip(rendered.roles, rendered.mask, strict=True) if learnt]
        assert set(learners) <= {"assistant"}


def test_train_evaluation_serving_and_transformers_have_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Over 600 conversations: the rows that fine-tuning packs, the prompts of evaluation and of the server."""
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path, jinja_source())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    template = ChatTemplate(Tokenizer.load(tmp_path))
    runtime = Runtime(None, tokenizer, template, None)  # type: ignore[arg-type] # what answers is not asked here
    chats = conversations(600)
    packed = packed_conversations(stored(tmp_path, chats), template, 10_000, "refuse", Progress())
    trained = {tuple(row[documents == number].tolist()) for row, documents in zip(packed.ids_RT, packed.documents_RT,
               strict=True) for number in np.unique(documents)}  # fmt: skip
    for chat in chats:
        row = chat.to_row()
        for messages in (row["messages"], chat.messages()):  # arguments as text, and as an object
            for prompt in (False, True):
                expected = theirs.apply_chat_template(
                    messages, tools=row.get("tools"), add_generation_prompt=prompt, return_dict=False
                )
                assert template.render(chat, generation_prompt=prompt).ids == expected
        assert tuple(expected[:-1]) in trained
        assert template.prompt_ids(chat) == expected
        if not chat.tools:
            assert runtime.chat_prompt(chat.turns) == expected
            turns = [Message(role=turn.role, content=turn.content) for turn in chat.turns]
            served = history.render(template, turns, None, context=100_000, longest_token=100, drop_oldest=False)
            assert served.ids == expected


def stored(folder: Path, chats: list[Conversation]) -> Artifact:
    """Conversations as the artifact that fine-tuning reads."""
    store = Store(folder / "store").create()
    place = store.workplace("conversations-1")
    write_records(place / "train.jsonl.zst", [chat.to_row() for chat in chats])
    return store.commit("conversations-1", {"kind": "conversations"})


def test_what_was_learnt_before_tools_has_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A conversation without tools is its turns and nothing else, marks of calls included."""
    special = tokenizer.special
    for chat in conversations(200, with_tools=False):
        expected = []
        for turn in chat.turns:
            expected += [special[f"<|{turn.role}|>"], *tokenizer.encode(defuse(turn.content)), special[END]]
        assert ChatTemplate(tokenizer).render(chat).ids == expected


def test_special_tokens_stand_where_turns_begin_and_end(tokenizer: Tokenizer) -> None:
    """No text of anybody makes one: contents, tools, arguments, names."""
    special = set(tokenizer.special.values())
    for chat in conversations(600):
        count = 2 * (len(chat.turns) + (bool(chat.tools) and chat.turns[0].role != "system"))
        assert sum(index in special for index in ChatTemplate(tokenizer).render(chat).ids) == count


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=5,
)  # fmt: skip
PARTS = st.lists(st.sampled_from([*SPECIAL_TOKENS, *MARKS, "<|", "<", "\n", "\\", "好", '"}', " "]), max_size=6).map(
    "".join
)
CALLS = st.builds(
    ToolCall, st.text(min_size=1) | PARTS.filter(bool), st.dictionaries(st.text() | PARTS, JSON | PARTS, max_size=3)
)


@settings(max_examples=200, deadline=None)
@given(said=st.text() | PARTS, calls=st.lists(CALLS, min_size=1, max_size=3))
def test_calls_are_read_back(tokenizer: Tokenizer, said: str, calls: list[ToolCall]) -> None:
    """The exact inverse, whatever stands in names and arguments, special tokens and marks included."""
    turn = Turn("assistant", said, tuple(calls))
    ids = ChatTemplate(tokenizer).render(Conversation((turn,))).ids
    assert not set(ids[1:-1]) & set(tokenizer.special.values())
    assert parse_tool_calls(tokenizer.decode(ids[1:-1])) == (plain(said), tuple(calls))


@pytest.mark.parametrize("text", [
    "", "no call", "<tool_call>", "<tool_call></tool_call>", "<tool_call>{}</tool_call>",
    '<tool_call>{"name": "a"}</tool_call>',
    '<tool_call>{"name": "a", "arguments": {}}', '<tool_call>{"name": "a", "arguments": []}</tool_call>',
    '<tool_call>{"name": "a", "arguments": {}, "more": 1}</tool_call>',
    'x\n<tool_call>{"name": "a", "arguments": {"b": NaN}}</tool_call>',
    '<tool_call>{"name": "a", "arguments": {}}</tool_call> and more', "<tool_call>" + "[" * 100_000 + "</tool_call>",
])  # fmt: skip
def test_what_is_no_call_is_text(text: str) -> None:
    assert parse_tool_calls(text) == (text, ())


def test_a_row_comes_back() -> None:
    for chat in conversations(300):
        row = json.loads(json.dumps(chat.to_row()))
        assert Conversation.from_row(row) == chat
        objects = {**row, "messages": chat.messages()}
        assert Conversation.from_row(objects) == chat


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASKED = [{"role": "user", "content": "?"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]


def test_null_content_stands_beside_calls_only() -> None:
    assert Conversation.from_row({"messages": ASKED}).turns[1] == Turn("assistant", "", (ToolCall("f", {}, "1"),))
    with pytest.raises(AthanorError, match="message 0"):
        Conversation.from_row({"messages": [{"role": "assistant", "content": None}]})


def calling(**function: Any) -> dict[str, Any]:
    call = {**CALL, "function": {**CALL["function"], **function}}  # type: ignore[dict-item]
    return {"messages": [ASKED[0], {"role": "assistant", "content": "", "tool_calls": [call]}]}


@pytest.mark.parametrize(("row", "named"), [
    ({"messages": [{"role": "user", "content": "a", "weight": 0}]}, "'weight'"),
    ({"messages": [{"role": "user", "content": "a", "tool_calls": []}]}, "'tool_calls'"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "message 0"),
    ({"messages": [{"role": "user", "content": "a"}], "functions": []}, "'functions'"),
    ({"messages": [{"role": "user", "content": "a\ud800"}]}, "surrogate"),
    (calling(arguments='{"a": 1, "a": 2}'), "twice"), (calling(arguments='{"a": NaN}'), "NaN"),
    (calling(arguments="[1]"), "no JSON object"), (calling(arguments=[1]), "arguments"),
    (calling(arguments={"a": float("inf")}), "cannot be written as JSON"), (calling(name=""), "name"),
    (calling(arguments='{"a": "\\ud800"}'), "surrogate"), (calling(parameters={}), "'parameters'"),
    ({"messages": [*ASKED, {"role": "tool", "content": "3", "tool_call_id": "2"}]}, "tool_call_id '2'"),
    ({"messages": [*ASKED, {"role": "tool", "content": "3", "name": "g"}]}, "name 'g'"),
    ({"messages": [ASKED[0], {"role": "tool", "content": "3", "tool_call_id": "1"}]}, "no call"),
    ({"messages": ASKED, "tools": [{"type": "function"}]}, "tool 0"),
    ({"messages": ASKED, "tools": [{"type": "function", "function": {"name": "f", "params": {}}}]}, "'params'"),
    ({"messages": ASKED, "tools": [{"type": "function", "function": {"name": "f"}}] * 2}, "two tools"),
])  # fmt: skip
def test_rows_are_refused_by_name(row: dict[str, Any], named: str) -> None:
    with pytest.raises(AthanorError, match=re.escape(named)) as problem:
        Conversation.from_row(row, "row 3")
    assert "row 3" in str(problem.value)


def test_other_readers_of_the_template_are_told_what_it_refuses(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path, jinja_source())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for message in ({"role": "usr", "content": ""}, {"role": "user"}, {"role": "user", "content": [{"type": "text"}]},
                    {"role": "user", "content": "", "tool_calls": [CALL]}):  # fmt: skip
        with pytest.raises(Exception, match=r"role must be|content must be text|only the assistant calls"):
            theirs.apply_chat_template([message])


def test_the_template_of_before_is_known_as_ours() -> None:
    assert is_ours(jinja_source()) and not is_ours(jinja_source() + " ")
    before = (
        "{%- for message in messages -%}{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] -%}"
        "{{- raise_exception('role must be system, user, assistant or tool, not ' + message['role']) -}}{%- endif -%}"
        "{{- '<|' + message['role'] + '|>' -}}{{- message['content']"
        + "".join(f" | replace('{token}', '{token[0]} {token[1:]}')" for token in SPECIAL_TOKENS)
        + " -}}{{- '<|end|>' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
    )
    assert is_ours(before)


def test_special_tokens_that_were_added_cannot_be_forged_either(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    larger, _ = extend(tokenizer, special=["<|search|>", "[it's]"])
    larger.save(tmp_path, jinja_of(larger))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    chat = Conversation.of(("user", "a <|search|> b [it's] <|user|>"), ("assistant", "<|search|>"), ("user", "[it's]"))
    ids = ChatTemplate(ours).render(chat, generation_prompt=True).ids
    assert not {ours.special["<|search|>"], ours.special["[it's]"]} & set(ids)
    told = theirs.apply_chat_template(chat.messages(), add_generation_prompt=True, return_dict=True)["input_ids"]
    assert told == ids
    assert has_our_template(ours)
    assert (
        ChatTemplate(tokenizer).render(Conversation.of(("user", "x"))).ids
        == ChatTemplate(ours).render(Conversation.of(("user", "x"))).ids
    )


def test_plain_text_has_the_same_ids_in_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (text for text in NASTY if not any(token in text for token in SPECIAL_TOKENS)):
        assert tokenizer.encode(text) == theirs(text)["input_ids"]


def test_token_bytes_add_up_to_the_text(tokenizer: Tokenizer) -> None:
    table = tokenizer.token_bytes()
    for text in NASTY:
        assert b"".join(table[index] for index in tokenizer.encode(text)) == text.encode()


def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    saved = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Tokenizer.train(["the cat sat on the mat 猫坐在垫子上"] * 20, 400).save(tmp_path / name)
        saved.append((tmp_path / name / "tokenizer.json").read_bytes())
    assert saved[0] == saved[1]
