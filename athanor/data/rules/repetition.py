"""Repeated lines, paragraphs and runs of words of many texts at once, exactly where they could break a limit.

Shapes: W words, L lines, D documents, P paragraphs, N runs of words.
"""

import numpy as np
from numpy.typing import NDArray

from athanor.data.rules.counts import MASKS, SPREAD, Bits, Keys, Places, WordBatch
from athanor.data.rules.published import (
    MOST_FREQUENT,
    REPEATED,
    Counts,
    PublishedLimits,
    repeated_line_letters,
    repeated_lines,
    repeated_paragraph_letters,
    repeated_paragraphs,
)  # fmt: skip

BUCKETS = 256  # per document, for pairs of words
RUN = np.uint64(0xD6E8FEB86659FD93)
LINE_RULES = (repeated_paragraphs, repeated_paragraph_letters, repeated_lines, repeated_line_letters)


class Lines:
    """The lines of a batch, as `str.split("\\n")` cuts, and which words and documents are in them. Shape L."""

    def __init__(self, words: WordBatch):
        self.first_D = np.searchsorted(words.line_feeds, words.begins - 1) + 1  # the line feed before a text ...
        self.last_D = np.searchsorted(words.line_feeds, words.ends)  # ... and the one behind it
        first, last = int(self.first_D[0]), int(self.last_D[-1])
        self.first_D = self.first_D - first
        self.last_D = self.last_D - first
        self.begins: Places = words.line_feeds[first - 1 : last] + 1
        self.ends: Places = words.line_feeds[first : last + 1]
        self.first_word: Places = words.words_before[first - 1 : last]
        self.behind_word: Places = words.words_before[first : last + 1]
        self.full: Bits = self.behind_word > self.first_word
        self.words_begin_D: Places = self.first_word[self.first_D]
        self.words_end_D: Places = self.behind_word[self.last_D]
        self.document: Places = np.repeat(np.arange(len(self.first_D)), self.last_D - self.first_D + 1)
        self.repeating_D: Bits = self._find_repeating(words)

    def sums(self, values_L: NDArray) -> Places:
        """Sums over the lines of each document. Shape D."""
        return np.add.reduceat(values_L, self.first_D, dtype=np.int64)

    def _find_repeating(self, words: WordBatch) -> Bits:
        """Documents with two lines of the same size that begin and end alike, or with empty lines at both ends."""
        places = np.flatnonzero(self.ends > self.begins)
        begins, ends = self.begins[places], self.ends[places]
        sizes = ends - begins
        view = words.view()
        keys = (view[begins] & MASKS[np.minimum(sizes, 8)]) * SPREAD
        keys += view[np.maximum(ends - 8, begins)] & MASKS[np.minimum(sizes, 8)]
        keys = (keys ^ (keys >> np.uint64(32))) * RUN + sizes.view(np.uint64)
        keys = (keys ^ (keys >> np.uint64(29))) * SPREAD + self.document[places].view(np.uint64)
        order = np.argsort(keys)
        again = order[1:][keys[order[1:]] == keys[order[:-1]]]
        found_D = np.zeros(len(self.first_D), dtype=bool)
        found_D[self.document[places[again]]] = True
        empty_L = self.begins == self.ends
        return found_D | (empty_L[self.first_D] & empty_L[self.last_D] & (self.last_D > self.first_D))


def _runs(hashes: Keys, documents: Places, width: int) -> Keys:
    """A hash of each run of words; it differs between documents. A run may reach into the next document."""
    count = len(hashes) - width + 1
    if count <= 0:
        return np.zeros(0, dtype=np.uint64)
    combined = hashes[:count] + documents[:count].view(np.uint64)
    for place in range(1, width):
        combined *= RUN
        combined += hashes[place : place + count]
    return _mix(combined)


def _mix(hashes: Keys) -> Keys:
    hashes ^= hashes >> np.uint64(31)
    hashes *= SPREAD
    hashes ^= hashes >> np.uint64(32)
    return hashes


