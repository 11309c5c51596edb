"""Finding test items in documents: by runs of words that survive new line breaks, case, punctuation and embedding.

A text becomes tokens: words without case and apostrophes, Chinese, Japanese and Korean characters one by one. An item
is found in a document when enough of its runs of N tokens are there. GPT-3 (Brown et al. 2020, appendix C) compared
runs of 8 to 13 words; the share of runs keeps a common phrase from condemning a document.

Shapes: T tokens of a document, R runs, I items.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
APOSTROPHES = "'’ʼ＇"
LETTERS = rf"[^\W_{IDEOGRAPHS}]+"
TOKEN = re.compile(rf"[{IDEOGRAPHS}]|{LETTERS}(?:[{APOSTROPHES}]{LETTERS})*")
HYPHENED = re.compile(r"(?<=\w)-\s*\n\s*(?=\w)")  # a word broken at the end of a line, perhaps
NO_APOSTROPHES = dict.fromkeys(map(ord, APOSTROPHES))
RUN = 8  # tokens
SHORTEST = 8  # words of an item that can be told from chance
SHORTEST_IDEOGRAPHS = 13  # the same in characters: "which of these is right" takes 8 of them
FACTOR = np.uint64(0x9E3779B97F4A7C15)
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Item:
    """One thing that will be asked in a test, and where it stands."""

    task: str
    number: int
    text: str


@dataclass(frozen=True)
class Match:
    """An item found in a document.

    Attributes:
        item: index of the item.
        share: how many of the item's runs are in the document.
        first, last: tokens of the document between which they stand.
    """

    item: int
    share: float
    first: int
    last: int


def fold(token: str) -> str:
    """A token without case, width, ligatures and apostrophes."""
    return unicodedata.normalize("NFKC", token.translate(NO_APOSTROPHES)).casefold()


def tokens_of(text: str) -> list[str]:
    """The tokens of a text."""
    return [fold(token) for token in TOKEN.findall(text)]


def too_short(text: str) -> bool:
    """Whether a text of these tokens may stand in a document by chance."""
    tokens = TOKEN.findall(text)
    ideographs = sum(len(token) == 1 and token > "\u3000" for token in tokens)
    return (len(tokens) - ideographs) / SHORTEST + ideographs / SHORTEST_IDEOGRAPHS < 1


class Runs:
    """All runs of all items, ready to be looked up.

    Args:
        items: what to look for; those too short to be told from chance are left out, and `skipped` counts them.
        run: tokens of a run; a shorter item is one run.
    """

    def __init__(self, items: Sequence[Item], run: int = RUN):
        self.items, self.run = items, run
        self.known: dict[str, int] = {}  # token as it stands in a text -> its number; 0 is no token of any item
        self._folded: dict[str, int] = {}
        self.skipped = 0
        self.tokens: list[Numbers] = []
        by_length: dict[int, list[tuple[NDArray[np.uint64], int]]] = {}
        self.counts_I = np.zeros(len(items), dtype=np.int64)
        for index, item in enumerate(items):
            numbers = np.array([self._number(token) for token in TOKEN.findall(item.text)], dtype=np.int64)
            self.tokens.append(numbers)
            if too_short(item.text):
                self.skipped += 1
                continue
            length = min(run, len(numbers))
            hashes = np.unique(run_hashes(numbers, length))
            self.counts_I[index] = len(hashes)
            by_length.setdefault(length, []).append((hashes, index))
        self.tables = {length: _table(rows) for length, rows in sorted(by_length.items())}

    def _number(self, token: str) -> int:
        """The number of an item's token, a new one if it is new."""
        return self._folded.setdefault(fold(token), len(self._folded) + 1)

    def numbers(self, text: str) -> Numbers:
        """The tokens of a text as numbers; 0 for those no item has."""
        found = TOKEN.findall(text)
        known = self.known
        for token in set(found).difference(known):
            known[token] = self._folded.get(fold(token), 0)
        if len(known) > 2_000_000:  # memory stays bounded
            self.known = {}
        return np.fromiter(map(known.__getitem__, found), dtype=np.int64, count=len(found))

    def matches(self, text: str, least: float) -> list[Match]:
        """The items of which at least the share `least` of runs is in the text, in order."""
        found = self._matches(self.numbers(text), least)
        if HYPHENED.search(text):
            joined = self._matches(self.numbers(HYPHENED.sub("", text)), least)
            better = {match.item: match for match in found}
            for match in joined:  # its places are of another text: they are all of the document
                better.setdefault(match.item, Match(match.item, match.share, 0, 1 << 60))
            found = [better[item] for item in sorted(better)]
        return found

    def _matches(self, numbers_T: Numbers, least: float) -> list[Match]:
        found: list[Match] = []
        for length, (hashes_R, starts_R, owners) in self.tables.items():
            if len(numbers_T) < length:
                continue
            whole_T = whole_runs(numbers_T, length)
            if not len(whole_T):
                continue
            hashes_T = run_hashes(numbers_T, length)[whole_T]
            place_T = np.searchsorted(hashes_R, hashes_T)
            place_T[place_T == len(hashes_R)] = 0
            hit_T = hashes_R[place_T] == hashes_T
            if hit_T.any():
                found += self._covered(place_T[hit_T], whole_T[hit_T], length, starts_R, owners, least)
        return sorted(found, key=lambda match: match.item)

    def _covered(
        self, runs_H: Numbers, places_H: Numbers, length: int, starts_R: Numbers, owners: Numbers, least: float
    ) -> Iterator[Match]:
        """Items of which enough distinct runs were hit; H hits."""
        per_item: dict[int, dict[int, int]] = {}
        for run, place in zip(runs_H.tolist(), places_H.tolist(), strict=True):
            for item in owners[starts_R[run] : starts_R[run + 1]].tolist():
                per_item.setdefault(item, {}).setdefault(run, place)
        for item, places in per_item.items():
            share = len(places) / int(self.counts_I[item])
            if share >= least:
                yield Match(item, share, min(places.values()), max(places.values()) + length)


