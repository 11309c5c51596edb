"""The conversation: turns of a system, a user, an assistant and tools, as every chat format knows them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, get_args

from athanor.base.errors import AthanorError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)
MESSAGE_KEYS = {  # what a message of each role may hold beside its role
    "system": ("content",), "user": ("content",), "assistant": ("content", "tool_calls", "weight"),
    "tool": ("content", "name", "tool_call_id"),
}  # fmt: skip
ROW_KEYS = ("messages", "tools", "source", "meta")
FUNCTION_KEYS = ("name", "description", "parameters", "strict")


@dataclass(frozen=True)
class ToolCall:
    """The assistant's wish to call a function with `arguments`, a JSON object; `id` is the client's, never rendered."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True)
class Turn:
    """What one participant says.

    Attributes:
        tool_calls: what the assistant calls after it has said `content`.
        learnt: False where fine-tuning passes over what the assistant says here (`"weight": 0` in OpenAI's form).
        name, tool_call_id: which call a tool's turn answers. Results stand in the order of their calls, which is what
            our template renders; templates of other models may write the names.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None
    learnt: bool = True


@dataclass(frozen=True)
class Conversation:
    """Turns in order, where they came from, and what is known about them (skill, language, expected answer).

    Attributes:
        tools: the functions that the assistant may call, in OpenAI's form: {"type": "function", "function": {…}}.
    """

    turns: tuple[Turn, ...]
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, *turns: tuple[Role, str], source: str = "", **meta: Any) -> "Conversation":
        """Short form: `Conversation.of(("user", "Hi"), ("assistant", "Hello"))`."""
        return cls(tuple(Turn(role, content) for role, content in turns), source, meta)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], where: str = "conversation") -> "Conversation":
        """Read OpenAI's form: {"messages": [{"role": …, "content": …}], "tools": […], "source": …, "meta": …}.

        Raises:
            AthanorError: names the place (`where`) and the field.
        """
        _refuse_unknown(row, ROW_KEYS, where)
        messages = row.get("messages")
        if not isinstance(messages, list) or not messages:
            raise AthanorError(f"{where}: 'messages' must be a list with at least one message, not {messages!r:.80}")
        turns = tuple(read_turn(message, f"{where}: message {number}") for number, message in enumerate(messages))
        _check_results(turns, where)
        tools = read_tools(row.get("tools"), where)
        return cls(turns, str(row.get("source", "")), dict(row.get("meta", {})), tools)

    def to_row(self) -> dict[str, Any]:
        """The same form that `from_row` reads; a call's arguments are a JSON string, as OpenAI sends them."""
        said = [_message(turn, json_arguments) | ({} if turn.learnt else {"weight": 0}) for turn in self.turns]
        row: dict[str, Any] = {"messages": said}
        if self.tools:
            row["tools"] = [dict(tool) for tool in self.tools]
        if self.source:
            row["source"] = self.source
        if self.meta:
            row["meta"] = dict(self.meta)
        return row

    def messages(self) -> list[dict[str, Any]]:
        """The messages as chat templates expect them: a call's arguments are an object."""
        return [_message(turn, dict) for turn in self.turns]


def json_arguments(arguments: Mapping[str, Any]) -> str:
    """A call's arguments as the one JSON text that we write everywhere."""
    return json.dumps(dict(arguments), ensure_ascii=False)


def read_turn(message: Any, where: str) -> Turn:
    """One message of OpenAI's form; `content` may be null or missing only beside tool calls.

    Raises:
        AthanorError: names the place and what is wrong.
    """
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        raise AthanorError(f"{where} is {message!r:.120}", allowed=_message_forms())
    _refuse_unknown(message, ("role", *MESSAGE_KEYS[role]), f"{where} ({role})")
    calls = _read_calls(message.get("tool_calls"), where)
    content = message.get("content")
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise AthanorError(f"{where} is {message!r:.120}", allowed=_message_forms())
    check_text(content, f"{where}: content")
    name, answered = (_optional_text(message, key, where) for key in ("name", "tool_call_id"))
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise AthanorError(f"{where} has the weight {weight!r:.80}", allowed="1, or 0: this turn is not learnt")
    return Turn(role, content, calls, name, answered, weight != 0)


