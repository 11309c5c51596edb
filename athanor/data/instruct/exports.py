"""Conversations, preferences and judgements written in the form another program reads; `formats` reads each again.

What a form cannot say is refused, never left out.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from athanor.base.errors import AthanorError
from athanor.data.instruct.formats import Judgement, Lesson, Preference
from athanor.data.instruct.transcripts import transcript_of
from athanor.tokens.conversation import Conversation, Turn, json_arguments

Target = Literal["openai", "sharegpt", "alpaca", "gsm8k", "preference", "ranked", "hh", "kto"]
SPEAKERS = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}
Rows = list[dict[str, Any]]


def export(lesson: Lesson, target: Target, where: str = "row") -> Rows:
    """The rows that say a lesson in another form: one, or for K ranked answers one of each pair.

    Raises:
        AthanorError: the form cannot say it.
    """
    kind = type(lesson)
    writers = WRITERS[target]
    if kind not in writers:
        known = ", ".join(NAMES[one] for one in writers)
        raise AthanorError(
            f"{where} is {NAMES[kind]}: {target} says {known}", fix=f"--to {', '.join(targets_of(kind))}"
        )
    try:
        return writers[kind](lesson)
    except AthanorError as problem:
        raise AthanorError(f"{where}: {problem.what}", allowed=problem.allowed, fix=problem.fix) from None


def targets_of(kind: type[Lesson]) -> list[str]:
    """The forms that can say a kind of lesson."""
    return [target for target, writers in WRITERS.items() if kind in writers]


# ------------------------------------------------------------------------------------------------------- conversations


def to_openai(conversation: Conversation) -> dict[str, Any]:
    """OpenAI's form: {"messages", "tools"}."""
    return conversation.to_row()


def to_sharegpt(conversation: Conversation) -> dict[str, Any]:
    """ShareGPT's form; calls are a turn of their own.

    Raises:
        AthanorError: a turn speaks and calls, which the form cannot say.
    """
    turns: list[dict[str, Any]] = []
    for number, turn in enumerate(conversation.turns):
        if turn.content and turn.tool_calls:
            raise AthanorError(f"turn {number} speaks and calls a tool", allowed="openai; ShareGPT has one of the two")
        calls = [json_call(call.name, call.arguments) for call in turn.tool_calls]
        if calls:
            turns.append({"from": "function_call", "value": calls[0] if len(calls) == 1 else f"[{', '.join(calls)}]"})
        else:
            turns.append({"from": SPEAKERS[turn.role], "value": turn.content})
        if not turn.learnt:
            turns[-1]["weight"] = 0
    tools = {"tools": json.dumps([dict(tool) for tool in conversation.tools], ensure_ascii=False)}
    return {"conversations": turns, **(tools if conversation.tools else {})}


def json_call(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as ShareGPT's function_call turn has it."""
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {json_arguments(arguments)}}}'


def refuse_weights(conversation: Conversation, form: str) -> None:
    """Refuse turns that are not to be learnt, which a form cannot say."""
    if not all(turn.learnt for turn in conversation.turns):
        raise AthanorError(f"a turn with weight 0, which {form} cannot say", allowed="openai or sharegpt")


def to_alpaca(conversation: Conversation) -> dict[str, Any]:
    """Alpaca's form.

    Raises:
        AthanorError: tools and calls, which it cannot say.
    """
    refuse_weights(conversation, "Alpaca's form")
    *begun, answer = conversation.turns
    return {**_asked(Conversation(tuple(begun), tools=conversation.tools)), "output": answer.content}


def _asked(prompt: Conversation) -> dict[str, Any]:
    """Alpaca's instruction, history and system."""
    turns = [turn for turn in prompt.turns if turn.role != "system"]
    if prompt.tools or any(turn.role == "tool" or turn.tool_calls for turn in turns):
        raise AthanorError("a conversation with tools", allowed="openai or sharegpt; Alpaca's form has none")
    pairs = [[turns[place].content, turns[place + 1].content] for place in range(0, len(turns) - 1, 2)]
    system = [turn.content for turn in prompt.turns if turn.role == "system"]
    row: dict[str, Any] = {"instruction": turns[-1].content, "input": ""}
    return {**row, **({"history": pairs} if pairs else {}), **({"system": system[0]} if system else {})}


def to_gsm8k(conversation: Conversation) -> dict[str, Any]:
    """GSM8K's form (Cobbe et al. 2021): {"question", "answer"}, the result behind #### where it is known.

    Raises:
        AthanorError: there is more than one question.
    """
    refuse_weights(conversation, "GSM8K's form")
    system = [turn.content for turn in conversation.turns if turn.role == "system"]
    said = [turn for turn in conversation.turns if turn.role != "system"]
    if [turn.role for turn in said] != ["user", "assistant"] or said[1].tool_calls or conversation.tools:
        raise AthanorError(f"a conversation of {len(said)} turns", allowed="one question and its answer, without tools")
    answer, expected = said[1].content, conversation.meta.get("expected")
    if expected is not None and "####" not in answer:
        answer = f"{answer}\n#### {expected}"
    return {"question": said[0].content, "answer": answer, **({"system": system[0]} if system else {})}


