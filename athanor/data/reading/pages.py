"""HTML pages: from bytes to the main text and its facts."""

import io
from collections.abc import Iterator
from typing import Any

from athanor.data.document import Document
from athanor.data.reading.decode import Unreadable, find_encoding
from athanor.data.reading.html import declared_encoding, main_text
from athanor.data.reading.items import ReadLimits, SetAside, documents_of
from athanor.data.reading.sources import SourceFile

LARGEST_PAGE = 64_000_000  # bytes of HTML parsed at once


def read_html(file: SourceFile, limits: ReadLimits) -> Iterator[Document | SetAside]:
    """The main text of a page, its title in the facts."""
    with file.open() as stream:
        data = stream.read(LARGEST_PAGE + 1)
    yield from documents_of_page(data, None, file.name, limits)


def documents_of_page(
    data: bytes, encoding: str | None, name: str, limits: ReadLimits, **meta: Any
) -> Iterator[Document | SetAside]:
    """The documents of a page whose encoding may be known from elsewhere."""
    if len(data) > LARGEST_PAGE:
        raise Unreadable("page too large", f"more than {LARGEST_PAGE} bytes")
    if encoding is None:
        encoding = declared_encoding(data) or find_encoding(lambda: io.BytesIO(data))
    # The HTML standard decodes with replacement; the clean step drops pages with many replaced characters.
    title, text = main_text(data.decode(encoding, errors="replace"))
    yield from documents_of([text], name, limits, kind="page", **({"title": title} if title else {}), **meta)
