"""The rules of Gopher, C4 and FineWeb as published and as the reference implementation applies them, limits and all.

Every rule is one function of counts. The same function judges one document (numbers) or many at once (arrays with one
entry per document); `plain_counts.py` counts one text the plain way, `counts.py` a batch of texts quickly.

Sources: Gopher (Rae et al. 2021, appendix A1.1 and table A1), C4 (Raffel et al. 2020, section 2.2), FineWeb (Penedo et
al. 2024, section 3.6). The rules of `filters.py` are ours, milder where a person chose the files; these are for pages
of the open web.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from athanor.base.settings import Settings

Number = Any  # an int or float, or an array of them with one entry per document
MOST_FREQUENT = (2, 3, 4)  # words in a run
REPEATED = (5, 6, 7, 8, 9, 10)
SHORT_LINE = 30  # characters (FineWeb)
FEWEST_WORDS_IN_LINE = 3  # C4
LONGEST_WORD = 1_000  # characters (C4)
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")


@dataclass
class Counts:
    """What the rules look at. Lines are counted as each rule set counts them. Lengths count characters."""

    characters: Number
    characters_in_lines: Number
    """Without the line feeds."""
    line_feeds: Number
    words: Number
    filled_words: Number
    """Words that are not punctuation alone."""
    filled_characters: Number
    """Characters of the filled words."""
    lettered_words: Number
    stop_words: Number
    """How many different ones of STOP_WORDS occur."""
    hashes: Number
    ellipses: Number
    lines: Number
    """Gopher's quality: as `str.splitlines` cuts."""
    bullet_lines: Number
    ellipsis_lines: Number
    full_lines: Number
    """FineWeb: lines that are not blank."""
    stopped_lines: Number
    short_lines: Number
    repeated_full_characters: Number
    """Characters in full lines that occurred before."""
    rows: Number
    """Gopher's repetition: what stands between runs of line feeds, empty ends included."""
    repeated_rows: Number
    repeated_row_characters: Number
    paragraphs: Number
    repeated_paragraphs: Number
    repeated_paragraph_characters: Number
    most_frequent: dict[int, Number]
    """By words in a run: characters of the most frequent run, blanks between its words included, times its count."""
    repeated: dict[int, Number]
    """By words in a run: characters of the words in runs that occurred before, no word twice."""
    sentences: Number
    """C4: in the lines that it keeps."""
    placeholder: Number
    braces: Number
    """C4: whether a line that is kept so far says 'lorem ipsum', or has a curly brace: the first decides."""


class PublishedLimits(Settings):
    """The published limits; shares are between 0 and 1."""

    minimum_words: int = Field(default=50, ge=0)
    maximum_words: int = Field(default=100_000, ge=1)
    mean_word_letters: tuple[float, float] = (3.0, 10.0)
    symbols_per_word: float = 0.1
    bullet_lines: float = 0.9
    ellipsis_lines: float = 0.3
    words_with_letters: float = 0.8
    stop_words: int = Field(default=2, ge=0)
    repeated_lines: float = 0.3
    repeated_line_letters: float = 0.2
    repeated_paragraphs: float = 0.3
    repeated_paragraph_letters: float = 0.2
    most_frequent_run: tuple[float, float, float] = (0.2, 0.18, 0.16)
    """Runs of 2, 3 and 4 words."""
    repeated_runs: tuple[float, float, float, float, float, float] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)
    """Runs of 5 to 10 words."""
    sentences: int = Field(default=5, ge=0)
    closed_lines: float = 0.12
    short_lines: float = 0.67
    repeated_letters: float = 0.01
    """FineWeb: characters in repeated lines."""
    line_feeds_per_word: float = 0.3


Rule = Callable[[Counts, PublishedLimits], Number]


def _per(part: Number, whole: Number) -> Number:
    """part / whole; a whole of nothing counts as 1."""
    return part / np.maximum(whole, 1)


