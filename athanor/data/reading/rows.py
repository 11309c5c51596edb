"""Rows of JSON, in bounded memory: one a line (.jsonl), or in one array or one behind another (.json)."""

import codecs
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any, cast

import orjson

from athanor.data.document import Document
from athanor.data.reading.decode import Unreadable, decode_stream, find_encoding
from athanor.data.reading.items import ReadLimits, SetAside, documents_of_row, find_text_field
from athanor.data.reading.sources import SourceFile

AT_ONCE = 1 << 17  # bytes read at a time
MARK = b"\xef\xbb\xbf"  # of UTF-8, which Windows puts before a text
# Everything up to the next bracket, strings passed over as a whole; beside the brackets of an array its commas count.
INSIDE = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
BETWEEN = re.compile(rb'(?:[^"\[\]{},]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
REST_OF_STRING = re.compile(rb"[^\"\\]*+(?:\\.[^\"\\]*+)*+", re.DOTALL)
RECODED = ("utf-16", "utf-32", "gb18030")  # the first two begin with a mark, the third reads like Chinese

Row = tuple[int, dict[str, Any] | SetAside]  # its number, and what it holds


def read_jsonl(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """One document per row of JSON lines; rows are named by their line number."""
    yield from _documents(json_rows(file, limits.max_line_bytes), "line", file.name, limits)


def read_json(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """One document per row of a .json file; rows are named by their number."""
    yield from _documents(json_file_rows(file, limits.max_line_bytes), "row", file.name, limits)


def _documents(rows: Iterable[Row], unit: str, file: str, limits: ReadLimits) -> Iterator[Document | SetAside]:
    for number, row in rows:
        name, where = f"{file}#{number}", f"{unit} {number}"
        if isinstance(row, SetAside):
            yield row
            continue
        try:
            field = find_text_field(row, limits.text_field)
        except Unreadable as problem:
            yield SetAside(name, problem.reason, f"{where} {problem.detail}".strip())
            continue
        yield from documents_of_row(row, field, name, where, limits)


def json_rows(file: SourceFile, most: int) -> Iterator[Row]:
    """(line number, row) of every line of a file that is not blank; a longer one than `most` bytes is set aside."""
    with open_as_utf8(file) as stream:
        yield from _rows(bounded_lines(stream, most), "line", file.name, most)


def json_file_rows(file: SourceFile, most: int) -> Iterator[Row]:
    """(number, row) of what a .json file holds: the elements of an array, lines of objects, or objects of many lines.

    Raises:
        Unreadable: the file ends within a row, or is no JSON at all.
    """
    with open_as_utf8(file) as stream:
        head = some(stream, AT_ONCE).removeprefix(MARK)
        while head and not (head := head.lstrip()):
            head = some(stream, AT_ONCE)
        if head[:1] not in (b"[", b"{"):
            raise Unreadable("not JSON" if head else "empty text", "a file of JSON begins with [ or {" if head else "")
        values = _chain(head, stream)
        if head[:1] == b"{":
            first = values.readline(most + 1)
            values = _chain(first, values)
            if _is_object(first):
                yield from _rows(bounded_lines(values, most), "row", file.name, most)
                return
        yield from _rows(enumerate(json_values(values, most), 1), "row", file.name, most)


def _rows(found: Iterable[tuple[int, bytes | None]], unit: str, file: str, most: int) -> Iterator[Row]:
    """The rows in pieces of JSON with their numbers; None for one that was too long."""
    for number, data in found:
        name, where = f"{file}#{number}", f"{unit} {number}"
        if data is None:
            yield number, SetAside(name, f"{unit} too long", f"{where} is longer than {most} bytes")
        elif data.strip():
            try:
                yield number, parse_row(data)
            except Unreadable as problem:
                yield number, SetAside(name, problem.reason, f"{where} {problem.detail}".strip(), len(data))


def _is_object(line: bytes) -> bool:
    try:
        parse_row(line)
    except Unreadable:
        return False
    return True


def some(stream: IO[bytes], most: int) -> bytes:
    """What one read gives: where compression is cut short, what stands before the cut comes before the error."""
    return cast(bytes, cast(Any, stream).read1(most))


class _Chain(io.RawIOBase):
    """Some bytes, and behind them a stream."""

    def __init__(self, first: bytes, rest: IO[bytes]):
        self.first, self.rest = memoryview(first), rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = bytes(self.first[: len(buffer)]) or some(self.rest, len(buffer))
        self.first = self.first[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self.rest.close()
        super().close()


def _chain(first: bytes, rest: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(_Chain(first, rest), AT_ONCE))


class _Encoded(io.RawIOBase):
    """Pieces of text as a stream of UTF-8."""

    def __init__(self, pieces: Iterator[str]):
        self.pieces, self.held = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.held:
            self.held = memoryview(next(self.pieces, "").encode())
        size = min(len(buffer), len(self.held))
        buffer[:size], self.held = self.held[:size], self.held[size:]
        return size


def open_as_utf8(file: SourceFile) -> IO[bytes]:
    """A file of rows, recoded where all of it is in an encoding that cannot be taken for broken UTF-8.

    Broken UTF-8 stays as it is: it costs the rows in which it stands, and not the file.
    """
    stream = file.open()
    try:
        head = some(stream, AT_ONCE)
    except BaseException:
        stream.close()
        raise
    as_it_is = _chain(head, stream)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
        return as_it_is
    except UnicodeDecodeError:
        pass
    try:
        encoding = find_encoding(file.open)
    except Unreadable:
        encoding = ""
    if encoding not in RECODED:
        return as_it_is
    as_it_is.close()
    return cast(IO[bytes], io.BufferedReader(_Encoded(decode_stream(file.open, encoding)), AT_ONCE))


def bounded_lines(stream: IO[bytes], most: int) -> Iterator[tuple[int, bytes | None]]:
    """(line number, line) of a binary stream; None for a line longer than `most` bytes, which is never held whole."""
    number = 0
    while line := stream.readline(most + 1):
        number += 1
        if len(line) <= most or line.endswith(b"\n"):
            yield number, line.removeprefix(MARK) if number == 1 else line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(1 << 20)
        yield number, None


def json_values(stream: IO[bytes], most: int) -> Iterator[bytes | None]:
    """The elements of an array, or objects one behind another, as they are written.

    None for one longer than `most` bytes, which is never held whole. What is between two borders is not parsed here.

    Raises:
        Unreadable: the stream ends within a value or an array, or something stands behind the array.
    """
    scan = _Scan(stream, most)
    in_array = scan.next_mark(INSIDE) == b"["
    count = 0
    if not in_array:
        scan.place -= 1  # the bracket belongs to the first object
    scan.let_go()
    while True:
        depth = 0
        while True:
            mark = scan.next_mark(INSIDE if depth or not in_array else BETWEEN)
            if mark == b"" and not in_array and not depth and not scan.left.strip():
                return
            if mark == b"":
                raise Unreadable("JSON that ends too early", f"in row {count + 1}")
            if in_array and not depth and mark in (b",", b"]"):
                break
            depth += 1 if mark in (b"{", b"[") else -1
            if not in_array and depth <= 0:
                break
        count += 1
        yield scan.value(without_mark=in_array)
        scan.let_go()
        if in_array and mark == b"]":
            if scan.next_mark(INSIDE) or scan.left.strip():
                raise Unreadable("something behind the end of the array", f"behind row {count}")
            return


class _Scan:
    """Goes through a stream of JSON from bracket to bracket, and holds what was passed since `let_go`."""

    def __init__(self, stream: IO[bytes], most: int):
        self.stream, self.most = stream, most
        self.held, self.start, self.place = b"", 0, 0  # the value at hand begins at `start`; `place` is looked at next
        self.too_long = self.in_string = False

    @property
    def left(self) -> bytes:
        """What was passed since `let_go`."""
        return self.held[self.start : self.place]

    def let_go(self) -> None:
        """The next value begins here."""
        self.start, self.too_long = self.place, False

    def value(self, without_mark: bool) -> bytes | None:
        """What was passed, without the border before which it stands; None when it was too long."""
        size = self.place - self.start - without_mark
        return (
            None if self.too_long or size > self.most else self.held[self.start : self.start + size].lstrip(b" \t\r\n,")
        )

    def next_mark(self, passed: re.Pattern[bytes]) -> bytes:
        """Pass over what is no border, and over the next border, which is returned; b"" at the end."""
        while True:
            if self.in_string:
                self.place = _end(REST_OF_STRING, self.held, self.place)
                if self.held[self.place : self.place + 1] == b'"':
                    self.in_string = False
                    self.place += 1
            if not self.in_string:
                self.place = _end(passed, self.held, self.place)
                mark = self.held[self.place : self.place + 1]
                if mark == b'"':  # a string that ends in a later block
                    self.in_string = True
                    self.place += 1
                    continue
                if mark:
                    self.place += 1
                    return mark
            if not self._more():
                self.place = len(self.held)
                return b""

    def _more(self) -> bool:
        block = some(self.stream, AT_ONCE)
        self.too_long = self.too_long or self.place - self.start > self.most
        keep = self.place if self.too_long else self.start
        self.held, self.place, self.start = self.held[keep:] + block, self.place - keep, 0
        return bool(block)


def _end(pattern: re.Pattern[bytes], data: bytes, place: int) -> int:
    match = pattern.match(data, place)
    assert match is not None  # it may be empty
    return match.end()


def parse_row(line: bytes) -> dict[str, Any]:
    """The row of a line.

    Raises:
        Unreadable: broken UTF-8 or JSON, or no object.
    """
    try:
        row = orjson.loads(line)
    except ValueError:  # it knows no NaN, no half surrogates and no numbers of more than 64 bits
        row = _parse_slowly(line)
    if not isinstance(row, dict):
        raise Unreadable("not a JSON object")
    return row


def _parse_slowly(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise Unreadable("broken UTF-8") from None
    except (ValueError, RecursionError) as problem:
        raise Unreadable("not JSON", str(problem)) from None
