"""Conversations as one text: "\\n\\nHuman: … \\n\\nAssistant: …", the form of Anthropic's HH-RLHF (Bai et al. 2022)."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from athanor.base.errors import AthanorError
from athanor.tokens.conversation import Turn

SPEAKER = re.compile(r"\n\n(Human|Assistant):")
ROLES: dict[str, Literal["user", "assistant"]] = {"Human": "user", "Assistant": "assistant"}


def is_transcript(value: Any) -> bool:
    """Whether a value is such a text."""
    return isinstance(value, str) and SPEAKER.match(value) is not None


def turns_of(text: Any, where: str) -> tuple[Turn, ...]:
    """The turns of a transcript; every letter is kept but the one space behind a speaker's colon.

    Raises:
        AthanorError: it does not begin with a speaker.
    """
    if not is_transcript(text):
        raise AthanorError(f"{where} is {text!r:.80}", allowed='a transcript: "\\n\\nHuman: …\\n\\nAssistant: …"')
    _, *parts = SPEAKER.split(text)
    said = zip(parts[::2], parts[1::2], strict=True)
    return tuple(Turn(ROLES[speaker], content.removeprefix(" ")) for speaker, content in said)


def transcript_of(turns: Sequence[Turn], where: str) -> str:
    """The transcript of turns.

    Raises:
        AthanorError: a system or a tool speaks, a tool is called, or what is said would begin a turn of its own.
    """
    names: dict[str, str] = {role: speaker for speaker, role in ROLES.items()}
    pieces = []
    for number, turn in enumerate(turns):
        if turn.role not in names or turn.tool_calls:
            raise AthanorError(
                f"{where}: turn {number} is of {turn.role}{', with a tool call' if turn.tool_calls else ''}",
                allowed="turns of user and assistant; a transcript has no others",
            )
        if SPEAKER.search(f" {turn.content}"):
            raise AthanorError(f"{where}: turn {number} says {SPEAKER.pattern!r}, which would begin another turn")
        pieces.append(f"\n\n{names[turn.role]}: {turn.content}")
    return "".join(pieces)