# --------------------------------------------------------------------------------------------------------- preferences


def pairs_of(preference: Preference) -> list[tuple[str, str]]:
    """(better, worse) of every two answers: InstructGPT learns from all K(K-1)/2 (Ouyang et al. 2022, section 3.5)."""
    answers = preference.answers
    return [(better, worse) for place, better in enumerate(answers) for worse in answers[place + 1 :]]


def to_preference(preference: Preference) -> Rows:
    """TRL's form: {"prompt": messages, "chosen": [message], "rejected": [message]}."""
    row = preference.prompt.to_row()
    prompt = row.pop("messages")
    return [{"prompt": prompt, "chosen": [_said(a)], "rejected": [_said(b)], **row} for a, b in pairs_of(preference)]


def _said(answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer}


def to_openai_preference(preference: Preference) -> Rows:
    """OpenAI's form: {"input": {"messages"}, "preferred_output", "non_preferred_output"}."""
    row = preference.prompt.to_row()
    inside = {key: row[key] for key in ("messages", "tools") if key in row}
    return [
        {"input": inside, "preferred_output": [_said(better)], "non_preferred_output": [_said(worse)]}
        for better, worse in pairs_of(preference)
    ]


def to_sharegpt_preference(preference: Preference) -> Rows:
    """ShareGPT's form of LLaMA-Factory: {"conversations", "chosen", "rejected"}."""
    row = to_sharegpt(preference.prompt)
    return [
        {**row, "chosen": {"from": "gpt", "value": better}, "rejected": {"from": "gpt", "value": worse}}
        for better, worse in pairs_of(preference)
    ]


def to_alpaca_preference(preference: Preference) -> Rows:
    """Alpaca's form of LLaMA-Factory: {"instruction", "chosen", "rejected"}."""
    row = _asked(preference.prompt)
    return [{**row, "chosen": better, "rejected": worse} for better, worse in pairs_of(preference)]


def to_transcripts(preference: Preference) -> Rows:
    """HH-RLHF's form: two whole transcripts."""
    if preference.prompt.tools:
        raise AthanorError("a prompt with tools", allowed="openai, sharegpt or preference; a transcript has none")

    def whole(answer: str) -> str:
        return transcript_of((*preference.prompt.turns, Turn("assistant", answer)), "the transcript")

    return [{"chosen": whole(better), "rejected": whole(worse)} for better, worse in pairs_of(preference)]


def to_ranked(preference: Preference) -> Rows:
    """Our own form: {"messages", "answers", "ranks"}, one row whatever the number of answers."""
    return [preference.to_row()]


# ---------------------------------------------------------------------------------------------------------- judgements


def to_kto(judgement: Judgement) -> dict[str, Any]:
    """TRL's form for KTO (Ethayarajh et al. 2024): {"prompt": messages, "completion": [message], "label"}."""
    row = judgement.conversation.to_row()
    *prompt, completion = row.pop("messages")
    return {"prompt": prompt, "completion": [completion], "label": judgement.good, **row}


def judged(preference: Preference) -> list[Judgement]:
    """The best answer as a good one and the worst as a bad one; those between are neither."""
    prompt, answers = preference.prompt, preference.answers
    return [
        Judgement(
            Conversation((*prompt.turns, Turn("assistant", text)), prompt.source, prompt.meta, prompt.tools), good
        )
        for text, good in ((answers[0], True), (answers[-1], False))
    ]


def _one(write: Callable[[Any], dict[str, Any]]) -> Callable[[Any], Rows]:
    return lambda lesson: [write(lesson)]


NAMES: Mapping[type[Lesson], str] = {
    Conversation: "a conversation",
    Preference: "a preference",
    Judgement: "a judgement",
}
WRITERS: Mapping[Target, Mapping[type[Lesson], Callable[[Any], Rows]]] = {
    "openai": {
        Conversation: _one(to_openai), Preference: to_openai_preference, Judgement: _one(lambda one: one.to_row()),
    },
    "sharegpt": {
        Conversation: _one(to_sharegpt), Preference: to_sharegpt_preference,
        Judgement: _one(lambda one: {**to_sharegpt(one.conversation), "label": one.good}),
    },
    "alpaca": {Conversation: _one(to_alpaca), Preference: to_alpaca_preference},
    "gsm8k": {Conversation: _one(to_gsm8k)},
    "preference": {Preference: to_preference},
    "ranked": {Preference: to_ranked},
    "hh": {Preference: to_transcripts},
    "kto": {Judgement: _one(to_kto), Preference: lambda one: [to_kto(judgement) for judgement in judged(one)]},
}  # fmt: skip
