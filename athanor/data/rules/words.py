"""What the published rules call a word: a text cut at blanks, then punctuation cut off, the plain way.

The published filters count the tokens of a general tokenizer for English: quotes, commas and brackets are words of
their own, "don't" is two, "3.5" one. This file says that in a few rules that look at nearby characters only, so that
`counts.py` can apply the same rules to megabytes at once. Where it differs from the tokenizer of the reference:
docs/design/005-filters.md.
"""

import re
import sys
import unicodedata
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

# What a character is; one byte of flags for each of Unicode's code points.
FILLED, PEELED, SYMBOL, ALPHA, DIGIT, STOP, UPPER, STOP_OF_LINE = (1 << bit for bit in range(8))
# PEELED: a word of its own at the ends of a chunk. SYMBOL: no word in Gopher's counts. STOP: ends a sentence.
# STOP_OF_LINE: ends a line well for FineWeb.

PEELED_CHARACTERS = (
    ",:;!?()[]{}<>_#*&%$£€¥§—–=…¿¡؟。？！，、；：～·।،۔؛٪"
    "'\"`´‘’‚“”„«»「」『』（）〔〕【】《》〈〉"
)  # fmt: skip
# As the reference implementation has them, the digit included.
SYMBOL_CHARACTERS = (
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？"
    "！：$～«〉,><》)?）。…@_.\"}►»"
)  # fmt: skip
SENTENCE_STOPS = "!.?։؟۔܀܁܂߹।॥၊။።፧፨᙮᜵᜶᠃᠉‼‽⁇⁈⁉⸮⸼꓿꘎꘏﹒﹖﹗！．？｡。"
LINE_STOPS_MORE = "⹓⹔؝؞៕៖៙៚។"
ABBREVIATIONS = frozenset(
    "Mr Mrs Ms Dr St Jr Prof Rev Gen Gov Sen Rep Adm Messrs Mt Bros Co co Corp Inc Ltd vs Jan Feb Mar Apr Jun Jul Aug"
    " Sep Sept Oct Nov Dec Ala Ariz Ark Calif Colo Conn Del Fla Ga Ia Id Ill Ind Kan Kans Ky La Mass Md Mich Minn Miss"
    " Mo Mont Neb Nebr Nev Okla Ore Pa Tenn Va Wash Wis Ak".split()
)
APOSTROPHES = "'’"
BEHIND_APOSTROPHE = ("s", "S", "m", "d", "ll", "re", "ve")
AFTER_BLANK = ("s", "S", "d", "ll", "re", "em")  # 's alone is one word
DOTS = re.compile(r"\.{2,}")
CHUNK = re.compile(r"\S+")
HYPHENS = re.compile("-{1,3}|[/~+^]")


@cache
def character_flags() -> NDArray[np.uint8]:
    """The flags of every code point (1.1 MB, made once)."""
    flags = np.full(sys.maxunicode + 1, FILLED, dtype=np.uint8)
    for code in range(0x32400):
        character = chr(code)
        if character.isspace():
            flags[code] = 0
        elif character.isalpha():
            flags[code] |= ALPHA | (UPPER if character.isupper() else 0)
        elif unicodedata.category(character) in ("So", "Sc"):
            flags[code] |= PEELED
    for code in range(0x1F000, 0x1FB00):  # pictures
        flags[code] |= PEELED
    for characters, flag in (
        (PEELED_CHARACTERS, PEELED), (SYMBOL_CHARACTERS + LINE_STOPS_MORE + SENTENCE_STOPS, SYMBOL),
        ("0123456789", DIGIT), (SENTENCE_STOPS, STOP), (SENTENCE_STOPS + LINE_STOPS_MORE, STOP_OF_LINE),
    ):  # fmt: skip
        flags[[ord(character) for character in characters]] |= flag
    controls = [code for code in (*range(32), *range(127, 160)) if code not in (9, 10, 32)]
    flags[controls] |= SYMBOL
    return flags


@cache
def _flag_bytes() -> bytes:
    return character_flags().tobytes()


def flags_of(character: str) -> int:
    """The flags of one character; 0 for a blank."""
    return _flag_bytes()[ord(character)]


def find_english_words(text: str) -> list[str]:
    """The words of a text, punctuation marks among them."""
    return [word for chunk in CHUNK.findall(text) for word in _cut_chunk(chunk)]


def _cut_chunk(chunk: str) -> list[str]:
    flags = [flags_of(character) for character in chunk]
    if all(flag & (ALPHA | DIGIT) for flag in flags):
        return [chunk]
    cuts = {0, len(chunk)}
    web = _is_address(chunk, flags)
    start = 0
    while start < len(chunk):
        end = start
        while end < len(chunk) and (chunk[end] == "." or flags[end] & PEELED):
            end += 1
        if end > start:
            _cut_run(chunk, flags, start, end, cuts, web)
            start = end
        else:
            start += 1
    if not web:
        _cut_at_hyphens(chunk, flags, cuts)
    places = sorted(cuts)
    return [chunk[left:right] for left, right in pairwise(places)]