def read_tools(tools: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    """OpenAI's list of functions; null and an empty list are no tools.

    Raises:
        AthanorError: names the place and what is wrong.
    """
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise AthanorError(f"{where}: 'tools' is {tools!r:.80}", allowed="a list of functions")
    names: set[str] = set()
    for number, tool in enumerate(tools):
        place = f"{where}: tool {number}"
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function":
            allowed = '{"type": "function", "function": {"name": …, "description": …, "parameters": {…}}}'
            raise AthanorError(f"{place} is {tool!r:.120}", allowed=allowed)
        _refuse_unknown(tool, ("type", "function"), place)
        _refuse_unknown(function, FUNCTION_KEYS, f"{place} (function)")
        name = _name(function.get("name"), place)
        if name in names:
            raise AthanorError(f"{place}: there are two tools with the name {name!r:.80}")
        names.add(name)
        if not isinstance(function.get("parameters", {}), dict) or not isinstance(function.get("description", ""), str):
            raise AthanorError(f"{place}: 'parameters' must be a JSON schema (an object), 'description' a text")
        _check_json(function, place)
    return tuple(tools)


def _read_calls(calls: Any, where: str) -> tuple[ToolCall, ...]:
    if calls is None:
        return ()
    if not isinstance(calls, list):
        raise AthanorError(f"{where}: 'tool_calls' is {calls!r:.80}", allowed="a list of calls")
    return tuple(_read_call(call, f"{where}: tool call {number}") for number, call in enumerate(calls))


def _read_call(call: Any, where: str) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        allowed = '{"id": text, "type": "function", "function": {"name": text, "arguments": a JSON object or its text}}'
        raise AthanorError(f"{where} is {call!r:.120}", allowed=allowed)
    _refuse_unknown(call, ("id", "type", "function"), where)
    _refuse_unknown(function, ("name", "arguments"), f"{where} (function)")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = read_object(arguments, f"{where}: arguments")
    if not isinstance(arguments, dict):
        raise AthanorError(f"{where}: arguments are {arguments!r:.80}", allowed="a JSON object or its text")
    _check_json(arguments, f"{where}: arguments")
    return ToolCall(_name(function.get("name"), where), arguments, _optional_text(call, "id", where))


def read_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object, strictly: no key twice, no NaN or Infinity.

    Raises:
        AthanorError: the text is something else.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as problem:
        raise AthanorError(f"{where}: {text!r:.80} is no JSON object: {problem}") from None
    if not isinstance(value, dict):
        raise AthanorError(f"{where}: {text!r:.80} is no JSON object")
    return value


def check_text(text: str, where: str) -> None:
    """Refuse half a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise AthanorError(f"{where} holds half a surrogate pair, which is no character") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _check_json(value: Any, where: str) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as problem:
        raise AthanorError(f"{where} cannot be written as JSON: {problem}") from None
    check_text(text, where)


def _check_results(turns: tuple[Turn, ...], where: str) -> None:
    """Results that name a call must stand in the order of the calls: that order is what the model reads."""
    open_calls: list[ToolCall] = []
    for number, turn in enumerate(turns):
        if turn.role != "tool":
            open_calls = list(turn.tool_calls)
            continue
        call = open_calls.pop(0) if open_calls else None
        for key, given, expected in (
            ("tool_call_id", turn.tool_call_id, call.id if call else None),
            ("name", turn.name, call.name if call else None),
        ):
            if given is not None and given != expected:
                raise AthanorError(
                    f"{where}: message {number} (tool) has the {key} {given!r:.80}, but "
                    + (f"{expected!r:.80} is called here" if call else "no call of the assistant waits for a result"),
                    fix="put one result for each call after the assistant's message, in the order of its calls",
                )


def _message(turn: Turn, write_arguments: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        message["tool_calls"] = [_call(call, write_arguments) for call in turn.tool_calls]
    if turn.name is not None:
        message["name"] = turn.name
    if turn.tool_call_id is not None:
        message["tool_call_id"] = turn.tool_call_id
    return message


def _call(call: ToolCall, write_arguments: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    row: dict[str, Any] = {} if call.id is None else {"id": call.id}
    return {**row, "type": "function", "function": {"name": call.name, "arguments": write_arguments(call.arguments)}}


def _refuse_unknown(row: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = [key for key in row if key not in known]
    if unknown:
        raise AthanorError(f"{where} has the unknown field {unknown[0]!r:.80}", allowed=", ".join(known))


def _optional_text(row: Mapping[str, Any], key: str, where: str) -> str | None:
    value = row.get(key)
    if value is not None and not (isinstance(value, str) and value):
        raise AthanorError(f"{where}: {key!r} is {value!r:.80}", allowed="a text")
    if value is not None:
        check_text(value, f"{where}: {key}")
    return value


def _name(name: Any, where: str) -> str:
    if not isinstance(name, str) or not name:
        raise AthanorError(f"{where}: the function's name is {name!r:.80}", allowed="a text")
    check_text(name, f"{where}: name")
    return name


def _message_forms() -> str:
    return f'{{"role": one of {", ".join(ROLES)}, "content": text}}; an assistant may have tool_calls'
