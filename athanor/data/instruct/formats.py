"""Instruction data as people keep it, read into one form and written back: Alpaca, ShareGPT, OpenAI messages, GSM8K;
preferences (chosen and rejected, or K answers from best to worst) and single judgements (KTO).

A row is one JSON object. Its format is told by its keys; what contradicts itself or has its roles out of order is
refused with its place.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from athanor.base.errors import AthanorError
from athanor.tokens.conversation import Conversation, Turn, json_arguments, read_object

Row = Mapping[str, Any]
Format = Literal["openai", "sharegpt", "alpaca", "gsm8k", "preference", "judgement"]
SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "system": "system", "function_call": "call", "observation": "tool", "tool": "tool",
}  # fmt: skip
AFTER = {  # who may speak after whom; "" is the beginning
    "": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",),
    "call": ("tool",), "tool": ("tool", "assistant"),
}  # fmt: skip


@dataclass(frozen=True)
class Preference:
    """A prompt and its answers, the best first."""

    prompt: Conversation
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Judgement:
    """A whole conversation, and whether its last answer is good."""

    conversation: Conversation
    good: bool


Lesson = Conversation | Preference | Judgement


def detect(row: Row, where: str) -> Format:
    """The format of a row, by its keys.

    Raises:
        AthanorError: the keys are of no format we know.
    """
    if "chosen" in row and "rejected" in row:
        return "preference"
    if "answers" in row and "ranks" in row:
        return "preference"
    if isinstance(row.get("label"), bool):
        return "judgement"
    if "messages" in row:
        return "openai"
    if "conversations" in row:
        return "sharegpt"
    if "instruction" in row and "output" in row:
        return "alpaca"
    if "question" in row and "answer" in row:
        return "gsm8k"
    raise AthanorError(
        f"{where} has the keys {', '.join(map(str, row)) or 'none'}",
        allowed="messages · conversations · instruction and output · question and answer · chosen and rejected · "
        "answers and ranks · messages or prompt with label",
        fix="bring it into one of these forms",
    )


def read_lesson(row: Row, where: str, kind: Format | None = None) -> Lesson:
    """A row as a conversation, a preference or a judgement.

    Args:
        kind: its format; None: told by its keys.

    Raises:
        AthanorError: names the place and what is wrong.
    """
    kind = kind or detect(row, where)
    if kind == "preference":
        return read_preference(row, where)
    if kind == "judgement":
        return Judgement(in_order(conversation_of(row, where), where), bool(row["label"]))
    return in_order(READERS[kind](row, where), where)


def conversation_of(row: Row, where: str) -> Conversation:
    """The conversation in a row that holds more: messages, ShareGPT's turns, or a prompt with its completion."""
    if "messages" in row:
        return read_openai(row, where)
    if "conversations" in row:
        return read_sharegpt(row, where)
    turns = [Turn("user", text_of(row, "prompt" if "prompt" in row else "instruction", where))]
    if "completion" in row:
        turns.append(Turn("assistant", text_of(row, "completion", where)))
    return Conversation((*system_of(row, where), *turns), tools=tools_of(row, where))


def read_openai(row: Row, where: str) -> Conversation:
    """{"messages": [{"role", "content"}], "tools": […]}; content may be a list of texts, which are joined."""
    messages = row["messages"]
    if isinstance(messages, list):
        messages = [plain_message(message, f"{where}: message {number}") for number, message in enumerate(messages)]
    tools = [dict(tool) for tool in tools_of(row, where)]
    known = {key: row[key] for key in ("source", "meta") if key in row}
    return Conversation.from_row({"messages": messages, **({"tools": tools} if tools else {}), **known}, where)


def plain_message(message: Any, where: str) -> Any:
    """A message whose parts, if it is made of parts, are joined to one text."""
    if not isinstance(message, dict):
        return message
    message = {key: value for key, value in message.items() if key not in ("loss_weight", "weight")}
    parts = message.get("content")
    if not isinstance(parts, list):
        return message
    texts = []
    for part in parts:
        text = part.get("text", part.get("value")) if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise AthanorError(f"{where} has a part that is no text: {part!r:.100}", allowed='{"type": "text", …}')
        texts.append(text)
    return {**message, "content": "".join(texts)}


def read_sharegpt(row: Row, where: str) -> Conversation:
    """{"conversations": [{"from": "human", "value": …}, …], "system": …, "tools": …}."""
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns:
        raise AthanorError(f"{where}: conversations is {turns!r:.80}", allowed="a list of turns")
    said = [read_speaker(turn, f"{where}: turn {number}") for number, turn in enumerate(turns)]
    return Conversation((*system_of(row, where), *said), tools=tools_of(row, where))


