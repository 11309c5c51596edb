"""Limits for pages of any language, taken from texts of that language that are known to be good.

What is usual differs by language: English limits drop nearly all Chinese and much German. So the same measures are
taken of a reference corpus, and a page may lie as far from their mean as a few standard deviations (after FineWeb2,
Penedo et al. 2025: limits that follow from statistics of each language). A table for English and Chinese is here;
`derive_limits` makes others.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np

from athanor.base.errors import AthanorError
from athanor.data.copies.shingles import find_words, runs
from athanor.data.rules.repetition import occurred_before
from athanor.data.rules.words import ALPHA, FILLED, STOP_OF_LINE, character_flags

SHORT_LINE = 30  # characters; in languages without blanks half as many
FEWEST_DOCUMENTS = 100  # of a reference corpus
WIDEST_QUANTILE = 0.005
"""A limit is never stricter than what all but this share of the reference keep: few measures are bell-shaped."""
QUOTES = "\"'”’」』)）"


@dataclass(frozen=True)
class Measures:
    """What is measured of one text; shares are between 0 and 1."""

    letters: float
    """Letters among all that is not blank."""
    digits: float
    punctuation: float
    """Everything else that is not blank."""
    word_length: float
    """Mean characters of a word; in Chinese and Japanese every character is one."""
    closed_lines: float
    """Lines that end like a sentence."""
    short_lines: float
    line_feeds_per_word: float
    repeated_line_characters: float
    most_frequent_run: float
    """The most frequent run of four words among all words."""
    repeated_runs: float
    """Words in runs of ten that occurred before."""


REASONS = {
    "letters": "few letters", "digits": "many digits", "punctuation": "unusual punctuation",
    "word_length": "unusual word length", "closed_lines": "few lines end like a sentence",
    "short_lines": "mostly short lines", "line_feeds_per_word": "a list",
    "repeated_line_characters": "repeated lines", "most_frequent_run": "one phrase fills the text",
    "repeated_runs": "repeated passages",
}  # fmt: skip
BOUNDED_BELOW = ("letters", "word_length", "closed_lines", "punctuation")
BOUNDED_ABOVE = tuple(name for name in REASONS if name not in ("letters", "closed_lines"))
Limits = Mapping[str, tuple[float | None, float | None]]


def measure(text: str) -> Measures:
    """The measures of a text; a text without words has all 0."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    flags = character_flags()[codes]
    hashes, starts, ends = find_words(text)
    filled = int(np.count_nonzero(flags & FILLED))
    if not len(hashes) or not filled:
        return Measures(*([0.0] * len(fields(Measures))))
    letters = int(np.count_nonzero(flags & ALPHA)) / filled
    digits = int(np.count_nonzero((codes >= 0x30) & (codes <= 0x39))) / filled
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    spaced = len(hashes) < 0.5 * filled
    short = SHORT_LINE if spaced else SHORT_LINE // 2
    closed = sum(bool(character_flags()[ord(line.rstrip(QUOTES)[-1:] or line[-1])] & STOP_OF_LINE) for line in lines)
    return Measures(
        letters=letters, digits=digits, punctuation=1 - letters - digits,
        word_length=float((ends - starts).mean()), closed_lines=closed / len(lines),
        short_lines=sum(len(line) <= short for line in lines) / len(lines),
        line_feeds_per_word=text.count("\n") / len(hashes),
        repeated_line_characters=_repeated_line_share(lines),
        most_frequent_run=_most_frequent_share(hashes, 4), repeated_runs=_repeated_share(hashes, 10),
    )  # fmt: skip


def _repeated_line_share(lines: list[str]) -> float:
    if len(set(lines)) == len(lines):
        return 0.0
    seen: set[str] = set()
    again = 0
    for line in lines:
        again += len(line) if line in seen else 0
        seen.add(line)
    return again / sum(map(len, lines))


