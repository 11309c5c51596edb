"""Cutting a long text into documents at paragraph, line, sentence or character boundaries, in bounded memory."""

import re
import unicodedata
from collections.abc import Iterable, Iterator

SENTENCE_END = re.compile(r"[.!?…]['\")\]]*\s|[。！？；…]['\")\]”’」』）]*")
JOINERS = frozenset("\u200d\ufe0e\ufe0f")  # zero-width joiner and variation selectors hold an emoji together
NEAR = 4_096  # characters before the limit, looked through first: most texts have a sentence there
LONGEST_CLUSTER = 32  # characters: a "letter" with more marks than this is cut all the same


def split_text(pieces: Iterable[str], most_bytes: int) -> Iterator[str]:
    """Cut a stream of text into parts of at most `most_bytes` bytes of UTF-8; the parts joined are the stream.

    A part ends after a paragraph if one ends in its second half, else after a line, a sentence, a word, and only
    then between two characters, never between a letter and its marks. No more than one part and one piece are held
    at a time. A single character longer than `most_bytes` is a part of its own.
    """
    held: list[str] = []
    held_bytes = 0
    for piece in pieces:
        held.append(piece)
        held_bytes += len(piece) if piece.isascii() else len(piece.encode())
        if held_bytes <= most_bytes:
            continue
        *parts, rest = _cut("".join(held), most_bytes)
        yield from parts
        held, held_bytes = [rest], len(rest.encode())
    if rest := "".join(held):
        yield from _cut(rest, most_bytes)


def _cut(text: str, most_bytes: int) -> list[str]:
    """The parts of one text; the last is what remains."""
    parts = []
    start = 0
    # A character has at most four bytes, so a window of `most_bytes` characters always holds enough.
    while True:
        window = text[start : start + most_bytes + LONGEST_CLUSTER]
        fitting = _fitting(window, most_bytes)
        if fitting >= len(window):
            parts.append(window)
            return parts
        end = boundary(window, fitting)
        parts.append(window[:end])
        start += end


def _fitting(window: str, most_bytes: int) -> int:
    """How many characters of the window fit into `most_bytes` bytes; at least one."""
    if window.isascii():
        return max(1, min(len(window), most_bytes))
    return max(1, len(window.encode()[:most_bytes].decode(errors="ignore")))


def boundary(text: str, end: int) -> int:
    """The best place to cut `text` at or before character `end`, in the second half of what fits."""
    half = end // 2
    for mark in ("\n\n", "\n"):
        place = text.rfind(mark, half, end)
        if place >= 0:
            return place + len(mark)
    for start in (max(half, end - NEAR), half):
        ends = [match.end() for match in SENTENCE_END.finditer(text, start, end)]
        if ends:
            return ends[-1]
    place = max(text.rfind(" ", half, end), text.rfind("\u3000", half, end))
    return place + 1 if place >= 0 else _before_marks(text, end)


def _before_marks(text: str, end: int) -> int:
    """Move a cut back so that no mark, joiner or line feed is torn from what it belongs to."""
    place = end
    while place > 1 and end - place < LONGEST_CLUSTER and _holds_on(text, place):
        place -= 1
    return place if place > 1 else end


def _holds_on(text: str, place: int) -> bool:
    if place >= len(text):
        return False
    before, after = text[place - 1], text[place]
    if before == "\r" and after == "\n":
        return True
    return after in JOINERS or before == "\u200d" or unicodedata.category(after).startswith("M")
