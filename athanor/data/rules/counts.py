"""The words of many texts at once, by the rules of `words.py`, with arrays over the bytes of all of them.

Looking at every byte is cheap as long as it is the same simple question for all; the rules that need more are asked
only at the few places where they matter (runs of punctuation, hyphens). Everything stays in UTF-8: the flags of a
character stand at each of its bytes.

Shapes: C bytes of the batch, W words, L lines, D documents, R runs of punctuation, N any short list of places.
"""

from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from athanor.data.rules.words import (
    ABBREVIATIONS,
    ALPHA,
    DIGIT,
    FILLED,
    PEELED,
    SYMBOL,
    UPPER,
    character_flags,
)  # fmt: skip

Bytes = NDArray[np.uint8]
Bits = NDArray[np.bool_]
Places = NDArray[np.int64]
Keys = NDArray[np.uint64]

MARGIN = 16  # line feeds before the first and behind the last text: looking around never leaves the batch
ALNUM = ALPHA | DIGIT
LINE_FEED, APOSTROPHE, DOT, HYPHEN = b"\n'.-"
CURLY_APOSTROPHE, ELLIPSIS, BULLET, EM_DASH, EN_DASH = (tuple(mark.encode()) for mark in "’…•—–")
LONGEST_TOGETHER = 512  # bytes of a word that are looked at for all words at once; longer ones come one by one
OTHER_LINE_ENDS = b"\r\x0b\x0c\x1c\x1d\x1e"
OTHER_LINE_END_CODES = (0x85, 0x2028, 0x2029)
SPREAD = np.uint64(0x9E3779B97F4A7C15)
POWER = np.uint64(0xC2B2AE3D27D4EB4F)  # odd
MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)


@cache
def _ascii_flags() -> bytes:
    return character_flags()[:128].tobytes() + bytes([FILLED]) * 128


@cache
def _character_bytes() -> Bytes:
    """Bytes of the character that begins with a byte."""
    return np.array([1] * 0xC0 + [2] * 0x20 + [3] * 0x10 + [4] * 0x10, dtype=np.uint8)


@cache
def _abbreviation_table() -> Keys:
    """A hash table with one abbreviation per slot; `_slot` finds it."""
    keys = np.array([int.from_bytes(word.encode(), "little") for word in sorted(ABBREVIATIONS)], dtype=np.uint64)
    table = np.zeros(1 << 16, dtype=np.uint64)
    table[_slot(keys)] = keys
    assert np.count_nonzero(table) == len(keys), "two abbreviations share a slot"
    return table


def _slot(keys: Keys) -> Places:
    return ((keys * SPREAD) >> np.uint64(48)).astype(np.int64)


