"""Instruction data as people keep it, read into one form: Alpaca, ShareGPT, OpenAI messages, GSM8K, MOSS, the seeds of
Self-Instruct; preferences (chosen and rejected, transcripts of HH-RLHF, pairs of AlpacaEval, K answers from best to
worst) and single judgements (KTO).

A row is one JSON object. Its format is told by its keys; what contradicts itself or has its roles out of order is
refused with its row and turn. `exports` writes every form again.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from athanor.base.errors import AthanorError
from athanor.data.instruct.moss import read_moss
from athanor.data.instruct.transcripts import is_transcript, turns_of
from athanor.tokens.conversation import Conversation, Turn, read_object, read_turn

Row = Mapping[str, Any]
Format = Literal[
    "openai", "sharegpt", "alpaca", "gsm8k", "moss", "tasks", "completion", "preference", "hh", "pairs", "judgement"
]
KEYS: dict[Format, tuple[str, ...]] = {  # what a row of each format must have; a preference has one of three pairs
    "openai": ("messages",), "sharegpt": ("conversations",), "alpaca": ("instruction", "output"),
    "gsm8k": ("question", "answer"), "completion": ("prompt", "completion"),
    "preference": (), "moss": ("chat",), "tasks": ("instruction", "instances"),
    "hh": ("chosen", "rejected"), "judgement": ("label",),
    "pairs": ("instruction", "output_1", "output_2", "preference"),
}  # fmt: skip
SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "system": "system", "function_call": "call", "observation": "tool", "tool": "tool",
}  # fmt: skip
WEIGHTS = ("weight", "loss_weight", "train")  # OpenAI's, ms-swift's and axolotl's names: only 0 is not learnt
AFTER = {  # who may speak after whom; "" is the beginning
    "": ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",),
    "call": ("tool",), "tool": ("tool", "assistant"),
}  # fmt: skip


@dataclass(frozen=True)
class Preference:
    """A prompt and its answers, the best first."""

    prompt: Conversation
    answers: tuple[str, ...]

    def to_row(self) -> dict[str, Any]:
        """The prompt's row with the answers and their ranks, which `read_lesson` reads again."""
        ranks = list(range(1, len(self.answers) + 1))
        return {**self.prompt.to_row(), "answers": list(self.answers), "ranks": ranks}


@dataclass(frozen=True)
class Judgement:
    """A whole conversation, and whether its last answer is good."""

    conversation: Conversation
    good: bool

    def to_row(self) -> dict[str, Any]:
        """The conversation's row with its label, which `read_lesson` reads again."""
        return {**self.conversation.to_row(), "label": self.good}


Lesson = Conversation | Preference | Judgement


