"""The counts of the rules by the C library (athanor/native/rules.c and chinese.c): what `plain_counts.py` and
`chinese.py` count.

Shapes: D documents.
"""

import os
import re
from dataclasses import fields
from functools import cache

import numpy as np
from numpy.typing import NDArray

from athanor.base import native
from athanor.base.textblock import TextBlock
from athanor.data.rules.published import MOST_FREQUENT, REPEATED, STOP_WORDS, Counts
from athanor.data.rules.words import ABBREVIATIONS, character_flags

ORDER = (  # of the numbers in rules.c
    "characters", "line_feeds", "words", "filled_words", "filled_characters", "lettered_words", "stop_words", "hashes",
    "ellipses", "lines", "bullet_lines", "ellipsis_lines", "full_lines", "stopped_lines", "short_lines",
    "repeated_full_characters", "rows", "repeated_rows", "repeated_row_characters", "paragraphs", "repeated_paragraphs",
    "repeated_paragraph_characters", *(("most_frequent", width) for width in MOST_FREQUENT),
    *(("repeated", width) for width in REPEATED), "sentences", "placeholder", "braces",
)  # fmt: skip
CHINESE_NUMBERS = 15
assert {field.name for field in fields(Counts)} == {"characters_in_lines", "most_frequent", "repeated"} | {
    name for name in ORDER if isinstance(name, str)
}


def count_block(block: TextBlock) -> Counts:
    """The counts of each text, exactly, as arrays."""
    counts_DN = np.empty((len(block), len(ORDER)), dtype=np.int64)
    flags, abbreviations, stop_words, digits = _tables()
    native.function("athanor_rule_counts")(
        native.pointer(block.data_B, np.uint8), native.pointer(block.ends_D, np.int64), len(block),
        native.pointer(flags, np.uint8), native.pointer(abbreviations, np.uint64), len(abbreviations),
        native.pointer(stop_words, np.uint64), native.pointer(digits, np.uint32), len(digits),
        int.from_bytes(os.urandom(7), "little"), native.pointer(counts_DN, np.int64),
    )  # fmt: skip
    columns = dict(zip(ORDER, np.ascontiguousarray(counts_DN.T), strict=True))
    return Counts(
        **{name: column for name, column in columns.items() if isinstance(name, str)},
        characters_in_lines=columns["characters"] - columns["line_feeds"],
        most_frequent={width: columns["most_frequent", width] for width in MOST_FREQUENT},
        repeated={width: columns["repeated", width] for width in REPEATED},
    )


def chinese_counts(block: TextBlock, flags: NDArray[np.uint8]) -> list[list[int]]:
    """What `chinese.ChineseText` asks of each text: the numbers of chinese.c, in its order.

    Args:
        flags: of every code point, `chinese.chinese_flags`.
    """
    counts_DN = np.empty((len(block), CHINESE_NUMBERS), dtype=np.int64)
    native.function("athanor_chinese_counts")(
        native.pointer(block.data_B, np.uint8), native.pointer(block.ends_D, np.int64), len(block),
        native.pointer(flags, np.uint8), native.pointer(counts_DN, np.int64),
    )  # fmt: skip
    return counts_DN.tolist()  # type: ignore[no-any-return]


@cache
def _tables() -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32]]:
    """Flags of characters; abbreviations in order and stop words, byte by byte; where runs of ten digits begin."""
    every = np.arange(0x110000, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    runs = [found.span() for found in re.finditer(r"\d+", every)]
    assert all((stop - start) % 10 == 0 for start, stop in runs), "decimal digits come in tens"
    digits = [first for start, stop in runs for first in range(start, stop, 10)]
    return character_flags(), np.sort(_numbers(*ABBREVIATIONS)), _numbers(*STOP_WORDS), np.array(digits, np.uint32)


def _numbers(*words: str) -> NDArray[np.uint64]:
    return np.array([int.from_bytes(word.encode(), "little") for word in words], dtype=np.uint64)