def _whole_runs(hashes: Keys, documents: Places, width: int) -> tuple[Keys, Places]:
    """(hash of each run of words within one document, where it begins)."""
    combined = _runs(hashes, documents, width)
    whole = np.flatnonzero(documents[: len(combined)] == documents[width - 1 :][: len(combined)])
    return combined[whole], whole


def count_repeated_words(counts: Counts, words: WordBatch, lines: Lines, limits: PublishedLimits) -> None:
    """The most frequent and the repeated runs of the documents that could break a limit.

    Documents that repeated lines drop already are left at 0: that reason comes first.
    """
    characters_D = counts.characters
    documents_W = np.repeat(np.arange(len(characters_D)), counts.words)
    first = int(lines.words_begin_D[0])
    own = slice(first, first + len(documents_W))
    hashes_W, lengths_W = words.hashes[own], words.word_lengths[own]
    open_D = ~np.any([rule(counts, limits) for rule in LINE_RULES], axis=0)
    frequent_D = open_D & _bound_of_most_frequent(hashes_W, lengths_W, documents_W, characters_D, limits)
    repeated_D = open_D & _bound_of_repeated(hashes_W, lengths_W, documents_W, characters_D, limits)
    for width, most in zip(MOST_FREQUENT, limits.most_frequent_run, strict=True):
        some = np.flatnonzero(frequent_D[documents_W])
        found_D = counts.most_frequent[width]
        held_D = _most_frequent(found_D, hashes_W[some], lengths_W[some], documents_W[some], width, most * characters_D)
        repeated_D &= found_D <= most * characters_D  # this reason comes first
        if width == 2:
            frequent_D &= held_D > _least_pair(limits) * characters_D
    some = np.flatnonzero(repeated_D[documents_W])
    _repeated(counts, hashes_W[some], lengths_W[some], documents_W[some], limits)


def count_repeated_lines(counts: Counts, words: WordBatch, lines: Lines) -> None:
    """Lines and paragraphs that occurred before, in the documents where lines look alike; elsewhere 0 of 1."""
    counts.rows[:] = counts.paragraphs[:] = 1
    chosen_L = lines.repeating_D[lines.document]
    places = np.flatnonzero(chosen_L & (lines.ends > lines.begins))  # the lines that are not empty
    empty_L = lines.begins == lines.ends
    several_D = lines.last_D > lines.first_D
    head_D, tail_D = empty_L[lines.first_D] & several_D, empty_L[lines.last_D] & several_D
    counts.repeated_rows += head_D & tail_D
    if not len(places):
        counts.rows[:] = 1 + head_D + tail_D
        return
    begins, ends, documents = lines.begins[places], lines.ends[places], lines.document[places]
    lengths = words.lengths(begins, ends)
    hashes = words.hash_parts(begins, ends)
    again = occurred_before(hashes + documents.view(np.uint64) * RUN)
    size = len(counts.rows)
    full = lines.full[places]
    counts.repeated_full_characters = _add_up(documents[again & full], lengths[again & full], size)
    counts.repeated_row_characters = _add_up(documents[again], lengths[again], size)
    counts.repeated_rows += np.bincount(documents[again], minlength=size)
    rows_D = np.bincount(lines.document[~empty_L], minlength=size) + head_D + tail_D
    counts.rows = np.maximum(rows_D, 1)
    _count_paragraphs(counts, words, lines, places)


