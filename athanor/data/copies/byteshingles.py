"""The word runs of `shingles`, for many documents at once.

The definition is the same: a word is a run of letters, digits and underscores, lower-cased, every Chinese character
and Japanese kana a word of its own; a run is `width` words, and a shorter text is one run. Only the numbers that stand
for words and runs differ. A word of up to eight bytes is the number its bytes spell, mixed by a permutation of 64 bits;
a longer one adds its bytes eight by eight.

Shapes: D documents, B bytes of all documents joined, L characters outside ASCII, W words (and runs: one begins at
every word), R runs.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from athanor.data.copies.shingles import ALONE, RUN_BASE, WORD, Hashes, Places, character_classes

PAD = b"\0" * 16  # before and after: the last word is read eight bytes at a time
SPREAD, LONGER = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
MASKS = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)
SAMPLE = 64  # letters that tell the script
WIDE = 1.3  # bytes of UTF-8 per letter of a text that is quicker by units of UTF-16
LONGEST = 64  # bytes of a word hashed by columns; longer ones go one by one
SPECIAL = 4  # class of characters whose lower case is more than one letter, of another size, or depends on neighbours
SHINGLE_BITS = 52  # of a run's hash kept for comparison; the other 12 bits number documents or pairs
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class RunBatch:
    """The runs of some documents.

    Attributes:
        hashes_W: hash of the run that begins at each word.
        valid_W: False where a run would cross into the next document.
        words_D: each document's words.
        places_D: each document's place in the list that was given: those of one script stand together here.
        bytes_D: the documents' sizes in UTF-8, in the order that was given.
    """

    hashes_W: Hashes
    valid_W: NDArray[np.bool_]
    words_D: Places
    places_D: Places
    bytes_D: Places

    @property
    def documents_W(self) -> Places:
        """The document of each word, counted from 0 as they stand here."""
        return np.repeat(np.arange(len(self.words_D)), self.words_D)

    def sets(self) -> list[Hashes]:
        """Each document's set of runs, sorted: the first 52 bits of their hashes; in the order that was given."""
        most = 1 << (64 - SHINGLE_BITS)
        documents_R, hashes_R = self.documents_W[self.valid_W], self.hashes_W[self.valid_W] >> np.uint64(12)
        found: list[Hashes] = []
        for start in range(0, len(self.words_D), most):
            stop = min(start + most, len(self.words_D))
            low, high = np.searchsorted(documents_R, [start, stop])
            keys_R = (documents_R[low:high] - start).astype(np.uint64) << np.uint64(SHINGLE_BITS)
            keys_R |= hashes_R[low:high]
            keys_R.sort()
            keys_R = keys_R[np.flatnonzero(np.diff(keys_R, prepend=~keys_R[:1]))]
            edges = np.searchsorted(keys_R, np.arange(1, stop - start, dtype=np.uint64) << np.uint64(SHINGLE_BITS))
            keys_R &= np.uint64((1 << SHINGLE_BITS) - 1)
            found += np.split(keys_R, edges)
        return [found[place] for place in np.argsort(self.places_D).tolist()]


def hash_runs(texts: Sequence[str], width: int) -> RunBatch:
    """The runs of `width` words of each text."""
    units = [_wide_units(text) for text in texts]
    wide = _WideTexts(units)
    if all(own is None for own in units):
        hashes_W, words_D, bytes_D = _hash_narrow(texts)
        places_D = np.arange(len(texts))
    elif all(own is not None for own in units):
        hashes_W, words_D, bytes_D = wide.hash()
        places_D = np.arange(len(texts))
    else:
        narrow = _hash_narrow([text for text, own in zip(texts, units, strict=True) if own is None])
        wider = wide.hash()
        hashes_W = np.concatenate([narrow[0], wider[0]])
        words_D, sizes_D = np.concatenate([narrow[1], wider[1]]), np.concatenate([narrow[2], wider[2]])
        places_D = np.argsort([own is not None for own in units], kind="stable")
        bytes_D = np.empty_like(sizes_D)
        bytes_D[places_D] = sizes_D
    runs_W, valid_W = _combine(hashes_W, words_D, width)
    return RunBatch(runs_W, valid_W, words_D, places_D, bytes_D)


def _hash_narrow(texts: Sequence[str]) -> tuple[Hashes, Places, Places]:
    """(hashes_W, words_D, bytes_D) of texts, by the bytes of UTF-8."""
    encoded = [text.encode() for text in texts]
    bytes_D = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    hashes_W, words_D, special = _words_of(encoded)
    if special:
        encoded = [text.lower().encode() if number in special else encoded[number] for number, text in enumerate(texts)]
        hashes_W, words_D, special = _words_of(encoded)
        assert not special, "lower-cased twice"
    return hashes_W, words_D, bytes_D


