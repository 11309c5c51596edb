"""Web archives (WARC, ISO 28500): the pages they hold, each with its address.

Of an archive's records, responses, resources and conversions (the plain text of Common Crawl's WET files) are read;
requests, metadata and records that only point to an earlier copy hold no text of their own. After damage, such as a
record whose stated length is wrong, reading goes on with the next line that begins a record.
"""

import io
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO

from athanor.data.document import Document
from athanor.data.reading.decode import BLOCK, MARKS, Unreadable, find_encoding
from athanor.data.reading.html import find_codec
from athanor.data.reading.items import ReadLimits, SetAside, documents_of
from athanor.data.reading.pages import LARGEST_PAGE, documents_of_page
from athanor.data.reading.sources import SourceFile

WITH_TEXT = ("response", "resource", "conversion")
HTML = ("text/html", "application/xhtml+xml")
LOOKS_LIKE_HTML = re.compile(
    rb"\s*(?:<!--.{0,400}?-->\s*)?<(?:!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
CRAWLERS_OWN = ("metadata:", "urn:", "dns:", "whois:")  # schemes of what a crawler notes about itself
FIRST_LINE = re.compile(rb"WARC/\d")
STATUS = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})\b")
CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")
BLANK_LINE = re.compile(rb"\r?\n\r?\n")
LONGEST_LINE = 1 << 16  # bytes, of a record's header
MOST_LINES = 1_000  # of a record's header
HTTP_HEADER = 1 << 20  # bytes that an HTTP header may add to a page

Headers = Mapping[str, str]  # by names in lower case


@dataclass(frozen=True, slots=True)
class Record:
    """One record.

    Attributes:
        number: its place in the archive, from 1.
        headers: its WARC headers.
        data: its block; of a type without text or of a block longer than a page, only a beginning.
        size: bytes of the block as stated.
        complete: whether `data` is all of it.
    """

    number: int
    headers: Headers
    data: bytes
    size: int
    complete: bool


