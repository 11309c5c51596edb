"""Instruction data in every form: read into one, written back, refused with its place when it contradicts itself."""

import gzip
import json
from pathlib import Path

import pytest

from athanor.base.errors import AthanorError
from athanor.base.records import read_records
from athanor.data.instruct.exports import to_alpaca, to_openai, to_sharegpt
from athanor.data.instruct.formats import Judgement, Preference, detect, read_lesson
from athanor.data.instruct.lessons import InstructSettings, fingerprint, kind_of, read_instructions, rows_of
from athanor.data.instruct.names import HELDOUT, TRAIN
from athanor.tokens.conversation import Conversation
from athanor.tokens.template import ChatTemplate, learnt_alone
from athanor.tokens.tokenizer import Tokenizer
from tests.conftest import REAL_DATA
from tests.data.conftest import RunStep

TOOL = {
    "name": "add",
    "description": "Adds.",
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
}
WHOLE = {"type": "function", "function": TOOL}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
SAME = {  # the same conversation in each form
    "openai": {"messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "2"},
    ]},
    "sharegpt": {"system": "Be brief.", "conversations": [
        {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}, {"from": "human", "value": "1+1"},
        {"from": "gpt", "value": "2"},
    ]},
    "alpaca": {
        "system": "Be brief.", "history": [["Hi", "Hello"]], "instruction": "1+1", "input": "", "output": "2",
    },
    "parts": {"messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be "}, {"type": "text", "value": "brief."}]},
        {"role": "user", "content": "Hi", "loss_weight": 0.0}, {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"},
    ]},
}  # fmt: skip


def test_a_prompt_and_its_completion_are_a_conversation() -> None:
    """TRL's two forms, of texts and of messages."""
    for prompt, completion in (("Hi", "Hello"), ([{"role": "user", "content": "Hi"}], [
        {"role": "assistant", "content": "Hello"}
    ])):  # fmt: skip
        lesson = read_lesson({"prompt": prompt, "completion": completion}, "row")
        assert lesson == Conversation.of(("user", "Hi"), ("assistant", "Hello"))


def test_a_developer_is_the_system() -> None:
    turns = [("developer", "Be brief."), ("user", "Hi"), ("assistant", "Hello")]
    lesson = read_lesson({"messages": [{"role": role, "content": text} for role, text in turns]}, "row")
    assert lesson == Conversation.of(("system", "Be brief."), *turns[1:])


@pytest.mark.parametrize("name", ["weight", "loss_weight", "train"])
def test_what_the_data_marks_is_not_learnt(name: str) -> None:
    """The mask of a conversation whose first answer has weight 0 is that of its second answer alone."""
    tokenizer = Tokenizer.train(["hello bad good"], 270)
    said = [("user", "hello"), ("assistant", "bad"), ("user", "hello"), ("assistant", "good")]
    rows: list[dict[str, object]] = [
        {"messages": [{"role": who, "content": text} for who, text in said]},
        {"conversations": [{"from": "human" if who == "user" else "gpt", "value": text} for who, text in said]},
    ]
    for row in rows:
        (turns,) = row.values()
        turns[1][name], turns[3][name] = (False, True) if name == "train" else (0.0, 1.0)
        lesson = read_lesson(row, "row")
        again = Conversation.from_row(json.loads(json.dumps(lesson.to_row())))
        assert again == lesson == read_lesson(to_sharegpt(lesson), "row")
        rendered = ChatTemplate(tokenizer).render(again)
        masked = learnt_alone(rendered, again)
        learnt = [number for number, said in zip(masked.ids, masked.mask, strict=True) if said]
        assert tokenizer.decode(learnt[:-1]) == "good" and sum(masked.mask) < sum(rendered.mask)
        with pytest.raises(AthanorError, match="Alpaca"):
            to_alpaca(lesson)
        turns[1][name] = 0.3
        with pytest.raises(AthanorError, match=r"weight 0\.3"):
            read_lesson(row, "row")