def _most_frequent_share(hashes: np.ndarray, width: int) -> float:
    found = np.sort(runs(hashes, width))
    edges = np.flatnonzero(np.concatenate(([True], found[1:] != found[:-1], [True]))) if len(found) else found
    most = int(np.diff(edges).max()) if len(found) else 0
    return most * width / len(hashes) if most > 2 else 0.0


def _repeated_share(hashes: np.ndarray, width: int) -> float:
    found = runs(hashes, width)
    ordered = np.sort(found)
    if not len(found) or not (ordered[1:] == ordered[:-1]).any():
        return 0.0
    again = np.flatnonzero(occurred_before(found))
    covered = np.zeros(len(hashes), dtype=bool)
    for step in range(width):
        covered[again + step] = True
    return float(np.count_nonzero(covered) / len(hashes))


def derive_limits(texts: Iterable[str], deviations: float = 3.0) -> dict[str, tuple[float | None, float | None]]:
    """The limits of a language by good texts in it: mean ± `deviations` standard deviations of each measure.

    Raises:
        AthanorError: fewer than 100 texts.
    """
    rows = np.array([list(asdict(measure(text)).values()) for text in texts])
    if len(rows) < FEWEST_DOCUMENTS:
        raise AthanorError(
            f"{len(rows)} texts are too few to know what is usual", allowed=f"{FEWEST_DOCUMENTS} and more",
            fix="name more texts of this language, or cut books into chapters",
        )  # fmt: skip
    low, high = np.quantile(rows, (WIDEST_QUANTILE, 1 - WIDEST_QUANTILE), axis=0)
    means, spreads = rows.mean(axis=0), rows.std(axis=0)
    low, high = np.minimum(low, means - deviations * spreads), np.maximum(high, means + deviations * spreads)
    return {
        name: (
            round(max(0.0, float(low[place])), 4) if name in BOUNDED_BELOW else None,
            round(float(high[place]), 4) if name in BOUNDED_ABOVE else None,
        )
        for place, name in enumerate(REASONS)
    }


# Means ± 3 standard deviations. en: articles of Wikipedia, news, C4 and books; zh: articles of Wikipedia, prose in the
# modern language, a textbook, answers to questions.
LIMITS: dict[str, Limits] = {
    "en": {
        "letters": (0.8794, None),
        "digits": (None, 0.0423),
        "punctuation": (0.0, 0.1039),
        "word_length": (3.0876, 5.6763),
        "closed_lines": (0.0, None),
        "short_lines": (None, 0.3353),
        "line_feeds_per_word": (None, 0.2213),
        "repeated_line_characters": (None, 0.0126),
        "most_frequent_run": (None, 0.0651),
        "repeated_runs": (None, 0.0453),
    },
    "zh": {
        "letters": (0.6784, None),
        "digits": (None, 0.1853),
        "punctuation": (0.0067, 0.2696),
        "word_length": (0.253, 2.893),
        "closed_lines": (0.0, None),
        "short_lines": (None, 0.8264),
        "line_feeds_per_word": (None, 0.1625),
        "repeated_line_characters": (None, 0.3184),
        "most_frequent_run": (None, 0.14),
        "repeated_runs": (None, 0.2504),
    },
}


def judge_by_language(text: str, language: str, table: Mapping[str, Limits] | None = None) -> str | None:
    """The first reason to drop a text of this language, None to keep it.

    Raises:
        AthanorError: no limits are known for the language.
    """
    table = LIMITS if table is None else table
    if language not in table:
        raise AthanorError(
            f"no limits are known for the language {language!r}", allowed=", ".join(sorted(table)),
            fix="derive them from good texts: derive_limits(texts)",
        )  # fmt: skip
    found = measure(text)
    for name, (low, high) in table[language].items():
        value = getattr(found, name)
        if (low is not None and value < low) or (high is not None and value > high):
            return f"{REASONS[name]} ({name})"
    return None