def _count_paragraphs(counts: Counts, words: WordBatch, lines: Lines, places: Places) -> None:
    """Runs of lines that are not empty, the text's blanks at both ends taken off."""
    size = len(counts.rows)
    document = lines.document[places]
    text_begin = np.append(words.starts, 0)[lines.words_begin_D][document]
    text_end = np.append(words.stops, 0)[lines.words_end_D - 1][document]
    begins, ends = np.maximum(lines.begins[places], text_begin), np.minimum(lines.ends[places], text_end)
    inside = ends > begins
    places, begins, ends, document = places[inside], begins[inside], ends[inside], document[inside]
    if not len(places):
        return
    hashes = words.hash_parts(begins, ends)
    new = np.concatenate(([True], (places[1:] != places[:-1] + 1) | (document[1:] != document[:-1])))
    first = np.flatnonzero(new)
    number = np.arange(len(places)) - np.repeat(first, np.diff(np.append(first, len(places))))
    powers = np.cumprod(np.full(int(number.max()) + 1, RUN, dtype=np.uint64), dtype=np.uint64)
    combined = np.add.reduceat(hashes * powers[number], first) * SPREAD + document[first].view(np.uint64)
    lengths = words.lengths(begins[first], ends[np.append(first[1:], len(places)) - 1])
    again, of = occurred_before(combined), document[first]
    counts.paragraphs = np.maximum(np.bincount(of, minlength=size), 1)
    counts.repeated_paragraphs = np.bincount(of[again], minlength=size)
    counts.repeated_paragraph_characters = _add_up(of[again], lengths[again], size)


def _add_up(documents: Places, lengths: Places, size: int) -> Places:
    return np.bincount(documents, weights=lengths, minlength=size).astype(np.int64)


def _groups(hashes: Keys) -> tuple[Places, Places, Places]:
    """(places ordered by hash, sizes of the groups of equal ones, first place of each group)."""
    order = np.argsort(hashes)
    begins = np.flatnonzero(np.concatenate(([True], hashes[order[1:]] != hashes[order[:-1]])))
    return order, np.diff(np.append(begins, len(order))), np.minimum.reduceat(order, begins)


def occurred_before(hashes: Keys) -> Bits:
    """Which ones occurred before."""
    order, sizes, firsts = _groups(hashes)
    again = np.zeros(len(hashes), dtype=bool)
    again[order[np.repeat(sizes > 1, sizes)]] = True
    again[firsts] = False
    return again


def _bound_of_most_frequent(
    hashes_W: Keys, lengths_W: Places, documents_W: Places, characters_D: Places, limits: PublishedLimits
) -> Bits:
    """Documents in which a run of 2, 3, 4 words may hold too much: one of its pairs holds 1/2 or 3/7 as much.

    Of a run of 3, one of its two pairs has at least half of the characters. Of a run of 4, the first and the last pair
    have all but one blank; four one-letter words are the worst case, 3 of 7 characters.
    """
    pairs = _runs(hashes_W, documents_W, 2)
    buckets = (pairs >> np.uint64(56)).view(np.int64) + documents_W[:-1] * BUCKETS
    sizes = lengths_W[:-1] + lengths_W[1:] + 1
    sums = np.bincount(buckets, weights=sizes, minlength=BUCKETS * len(characters_D))
    most_D = sums.reshape(len(characters_D), BUCKETS).max(axis=1)
    return most_D > min(limits.most_frequent_run[0], _least_pair(limits)) * characters_D


def _least_pair(limits: PublishedLimits) -> float:
    """The share of the text that one pair holds at least if a run of three or four words breaks its limit."""
    _, three, four = limits.most_frequent_run
    return 0.999 * min(three / 2, four * 3 / 7)


def _bound_of_repeated(
    hashes_W: Keys, lengths_W: Places, documents_W: Places, characters_D: Places, limits: PublishedLimits
) -> Bits:
    """Documents in which the words in runs of five that occurred before hold more than the strictest limit."""
    fives = _runs(hashes_W, documents_W, min(REPEATED))
    bits = np.uint64(max(1, len(fives)).bit_length())
    low = (np.uint64(1) << bits) - np.uint64(1)
    packed = np.sort((fives & ~low) | np.arange(len(fives), dtype=np.uint64))
    again = packed[1:][((packed[1:] ^ packed[:-1]) & ~low) == 0]
    covered_W = np.zeros(len(hashes_W), dtype=bool)
    begins = (again & low).view(np.int64)
    for step in range(min(REPEATED)):
        covered_W[begins + step] = True
    covered = np.flatnonzero(covered_W)
    held_D = np.bincount(documents_W[covered], weights=lengths_W[covered], minlength=len(characters_D))
    return held_D > min(limits.repeated_runs) * characters_D