@pytest.mark.parametrize("form", SAME)
def test_every_form_says_the_same(form: str) -> None:
    expected = Conversation.of(
        ("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "1+1"), ("assistant", "2")
    )
    assert read_lesson(SAME[form], "row") == expected


@pytest.mark.parametrize("write", [to_openai, to_sharegpt, to_alpaca])
def test_what_is_written_is_read_again(write) -> None:
    lesson = read_lesson(SAME["openai"], "row")
    assert read_lesson(json.loads(json.dumps(write(lesson))), "row") == lesson


@pytest.mark.parametrize("tools", [[WHOLE], json.dumps([TOOL]), [TOOL]])
def test_calls_and_their_results(tools) -> None:
    turns = [
        {"from": "human", "value": "1+?"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "It is 2."},
    ]
    lesson = read_lesson({"conversations": turns, "tools": tools}, "row")
    assert [turn.role for turn in lesson.turns] == ["user", "assistant", "tool", "assistant"]
    assert lesson.turns[1].tool_calls[0].arguments == {"a": 1} and lesson.tools == (WHOLE,)
    openai = {"messages": [
        {"role": "user", "content": "1+?"}, {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "2"}, {"role": "assistant", "content": "It is 2."},
    ], "tools": [WHOLE]}  # fmt: skip
    assert read_lesson(openai, "row") == lesson
    assert read_lesson(to_sharegpt(lesson), "row") == lesson
    with pytest.raises(AthanorError, match="tools"):
        to_alpaca(lesson)


MOSS = {
    "meta_instruction": "You are MOSS.\n- Web search: disabled.\n- Calculator: enabled. API: Calculate(expression)\n",
    "chat": {
        "turn_1": {
            "Human": "<|Human|>: 1+1 和 2+2？<eoh>\n", "Inner Thoughts": "<|Inner Thoughts|>: 要算。<eot>\n",
            "Commands": '<|Commands|>: Calculate("1+1"), Calculate("2\\times 2")<eoc>\n',
            "Tool Responses": "<|Results|>:\nCalculate(\"1+1\") => 2\nCalculate(\"2\\times 2\") => '4'\n<eor>\n",
            "MOSS": "<|MOSS|>: 2 和 4。<eom>\n",
        },
        "turn_2": {
            "Human": "<|Human|>: 谢谢<eoh>\n", "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
            "Commands": "<|Commands|>: None<eoc>\n", "Tool Responses": "<|Results|>:\nNone\n<eor>\n",
            "MOSS": "<|MOSS|>: 不客气。<eom>\n",
        },
    },
}  # fmt: skip


def test_commands_of_moss_are_calls_of_what_it_offers() -> None:
    lesson = read_lesson(MOSS, "row")
    told = [(turn.role, turn.content) for turn in lesson.turns[1:]]
    assert told == [
        ("user", "1+1 和 2+2？"), ("assistant", "<think>\n要算。\n</think>\n\n"), ("tool", "2"), ("tool", "4"),
        ("assistant", "2 和 4。"), ("user", "谢谢"), ("assistant", "不客气。"),
    ]  # fmt: skip
    assert [call.arguments for call in lesson.turns[2].tool_calls] == [
        {"expression": "1+1"}, {"expression": "2\\times 2"},
    ]  # fmt: skip
    assert lesson.tools[0]["function"]["parameters"]["required"] == ["expression"] and len(lesson.tools) == 1
    assert read_lesson(json.loads(json.dumps(to_openai(lesson))), "row").turns[2:] == lesson.turns[2:]
    other = json.loads(json.dumps(MOSS).replace("Calculate(", "Solve(", 3).replace("API: Solve", "API: Calculate"))
    with pytest.raises(AthanorError, match="turn_1: Commands calls Solve"):
        read_lesson(other, "row")
    with pytest.raises(AthanorError, match=r'Name\("text"\)'):
        read_lesson(json.loads(json.dumps(MOSS).replace("None<eoc>", "None, as 1 + 1 = 2<eoc>")), "row")


def test_a_seed_of_self_instruct_is_a_question_and_its_answer() -> None:
    row = {"id": "seed_task_1", "instruction": "Which relation?", "instances": [{"input": "a : b", "output": "next"}]}
    assert read_lesson(row, "row") == Conversation.of(("user", "Which relation?\na : b"), ("assistant", "next"))
    with pytest.raises(AthanorError, match="one instance a row"):
        read_lesson({**row, "instances": row["instances"] * 2}, "row")


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="real data are not at hand")
@pytest.mark.parametrize(("name", "most_refused"), [("moss_conversations", 0.025), ("self_instruct_seed_tasks", 0)])
def test_real_rows_are_read(name: str, most_refused: float) -> None:
    """What MOSS's model wrote instead of a command (an explanation, arithmetic around a call) is refused by name."""
    with gzip.open(REAL_DATA / "instruct" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    refused = 0
    for row in rows:
        try:
            read_lesson(row, "row")
        except AthanorError as problem:
            refused += 1
            assert "Commands" in str(problem)
    assert refused <= most_refused * len(rows)


def test_the_result_of_a_problem_is_kept() -> None:
    lesson = read_lesson({"question": "2+3?", "answer": "Two and three.\n#### 5"}, "row")
    assert lesson.meta == {"expected": "5"} and lesson.turns[1].content.endswith("#### 5")
    assert read_lesson({"question": "2+3?", "answer": "5"}, "row").meta == {}


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Say hi", "chosen": "Hi!", "rejected": "No."},
        {"prompt": "Say hi", "chosen": [{"role": "user", "content": "Say hi"}, {"role": "assistant", "content": "Hi!"}],
         "rejected": {"role": "assistant", "content": "No."}},
        {"conversations": [{"from": "human", "value": "Say hi"}], "chosen": {"from": "gpt", "value": "Hi!"},
         "rejected": {"from": "gpt", "value": "No."}},
        {"prompt": "Say hi", "answers": ["No.", "Hi!"], "ranks": [2, 1]},
    ],
)  # fmt: skip
def test_preferences_have_the_best_answer_first(row) -> None:
    assert detect(row, "row") == "preference"
    assert read_lesson(row, "row") == Preference(Conversation.of(("user", "Say hi")), ("Hi!", "No."))


