"""Bytes to text: strict decoding, and how an unknown encoding is judged.

Order of judgement: byte order mark; UTF-8, strictly, over the whole file; UTF-8 that is merely broken is named as
such; GB18030, strictly, when the result reads like Chinese; charset-normalizer; else the file is set aside.
"""

import codecs
import re
from collections.abc import Callable, Iterator
from typing import IO

BLOCK = 1 << 20  # bytes read at a time
MARKS = (  # UTF-32 before UTF-16: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# The hundred most frequent characters of modern Chinese (simplified), near half of any running text.
COMMON_HAN = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日"
)
KANA = re.compile("[\u3041-\u30ff]")
CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
OUTSIDE_ASCII = re.compile("[^\x00-\x7f]")

Opener = Callable[[], IO[bytes]]


class Unreadable(Exception):
    """Why a file or a row is set aside; the text is the reason, `detail` says where."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def find_encoding(open_file: Opener) -> str:
    """The encoding of a text file, read in blocks: two passes at most, bounded memory.

    Raises:
        Unreadable: the file is empty, binary, broken UTF-8, or in an encoding nobody recognises.
    """
    with open_file() as file:
        head = file.read(BLOCK)
    if not head:
        raise Unreadable("empty file")
    marked = next((encoding for mark, encoding in MARKS if head.startswith(mark)), None)
    if marked:
        if (place := first_error(open_file, marked)) is not None:
            raise Unreadable(f"broken {marked.removesuffix('-sig').upper()}", f"at byte {place}")
        return marked
    if b"\0" in head:
        raise Unreadable("binary file")
    place = first_error(open_file, "utf-8")
    if place is None:
        return "utf-8"
    return _judge(open_file, place)


def _judge(open_file: Opener, place: int) -> str:
    """The encoding of a file that is not UTF-8 from byte `place` on."""
    with open_file() as file:
        file.read(max(0, place - BLOCK // 2))
        sample = file.read(BLOCK)
    if b"\0" in sample:
        raise Unreadable("binary file")
    if looks_like_broken_utf8(sample):
        raise Unreadable("broken UTF-8", f"at byte {place}")
    if reads_like_chinese(sample.decode("gb18030", errors="ignore")) and first_error(open_file, "gb18030") is None:
        return "gb18030"
    guess = _guess(sample)
    if guess and first_error(open_file, guess) is None:
        return guess
    raise Unreadable("unknown encoding", f"not UTF-8 at byte {place}")


def first_error(open_file: Opener, encoding: str) -> int | None:
    """Position of the first block's byte that `encoding` does not allow, None when the whole file decodes."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    read = 0
    with open_file() as file:
        while True:
            block = file.read(BLOCK)
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as problem:
                return max(0, read - waiting + problem.start)
            if not block:
                return None
            read += len(block)


def looks_like_broken_utf8(sample: bytes) -> bool:
    """Whether most characters outside ASCII are good UTF-8, so that this is UTF-8 with damage."""
    text = sample.decode("utf-8", errors="replace")
    bad = text.count("\ufffd")
    good = len(OUTSIDE_ASCII.findall(text)) - bad
    return good > 0 and good >= 4 * bad


def reads_like_chinese(text: str) -> bool:
    """Whether a GB18030 decoding reads like Chinese and not like another language's bytes seen through it.

    Real text has its characters among GB2312's 3,755 common ones or its punctuation, uses the hundred most frequent
    for a tenth or more of them, and has no kana (EUC-JP shares the code points of kana with GB2312).
    """
    foreign = OUTSIDE_ASCII.findall(text)
    if not foreign:
        return False
    common = sum(character in COMMON_HAN for character in foreign)
    kana = len(KANA.findall(text))
    usual = sum(map(_is_usual, foreign))
    enough = max(1, 0.1 * len(foreign))
    return usual >= 0.9 * len(foreign) and common >= enough and kana <= 0.02 * len(foreign)


def _is_usual(character: str) -> bool:
    """A level-1 character or punctuation of GB2312."""
    try:
        code = character.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return len(code) == 2 and (0xB0 <= code[0] <= 0xD7 or 0xA1 <= code[0] <= 0xA3)


def _guess(sample: bytes) -> str | None:
    """charset-normalizer's answer, when it finds the text orderly."""
    from charset_normalizer import from_bytes

    best = from_bytes(sample[: 1 << 16]).best()
    if best is None or best.percent_chaos > 10.0 or best.encoding.startswith("utf_7"):
        return None
    return best.encoding if _is_orderly(str(best)) else None


def _is_orderly(text: str) -> bool:
    """Text has few control characters; bytes read through a one-byte code page often have many."""
    return len(CONTROLS.findall(text)) <= 0.001 * len(text)


def decode_stream(open_file: Opener, encoding: str) -> Iterator[str]:
    """The text of a file in pieces of about a megabyte, decoded strictly.

    Raises:
        Unreadable: the file no longer is what `find_encoding` saw: it changed while it was read.
    """
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    with open_file() as file:
        while True:
            block = file.read(BLOCK)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError:
                raise Unreadable("changed while it was read") from None
            if text:
                yield text
            if not block:
                return
