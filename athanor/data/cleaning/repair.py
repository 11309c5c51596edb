"""Repairing a text without changing what it says: Unicode form, control characters, line ends and blanks."""

import re
import unicodedata

from athanor.base import native
from athanor.base.textblock import TextBlock
from athanor.data.cleaning import compiled

CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f"  # C0 and C1 but tab and line ends
    "\u200b\u2060\ufeff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufff9-\ufffb\ufdd0-\ufdef]"  # invisible, direction
)
LINE_ENDS = re.compile("\r\n?|\x0c|\x85|\u2028|\u2029")
WIDE_BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
EMPTY_LINES = re.compile(r"\n{4,}")


def repair_text(text: str) -> str:
    """The text in Unicode's composed form (NFC), without control and invisible characters.

    Lines end in a line feed, blanks at their ends are gone, at most two empty lines follow each other; indentation
    stays, so that code and Markdown keep their meaning. Repairing twice changes nothing more.
    """
    if not text.isascii():
        text = WIDE_BLANKS.sub(" ", text)
    if LINE_ENDS.search(text):
        text = LINE_ENDS.sub("\n", text)
    if CONTROLS.search(text):
        text = CONTROLS.sub("", text)
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    if " \n" in text or "\t\n" in text:
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    return _trim(EMPTY_LINES.sub("\n\n\n", text))


def repair_texts(texts: list[str]) -> list[str]:
    """Each text repaired; many at once are quicker, for most need it at their ends only."""
    if not native.available():
        return [repair_text(text) for text in texts]
    changes_D = compiled.may_change(TextBlock.of(texts)).tolist()
    return [repair_text(text) if changes else _trim(text) for text, changes in zip(texts, changes_D, strict=True)]


def _trim(text: str) -> str:
    return text.strip("\n").rstrip() + "\n" if text.strip() else ""