def detect(row: Row, where: str) -> Format:
    """The format of a row, by its keys.

    Raises:
        AthanorError: the keys are of no format we know.
    """
    if "chosen" in row and "rejected" in row:
        return "hh" if is_transcript(row["chosen"]) and is_transcript(row["rejected"]) else "preference"
    if ("answers" in row and "ranks" in row) or "preferred_output" in row:
        return "preference"
    if "output_1" in row and "output_2" in row:
        return "pairs"
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
    if "instruction" in row and "instances" in row:
        return "tasks"
    if "chat" in row and "meta_instruction" in row:
        return "moss"
    if "prompt" in row and "completion" in row:
        return "completion"
    raise AthanorError(
        f"{where} has the keys {', '.join(map(str, row)) or 'none'}",
        allowed="messages · conversations · instruction and output · question and answer · meta_instruction and chat · "
        "prompt and completion · "
        "instruction and instances · chosen and rejected · "
        "answers and ranks · preferred_output · output_1, output_2 and preference · messages or prompt with label",
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
    missing = [key for key in KEYS[kind] if key not in row]
    if missing:
        raise AthanorError(f"{where} has no {missing[0]}, which {kind} needs", allowed=", ".join(KEYS[kind]))
    if kind in PREFERENCES:
        return PREFERENCES[kind](row, where)
    if kind == "judgement":
        if not isinstance(row["label"], bool):
            raise AthanorError(f"{where}: label is {row['label']!r:.80}", allowed="true or false")
        return Judgement(in_order(conversation_of(row, where), where), bool(row["label"]))
    return in_order(READERS[kind](row, where), where)


def conversation_of(row: Row, where: str) -> Conversation:
    """The conversation in a row that holds more: messages, ShareGPT's turns, or a prompt with its completion."""
    if "messages" in row:
        return read_openai(row, where)
    if "conversations" in row:
        return read_sharegpt(row, where)
    if isinstance(row.get("prompt"), list):
        turns = [*row["prompt"], *as_messages(row.get("completion", []), f"{where}: completion")]
        return read_openai({"messages": turns, "tools": row.get("tools")}, where)
    said = [Turn("user", asked(row, "prompt" if "prompt" in row else "instruction", where))]
    if "completion" in row:
        said.append(Turn("assistant", text_of(row, "completion", where)))
    return Conversation((*system_of(row, where), *history_of(row, where), *said), tools=tools_of(row, where))


def as_messages(value: Any, where: str) -> list[Any]:
    """Messages given as a list, or one answer of the assistant as its text."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    if not isinstance(value, list):
        raise AthanorError(f"{where} is {value!r:.80}", allowed="a list of messages, or a text")
    return value


def read_openai(row: Row, where: str) -> Conversation:
    """{"messages": [{"role", "content"}], "tools": […]}; content may be a list of texts, which are joined."""
    messages = row["messages"]
    if isinstance(messages, list):
        messages = [as_system(message) for message in messages]
        messages = [plain_message(message, f"{where}: message {number}") for number, message in enumerate(messages)]
    tools = [dict(tool) for tool in tools_of(row, where)]
    known = {key: row[key] for key in ("source", "meta") if key in row}
    return Conversation.from_row({"messages": messages, **({"tools": tools} if tools else {}), **known}, where)


def as_system(message: Any) -> Any:
    """OpenAI's newer models call the system the developer."""
    named = isinstance(message, dict) and message.get("role") == "developer"
    return {**message, "role": "system"} if named else message


def plain_message(message: Any, where: str) -> Any:
    """A message whose parts, if it is made of parts, are joined: texts to one, calls to `tool_calls`.

    Reasoning is put before the answer as <think>…</think>, where reasoning models write it.
    """
    if not isinstance(message, dict):
        return message
    weight = weight_of(message)
    message = {key: value for key, value in message.items() if key not in WEIGHTS}
    if weight is not None and message.get("role") == "assistant":
        message["weight"] = weight
    parts = message.get("content")
    if not isinstance(parts, list):
        return message
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text", part.get("value")) if kind in ("text", "reasoning", "tool_call") else None
        if not isinstance(text, str):
            raise AthanorError(f"{where} has a part that is no text: {part!r:.100}", allowed='{"type": "text", …}')
        if kind == "tool_call":
            calls += calls_of(text, where)
        else:
            texts.append(f"<think>\n{text}\n</think>\n\n" if kind == "reasoning" else text)
    return {**message, "content": "".join(texts), **({"tool_calls": calls} if calls else {})}


def weight_of(message: Mapping[str, Any]) -> Any:
    """Whether a turn is learnt, by any of the names that say so: 0 or false, 1 or true; None: it says nothing."""
    return next((message[key] for key in WEIGHTS if message.get(key) is not None), None)


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
    if speaker in ("call", "assistant"):
        calls = {"content": "", "tool_calls": calls_of(value, where)} if speaker == "call" else {"content": value}
        return read_turn({"role": "assistant", **calls, "weight": weight_of(turn)}, where)
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
    said = (Turn("user", asked(row, "instruction", where)), Turn("assistant", text_of(row, "output", where)))
    return Conversation((*system_of(row, where), *history_of(row, where), *said), tools=tools_of(row, where))


def asked(row: Row, key: str, where: str) -> str:
    """What the user asks: the row's text, and its `input` on a line below."""
    more = row.get("input") or ""
    if not isinstance(more, str):
        raise AthanorError(f"{where}: input is {more!r:.80}", allowed="a text")
    return f"{text_of(row, key, where)}\n{more}" if more else text_of(row, key, where)


def history_of(row: Row, where: str) -> list[Turn]:
    """The turns of Alpaca's history: [[question, answer], …]."""
    turns: list[Turn] = []
    for number, pair in enumerate(row.get("history") or ()):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise AthanorError(f"{where}: history {number} is {pair!r:.80}", allowed="[question, answer]")
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return turns


def read_gsm8k(row: Row, where: str) -> Conversation:
    """{"question", "answer"}; what follows #### in the answer is kept as the expected result."""
    answer = text_of(row, "answer", where)
    reasoning, mark, result = answer.rpartition("####")
    meta = {"expected": result.strip()} if mark else {}
    turns = (Turn("user", text_of(row, "question", where)), Turn("assistant", answer))
    return Conversation((*system_of(row, where), *turns), meta=meta if reasoning or meta else {})


def read_task(row: Row, where: str) -> Conversation:
    """A seed of Self-Instruct (Wang et al. 2022): {"instruction", "instances": [{"input", "output"}]}."""
    instances = row["instances"]
    if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], dict):
        raise AthanorError(f"{where}: instances is {instances!r:.80}", allowed="one instance a row, as the seeds have")
    return read_alpaca({"instruction": row["instruction"], **instances[0]}, where)


