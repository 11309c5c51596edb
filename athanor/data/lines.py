"""JSON lines as texts, block by block: by the C library (athanor/native/json.c) where that is sure, else by orjson.

Shapes: L lines of a block, D documents among them (lines that are not empty).
"""

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

from athanor.base import native
from athanor.base.errors import AthanorError
from athanor.base.textblock import TextBlock
from athanor.base.zstd import open_zstd

COMPRESSED = (".gz", ".zst")
BLOCK = 1 << 19  # bytes of a file read and worked on at once: their arrays stay in the cache
FOUND, EMPTY, UNCERTAIN = range(3)  # states of a line in json.c
MISSING, UNKNOWN = -1, -2  # in the place of a field's span
Places = NDArray[np.int64]
Texts = TextBlock | list[str]
Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class LineBlock:
    """Some whole lines of a file.

    Attributes:
        data: their bytes, a line feed behind each.
        starts_D, ends_D: where each document's line lies in `data`, without its line feed.
        texts: the documents' texts; a list where the C library is not in use.
        fields: other fields asked for.
        spans_DF2: where their values lie in `data` (first byte, and the one behind the last), MISSING where there is
            none, UNKNOWN where only a full parser can tell; None where the C library is not in use.
    """

    data: bytes
    starts_D: Places
    ends_D: Places
    texts: Texts
    fields: Sequence[str] = ()
    spans_DF2: Places | None = None

    def values(self, number: int, otherwise: Sequence[Any]) -> list[Any]:
        """The fields asked for of one document, those it does not have from `otherwise`."""
        spans = [(UNKNOWN, UNKNOWN)] if self.spans_DF2 is None else self.spans_DF2[number].tolist()
        if (UNKNOWN, UNKNOWN) in map(tuple, spans):
            row = orjson.loads(self.data[self.starts_D[number] : self.ends_D[number]])
            return [row.get(name, value) for name, value in zip(self.fields, otherwise, strict=True)]
        return [
            value if first == MISSING else orjson.loads(self.data[first:last])
            for (first, last), value in zip(spans, otherwise, strict=True)
        ]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The documents' whole rows."""
        for start, end in zip(self.starts_D.tolist(), self.ends_D.tolist(), strict=True):
            yield orjson.loads(self.data[start:end])


def as_block(texts: Texts) -> TextBlock:
    """Texts as the C library takes them."""
    return texts if isinstance(texts, TextBlock) else TextBlock.of(texts)


def as_list(texts: Texts) -> list[str]:
    """Texts as Python takes them."""
    return texts.texts() if isinstance(texts, TextBlock) else list(texts)


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file to read, decompressing by its suffix."""
    if path.suffix == ".zst":
        return open_zstd(open(path, "rb"))
    if path.suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    return open(path, "rb")


def read_line_blocks(path: Path) -> Iterator[LineBlock]:
    """The documents of a file in blocks of about 512 kB; a longer line makes a longer block.

    Raises:
        AthanorError: names the first line that is no JSON object with a string "text".
    """
    for piece in whole_lines(path):
        yield piece.read(read_lines)


def read_rows(path: Path) -> Iterator[list[dict[str, Any]]]:
    """The documents' whole rows, in lists of about 512 kB; errors as above."""
    for piece in whole_lines(path):
        yield piece.read(lambda data: [_parse(line) for line in data.split(b"\n") if line])


@dataclass(frozen=True, slots=True)
class Piece:
    """Some whole lines of a file, and how many bytes of it stand before them."""

    path: Path
    data: bytes
    before: int

    def describe(self) -> str:
        """What messages call it."""
        return f"{self.path}, {len(self.data)} bytes from byte {self.before} of its text on"

    def read(self, read: Callable[[bytes], Read]) -> Read:
        """What `read` makes of the lines.

        Raises:
            AthanorError: instead of a ValueError; it names the first line that is no JSON object with a string "text".
        """
        try:
            return read(self.data)
        except ValueError:
            raise _explain(self.path, self.data, self.before) from None


def whole_lines(path: Path) -> Iterator[Piece]:
    """A file in pieces of about 512 kB, cut behind line feeds; one is added where the last is missing.

    Raises:
        AthanorError: the file is compressed, and broken or cut short.
    """
    try:
        yield from _whole_lines(path)
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as problem:
        raise AthanorError(
            f"{path} is broken or was cut short ({problem})", fix="make it again, or copy it again"
        ) from None


