"""Answers on their way to the client, whole or as server-sent events; generation stops when the client leaves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from athanor.inference.engine import Engine
from athanor.serving.answers import DONE, Shape, usage_row
from athanor.serving.errors import ApiError
from athanor.serving.generation import Choices, ClientGone, Job, Room, while_connected
from athanor.serving.guard import log_defect, our_defect


@dataclass(frozen=True)
class Task:
    """One checked request.

    Attributes:
        jobs: prompt and sampling of every choice.
        shape: how the answer is written.
        before: what every choice's text begins with (`echo`).
        prompt_tokens: of all prompts together.
    """

    jobs: list[Job]
    shape: Shape
    before: list[str]
    prompt_tokens: int


class WholeAnswer(Response):
    """Generates all choices, then sends one object."""

    def __init__(self, engine: Engine, room: Room, task: Task, headers: Mapping[str, str]):
        super().__init__()
        self.engine, self.room, self.task, self.extra_headers = engine, room, task, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self.room.take(len(self.task.jobs)):
                row = await while_connected(receive, self._generate())
        except ClientGone:
            return
        await JSONResponse(row, headers=self.extra_headers)(scope, receive, send)

    async def _generate(self) -> dict[str, Any]:
        task = self.task
        texts, finishes, tokens = list(task.before), [""] * len(task.jobs), 0
        async with Choices(self.engine, task.jobs) as choices:
            async for index, piece in choices:
                texts[index] += piece.text
                if piece.completion is not None:
                    tokens += piece.completion.completion_tokens
                    finishes[index] = piece.completion.finish_reason
        rows = [task.shape.choice(index, text, finishes[index]) for index, text in enumerate(texts)]
        return task.shape.whole(rows, usage_row(task.prompt_tokens, tokens))


class StreamedAnswer(WholeAnswer):
    """Sends every piece as soon as the engine has it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self.room.take(len(self.task.jobs)):
                async with Choices(self.engine, self.task.jobs) as choices:
                    await self._send_head(send)
                    await while_connected(receive, self._send_events(send, choices))
        except ClientGone:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_head(self, send: Send) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no", **self.extra_headers}
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})

    async def _send_events(self, send: Send, choices: Choices) -> None:
        """All events; the status is already sent, so an error becomes the last event."""
        try:
            await self._send_choices(send, choices)
        except ApiError as problem:
            await _emit(send, b"data: " + problem.body() + b"\n\n")
        except Exception as problem:  # noqa: BLE001 - our defect; its text stays out of the answer and of the log
            log_defect(problem)
            await _emit(send, b"data: " + our_defect().body() + b"\n\n")

    async def _send_choices(self, send: Send, choices: Choices) -> None:
        shape, tokens = self.task.shape, 0
        for index, text in enumerate(self.task.before):
            if shape.chat:
                await _emit(send, shape.opening(index))
            elif text:
                await _emit(send, shape.piece(index, text))
        async for index, piece in choices:
            events = [shape.piece(index, piece.text)] if piece.text else []
            if piece.completion is not None:
                tokens += piece.completion.completion_tokens
                events.append(shape.closing(index, piece.completion.finish_reason))
            if events:
                await _emit(send, *events)
        if shape.with_usage:
            await _emit(send, shape.usage(usage_row(self.task.prompt_tokens, tokens)))
        await _emit(send, DONE)


async def _emit(send: Send, *events: bytes) -> None:
    await send({"type": "http.response.body", "body": b"".join(events), "more_body": True})
