"""MinHash signatures by one permutation, cut into bands: which documents are worth comparing.

One-permutation hashing: Li, Owen, Zhang 2012; the filling of empty bins: Shrivastava 2017, "Optimal densification for
fast and accurate minwise hashing", algorithm 1. Every run's hash falls into one of 128 bins and each bin keeps its
least hash; an empty bin borrows from the bin that a fixed random sequence names first among those that are not empty.
Banding: Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.4. Two documents of similarity s agree in a band
of `rows` bins with probability s^rows. Candidates are those that agree in two bands at least: of all pairs at the
threshold 0.7 that finds 99.8 %, and at 0.3 one pair in 36, where one band alone would name one in 4.

Memory: 4 bytes per band and document, on disk (32 bands at the threshold 0.7: 128 bytes). One band is sorted at a time,
32 bytes per document; where that is more than SORT_BYTES, a band is read several times, a range of keys each time.

Shapes: D documents, P bins, W words of a batch, B bands, E entries (a document in a band it shares), G groups.
"""

from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from athanor.base.textblock import TextBlock
from athanor.data.copies.byteshingles import RunBatch
from athanor.data.copies.compiled import band_keys
from athanor.data.copies.shingles import Hashes, Places, mix

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
        return band_keys(block, width, self.probes, self.bands, self.rows)

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


class BandFiles:
    """The band keys of all documents on disk, a file for each band, in the order of the documents."""

    def __init__(self, folder: Path, bands: int):
        self.paths = [folder / f"band-{number:03d}.bin" for number in range(bands)]
        self.documents = 0
        self._files = [open(path, "wb") for path in self.paths]

    def __enter__(self) -> "BandFiles":
        return self

    def __exit__(self, *problem: object) -> None:
        for file in self._files:
            file.close()

    def append(self, keys_DB: Keys) -> None:
        """Store the keys of the next documents."""
        for file, key_D in zip(self._files, np.ascontiguousarray(keys_DB.T, dtype=np.uint32), strict=True):
            file.write(key_D)
        self.documents += len(keys_DB)

    def read(self, number: int) -> Iterator[tuple[int, Keys]]:
        """(first document, key_D) of one band, some documents at a time."""
        self._files[number].flush()
        with open(self.paths[number], "rb") as file:
            first = 0
            while data := file.read(READ_KEYS * 4):
                yield first, np.frombuffer(data, dtype=np.uint32)
                first += len(data) // 4


def _sorted_entries(bands: BandFiles, number: int, ranks_D: Places, sort_bytes: int) -> Iterator[Hashes]:
    """Keys of one band, each with its document's rank, in order; equal keys come in the same array.

    Keys are hashes, spread evenly: each pass over the band takes a range of them that fits into the memory.
    """
    passes = max(1, -(-bands.documents * SORTED_BYTES // sort_bytes))
    limits = [(1 << 32) * step // passes for step in range(passes + 1)]
    for low, high in pairwise(limits):
        found = []
        for first, keys_D in bands.read(number):
            chosen = np.flatnonzero((keys_D >= max(low, 1)) & (keys_D <= high - 1))  # 0: no words
            entries = keys_D[chosen].astype(np.uint64) << np.uint64(32)
            entries |= ranks_D[first : first + len(keys_D)][chosen].astype(np.uint64)
            found.append(entries)
        entries = np.concatenate([np.zeros(0, dtype=np.uint64), *found])
        del found
        entries.sort()
        yield entries


def shared_bands(bands: BandFiles, ranks_D: Places, sort_bytes: int = SORT_BYTES) -> tuple[Places, Places]:
    """(group_E, rank_E): for every band that documents share, who shares it, best rank first.

    Args:
        bands: the keys of all documents.
        ranks_D: each document's rank, a permutation of 0 to D - 1: the copy of lower rank stays.
        sort_bytes: memory for sorting; the result does not depend on it.
    """
    groups: list[Places] = []
    members: list[Places] = []
    used = 0
    sorted_ones = (_sorted_entries(bands, number, ranks_D, sort_bytes) for number in range(len(bands.paths)))
    for entries in chain.from_iterable(sorted_ones):
        same = (entries[1:] >> np.uint64(32)) == (entries[:-1] >> np.uint64(32))
        shared = np.zeros(len(entries), dtype=np.bool_)
        shared[1:] |= same
        shared[:-1] |= same
        begins = np.ones(len(entries), dtype=np.bool_)
        begins[1:] = ~same
        group_E = (np.cumsum(begins) + used)[shared]
        used += len(entries)
        groups.append(group_E)
        members.append((entries[shared] & np.uint64(0xFFFFFFFF)).astype(np.int64))
    return drop_rare(_join(groups), _join(members))


def _join(parts: list[Places]) -> Places:
    """All parts in one array; the list is emptied, for it holds as much memory as the result."""
    joined = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
    parts.clear()
    return joined


def drop_rare(group_E: Places, member_E: Places) -> tuple[Places, Places]:
    """The entries without groups of one member and without members of fewer groups than candidates have in common."""
    while True:
        before = len(group_E)
        same = group_E[1:] == group_E[:-1]
        left_E = np.zeros(before, dtype=np.bool_)
        left_E[1:] |= same
        left_E[:-1] |= same
        if not left_E.all():
            group_E, member_E = group_E[left_E], member_E[left_E]
        often_E = (np.bincount(member_E) >= LEAST_SHARED)[member_E]
        if not often_E.all():
            group_E, member_E = group_E[often_E], member_E[often_E]
        if len(group_E) == before:
            return group_E, member_E
