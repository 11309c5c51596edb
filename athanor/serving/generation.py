"""Between the event loop and the engine's thread: answers in progress, their number, and their cancellation."""

import asyncio
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

from starlette.types import Receive

from athanor.base.errors import AthanorError
from athanor.inference import engine as engine_module
from athanor.inference.batch import Piece
from athanor.inference.engine import Engine
from athanor.inference.sampling import Sampling
from athanor.serving.errors import ApiError, bad_request
from athanor.serving.schema import Generation

Result = TypeVar("Result")
Job = tuple[list[int], Sampling]  # a prompt's token ids, and how to answer it
FROM_REQUEST = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "stop",
)  # fmt: skip
NONE_SAID: Mapping[str, Any] = MappingProxyType({})
RETRY_SECONDS = 2
SEED_STEP = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio: no two small multiples are near


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class Room:
    """How many answers may be in progress or waiting at once."""

    def __init__(self, limit: int):
        self.limit, self.taken = limit, 0

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Hold `count` places.

        Raises:
            ApiError: they are not free now (429 with Retry-After), or never will be (400).
        """
        if count > self.limit:
            raise bad_request(f"This server generates at most {self.limit} answers at once.", param="n")
        if self.taken + count > self.limit:
            raise ApiError(
                429,
                f"The server is busy with {self.taken} answers; it takes {self.limit}. Try again in {RETRY_SECONDS} s.",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                headers={"retry-after": str(RETRY_SECONDS)},
            )
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client leaves.

    Raises:
        ClientGone: it left.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Choices:
    """All answers to one request as one stream of (index, piece); leaving the block cancels what still runs.

    Raises:
        ApiError: the engine refuses a request (400), or was closed meanwhile (503).
    """

    def __init__(self, engine: Engine, jobs: Sequence[Job]):
        self.engine, self.jobs = engine, jobs
        self.pieces: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()
        self.running: dict[int, engine_module.Generation] = {}

    async def __aenter__(self) -> "Choices":
        try:
            for index, (ids, sampling) in enumerate(self.jobs):
                self.running[index] = self._submit(index, ids, sampling)
        except AthanorError as problem:
            self._cancel()
            raise self._refused(problem) from None
        return self

    async def __aexit__(self, *problem: object) -> None:
        self._cancel()

    def __aiter__(self) -> "Choices":
        return self

    async def __anext__(self) -> tuple[int, Piece]:
        if not self.running:
            raise StopAsyncIteration
        index, piece = await self.pieces.get()
        if isinstance(piece, AthanorError):
            raise self._refused(piece) from None
        if isinstance(piece, Exception):
            raise piece
        if piece.completion is not None:
            del self.running[index]
            if piece.completion.finish_reason == "cancelled":  # not by us: we stop listening first
                raise engine_stopped()
        return index, piece

    def _submit(self, index: int, ids: list[int], sampling: Sampling) -> engine_module.Generation:
        loop = asyncio.get_running_loop()

        def listen(piece: Piece | Exception) -> None:  # in the engine's thread
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.pieces.put_nowait, (index, piece))

        return self.engine.submit(ids, sampling, listen)

    def _refused(self, problem: AthanorError) -> ApiError:
        return bad_request(str(problem)) if self.engine.alive else engine_stopped()

    def _cancel(self) -> None:
        for generation in self.running.values():
            generation.cancel()
        self.running.clear()


def engine_stopped() -> ApiError:
    """The error when there is nothing left that could answer."""
    return ApiError(503, "The engine has stopped; restart the server.", kind="server_error", code="engine_stopped")


def sampling_of(
    asked: Generation, longest: int, index: int, vocabulary: int, adapter: str | None = None,
    defaults: Mapping[str, Any] = NONE_SAID,
) -> Sampling:  # fmt: skip
    """The engine's settings for choice `index` of a request; choices of a seeded request differ, and repeat.

    Args:
        defaults: what the model's files say of the settings that a request leaves unsaid.

    Raises:
        ApiError: a token in logit_bias is not in the vocabulary (400).
    """
    biases = {int(token): value for token, value in (asked.logit_bias or {}).items()}
    if wrong := [token for token in biases if token >= vocabulary]:
        message = f"logit_bias names token {wrong[0]}; the vocabulary has 0 to {vocabulary - 1}."
        raise bad_request(message, param="logit_bias")
    said = {
        name: getattr(asked, name) if name in asked.model_fields_set else defaults.get(name, getattr(asked, name))
        for name in FROM_REQUEST
    }
    return Sampling(
        **said, seed=_choice_seed(asked.seed, index), max_tokens=longest, logit_bias=biases, adapter=adapter
    )


def _choice_seed(seed: int | None, index: int) -> int | None:
    """The request's own seed for its first choice, and far away ones for the others, within 64 bits."""
    if seed is None or index == 0:
        return seed
    return (seed + index * SEED_STEP + 2**63) % 2**64 - 2**63