def _words_of(encoded: list[bytes]) -> tuple[Hashes, Places, set[int]]:
    """(hashes_W, words_D, texts for which that is wrong until they are lower-cased letter by letter)."""
    low_B, breaks_B, special = _lower(encoded)
    starts_W, ends_W = _word_places(low_B, breaks_B)
    lengths_D = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    edges_D = np.searchsorted(starts_W, len(PAD) + np.cumsum(lengths_D + 1))
    return _hash_words(low_B, starts_W, ends_W), np.diff(edges_D, prepend=0), special


@dataclass(frozen=True, slots=True)
class PlacedRuns:
    """The runs of `width` words of some documents, none of fewer words, and where their words lie.

    Attributes:
        runs_W: hash of the run that begins at each word, 0 where none does.
        starts_W, ends_W: where the word lies, in bytes of its own text (UTF-8).
        words_D: each document's words.
    """

    runs_W: Hashes
    starts_W: Places
    ends_W: Places
    words_D: Places


def place_runs(texts: Sequence[bytes], width: int) -> PlacedRuns:
    """The runs of texts and their places. The few letters whose lower case has another size count as they are."""
    low_B, breaks_B, _ = _lower(texts)
    starts_W, ends_W = _word_places(low_B, breaks_B)
    lengths_D = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)) + 1
    words_D = np.diff(np.searchsorted(starts_W, len(PAD) + np.cumsum(lengths_D)), prepend=0)
    before_W = np.repeat(len(PAD) + np.cumsum(lengths_D) - lengths_D, words_D)
    runs_W, valid_W = _combine(_hash_words(low_B, starts_W, ends_W), words_D, width)
    runs_W[~(valid_W & np.repeat(words_D >= width, words_D))] = 0
    return PlacedRuns(runs_W, starts_W - before_W, ends_W - before_W, words_D)


def _wide_units(text: str) -> bytes | None:
    """The text in UTF-16 where most of its first letters are words by themselves, as in Chinese, else None.

    The hashes are the same either way; this is the quicker way for such texts. Pairs of units are not looked at.
    """
    if text.isascii() or len(text[:SAMPLE].encode()) < WIDE * min(len(text), SAMPLE):
        return None
    units = text.encode("utf-16-le")
    return units if len(units) == 2 * len(text) else None


class _WideTexts:
    """Texts as units of UTF-16, joined. Legend: U units of all texts and one more after each."""

    def __init__(self, units: list[bytes | None]):
        """Takes the texts that are not None; sets to None those that must be lower-cased letter by letter."""
        if not any(units):
            return
        self._join([own for own in units if own is not None])
        special_U = np.flatnonzero(self.classes_U == SPECIAL)
        if len(special_U):
            wide = [number for number, own in enumerate(units) if own is not None]
            for place in set(np.searchsorted(self.starts_D, special_U, side="right").tolist()):
                units[wide[place - 1]] = None
            self._join([own for own in units if own is not None])

    def _join(self, encoded: list[bytes]) -> None:
        self.units_U = np.frombuffer(b"\n\0".join([*encoded, b""]), dtype="<u2")
        self.lengths_D = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)) // 2
        self.starts_D = np.cumsum(self.lengths_D + 1) - self.lengths_D - 1
        self.classes_U = _unit_tables()[0].take(self.units_U)

    def hash(self) -> tuple[Hashes, Places, Places]:
        """(hashes_W, words_D, bytes_D), as `_hash_narrow` gives them."""
        word_U = self.classes_U == WORD
        begins_U = word_U.copy()
        begins_U[1:] &= ~word_U[:-1]
        firsts_W = np.flatnonzero(begins_U | (self.classes_U == ALONE))
        first_units_W = self.units_U.take(firsts_W)
        hashes_W = _unit_tables()[1].take(first_units_W)
        if word_U.any():
            hashes_W[begins_U.take(firsts_W)] = self._hash_others(word_U)
        words_D = np.diff(np.searchsorted(firsts_W, self.starts_D), append=len(firsts_W))
        more_U = (self.units_U >= 0x80).view(np.uint8) + (self.units_U >= 0x800)
        bytes_D = self.lengths_D + (
            np.add.reduceat(more_U, self.starts_D, dtype=np.int64) if len(self.starts_D) else np.int64(0)
        )
        return hashes_W, words_D, bytes_D

    def _hash_others(self, word_U: NDArray[np.bool_]) -> Hashes:
        """The hashes of the words of letters and digits: they are taken out, a blank after each."""
        taken_U = word_U.copy()
        taken_U[1:] |= word_U[:-1]
        letters = self.units_U[taken_U]
        letters[~word_U[taken_U]] = 0x20
        if letters.max() < 0x80:
            return _words_of([letters.astype(np.uint8).tobytes()])[0]
        return _hash_narrow([letters.tobytes().decode("utf-16-le")])[0]