def too_short(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: at least 50 words."""
    return counts.filled_words < limits.minimum_words


def too_long(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: at most 100,000 words."""
    return counts.filled_words > limits.maximum_words


def short_words(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: a mean of at least 3 letters."""
    return _per(counts.filled_characters, counts.filled_words) < limits.mean_word_letters[0]


def long_words(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: a mean of at most 10 letters."""
    return _per(counts.filled_characters, counts.filled_words) > limits.mean_word_letters[1]


def many_hashes(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: at most 0.1 hash signs per word."""
    return _per(counts.hashes, counts.words) > limits.symbols_per_word


def many_ellipses(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: at most 0.1 ellipses per word."""
    return _per(counts.ellipses, counts.words) > limits.symbols_per_word


def many_bullets(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: at most 90 % of the lines begin with a bullet."""
    return _per(counts.bullet_lines, counts.lines) > limits.bullet_lines


def many_trailing_ellipses(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: at most 30 % of the lines end with an ellipsis."""
    return _per(counts.ellipsis_lines, counts.lines) > limits.ellipsis_lines


def few_letters(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: 80 % of the words have a letter."""
    return _per(counts.lettered_words, counts.words) < limits.words_with_letters


def few_stop_words(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: at least two of the eight stop words."""
    return counts.stop_words < limits.stop_words


def empty(counts: Counts, limits: PublishedLimits) -> Number:
    """Nothing to judge."""
    return counts.characters == 0


def repeated_paragraphs(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: at most 30 % of the paragraphs occurred before."""
    return _per(counts.repeated_paragraphs, counts.paragraphs) > limits.repeated_paragraphs


def repeated_paragraph_letters(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: they hold at most 20 % of the text."""
    return _per(counts.repeated_paragraph_characters, counts.characters) > limits.repeated_paragraph_letters


def repeated_lines(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: at most 30 % of the lines occurred before."""
    return _per(counts.repeated_rows, counts.rows) > limits.repeated_lines


def repeated_line_letters(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: they hold at most 20 % of the text."""
    return _per(counts.repeated_row_characters, counts.characters) > limits.repeated_line_letters


def most_frequent_run(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: the most frequent run of 2, 3, 4 words holds at most 20, 18, 16 % of the text."""
    shares = zip(MOST_FREQUENT, limits.most_frequent_run, strict=True)
    return _any(_per(counts.most_frequent[width], counts.characters) > most for width, most in shares)


def repeated_runs(counts: Counts, limits: PublishedLimits) -> Number:
    """Gopher: runs of 5 to 10 words that occurred before hold at most 15 to 10 % of the text."""
    shares = zip(REPEATED, limits.repeated_runs, strict=True)
    return _any(_per(counts.repeated[width], counts.characters) > most for width, most in shares)


def _any(parts: Any) -> Number:
    found: Number = False
    for part in parts:
        found = found | part
    return found


def placeholder_text(counts: Counts, limits: PublishedLimits) -> Number:
    """C4: no page with 'lorem ipsum'."""
    return counts.placeholder > 0


def curly_brace(counts: Counts, limits: PublishedLimits) -> Number:
    """C4: no page with a curly brace: it is a program."""
    return counts.braces > 0


def few_sentences(counts: Counts, limits: PublishedLimits) -> Number:
    """C4: at least five sentences in the lines that are kept."""
    return counts.sentences < limits.sentences


def no_line(counts: Counts, limits: PublishedLimits) -> Number:
    """FineWeb: a page of blanks."""
    return counts.full_lines == 0


def few_closed_lines(counts: Counts, limits: PublishedLimits) -> Number:
    """FineWeb: at least 12 % of the lines end like a sentence."""
    return _per(counts.stopped_lines, counts.full_lines) < limits.closed_lines


def many_short_lines(counts: Counts, limits: PublishedLimits) -> Number:
    """FineWeb: at most 67 % of the lines have 30 characters or fewer."""
    return _per(counts.short_lines, counts.full_lines) > limits.short_lines


def repeated_letters(counts: Counts, limits: PublishedLimits) -> Number:
    """FineWeb: repeated lines hold at most 1 % of the text."""
    return _per(counts.repeated_full_characters, counts.characters_in_lines) > limits.repeated_letters


def many_line_feeds(counts: Counts, limits: PublishedLimits) -> Number:
    """FineWeb: at most 0.3 line feeds per word; lists have more."""
    return _per(counts.line_feeds, counts.words) > limits.line_feeds_per_word


RULE_SETS: dict[str, tuple[tuple[str, Rule], ...]] = {
    "gopher_repetition": (
        ("empty", empty),
        ("repeated paragraphs (repeated_paragraphs)", repeated_paragraphs),
        ("repeated paragraphs (repeated_paragraph_letters)", repeated_paragraph_letters),
        ("repeated lines (repeated_lines)", repeated_lines),
        ("repeated lines (repeated_line_letters)", repeated_line_letters),
        ("one run of words fills the text (most_frequent_run)", most_frequent_run),
        ("repeated runs of words (repeated_runs)", repeated_runs),
    ),
    "gopher_quality": (
        ("too few words (minimum_words)", too_short),
        ("too many words (maximum_words)", too_long),
        ("words too short (mean_word_letters)", short_words),
        ("words too long (mean_word_letters)", long_words),
        ("too many hash signs (symbols_per_word)", many_hashes),
        ("too many ellipses (symbols_per_word)", many_ellipses),
        ("mostly bullet points (bullet_lines)", many_bullets),
        ("many lines end in an ellipsis (ellipsis_lines)", many_trailing_ellipses),
        ("few words have letters (words_with_letters)", few_letters),
        ("hardly any stop words (stop_words)", few_stop_words),
    ),
    "c4": (
        ("placeholder text", placeholder_text),
        ("a curly brace", curly_brace),
        ("too few sentences (sentences)", few_sentences),
    ),
    "fineweb": (
        ("empty", no_line),
        ("few lines end like a sentence (closed_lines)", few_closed_lines),
        ("mostly short lines (short_lines)", many_short_lines),
        ("repeated lines (repeated_letters)", repeated_letters),
        ("a list (line_feeds_per_word)", many_line_feeds),
    ),
}  # fmt: skip


def judge_counts(counts: Counts, limits: PublishedLimits, rule_set: str) -> str | None:
    """The first reason of one rule set to drop the document with these counts; None keeps it."""
    for reason, rule in RULE_SETS[rule_set]:
        if rule(counts, limits):
            return reason
    return None


def judge_many(counts: Counts, limits: PublishedLimits, rule_set: str) -> list[str | None]:
    """`judge_counts` for every document of a batch."""
    rules = RULE_SETS[rule_set]
    documents = len(counts.characters)
    first: NDArray[np.int64] = np.full(documents, len(rules))
    for place in range(len(rules) - 1, -1, -1):
        first[np.broadcast_to(rules[place][1](counts, limits), documents)] = place
    reasons: list[str | None] = [reason for reason, _ in rules]
    reasons.append(None)
    return [reasons[place] for place in first.tolist()]
