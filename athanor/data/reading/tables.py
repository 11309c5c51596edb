"""Tables of comma- or tab-separated values: one document per row, and one broken quote costs one row.

A quote that is never closed would make the rest of a file one field. So a row whose quotes do not close, or that spans
lines and then has another number of fields than the header, is taken back: its first line is judged by itself, and
reading goes on with the second.
"""

import csv
from collections import deque
from collections.abc import Iterable, Iterator

from athanor.data.document import Document
from athanor.data.reading.decode import Unreadable, decode_stream, find_encoding
from athanor.data.reading.items import ReadLimits, SetAside, documents_of_row, find_text_field
from athanor.data.reading.sources import SourceFile

DELIMITERS = ",\t;|"
LEAST_LOOK_AHEAD = 1 << 16  # characters in which the end of a quote is looked for after others were not found


class _TooFar(Exception):
    """The quote that was opened is not closed within what may be held."""


class _Lines:
    """A file's lines for csv.reader; those of the row at hand are remembered and can be given back.

    A line is (number, text), the text None when it was too long to be held.
    """

    def __init__(self, lines: Iterator[tuple[int, str | None]]):
        self.lines = lines
        self.waiting: deque[tuple[int, str | None]] = deque()
        self.taken: list[tuple[int, str]] = []
        self.left = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        number, text = self.waiting.popleft() if self.waiting else next(self.lines)
        if text is None or (self.taken and len(text) > self.left):
            self.waiting.appendleft((number, text))
            raise _TooFar
        self.taken.append((number, text))
        self.left -= len(text)
        return text

    def begin(self, most: int) -> None:
        """A new row, of at most so many characters."""
        self.taken, self.left = [], most

    def give_back(self) -> tuple[int, str]:
        """Keep the first line of the row only, and return it."""
        self.waiting.extendleft(reversed(self.taken[1:]))
        return self.taken[0]

    def skip_overlong(self) -> int:
        """Pass over the line that could not be held; its number."""
        return self.waiting.popleft()[0]


def read_table(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """One document per row of a .csv or .tsv file with a header; rows are named by the line on which they begin."""
    names, rows = open_table(file, limits)
    field = find_text_field(names, limits.text_field)
    for number, row in rows:
        if isinstance(row, SetAside):
            yield row
        else:
            yield from documents_of_row({field: None, **row}, field, f"{file.name}#{number}", f"line {number}", limits)


def open_table(
    file: SourceFile, limits: ReadLimits
) -> tuple[list[str], Iterator[tuple[int, dict[str, str] | SetAside]]]:
    """(the names in the header, (number of its first line, row) of every row that is not empty).

    Raises:
        Unreadable: there is no header.
    """
    most = limits.max_line_bytes
    rows = _read_rows(text_lines(decode_stream(file.open, find_encoding(file.open)), most), most)
    header = next(rows, None)
    if header is None or isinstance(header[1], str):
        raise Unreadable(header[1] if header and isinstance(header[1], str) else "empty text")
    names = [name.strip() for name in header[1]]
    return names, _named_rows(names, rows, file.name)


def _named_rows(
    names: list[str], rows: Iterator[tuple[int, list[str] | str]], file: str
) -> Iterator[tuple[int, dict[str, str] | SetAside]]:
    for number, fields in rows:
        if isinstance(fields, str):
            yield number, SetAside(f"{file}#{number}", fields, f"line {number}")
        elif len(fields) > len(names):
            where = f"line {number}: {len(fields)}, not {len(names)}"
            yield number, SetAside(f"{file}#{number}", "more fields than the header", where, sum(map(len, fields)))
        elif fields:
            yield number, dict(zip(names, fields, strict=False))


def _read_rows(lines: Iterator[tuple[int, str | None]], most: int) -> Iterator[tuple[int, list[str] | str]]:
    """(number of its first line, fields) of every row, the header first; instead of fields the reason why not."""
    first = next(lines, None)
    if first is None:
        return
    if first[1] is None:
        yield first[0], "line too long"
        return
    delimiter = max(DELIMITERS, key=first[1].count)
    source = _Lines(lines)
    source.waiting.append(first)
    csv.field_size_limit(max(most + 1, csv.field_size_limit()))
    strict = csv.reader(source, delimiter=delimiter, strict=True)
    width, look_ahead = 0, most
    while True:
        source.begin(look_ahead)
        try:
            fields = next(strict)
        except StopIteration:
            return
        except (_TooFar, csv.Error):
            if not source.taken:
                yield source.skip_overlong(), "line too long"
                continue
            fields = []
            look_ahead = max(LEAST_LOOK_AHEAD, look_ahead // 2)
        else:
            if len(source.taken) == 1 or len(fields) == width:
                width = width or len(fields)
                look_ahead = most
                yield source.taken[0][0], fields
                continue
        number, line = source.give_back()
        alone = next(csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_NONE), [])
        yield number, alone if len(alone) == width else "broken quotes"


def text_lines(pieces: Iterable[str], most: int) -> Iterator[tuple[int, str | None]]:
    """(line number, line with its end) of a stream of text; None for a line of more than `most` characters, which is
    never held whole."""
    number, size = 1, 0
    held: list[str] = []
    for piece in pieces:
        *whole, rest = piece.split("\n")
        for line in whole:
            size += len(line)
            yield number, "".join([*held, line, "\n"]) if size <= most else None
            number, held, size = number + 1, [], 0
        size += len(rest)
        held = [*held, rest] if size <= most else []
    if size:
        yield number, "".join(held) if size <= most else None