@pytest.mark.parametrize("good", [True, False])
def test_judgements(good: bool) -> None:
    expected = Judgement(Conversation.of(("user", "Hi"), ("assistant", "Hello")), good)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert read_lesson({"messages": messages, "label": good}, "row") == expected
    assert read_lesson({"prompt": "Hi", "completion": "Hello", "label": good}, "row") == expected


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"a": 1}, "has the keys a"),
        ({}, "has the keys none"),
        ({"instruction": "x", "output": ""}, "output is ''"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "turn 0 is of assistant, first"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "ends with user"),
        (
            {"conversations": [{"from": "human", "value": "x"}, {"from": "observation", "value": "y"}]},
            "turn 1 is of tool",
        ),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "turn 0 is"),
        ({"conversations": []}, "conversations is"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "part that is no text"),
        ({"prompt": "x", "chosen": "a", "rejected": "a"}, "the same text"),
        ({"prompt": "x", "answers": ["a", "b"], "ranks": [1, 1]}, "different numbers"),
        ({"prompt": "x", "answers": ["a"], "ranks": [1]}, "same length"),
        ({"chosen": "a", "rejected": "b"}, "no prompt"),
        ({"instruction": "x", "output": "y", "history": [["only one"]]}, "history 0"),
        ({"instruction": "x", "output": "y", "tools": "{"}, "no JSON"),
    ],
)
def test_what_contradicts_itself_is_refused_with_its_place(row, said: str) -> None:
    with pytest.raises(AthanorError) as caught:
        read_lesson(row, "file.jsonl line 7")
    assert said in str(caught.value) and "file.jsonl line 7" in str(caught.value)


def test_the_step_reads_files_of_every_kind(tmp_path: Path, run_step: RunStep) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps([SAME["alpaca"], {"instruction": "x", "output": ""}]))
    with gzip.open(folder / "b.jsonl.gz", "wt") as file:
        rows = [{"question": f"{number}+1?", "answer": str(number + 1)} for number in range(200)]
        file.write("".join(json.dumps(row) + "\n" for row in rows) + "not json\n")
    (folder / "c.jsonl").write_text(
        json.dumps(SAME["openai"]) + "\n\n" + json.dumps({"prompt": "x", "label": True}) + "\n"
    )
    (folder / "notes.txt").write_text("not read")
    made = run_step(read_instructions, InstructSettings(path=str(folder), heldout_share=0.1))
    train, apart = (list(read_records(made.file(name))) for name in (TRAIN, HELDOUT))
    assert len(train) + len(apart) == 201 and 5 < len(apart) < 45
    assert made.measurements["refused"] == 3 and made.measurements["copies"] == 1
    assert {row["row"] for row in read_records(made.file("refused.jsonl"))} == {
        "a.json row 2", "b.jsonl.gz line 201", "c.jsonl line 3",
    }  # fmt: skip
    assert all(Conversation.from_row(row).turns for row in train)
    with pytest.raises(AthanorError, match=r"a\.json row 2: output"):
        run_step(read_instructions, InstructSettings(path=str(folder), on_error="refuse"))


def test_what_holds_nothing_is_refused(tmp_path: Path, run_step: RunStep) -> None:
    with pytest.raises(AthanorError, match="no instruction data"):
        fingerprint(InstructSettings(path=str(tmp_path)))
    (tmp_path / "a.jsonl").write_text('{"instruction": "x", "output": ""}\n')
    with pytest.raises(AthanorError, match="no conversation"):
        run_step(read_instructions, InstructSettings(path=str(tmp_path)))
    for content, problem in (
        ("words", "begins with"),
        ('[{"instruction": "x"', "ends too early: in row 1"),
        ("", "empty"),
    ):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(AthanorError, match=problem):
            run_step(read_instructions, InstructSettings(path=str(tmp_path / "a.json")))


def test_reasons_that_begin_with_a_quoted_word_are_not_empty() -> None:
    assert kind_of("'messages' must be a list, not 'x'") == kind_of("'messages' must be a list, not []").replace(
        "[]", "…"
    )
    assert kind_of("turn 3 is {'from': 'alien', 'val") == "turn … is {…: …,"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("name", ["list.json", "pretty.json", "lines.json", "lines.jsonl"])
def test_lists_and_lines_in_the_encodings_of_chinese_windows(tmp_path: Path, name: str, encoding: str) -> None:
    rows = [
        {"instruction": f"第{number}个问题：今天的天气怎么样？", "output": "天气很好，我们去公园。"}
        for number in range(9)
    ]
    as_lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    as_list = json.dumps(rows, ensure_ascii=False, indent=2 if name.startswith("pretty") else None)
    (tmp_path / name).write_text(as_lines if name.startswith("lines") else as_list, encoding=encoding)
    assert [row for _, row in rows_of(tmp_path / name)] == rows