@functools.cache
def _unit_tables() -> tuple[NDArray[np.uint8], Hashes]:
    """Each UTF-16 unit's class, and its hash as a word of its own: that of its three bytes in UTF-8."""
    units = np.arange(1 << 16, dtype=np.uint64)
    bytes_3 = (units >> np.uint64(12)) | np.uint64(0xE0)
    bytes_3 |= (((units >> np.uint64(6)) & np.uint64(0x3F)) | np.uint64(0x80)) << np.uint64(8)
    bytes_3 |= ((units & np.uint64(0x3F)) | np.uint64(0x80)) << np.uint64(16)
    return lower_tables()[0][: 1 << 16].copy(), _spread(bytes_3)


@functools.cache
def _ascii_table() -> bytes:
    """Letters, digits and underscore to themselves in lower case, other ASCII to 0, all else to itself."""
    kept = [ord(chr(code).lower()) if chr(code).isalnum() or chr(code) == "_" else 0 for code in range(128)]
    return bytes([*kept, *range(128, 256)])


@functools.cache
def lower_tables() -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Each code point's class (of its lower case; SPECIAL where that is no simple exchange) and its lower case."""
    classes = character_classes().copy()
    lower = np.arange(len(classes), dtype=np.uint32)
    for code in _cased():
        small = chr(code).lower()
        if len(small) == 1 and len(small.encode()) == len(chr(code).encode()) and code != 0x3A3:
            lower[code], classes[code] = ord(small), classes[ord(small)]
        else:
            classes[code] = SPECIAL
    return classes, lower


def _cased() -> Iterator[int]:
    """Code points outside ASCII that have another lower case; beyond 0x1F000 there are none up to Unicode 16."""
    for first in (0x80, *range(0x100, 0xD800, 0x100), *range(0xE000, 0x1F000, 0x100)):
        block = "".join(map(chr, range(first, first + 0x100 - first % 0x100)))
        if block.lower() != block:
            yield from (code for code, letter in enumerate(block, first) if letter.lower() != letter)


def _lower(texts: Sequence[bytes]) -> tuple[Bytes, NDArray[np.bool_] | None, set[int]]:
    """(bytes in lower case with 0 between words, where words end beside a 0, texts not done: see SPECIAL)."""
    joined = b"\n".join([PAD[1:], *texts, PAD])
    codes_B = np.frombuffer(joined, dtype=np.uint8)
    low_B = np.frombuffer(bytearray(joined.translate(_ascii_table())), dtype=np.uint8)
    leads_L = np.flatnonzero(codes_B >= 0xC0)
    if not len(leads_L):
        return low_B, None, set()
    classes, lower = lower_tables()
    breaks_B: NDArray[np.bool_] | None = None
    special: set[int] = set()
    first_L = codes_B[leads_L]
    for size, least, beyond in ((2, 0xC0, 0xE0), (3, 0xE0, 0xF0), (4, 0xF0, 0xF8)):
        places_L = leads_L[(first_L >= least) & (first_L < beyond)]
        if not len(places_L):
            continue
        points_L = _decode(codes_B, places_L, size)
        classes_L = classes[points_L]
        outside_L = places_L[classes_L == 0]
        for column in range(size):
            low_B[outside_L + column] = 0
        alone_L = places_L[classes_L == ALONE]
        if len(alone_L):
            breaks_B = np.zeros(len(low_B), dtype=np.bool_) if breaks_B is None else breaks_B
            breaks_B[alone_L] = True
            breaks_B[alone_L + size] = True
        if (classes_L == SPECIAL).any():
            ends_D = len(PAD) + np.cumsum([len(text) + 1 for text in texts])
            special |= set(np.searchsorted(ends_D, places_L[classes_L == SPECIAL], side="right").tolist())
        upper_L = np.flatnonzero((classes_L == WORD) & (lower[points_L] != points_L))
        _encode(low_B, places_L[upper_L], lower[points_L[upper_L]], size)
    return low_B, breaks_B, special


