"""Books in EPUB (2 and 3): the chapters in reading order, as text.

An EPUB is a ZIP archive: META-INF/container.xml names the package document, whose spine lists the chapters (EPUB 3.3,
sections 4 and 5).
"""

import posixpath
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from athanor.data.document import Document
from athanor.data.reading.decode import MARKS, Unreadable
from athanor.data.reading.html import find_codec, whole_text
from athanor.data.reading.items import ReadLimits, SetAside, documents_of
from athanor.data.reading.packages import Package, elements
from athanor.data.reading.sources import SourceFile

CONTAINER, ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
CHAPTERS = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")
PROLOG = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([-\w]+)[\"']")
EMPTY = re.compile(r"<(title|script|style|textarea|iframe|noscript)\b([^<>]*)/>", re.IGNORECASE)


def read_epub(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """The text of a book, chapter after chapter; its title and author in the facts."""
    with file.open() as stream:
        package = Package(stream, "EPUB")
        root = next((a["full-path"] for name, a, _ in _elements(package, CONTAINER) if name == "rootfile"), None)
        if root is None:
            raise Unreadable("broken EPUB", f"{CONTAINER} names no book")
        book = _elements(package, root)
        chapters = _chapters(book, posixpath.dirname(root))
        if locked := _encrypted(package) & set(chapters):
            raise Unreadable("encrypted EPUB", f"{len(locked)} of {len(chapters)} chapters")
        facts = _facts(book)
        found = False
        for item in documents_of(_texts(package, chapters), file.name, limits, **facts):
            found = True
            yield item
    if not found:
        raise Unreadable("no text in the EPUB")


def _elements(package: Package, part: str) -> list[tuple[str, dict[str, str], str]]:
    return elements(part, package.read(part))


def _chapters(book: list[tuple[str, dict[str, str], str]], folder: str) -> list[str]:
    """The parts with the book's text, in reading order, without its table of contents."""
    parts = {
        attributes["id"]: posixpath.normpath(posixpath.join(folder, unquote(attributes["href"])))
        for name, attributes, _ in book
        if name == "item" and {"id", "href"} <= attributes.keys() and _is_chapter(attributes)
    }
    spine = [attributes for name, attributes, _ in book if name == "itemref"]
    named = [row.get("idref", "") for row in spine if row.get("linear", "yes") != "no"]
    return [parts[name] for name in dict.fromkeys(named) if name in parts]


def _is_chapter(item: dict[str, str]) -> bool:
    return item.get("media-type", CHAPTERS[0]) in CHAPTERS and "nav" not in item.get("properties", "").split()


def _encrypted(package: Package) -> set[str]:
    """The parts that META-INF/encryption.xml lists; fonts are often obfuscated in books that are free to read."""
    if ENCRYPTION not in package.names:
        return set()
    return {unquote(row.get("URI", "")) for name, row, _ in _elements(package, ENCRYPTION) if name == "CipherReference"}


def _facts(book: list[tuple[str, dict[str, str], str]]) -> dict[str, Any]:
    """Title and author, where the book states them."""
    stated = {"title": "title", "creator": "author"}
    facts: dict[str, Any] = {}
    for name, _, text in book:
        if name in stated and text:
            facts.setdefault(stated[name], " ".join(text.split()))
    return facts


def _texts(package: Package, chapters: list[str]) -> Iterator[str]:
    """The text of the chapters, a blank line between them."""
    first = True
    for part in chapters:
        if part not in package.names:
            continue  # books list chapters that a seller's sample leaves out
        text = whole_text(_markup(package.read(part)))
        if text:
            yield text if first else "\n\n" + text
            first = False


def _markup(data: bytes) -> str:
    """A chapter's XHTML as an HTML parser takes it: <title/> would swallow the text behind it."""
    marked = next((encoding for mark, encoding in MARKS if data.startswith(mark)), None)
    stated = PROLOG.match(data)
    encoding = marked or (find_codec(stated.group(1).decode()) if stated else None) or "utf-8"
    return EMPTY.sub(r"<\1\2></\1>", data.decode(encoding, errors="replace"))
