"""What the filters look at: words, lines and counts of one text, each computed when first asked for."""

import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from athanor.data.copies.shingles import Hashes, Places, find_words, runs
from athanor.data.document import Document

PARAGRAPHS = re.compile(r"\n{2,}")
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
HAN_PUNCTUATION = re.compile("[，。！？；：、“”‘’「」『』《》（）…—,.!?;:]")


class Facts:
    """Facts about one document. Shares are between 0 and 1; lengths count characters."""

    def __init__(self, document: Document):
        self.document = document
        self.text = document.text

    @property
    def language(self) -> str:
        return self.document.language or "und"

    @cached_property
    def length(self) -> int:
        return max(1, len(self.text))

    @cached_property
    def words(self) -> list[str]:
        """The text between blanks, punctuation included."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """Lines with something on them, blanks at both ends removed."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [part for part in map(str.strip, PARAGRAPHS.split(self.text)) if part]

    @cached_property
    def found_words(self) -> tuple[Hashes, Places, Places]:
        """(hashes, starts, ends) of the words, every Chinese character a word."""
        return find_words(self.text)

    @property
    def word_hashes(self) -> Hashes:
        return self.found_words[0]

    @cached_property
    def ascii_counts(self) -> NDArray[np.int64]:
        """How often each of the 256 byte values occurs in the text's UTF-8."""
        return np.bincount(np.frombuffer(self.text.encode(), dtype=np.uint8), minlength=256)

    def share_of_bytes(self, characters: bytes) -> float:
        """Share of these ASCII characters among all bytes that are not blank."""
        blank = self.ascii_counts[list(b" \n\t\r")].sum()
        return float(self.ascii_counts[list(characters)].sum() / max(1, self.ascii_counts.sum() - blank))

    @cached_property
    def han_share(self) -> float:
        """Chinese characters among all that are not blank."""
        return len(HAN.findall(self.text)) / max(1, sum(map(len, self.words)))

    @cached_property
    def han_punctuation_share(self) -> float:
        """Punctuation, Chinese or not, among all characters that are not blank."""
        return len(HAN_PUNCTUATION.findall(self.text)) / max(1, sum(map(len, self.words)))

    def most_frequent_run(self, width: int) -> float:
        """Share of the text's characters inside its most frequent run of `width` words (Gopher, table A1)."""
        hashes, starts, ends = self.found_words
        found = runs(hashes, width)
        if not len(found):
            return 0.0
        _, first, counts = np.unique(found, return_index=True, return_counts=True)
        top = int(counts.argmax())
        if counts[top] < 2:
            return 0.0
        place = int(first[top])
        return float(counts[top] * (ends[place + width - 1] - starts[place]) / self.length)

    def repeated_runs(self, width: int) -> float:
        """Share of the text's characters inside runs of `width` words that occurred before, none counted twice."""
        hashes, starts, ends = self.found_words
        found = runs(hashes, width)
        if not len(found):
            return 0.0
        again = np.ones(len(found), dtype=bool)
        again[np.unique(found, return_index=True)[1]] = False
        covered, free_from = 0, 0
        for place in np.flatnonzero(again).tolist():
            if place >= free_from:
                covered += int(ends[place + width - 1] - starts[place])
                free_from = place + width
        return covered / self.length


def repeated_share(parts: Sequence[str]) -> tuple[float, float]:
    """(share of parts that occurred before, share of their characters)."""
    seen: set[str] = set()
    count = letters = 0
    for part in parts:
        if part in seen:
            count += 1
            letters += len(part)
        else:
            seen.add(part)
    return count / max(1, len(parts)), letters / max(1, sum(map(len, parts)))
