"""Repairing a text without changing what it says: Unicode form, control characters, line ends and blanks."""

import re
import unicodedata

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
    text = EMPTY_LINES.sub("\n\n\n", text)
    return text.strip("\n").rstrip() + "\n" if text.strip() else ""
