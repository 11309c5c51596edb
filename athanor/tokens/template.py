"""The one chat template: training masks, evaluation, serving and export all render conversations through it.

A turn is `<|role|>` content `<|end|>`, nothing between turns. Text that spells a special token is broken by a space
(`<|user|>` becomes `< |user|>`), in Python and in the exported Jinja alike, so that no user can forge a turn and the
ids are the same everywhere.

Tools stand at the end of the system turn, a call at the end of the assistant's, both as JSON in lines:

    <|system|>Be brief.\\n\\nTools:\\n{"name": "add", "parameters": {…}}<|end|>
    <|assistant|>I add.\\n<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call><|end|><|tool|>3<|end|>

The marks of a call are text, as in the Hermes format, which vLLM and llama.cpp read. Where there are tools or calls,
text that spells a mark is broken like a special token; JSON writes `<` of both as `\\u003c` and loses nothing.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from athanor.base.errors import AthanorError
from athanor.tokens.conversation import Conversation, ToolCall, Turn, read_object
from athanor.tokens.tokenizer import END, SPECIAL_TOKENS, Tokenizer

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MARKS = (OPEN, CLOSE)
TOOLS = "Tools:"
EARLIER = ("3b7b0dc2608166002758517c8a191c8c83d9b4aedba4b393a63f148320b93c5a",)  # SHA-256; before tools, same ids


@dataclass(frozen=True)
class Rendered:
    """A conversation as token ids, with the positions a model learns from.

    Attributes:
        ids: token ids.
        mask: True on what the assistant says and on the `<|end|>` after it.
        roles: who speaks at each position.
    """

    ids: list[int]
    mask: list[bool]
    roles: list[str]


def learnt_alone(rendered: Rendered, conversation: Conversation) -> Rendered:
    """The rendered conversation, whose mask leaves out the assistant's turns that are not to be learnt.

    Raises:
        AthanorError: the template writes nothing of a turn, so that they cannot be told apart.
    """
    turns = [turn.learnt for turn in conversation.turns if turn.role == "assistant"]
    if all(turns):
        return rendered
    begins = [said and not before for before, said in zip([False, *rendered.mask], rendered.mask, strict=False)]
    if sum(begins) != len(turns):
        raise AthanorError(
            f"the chat template writes {sum(begins)} of {len(turns)} turns of the assistant, some with weight 0",
            fix="leave out the turns that are not to be learnt",
        )
    place = itertools.accumulate(begins)
    mask = [said and turns[number - 1] for number, said in zip(place, rendered.mask, strict=True)]
    return Rendered(rendered.ids, mask, rendered.roles)


def defuse(text: str, tokens: Iterable[str] = SPECIAL_TOKENS) -> str:
    """Break every spelling of a special token inside ordinary text with a space."""
    if tokens == SPECIAL_TOKENS and "<|" not in text:
        return text
    for token in tokens:
        text = text.replace(token, token[0] + " " + token[1:])
    return text


def parse_tool_calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """What the assistant says and what it calls, from the text of its turn; the inverse of rendering.

    A text whose calls are not well formed to its end holds none: all of it is what the assistant says.
    """
    content, found = _cut(text)
    calls: list[ToolCall] = []
    while found:
        call, found = _read_call(found)
        if call is None:
            return text, ()
        calls.append(call)
    return (content, tuple(calls)) if calls else (text, ())


def _cut(text: str) -> tuple[str, str]:
    """The text before the first call, and the calls."""
    if text.startswith(OPEN):
        return "", text
    place = text.find("\n" + OPEN)
    return (text[:place], text[place + 1 :]) if place >= 0 else (text, "")


def _read_call(text: str) -> tuple[ToolCall | None, str]:
    """The first call of a text that should begin with one, and what follows it."""
    body, close, rest = text.removeprefix(OPEN).partition(CLOSE)
    if not text.startswith(OPEN) or not close:
        return None, text
    try:
        call = read_object(body, "call")
    except AthanorError:
        return None, text
    name, arguments = call.get("name"), call.get("arguments")
    if set(call) != {"name", "arguments"} or not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None, text
    return ToolCall(name, arguments), rest.lstrip()


def specials_of(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Every special token of a tokenizer: ours, then those that were added, in the order of their ids."""
    added = sorted(tokenizer.special.keys() - set(SPECIAL_TOKENS), key=tokenizer.special.__getitem__)
    return (*SPECIAL_TOKENS, *added)


