"""OpenAI's answer objects: whole, and in pieces for a stream."""

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Shape:
    """What an answer of one request looks like: its identity and the names that differ between chat and completions."""

    model: str
    chat: bool
    with_usage: bool = False  # a stream that ends with its usage
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": usage}

    def choice(self, index: int, text: str, finish: str) -> dict[str, Any]:
        """One finished answer."""
        if self.chat:
            content: dict[str, Any] = {"message": {"role": "assistant", "content": text, "refusal": None}}
        else:
            content = {"text": text}
        return {"index": index, **content, "logprobs": None, "finish_reason": finish}

    def opening(self, index: int) -> bytes:
        """The first event of a chat choice: who speaks."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None)

    def piece(self, index: int, text: str) -> bytes:
        """More text of one choice."""
        return self._chunk(index, {"content": text}, None) if self.chat else self._chunk(index, text, None)

    def closing(self, index: int, finish: str) -> bytes:
        """The last event of one choice: why it ended."""
        return self._chunk(index, {}, finish) if self.chat else self._chunk(index, "", finish)

    def usage(self, usage: dict[str, int]) -> bytes:
        """The event that ends a stream with `include_usage`."""
        return event({**self._head(self._chunk_kind), "choices": [], "usage": usage})

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl-" if self.chat else "cmpl-"
        return {"id": prefix + self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, index: int, content: dict[str, str] | str, finish: str | None) -> bytes:
        name = "delta" if self.chat else "text"
        choice = {"index": index, name: content, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self.with_usage else {}
        return event({**self._head(self._chunk_kind), "choices": [choice], **usage})


def event(row: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n\n"


def usage_row(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """OpenAI's usage object."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}
