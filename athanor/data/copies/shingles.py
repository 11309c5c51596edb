"""Words of a text as hashes, computed for the whole text at once: what repetition rules and deduplication count.

A word is a run of letters, digits and underscores, lower-cased; every Chinese character and Japanese kana is a word of
its own, so "five words" are five characters there. All arithmetic is modulo 2^64.

Shapes: C characters, W words, N = W - width + 1 runs of words.
"""

import functools
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]
Numbers = NDArray[np.integer[Any]]  # of 4 bytes where that is enough

WORD, ALONE = 1, 2  # classes of characters: part of a word, a word by itself; 0 separates words
BASE = 0x9E3779B97F4A7C15  # odd, so that its powers can be undone modulo 2^64
INVERSE = pow(BASE, -1, 1 << 64)
RUN_BASE = 0xD6E8FEB86659FD93
ALONE_RANGES = ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
                (0x20000, 0x323AF))  # fmt: skip


@functools.cache
def character_classes() -> NDArray[np.uint8]:
    """The class of each of Unicode's code points (1.1 MB, made once)."""
    classes = np.zeros(0x110000, dtype=np.uint8)
    known = np.arange(0x323B0, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")  # beyond: no letters
    for found in re.finditer(r"\w+", known):  # letters, digits and the underscore
        classes[slice(*found.span())] = WORD
    for first, last in ALONE_RANGES:
        part = classes[first : last + 1]
        part[part == WORD] = ALONE
    return classes


@functools.cache
def _ascii_classes() -> NDArray[np.uint8]:
    return character_classes()[:128].copy()


_powers: Hashes = np.ones(1, dtype=np.uint64)
_inverses: Hashes = np.ones(1, dtype=np.uint64)


def _power_tables(length: int) -> tuple[Hashes, Hashes]:
    """BASE^i and BASE^-i for i below `length`."""
    global _powers, _inverses
    if len(_powers) < length:
        size = max(length, 1 << 16)
        _powers = np.cumprod(np.full(size, BASE, dtype=np.uint64), dtype=np.uint64) * np.uint64(INVERSE)
        _inverses = np.cumprod(np.full(size, INVERSE, dtype=np.uint64), dtype=np.uint64) * np.uint64(BASE)
    return _powers[:length], _inverses[:length]


def mix(values: Hashes) -> Hashes:
    """Spread every bit over all others (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def find_words(text: str) -> tuple[Hashes, Places, Places]:
    """(hashes_W, starts_W, ends_W) of the words of a text; places count characters of `text.lower()`."""
    lowered = text.lower()
    if lowered.isascii():
        codes_C = np.frombuffer(lowered.encode("ascii"), dtype=np.uint8)
        classes_C = _ascii_classes()[codes_C]
    else:
        codes_C = np.frombuffer(lowered.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
        classes_C = character_classes()[codes_C]
    if len(codes_C) == 0:
        nothing = np.zeros(0, dtype=np.int64)
        return np.zeros(0, dtype=np.uint64), nothing, nothing
    in_word_C = classes_C > 0
    changes_C = classes_C[1:] != classes_C[:-1]
    begins_C = in_word_C.copy()
    begins_C[1:] &= changes_C | (classes_C[1:] == ALONE)
    stops_C = in_word_C.copy()
    stops_C[:-1] &= changes_C | (classes_C[:-1] == ALONE)
    starts_W, ends_W = np.flatnonzero(begins_C), np.flatnonzero(stops_C) + 1
    powers_C, inverses_C = _power_tables(len(codes_C) + 1)
    # A polynomial hash of every word at once: differences of one running sum, shifted back to the word's beginning.
    sums_C = np.zeros(len(codes_C) + 1, dtype=np.uint64)
    np.cumsum((codes_C.astype(np.uint64) + np.uint64(1)) * powers_C[:-1], out=sums_C[1:])
    hashes_W = mix((sums_C[ends_W] - sums_C[starts_W]) * inverses_C[starts_W])
    return hashes_W, starts_W, ends_W


def runs(hashes_W: Hashes, width: int) -> Hashes:
    """hashes_N of all runs of `width` words, in order; nothing when there are fewer words."""
    count = len(hashes_W) - width + 1
    if count <= 0:
        return np.zeros(0, dtype=np.uint64)
    combined_N = np.zeros(count, dtype=np.uint64)
    for place in range(width):
        combined_N *= np.uint64(RUN_BASE)
        combined_N += hashes_W[place : place + count]
    return mix(combined_N)


def shingles(hashes_W: Hashes, width: int) -> Hashes:
    """The set of runs of `width` words, sorted; a shorter text has one run, all its words; no words, no run."""
    if len(hashes_W) == 0:
        return hashes_W
    return np.unique(runs(hashes_W, min(width, len(hashes_W))))


def jaccard(left_N: Hashes, right_N: Hashes) -> float:
    """|A ∩ B| / |A ∪ B| of two sorted sets; two empty sets are not alike (0)."""
    union = len(left_N) + len(right_N)
    if not union:
        return 0.0
    both = np.concatenate((left_N, right_N))
    both.sort(kind="stable")  # radix or merge sort: the halves are sorted already
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (union - shared)