def _is_address(chunk: str, flags: list[int]) -> bool:
    """Whether the chunk, opening punctuation aside, begins like https://host; ](https://host does not."""
    place = chunk.find("://")
    if place < 0 or place + 3 == len(chunk) or not flags[place + 3] & (ALPHA | DIGIT):
        return False
    begin = place
    while begin and flags[begin - 1] & (ALPHA | DIGIT):
        begin -= 1
    return all(flag & PEELED for flag in flags[:begin])


def _cut_run(chunk: str, flags: list[int], start: int, end: int, cuts: set[int], web: bool) -> None:
    """Cut at one run of punctuation [start, end): at an end of the chunk each mark is a word, inside it joins."""
    if start and end < len(chunk):
        _cut_inner_run(chunk, flags, start, end, cuts, web)
        return
    for place in range(start, end + 1):
        inside_dots = start < place < end and chunk[place - 1] == chunk[place] == "."
        if not inside_dots:
            cuts.add(place)
    if end < len(chunk) and chunk[end - 1] == "'" and _tail(chunk, flags, end - 1) in AFTER_BLANK:
        cuts.discard(end)
    lone_last = chunk[end - 1] == "." and (end - 1 == start or chunk[end - 2] != ".")
    if end < len(chunk) and lone_last:
        cuts.discard(end)  # .5
    lone_first = chunk[start] == "." and (start + 1 == end or chunk[start + 1] != ".")
    if start and lone_first and _is_abbreviation(chunk, flags, start):
        cuts.discard(start)


def _is_abbreviation(chunk: str, flags: list[int], dot: int) -> bool:
    """Whether the full stop at `dot` belongs to the letters before it: Mr. J. e.g. U.S."""
    before = flags[dot - 1]
    further = flags[dot - 2] if dot > 1 else 0
    if before & UPPER:
        return not further & UPPER
    if not before & ALPHA:
        return not (before & DIGIT or chunk[dot - 1] in "-+²")
    opened = further & PEELED and chunk[dot - 2] not in APOSTROPHES
    if not further & (ALPHA | DIGIT) and (dot == 1 or chunk[dot - 2] == "." or opened):
        return True
    first = dot
    while first and dot - first < 7 and flags[first - 1] & (ALPHA | DIGIT):
        first -= 1
    return chunk[first:dot] in ABBREVIATIONS


def _cut_inner_run(chunk: str, flags: list[int], start: int, end: int, cuts: set[int], web: bool) -> None:
    before, after = flags[start - 1], flags[end]
    mark = chunk[start]
    if end - start > 1:
        for dots in DOTS.finditer(chunk, start, end):
            cuts.update(dots.span())
    elif mark in APOSTROPHES:
        _cut_contraction(chunk, flags, start, cuts)
    elif mark == "…":
        cuts.update((start, end))
    elif web:
        return
    elif (
        (mark == "." and before & ALPHA and not before & UPPER and after & UPPER)
        or (mark == "," and before & ALPHA and after & ALPHA)
        or (mark in ":<>=—–" and before & (ALPHA | DIGIT) and after & ALPHA)
    ):
        cuts.update((start, end))


def _cut_contraction(chunk: str, flags: list[int], place: int, cuts: set[int]) -> None:
    """it|'s, they|'ll, do|n't: cut before the part that is shortened."""
    tail = _tail(chunk, flags, place)
    if tail in BEHIND_APOSTROPHE:
        cuts.add(place)
    elif tail == "t" and chunk[place - 1] == "n" and place > 1 and flags[place - 2] & ALPHA:
        cuts.add(place - 1)


def _tail(chunk: str, flags: list[int], place: int) -> str:
    """The letters and digits behind an apostrophe, three at most."""
    end = place + 1
    while end < len(chunk) and end - place < 4 and flags[end] & (ALPHA | DIGIT):
        end += 1
    return chunk[place + 1 : end]


def _cut_at_hyphens(chunk: str, flags: list[int], cuts: set[int]) -> None:
    """well|-|known, either|/|or, a|=|b; numbers keep their signs but between digits."""
    for found in HYPHENS.finditer(chunk):
        start, end = found.span()
        if not start or end == len(chunk):
            continue
        before, after = flags[start - 1], flags[end]
        lettered = found[0][0] in "-/~" and before & (ALPHA | DIGIT) and after & ALPHA
        signed = found[0] in "-+^" and before & DIGIT and after & DIGIT
        if lettered or signed:
            cuts.update((start, end))
