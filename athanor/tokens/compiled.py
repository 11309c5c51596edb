"""Byte-level BPE by the C library (athanor/native/bpe.c), where it does what the `tokenizers` library does.

It merges by the same list of merges in the same order, so only three things have to hold: the text is cut by a pattern
that the library knows, the classes of characters are those of `tokenizers` (which is asked), and the model has nothing
beside merges (dropout, affixes, tokens looked up whole that no merge makes), which `fast.py` checks.

Shapes: D texts, T tokens.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, normalizers

from athanor.base import native
from athanor.base.textblock import TextBlock
from athanor.tokens.letters import BYTE_TO_LETTER, LETTER_TO_BYTE
from athanor.tokens.pipelines import CL100K, GPT2, PIECES, QWEN2

OTHER, LETTER, NUMBER, SPACE = range(4)  # classes of characters in bpe.c
JOINS_ANY_MARK, ANY_CASE, ENDS_LINES = 1, 2, 4
ALL = JOINS_ANY_MARK | ANY_CASE | ENDS_LINES
FORMS = {PIECES: (ALL, 1), QWEN2: (ALL, 1), CL100K: (ALL, 3), GPT2: (0, 0)}  # pattern: form, most digits of a piece
KINDS = {LETTER: r"\p{L}", NUMBER: r"\p{N}", SPACE: r"\s"}
FOLDED = r"(?i:[sdmtlver])"
FOLDED_LETTERS = "sdmtlverSDMTLVER\u017f"
MOST_MERGES = 1 << 24  # a rank and a place in a piece share 31 bits
PLANE, NOT_WHOLE, JOINS_FIRST, LENDS_LAST = 1 << 16, np.uint32(0xFFFFFFFF), 1, 2  # as bpe.c has them
CACHE = 1 << 14  # pieces whose ids are remembered, 64 bytes each
Ids = NDArray[np.uint32]


class CompiledEncoder:
    """Ids of ordinary text, as the reference gives them."""

    def __init__(self, pattern: str, byte_ids: Ids, merges: NDArray[np.uint32], characters: "Characters"):
        """`merges`: left, right and made ids, in order, (3, M)."""
        self._characters = characters
        left, right, made = merges
        size = max(64, 1 << (2 * len(left)).bit_length())
        self._form, self._digits = FORMS[pattern]
        self._byte_ids, self._mask = byte_ids, size - 1
        self._table = np.empty(2 * size + size // 16, dtype=np.uint64)  # slots of 16 bytes, and their filter
        native.function("athanor_bpe_table")(
            native.pointer(left, np.uint32), native.pointer(right, np.uint32), native.pointer(made, np.uint32),
            len(left), native.pointer(self._table, np.uint64), self._mask,
        )  # fmt: skip
        self._caches: deque[NDArray[np.uint64]] = deque()  # one for each thread that encodes

    def encode_block(self, block: TextBlock, mark: int | None = None) -> tuple[Ids, NDArray[np.int64]]:
        """(ids_T of all texts, where those of each text end); `mark` is put before each text."""
        ids_T = np.empty(len(block.data_B) + len(block), dtype=np.uint32)
        ends_D = np.empty(len(block), dtype=np.int64)
        kinds = character_kinds()
        assert kinds is not None
        try:
            cache = self._caches.pop()
        except IndexError:
            cache = np.zeros(8 * CACHE, dtype=np.uint64)
        native.function("athanor_bpe_encode")(
            native.pointer(block.data_B, np.uint8), native.pointer(block.ends_D, np.int64), len(block),
            native.pointer(kinds, np.uint8), self._form, self._digits, native.pointer(self._byte_ids, np.uint32),
            native.pointer(self._characters.ids, np.uint32), native.pointer(self._characters.before, np.uint8),
            native.pointer(self._table, np.uint64), self._mask, native.pointer(cache, np.uint64), CACHE - 1,
            -1 if mark is None else mark, native.pointer(ids_T, np.uint32), native.pointer(ends_D, np.int64),
        )  # fmt: skip
        self._caches.append(cache)
        return ids_T[: ends_D[-1] if len(ends_D) else 0], ends_D


def compiled_encoder(pattern: str, ids: Mapping[str, int], pairs: Sequence[tuple[str, str]]) -> CompiledEncoder | None:
    """The library's encoder for a model of `tokenizers` that does nothing but merge; None where they might differ.

    Args:
        pattern: by which the tokenizer cuts text.
        ids: its vocabulary.
        pairs: its merges, in order.
    """
    if not native.available() or pattern not in FORMS or character_kinds() is None:
        return None
    by_byte = [ids.get(BYTE_TO_LETTER[byte]) for byte in range(256)]
    left, right = zip(*pairs, strict=True) if pairs else ((), ())
    rows = [list(map(ids.get, column)) for column in (left, right, map(str.__add__, left, right))]
    if any(None in column for column in (by_byte, *rows)) or not len(set(pairs)) == len(pairs) < MOST_MERGES:
        return None
    merges = np.array(rows, np.uint32)
    return CompiledEncoder(pattern, np.array(by_byte, np.uint32), merges, whole_characters(pairs, merges))


@dataclass(frozen=True, slots=True)
class Characters:
    """Which characters of three bytes may be merged before anything else.

    Attributes:
        ids: of the code points below 2^16; NOT_WHOLE where a character may not, or is no single token.
        before: of the same code points, bits: JOINS_FIRST, a merge joins the character with the first bytes of another
            one, so the one behind it may not; LENDS_LAST, a merge joins its last bytes with another character, so the
            one behind it may not where this one itself does not.
    """

    ids: NDArray[np.uint32]
    before: NDArray[np.uint8]


def whole_characters(pairs: Sequence[tuple[str, str]], merges: NDArray[np.uint32]) -> Characters:
    """The characters that become one token whatever stands around them, so that merging may begin with them.

    A merge inside one character may be done early if no other merge competes for its bytes, and none that uses what it
    makes stands before it in the list: then all that it makes possible would have come later anyway. Merges that
    compete take bytes of two characters, one of them not whole: the first bytes of the second one (JOINS_FIRST) or the
    last bytes of the first one, unless they are gone by then (LENDS_LAST).
    """
    ids, before = np.full(PLANE, NOT_WHOLE, np.uint32), np.zeros(PLANE, np.uint8)
    inside: dict[tuple[bytes, bytes], int] = {}  # merges that make a character or a part of one: their ranks
    lent: dict[bytes, int] = {}  # last bytes of characters that merges join with another one: rank of the first
    for rank, pair in enumerate(pairs):
        if pair[0].isascii() and pair[1].isascii():
            continue
        left, right = (bytes(map(LETTER_TO_BYTE.__getitem__, part)) for part in pair)
        begins = [place for place, byte in enumerate(left + right) if byte & 0xC0 != 0x80]
        if begins in ([], [0]):
            inside[left, right] = rank
            continue
        if begins[0] == len(left):
            lent.setdefault(left, rank)
        if len(begins) > 1 and not (_is_whole(left) and _is_whole(right)):
            joined = (left + right)[begins[-2] : begins[-1]]
            if _is_whole(joined) and ord(joined.decode()) < PLANE:
                before[ord(joined.decode())] |= JOINS_FIRST
    used_first = np.full(int(merges.max(initial=0)) + 1, len(pairs))  # rank of the first merge that uses an id
    for row in merges[:2]:
        np.minimum.at(used_first, row, np.arange(len(pairs)))
    codes = np.arange(PLANE)
    for last in lent:  # six bits of a code point in each byte; longer ones are of no character below 2^16
        bits = int.from_bytes(last) & 0x3F | (last[0] & 0x3F) << 6 * (len(last) - 1)
        before[(codes & (1 << 6 * len(last)) - 1) == bits] |= LENDS_LAST
    for whole in {left + right for left, right in inside}:
        ranks = _merge_inside(whole, inside)
        if len(whole) == 3 and _is_whole(whole) and len(ranks) == 2:
            made = merges[2, ranks]
            gone = all(lent.get(whole[place:], len(pairs)) > ranks[-1] for place in (1, 2))
            if gone and (used_first[made] > ranks).all():
                ids[ord(whole.decode())] = made[-1]
    return Characters(ids, before)


def _merge_inside(whole: bytes, ranks: Mapping[tuple[bytes, bytes], int]) -> list[int]:
    """The ranks of the merges of a character by itself, as they are done."""
    parts, done = [bytes([byte]) for byte in whole], []
    while found := [(ranks[pair], place) for place, pair in enumerate(pairwise(parts)) if pair in ranks]:
        rank, place = min(found)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
        done.append(rank)
    return done


def _is_whole(part: bytes) -> bool:
    try:
        part.decode()
    except UnicodeDecodeError:
        return False
    return True


@cache
def character_kinds() -> NDArray[np.uint8] | None:
    """The class of each code point, as `tokenizers` sees it; None where it sees other letters than bpe.c expects."""
    used = _codes((0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xE1000))  # planes with characters, and two of private use
    others = _codes((0x40000, 0xE0000), (0xE1000, 0x110000))
    folded = used[_matches(FOLDED, used)].tobytes().decode("utf-32-le")
    if folded != "".join(sorted(FOLDED_LETTERS)) or _matches("[" + "".join(KINDS.values()) + "]", others).any():
        return None
    kinds = np.full(0x110000, OTHER, dtype=np.uint8)
    for kind, pattern in KINDS.items():
        kinds[used[_matches(pattern, used)]] = kind
    return kinds


def _codes(*ranges: tuple[int, int]) -> NDArray[np.uint32]:
    return np.concatenate([np.arange(first, last, dtype="<u4") for first, last in ranges])


def _matches(pattern: str, codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which of these code points a pattern of one character matches."""
    left = normalizers.Replace(Regex(f"{pattern}+"), "").normalize_str(codes.tobytes().decode("utf-32-le"))
    return ~np.isin(codes, np.frombuffer(left.encode("utf-32-le"), dtype="<u4"), kind="table")
