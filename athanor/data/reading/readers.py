"""One reader per kind of file: from a file to its documents, in bounded memory.

A reader yields documents, and `SetAside` for a row it cannot use; it raises `Unreadable` when the rest of the file
cannot be used.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import zstandard

from athanor.data.document import Document
from athanor.data.reading.columns import read_arrow, read_parquet
from athanor.data.reading.decode import Unreadable, decode_stream, find_encoding
from athanor.data.reading.docx import read_docx
from athanor.data.reading.epub import read_epub
from athanor.data.reading.items import ReadLimits, SetAside, documents_of, find_text_field, text_of_row
from athanor.data.reading.pages import read_html
from athanor.data.reading.sources import SourceFile
from athanor.data.reading.tables import read_table
from athanor.data.reading.warc import read_warc

PDFIUM_HYPHEN = re.compile(r"(?<=[^\W\d_A-Z])[\ufffe\x02]\n?(?=[^\W\d_A-Z])")  # its mark for a hyphen at a line end

Reader = Callable[[SourceFile, ReadLimits], Iterator[Document | SetAside]]


def read_file(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """The documents of one file.

    Whatever is wrong with the file becomes a `SetAside`; documents read before that stay.
    """
    if file.problem or file.kind is None:
        yield SetAside(file.name, file.problem or "kind not read", size=file.size)
        return
    try:
        yield from READERS[file.kind](file, limits)
    except Unreadable as problem:
        yield SetAside(file.name, problem.reason, problem.detail, file.size)
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as problem:
        yield SetAside(file.name, "broken or truncated compression", str(problem), file.size)
    except OSError as problem:
        yield SetAside(file.name, f"cannot be opened: {problem.strerror or problem}", size=file.size)


def read_text(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """A plain text or Markdown file; a long one becomes several documents."""
    encoding = find_encoding(file.open)
    kind = {"encoding": encoding} if encoding not in ("utf-8", "utf-8-sig") else {}
    yield from documents_of(decode_stream(file.open, encoding), file.name, limits, **kind)


def read_jsonl(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """One document per row of JSON lines; rows are named by their line number."""
    with file.open() as stream:
        for number, line in bounded_lines(stream, limits.max_line_bytes):
            name = f"{file.name}#{number}"
            if line is None:
                yield SetAside(name, "line too long", f"line {number} is longer than {limits.max_line_bytes} bytes")
            elif line.strip():
                try:
                    text, meta = parse_row(line, limits.text_field)
                    yield from documents_of([text], name, limits, **meta)
                except Unreadable as problem:
                    yield SetAside(name, problem.reason, f"line {number} {problem.detail}".strip(), len(line))


def bounded_lines(stream: IO[bytes], most: int) -> Iterator[tuple[int, bytes | None]]:
    """(line number, line) of a binary stream; None for a line longer than `most` bytes, which is never held whole."""
    number = 0
    while line := stream.readline(most + 1):
        number += 1
        if len(line) <= most or line.endswith(b"\n"):
            yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(1 << 20)
        yield number, None


def parse_row(line: bytes, text_field: str | None) -> tuple[str, dict[str, Any]]:
    """The text of a row, and its facts.

    Raises:
        Unreadable: broken UTF-8 or JSON, no text in it, or a conversation.
    """
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise Unreadable("broken UTF-8") from None
    except (ValueError, RecursionError) as problem:
        raise Unreadable("not JSON", str(problem)) from None
    if not isinstance(row, dict):
        raise Unreadable("not a JSON object")
    return text_of_row(row, find_text_field(row, text_field))


def read_pdf(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """The text of a PDF, page after page."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(str(file.path))
    except pypdfium2.PdfiumError as problem:
        locked = "password" in str(problem).lower() or "security" in str(problem).lower()
        raise Unreadable("encrypted PDF" if locked else "broken PDF", str(problem)) from None
    try:
        found = False
        for item in documents_of(_pdf_pages(document), file.name, limits):
            found = True
            yield item
        if not found:
            raise Unreadable("no text in the PDF", "scanned pictures need text recognition first")
    finally:
        document.close()


def _pdf_pages(document: Any) -> Iterator[str]:
    """The text of the pages, one string each, pages separated by a blank line."""
    first = True
    for number in range(len(document)):
        page = document[number]
        words = page.get_textpage()
        text = join_lines(words.get_text_range())
        words.close()
        page.close()
        if text:
            yield text if first else "\n\n" + text
            first = False


def join_lines(page: str) -> str:
    """A PDF page's text with words joined that were hyphenated at a line end."""
    text = PDFIUM_HYPHEN.sub("", page.replace("\r\n", "\n").replace("\r", "\n"))
    text = text.replace("\ufffe", "-").replace("\x02", "-")
    lines: list[str] = []
    for line in text.split("\n"):
        line = line.strip()
        if lines and line and _hyphenated(lines[-1], line):
            lines[-1] = lines[-1][:-1] + line
        else:
            lines.append(line)
    return "\n".join(lines).strip()


def _hyphenated(line: str, following: str) -> bool:
    """'exam-' before 'ple' is one word; 'North-' before 'South' and '3-' before '4' are not."""
    return len(line) > 2 and line[-1] in "-\u00ad\u2010" and line[-2].islower() and following[0].islower()


READERS: dict[str, Reader] = {
    "text": read_text, "jsonl": read_jsonl, "html": read_html, "pdf": read_pdf, "table": read_table,
    "parquet": read_parquet, "arrow": read_arrow, "warc": read_warc, "epub": read_epub, "docx": read_docx,
}  # fmt: skip
