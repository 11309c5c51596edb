"""Conversations with plugins as MOSS keeps them (Sun et al. 2023): each turn with its thoughts, commands and results.

Thoughts are put before what they led to as <think>…</think>, where reasoning models write them. A command is a call of
a function with one text, `Search("…")`; the functions and the name of that text stand in the meta instruction.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from athanor.base.errors import AthanorError
from athanor.tokens.conversation import Conversation, ToolCall, Turn

PARTS = ("Human", "Inner Thoughts", "Commands", "Tool Responses", "MOSS")
WRAPPED = re.compile(r"\s*<\|[\w ]+\|>:\s?(.*?)(?:<eo\w>)?\s*", re.DOTALL)
COMMAND = re.compile(r'(\w+)\("((?:[^"\\\n]|\\.)*)"\)')
OFFERED = re.compile(r"^- ([\w -]+): enabled\. API: (\w+)\((\w+)\)\s*$", re.MULTILINE)
NOTHING = ("", "none", "none.")


def read_moss(row: Mapping[str, Any], where: str) -> Conversation:
    """{"meta_instruction": …, "chat": {"turn_1": {"Human", "Inner Thoughts", "Commands", "Tool Responses", "MOSS"}}}.

    Raises:
        AthanorError: names the turn and the part that cannot be read, or the command that is no call of a function.
    """
    chat, about = row["chat"], row.get("meta_instruction") or ""
    if not isinstance(chat, dict) or not chat or not isinstance(about, str):
        raise AthanorError(f"{where}: chat is {chat!r:.80}", allowed='turns by name, and "meta_instruction" a text')
    offered = {name: (title, parameter) for title, name, parameter in OFFERED.findall(about)}
    turns = [Turn("system", about)] if about.strip() else []
    for name, parts in chat.items():
        turns += turns_of(parts, offered, f"{where}: {name}")
    return Conversation(tuple(turns), tools=tuple(tool(name, *rest) for name, rest in offered.items()))


def turns_of(parts: Any, offered: Mapping[str, tuple[str, str]], where: str) -> Iterator[Turn]:
    """What one turn of the chat is for others: a question, perhaps calls and their results, the answer."""
    if not isinstance(parts, dict) or set(parts) != set(PARTS):
        raise AthanorError(f"{where} is {parts!r:.80}", allowed=", ".join(PARTS))
    asked, thought, command, results, answer = (unwrapped(parts[part], f"{where}: {part}") for part in PARTS)
    calls = tuple(calls_of(command, offered, f"{where}: Commands"))
    thinking = "" if thought.lower() in NOTHING else f"<think>\n{thought}\n</think>\n\n"
    yield Turn("user", asked)
    if calls:
        yield Turn("assistant", thinking, tool_calls=calls)
        for call, result in zip(calls, results_of(results, calls), strict=True):
            yield Turn("tool", result, name=call.name)
        thinking = ""
    yield Turn("assistant", thinking + answer)


def unwrapped(value: Any, where: str) -> str:
    """A part without the marks around it."""
    found = WRAPPED.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise AthanorError(f"{where} is {value!r:.80}", allowed="<|…|>: a text<eo…>")
    return found[1].strip()


def calls_of(command: str, offered: Mapping[str, tuple[str, str]], where: str) -> Iterator[ToolCall]:
    """The calls of a line of commands."""
    if command.lower() in NOTHING:
        return
    if COMMAND.sub("", command).replace(",", "").strip():
        raise AthanorError(f"{where}: {command!r:.100}", allowed='Name("text"), Name("text") …, or None')
    for name, text in COMMAND.findall(command):
        if name not in offered:
            raise AthanorError(
                f"{where} calls {name}", allowed=f"what the meta instruction offers: {', '.join(offered)}"
            )
        yield ToolCall(name, {offered[name][1]: text.replace('\\"', '"')})  # other backslashes are those of formulas


def results_of(results: str, calls: tuple[ToolCall, ...]) -> list[str]:
    """The result of each call: `Name("text") => …`, in their order; not told apart, all of it is the first one's."""
    heads = [found.start() for found in re.finditer(r"^\w+\(.*\) ?=>", results, re.MULTILINE)]
    if len(heads) != len(calls) or heads[0] != 0:
        return [results, *([""] * (len(calls) - 1))]
    ends = [*heads[1:], len(results)]
    each = [results[start:end].partition("=>")[2].strip() for start, end in zip(heads, ends, strict=True)]
    return [one.strip("'") if one.count("'") == 2 else one for one in each]


def tool(name: str, title: str, parameter: str) -> dict[str, Any]:
    """A plugin as a function in OpenAI's form."""
    takes = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return {"type": "function", "function": {"name": name, "description": title, "parameters": takes}}