def read_speaker(turn: Any, where: str) -> Turn:
    """One turn of ShareGPT's form."""
    speaker = SPEAKERS.get(str(turn.get("from", turn.get("role")))) if isinstance(turn, dict) else None
    if speaker is None:
        raise AthanorError(f"{where} is {turn!r:.100}", allowed=f'"from" one of {", ".join(SPEAKERS)}')
    value = turn.get("value", turn.get("content"))
    if not isinstance(value, str):
        raise AthanorError(f"{where} says {value!r:.80}", allowed="a text")
    if speaker == "call":
        message = {"role": "assistant", "content": "", "tool_calls": calls_of(value, where)}
        return Conversation.from_row({"messages": [message]}, where).turns[0]
    return Turn(speaker, value)  # type: ignore[arg-type]


def calls_of(value: str, where: str) -> list[dict[str, Any]]:
    """Calls from a function_call turn: one object, or a list of them, each with name and arguments."""
    found = read_object(f'{{"calls": {value}}}', where)["calls"]
    calls = found if isinstance(found, list) else [found]
    if not all(isinstance(call, dict) and set(call) == {"name", "arguments"} for call in calls):
        raise AthanorError(f"{where} calls {value!r:.100}", allowed='{"name": …, "arguments": {…}}, or a list of them')
    return [{"type": "function", "function": call} for call in calls]


def read_alpaca(row: Row, where: str) -> Conversation:
    """{"instruction", "input", "output", "system", "history": [[question, answer], …]}."""
    turns: list[Turn] = []
    for number, pair in enumerate(row.get("history") or ()):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise AthanorError(f"{where}: history {number} is {pair!r:.80}", allowed="[question, answer]")
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    asked = text_of(row, "instruction", where)
    more = row.get("input") or ""
    if not isinstance(more, str):
        raise AthanorError(f"{where}: input is {more!r:.80}", allowed="a text")
    turns += [Turn("user", f"{asked}\n{more}" if more else asked), Turn("assistant", text_of(row, "output", where))]
    return Conversation((*system_of(row, where), *turns), tools=tools_of(row, where))


def read_gsm8k(row: Row, where: str) -> Conversation:
    """{"question", "answer"}; what follows #### in the answer is kept as the expected result."""
    answer = text_of(row, "answer", where)
    reasoning, mark, result = answer.rpartition("####")
    meta = {"expected": result.strip()} if mark else {}
    turns = (Turn("user", text_of(row, "question", where)), Turn("assistant", answer))
    return Conversation((*system_of(row, where), *turns), meta=meta if reasoning or meta else {})


READERS: Mapping[str, Callable[[Row, str], Conversation]] = {
    "openai": read_openai, "sharegpt": read_sharegpt, "alpaca": read_alpaca, "gsm8k": read_gsm8k,
}  # fmt: skip


def read_preference(row: Row, where: str) -> Preference:
    """A prompt with chosen and rejected, or with answers and their ranks (1 is the best, equal ranks are refused)."""
    if "chosen" in row:
        answers = [answer_of(row[key], f"{where}: {key}") for key in ("chosen", "rejected")]
    else:
        answers = ranked(row["answers"], row["ranks"], where)
    if len(set(answers)) < len(answers):
        raise AthanorError(f"{where}: two answers are the same text, so neither is better")
    has_prompt = any(key in row for key in ("messages", "conversations", "prompt", "instruction"))
    prompt = conversation_of(row, where) if has_prompt else None
    if prompt is None:
        raise AthanorError(f"{where} has no prompt", allowed="messages, conversations, prompt or instruction")
    if prompt.turns[-1].role not in ("user", "tool"):
        raise AthanorError(f"{where}: the prompt ends with {prompt.turns[-1].role}", allowed="user or tool")
    in_order(Conversation((*prompt.turns, Turn("assistant", answers[0])), tools=prompt.tools), where)
    return Preference(prompt, tuple(answers))


def answer_of(value: Any, where: str) -> str:
    """An answer given as a text, as a message, or as a list that ends with one."""
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict):
        value = value.get("value", value.get("content"))
    if not isinstance(value, str) or not value.strip():
        raise AthanorError(f"{where} is {value!r:.80}", allowed="a text, or a message of the assistant")
    return value