def read_warc(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """The pages of a web archive, named by the number of their record, with `url` and `date` in the facts."""
    number = 0
    with file.open() as stream:
        for item in read_records(stream):
            if isinstance(item, Record):
                number = item.number
                yield from _documents(item, f"{file.name}#{number}", limits)
            else:
                detail = f"{item} bytes that are no record, behind record {number}"
                yield SetAside(f"{file.name}#{number}-{number + 1}", "broken WARC", detail, item)
    if number == 0:
        raise Unreadable("broken WARC", "no record in it")


def read_records(stream: IO[bytes]) -> Iterator[Record | int]:
    """The records of a decompressed archive in order; where it is damaged, how many bytes were passed over."""
    number = lost = 0
    while line := stream.readline(LONGEST_LINE):
        headers = _read_headers(stream) if FIRST_LINE.match(line) else None
        if headers is None:
            if line.strip() or lost:
                lost += len(line)
            continue
        if lost:
            yield lost
            lost = 0
        number += 1
        size = int(headers["content-length"])
        most = LARGEST_PAGE + HTTP_HEADER if headers.get("warc-type", "").lower() in WITH_TEXT else 0
        data = stream.read(min(size, most))
        passed = len(data)
        while passed < size and (block := stream.read(min(BLOCK, size - passed))):
            passed += len(block)
        yield Record(number, headers, data, size, len(data) == min(size, most))
    if lost:
        yield lost


def _read_headers(stream: IO[bytes]) -> Headers | None:
    """The headers behind a record's first line, None when they are no headers or state no length."""
    lines: list[bytes] = []
    while (line := stream.readline(LONGEST_LINE)).strip():
        lines.append(line)
        if len(lines) > MOST_LINES or len(line) == LONGEST_LINE:
            return None
    headers = _parse_headers(lines)
    return headers if headers.get("content-length", "").isdecimal() else None


def _parse_headers(lines: list[bytes]) -> Headers:
    """Headers by names in lower case; a line that begins with a blank continues the one before it."""
    headers: dict[str, str] = {}
    name = ""
    for line in lines:
        text = line.decode("utf-8", errors="replace")
        if text[:1] in " \t" and name:
            headers[name] += " " + text.strip()
            continue
        name, _, value = text.partition(":")
        name = name.strip().lower()
        headers.setdefault(name, value.strip())
    return headers


def _documents(record: Record, name: str, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """The documents of one record, or why there are none; nothing for a record of a type without text."""
    if record.headers.get("warc-type", "").lower() not in WITH_TEXT:
        return
    url = record.headers.get("warc-target-uri", "").strip("<> ")
    try:
        if url.startswith(CRAWLERS_OWN):
            raise Unreadable("a crawler's own note")
        if not record.complete:
            raise Unreadable("truncated record", f"{len(record.data)} of {record.size} bytes")
        headers, data = record.headers, record.data
        if headers.get("content-type", "").lower().startswith("application/http"):
            headers, data = _response(data)
        kind, encoding = _content_type(headers.get("content-type", ""))
        date = record.headers.get("warc-date", "")
        meta = {name: value for name, value in (("url", url), ("date", date)) if value}
        if kind in HTML or (not kind and LOOKS_LIKE_HTML.match(data)):
            marked = any(data.startswith(mark) for mark, _ in MARKS)  # a byte order mark is stronger than the header
            yield from documents_of_page(data, None if marked else encoding, name, limits, **meta)
        elif kind == "text/plain":
            encoding = encoding or find_encoding(lambda: io.BytesIO(data))
            yield from documents_of([data.decode(encoding, errors="replace")], name, limits, **meta)
        else:
            raise Unreadable(f"kind not read: {kind or 'unknown'}")
    except Unreadable as problem:
        yield SetAside(name, problem.reason, f"{url} {problem.detail}".strip(), record.size)


def _response(data: bytes) -> tuple[Headers, bytes]:
    """(headers, decoded body) of an HTTP response.

    Raises:
        Unreadable: it is none, or not a page that was delivered.
    """
    status = STATUS.match(data)
    if not status:
        raise Unreadable("no HTTP response")
    if status.group(1) != b"200":
        raise Unreadable(f"HTTP status {status.group(1).decode()}")
    end = BLANK_LINE.search(data)
    if not end:
        raise Unreadable("no HTTP response", "its header has no end")
    headers = _parse_headers(data[: end.start()].split(b"\n")[1:])
    return headers, _decoded(data[end.end() :], headers)


def _content_type(value: str) -> tuple[str, str | None]:
    """(kind, encoding) of a Content-Type, in lower case; the encoding None when it is not stated or not known."""
    kind, _, rest = value.partition(";")
    stated = re.search(r"charset\s*=\s*[\"']?\s*([-\w]+)", rest, re.IGNORECASE)
    return kind.strip().lower(), find_codec(stated.group(1)) if stated else None


def _decoded(data: bytes, headers: Headers) -> bytes:
    """A response's body without its transfer and content encodings.

    Archives often hold bodies that were decoded already under their old headers: such a body is taken as it is.

    Raises:
        Unreadable: the encoding is broken, unknown, or unpacks to more than a page may have.
    """
    if "chunked" in headers.get("transfer-encoding", "").lower():
        data = _dechunked(data)
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _inflated(data, encoding)
    if encoding not in ("", "identity", "none", "utf-8"):
        raise Unreadable(f"content encoding not read: {encoding[:20]}")
    return data


def _dechunked(data: bytes) -> bytes:
    """The chunks of a body joined (RFC 9112, 7.1); the body itself where it has none."""
    parts: list[bytes] = []
    place = 0
    while match := CHUNK.match(data, place):
        size = int(match.group(1), 16)
        if size == 0:
            return b"".join(parts)
        parts.append(data[match.end() : match.end() + size])
        place = match.end() + size
        place += 2 if data[place : place + 2] == b"\r\n" else 1
    return b"".join(parts) if parts else data


def _inflated(data: bytes, encoding: str) -> bytes:
    """A body that was compressed with zlib; at most one byte more than a page may have."""
    windows = (31,) if encoding != "deflate" else (15, -15)  # servers send deflate with and without zlib's frame
    for window in windows:
        unpacking = zlib.decompressobj(window)
        try:
            unpacked = unpacking.decompress(data, LARGEST_PAGE + 1)
        except zlib.error:
            continue
        if not unpacking.eof and len(unpacked) <= LARGEST_PAGE:
            raise Unreadable("truncated content encoding")
        return unpacked
    return data