def jinja_source(tokens: tuple[str, ...] = SPECIAL_TOKENS) -> str:
    """The template as Jinja, for `transformers` and every other reader of chat_template.jinja.

    Only constructs that llama.cpp's interpreters run too: methods instead of filters, and no macros. Arguments that
    come as text are written as they are: the ids are ours where it is the text that `json_arguments` writes.

    Args:
        tokens: the special tokens that text must not spell.
    """
    return (
        _jinja_tools()
        + "{%- for message in messages -%}"
        + _jinja_content(tokens)
        + "{{- '<|' + message['role'] + '|>' + text -}}"
        "{%- if loop.index0 == 0 and message['role'] == 'system' and listed.text -%}"
        "{%- if text -%}{{- '\\n\\n' -}}{%- endif -%}"
        "{{- listed.text -}}"
        "{%- endif -%}"
        + _jinja_calls()
        + "{{- '" + END + "' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
    )  # fmt: skip


def is_ours(jinja: str, tokens: tuple[str, ...] = SPECIAL_TOKENS) -> bool:
    """Whether a template gives every conversation that it renders the ids that we train and answer with."""
    return jinja in (jinja_source(), jinja_source(tokens)) or hashlib.sha256(jinja.encode()).hexdigest() in EARLIER


def _jinja_tools() -> str:
    """Collects the tools as `listed.text`, in a system turn of their own where the conversation begins with none."""
    return (
        "{%- set listed = namespace(text='') -%}"
        "{%- if tools is defined and tools -%}"
        f"{{%- set listed.text = '{TOOLS}' -%}}"
        "{%- for tool in tools -%}"
        "{%- set function = tool['function'] | tojson -%}"
        "{%- set listed.text = listed.text + '\\n' + " + _replacing("function", _escapes()) + " -%}"
        "{%- endfor -%}"
        "{%- if messages[0]['role'] != 'system' -%}"
        "{{- '<|system|>' + listed.text + '" + END + "' -}}"
        "{%- endif -%}"
        "{%- endif -%}"
    )


def _jinja_content(tokens: tuple[str, ...]) -> str:
    """Checks a message and sets `calling` and `text`, its content."""
    return (
        "{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] -%}"
        "{{- raise_exception('role must be system, user, assistant or tool, not ' + message['role']) -}}"
        "{%- endif -%}"
        "{%- set calling = message['tool_calls'] is defined and message['tool_calls'] -%}"
        "{%- if calling and message['role'] != 'assistant' -%}"
        "{{- raise_exception('only the assistant calls tools') -}}"
        "{%- endif -%}"
        "{%- if message['content'] is string -%}"
        "{%- set text = " + _replacing("message['content']", _breaks(tokens)) + " -%}"
        "{%- elif calling -%}"
        "{%- set text = '' -%}"
        "{%- else -%}"
        "{{- raise_exception('content must be text') -}}"
        "{%- endif -%}"
        "{%- if calling or listed.text -%}"
        "{%- set text = " + _replacing("text", _breaks(MARKS)) + " -%}"
        "{%- endif -%}"
    )


def _jinja_calls() -> str:
    """Writes the calls of a message."""
    return (
        "{%- if calling -%}"
        "{%- for call in message['tool_calls'] -%}"
        "{%- set name = call['function']['name'] | tojson -%}"
        "{%- set arguments = call['function']['arguments'] -%}"
        "{%- if arguments is not string -%}"
        "{%- set arguments = arguments | tojson -%}"
        "{%- endif -%}"
        "{%- if text or loop.index0 > 0 -%}{{- '\\n' -}}{%- endif -%}"
        f"{{{{- '{OPEN}' + '{{\"name\": ' + " + _replacing("name", _escapes()) + " + ', \"arguments\": ' + "
        + _replacing("arguments", _escapes()) + f" + '}}{CLOSE}' -}}}}"
        "{%- endfor -%}"
        "{%- endif -%}"
    )  # fmt: skip


