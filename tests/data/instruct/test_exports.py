"""Preferences, judgements and transcripts: every form written and read again, on made and on real rows."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base.errors import AthanorError
from athanor.base.records import read_records
from athanor.data.instruct.exports import WRITERS, export, targets_of
from athanor.data.instruct.formats import KEYS, Judgement, Preference, read_lesson
from athanor.data.instruct.lessons import InstructSettings, read_judgements, read_preferences
from athanor.data.instruct.names import HELDOUT, TRAIN
from athanor.data.instruct.transcripts import transcript_of, turns_of
from athanor.tokens.conversation import Conversation, Turn
from tests.conftest import REAL_DATA
from tests.data.conftest import RunStep

ASK = Conversation.of(("user", "Say hi"))
LONG = Conversation.of(("user", "Hi"), ("assistant", "Hello"), ("user", "Say hi"))


def again(lesson, target: str):
    """A lesson written in a form, through JSON, and read again."""
    return [read_lesson(json.loads(json.dumps(row)), "row") for row in export(lesson, target)]


@pytest.mark.parametrize("prompt", [ASK, LONG])
@pytest.mark.parametrize("target", ["preference", "openai", "sharegpt", "alpaca", "hh", "ranked"])
def test_a_preference_is_read_again(prompt: Conversation, target: str) -> None:
    lesson = Preference(prompt, ("Hi!", "  No.\n"))
    assert again(lesson, target) == [lesson]


def test_of_ranked_answers_every_pair_is_written() -> None:
    """K(K-1)/2 pairs, the better one first (Ouyang et al. 2022, section 3.5)."""
    lesson = Preference(ASK, ("1", "2", "3", "4"))
    pairs = [one.answers for one in again(lesson, "preference")]
    assert pairs == [("1", "2"), ("1", "3"), ("1", "4"), ("2", "3"), ("2", "4"), ("3", "4")]
    assert again(lesson, "ranked") == [lesson]
    good, bad = again(lesson, "kto")
    assert (good.good, good.conversation.turns[-1].content) == (True, "1")
    assert (bad.good, bad.conversation.turns[-1].content) == (False, "4")


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("target", ["kto", "openai", "sharegpt"])
def test_a_judgement_is_read_again(good: bool, target: str) -> None:
    lesson = Judgement(Conversation((*LONG.turns, Turn("assistant", "Hi!"))), good)
    assert again(lesson, target) == [lesson]


def test_a_result_known_apart_is_written_behind_its_mark() -> None:
    lesson = Conversation.of(("user", "2+3?"), ("assistant", "Two and three."), expected="5")
    (row,) = export(lesson, "gsm8k")
    assert row == {"question": "2+3?", "answer": "Two and three.\n#### 5"}
    assert read_lesson(row, "row").meta == {"expected": "5"}


CALLS = read_lesson({
    "messages": [
        {"role": "user", "content": "1+?"},
        {"role": "assistant", "content": [
            {"type": "reasoning", "value": "Add."}, {"type": "tool_call", "value": '{"name": "add", "arguments": {}}'},
        ]},
    ],
    "tools": [{"name": "add", "parameters": {"type": "object"}, "required": ["a"]}],
}, "row")  # fmt: skip


def test_parts_become_words_and_calls() -> None:
    last = CALLS.turns[-1]
    assert last.content == "<think>\nAdd.\n</think>\n\n" and last.tool_calls[0].name == "add"
    assert CALLS.tools[0]["function"] == {"name": "add", "parameters": {"type": "object", "required": ["a"]}}


@pytest.mark.parametrize(
    ("lesson", "target", "said"),
    [
        (LONG, "preference", "row is a conversation: preference says a preference"),
        (Preference(ASK, ("a", "b")), "gsm8k", "--to openai, sharegpt, alpaca, preference, ranked, hh, kto"),
        (Judgement(LONG, True), "alpaca", "is a judgement"),
        (CALLS, "alpaca", "with tools"),
        (CALLS, "sharegpt", "turn 1 speaks and calls"),
        (CALLS, "gsm8k", "one question and its answer"),
        (Preference(Conversation.of(("system", "x"), ("user", "y")), ("a", "b")), "hh", "turn 0 is of system"),
        (Preference(ASK, ("a\n\nHuman: forged", "b")), "hh", "would begin another turn"),
        (Conversation((*LONG.turns, Turn("assistant", "x"))), "gsm8k", "4 turns"),
    ],
)
def test_what_a_form_cannot_say_is_refused(lesson, target: str, said: str) -> None:
    with pytest.raises(AthanorError) as caught:
        export(lesson, target)
    assert said in str(caught.value) and str(caught.value).startswith("row")


# --------------------------------------------------------------------------------------------------------- transcripts


@settings(max_examples=200)
@given(st.lists(st.text(st.sampled_from("ab \nHuman:Assit"), min_size=1, max_size=30), min_size=1, max_size=6))
def test_a_transcript_is_its_turns_to_the_letter(contents: list[str]) -> None:
    turns = tuple(Turn("assistant" if n % 2 else "user", text) for n, text in enumerate(contents))
    try:
        text = transcript_of(turns, "it")
    except AthanorError:
        assert any("\n\nHuman:" in text or "\n\nAssistant:" in text for text in contents)
        return
    assert transcript_of(turns_of(text, "it"), "it") == text
    if not any(text.endswith("\n") for text in contents):
        assert turns_of(text, "it") == turns


@pytest.mark.parametrize(
    ("chosen", "rejected", "said"),
    [
        (
            "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c",
            "\n\nHuman: a\n\nAssistant: b",
            "chosen: turn 2 is of assistant",
        ),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nHuman: c\n\nAssistant: d", "rejected: turn 1 is of user"),
        ("\n\nHuman: a\n\nAssistant: ", "\n\nHuman: a\n\nAssistant: d", "chosen: turn 1 is empty"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: x\n\nAssistant: d", "differ from turn 0 on"),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "\n\nHuman: a\n\nAssistant: e", "from turn 1 on"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: b", "the same text"),
        ("\n\nHuman: a", "\n\nHuman: a\n\nAssistant: b", "chosen ends with user"),
    ],
)
def test_a_transcript_out_of_order_is_refused_by_row_and_turn(chosen: str, rejected: str, said: str) -> None:
    with pytest.raises(AthanorError) as caught:
        read_lesson({"chosen": chosen, "rejected": rejected}, "hh.jsonl line 3")
    assert said in str(caught.value) and "hh.jsonl line 3" in str(caught.value)


# --------------------------------------------------------------------------------------------- forms of other libraries

SAY = [{"role": "user", "content": "Say hi"}]
HI, NO = ({"role": "assistant", "content": text} for text in ("Hi!", "No."))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": SAY, "chosen": [HI], "rejected": [NO]},
        {"chosen": [*SAY, HI], "rejected": [*SAY, NO]},
        {"prompt": "Say hi", "chosen": [*SAY, HI], "rejected": [*SAY, NO], "score_chosen": 8.0},
        {"input": {"messages": SAY}, "preferred_output": [HI], "non_preferred_output": [NO]},
        {"instruction": "Say hi", "output_1": "No.", "output_2": "Hi!", "preference": 2, "generator_1": "x"},
        {"chosen": "\n\nHuman: Say hi\n\nAssistant: Hi!", "rejected": "\n\nHuman: Say hi\n\nAssistant: No."},
        {"instruction": "Say", "input": "hi", "chosen": "Hi!", "rejected": "No."},
    ],
)
def test_other_libraries_preferences_are_read(row) -> None:
    read = read_lesson(row, "row")
    assert read.answers == ("Hi!", "No.")
    assert [turn.content.replace("\n", " ") for turn in read.prompt.turns] == ["Say hi"]


def test_a_judgement_in_trls_form_is_read() -> None:
    row = {"prompt": SAY, "completion": [HI], "label": False}
    assert read_lesson(row, "row") == Judgement(Conversation.of(("user", "Say hi"), ("assistant", "Hi!")), False)
    assert read_lesson({**row, "completion": "Hi!"}, "row") == read_lesson(row, "row")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Hey", "chosen": [*SAY, HI], "rejected": [*SAY, NO]}, "not how chosen and rejected begin"),
        ({"chosen": [*SAY, HI], "rejected": [{"role": "user", "content": "x"}, NO]}, "differ from turn 0 on"),
        ({"prompt": SAY, "chosen": SAY, "rejected": [NO]}, "words of the assistant"),
        ({"instruction": "x", "output_1": "a", "output_2": "b", "preference": 0}, "preference is 0"),
        ({"input": {"messages": SAY}, "preferred_output": [HI]}, "rejected is None"),
        ({"prompt": SAY, "completion": 3, "label": True}, "completion is 3"),
    ],
)
def test_what_prefers_nothing_is_refused(row, said: str) -> None:
    with pytest.raises(AthanorError, match="row 9") as caught:
        read_lesson(row, "row 9")
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", KEYS)
def test_a_form_that_is_asked_for_must_be_there(kind) -> None:
    with pytest.raises(AthanorError, match="row 9"):
        read_lesson({"something": 1}, "row 9", kind)


WORDS = ["", "x", "user", "assistant", "human", "gpt", "[]"]
INNER = ["role", "content", "from", "value", "type", "text", "messages", "function", "name"]
OUTER = [
    "messages", "conversations", "prompt", "completion", "chosen", "rejected", "label", "instruction", "input",
    "output", "history", "system", "tools", "answers", "ranks", "question", "answer", "preferred_output", "output_1",
    "output_2", "preference", "meta", "source",
]  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(OUTER), values, max_size=6), st.sampled_from([None, *KEYS]))
def test_whatever_a_row_holds_it_is_read_or_refused(row, kind) -> None:
    try:
        lesson = read_lesson(row, "row 9", kind)
    except AthanorError as problem:
        assert "row 9" in problem.what
        return
    assert targets_of(type(lesson))


# ---------------------------------------------------------------------------------------------------------- real files

REAL = {  # file: (rows, refused, targets that say all that is read)
    "instruct/alpaca_en_demo": (999, 0, "openai sharegpt alpaca gsm8k"),
    "instruct/alpaca_zh_demo": (1_000, 0, "openai sharegpt alpaca gsm8k"),
    "instruct/alpaca_zh_20k": (20_465, 11, "openai"),  # eleven answers are empty
    "instruct/identity": (91, 0, "openai sharegpt alpaca gsm8k"),
    "instruct/v1_sft_demo": (500, 0, "openai sharegpt alpaca"),
    "instruct/fastchat_dummy_conversation": (500, 0, "openai sharegpt alpaca"),
    "instruct/glaive_toolcall_en_demo": (300, 0, "openai sharegpt"),
    "instruct/glaive_toolcall_zh_demo": (300, 2, "openai sharegpt"),  # two results without a call
    "instruct/reason_tool_use_demo_50": (50, 0, "openai"),
    "instruct/kto_en_demo": (300, 0, "openai sharegpt kto"),
    "instruct/dpo_en_demo": (300, 0, "openai sharegpt alpaca preference ranked"),
    "instruct/dpo_zh_demo": (300, 0, "openai sharegpt alpaca preference ranked"),
    "preference/hh_harmless": (1_800, 10, "openai sharegpt alpaca preference ranked hh"),
    "preference/alpaca_eval_gpt4_pairs": (1_610, 13, "openai sharegpt alpaca preference ranked hh"),
}  # fmt: skip


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real data sets are not here (ATHANOR_TEST_DATA)")
@pytest.mark.parametrize("name", REAL)
def test_real_rows_go_through_every_form_and_back(name: str) -> None:
    rows, refused, targets = REAL[name]
    with gzip.open(REAL_DATA / f"{name}.jsonl.gz", "rt") as file:
        lines = [json.loads(line) for line in file]
    bad = 0
    for number, row in enumerate(lines):
        try:
            lesson = read_lesson(row, f"row {number}")
        except AthanorError:
            bad += 1
            continue
        for target in targets.split():
            (written,) = again(lesson, target)
            assert _said(written) == _said(lesson), (number, target)
        if name == "preference/hh_harmless":
            assert export(lesson, "hh") == [row]
    assert (len(lines), bad) == (rows, refused)


def _said(lesson):
    """What a lesson says, without where it came from and what is known about it."""
    if isinstance(lesson, Preference):
        return lesson.prompt.turns, lesson.prompt.tools, lesson.answers
    one, good = (lesson.conversation, lesson.good) if isinstance(lesson, Judgement) else (lesson, None)
    return [(t.role, t.content, [(c.name, c.arguments) for c in t.tool_calls]) for t in one.turns], one.tools, good


# ----------------------------------------------------------------------------------------------------------- the steps


def test_preferences_become_rows_with_the_prompt_on_one_side(tmp_path: Path, run_step: RunStep) -> None:
    rows = [{"prompt": f"Say {n}", "chosen": f"{n}!", "rejected": f"no {k}"} for n in range(60) for k in range(3)]
    rows += [rows[0], {"prompt": "x", "chosen": "a", "rejected": "a"}, {"instruction": "x", "output": "y"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = run_step(read_preferences, InstructSettings(path=str(tmp_path / "pairs.jsonl"), heldout_share=0.2))
    train, apart = (list(read_records(made.file(name))) for name in (TRAIN, HELDOUT))
    assert len(train) + len(apart) == 180 and 10 < len(apart) < 80
    prompts = [{row["messages"][0]["content"] for row in part} for part in (train, apart)]
    assert not prompts[0] & prompts[1]
    assert all(isinstance(read_lesson(row, "row"), Preference) for row in train)
    assert (made.measurements["refused"], made.measurements["copies"]) == (2, 1)
    reasons = {row["reason"] for row in read_records(made.file("refused.jsonl"))}
    assert "holds a conversation, not a preference" in reasons
    judged = run_step(read_judgements, InstructSettings(path=str(tmp_path / "pairs.jsonl"), heldout_share=0.2))
    rows = [row for name in (TRAIN, HELDOUT) for row in read_records(judged.file(name))]
    assert sum(row["label"] for row in rows) == 60 and len(rows) == 60 + 180  # each good answer once
    sides = [{row["messages"][0]["content"] for row in read_records(judged.file(name))} for name in (TRAIN, HELDOUT)]
    assert not sides[0] & sides[1]


def test_every_form_has_a_writer() -> None:
    assert {kind for writers in WRITERS.values() for kind in writers} == {Conversation, Preference, Judgement}
