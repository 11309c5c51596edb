"""Removing near copies: MinHash and locality-sensitive hashing name candidates, exact comparison decides.

A document is removed only when the exact Jaccard similarity of its word runs to a document that stays is at or above
the threshold: no chain of similar pairs, no estimate, removes anything. What a word and a run is: `shingles`. The
outcome does not depend on how documents are batched.

Memory: 64 bytes per document, or 32 and `minhash.SORT_BYTES` where that is less; 100 per candidate, and 800 where all
are copies of one; 80 MiB of what is not yet on disk; 20 MB for a batch of ordinary documents (15 to 31 bytes per byte
of a longer one). On disk beside the result: the band keys (128 bytes per document at the threshold 0.7) and the runs of
the candidates (8 bytes each).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from athanor.base import native
from athanor.data.copies import compiled
from athanor.data.copies.byteshingles import hash_runs
from athanor.data.copies.clusters import Copy, Similarities, count_shared, decide, similarities
from athanor.data.copies.minhash import SORT_BYTES, BandKeys, BandMaker, Keys, shared_bands
from athanor.data.copies.shingles import Hashes, Places
from athanor.data.lines import Texts, as_block, as_list

BATCH_LETTERS = 1 << 18  # the arrays of one batch stay in the cache
WAITING_BYTES = 64 << 20  # of sets that wait in memory until they are written
ALLOCATED = 30 << 20  # bytes; without it every array of a batch is mapped and unmapped, a fifth of the time


class ShingleSets:
    """Sets of runs, read back by number: in memory while they are few, then in a file."""

    def __init__(self, path: Path):
        self.path = path
        self._waiting: list[Hashes] = []
        self._waiting_bytes = 0
        self._stored = False
        self._sizes: list[Places] = []

    def append(self, runs_R: Hashes, sizes_D: Places) -> None:
        """Take the next sets, which stand one behind the other; all are taken before the first is read."""
        self._waiting.append(runs_R)
        self._waiting_bytes += runs_R.nbytes
        self._sizes.append(sizes_D)
        if self._waiting_bytes >= WAITING_BYTES:
            self._store()

    def _store(self) -> None:
        with open(self.path, "ab" if self._stored else "wb") as file:
            for runs_R in self._waiting:
                file.write(runs_R.data)
        self._waiting, self._waiting_bytes, self._stored = [], 0, True

    @cached_property
    def sizes(self) -> Places:
        """How many runs each set has."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *self._sizes])

    @cached_property
    def _starts(self) -> Places:
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @cached_property
    def _runs(self) -> Hashes:
        if self._stored:
            self._store()
            return np.asarray(np.memmap(self.path, dtype=np.uint64, mode="r"))
        return np.concatenate([np.zeros(0, dtype=np.uint64), *self._waiting])

    def count_shared(self, left_N: Places, right_N: Places) -> Places:
        """How many runs the sets of each pair share."""
        count = compiled.count_shared if native.available() else count_shared
        return count(self._runs, self._starts, left_N, right_N)


@dataclass(frozen=True, slots=True)
class Signed:
    """What is looked up of some documents: key_DB of `minhash`, and their sizes in bytes of UTF-8."""

    keys_DB: Keys
    sizes_D: Places

    def chosen(self, numbers: Places) -> "Signed":
        """Of the documents with these numbers only."""
        return Signed(self.keys_DB[numbers], self.sizes_D[numbers])


@cache
def make_bands(threshold: float) -> BandMaker:
    """The maker of band keys for a threshold."""
    return BandMaker(threshold)


def sign(texts: Texts, threshold: float, run: int) -> Signed:
    """Sign texts; batches of 256 KB are quickest."""
    if native.available():
        block = as_block(texts)
        return Signed(make_bands(threshold).of_block(block, run), block.sizes_D)
    batch = hash_runs(as_list(texts), run)
    return Signed(make_bands(threshold)(batch), batch.bytes_D)


