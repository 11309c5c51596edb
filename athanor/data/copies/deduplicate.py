"""Removing near copies: MinHash and locality-sensitive hashing name candidates, exact comparison decides.

A document is removed only when the exact Jaccard similarity of its word runs to a document that stays is at or above
the threshold: no chain of similar pairs, no estimate, removes anything. What a word and a run is: `shingles`. The
outcome does not depend on how documents are batched.

Memory: under 64 bytes per document, 100 per candidate, 20 MB for a batch of ordinary documents (15 to 31 bytes per byte
of one that is longer). On disk beside the result: the band keys (128 bytes per document at the threshold 0.7) and the
runs of the candidates (8 bytes each). The band keys are read from disk one band at a time, so their size is no limit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from athanor.data.copies.byteshingles import hash_runs
from athanor.data.copies.clusters import Copy, Similarities, decide, similarities
from athanor.data.copies.minhash import BandFile, BandMaker, shared_bands
from athanor.data.copies.shingles import Hashes, Places

BATCH_LETTERS = 1 << 18  # the arrays of one batch stay in the cache
ALLOCATED = 30 << 20  # bytes; without it every array of a batch is mapped and unmapped, a fifth of the time


class ShingleFile:
    """Sets of runs in one file on disk, read back by number."""

    def __init__(self, path: Path):
        self.path = path
        self.starts = [0]
        self._file = open(path, "wb")
        self._map: NDArray[np.uint64] | None = None

    def __enter__(self) -> "ShingleFile":
        return self

    def __exit__(self, *problem: object) -> None:
        self._file.close()
        self._map = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def append(self, shingles_S: Hashes) -> None:
        """Store the next set."""
        self._file.write(shingles_S.tobytes())
        self.starts.append(self.starts[-1] + len(shingles_S))

    def __getitem__(self, number: int) -> Hashes:
        if self._map is None:
            self._file.flush()
            self._map = (
                np.asarray(np.memmap(self.path, dtype=np.uint64, mode="r"))
                if self.starts[-1]
                else np.zeros(0, np.uint64)
            )
        return self._map[self.starts[number] : self.starts[number + 1]]


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
        self._make_bands = BandMaker(threshold)
        self._bands = BandFile(folder / "bands.bin", self._make_bands.bands)
        self._sets = ShingleFile(folder / "runs.bin")
        self._waiting: list[str] = []
        self._waiting_letters = 0
        np.empty(ALLOCATED, dtype=np.uint8)  # freed at once: the C library then reuses blocks up to this size

    def __enter__(self) -> "NearCopyFinder":
        return self

    def __exit__(self, *problem: object) -> None:
        self._bands.__exit__()
        self._sets.__exit__()

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

    def add(self, texts: Sequence[str]) -> Places:
        """Take the next documents and return their sizes in bytes of UTF-8; batches of 256 KB are quickest."""
        self._flush()
        batch = hash_runs(texts, self.run)
        self._bands.append(self._make_bands(batch))
        return batch.bytes_D

    def find(self, ranks_D: Places, read_texts: Callable[[Places], Iterable[str]]) -> list[Copy]:
        """The documents to remove, in order of their numbers, each with the document that stays for it.

        Args:
            ranks_D: each document's rank, a permutation of 0 to D - 1; of two copies the lower rank stays.
            read_texts: gives the texts of the documents with these numbers, which are in ascending order.
        """
        self._flush()
        numbers_D = np.argsort(ranks_D)  # by rank
        group_E, rank_E = shared_bands(self._bands, ranks_D)
        candidates = np.unique(numbers_D[rank_E])
        for batch in in_batches(read_texts(candidates)):
            for found in hash_runs(batch, self.run).sets():
                self._sets.append(found)
        assert len(self._sets) == len(candidates), "as many texts as asked for"

        def compare(left_N: Places, right_N: Places) -> Similarities:
            left, right = (np.searchsorted(candidates, numbers_D[side]) for side in (left_N, right_N))
            return similarities(left, right, self._sets, self.threshold)

        copies = [
            Copy(int(numbers_D[copy.removed]), int(numbers_D[copy.kept]), copy.similarity)
            for copy in decide(group_E, rank_E, compare, self.threshold)
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
        return finder.find(ranks_D, lambda numbers: (texts[number] for number in numbers.tolist()))