def run_hashes(numbers_T: Numbers, length: int) -> NDArray[np.uint64]:
    """A hash of each run of `length` numbers, (T - length + 1,)."""
    mixed_T = numbers_T.astype(np.uint64) * FACTOR
    mixed_T ^= mixed_T >> np.uint64(29)
    count = len(numbers_T) - length + 1
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(length):
        hashes = hashes * np.uint64(0xD6E8FEB86659FD93) + mixed_T[place : place + count]
    return hashes


def whole_runs(numbers_T: Numbers, length: int) -> Numbers:
    """First tokens of the runs that hold no token unknown to all items."""
    unknown_T = np.concatenate(([0], np.cumsum(numbers_T == 0)))
    return np.flatnonzero(unknown_T[length:] == unknown_T[:-length])


def _table(rows: list[tuple[NDArray[np.uint64], int]]) -> tuple[NDArray[np.uint64], Numbers, Numbers]:
    """Sorted hashes of runs, where the items of each begin, and these items."""
    every = np.concatenate([hashes for hashes, _ in rows])
    owners = np.concatenate([np.full(len(hashes), item, dtype=np.int64) for hashes, item in rows])
    order = np.argsort(every, kind="stable")
    hashes_R, starts_R = np.unique(every[order], return_index=True)
    return hashes_R, np.append(starts_R, len(every)).astype(np.int64), owners[order]


# ---------------------------------------------------------------------------------------------------------- paraphrases


class RareWords:
    """Items whose rare words stand close together in a document: it may say the same in other words.

    Args:
        runs: the items.
        documents_with: in how many documents each token number occurs.
        documents: how many there are.
        rare: largest share of documents that a rare word may occur in.
    """

    def __init__(self, runs: Runs, documents_with: Numbers, documents: int, rare: float = 0.01):
        self.runs = runs
        limit = max(2, int(rare * documents))
        self.words: list[frozenset[int]] = []
        self.items_with: dict[int, list[int]] = {}
        for index, numbers in enumerate(runs.tokens):
            words = frozenset(number for number in set(numbers.tolist()) if documents_with[number] <= limit)
            self.words.append(words if len(words) >= 4 else frozenset())
            for word in self.words[-1]:
                self.items_with.setdefault(word, []).append(index)

    def near(self, numbers_T: Numbers, least: float, skip: Iterable[int]) -> list[tuple[int, float]]:
        """Items (but those to skip) of which the share `least` of rare words stands within three of its lengths."""
        seen, found = set(skip), []
        present = set(np.unique(numbers_T).tolist()) & self.items_with.keys()
        shared: dict[int, int] = {}
        for word in present:
            for item in self.items_with[word]:
                shared[item] = shared.get(item, 0) + 1
        for item, count in shared.items():
            words = self.words[item]
            if item in seen or count < least * len(words):
                continue
            share = self._densest(numbers_T, words, 3 * len(self.runs.tokens[item])) / len(words)
            if share >= least:
                found.append((item, share))
        return sorted(found)

    def _densest(self, numbers_T: Numbers, words: frozenset[int], window: int) -> int:
        """Most different words of a set within a window."""
        places = np.flatnonzero(np.isin(numbers_T, list(words)))
        best = 0
        for place in places.tolist():
            inside = numbers_T[places[(places >= place) & (places < place + window)]]
            best = max(best, len(np.unique(inside)))
        return best
