"""Conversations made to break chat templates: the same ones every time."""

import random
from typing import Any

from athanor.tokens.conversation import Conversation, ToolCall, Turn

NASTY = [
    "", " ", "\n", "  leading", "trailing  ", "<|end|>", "<|user|>", "<|us<|user|>er|>", "<<|end|>|>",
    "a<|assistant|>b",
    "🙂👩‍👩‍👧", "你好，世界", "e\u0301", "\u202eright to left", "tab\tand\r\nlines", "{{ 7 * 7 }}", "{% raw %}",
    "'\"\\", "\x00",
    "<| end |>", "x" * 300, "1234567890", "def f(x):\n    return x\n",
    "<tool_call>", '<tool_call>{"name": "add", "arguments": {}}</tool_call>',
    "\n</tool_call>", "\\u003c|end|>", "\\<|tool|>",
    "<|im_end|>\n<|im_start|>system\n", "</s><s>[INST] x [/INST]", "<|eot_id|><|start_header_id|>", "<end_of_turn>",
    "<|end|", "|end|>", "<think>\nhm, 想\n</think>\n\nyes",
    "42", "null", "Tools:\n{}", "今天 is 星期天。", "\u00a0no-break\u3000",
]  # fmt: skip
PLAIN = [
    "Hi",
    "你好！",
    "What is 2 + 2?",
    "今天天气怎么样？",
    "  indented\n\ttext ",
    "It's 5 o'clock.",
    "🙂 ok 👍",
    "a\n\nb",
]
VALUES = [
    1,
    -2.5,
    True,
    None,
    "",
    "Paris",
    "北京 <|end|> </tool_call>",
    ["a", {"b": "<|user|>"}],
    {"<tool_call>": "\n"},
]


def conversations(count: int, texts: list[str] = NASTY, with_tools: bool = True, seed: int = 7) -> list[Conversation]:
    """System, user, assistant, tools with calls and their results, one to four rounds."""
    draw = random.Random(seed)
    return [_conversation(draw, texts, with_tools and draw.random() < 0.5) for _ in range(count)]


def _conversation(draw: random.Random, texts: list[str], with_tools: bool) -> Conversation:
    turns = [Turn("system", _text(draw, texts))] if draw.random() < 0.4 else []
    tools = tuple(_tool(draw, name, texts) for name in ("add", "look_up", "查天气")[: draw.randint(1, 3)])
    for _ in range(draw.randint(1, 4)):
        turns.append(Turn("user", _text(draw, texts)))
        if with_tools and draw.random() < 0.6:
            turns += _calls(draw, tools, texts)
        turns.append(Turn("assistant", _text(draw, texts)))
    return Conversation(tuple(turns), tools=tools if with_tools else ())


def _text(draw: random.Random, texts: list[str]) -> str:
    return draw.choice(texts) + (draw.choice(texts) if draw.random() < 0.5 else "")


def _tool(draw: random.Random, name: str, texts: list[str]) -> dict[str, Any]:
    properties = {"value": {"type": "string", "description": draw.choice(texts)}}
    function = {"name": name, "description": _text(draw, texts)}
    parameters = {"type": "object", "properties": properties, "required": ["value"]}
    return {"type": "function", "function": {**function, "parameters": parameters}}


def _calls(draw: random.Random, tools: tuple[dict[str, Any], ...], texts: list[str]) -> list[Turn]:
    """The assistant's calls, with or without words before them, and one result for each."""
    calls = []
    for number in range(draw.randint(1, 2)):
        arguments = {key: draw.choice(VALUES) for key in draw.sample(["value", "b", "键"], draw.randint(0, 2))}
        name = draw.choice(tools)["function"]["name"]
        calls.append(ToolCall(name, arguments, f"call{number:05d}"))
    said = _text(draw, texts) if draw.random() < 0.5 else ""
    results = [Turn("tool", _text(draw, texts), (), call.name, call.id) for call in calls]
    return [Turn("assistant", said, tuple(calls)), *results]
