"""One reader per kind of file: from a file to its documents, in bounded memory.

A reader yields documents, and `SetAside` for a row it cannot use; it raises `Unreadable` when the rest of the file
cannot be used.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from athanor.data.document import Document
from athanor.data.reading.archive import read_tar, read_zip
from athanor.data.reading.columns import read_arrow, read_parquet
from athanor.data.reading.decode import Unreadable, decode_stream, find_encoding
from athanor.data.reading.docx import read_docx
from athanor.data.reading.epub import read_epub
from athanor.data.reading.items import BROKEN, ReadLimits, SetAside, documents_of
from athanor.data.reading.media import NAME_FIELD, document_of_row, read_medium, without_words
from athanor.data.reading.pages import read_html
from athanor.data.reading.rows import json_rows, read_json, read_jsonl
from athanor.data.reading.sources import SourceFile, is_access_error
from athanor.data.reading.tables import open_table, read_table
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
    except BROKEN as problem:
        yield SetAside(file.name, "broken or truncated compression", str(problem), file.size)
    except Exception as problem:
        if not is_access_error(problem):
            raise
        if type(problem) is OSError and problem.errno is None:  # of bz2
            yield SetAside(file.name, "broken or truncated compression", str(problem), file.size)
            return
        reason = getattr(problem, "strerror", None) or problem
        yield SetAside(file.name, f"cannot be opened: {reason}", size=file.size)


def read_text(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """A plain text or Markdown file; a long one becomes several documents."""
    encoding = find_encoding(file.open)
    kind = {"encoding": encoding} if encoding not in ("utf-8", "utf-8-sig") else {}
    yield from documents_of(decode_stream(file.open, encoding), file.name, limits, **kind)


def read_media_table(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """The documents of a folder's metadata.jsonl, .csv or .tsv: one for each picture or sound that it names.

    A table that names none is read like any other.
    """
    assert file.folder is not None
    named: set[str] = set()
    plain = read_jsonl if file.path.suffix.lower() == ".jsonl" else read_table
    rows = json_rows(file, limits.max_line_bytes) if plain is read_jsonl else open_table(file, limits)[1]
    for number, row in rows:
        if not named and isinstance(row, dict) and NAME_FIELD not in row:
            yield from plain(file, limits)
            break
        if isinstance(row, SetAside):
            yield row
        else:
            yield document_of_row(row, file.folder, f"{file.name}#{number}", named, limits)
    yield from without_words(file.folder, named)


def read_archive(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """The documents of an archive's files."""
    yield from (read_zip if file.kind == "zip" else read_tar)(file, limits, read_file)


def read_pdf(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """The text of a PDF, page after page."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(file.open_raw() if file.raw else str(file.path), autoclose=True)
    except pypdfium2.PdfiumError as problem:
        locked = "password" in str(problem).lower() or "security" in str(problem).lower()
        raise Unreadable("encrypted PDF" if locked else "broken PDF", str(problem)) from None
    broken: list[int] = []
    try:
        found = False
        for item in documents_of(_pdf_pages(document, broken), file.name, limits):
            found = True
            yield item
        if not found and broken:
            raise Unreadable("broken PDF", f"none of {len(document)} pages can be read")
        if not found:
            raise Unreadable("no text in the PDF", "scanned pictures need text recognition first")
        for number in broken:
            yield SetAside(f"{file.name}#page {number}", "broken page")
    finally:
        document.close()


def _pdf_pages(document: Any, broken: list[int]) -> Iterator[str]:
    """The text of the pages, one string each, blank lines between; the numbers of broken ones go to `broken`."""
    import pypdfium2

    first = True
    for number in range(len(document)):
        try:
            page = document[number]
            words = page.get_textpage()
        except pypdfium2.PdfiumError:
            broken.append(number + 1)
            continue
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
    "text": read_text, "jsonl": read_jsonl, "json": read_json, "html": read_html, "pdf": read_pdf, "table": read_table,
    "parquet": read_parquet, "arrow": read_arrow, "warc": read_warc, "epub": read_epub, "docx": read_docx,
    "picture": read_medium, "sound": read_medium, "captions": read_media_table, "tar": read_archive,
    "zip": read_archive,
}  # fmt: skip
