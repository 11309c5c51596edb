"""The conversation: turns of a system, a user, an assistant and tools, as every chat format knows them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from athanor.base.errors import AthanorError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True)
class Turn:
    """What one participant says."""

    role: Role
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns in order, where they came from, and what is known about them (skill, language, expected answer)."""

    turns: tuple[Turn, ...]
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, *turns: tuple[Role, str], source: str = "", **meta: Any) -> "Conversation":
        """Short form: `Conversation.of(("user", "Hi"), ("assistant", "Hello"))`."""
        return cls(tuple(Turn(role, content) for role, content in turns), source, meta)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], where: str = "conversation") -> "Conversation":
        """Read OpenAI's form: {"messages": [{"role": …, "content": …}], "source": …, "meta": …}.

        Raises:
            AthanorError: names the place (`where`) and the field.
        """
        messages = row.get("messages")
        if not isinstance(messages, list) or not messages:
            raise AthanorError(f"{where}: 'messages' must be a list with at least one message, not {messages!r:.80}")
        turns = []
        for number, message in enumerate(messages):
            role = message.get("role") if isinstance(message, dict) else None
            content = message.get("content") if isinstance(message, dict) else None
            if role not in ROLES or not isinstance(content, str):
                raise AthanorError(
                    f"{where}: message {number} is {message!r:.120}",
                    allowed=f'{{"role": one of {", ".join(ROLES)}, "content": text}}',
                )
            turns.append(Turn(role, content))
        return cls(tuple(turns), str(row.get("source", "")), dict(row.get("meta", {})))

    def to_row(self) -> dict[str, Any]:
        """The same form that `from_row` reads."""
        row: dict[str, Any] = {"messages": [{"role": turn.role, "content": turn.content} for turn in self.turns]}
        if self.source:
            row["source"] = self.source
        if self.meta:
            row["meta"] = dict(self.meta)
        return row
