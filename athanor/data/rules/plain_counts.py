"""The counts of the published rules for one text, the plain way: the reference that `counts.py` is compared with."""

import re
from collections import Counter
from collections.abc import Sequence

from athanor.data.rules.published import (
    FEWEST_WORDS_IN_LINE,
    LONGEST_WORD,
    MOST_FREQUENT,
    REPEATED,
    SHORT_LINE,
    STOP_WORDS,
    Counts,
)  # fmt: skip
from athanor.data.rules.words import ALPHA, STOP, STOP_OF_LINE, SYMBOL, find_english_words, flags_of

PARAGRAPHS = re.compile(r"\n{2,}")
ROWS = re.compile(r"\n+")
CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
LINE_ENDS = (".", "?", "!", '"', "'")
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def count_one(text: str) -> Counts:
    """Everything the published rules look at, of one text."""
    words = find_english_words(text)
    filled = [word for word in words if is_filled(word)]
    lines = text.splitlines()
    full_lines = [line for line in text.split("\n") if line.strip()]
    sentences, placeholder, braces = count_sentences(text)
    return Counts(
        characters=len(text), characters_in_lines=len(text.replace("\n", "")), line_feeds=text.count("\n"),
        words=len(words), filled_words=len(filled), filled_characters=sum(map(len, filled)),
        lettered_words=sum(any(flags_of(letter) & ALPHA for letter in word) for word in words),
        stop_words=len(set(STOP_WORDS).intersection(words)),
        hashes=text.count("#"), ellipses=text.count("...") + text.count("…"),
        lines=len(lines),
        bullet_lines=sum(line.lstrip().startswith(("•", "-")) for line in lines),
        ellipsis_lines=sum(line.rstrip().endswith(("...", "…")) for line in lines),
        full_lines=len(full_lines),
        stopped_lines=sum(bool(flags_of(line[-1]) & STOP_OF_LINE) for line in full_lines),
        short_lines=sum(len(line) <= SHORT_LINE for line in full_lines),
        most_frequent={width: most_frequent(words, width) for width in MOST_FREQUENT},
        repeated={width: repeated(words, width) for width in REPEATED},
        sentences=sentences, placeholder=placeholder, braces=braces, **count_repeated_lines(text),
    )  # fmt: skip


def count_repeated_lines(text: str) -> dict[str, int]:
    """The counts of repeated lines, rows and paragraphs, by their names in `Counts`."""
    full_lines = [line for line in text.split("\n") if line.strip()]
    rows, paragraphs = ROWS.split(text), PARAGRAPHS.split(text.strip())
    repeated_rows, row_characters = count_again(rows)
    repeated_paragraphs, paragraph_characters = count_again(paragraphs)
    return {
        "repeated_full_characters": count_again(full_lines)[1],
        "rows": len(rows), "repeated_rows": repeated_rows, "repeated_row_characters": row_characters,
        "paragraphs": len(paragraphs), "repeated_paragraphs": repeated_paragraphs,
        "repeated_paragraph_characters": paragraph_characters,
    }  # fmt: skip


def is_filled(word: str) -> bool:
    """Whether a word is more than punctuation."""
    return any(not flags_of(letter) & SYMBOL for letter in word)


def count_again(parts: Sequence[str]) -> tuple[int, int]:
    """(parts that occurred before, their characters)."""
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        seen.add(part)
    return count, characters


def most_frequent(words: Sequence[str], width: int) -> int:
    """Characters of the most frequent run of words, the first among equals, times its count."""
    runs = Counter(" ".join(words[place : place + width]) for place in range(len(words) - width + 1))
    if not runs:
        return 0
    run, count = runs.most_common(1)[0]
    return len(run) * count


def repeated(words: Sequence[str], width: int) -> int:
    """Characters of runs that occurred before; after one, counting goes on behind it."""
    seen: set[tuple[str, ...]] = set()
    characters = place = 0
    while place <= len(words) - width:
        run = tuple(words[place : place + width])
        if run in seen:
            characters += sum(map(len, run))
            place += width
        else:
            seen.add(run)
            place += 1
    return characters


def kept_lines(text: str) -> tuple[list[str], str | None]:
    """(the lines C4 keeps, citations removed, up to a line that drops the page; "placeholder", "brace" or None)."""
    kept: list[str] = []
    for line in map(str.strip, text.splitlines()):
        words = line.split()
        if any(len(word) > LONGEST_WORD for word in words):
            continue
        line = CITATION.sub("", line)
        if not line.endswith(LINE_ENDS) or line.endswith("...") or len(words) < FEWEST_WORDS_IN_LINE:
            continue
        lowered = line.lower()
        if "lorem ipsum" in lowered:
            return kept, "placeholder"
        if "javascript" in lowered:
            continue
        if "{" in line:
            return kept, "brace"
        if not any(policy in lowered for policy in POLICIES):
            kept.append(line)
    return kept, None


def edit_page(text: str) -> str:
    """The text C4 leaves of a page: without citations and without lines that end in nothing."""
    return "\n".join(kept_lines(text)[0]).strip()


def count_sentences(text: str) -> tuple[int, bool, bool]:
    """(sentences in the lines C4 keeps, whether it is placeholder text, whether it has a curly brace)."""
    kept, dropped = kept_lines(text)
    return sum(map(sentences_in_line, kept)), dropped == "placeholder", dropped == "brace"


def sentences_in_line(line: str) -> int:
    """A sentence begins with the first word after a full stop that is not itself punctuation."""
    count, stopped = 1, False
    for word in find_english_words(line):
        if len(word) == 1 and flags_of(word) & STOP:
            stopped = True
        elif stopped and is_filled(word):
            count += 1
            stopped = False
    return count
