"""Removing copies: exact ones by hash, near ones by MinHash and locality-sensitive hashing, each verified.

MinHash: Broder 1997, "On the resemblance and containment of documents". Banding: Leskovec, Rajaraman, Ullman, "Mining
of Massive Datasets", 3.4. A document is removed only when the exact Jaccard similarity of its word runs to a document
that stays is at or above the threshold: no chain of similar pairs, no estimate, removes anything.

Memory: 512 bytes of signature and 128 of bucket numbers per document; the word runs themselves lie on disk.

Shapes: D documents, P permutations, S word runs of one document, B bands, R rows per band.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from athanor.data.shingles import Hashes, jaccard, mix

PERMUTATIONS = 128
WANTED_RECALL = 0.99  # of pairs exactly at the threshold
CHUNK = 4_096  # word runs permuted at once: PERMUTATIONS x CHUNK x 4 bytes stay in the cache
ESTIMATE_MARGIN = 4.0  # standard deviations below the threshold at which a pair is not verified
SEED = 0x5EED
Signatures = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Copy:
    """One removed document: its number, the document that stays for it, and their exact Jaccard similarity."""

    removed: int
    kept: int
    similarity: float


class SignatureMaker:
    """MinHash signatures: for each of P random permutations of the hash space, the least image of the document's runs.

    A permutation is x -> (x XOR a) * b modulo 2^32 with b odd, of hashes that are well mixed already.
    """

    def __init__(self, permutations: int = PERMUTATIONS):
        random = np.random.Generator(np.random.PCG64(SEED))
        self.flips_P1 = random.integers(0, 1 << 32, (permutations, 1), dtype=np.uint32)
        self.factors_P1 = random.integers(0, 1 << 31, (permutations, 1), dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        self._room_PS = np.empty((permutations, CHUNK), dtype=np.uint32)

    def __call__(self, shingles_S: Hashes) -> Signatures:
        """signature_P of a non-empty set of runs."""
        low_S = (shingles_S >> np.uint64(32)).astype(np.uint32)
        least_P = np.full(len(self.flips_P1), 0xFFFFFFFF, dtype=np.uint32)
        for start in range(0, len(low_S), CHUNK):
            part_S = low_S[start : start + CHUNK]
            room_PS = self._room_PS[:, : len(part_S)]
            np.bitwise_xor(part_S[None, :], self.flips_P1, out=room_PS)
            np.multiply(room_PS, self.factors_P1, out=room_PS)
            np.minimum(least_P, room_PS.min(axis=1), out=least_P)
        return least_P


class ShingleFile:
    """The word runs of all documents in one file on disk, read back by number."""

    def __init__(self, path: Path):
        self.path = path
        self.starts = [0]
        self._file = open(path, "wb")
        self._map: NDArray[np.uint64] | None = None

    def __enter__(self) -> "ShingleFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._map = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def append(self, shingles_S: Hashes) -> None:
        """Store the next document's runs."""
        self._file.write(shingles_S.tobytes())
        self.starts.append(self.starts[-1] + len(shingles_S))

    def __getitem__(self, number: int) -> Hashes:
        if self._map is None:
            self._file.flush()
            self._map = np.memmap(self.path, dtype=np.uint64, mode="r") if self.starts[-1] else np.zeros(0, np.uint64)
        return np.asarray(self._map[self.starts[number] : self.starts[number + 1]])


def choose_bands(threshold: float, permutations: int = PERMUTATIONS) -> tuple[int, int]:
    """(bands, rows): the most rows per band that still find 99 % of the pairs exactly at the threshold.

    A pair of similarity s shares a band with probability 1 - (1 - s^rows)^bands.
    """
    best = (permutations, 1)
    for rows in range(1, permutations + 1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= WANTED_RECALL:
            best = (bands, rows)
    return best


def find_near_copies(
    signatures_DP: Signatures, runs: ShingleFile | Sequence[Hashes], sizes: Sequence[int], threshold: float
) -> list[Copy]:
    """The documents to remove, each with the document that stays for it.

    Longer documents are looked at first (among equals the earlier), so the fullest copy stays. Documents without words
    are never near copies.

    Args:
        signatures_DP: the signatures; rows of documents without words are ignored.
        runs: each document's word runs, sorted.
        sizes: each document's length, any unit.
        threshold: the least Jaccard similarity of a copy, over 0 to 1.
    """
    has_words = [len(runs[number]) > 0 for number in range(len(sizes))]
    order = sorted((n for n in range(len(sizes)) if has_words[n]), key=lambda number: (-sizes[number], number))
    if len(order) < 2:
        return []
    bands, rows = choose_bands(threshold, signatures_DP.shape[1])
    buckets_DB = _buckets(signatures_DP[order], bands, rows)
    deviation = (threshold * (1 - threshold) / signatures_DP.shape[1]) ** 0.5
    surely_less = threshold - ESTIMATE_MARGIN * deviation
    kept_in: dict[int, list[int]] = defaultdict(list)  # bucket number -> documents that stay
    copies = []
    for place in np.flatnonzero(buckets_DB.any(axis=1)):
        number = order[place]
        mine = [int(bucket) for bucket in buckets_DB[place] if bucket]
        candidates = sorted({other for bucket in mine for other in kept_in[bucket]})
        best = _most_similar(number, candidates, signatures_DP, runs, surely_less)
        if best is not None and best[1] >= threshold:
            copies.append(Copy(number, best[0], best[1]))
            continue
        for bucket in mine:
            kept_in[bucket].append(number)
    return sorted(copies, key=lambda copy: copy.removed)


def _buckets(signatures_DP: Signatures, bands: int, rows: int) -> NDArray[np.int32]:
    """bucket_DB: a number for each (document, band) that shares its band with another document, else 0."""
    documents = len(signatures_DP)
    buckets_DB = np.zeros((documents, bands), dtype=np.int32)
    used = 0
    for band in range(bands):
        keys_D = np.zeros(documents, dtype=np.uint64)
        for row in range(band * rows, (band + 1) * rows):
            keys_D = mix(keys_D + signatures_DP[:, row].astype(np.uint64) + np.uint64(1))
        _, group_D, sizes_G = np.unique(keys_D, return_inverse=True, return_counts=True)
        shared_G = sizes_G > 1
        numbers_G = np.where(shared_G, np.cumsum(shared_G) + used, 0)
        buckets_DB[:, band] = numbers_G[group_D]
        used += int(shared_G.sum())
    return buckets_DB


def _most_similar(
    number: int, candidates: list[int], signatures_DP: Signatures, runs: ShingleFile | Sequence[Hashes], least: float
) -> tuple[int, float] | None:
    """The candidate with the highest exact similarity; those whose estimate is far below are not read from disk."""
    if not candidates:
        return None
    estimates = (signatures_DP[candidates] == signatures_DP[number]).mean(axis=1)
    mine = runs[number]
    best: tuple[int, float] | None = None
    for other, estimate in zip(candidates, estimates, strict=True):
        if estimate < least:
            continue
        theirs = runs[other]
        smaller, larger = sorted((len(mine), len(theirs)))
        if best is not None and smaller / larger <= best[1]:  # no pair of these sizes can be more similar
            continue
        similarity = jaccard(mine, theirs)
        if best is None or similarity > best[1]:
            best = (other, similarity)
    return best
