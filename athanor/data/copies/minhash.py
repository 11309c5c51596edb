"""MinHash signatures by one permutation, cut into bands: which documents are worth comparing.

One-permutation hashing: Li, Owen, Zhang 2012; the filling of empty bins: Shrivastava 2017, "Optimal densification for
fast and accurate minwise hashing", algorithm 1. Every run's hash falls into one of 128 bins and each bin keeps its
least hash; an empty bin borrows from the bin that a fixed random sequence names first among those that are not empty.
Banding: Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.4. Two documents of similarity s agree in a band
of `rows` bins with probability s^rows. Candidates are those that agree in two bands at least: of all pairs at the
threshold 0.7 that finds 99.8 %, and at 0.3 one pair in 36, where one band alone would name one in 4.

Memory: 4 bytes per band and document (32 bands at the threshold 0.7: 128 bytes), on disk beyond 16 MiB. Each worker
sorts one band at a time, 32 bytes per document; where that is more than SORT_BYTES, a band is read several times, a
range of keys each time. Bands and ranges are independent: each is work for any process or machine that sees the files.

Shapes: D documents, P bins, W words of a batch, B bands, E entries (a document in a band it shares), G groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from athanor.base import native
from athanor.base.errors import AthanorError
from athanor.base.textblock import TextBlock
from athanor.base.workers import ALONE, current
from athanor.data.copies import compiled
from athanor.data.copies.byteshingles import RunBatch
from athanor.data.copies.shingles import Hashes, Numbers, Places, mix

BINS = 128
BIN_BITS = 7
PROBES = 64  # random bins asked before the next full one in order is taken: documents of very few runs
SEED = 0x5EED
EMPTY = np.uint32(0xFFFFFFFF)
LEAST_SHARED = 2  # bands in which candidates agree
WANTED_MISS = 2e-3  # of pairs exactly at the threshold
SORT_BYTES = 1 << 30  # of memory for sorting one band
SORTED_BYTES = 32  # of memory per key while it is sorted
READ_KEYS = 1 << 14  # keys of a band read at once
MOST_DOCUMENTS = 1 << 32  # a rank has four bytes
COUNTED = 1 << 20  # entries counted at once
WAITING_BYTES = 16 << 20  # of keys that wait in memory until they are written
Keys = NDArray[np.uint32]


def chance_found(similarity: float, bands: int, rows: int) -> float:
    """The chance that documents of this similarity agree in two bands at least."""
    agree = similarity**rows
    return 1 - (1 - agree) ** bands - bands * agree * (1 - agree) ** (bands - 1)


def choose_bands(threshold: float) -> tuple[int, int]:
    """(bands, rows): the most rows per band that still find 99.8 % of the pairs exactly at the threshold."""
    best = (BINS, 1)
    for rows in range(1, BINS // LEAST_SHARED + 1):
        if chance_found(threshold, BINS // rows, rows) >= 1 - WANTED_MISS:
            best = (BINS // rows, rows)
    return best


class BandMaker:
    """Turns the runs of documents into band keys: equal keys in one band make two documents candidates."""

    def __init__(self, threshold: float):
        self.bands, self.rows = choose_bands(threshold)
        random = np.random.Generator(np.random.PCG64(SEED))
        probes = random.integers(0, BINS, (PROBES, BINS))
        neighbours = (np.arange(BINS) + np.arange(1, BINS)[:, None]) % BINS
        self.probes: Places = np.ascontiguousarray(np.concatenate([probes, neighbours]), dtype=np.int64)

    def of_block(self, block: TextBlock, width: int) -> Keys:
        """key_DB of texts, their runs `width` words wide, by the C library: the same keys."""
        return compiled.band_keys(block, width, self.probes, self.bands, self.rows)

    def __call__(self, batch: RunBatch) -> Keys:
        """key_DB of a batch, in the order of its texts; 0 throughout where a document has no words."""
        signatures_DP = self.sign(batch)
        keys_DB = np.zeros((len(signatures_DP), self.bands), dtype=np.uint64)
        for row in range(self.rows):
            keys_DB += signatures_DP[:, row : self.bands * self.rows : self.rows]
            keys_DB = mix(keys_DB + np.uint64(1))
        short_DB = (keys_DB >> np.uint64(32)).astype(np.uint32)
        short_DB[short_DB == 0] = 1
        short_DB[batch.words_D == 0] = 0
        ordered_DB = np.empty_like(short_DB)
        ordered_DB[batch.places_D] = short_DB
        return ordered_DB

    def sign(self, batch: RunBatch) -> Keys:
        """signature_DP: the least hash in each bin, empty bins filled from others; documents as they stand in it."""
        documents = len(batch.words_D)
        bins_W = (batch.hashes_W >> np.uint64(64 - BIN_BITS)).astype(np.int64)
        bins_W += np.repeat(np.arange(documents) * BINS, batch.words_D)
        bins_W[~batch.valid_W] = documents * BINS
        least = np.full((documents + 1) * BINS, EMPTY)
        np.minimum.at(least, bins_W, (batch.hashes_W >> np.uint64(20)).astype(np.uint32))
        signatures_DP = least[: documents * BINS].reshape(documents, BINS)
        self._fill(signatures_DP, batch.words_D > 0)
        return signatures_DP

    def _fill(self, signatures_DP: Keys, has_words_D: NDArray[np.bool_]) -> None:
        """Let empty bins borrow, in place."""
        rows, columns = np.nonzero((signatures_DP == EMPTY) & has_words_D[:, None])
        own_DP = signatures_DP.copy() if len(rows) else signatures_DP
        for probe in self.probes:
            if not len(rows):
                return
            borrowed = own_DP[rows, probe[columns]]
            signatures_DP[rows, columns] = borrowed
            still = borrowed == EMPTY
            rows, columns = rows[still], columns[still]


@dataclass(frozen=True, slots=True)
class Band:
    """The keys of one band, in the order of the documents: a file, or an array."""

    number: int
    keys: Path | Keys

    def read(self) -> Iterator[tuple[int, Keys]]:
        """(first document, key_D), some documents at a time."""
        if not isinstance(self.keys, Path):
            yield 0, self.keys
            return
        with open(self.keys, "rb") as file:
            first = 0
            while data := file.read(READ_KEYS * 4):
                yield first, np.frombuffer(data, dtype=np.uint32)
                first += len(data) // 4


class BandKeys:
    """The keys of all documents: in memory while they are few, then on disk, a file for each band."""

    def __init__(self, folder: Path, bands: int):
        self.paths = [folder / f"band-{number:03d}.bin" for number in range(bands)]
        self.documents = 0
        self.stored = 0  # documents whose keys are on disk
        self._waiting: list[Keys] = [np.zeros((0, bands), dtype=np.uint32)]

    def append(self, keys_DB: Keys) -> None:
        """Take the keys of the next documents."""
        self._waiting.append(np.asarray(keys_DB, dtype=np.uint32))
        self.documents += len(keys_DB)
        if 4 * len(self.paths) * (self.documents - self.stored) >= WAITING_BYTES:
            self._store()

    def _store(self) -> None:
        keys_BD = np.ascontiguousarray(np.concatenate(self._waiting).T)
        for path, key_D in zip(self.paths, keys_BD, strict=True):
            with open(path, "ab" if self.stored else "wb") as file:
                file.write(key_D)
        self._waiting = [keys_BD.T[:0]]
        self.stored = self.documents

    def bands(self) -> list[Band]:
        """The bands, all keys in their place."""
        if self.stored:
            self._store()
            return [Band(number, path) for number, path in enumerate(self.paths)]
        self._waiting = [np.concatenate(self._waiting)]
        return [Band(number, key_D) for number, key_D in enumerate(self._waiting[0].T)]


@dataclass(frozen=True, slots=True)
class _Range:
    """A piece of work: the keys of a band from `low` on, below `high`, about so many."""

    band: Band
    low: int
    high: int
    expected: int

    def keys(self) -> Iterator[tuple[int, Keys]]:
        """(first document, key_D), some documents at a time; 0 in the place of a key outside, as for no words."""
        for first, keys_D in self.band.read():
            if (self.low, self.high) != (0, 1 << 32):
                keys_D = np.where((keys_D >= self.low) & (keys_D < self.high), keys_D, np.uint32(0))
            yield first, keys_D

    def describe(self) -> str:
        """What messages call it."""
        return f"band {self.band.number} of the keys, from {self.low:#x} to {self.high:#x}"


def _shared_in(ranks: Path | Places, piece: _Range) -> tuple[Numbers, Numbers]:
    """(members_G, rank_E): of each key that several documents have, how many; and their ranks, the best first."""
    ranks_D: Numbers = np.memmap(ranks, dtype=np.uint32, mode="r") if isinstance(ranks, Path) else ranks
    may_repeat = compiled.find_repeated(piece.keys(), piece.expected) if native.available() else None
    found = []
    for first, keys_D in piece.keys():
        places = np.flatnonzero(keys_D if may_repeat is None else may_repeat(keys_D))
        entries = keys_D[places].astype(np.uint64) << np.uint64(32)
        entries |= ranks_D[first : first + len(keys_D)][places].astype(np.uint64)
        found.append(entries)
    entries_E: Hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *found])
    del found
    entries_E.sort()
    key_E = entries_E >> np.uint64(32)
    begins_E = np.ones(len(key_E) + 1, dtype=np.bool_)  # of a key's documents; one more behind the last
    begins_E[1:-1] = key_E[1:] != key_E[:-1]
    shared_E = ~(begins_E[:-1] & begins_E[1:])
    starts_G = np.flatnonzero(begins_E[:-1][shared_E])
    rank_E = (entries_E[shared_E] & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return np.diff(starts_G, append=len(rank_E)).astype(np.uint32), rank_E


def shared_bands(keys: BandKeys, ranks_D: Places, sort_bytes: int = SORT_BYTES) -> tuple[Numbers, Numbers]:
    """(group_E, rank_E): for every band that documents share, who shares it, best rank first.

    Bands and ranges of keys (hashes, spread evenly: each range fits into the memory) are shared among the workers,
    which read the files.

    Args:
        keys: of all documents.
        ranks_D: each document's rank, a permutation of 0 to D - 1: the copy of lower rank stays.
        sort_bytes: memory for sorting, of each worker; the result does not depend on it.

    Raises:
        AthanorError: more documents than four bytes can number.
    """
    if keys.documents > MOST_DOCUMENTS:
        raise AthanorError(
            f"near copies among {keys.documents:,} documents",
            allowed=f"up to {MOST_DOCUMENTS:,} in one step",
            fix="clean the sources in several steps",
        )
    passes = max(1, -(-keys.documents * SORTED_BYTES // sort_bytes))
    limits = [(1 << 32) * step // passes for step in range(passes + 1)]
    expected = -(-keys.documents // passes)
    pieces = (_Range(band, low, high, expected) for band in keys.bands() for low, high in pairwise(limits))
    workers, ranks = ALONE, keys.paths[0].with_name("ranks.bin")
    if keys.stored and not current().alone:
        workers = current()
        ranks_D.astype(np.uint32).tofile(ranks)
    work = partial(_shared_in, ranks_D if workers is ALONE else ranks)
    found = list(workers.map(work, pieces, _Range.describe))
    return drop_rare(*_number_groups(found))


def _number_groups(found: list[tuple[Numbers, Numbers]]) -> tuple[Numbers, Numbers]:
    """(group_E, rank_E) of all pieces; the list is emptied, for it holds as much memory as the result."""
    members_G = np.concatenate([np.zeros(0, np.uint32), *(members_G for members_G, _ in found)])
    rank_E = np.concatenate([np.zeros(0, np.uint32), *(rank_E for _, rank_E in found)])
    found.clear()
    small = len(members_G) < 1 << 31
    return np.repeat(np.arange(len(members_G), dtype=np.int32 if small else np.int64), members_G), rank_E


def drop_rare(group_E: Numbers, member_E: Numbers) -> tuple[Numbers, Numbers]:
    """The entries without groups of one member and without members of fewer groups than candidates have in common."""
    while True:
        before = len(group_E)
        same = group_E[1:] == group_E[:-1]
        left_E = np.zeros(before, dtype=np.bool_)
        left_E[1:] |= same
        left_E[:-1] |= same
        if not left_E.all():
            group_E, member_E = group_E[left_E], member_E[left_E]
        often_E = (_count(member_E) >= LEAST_SHARED)[member_E]
        if not often_E.all():
            group_E, member_E = group_E[often_E], member_E[often_E]
        if len(group_E) == before:
            return group_E, member_E


def _count(member_E: Numbers) -> NDArray[np.int32]:
    """How often each member occurs; a part at a time, for numpy counts in numbers of eight bytes."""
    size = int(member_E.max(initial=0)) + 1
    times = np.zeros(size, dtype=np.int32)
    step = max(size, COUNTED)
    for start in range(0, len(member_E), step):
        times += np.bincount(member_E[start : start + step], minlength=size)
    return times