def ranked(answers: Any, ranks: Any, where: str) -> list[str]:
    """Answers from best to worst."""
    if not isinstance(answers, list) or not isinstance(ranks, list) or len(answers) != len(ranks) or len(answers) < 2:
        raise AthanorError(f"{where}: answers and ranks", allowed="two lists of the same length, at least 2")
    if not all(type(rank) in (int, float) for rank in ranks) or len(set(ranks)) < len(ranks):
        raise AthanorError(f"{where}: ranks {ranks!r:.80}", allowed="different numbers, the smallest for the best")
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    return [answer_of(answers[number], f"{where}: answer {number}") for number in order]


def in_order(conversation: Conversation, where: str) -> Conversation:
    """The conversation, if its speakers follow one another as they should and the assistant speaks last.

    Raises:
        AthanorError: names the turn that is out of order.
    """
    before = ""
    for number, turn in enumerate(conversation.turns):
        if turn.role not in AFTER[before]:
            after = f"after {before.replace('call', 'a tool call')}" if before else "first"
            raise AthanorError(
                f"{where}: turn {number} is of {turn.role}, {after}", allowed=" or ".join(AFTER[before]),
                fix="put the turns in order, or leave the row out",
            )  # fmt: skip
        before = "call" if turn.tool_calls else turn.role
    if before != "assistant":
        raise AthanorError(f"{where} ends with {conversation.turns[-1].role}", allowed="an answer of the assistant")
    return conversation


def text_of(row: Row, key: str, where: str) -> str:
    """A text of a row that must be there and not empty."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise AthanorError(f"{where}: {key} is {value!r:.80}", allowed="a text")
    return value


def system_of(row: Row, where: str) -> tuple[Turn, ...]:
    """The system's turn of a row, if it has one."""
    return (Turn("system", text_of(row, "system", where)),) if row.get("system") else ()


def tools_of(row: Row, where: str) -> tuple[Mapping[str, Any], ...]:
    """The tools of a row: a list or its JSON text, of functions in OpenAI's form or bare."""
    tools = row.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except ValueError as problem:
            raise AthanorError(f"{where}: tools are no JSON: {problem}") from problem
    if not tools:
        return ()
    if not isinstance(tools, list):
        raise AthanorError(f"{where}: tools are {tools!r:.80}", allowed="a list of functions")
    whole = [
        tool if isinstance(tool, dict) and "function" in tool else {"type": "function", "function": tool}
        for tool in tools
    ]
    asked = {"role": "user", "content": "?"}
    return Conversation.from_row({"messages": [asked], "tools": whole}, where).tools


# ------------------------------------------------------------------------------------------------------------- writing


def to_openai(conversation: Conversation) -> dict[str, Any]:
    """OpenAI's form."""
    return conversation.to_row()


def to_sharegpt(conversation: Conversation) -> dict[str, Any]:
    """ShareGPT's form; each call is a turn of its own."""
    names = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}
    turns: list[dict[str, str]] = []
    for turn in conversation.turns:
        if turn.content or not turn.tool_calls:
            turns.append({"from": names[turn.role], "value": turn.content})
        if turn.tool_calls:
            calls = [json_call(call.name, call.arguments) for call in turn.tool_calls]
            turns.append({"from": "function_call", "value": calls[0] if len(calls) == 1 else f"[{', '.join(calls)}]"})
    tools = {"tools": json.dumps([dict(tool) for tool in conversation.tools], ensure_ascii=False)}
    return {"conversations": turns, **(tools if conversation.tools else {})}


def json_call(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as ShareGPT's function_call turn has it."""
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {json_arguments(arguments)}}}'


def to_alpaca(conversation: Conversation) -> dict[str, Any]:
    """Alpaca's form.

    Raises:
        AthanorError: tools and calls, which it cannot say.
    """
    turns = [turn for turn in conversation.turns if turn.role != "system"]
    if conversation.tools or any(turn.role == "tool" or turn.tool_calls for turn in turns):
        raise AthanorError("a conversation with tools", allowed="openai or sharegpt; Alpaca's form has none")
    pairs = [[turns[place].content, turns[place + 1].content] for place in range(0, len(turns), 2)]
    (asked, answer), history = pairs[-1], pairs[:-1]
    system = [turn.content for turn in conversation.turns if turn.role == "system"]
    row: dict[str, Any] = {"instruction": asked, "input": "", "output": answer}
    return {**row, **({"history": history} if history else {}), **({"system": system[0]} if system else {})}