def _most_frequent(
    found_D: Places, hashes: Keys, lengths: Places, documents: Places, width: int, most_D: NDArray[np.float64]
) -> Places:
    """Write the characters of each document's most frequent run (the first among equals) times its count.

    Documents in which no run holds more than `most_D` characters are left at 0. Returns the most that any run holds.
    """
    held_D = np.zeros(len(found_D), dtype=np.int64)
    runs, places = _whole_runs(hashes, documents, width)
    if not len(runs):
        return held_D
    _, sizes, firsts = _groups(runs)
    ends = np.concatenate(([0], np.cumsum(lengths)))
    starts = places[firsts]
    held = (ends[starts + width] - ends[starts] + width - 1) * sizes
    of = documents[starts]
    over_D = np.zeros(len(found_D), dtype=bool)
    over_D[of[held > most_D[of]]] = True
    rest = np.flatnonzero(over_D[of])
    ranked = rest[np.lexsort((firsts[rest], -sizes[rest], of[rest]))]
    if len(ranked):
        top = ranked[np.concatenate(([True], of[ranked[1:]] != of[ranked[:-1]]))]
        found_D[of[top]] = held[top]
    np.maximum.at(held_D, of, held)
    return held_D


def _repeated(counts: Counts, hashes: Keys, lengths: Places, documents: Places, limits: PublishedLimits) -> None:
    """Write the characters of each document's runs that occurred before, from the narrowest width to the widest.

    A document is left at 0 where all such runs together cover no more than the limit, and behind a width that drops it.
    """
    runs, places = _whole_runs(hashes, documents, min(REPEATED))
    ends = np.concatenate(([0], np.cumsum(lengths)))
    open_D = np.ones(len(counts.characters), dtype=bool)
    for width, most in zip(REPEATED, limits.repeated_runs, strict=True):
        if not len(runs):
            return
        most_D = most * counts.characters
        order, sizes, firsts = _groups(runs)
        twice = np.zeros(len(runs), dtype=bool)
        twice[order[np.repeat(sizes > 1, sizes)]] = True
        again = twice.copy()
        again[firsts] = False
        covered_D = _covered(places[again], ends, documents, width, len(open_D))
        exact = np.flatnonzero(twice & (covered_D > most_D)[documents[places]])
        taken = _take_in_turn(runs[exact], places[exact], width)
        counts.repeated[width] = _add_up(documents[taken], ends[taken + width] - ends[taken], len(open_D))
        open_D &= counts.repeated[width] <= most_D
        # A run that occurs twice begins with a narrower one that does: only those need to grow.
        kept = np.flatnonzero(twice & open_D[documents[places]] & (places + width < len(hashes)))
        kept = kept[documents[places[kept]] == documents[places[kept] + width]]
        places = places[kept]
        runs = _mix(runs[kept] * RUN + hashes[places + width])


def _covered(places: Places, ends: Places, documents: Places, width: int, size: int) -> Places:
    """Characters of the words in the runs that begin at these places, each word once. Shape D."""
    begins = places.copy()
    begins[1:] = np.maximum(places[1:], places[:-1] + width)
    return _add_up(documents[places], ends[places + width] - ends[begins], size)


def _take_in_turn(runs: Keys, places: Places, width: int) -> Places:
    """Where a run begins that occurred before; after one, looking goes on behind it."""
    seen: set[int] = set()
    taken: list[int] = []
    free = 0
    for place, run in zip(places.tolist(), runs.tolist(), strict=True):
        if place < free:
            continue
        if run in seen:
            taken.append(place)
            free = place + width
        else:
            seen.add(run)
    return np.array(taken, dtype=np.int64)
