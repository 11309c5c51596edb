"""SentencePiece's own treatment of characters and spaces before it cuts text, to the letter.

`Normalizer::Normalize` of google/sentencepiece (`src/normalizer.cc`): at each place the longest entry of a compiled
table (`precompiled_charsmap`) is replaced, else one character stays as it is. The `Precompiled` of the `tokenizers`
library takes the shortest entry of a whole grapheme instead, and knows none of six bytes or more: other ids for accents
apart from their letters, and for vowels of two parts in Bengali and Tamil.
"""

import re
import struct
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from athanor.tokens.sentencepiece import SPACE

LEAF, LABEL, VALUE = 1 << 8, (1 << 31) | 0xFF, (1 << 31) - 1  # bits of a unit of the double array


class Normalizer:
    """What SentencePiece makes of a text before it looks for pieces.

    Args:
        table: the compiled table; empty: characters stay as they are.
        kept: symbols that stay whatever the table says.
        prefix: a space is put in front.
        trim: spaces at both ends are dropped, and runs of them become one.

    Raises:
        ValueError: the table is damaged.
    """

    def __init__(self, table: bytes, kept: Collection[str], prefix: bool, trim: bool):
        self.entries: Mapping[str, str] = read_table(table) if table else {}
        self.kept, self.prefix, self.trim = frozenset(kept), prefix, trim
        self.longest = max(map(len, self.entries), default=0)
        self.places = _places(self.entries, self.kept)

    def __call__(self, text: str) -> str:
        given = bool(text)
        if self.trim:
            text = re.sub(" {2,}", " ", self.replaced(text.lstrip(" ")).lstrip(" "))
        else:
            text = self.replaced(text)
        text = (" " if self.prefix and given else "") + text
        text = text.replace(" ", SPACE)
        return text.rstrip(SPACE) if self.trim else text

    def replaced(self, text: str) -> str:
        """The text with every entry of the table replaced, the longest at each place."""
        if self.places is None or self.places.search(text) is None:
            return text
        parts, done = [], 0
        for found in self.places.finditer(text):
            place = found.start()
            if place < done:
                continue
            if found.lastgroup == "kept":
                continue
            for size in range(min(self.longest, len(text) - place), 0, -1):
                entry = self.entries.get(text[place : place + size])
                if entry is not None:
                    parts += [text[done:place], entry]
                    done = place + size
                    break
        return "".join([*parts, text[done:]])


def _places(entries: Iterable[str], kept: Collection[str]) -> re.Pattern[str] | None:
    """Where an entry may begin: a character that is one by itself, or one that begins one with what follows."""
    single = {key for key in entries if len(key) == 1}
    first = {key[0] for key in entries if len(key) > 1}
    second = {key[1] for key in entries if len(key) > 1}
    options = ["(?P<kept>" + "|".join(map(re.escape, sorted(kept, key=len, reverse=True))) + ")"] if kept else []
    if single:
        options.append(_class(single))
    if first:
        options.append(f"{_class(first)}(?={_class(second)})")
    return re.compile("|".join(options)) if single or first else None


def _class(characters: Collection[str]) -> str:
    """A regular expression's class of characters."""
    runs: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in runs) + "]"


@lru_cache(maxsize=2)  # the two sides of a translator have one table, of 200,000 entries
def read_table(table: bytes) -> Mapping[str, str]:
    """The entries of a compiled table: a double array of darts-clone over UTF-8, then what replaces them, ended by 0.

    Raises:
        ValueError: the table is damaged.
    """
    (size,) = struct.unpack_from("<I", table)
    if size % 4 or not 0 < size <= len(table) - 4:
        raise ValueError("its table of characters is cut short")
    units, texts = struct.unpack_from(f"<{size // 4}I", table, 4), table[4 + size :]
    children: dict[int, list[tuple[int, int]]] = {}
    for place, unit in enumerate(units):
        label = unit & LABEL
        if 0 < label < 256:
            children.setdefault(place ^ label, []).append((label, place))
    entries: dict[str, str] = {}
    left = [(_offset(units[0]), b"")]
    while left:
        node, before = left.pop()
        if len(before) > 64:
            raise ValueError("its table of characters has no end")
        for label, place in children.get(node, ()):
            key, below = before + bytes([label]), place ^ _offset(units[place])
            if units[place] & LEAF:
                start = units[below] & VALUE
                entries[key.decode()] = texts[start : texts.index(0, start)].decode()
            left.append((below, key))
    return entries


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 512) >> 6)