def in_batches(texts: Iterable[str], most: int = BATCH_LETTERS) -> Iterator[list[str]]:
    """Lists of whole texts, each list of about `most` letters."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > most:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


class NearCopyFinder:
    """Takes the texts of all documents once, then those of the candidates again, and names the copies.

    Use as a context manager; the files in `folder` are the caller's to remove.
    """

    def __init__(self, folder: Path, threshold: float, run: int):
        self.threshold, self.run = threshold, run
        self._keys = BandKeys(folder, make_bands(threshold).bands)
        self._sets = ShingleSets(folder / "runs.bin")
        self._waiting: list[str] = []
        self._waiting_letters = 0
        np.empty(ALLOCATED, dtype=np.uint8)  # freed at once: the C library then reuses blocks up to this size

    def __enter__(self) -> "NearCopyFinder":
        return self

    def __exit__(self, *problem: object) -> None:
        self._sets.__dict__.pop("_runs", None)  # lets go of the file

    def add_one(self, text: str) -> None:
        """Take the next document; it is looked at with others, which is quicker."""
        self._waiting.append(text)
        self._waiting_letters += len(text)
        if self._waiting_letters >= BATCH_LETTERS:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting, self._waiting_letters = self._waiting, [], 0
        if waiting:
            self.add(waiting)

    def add(self, texts: Texts) -> Places:
        """Take the next documents and return their sizes in bytes of UTF-8; batches of 256 KB are quickest."""
        signed = sign(texts, self.threshold, self.run)
        self.add_signed(signed)
        return signed.sizes_D

    def add_signed(self, signed: Signed) -> None:
        """Take the next documents by their keys."""
        self._flush()
        self._keys.append(signed.keys_DB)

    def _store_sets(self, texts: Texts) -> None:
        if native.available():
            runs_R, ends_D = compiled.run_sets(as_block(texts), self.run)
            self._sets.append(runs_R, np.diff(ends_D, prepend=0))
        else:
            sets = hash_runs(as_list(texts), self.run).sets()
            self._sets.append(np.concatenate(sets), np.fromiter(map(len, sets), dtype=np.int64, count=len(sets)))

    def find(
        self, ranks_D: Places, read_batches: Callable[[Places], Iterable[Texts]], sort_bytes: int = SORT_BYTES
    ) -> list[Copy]:
        """The documents to remove, in order of their numbers, each with the document that stays for it.

        Args:
            ranks_D: each document's rank, a permutation of 0 to D - 1; of two copies the lower rank stays.
            read_batches: gives the texts of the documents with these numbers, which are in ascending order.
            sort_bytes: memory for sorting keys; less of it costs passes over the disk and changes nothing else.
        """
        self._flush()
        numbers_D = np.argsort(ranks_D)  # by rank
        shared = list(shared_bands(self._keys, ranks_D, sort_bytes))
        candidates = np.unique(numbers_D[shared[1]])
        for batch in read_batches(candidates):
            self._store_sets(batch)
        assert len(self._sets.sizes) == len(candidates), "as many texts as asked for"

        def compare(left_N: Places, right_N: Places) -> Similarities:
            left, right = (np.searchsorted(candidates, numbers_D[side]) for side in (left_N, right_N))
            return similarities(left, right, self._sets.sizes, self._sets.count_shared, self.threshold)

        copies = [
            Copy(int(numbers_D[copy.removed]), int(numbers_D[copy.kept]), copy.similarity)
            for copy in decide(shared.pop(0), shared.pop(0), compare, self.threshold)  # it frees them
        ]
        return sorted(copies, key=lambda copy: copy.removed)


def rank_by(scores_D: NDArray) -> Places:
    """rank_D: the highest score is 0, of equals the earlier document."""
    ranks_D = np.empty(len(scores_D), dtype=np.int64)
    ranks_D[np.argsort(-scores_D, kind="stable")] = np.arange(len(scores_D))
    return ranks_D


def find_near_copies(
    texts: list[str], folder: Path, threshold: float = 0.7, run: int = 5, ranks_D: Places | None = None
) -> list[Copy]:
    """The near copies among texts in memory; the earliest of similar documents stays unless ranks say otherwise."""
    with NearCopyFinder(folder, threshold, run) as finder:
        for batch in in_batches(texts):
            finder.add(batch)
        ranks_D = np.arange(len(texts)) if ranks_D is None else ranks_D
        return finder.find(ranks_D, lambda numbers: in_batches(texts[number] for number in numbers.tolist()))