READERS: Mapping[str, Callable[[Row, str], Conversation]] = {
    "openai": read_openai, "sharegpt": read_sharegpt, "alpaca": read_alpaca, "gsm8k": read_gsm8k,
    "moss": read_moss, "tasks": read_task, "completion": conversation_of,
}  # fmt: skip


def read_preference(row: Row, where: str) -> Preference:
    """A prompt with chosen and rejected, or with answers and their ranks (1 is the best, equal ranks are refused).

    The answers may be whole conversations (TRL's implicit prompt, UltraFeedback): then all but their last turns must
    agree, and are the prompt. OpenAI's form has preferred_output and non_preferred_output beside input.messages.
    """
    if "preferred_output" in row:
        wanted = row.get("input")
        inside = wanted if isinstance(wanted, dict) else {}
        chosen, rejected = row["preferred_output"], row.get("non_preferred_output")
        return read_preference({**inside, "chosen": chosen, "rejected": rejected}, where)
    if "chosen" not in row and "answers" not in row:
        raise AthanorError(f"{where} has no answers", allowed="chosen and rejected · answers and ranks")
    if "chosen" in row:
        given = {key: row.get(key) for key in ("chosen", "rejected")}
        answers = [answer_of(value, f"{where}: {key}") for key, value in given.items()]
        begun = [beginning_of(value, f"{where}: {key}") for key, value in given.items()]
    else:
        answers, begun = ranked(row["answers"], row.get("ranks"), where), []
    prompt = prompt_of(row, [one for one in begun if one], where)
    return checked_preference(prompt, answers, where)


def checked_preference(prompt: Conversation, answers: Sequence[str], where: str) -> Preference:
    """A preference whose prompt waits for an answer, and whose answers differ."""
    if len(set(answers)) < len(answers):
        raise AthanorError(f"{where}: two answers are the same text, so neither is better")
    if prompt.turns[-1].role not in ("user", "tool"):
        raise AthanorError(f"{where}: the prompt ends with {prompt.turns[-1].role}", allowed="user or tool")
    in_order(Conversation((*prompt.turns, Turn("assistant", answers[0])), tools=prompt.tools), where)
    return Preference(prompt, tuple(answers))


def beginning_of(value: Any, where: str) -> tuple[Turn, ...]:
    """The turns before the answer, where a whole conversation is given; else none."""
    if not isinstance(value, list) or len(value) < 2:
        return ()
    if all(isinstance(turn, dict) and "from" in turn for turn in value):
        return tuple(read_speaker(turn, f"{where}: turn {number}") for number, turn in enumerate(value[:-1]))
    return read_openai({"messages": value[:-1]}, where).turns