def _decode(codes_B: Bytes, places_L: Places, size: int) -> NDArray[np.uint32]:
    """The code points of the characters of `size` bytes at these places."""
    points_L = codes_B[places_L].astype(np.uint32) & np.uint32(0xFF >> (size + 1))
    for column in range(1, size):
        points_L <<= np.uint32(6)
        points_L |= codes_B[places_L + column] & np.uint8(0x3F)
    return points_L


def _encode(low_B: Bytes, places_L: Places, points_L: NDArray[np.uint32], size: int) -> None:
    """Write code points as characters of `size` bytes; the first byte keeps its upper bits."""
    for column in range(size - 1, 0, -1):
        low_B[places_L + column] = 0x80 | (points_L & np.uint32(0x3F))
        points_L = points_L >> np.uint32(6)
    low_B[places_L] = points_L | np.uint32(0xFF & ~(0xFF >> size))


def _word_places(low_B: Bytes, breaks_B: NDArray[np.bool_] | None) -> tuple[Places, Places]:
    """(starts_W, ends_W) of the words."""
    inside_B = low_B != 0
    if breaks_B is None:
        edges = np.flatnonzero(inside_B[1:] != inside_B[:-1]) + 1
        return edges[::2], edges[1::2]
    before_B, here_B, breaks_B = inside_B[:-1], inside_B[1:], breaks_B[1:]
    starts_W = np.flatnonzero(here_B & (breaks_B | ~before_B)) + 1
    ends_W = np.flatnonzero(before_B & (breaks_B | ~here_B)) + 1
    return starts_W, ends_W


def _hash_words(low_B: Bytes, starts_W: Places, ends_W: Places) -> Hashes:
    """hashes_W: for words of up to eight bytes no two are equal."""
    windows_B = np.ndarray((len(low_B) - 7,), dtype="<u8", buffer=low_B.data, strides=(1,))
    lengths_W = ends_W - starts_W
    hashes_W = windows_B.take(starts_W, mode="clip")
    hashes_W &= MASKS.take(lengths_W, mode="clip")
    longer = np.flatnonzero(lengths_W > 8)
    starts, left = starts_W.take(longer), lengths_W.take(longer)
    beyond = longer[left > LONGEST]
    while len(longer):
        starts += 8
        left -= 8
        part = windows_B.take(starts, mode="clip") & MASKS.take(left, mode="clip")
        so_far = hashes_W.take(longer)
        so_far ^= so_far >> np.uint64(31)
        hashes_W[longer] = so_far * LONGER + part
        more = np.flatnonzero((left > 8) & (left <= LONGEST - 8))
        longer, starts, left = longer.take(more), starts.take(more), left.take(more)
    for number in beyond:
        hashes_W[number] = _hash_long(low_B[starts_W[number] : ends_W[number]].tobytes())
    return _spread(hashes_W)


def _hash_long(word: bytes) -> int:
    """The number of one word, eight bytes by eight, before it is mixed."""
    first, *others = (int.from_bytes(word[place : place + 8], "little") for place in range(0, len(word), 8))
    for part in others:
        first ^= first >> 31
        first = (first * int(LONGER) + part) & 0xFFFFFFFFFFFFFFFF
    return first


def _spread(values: Hashes) -> Hashes:
    """Mix the bits in place: one half of SplitMix64's finaliser."""
    values ^= values >> np.uint64(32)
    values *= SPREAD
    values ^= values >> np.uint64(29)
    return values


def _combine(hashes_W: Hashes, words_D: Places, width: int) -> tuple[Hashes, NDArray[np.bool_]]:
    """(runs_W, valid_W): the run of `width` words at each word; a document of fewer words has one, of all of them."""
    edges_D = np.cumsum(words_D)
    runs_W = _runs(hashes_W, width)
    valid_W = np.ones(len(hashes_W), dtype=np.bool_)
    if width > 1:
        last = edges_D[:, None] - np.arange(1, width)
        valid_W[last[last >= (edges_D - words_D)[:, None]]] = False
    for fewer in range(1, width):
        firsts = (edges_D - words_D)[words_D == fewer]
        if len(firsts):
            whole = hashes_W[firsts]
            for place in range(1, fewer):
                whole = whole * np.uint64(RUN_BASE) + hashes_W[firsts + place]
            runs_W[firsts] = _spread(whole)
            valid_W[firsts] = True
    return runs_W, valid_W


def _runs(hashes_W: Hashes, width: int) -> Hashes:
    """The hash of `width` words from each word on; the last few are cut short."""
    combined_W = hashes_W.copy()
    for place in range(1, min(width, len(hashes_W))):
        combined_W *= np.uint64(RUN_BASE)
        combined_W[:-place] += hashes_W[place:]
    return _spread(combined_W)
