"""Which source each training row is read from: a pure function of the row's number, with no table and no chance.

Rows are dealt in blocks. A block of B rows gives source s its share by rounding at the blocks' ends only, so after any
number of blocks every source is within one row of its share; inside a block each source's rows are spread evenly,
beginning at a random place, so that any few steps have nearly the shares of the whole. A phase of a curriculum begins
its own row of blocks.

Shapes: S sources, P phases, R rows asked for, B rows of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from athanor.base.errors import AthanorError

Numbers = NDArray[np.int64]
Shares = NDArray[np.float64]
FINENESS = 52  # shares are whole multiples of 2^-52, so that counts are exact whatever the row
SMALLEST_BLOCK, LARGEST_BLOCK = 1 << 10, 1 << 20
CACHED_BLOCKS = 8


@dataclass(frozen=True)
class Phase:
    """Rows from `first` on (up to the next phase) that are shared out alike.

    Attributes:
        shares_S: of the rows, by source; they add up to 1.
    """

    first: int
    shares_S: Shares


class Interleaving:
    """Source and number of each row.

    Args:
        phases: in order, the first from row 0 on; the last has no end.
        seed: decides where in a block each source begins.

    Raises:
        AthanorError: a share is too small to be dealt.
    """

    def __init__(self, phases: Sequence[Phase], seed: int):
        self.seed, self.sources = seed, len(phases[0].shares_S)
        self._parts: list[_Part] = []
        before_S = np.zeros(self.sources, dtype=np.int64)
        for number, phase in enumerate(phases):
            if self._parts:
                last = self._parts[-1]
                before_S = last.counts(phase.first - last.first)
            self._parts.append(_Part(phase, before_S, seed % (1 << 63), number))
        self._firsts_P = np.array([phase.first for phase in phases], dtype=np.int64)

    def counts(self, rows: int) -> Numbers:
        """counts_S: how many of the first `rows` rows each source gives."""
        part = self._part(max(0, rows - 1))
        return part.counts(rows - part.first)

    def at(self, rows_R: Numbers) -> tuple[Numbers, Numbers]:
        """(sources_R, numbers_R): the source of each row, and how many rows of that source were before it."""
        sources_R, numbers_R = np.empty(len(rows_R), dtype=np.int64), np.empty(len(rows_R), dtype=np.int64)
        phase_R = np.searchsorted(self._firsts_P, rows_R, side="right") - 1
        for number in np.unique(phase_R).tolist():
            part = self._parts[number]
            block_R = np.where(phase_R == number, (rows_R - part.first) // part.size, -1)
            for block in np.unique(block_R[block_R >= 0]).tolist():
                mine = block_R == block
                inside = rows_R[mine] - part.first - block * part.size
                dealt = part.block(block)
                sources_R[mine], numbers_R[mine] = dealt.sources_B[inside], dealt.numbers_B[inside]
        return sources_R, numbers_R

    def rows_of(self, source: int, numbers: Numbers, before: int) -> Numbers:
        """The rows below `before` that are these rows of a source: undoes `at`."""
        found: list[int] = []
        ends = [*self._firsts_P[1:].tolist(), before]
        for part, end in zip(self._parts, ends, strict=True):
            last = part.counts(max(0, min(end, before) - part.first))[source]
            inside = np.sort(numbers[(numbers >= part.before_S[source]) & (numbers < last)])
            found += part.rows_of(source, inside)
        return np.array(found, dtype=np.int64)

    def _part(self, row: int) -> "_Part":
        return self._parts[int(np.searchsorted(self._firsts_P, row, side="right")) - 1]


@dataclass(frozen=True)
class _Block:
    """Source of each row of a block, and its number among the source's rows."""

    sources_B: Numbers
    numbers_B: Numbers


class _Part:
    """One phase: an endless row of blocks, and how many rows each source gave before it."""

    def __init__(self, phase: Phase, before_S: Numbers, seed: int, number: int):
        self.first, self.before_S, self.seed, self.number = phase.first, before_S, seed, number
        least = float(phase.shares_S[phase.shares_S > 0].min())
        self.size = SMALLEST_BLOCK
        while self.size * least < 2:
            self.size *= 2
        if self.size > LARGEST_BLOCK:
            raise AthanorError(
                f"a source has {least:.2g} of the rows: less than one in {LARGEST_BLOCK // 2:,}",
                fix="give it a larger weight, or leave it out with 0",
            )
        bounds = np.concatenate([[0.0], np.cumsum(phase.shares_S)])
        self._bounds = [round(float(bound / bounds[-1]) * (1 << FINENESS)) for bound in bounds]
        self.block = lru_cache(CACHED_BLOCKS)(self._deal)

    def quota(self, block: int) -> Numbers:
        """quota_S: rows that each source gives in the blocks before this one."""
        rows, half = block * self.size, 1 << (FINENESS - 1)
        ends_S = np.array([(rows * bound + half) >> FINENESS for bound in self._bounds], dtype=np.int64)
        return ends_S[1:] - ends_S[:-1]

    def _deal(self, block: int) -> _Block:
        start_S = self.quota(block)
        counts_S = self.quota(block + 1) - start_S
        sources_B = np.repeat(np.arange(len(counts_S)), counts_S)
        within_B = np.arange(self.size) - np.repeat(np.cumsum(counts_S) - counts_S, counts_S)
        begins_S = np.random.default_rng([self.seed, self.number, block]).random(len(counts_S))
        places_B = (within_B + begins_S[sources_B]) / counts_S[sources_B]
        order = np.lexsort((sources_B, places_B))
        numbers_B = self.before_S[sources_B] + start_S[sources_B] + within_B
        return _Block(sources_B[order], numbers_B[order])

    def counts(self, rows: int) -> Numbers:
        """counts_S: rows each source gave before row `rows` of this phase, earlier phases included."""
        block, inside = divmod(rows, self.size)
        counts_S = self.before_S + self.quota(block)
        if inside:
            counts_S += np.bincount(self.block(block).sources_B[:inside], minlength=len(counts_S))
        return counts_S

    def rows_of(self, source: int, numbers: Numbers) -> list[int]:
        """The rows that are these rows of a source, in order."""
        found: list[int] = []
        for number in (numbers - self.before_S[source]).tolist():
            block = self._block_of(source, number)
            dealt = self.block(block)
            place = np.flatnonzero((dealt.sources_B == source) & (dealt.numbers_B == number + self.before_S[source]))
            found.append(self.first + block * self.size + int(place[0]))
        return found

    def _block_of(self, source: int, number: int) -> int:
        """The block that deals this row of a source."""
        low, high = 0, 1
        while self.quota(high)[source] <= number:
            low, high = high, 2 * high
        while low + 1 < high:
            middle = (low + high) // 2
            if self.quota(middle)[source] <= number:
                low = middle
            else:
                high = middle
        return low