def _breaks(tokens: Iterable[str]) -> list[tuple[str, str]]:
    """Each token and how ordinary text writes it."""
    return [(token, token[0] + " " + token[1:]) for token in tokens]


def _escapes() -> list[tuple[str, str]]:
    """What may not stand in JSON, and how JSON writes it: only text can hold a `<`."""
    return [("<|", "\\u003c|"), *((mark, "\\u003c" + mark[1:]) for mark in MARKS)]


def _replacing(expression: str, pairs: list[tuple[str, str]]) -> str:
    """A Jinja expression whose text has every first of `pairs` replaced by the second."""
    for old, new in pairs:
        read, written = (text.replace("\\", "\\\\").replace("'", "\\'") for text in (old, new))
        expression += f".replace('{read}', '{written}')"
    return expression


def _json(value: Any) -> str:
    """JSON in which no special token and no mark is spelled, with the same value."""
    text = json.dumps(value, ensure_ascii=False)
    for old, new in _escapes():
        text = text.replace(old, new)
    return text


def _call_text(call: ToolCall) -> str:
    return f'{OPEN}{{"name": {_json(call.name)}, "arguments": {_json(dict(call.arguments))}}}{CLOSE}'


def _plain_turns(conversation: Conversation, tokens: tuple[str, ...]) -> list[tuple[str, str]]:
    """Role and text of every turn that the model reads: content, tools and calls."""
    tools = "\n".join([TOOLS, *(_json(tool["function"]) for tool in conversation.tools)]) if conversation.tools else ""
    begun = bool(conversation.turns) and conversation.turns[0].role == "system"
    rows = [] if begun or not tools else [("system", tools)]
    for place, turn in enumerate(conversation.turns):
        text = _text(turn, bool(tools), tokens)
        if place == 0 and begun and tools:
            text = "\n\n".join(part for part in (text, tools) if part)
        rows.append((turn.role, text))
    return rows


def _text(turn: Turn, with_tools: bool, tokens: tuple[str, ...]) -> str:
    text = defuse(turn.content, tokens)
    if not turn.tool_calls:
        return defuse(text, MARKS) if with_tools else text
    if turn.role != "assistant":
        raise AthanorError(f"a turn of the {turn.role} calls tools", allowed="only the assistant calls tools")
    text = defuse(text, MARKS)
    return "\n".join(part for part in (text, *(_call_text(call) for call in turn.tool_calls)) if part)


class ChatTemplate:
    """Renders conversations with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.specials = tokenizer, specials_of(tokenizer)

    @property
    def end_id(self) -> int:
        """The token that ends every turn: generation stops there."""
        return self.tokenizer.special[END]

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every token at which generation stops."""
        return (self.end_id,)

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """A conversation as a prompt for the assistant's next turn."""
        return self.render(conversation, generation_prompt=True).ids

    def render(self, conversation: Conversation, generation_prompt: bool = False) -> Rendered:
        """Token ids and loss mask of a conversation; `generation_prompt` opens the assistant's next turn."""
        return self.render_all([conversation], generation_prompt)[0]

    def render_all(self, conversations: Iterable[Conversation], generation_prompt: bool = False) -> list[Rendered]:
        """Every conversation in order, all contents tokenised in one parallel call."""
        every = [_plain_turns(conversation, self.specials) for conversation in conversations]
        contents = self.tokenizer.encode_batch([text for one in every for _, text in one])
        rows = iter(contents)
        return [
            self._assemble([role for role, _ in one], [next(rows) for _ in one], generation_prompt) for one in every
        ]

    def _assemble(self, speakers: list[str], contents: list[list[int]], generation_prompt: bool) -> Rendered:
        special = self.tokenizer.special
        ids: list[int] = []
        mask: list[bool] = []
        roles: list[str] = []
        for role, content in zip(speakers, contents, strict=True):
            learnt = role == "assistant"
            ids += [special[f"<|{role}|>"], *content, self.end_id]
            mask += [False, *([learnt] * (len(content) + 1))]
            roles += [role] * (2 + len(content))
        if generation_prompt:
            ids.append(special["<|assistant|>"])
            mask.append(False)
            roles.append("assistant")
        return Rendered(ids, mask, roles)
