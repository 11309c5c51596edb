"""Batches as a pure function of (seed, step, rank, world): resuming, and resuming on more or fewer machines, is exact.

The corpus is one row of tokens cut into windows of `context`. An epoch is a permutation of the windows, computed by a
small Feistel cipher (Luby and Rackoff 1988) that costs no memory and can be asked backwards: at which step was this
text seen?

Shapes: B rows of one rank, T = context, W windows. Targets are -100 where nothing is to be learnt.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from athanor.base.errors import AthanorError
from athanor.data.copies.shingles import mix

IGNORED = -100
ROUNDS = 6
Numbers = NDArray[np.int64]


class TokenSource(Protocol):
    """What windows are cut from: `pack.TokenFiles`, or a table of documents alone to ask `steps_of`."""

    tokens: int
    starts_D: Numbers

    def read(self, start: int, stop: int) -> Numbers:
        """Token ids from place `start` up to `stop`; fewer at the end."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's share of a step, int64 arrays of shape (B, T).

    Attributes:
        ids_BT: what the model reads.
        targets_BT: the token after each, -100 at a document's last token, in padding, and where a mask says so.
        documents_BT: a number per document: attention must not cross a change of it.
    """

    ids_BT: Numbers
    targets_BT: Numbers
    documents_BT: Numbers


class Shuffle:
    """A pseudo-random permutation of range(size) for each epoch, without a table, in both directions."""

    def __init__(self, size: int, seed: int):
        self.size = size
        self.half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
        self.seed = np.uint64(seed % (1 << 64))

    def places(self, numbers: Numbers, epoch: int) -> Numbers:
        """Which window stands at each place of the epoch."""
        return self._walk(numbers, self._keys(epoch))

    def numbers(self, places: Numbers, epoch: int) -> Numbers:
        """At which place of the epoch each window stands: undoes `places`."""
        return self._walk(places, self._keys(epoch)[::-1])

    def _keys(self, epoch: int) -> NDArray[np.uint64]:
        rounds = np.arange(ROUNDS, dtype=np.uint64) + np.uint64(epoch * ROUNDS)
        return mix(rounds * np.uint64(0x9E3779B97F4A7C15) + mix(np.array([self.seed], dtype=np.uint64)))

    def _walk(self, numbers: Numbers, keys: NDArray[np.uint64]) -> Numbers:
        """Apply the cipher until the result falls into range again ("cycle walking"): at most 4 times on average."""
        values = np.array(numbers, dtype=np.uint64)
        outside = np.ones(len(values), dtype=bool)
        while outside.any():
            values[outside] = self._cipher(values[outside], keys)
            outside = values >= self.size
        return values.astype(np.int64)

    def _cipher(self, values: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """A Feistel network that is its own inverse when the keys are given in reverse order."""
        bits, low = np.uint64(self.half_bits), np.uint64((1 << self.half_bits) - 1)
        left, right = values >> bits, values & low
        for key in keys:
            left, right = right, left ^ (mix(right + key) & low)
        return (right << bits) | left


def bounds(rows: int, rank: int, world: int) -> tuple[int, int]:
    """The first of a step's rows that one rank reads, and the one after its last: shares differ by one row at most."""
    return rank * rows // world, (rank + 1) * rows // world


def share_of(step: int, rows: int, rank: int, world: int) -> Numbers:
    """The places of the endless order that one rank reads at a step of `rows` rows.

    Raises:
        AthanorError: there is no such rank, or there are fewer rows than ranks.
    """
    if not 0 <= rank < world:
        raise AthanorError(f"rank={rank} of world={world}", allowed=f"0 to {world - 1}")
    if rows < world:
        raise AthanorError(
            f"{rows} rows per step for {world} pieces (processes times accumulate)", allowed=f"at least {world} rows"
        )
    first, after = bounds(rows, rank, world)
    return step * rows + np.arange(first, after, dtype=np.int64)


