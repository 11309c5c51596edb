"""What `language.guess_language`, `repair.repair_text` and `personal.mask_personal` look at, by the C library
(athanor/native/text.c).

Shapes: D documents.
"""

import re
import unicodedata
from collections.abc import Collection
from functools import cache

import numpy as np
from numpy.typing import NDArray

from athanor.base import native
from athanor.base.textblock import TextBlock

LETTER, HAN, KANA, HANGUL, OTHER, ODD, CHANGES = (1 << bit for bit in range(7))  # classes of characters in text.c
NUMBERS = 10
FIRST_STABLE, LAST_STABLE = 0x20000, 0x2F800  # Han characters of planes 2: no form but their own; beyond: not looked at


def letter_counts(block: TextBlock, sample: int, known: Collection[str]) -> list[list[int]]:
    """Counts of each text's first characters: letters, Han, kana, hangul, other letters, words, runs of the three
    scripts, words of a to z, those of them that are known, and odd characters.

    An odd character's lower case has a letter of a to z; where there are any, the counts are wrong.
    """
    counts_DN = np.empty((len(block), NUMBERS), dtype=np.int64)
    words = np.array([int.from_bytes(word.encode(), "little") for word in sorted(known)], dtype=np.uint64)
    native.function("athanor_letter_counts")(
        native.pointer(block.data_B, np.uint8), native.pointer(block.ends_D, np.int64), len(block),
        native.pointer(_classes(), np.uint8), sample, native.pointer(words, np.uint64), len(words),
        native.pointer(counts_DN, np.int64),
    )  # fmt: skip
    return counts_DN.tolist()  # type: ignore[no-any-return]


def may_change(block: TextBlock) -> NDArray[np.bool_]:
    """Whether repairing could change each text anywhere but at its ends; where not, it does not."""
    changes_D = np.empty(len(block), dtype=np.uint8)
    native.function("athanor_may_change")(
        native.pointer(block.data_B, np.uint8), native.pointer(block.ends_D, np.int64), len(block),
        native.pointer(_classes(), np.uint8), native.pointer(changes_D, np.uint8),
    )  # fmt: skip
    return changes_D.astype(np.bool_)


def may_be_personal(block: TextBlock) -> NDArray[np.bool_]:
    """Whether `personal.mask_personal` could mask something in each text; where not, it does not."""
    found_D = np.empty(len(block), dtype=np.uint8)
    native.function("athanor_may_be_personal")(
        native.pointer(block.data_B, np.uint8), native.pointer(block.ends_D, np.int64), len(block),
        native.pointer(found_D, np.uint8),
    )  # fmt: skip
    return found_D.astype(np.bool_)


@cache
def _classes() -> NDArray[np.uint8]:
    """What each code point is, from the patterns of Python."""
    from athanor.data.cleaning import language, repair

    classes = np.zeros(0x110000, dtype=np.uint8)
    every, rest = ("".join(map(chr, codes)) for codes in (range(FIRST_STABLE), range(FIRST_STABLE, 0x110000)))
    for flag, pattern in (
        (LETTER, language.LETTERS), (HAN, language.HAN), (KANA, language.KANA), (HANGUL, language.HANGUL),
        (OTHER, language.OTHER_LETTERS), (CHANGES, repair.CONTROLS), (CHANGES, repair.LINE_ENDS),
        (CHANGES, repair.WIDE_BLANKS),
    ):  # fmt: skip
        for found in re.finditer(f"(?:{pattern.pattern})+", every):
            classes[found.start() : found.end()] |= flag
    for found in language.WORD.finditer(rest):
        classes[FIRST_STABLE + found.start() : FIRST_STABLE + found.end()] |= LETTER
    for code, letter in enumerate(every):
        if unicodedata.category(letter)[0] == "M" or not unicodedata.is_normalized("NFC", letter):
            classes[code] |= CHANGES  # may compose with, or move before, what stands in front of it
    for start in range(0x80, FIRST_STABLE, 0x80):
        block = every[start : start + 0x80]
        if re.search("[a-z']", block.lower()):
            classes[[code for code in range(start, start + 0x80) if re.search("[a-z']", every[code].lower())]] |= ODD
    classes[0x1100:0x1200] |= CHANGES  # parts of Hangul syllables
    classes[LAST_STABLE:] |= CHANGES
    return classes