def prompt_of(row: Row, begun: Sequence[tuple[Turn, ...]], where: str) -> Conversation:
    """The prompt of a row, by its own key or from the beginning of its answers."""
    has_prompt = any(key in row for key in ("messages", "conversations", "prompt", "instruction"))
    if not has_prompt and not begun:
        raise AthanorError(f"{where} has no prompt", allowed="messages, conversations, prompt or instruction")
    prompt = conversation_of(row, where) if has_prompt else None
    if not begun:
        assert prompt is not None
        return prompt
    if any(one != begun[0] for one in begun):
        place = next(n for n, pair in enumerate(zip(begun[0], begun[-1], strict=False)) if pair[0] != pair[1])
        raise AthanorError(f"{where}: chosen and rejected differ from turn {place} on, before their answers")
    if prompt is not None and not all(turn in begun[0] for turn in prompt.turns):
        raise AthanorError(f"{where}: the prompt is not how chosen and rejected begin")
    return Conversation(begun[0], tools=tools_of(row, where))


def read_transcripts(row: Row, where: str) -> Preference:
    """HH-RLHF (Bai et al. 2022): {"chosen", "rejected"}, each a transcript whose last turn is the answer."""
    both = [turns_of(row[key], f"{where}: {key}") for key in ("chosen", "rejected")]
    for turns, key in zip(both, ("chosen", "rejected"), strict=True):
        in_order(Conversation(turns), f"{where}: {key}")
        if not turns[-1].content.strip():
            raise AthanorError(f"{where}: {key}: turn {len(turns) - 1} is empty", allowed="an answer of the assistant")
    (*begun, chosen), (*other, rejected) = both
    if begun != other:
        pairs = zip(both[0], both[1], strict=False)
        place = next((n for n, (one, two) in enumerate(pairs) if one != two), min(map(len, both)))
        raise AthanorError(
            f"{where}: chosen and rejected differ from turn {place} on, before their answers",
            allowed="transcripts that are the same but for their last turn",
        )
    return checked_preference(Conversation(tuple(begun)), (chosen.content, rejected.content), where)


def read_pair(row: Row, where: str) -> Preference:
    """AlpacaEval's annotations: {"instruction", "output_1", "output_2", "preference": 1 or 2}."""
    answers = [text_of(row, key, where) for key in ("output_1", "output_2")]
    preferred = row.get("preference")
    if preferred not in (1, 2):
        raise AthanorError(f"{where}: preference is {preferred!r:.80}", allowed="1 or 2; anything else prefers neither")
    prompt = Conversation((Turn("user", asked(row, "instruction", where)),))
    return checked_preference(prompt, answers if preferred == 1 else answers[::-1], where)


PREFERENCES: Mapping[str, Callable[[Row, str], Preference]] = {
    "preference": read_preference, "hh": read_transcripts, "pairs": read_pair,
}  # fmt: skip


def answer_of(value: Any, where: str) -> str:
    """An answer given as a text, as a message, or as a list that ends with one."""
    if isinstance(value, list) and value:
        value = value[-1]
    if isinstance(value, dict):
        speaker = SPEAKERS.get(str(value.get("from", value.get("role", "assistant"))))
        if speaker != "assistant" or value.get("tool_calls"):
            raise AthanorError(f"{where} ends with {value!r:.100}", allowed="words of the assistant")
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
    """The conversation, if its speakers follow one another as they should and the assistant speaks or calls last.

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
    if before not in ("assistant", "call"):
        raise AthanorError(f"{where} ends with {conversation.turns[-1].role}", allowed="the assistant's answer or call")
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
    whole = [_whole_tool(tool) for tool in tools]
    asked = {"role": "user", "content": "?"}
    return Conversation.from_row({"messages": [asked], "tools": whole}, where).tools


def _whole_tool(tool: Any) -> Any:
    """A tool in OpenAI's form; a list `required` beside the parameters, as some data sets have it, goes into them."""
    function = tool.get("function") if isinstance(tool, dict) and "function" in tool else tool
    if isinstance(function, dict) and "required" in function and isinstance(function.get("parameters"), dict):
        rest = {key: value for key, value in function.items() if key != "required"}
        function = {**rest, "parameters": {"required": function["required"], **function["parameters"]}}
    if isinstance(tool, dict) and "function" in tool:
        return {**tool, "function": function}
    return {"type": "function", "function": function}