class WordBatch:
    """The words and lines of some texts.

    Attributes:
        codes: the bytes of all texts, a line feed behind each. Shape C.
        flags: what the character at each byte is (`words`). Shape C.
        begins, ends: where each text begins and ends in `codes`. Shape D.
        starts, stops: where each word begins and ends in `codes`. Shape W.
        line_feeds: every line feed in `codes`, margins included. Shape L.
        words_before: how many words stand before each line feed. Shape L.
        odd: texts with line ends other than a line feed: not for this file. Shape D.
    """

    def __init__(self, texts: list[str]):
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        margin = b"\n" * MARGIN
        self.joined = b"\n".join([margin, *encoded, margin])
        self.codes: Bytes = np.frombuffer(self.joined, dtype=np.uint8)
        sizes = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        self.ends: Places = MARGIN + np.cumsum(sizes + 1)
        self.begins: Places = self.ends - sizes
        self.odd: Bits = np.zeros(len(texts), dtype=bool)
        self.ascii = sum(map(len, texts)) == int(sizes.sum())
        self._set_flags()
        self.filled: Bits = (self.flags & FILLED) != 0
        self.inside: Bits | None = None if self.ascii else (self.codes & 0xC0) == 0x80
        self._find_words()

    def _set_flags(self) -> None:
        self.flags: Bytes = np.frombuffer(self.joined.translate(_ascii_flags()), dtype=np.uint8)
        for mark in OTHER_LINE_ENDS:
            if mark in self.joined:
                self._mark_odd(np.flatnonzero(self.codes == mark))
        if self.ascii:
            return
        leads = np.flatnonzero(self.codes >= 0xC0)
        sizes = _character_bytes()[self.codes[leads]]
        # A lead byte of n keeps 7 - n bits; every byte behind it brings six more.
        values = (self.codes[leads] & (0x7F >> sizes)).astype(np.int64)
        for size in (2, 3, 4):
            longer = sizes >= size
            values[longer] = (values[longer] << 6) | (self.codes[leads[longer] + size - 1] & 0x3F)
        found = character_flags()[values]
        self.flags = self.flags.copy()
        self.flags[leads] = found
        for size in (2, 3, 4):
            longer = sizes >= size
            self.flags[leads[longer] + size - 1] = found[longer]
        for code in OTHER_LINE_END_CODES:
            self._mark_odd(leads[values == code])

    def _mark_odd(self, places_N: Places) -> None:
        self.odd[self.texts_at(places_N)] = True

    def texts_at(self, places_N: Places) -> Places:
        """The numbers of the texts at these bytes."""
        return np.searchsorted(self.ends, places_N, side="left")

    def view(self, size: int = 8) -> Keys:
        """The eight bytes from every byte on, as numbers."""
        return np.lib.stride_tricks.as_strided(
            np.frombuffer(self.joined, dtype=np.uint64, count=1), shape=(len(self.codes) - 7,), strides=(1,)
        )

    def _find_words(self) -> None:
        codes, filled = self.codes, self.filled
        dots_C = codes == DOT
        marks_C = ((self.flags & PEELED) != 0) | dots_C
        cuts_C = ~filled
        cuts_C[1:] = cuts_C[:-1] | marks_C[1:] | marks_C[:-1]
        cuts_C &= filled
        if self.inside is not None:
            cuts_C &= ~self.inside
        cuts_C[1:] &= ~(dots_C[1:] & dots_C[:-1])
        edges = np.flatnonzero(marks_C[1:] != marks_C[:-1]) + 1
        first_R, behind_R = edges[::2], edges[1::2]  # a batch begins and ends with line feeds
        inner_cuts = self._cut_runs(cuts_C, dots_C, first_R, behind_R)
        inner_cuts.append(self._cuts_at_hyphens())
        free_N = self._outside_addresses(np.concatenate(inner_cuts))
        cuts_C[free_N] = True
        self._list_words(cuts_C)

    def _cut_runs(self, cuts_C: Bits, dots_C: Bits, first_R: Places, behind_R: Places) -> list[Places]:
        """Correct the cuts at runs of punctuation; returns cuts that hold outside of web addresses only."""
        filled = self.filled
        open_R, more_R = filled[first_R - 1], filled[behind_R]
        self._join_leading(cuts_C, dots_C, behind_R[~open_R & more_R])
        trailing = first_R[open_R & ~more_R]
        lone = trailing[dots_C[trailing] & ~dots_C[trailing + 1]]
        cuts_C[lone[self._is_abbreviation(lone)]] = False
        inner = np.flatnonzero(open_R & more_R)
        return self._cut_inner(cuts_C, dots_C, first_R[inner], behind_R[inner])

    def _join_leading(self, cuts_C: Bits, dots_C: Bits, behind_N: Places) -> None:
        """.5 and 's alone are one word."""
        cuts_C[behind_N[dots_C[behind_N - 1] & ~dots_C[behind_N - 2]]] = False
        quoted = behind_N[self.codes[behind_N - 1] == APOSTROPHE]
        first, second = self.codes[quoted], self.codes[quoted + 1]
        ended = (self.flags[quoted + 1] & ALNUM) == 0
        ended_later = (self.flags[quoted + 2] & ALNUM) == 0
        short = ended & _among(first, b"sSd")
        longer = ended_later & (_pair(first, second, b"ll") | _pair(first, second, b"re") | _pair(first, second, b"em"))
        cuts_C[quoted[short | longer]] = False

    def _cut_inner(self, cuts_C: Bits, dots_C: Bits, first_N: Places, behind_N: Places) -> list[Places]:
        """Punctuation inside a chunk joins, but for contractions, ellipses and a few signs between letters."""
        codes, flags = self.codes, self.flags
        cuts_C[first_N] = False
        cuts_C[behind_N] = False
        sizes = behind_N - first_N
        longer = np.flatnonzero(sizes > 1)
        step = 1
        while len(longer):
            cuts_C[first_N[longer] + step] = False
            step += 1
            longer = longer[sizes[longer] > step]
        mark = codes[first_N]
        one = sizes == _character_bytes()[mark]
        self._cut_ellipses(cuts_C, dots_C)
        before, after = flags[first_N - 1], flags[behind_N]
        wide = one & (mark == 0xE2)
        third = codes[first_N + 2]
        middle = codes[first_N + 1] == 0x80
        ellipsis = wide & middle & (third == ELLIPSIS[2])
        cuts_C[first_N[ellipsis]] = cuts_C[behind_N[ellipsis]] = True
        quote = (one & (mark == APOSTROPHE)) | (wide & middle & (third == CURLY_APOSTROPHE[2]))
        self._cut_contractions(cuts_C, first_N[quote], behind_N[quote])
        letter, lettered = (before & ALPHA) != 0, (after & ALPHA) != 0
        dash = wide & middle & ((third == EM_DASH[2]) | (third == EN_DASH[2]))
        split = (mark == DOT) & letter & ((before & UPPER) == 0) & ((after & UPPER) != 0)
        split |= (mark == ord(",")) & letter & lettered
        split |= (_among(mark, b":<>=") | dash) & ((before & ALNUM) != 0) & lettered
        split &= one
        return [first_N[split], behind_N[split]]

    def _cut_ellipses(self, cuts_C: Bits, dots_C: Bits) -> None:
        """Two full stops and more are a word of their own wherever they stand."""
        doubled_C = dots_C[1:] & dots_C[:-1]
        edges = np.flatnonzero(doubled_C[1:] != doubled_C[:-1]) + 1
        first_N, behind_N = edges[::2], edges[1::2] + 1
        cuts_C[first_N] = True
        cuts_C[behind_N] = self.filled[behind_N]

    def _cut_contractions(self, cuts_C: Bits, first_N: Places, behind_N: Places) -> None:
        codes, flags = self.codes, self.flags
        head, tail = codes[behind_N], codes[behind_N + 1]
        ended = (flags[behind_N + 1] & ALNUM) == 0
        ended_later = (flags[behind_N + 2] & ALNUM) == 0
        pair = _pair(head, tail, b"ll") | _pair(head, tail, b"re") | _pair(head, tail, b"ve")
        cuts_C[first_N[(ended & _among(head, b"sSmd")) | (ended_later & pair)]] = True
        negated = ended & (head == ord("t")) & (codes[first_N - 1] == ord("n")) & ((flags[first_N - 2] & ALPHA) != 0)
        cuts_C[first_N[negated] - 1] = True

    def _is_abbreviation(self, dots_N: Places) -> Bits:
        """Whether the full stop belongs to the letters before it."""
        codes, flags = self.codes, self.flags
        before = flags[dots_N - 1]
        previous = dots_N - 1 if self.ascii else self._character_starts(dots_N - 1)
        further = flags[previous - 1]
        upper, alpha = (before & UPPER) != 0, (before & ALPHA) != 0
        kept = upper & ((further & UPPER) == 0)
        kept |= ~alpha & ((before & DIGIT) == 0) & ~_among(codes[dots_N - 1], b"-+") & ~self._is_square(dots_N)
        small = alpha & ~upper
        alone = (further & FILLED) == 0
        quoted = codes[previous - 1] == APOSTROPHE
        quoted |= (codes[previous - 1] == CURLY_APOSTROPHE[2]) & (codes[previous - 3] == CURLY_APOSTROPHE[0])
        opened = ((further & PEELED) != 0) & ~quoted
        kept |= small & ((further & ALNUM) == 0) & (alone | (codes[previous - 1] == DOT) | opened)
        return kept | (small & ~kept & self._is_known(dots_N))

    def _character_starts(self, places_N: Places) -> Places:
        assert self.inside is not None
        for _ in range(3):
            places_N = places_N - self.inside[places_N]
        return places_N

    def _is_square(self, dots_N: Places) -> Bits:
        return (self.codes[dots_N - 1] == 0xB2) & (self.codes[dots_N - 2] == 0xC2)

    def _is_known(self, dots_N: Places) -> Bits:
        """Whether the up to seven letters before the full stop are an abbreviation."""
        sizes = np.zeros(len(dots_N), dtype=np.int64)
        growing = np.ones(len(dots_N), dtype=bool)
        for step in range(1, 8):
            growing &= (self.flags[dots_N - step] & ALNUM) != 0
            sizes += growing
        keys = self.view()[dots_N - sizes] & MASKS[sizes]
        return (sizes > 0) & (_abbreviation_table()[_slot(keys)] == keys)

    def _cuts_at_hyphens(self) -> Places:
        """Both ends of hyphens and slashes between letters, of signs between digits."""
        codes, flags = self.codes, self.flags
        hyphens_C = codes == HYPHEN
        edges = np.flatnonzero(hyphens_C[1:] != hyphens_C[:-1]) + 1
        others = np.flatnonzero((codes == ord("/")) | (codes == ord("~")) | (codes == ord("+")) | (codes == ord("^")))
        first_N, behind_N = np.concatenate((edges[::2], others)), np.concatenate((edges[1::2], others + 1))
        before, after, mark = flags[first_N - 1], flags[behind_N], codes[first_N]
        sizes = behind_N - first_N
        lettered = ((before & ALNUM) != 0) & ((after & ALPHA) != 0) & (sizes <= 3) & _among(mark, b"-/~")
        signed = ((before & DIGIT) != 0) & ((after & DIGIT) != 0) & (sizes == 1) & _among(mark, b"-+^")
        cut = lettered | signed
        return np.concatenate((first_N[cut], behind_N[cut]))

    def _outside_addresses(self, cuts_N: Places) -> Places:
        """The cuts that are not inside a web address: a chunk that begins with letters and '://'."""
        if b"://" not in self.joined:
            return cuts_N
        codes = self.codes
        colons = np.flatnonzero(codes == ord(":"))
        colons = colons[(codes[colons + 1] == ord("/")) & (codes[colons + 2] == ord("/"))]
        blanks = np.flatnonzero(~self.filled)
        about, firsts = np.unique(np.searchsorted(blanks, colons), return_index=True)
        colons = colons[firsts]
        begins = self._back(self._back(colons, ALNUM), PEELED)
        named = (self.flags[colons + 3] & ALNUM) != 0
        chunks = np.searchsorted(blanks, cuts_N)
        return cuts_N[~np.isin(chunks, about[named & (begins == blanks[about - 1] + 1)])]

    def _back(self, places_N: Places, bits: int) -> Places:
        """The places moved back over all bytes before them that have one of the flags."""
        places_N = places_N.copy()
        moving = np.arange(len(places_N))
        while len(moving):
            moving = moving[(self.flags[places_N[moving] - 1] & bits) != 0]
            places_N[moving] -= 1
        return places_N

    def _list_words(self, cuts_C: Bits) -> None:
        stops_C = self.filled.copy()
        stops_C[:-1] &= ~self.filled[1:] | cuts_C[1:]
        self.starts: Places = np.flatnonzero(cuts_C)
        self.stops: Places = np.flatnonzero(stops_C) + 1
        self.line_feeds: Places = np.flatnonzero(self.codes == LINE_FEED)
        self.words_before: Places = np.searchsorted(self.starts, self.line_feeds)

    @cached_property
    def characters_before(self) -> NDArray[np.int32]:
        """How many characters begin before each byte; only where some take more than one. Shape C + 1."""
        assert self.inside is not None
        found = np.zeros(len(self.codes) + 1, dtype=np.int32)
        np.cumsum(~self.inside, out=found[1:], dtype=np.int32)
        return found

    def lengths(self, starts_N: Places, stops_N: Places) -> Places:
        """Characters from the starts to the stops."""
        if self.ascii:
            return stops_N - starts_N
        return (self.characters_before[stops_N] - self.characters_before[starts_N]).astype(np.int64)

    def any_with(self, bits: int, wanted: bool) -> Bits:
        """Words with a character that has one of the flags (wanted) or has none of them (not wanted). Shape W."""
        flags = self.flags
        found_W = ((self.first_flags & bits) != 0) == wanted
        open_N = np.flatnonzero(~found_W & (self.stops - self.starts > 1))
        step = 1
        while len(open_N) and step < LONGEST_TOGETHER:
            here = ((flags[self.starts[open_N] + step] & bits) != 0) == wanted
            found_W[open_N[here]] = True
            open_N = open_N[~here]
            step += 1
            open_N = open_N[self.stops[open_N] - self.starts[open_N] > step]
        for word in open_N.tolist():
            rest = flags[self.starts[word] + step : self.stops[word]]
            found_W[word] = bool((((rest & bits) != 0) == wanted).any())
        return found_W

    @cached_property
    def first_flags(self) -> Bytes:
        """The flags of the first character of each word. Shape W."""
        return self.flags[self.starts]

    @cached_property
    def filled_words(self) -> Bits:
        """Words that are not punctuation alone. Shape W."""
        return self.any_with(SYMBOL, wanted=False)

    @cached_property
    def word_lengths(self) -> Places:
        """Characters of each word. Shape W."""
        return self.lengths(self.starts, self.stops)

    def hash_parts(self, begins_N: Places, ends_N: Places) -> Keys:
        """A hash of the bytes of each part, eight at a time; no part is empty."""
        blocks = (ends_N - begins_N + 7) >> 3
        first = np.concatenate(([0], np.cumsum(blocks)[:-1]))
        number = np.arange(int(blocks.sum())) - np.repeat(first, blocks)
        places = np.repeat(begins_N, blocks) + 8 * number
        sizes = np.minimum(np.repeat(ends_N, blocks) - places, 8)
        values = (self.view()[places] & MASKS[sizes]) * SPREAD
        values ^= values >> np.uint64(32)
        powers = np.cumprod(np.full(int(blocks.max(initial=1)), POWER, dtype=np.uint64), dtype=np.uint64)
        values *= powers[number]
        hashes = np.add.reduceat(values, first) + (ends_N - begins_N).view(np.uint64)
        return hashes * SPREAD

    @cached_property
    def first_keys(self) -> Keys:
        """The first eight bytes of each word as a number. Shape W."""
        return self.view()[self.starts] & MASKS[np.minimum(self.stops - self.starts, 8)]

    @cached_property
    def hashes(self) -> Keys:
        """A hash of each word. Shape W."""
        hashes_W = self.first_keys * SPREAD
        hashes_W ^= hashes_W >> np.uint64(32)
        sizes = self.stops - self.starts
        longer = np.flatnonzero(sizes > 8)
        step = 8
        view = self.view()
        while len(longer) and step < LONGEST_TOGETHER:
            part = view[self.starts[longer] + step] & MASKS[np.minimum(sizes[longer] - step, 8)]
            mixed = (hashes_W[longer] + part) * SPREAD
            hashes_W[longer] = mixed ^ (mixed >> np.uint64(31))
            step += 8
            longer = longer[sizes[longer] > step]
        for word in longer.tolist():
            hashes_W[word] = hash(self.joined[self.starts[word] : self.stops[word]]) & 0xFFFFFFFFFFFFFFFF
        return hashes_W


def _among(codes_N: Bytes, marks: bytes) -> Bits:
    found = codes_N == marks[0]
    for mark in marks[1:]:
        found |= codes_N == mark
    return found


def _pair(first_N: Bytes, second_N: Bytes, pair: bytes) -> Bits:
    return (first_N == pair[0]) & (second_N == pair[1])


def find_words_of_all(texts: list[str]) -> list[list[str]]:
    """The words of each text, as `words.find_english_words` finds them: for tests and for looking."""
    batch = WordBatch(texts)
    counts = np.searchsorted(batch.starts, batch.ends)
    words = [batch.joined[start:stop].decode() for start, stop in zip(batch.starts, batch.stops, strict=True)]
    return [words[start:stop] for start, stop in zip([0, *counts[:-1]], counts, strict=True)]
