"""What the language model sees of a text: hashed runs of one to four letters within a word, and hashed whole words.

All texts of a batch are worked on together as one array of code points, so the cost is that of a few dozen numpy
operations on the whole batch. Runs of letters tell languages apart since Cavnar & Trenkle 1994 ("N-gram-based text
categorization"); hashing them into buckets: Weinberger et al. 2009 ("Feature hashing for large scale multitask
learning").

Shapes: C characters of the batch after preparation, D documents, F features of the batch, W words.
"""

import unicodedata
from functools import cache

import numpy as np

MOST_LETTERS = 2_000  # of a document are looked at
LONGEST_RUN = 4
BLANK = 32
PLAIN = 128  # letters below, a to z, say nothing alone that runs of two do not say
KNOWN = 0x20000  # code points from here on are rare Han characters: they count as one
RARE_HAN = 0x4E00
FACTOR = np.uint32(0x9E3779B1)  # 2**32 / golden ratio: Knuth's multiplicative hashing
SEEDS = np.array([0x165667B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F, 0x5BD1E995], np.uint32)  # words, runs of 1 to 4


@cache
def letters() -> np.ndarray:
    """For every code point below KNOWN: itself for a letter or a mark on one, a blank for everything else."""
    kept = np.full(KNOWN, BLANK, np.uint32)
    for code in range(KNOWN):
        if unicodedata.category(chr(code))[0] in "LM":
            kept[code] = code
    return kept


def prepare(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The texts' letters in lower case, words between single blanks (C), and where each document begins (D).

    Every document begins with a blank, and a blank stands at the end of all.
    """
    pieces = [f" {text[:MOST_LETTERS].lower()}" for text in texts]
    codes_C = np.frombuffer(("".join(pieces) + " ").encode("utf-32-le", "replace"), np.uint32)
    starts_D = np.concatenate(([0], np.cumsum([len(piece) for piece in pieces])[:-1])).astype(np.int64)
    codes_C = letters()[np.where(codes_C < KNOWN, codes_C, RARE_HAN)]
    blank_C = codes_C == BLANK
    keep_C = np.ones(len(codes_C), bool)
    keep_C[1:] = ~(blank_C[1:] & blank_C[:-1])
    keep_C[starts_D] = True
    keep_C[-1] = True
    return codes_C[keep_C], (np.cumsum(keep_C) - 1)[starts_D]


def features(texts: list[str], buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Bucket of every feature (F), document by document, and where each document's features begin (D).

    Every document has at least one feature. `buckets` is a power of two.
    """
    codes_C, starts_D = prepare(texts)
    count = len(codes_C) - 1  # the last blank begins nothing
    padded_C = np.concatenate((codes_C, np.full(LONGEST_RUN, BLANK, np.uint32)))
    blank_C = padded_C == BLANK
    found_C5 = np.empty((count, LONGEST_RUN + 1), np.uint32)
    keep_C5 = np.empty((count, LONGEST_RUN + 1), bool)
    found_C5[:, 0], keep_C5[:, 0] = _words(codes_C[:count], blank_C[:count])
    run_C = np.zeros(count, np.uint32)
    inside_C = np.ones(count, bool)  # no blank inside the run, except at its ends
    for length in range(1, LONGEST_RUN + 1):
        run_C = _mix(run_C ^ padded_C[length - 1 : length - 1 + count])
        if length == 1:
            keep_C5[:, 1] = codes_C[:count] >= PLAIN
        else:
            inside_C = inside_C & ~blank_C[length - 2 : length - 2 + count] if length > 2 else inside_C
            keep_C5[:, length] = inside_C & ~(blank_C[:count] & blank_C[1 : count + 1])
        found_C5[:, length] = run_C
    keep_C5[starts_D, 0] = True  # a document's first blank stands for the document: every one has a feature
    shift = np.uint32(32 - (buckets.bit_length() - 1))
    found_F = ((found_C5 ^ SEEDS)[keep_C5] * FACTOR) >> shift
    before_C = np.concatenate(([0], np.cumsum(keep_C5.sum(axis=1))))
    return found_F.astype(np.int32), before_C[starts_D]


def _words(codes_C: np.ndarray, blank_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hash of the word that begins at each place, and whether one does."""
    begins_C = np.zeros(len(codes_C), bool)
    begins_C[1:] = blank_C[:-1] & ~blank_C[1:]
    hashes_C = np.zeros(len(codes_C), np.uint32)
    places_W = np.flatnonzero(begins_C)
    if len(places_W):
        word_C = np.cumsum(begins_C) - 1
        place_C = np.arange(len(codes_C), dtype=np.uint32) - places_W.astype(np.uint32)[np.maximum(word_C, 0)]
        mixed_C = np.where(blank_C, np.uint32(0), _mix(codes_C ^ (place_C * SEEDS[4])))
        hashes_C[places_W] = np.add.reduceat(mixed_C, places_W)
    return hashes_C, begins_C


def _mix(values: np.ndarray) -> np.ndarray:
    """Spread 32-bit values so that neighbours differ in all bits."""
    mixed = values * FACTOR
    return mixed ^ (mixed >> np.uint32(15))


def letter_counts(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Letters, and characters at all, of every text's beginning (D, D)."""
    pieces = [text[:MOST_LETTERS] for text in texts]
    sizes_D = np.array([len(piece) for piece in pieces])
    codes_C = np.frombuffer(("".join(pieces) + " ").encode("utf-32-le", "replace"), np.uint32)
    letters_C = letters()[np.where(codes_C < KNOWN, codes_C, RARE_HAN)] != BLANK
    before_C = np.concatenate(([0], np.cumsum(letters_C)))
    ends_D = np.cumsum(sizes_D)
    return before_C[ends_D] - before_C[ends_D - sizes_D], sizes_D
