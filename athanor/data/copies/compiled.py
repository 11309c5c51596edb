"""What `byteshingles`, `minhash` and `clusters` say about words and runs, by the C library (athanor/native/runs.c).

Shapes: D documents, R runs of all sets, N pairs.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from athanor.base import native
from athanor.base.textblock import TextBlock
from athanor.data.copies.byteshingles import lower_tables
from athanor.data.copies.shingles import Hashes, Places

Keys = NDArray[np.uint32]


def band_keys(block: TextBlock, width: int, probes: Places, bands: int, rows: int) -> Keys:
    """key_DB of the texts, as `minhash.BandMaker` gives them.

    Args:
        width: words in a run.
        probes: the bins that an empty one asks, one row after the other.
    """
    keys_DB = np.empty((len(block), bands), dtype=np.uint32)
    special_D = np.empty(len(block), dtype=np.uint8)
    more = (native.pointer(probes, np.int64), len(probes), bands, rows, native.pointer(keys_DB, np.uint32))
    _call("athanor_band_keys", block, width, *more, native.pointer(special_D, np.uint8))
    for number, lowered in _lowered(block, special_D):
        keys_DB[number] = band_keys(lowered, width, probes, bands, rows)[0]
    return keys_DB


def run_sets(block: TextBlock, width: int) -> tuple[Hashes, Places]:
    """(runs_R, ends_D): the texts' sets of runs one behind the other, each sorted; and where each ends."""
    runs_R = np.empty((len(block.data_B) + 1) // 2 + len(block), dtype=np.uint64)
    ends_D, special_D = np.empty(len(block), dtype=np.int64), np.empty(len(block), dtype=np.uint8)
    more = (native.pointer(runs_R, np.uint64), native.pointer(ends_D, np.int64), native.pointer(special_D, np.uint8))
    _call("athanor_run_sets", block, width, *more)
    runs_R = runs_R[: ends_D[-1] if len(ends_D) else 0]
    if special_D.any():
        sets = np.split(runs_R, ends_D[:-1])
        for number, lowered in _lowered(block, special_D):
            sets[number] = run_sets(lowered, width)[0]
        return np.concatenate(sets), np.cumsum([len(found) for found in sets])
    return runs_R.copy(), ends_D  # the room was larger


def run_repeats(block: TextBlock, width: int, wider: int) -> list[tuple[int, int, int] | None]:
    """Of each text: its words, how often its most frequent run of `width` words occurs, how many words stand in runs of
    `wider` words that occurred before (-1: not counted).

    None for the few texts whose letters the library cannot exchange one by one.
    """
    numbers_D3, special_D = np.empty((len(block), 3), dtype=np.int64), np.empty(len(block), dtype=np.uint8)
    _call(
        "athanor_run_repeats",
        block,
        width,
        wider,
        native.pointer(numbers_D3, np.int64),
        native.pointer(special_D, np.uint8),
    )
    rows = zip(numbers_D3.tolist(), special_D.tolist(), strict=True)
    return [None if special else (row[0], row[1], row[2]) for row, special in rows]


def count_shared(runs_R: Hashes, starts_D: Places, left_N: Places, right_N: Places) -> Places:
    """How many runs the two sets of each pair share; set d is runs_R[starts_D[d] : starts_D[d + 1]]."""
    shared_N = np.empty(len(left_N), dtype=np.int64)
    native.function("athanor_count_shared")(
        native.pointer(runs_R, np.uint64), native.pointer(starts_D, np.int64), native.pointer(left_N, np.int64),
        native.pointer(right_N, np.int64), len(left_N), native.pointer(shared_N, np.int64),
    )  # fmt: skip
    return shared_N


def _call(name: str, block: TextBlock, width: int, *more: object) -> None:
    call: Callable[..., int] = native.function(name)
    classes, lower = lower_tables()
    call(
        native.pointer(block.data_B, np.uint8), native.pointer(block.ends_D, np.int64), len(block),
        native.pointer(classes, np.uint8), native.pointer(lower, np.uint32), width, *more,
    )  # fmt: skip


def _lowered(block: TextBlock, special_D: NDArray[np.uint8]) -> list[tuple[int, TextBlock]]:
    """The texts whose letters the library cannot exchange one by one, in lower case."""
    return [(number, TextBlock.of([block.text(number).lower()])) for number in np.flatnonzero(special_D).tolist()]


def find_repeated(parts: Iterable[tuple[int, Keys]], expected: int) -> Callable[[Keys], NDArray[np.uint8]]:
    """Tells which keys other than 0 may stand in the parts more than once: all that do, and few others.

    Args:
        parts: (first document, key_D), read once.
        expected: about how many keys they have; 2 to 4 bytes are taken for each.
    """
    bits = min(32, max(6, (8 * expected).bit_length()))
    seen_B, twice_B = np.zeros(1 << bits >> 3, dtype=np.uint8), np.zeros(1 << bits >> 3, dtype=np.uint8)

    def call(name: str, keys_D: Keys, other: NDArray[np.uint8]) -> None:
        keys_D = np.ascontiguousarray(keys_D)
        places = (native.pointer(twice_B, np.uint8), native.pointer(other, np.uint8))
        native.function(name)(native.pointer(keys_D, np.uint32), len(keys_D), bits, *places)

    for _, keys_D in parts:
        call("athanor_note_keys", keys_D, seen_B)

    def may_repeat(keys_D: Keys) -> NDArray[np.uint8]:
        found_D = np.empty(len(keys_D), dtype=np.uint8)
        call("athanor_may_repeat", keys_D, found_D)
        return found_D

    return may_repeat