def _whole_lines(path: Path) -> Iterator[Piece]:
    begun: list[memoryview] = []  # of a line whose end was not read yet
    before = 0
    with open_bytes(path) as file:
        while block := file.read(BLOCK):
            cut, view = block.rfind(b"\n") + 1, memoryview(block)
            if cut:
                piece = Piece(path, b"".join([*begun, view[:cut]]), before)
                yield piece
                before += len(piece.data)
                begun = []
            begun.append(view[cut:])
    if any(begun):
        yield Piece(path, b"".join([*begun, b"\n"]), before)


def read_lines(data: bytes, fields: Sequence[str] = ()) -> LineBlock:
    """The documents in whole lines.

    Args:
        fields: other fields than the text whose places are wanted.

    Raises:
        ValueError: a line is no JSON object with a string "text".
    """
    return _read_native(data, fields) if native.available() else _read_plain(data, fields)


def _read_plain(data: bytes, fields: Sequence[str]) -> LineBlock:
    lines = data.split(b"\n")[:-1]
    texts = [_parse(line)["text"] for line in lines if line]
    sizes_L = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines)) + 1
    ends_L = np.cumsum(sizes_L)
    return LineBlock(data, (ends_L - sizes_L)[sizes_L > 1], ends_L[sizes_L > 1] - 1, texts, fields)


def _read_native(data: bytes, fields: Sequence[str]) -> LineBlock:
    source, texts_B = np.frombuffer(data, np.uint8), np.empty(len(data), np.uint8)
    lines = int(np.count_nonzero(source == ord("\n")))  # several times as fast as bytes.count
    ends_L, text_ends_L, states_L = np.empty(lines, np.int64), np.empty(lines, np.int64), np.empty(lines, np.uint8)
    spans_LF2 = np.empty((lines, len(fields), 2), np.int64)
    native.function("athanor_json_texts")(
        native.pointer(source, np.uint8), len(data), b"".join(name.encode() + b"\0" for name in fields), len(fields),
        native.pointer(texts_B, np.uint8), native.pointer(ends_L, np.int64), native.pointer(text_ends_L, np.int64),
        native.pointer(states_L, np.uint8), native.pointer(spans_LF2, np.int64), lines,
    )  # fmt: skip
    starts_L = np.concatenate(([0], ends_L[:-1])) if lines else ends_L
    documents = np.flatnonzero(states_L != EMPTY)
    texts, spans_DF2 = TextBlock(texts_B, text_ends_L[documents]), spans_LF2[documents]
    starts_D, ends_D = starts_L[documents], ends_L[documents] - 1
    uncertain = np.flatnonzero(states_L[documents] == UNCERTAIN).tolist()
    if uncertain:
        spans_DF2[uncertain] = UNKNOWN
        found = {number: _parse(data[starts_D[number] : ends_D[number]])["text"].encode() for number in uncertain}
        every = range(len(texts))
        texts = TextBlock.of_bytes([found[number] if number in found else texts.encoded(number) for number in every])
    return LineBlock(data, starts_D, ends_D, texts, fields, spans_DF2)


def _parse(line: bytes) -> dict[str, Any]:
    row = orjson.loads(line)
    if type(row) is not dict or type(row.get("text")) is not str:
        raise ValueError("no field text")
    return row


def _explain(path: Path, data: bytes, before: int) -> AthanorError:
    """The error that names the first line without a text; so many bytes stand before it in the file."""
    lines = 0
    fix = f"repair or delete the line; of files of other kinds rows are made by athanor data convert {path} OUT.jsonl"
    with open_bytes(path) as file:
        while before:
            passed = file.read(min(BLOCK, before))
            lines, before = lines + passed.count(b"\n"), before - len(passed)
    for number, line in enumerate(data.split(b"\n")[:-1], lines + 1):
        try:
            row = orjson.loads(line) if line else {"text": ""}
        except ValueError as problem:
            return AthanorError(f"{path}, line {number}: not JSON ({problem})", fix=fix)
        if type(row) is not dict or type(row.get("text")) is not str:
            return AthanorError(
                f"{path}, line {number}: {str(row)[:80]}", allowed='an object with a string "text"', fix=fix
            )
    raise AssertionError("one of the lines is wrong")