class Rows:
    """Which rows belong to which step: what token windows and packed conversations share.

    Args:
        count: rows of an epoch.
        rows: rows per step over all ranks together.
        seed: decides the order.
    """

    def __init__(self, count: int, rows: int, seed: int):
        if rows < 1:
            raise AthanorError(f"rows={rows} per batch", allowed="at least 1")
        self.count, self.rows, self.seed = count, rows, seed
        self.shuffle = Shuffle(count, seed)

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every row was seen once (the last may begin the next epoch)."""
        return -(-self.count // self.rows)

    def at(self, step: int, rank: int = 0, world: int = 1) -> Numbers:
        """Row numbers of one rank at a step; the ranks' rows in order are those of a world of one."""
        return self.numbers(share_of(step, self.rows, rank, world))

    def numbers(self, places: Numbers) -> Numbers:
        """Which row stands at each place of the endless order: one epoch behind the other."""
        chosen = np.empty(len(places), dtype=np.int64)
        epochs = places // self.count
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            chosen[mine] = self.shuffle.places(places[mine] % self.count, int(epoch))
        return chosen

    def places_of(self, numbers: Numbers, before: int) -> Numbers:
        """The places below `before` of the endless order at which these rows stand, in order."""
        epochs = range(-(-before // self.count))
        found = [self.shuffle.numbers(numbers, epoch) + epoch * self.count for epoch in epochs]
        places = np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *found]))
        return places[places < before]

    def steps_of(self, numbers: Numbers, before: int) -> list[int]:
        """The steps below `before` that hold any of these rows, in order."""
        return np.unique(self.places_of(numbers, before * self.rows) // self.rows).tolist()


class Batches:
    """Windows of a packed corpus.

    Args:
        tokens: one split of a packed corpus.
        context: tokens per row.
        rows: rows per step over all ranks together.
        seed: decides the order.
    """

    def __init__(self, tokens: TokenSource, context: int, rows: int, seed: int = 0):
        if context < 1:
            raise AthanorError(f"context={context}", allowed="at least 1")
        if tokens.tokens < 2:
            raise AthanorError(f"the corpus holds {tokens.tokens} tokens: nothing to learn", fix="add documents")
        self.tokens, self.context, self.rows = tokens, context, rows
        self.windows = -(-tokens.tokens // context)
        self.order = Rows(self.windows, rows, seed)

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every token was seen once."""
        return self.order.steps_per_epoch

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `rank` at `step`."""
        numbers = self.order.at(step, rank, world)
        return self._stack([self.window(int(number)) for number in numbers])

    def documents_of(self, step: int) -> list[int]:
        """Numbers of the documents that a step reads, in the order of its rows."""
        return self.documents_in(self.order.at(step))

    def documents_in(self, windows: Numbers) -> list[int]:
        """Numbers of the documents that these windows hold, each once, in their order."""
        found: dict[int, None] = {}
        for number in windows:
            first = int(number) * self.context
            ends = [first, min(first + self.context, self.tokens.tokens) - 1]
            one, other = np.searchsorted(self.tokens.starts_D, ends, side="right") - 1
            found |= dict.fromkeys(range(int(one), int(other) + 1))
        return list(found)

    def in_order(self, start: int, stop: int) -> Batch:
        """Windows `start` to `stop` in the corpus's own order, for evaluation."""
        return self._stack([self.window(number) for number in range(start, min(stop, self.windows))])

    def window(self, number: int) -> tuple[Numbers, Numbers, Numbers]:
        """(ids_T, targets_T, documents_T) of one window; the last is padded with targets of -100."""
        first = number * self.context
        read = self.tokens.read(first, first + self.context + 1)
        there = min(self.context, self.tokens.tokens - first)
        ids_T = np.zeros(self.context, dtype=np.int64)
        ids_T[:there] = read[:there]
        places_T = np.arange(first, first + self.context + 1)
        documents = np.searchsorted(self.tokens.starts_D, places_T, side="right") - 1  # padding: one after the last
        targets_T = np.full(self.context, IGNORED, dtype=np.int64)
        known = len(read) - 1
        same = documents[:known] == documents[1 : known + 1]
        targets_T[:known][same] = read[1:][same]
        return ids_T, targets_T, documents[: self.context]

    def steps_of(self, document: int, before: int, start: int = 0, stop: int | None = None) -> list[int]:
        """The steps below `before` at which tokens `start` to `stop` of a document were read (unset: all of it)."""
        return self.order.steps_of(self.windows_of(document, start, stop), before)

    def windows_of(self, document: int, start: int = 0, stop: int | None = None) -> Numbers:
        """The windows that hold tokens `start` to `stop` of a document (unset: all of it)."""
        first, end = (int(place) for place in self.tokens.starts_D[document : document + 2])
        last = min(end, first + stop if stop is not None else end) - 1
        return np.arange((first + start) // self.context, last // self.context + 1, dtype=np.int64)

    @staticmethod
    def _stack(windows: list[tuple[Numbers, Numbers, Numbers]]) -> Batch:
        return Batch(*(np.stack(part) for part in zip(*windows, strict=True)))
