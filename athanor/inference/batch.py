"""Many answers computed together: prompts in chunks, one token of every answer per step, rows refilled as they end.

No threads here: `Batch.step()` does one round of work. The result of a request does not depend on its neighbours.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.inference.blanks import Blanks, check_blanks, inputs
from athanor.inference.cache import KeyValueCache
from athanor.inference.generate import Completion, FinishReason, check_request, known_logits
from athanor.inference.sampling import Sampling, SamplingState, choose
from athanor.inference.schedule import Schedule
from athanor.inference.stream import TextStream
from athanor.models import glm
from athanor.models.adapters.attach import require, select, select_rows
from athanor.models.adapters.prefix import PrefixAdapter
from athanor.models.language import LanguageModel

CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class Piece:
    """What one step added to one answer; `completion` is there with the last piece only."""

    request: int
    text: str
    ids: tuple[int, ...]
    completion: Completion | None = None


@dataclass
class Row:
    """One answer under way; `limit` is the most tokens it may have.

    Attributes:
        reading: where its tokens stand, of a network that reads its prompt in both directions.
    """

    number: int
    state: SamplingState
    limit: int
    stream: TextStream | None
    reading: glm.Row | None = None
    computed: int = 0  # tokens the model was run for
    finish: FinishReason | None = None

    @property
    def length(self) -> int:
        """Tokens so far, prompt included."""
        return len(self.state.prompt) + len(self.state.generated)

    def completion(self) -> Completion:
        assert self.finish is not None
        text = self.stream.text if self.stream else ""
        return Completion(tuple(self.state.generated), text, self.finish, len(self.state.prompt), self.computed)


@dataclass
class Prompts:
    """A group of prompts being computed: `done` positions are in its own cache."""

    rows: list[Row]
    cache: KeyValueCache
    done: int = 0
    longest: int = field(init=False)

    def __post_init__(self) -> None:
        self.longest = max(len(row.state.prompt) for row in self.rows)


class Batch:
    """Answers requests together until none is left.

    Args:
        token_bytes: the bytes of every token id, to give text and to find stop strings; None gives ids only.
        end_ids: tokens that end an answer.
        rows: most answers at once.
        chunk: most prompt tokens per step, padding included.
        cache_bytes: memory for keys and values; requests wait when it is used up.
        blanks: special tokens of a network that reads its prompt in both directions.

    Raises:
        AthanorError: see `check_blanks`.
    """

    def __init__(
        self,
        model: LanguageModel,
        token_bytes: Sequence[bytes] | None = None,
        end_ids: Iterable[int] = (),
        rows: int = 64,
        chunk: int = 2048,
        cache_bytes: int = CACHE_BYTES,
        blanks: Blanks | None = None,
    ):
        check_blanks(model.config, blanks)
        self.blanks = blanks
        weight = next(model.parameters())
        self.model, self.token_bytes, self.ends = model, token_bytes, frozenset(end_ids)
        self.device, self.dtype = weight.device, model_dtype(model)
        config = model.config
        position_bytes = 2 * config.layers * config.key_heads * config.head_size * self.dtype.itemsize
        self.schedule = Schedule(rows, max(cache_bytes // position_bytes, 1), chunk)
        self.waiting: dict[int, Row] = {}
        self.running: list[Row] = []  # row i of the cache belongs to running[i]
        self.prompts: Prompts | None = None
        self.cache: KeyValueCache | None = None
        self.cancelled: set[int] = set()
        self.next_number = 0

    @property
    def idle(self) -> bool:
        """True when nothing is left to do."""
        return not (self.waiting or self.running or self.prompts)

    def check(self, ids: Sequence[int], sampling: Sampling) -> int:
        """The most tokens a request's answer can have; may be called from any thread.

        Raises:
            AthanorError: see `check_request`; or the answer could never fit into the cache.
        """
        ids = self._completed(ids)
        limit = check_request(self.model, ids, sampling, self.token_bytes is not None)
        if sampling.adapter is not None and isinstance(require(self.model, sampling.adapter), PrefixAdapter):
            raise AthanorError(
                f"the adapter {sampling.adapter!r} is a prefix, which moves the positions of a whole batch",
                fix="open the model with this adapter alone",
            )
        if self.blanks is not None:
            self.blanks.row(ids, self.model.config)
        if not self.schedule.fits(len(ids) + limit):
            raise AthanorError(
                f"{len(ids)} prompt tokens and up to {limit} of an answer do not fit into the cache",
                allowed=f"{self.schedule.positions} together",
                fix="lower max_tokens, or give the engine more cache_bytes",
            )
        return limit

    def add(self, ids: Sequence[int], sampling: Sampling) -> int:
        """Queue a request; its number.

        Raises:
            AthanorError: see `check`.
        """
        limit, ids = self.check(ids, sampling), self._completed(ids)
        number, self.next_number = self.next_number, self.next_number + 1
        stream = TextStream(self.token_bytes, sampling.stop) if self.token_bytes is not None else None
        reading = None if self.blanks is None else self.blanks.row(ids, self.model.config)
        self.waiting[number] = Row(number, SamplingState(sampling, ids), limit, stream, reading)
        self.schedule.add(number, len(ids), len(ids) + limit)
        return number

    def _completed(self, ids: Sequence[int]) -> list[int]:
        return list(ids) if self.blanks is None else self.blanks.complete(ids)

    def cancel(self, number: int) -> None:
        """End a request at the next step; a finished one stays as it is."""
        if number in self.waiting or any(row.number == number for row in self._rows()):
            self.cancelled.add(number)

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """One round: a chunk of waiting prompts, then one token of every running answer."""
        pieces = self._drop_cancelled()
        if self.prompts is None:
            self._admit()
        if self.prompts is not None:
            pieces += self._prefill(self.prompts)
        if self.running:
            pieces += self._decode()
        if self.idle:
            self.cache = None  # give the memory back
        return pieces

    def _rows(self) -> list[Row]:
        return self.running + (self.prompts.rows if self.prompts else [])

    def _drop_cancelled(self) -> list[Piece]:
        if not self.cancelled:
            return []
        dropped = [row for row in (*self.waiting.values(), *self._rows()) if row.number in self.cancelled]
        for row in dropped:
            row.finish = "cancelled"
            self.waiting.pop(row.number, None)
        self.cancelled.clear()
        if self.prompts is not None and all(row.finish for row in self.prompts.rows):
            self.prompts = None
        self._remove_finished()
        return [self._last_piece(row) for row in dropped]

    def _admit(self) -> None:
        rows = [self.waiting.pop(number) for number in self.schedule.admit()]
        if rows:
            longest = max(len(row.state.prompt) for row in rows)
            self.prompts = Prompts(rows, self._new_cache(len(rows), longest))

    def _new_cache(self, rows: int, capacity: int) -> KeyValueCache:
        return KeyValueCache(self.model.config, rows, capacity, self.dtype, self.device)

    def _prefill(self, prompts: Prompts) -> list[Piece]:
        """One chunk of the group; after the last one its first tokens are chosen, and it joins the running rows."""
        stop, contexts = prompts.longest, None
        if self.blanks is None:
            stop = min(prompts.done + max(self.schedule.chunk // len(prompts.rows), 1), prompts.longest)
        else:  # a context that is read in both directions is computed whole
            contexts = [row.reading.context for row in prompts.rows if row.reading is not None]
        parts = [row.state.prompt[prompts.done : stop] for row in prompts.rows]
        read = inputs(self.model.config, parts, self.blanks)
        positions_BT = prompts.cache.begin_chunk(prompts.done, stop - prompts.done, contexts)
        positions_BT = read.get("positions_BT", positions_BT).to(self.device)
        with self._adapted(prompts.rows):
            ids_BT = read["ids_BT"].to(self.device)
            hidden_BTD = self.model.hidden(ids_BT, positions_BT=positions_BT, cache=prompts.cache)
        first, prompts.done = prompts.done, stop
        if stop < prompts.longest:
            return []
        lasts = torch.tensor([len(row.state.prompt) - 1 - first for row in prompts.rows], device=self.device)
        hidden_BD = hidden_BTD[torch.arange(len(prompts.rows), device=self.device), lasts]
        self.prompts = None
        pieces = self._choose(hidden_BD, prompts.rows)
        self._join(prompts)
        return pieces

    def _join(self, prompts: Prompts) -> None:
        """Copy the group's keys and values behind the running rows."""
        if self.cache is None:
            self.cache = self._new_cache(self.schedule.rows, prompts.longest)
        for source, row in enumerate(prompts.rows):
            if row.finish is None:
                self.cache.adopt(len(self.running), prompts.cache, source, len(row.state.prompt))
                self.running.append(row)

    def _decode(self) -> list[Piece]:
        """The next token of every running row."""
        assert self.cache is not None
        ids_B1 = torch.tensor([[row.state.generated[-1]] for row in self.running], device=self.device)
        positions_B1 = self.cache.begin_decode([row.length - 1 for row in self.running])
        if self.blanks is not None:
            positions_B1 = self._written_positions()
        with self._adapted(self.running):
            hidden_B1D = self.model.hidden(ids_B1, positions_BT=positions_B1, cache=self.cache)
        pieces = self._choose(hidden_B1D[:, 0], self.running)
        self._remove_finished()
        return pieces

    @contextmanager
    def _adapted(self, rows: list[Row]) -> Iterator[None]:
        """Every row computed with the adapter it asks for."""
        names = [row.state.sampling.adapter or self.model.chosen for row in rows]
        if all(name == self.model.chosen for name in names):
            yield
            return
        chosen = self.model.chosen
        select_rows(self.model, names)
        try:
            yield
        finally:
            select(self.model, chosen)

    def _written_positions(self) -> Tensor:
        """Where a network that fills in blanks sees the last token of every running row, (B, 1) or (B, 1, 2)."""
        readings = [(row.length, row.reading) for row in self.running if row.reading is not None]
        places = [reading.position(length - reading.context) for length, reading in readings]
        positions_B12 = torch.tensor(places, device=self.device)[:, None]
        return positions_B12 if self.model.config.position_axes == 2 else positions_B12[..., 0]

    def _choose(self, hidden_BD: Tensor, rows: list[Row]) -> list[Piece]:
        """Choose a token for every row and see which rows end with it."""
        logits_BV = known_logits(self.model.logits(hidden_BD), self.token_bytes)
        tokens = choose(logits_BV, [row.state for row in rows])
        return [self._take(row, token) for row, token in zip(rows, tokens, strict=True) if row.finish is None]

    def _take(self, row: Row, token: int) -> Piece:
        row.computed += 1
        if token in self.ends:
            row.finish = "stop"
            return self._last_piece(row)
        row.state.generated.append(token)
        text = row.stream.push(token) if row.stream else ""
        if row.stream and row.stream.stopped:
            row.finish = "stop"
        elif len(row.state.generated) == row.limit:
            row.finish = "length"
        if row.finish is None:
            return Piece(row.number, text, (token,))
        return self._last_piece(row, text, (token,))

    def _last_piece(self, row: Row, text: str = "", ids: tuple[int, ...] = ()) -> Piece:
        text += row.stream.finish() if row.stream else ""
        self.schedule.remove(row.number)
        return Piece(row.number, text, ids, row.completion())

    def _remove_finished(self) -> None:
        """Fill the places of ended rows with the last ones, so that the running rows stay at the front."""
        for place in reversed(range(len(self.running))):
            if self.running[place].finish is None:
                continue
            last = self.running.pop()
            if place < len(self.running):
                assert self.cache is not None
                self.cache.adopt(place, self.cache, len(self.running), last.length - 1)
                self.running[place] = last


def model_dtype(model: LanguageModel) -> torch.dtype:
    """The number type of the stream between the layers: that of the norms (weights may be quantised)."""
    return model.trunk.blocks[0].attention_norm.weight.dtype
