"""Tables of comma- or tab-separated values: one document per row, and one broken quote costs one row.

Whole blocks of lines are parsed at once. A quote that is never closed would make the rest of a file one field; so a
block with an error, or with a row that has another number of fields than the header, is read again with care: a row
whose quotes do not close, or that spans lines and then has another number of fields, is taken back, its first line is
judged by itself, and reading goes on with the second.
"""

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator

from athanor.data.document import Document
from athanor.data.reading.decode import Unreadable, decode_stream, find_encoding
from athanor.data.reading.items import ReadLimits, SetAside, documents_of_row, find_text_field
from athanor.data.reading.sources import SourceFile

DELIMITERS = ",\t;|"
BLOCK = 1 << 18  # characters parsed at once
LEAST_LOOK_AHEAD = 1 << 16  # characters in which the end of a quote is looked for after others were not found

Line = tuple[int, str | None]  # its number from 1, and its text with its end; None when it was too long to be held


class _TooFar(Exception):
    """The quote that was opened is not closed within what may be held."""


class Text:
    """A stream of text, given by lines or by blocks of lines; a line of more than `most` characters is never held."""

    def __init__(self, pieces: Iterable[str], most: int):
        self.pieces, self.most = iter(pieces), most
        self.held, self.place, self.number = "", 0, 1

    def _more(self) -> bool:
        piece = next(self.pieces, None)
        if piece is not None:
            self.held, self.place = self.held[self.place :] + piece, 0
        return piece is not None

    def line(self) -> Line | None:
        """The next line, None at the end."""
        begun = False  # whether the beginning of the line was let go
        while (end := self.held.find("\n", self.place)) < 0:
            if len(self.held) - self.place > self.most:
                begun, self.place = True, len(self.held)
            if not self._more():
                end = len(self.held) - 1
                break
        if end < self.place and not begun:
            return None
        size, number = end - self.place, self.number
        text = None if begun or size > self.most else self.held[self.place : end + 1]
        self.place, self.number = end + 1, number + 1
        return number, text

    def block(self) -> str:
        """Some whole lines, cut where no quote is open if there is such a place; "" when `line` has to be asked."""
        last = False
        while len(self.held) - self.place < BLOCK and not last:
            last = not self._more()
        cut = len(self.held) if last else self.held.rfind("\n", self.place) + 1
        end, odd = cut, self.held.count('"', self.place, cut) % 2
        while odd and end > self.place:
            quote = self.held.rfind('"', self.place, end)
            before = self.held.rfind("\n", self.place, quote) + 1
            odd ^= self.held.count('"', max(before, self.place), end) % 2
            end = max(before, self.place)
        if end > self.place:
            cut = end
        block = self.held[self.place : cut]
        if len(block) > self.most:
            return ""  # a line of it may be too long
        self.place, self.number = max(cut, self.place), self.number + block.count("\n")
        return block


class _Lines:
    """A text's lines for csv.reader; those of the row at hand are remembered and can be given back."""

    def __init__(self, text: Text):
        self.text = text
        self.waiting: deque[Line] = deque()
        self.taken: list[tuple[int, str]] = []
        self.left = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self.waiting.popleft() if self.waiting else self.text.line()
        if line is None:
            raise StopIteration
        number, text = line
        if text is None or (self.taken and len(text) > self.left):
            self.waiting.appendleft(line)
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


Row = tuple[int, list[str] | str]  # number of its first line, and its fields, or the reason why there are none


class Rows:
    """The rows of a table, the header first."""

    def __init__(self, pieces: Iterable[str], most: int):
        csv.field_size_limit(max(most + 1, csv.field_size_limit()))
        self.text = Text(pieces, most)
        self.lines = _Lines(self.text)
        self.most = self.look_ahead = most
        self.width = 0
        self.delimiter = ","

    def __iter__(self) -> Iterator[Row]:
        first = self.text.line()
        if first is None:
            return
        if first[1] is not None:
            self.delimiter = max(DELIMITERS, key=first[1].count)
        self.lines.waiting.append(first)
        yield from self._with_care()
        while True:
            number, block = self.text.number, self.text.block()
            rows = self._at_once(number, block) if block else None
            if rows is not None:
                yield from rows
                continue
            if block:
                self.lines.waiting.extend(enumerate(io.StringIO(block, newline="\n"), number))
            elif (line := self.text.line()) is not None:
                self.lines.waiting.append(line)
            else:
                return
            yield from self._with_care()

    def _at_once(self, number: int, block: str) -> list[Row] | None:
        """The rows of a block that begins with this line; None where anything is unusual."""
        reader = csv.reader(io.StringIO(block, newline="\n"), delimiter=self.delimiter, strict=True)
        rows: list[Row] = []
        start = number
        try:
            for fields in reader:
                if fields and len(fields) != self.width:
                    return None
                rows.append((start, fields))
                start = number + reader.line_num
        except csv.Error:
            return None
        return rows

    def _with_care(self) -> Iterator[Row]:
        """The rows that begin in the lines that wait."""
        reader = csv.reader(self.lines, delimiter=self.delimiter, strict=True)
        while self.lines.waiting:
            self.lines.begin(self.look_ahead)
            try:
                fields = next(reader)
            except StopIteration:
                return
            except (_TooFar, csv.Error):
                if not self.lines.taken:
                    yield self.lines.skip_overlong(), "line too long"
                    continue
                fields = []
                self.look_ahead = max(LEAST_LOOK_AHEAD, self.look_ahead // 2)
            else:
                if len(self.lines.taken) == 1 or len(fields) == self.width:
                    self.width = self.width or len(fields)
                    self.look_ahead = self.most
                    yield self.lines.taken[0][0], fields
                    continue
            number, line = self.lines.give_back()
            alone = next(csv.reader([line], delimiter=self.delimiter, quoting=csv.QUOTE_NONE), [])
            yield number, alone if len(alone) == self.width else "broken quotes"


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
    rows = iter(Rows(decode_stream(file.open, find_encoding(file.open)), most))
    header = next(rows, None)
    if header is None or isinstance(header[1], str):
        raise Unreadable(header[1] if header and isinstance(header[1], str) else "empty text")
    names = [name.strip() for name in header[1]]
    return names, _named_rows(names, rows, file.name)


def _named_rows(names: list[str], rows: Iterator[Row], file: str) -> Iterator[tuple[int, dict[str, str] | SetAside]]:
    for number, fields in rows:
        if isinstance(fields, str):
            yield number, SetAside(f"{file}#{number}", fields, f"line {number}")
        elif len(fields) > len(names):
            where = f"line {number}: {len(fields)}, not {len(names)}"
            yield number, SetAside(f"{file}#{number}", "more fields than the header", where, sum(map(len, fields)))
        elif fields:
            yield number, dict(zip(names, fields, strict=False))
