"""The engine: whole batches, one streamed answer, or requests from many threads computed together."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.inference.batch import CACHE_BYTES, Batch, Piece
from athanor.inference.blanks import ADDED, Blanks
from athanor.inference.generate import Completion, Decoder
from athanor.inference.sampling import Sampling
from athanor.models.language import LanguageModel

Listener = Callable[["Piece | Exception"], None]


class Generation:
    """A request handed to the engine's thread; iterate it for its pieces, or wait for the `result`."""

    def __init__(self, engine: "Engine", ids: Sequence[int], sampling: Sampling, listener: Listener | None):
        self.ids, self.sampling = list(ids), sampling
        self._engine, self._listener = engine, listener
        self._pieces: queue.SimpleQueue[Piece | Exception] = queue.SimpleQueue()
        self._done = threading.Event()
        self._outcome: Completion | Exception | None = None

    def cancel(self) -> None:
        """End the answer at the next step; harmless when it has ended. Any thread may call it."""
        self._engine._cancel(self)

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the end.

        Raises:
            TimeoutError: it took longer than `timeout` seconds; the request goes on.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"no answer within {timeout} seconds")
        assert self._outcome is not None
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def __iter__(self) -> Iterator[Piece]:
        """Pieces as they come; the last one carries the completion. A request with a listener has none to give."""
        assert self._listener is None
        while True:
            piece = self._pieces.get()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if piece.completion is not None:
                return

    def _give(self, piece: "Piece | Exception") -> None:
        """Called by the engine's thread; a listener that fails ends its own request only."""
        try:
            (self._listener or self._pieces.put)(piece)
        except Exception as problem:  # noqa: BLE001 - the listener is somebody else's code; `result` raises it
            self.cancel()
            piece = problem
        last = piece if isinstance(piece, Exception) else piece.completion
        if last is not None and self._outcome is None:
            self._outcome = last
            self._done.set()


class Engine:
    """Answers prompts with one model.

    Args:
        model: on its device, ready to run.
        tokenizer: gives text and stop strings; None: token ids only.
        end_ids: tokens that end an answer.
        rows, chunk, cache_bytes, blanks: see `Batch`.

    Raises:
        AthanorError: see `check_blanks`.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Decoder | None = None,
        *,
        end_ids: Iterable[int] = (),
        rows: int = 64,
        chunk: int = 2048,
        cache_bytes: int = CACHE_BYTES,
        blanks: Blanks | None = None,
    ):
        self.model, self.end_ids = model.eval(), tuple(end_ids)
        self.token_bytes = tokenizer.token_bytes() if tokenizer is not None else None
        self.blanks = blanks
        self._limits = {"rows": rows, "chunk": chunk, "cache_bytes": cache_bytes}
        self._shared = self._new_batch()  # only its thread touches it, but for `check`
        self._generations: dict[int, Generation] = {}  # by number in the batch; only the thread touches it
        self._orders: queue.SimpleQueue[tuple[str, Generation | None]] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def context(self) -> int:
        """Most tokens of a prompt, as it is handed over, and its answer together."""
        return self.model.room - (0 if self.blanks is None else ADDED)

    def generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        progress: Progress | None = None,
    ) -> list[Completion]:
        """Answer many prompts in the calling thread, `rows` at a time; the answers in the order of the prompts.

        Raises:
            AthanorError: a prompt or its sampling cannot be used, see `check_request`.
            Stopped: `progress` was asked to stop.
        """
        samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        if len(samplings) != len(prompts):
            raise AthanorError(f"{len(prompts)} prompts, {len(samplings)} samplings", allowed="one each or one in all")
        batch = self._new_batch()
        by_length = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))  # little padding
        places = {batch.add(prompts[place], samplings[place]): place for place in by_length}
        completions: dict[int, Completion] = {}
        while not batch.idle:
            for piece in batch.step():
                if piece.completion is not None:
                    completions[places[piece.request]] = piece.completion
                    if progress is not None:
                        progress.advance(1)
        return [completions[place] for place in range(len(prompts))]

    def stream(self, ids: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
        """Answer one prompt in the calling thread, piece by piece; the last piece carries the completion."""
        batch = self._new_batch(rows=1)
        batch.add(ids, sampling)
        while not batch.idle:
            yield from batch.step()

    # -------------------------------------------------------------------------------- requests from many threads

    def submit(self, ids: Sequence[int], sampling: Sampling, listener: Listener | None = None) -> Generation:
        """Hand a request to the engine's thread, where it is computed together with the others.

        Args:
            listener: called from the engine's thread with every piece, or with the exception that ended the request;
                must return quickly. None: iterate the generation instead.
        Raises:
            AthanorError: see `check_request`; or the engine is closed or has failed.
        """
        self._shared.check(ids, sampling)
        generation = Generation(self, ids, sampling, listener)
        with self._starting:
            if not self.alive:
                raise AthanorError("the engine is closed", fix="start it again")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="athanor-engine", daemon=True)
                self._thread.start()
            self._orders.put(("add", generation))
        return generation

    @property
    def alive(self) -> bool:
        """False once the engine was closed or its thread has died: requests would be refused."""
        return not self._closed and (self._thread is None or self._thread.is_alive())

    @property
    def load(self) -> dict[str, int]:
        """How many requests are computed and how many wait, about now."""
        waiting = len(self._shared.waiting) + self._orders.qsize()
        return {"running": len(self._shared.schedule.running), "waiting": waiting}

    def close(self) -> None:
        """Cancel what is running or waiting, tell it so, and end the thread; harmless when done before."""
        with self._starting:
            self._closed = True
            self._orders.put(("close", None))
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _new_batch(self, **changed: int) -> Batch:
        return Batch(self.model, self.token_bytes, self.end_ids, **(self._limits | changed), blanks=self.blanks)

    def _cancel(self, generation: Generation) -> None:
        self._orders.put(("cancel", generation))

    def _run(self) -> None:
        """The engine's thread: take the orders, compute one round, hand out the pieces."""
        open_for_work = True
        while open_for_work or not self._shared.idle:
            while not self._orders.empty() or (self._shared.idle and open_for_work):
                order, generation = self._orders.get()
                open_for_work = open_for_work and order != "close"
                self._obey(order, generation)
            for generation, piece in self._step():
                generation._give(piece)

    def _obey(self, order: str, generation: Generation | None) -> None:
        if order == "add" and generation is not None:
            self._generations[self._shared.add(generation.ids, generation.sampling)] = generation
        for number, other in self._generations.items():
            if order == "close" or (order == "cancel" and other is generation):
                self._shared.cancel(number)

    def _step(self) -> list[tuple[Generation, "Piece | Exception"]]:
        """One round; when the model fails, the requests it was computing are told, and the engine goes on."""
        try:
            pieces = self._shared.step()
        except Exception as problem:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            failed = [(generation, problem) for generation in self._generations.values()]
            self._generations.clear()
            self._shared = self._new_batch()
            return failed
        given = [(self._generations[piece.request], piece) for piece in pieces]
        for piece in pieces:
            if piece.completion is not None:
                del self._generations[piece.request]
        return given
