"""What readers give: documents, and what they set aside; and what all readers of rows do with a row."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from athanor.base.settings import Settings
from athanor.data.document import Document, make_document
from athanor.data.reading.decode import Unreadable
from athanor.data.split import split_text

TEXT_FIELDS = ("text", "content", "body")
CONVERSATIONS = ("messages", "conversations")
SURROGATES = re.compile("[\ud800-\udfff]")


class ReadLimits(Settings):
    """What the readers need to know."""

    max_document_bytes: int
    max_line_bytes: int
    text_field: str | None = None


@dataclass(frozen=True, slots=True)
class SetAside:
    """A file or row that is not used: its name, why, where exactly, and about how many bytes it has."""

    source: str
    reason: str
    detail: str = ""
    size: int = 0


Item = Document | SetAside


def find_text_field(names: Iterable[str], text_field: str | None) -> str:
    """The field that holds the text of rows with these fields.

    Raises:
        Unreadable: there is none, or the rows are conversations.
    """
    names = list(names)
    wanted = (text_field,) if text_field else TEXT_FIELDS
    found = next((name for name in wanted if name in names), None)
    if found is not None:
        return found
    if any(name in names for name in CONVERSATIONS):
        raise Unreadable("a conversation (field messages), not a document: it is for fine-tuning")
    raise Unreadable(f"no field {' or '.join(wanted)}", f"has {', '.join(map(str, names[:8]))}")


def text_of_row(row: Mapping[str, Any], field: str) -> tuple[str, dict[str, Any]]:
    """The text of a row, and its facts.

    Raises:
        Unreadable: there is no text in the field.
    """
    text = row[field]
    if not isinstance(text, str):
        raise Unreadable(f"field {field} is not text")
    if not text.strip():
        raise Unreadable("empty text")
    if not text.isascii() and SURROGATES.search(text):
        raise Unreadable("half of a surrogate pair in the text")
    return text, {"url": row["url"]} if isinstance(row.get("url"), str) else {}


def documents_of_row(
    row: Mapping[str, Any], field: str, name: str, where: str, limits: ReadLimits
) -> Iterator[Document | SetAside]:
    """The documents of one row called `name`; `where` tells a person where in the file it stands."""
    try:
        text, meta = text_of_row(row, field)
    except Unreadable as problem:
        size = len(row[field]) if isinstance(row[field], str) else 0
        yield SetAside(name, problem.reason, f"{where} {problem.detail}".strip(), size)
        return
    yield from documents_of([text], name, limits, **meta)


def documents_of(pieces: Iterable[str], name: str, limits: ReadLimits, **meta: Any) -> Iterator[Document | SetAside]:
    """Documents of a stream of text; parts are named `name#1` … when there is more than one."""
    parts = split_text(pieces, limits.max_document_bytes)
    first = next(parts, None)
    if first is None:
        return
    second = next(parts, None)
    if second is None:
        yield _document(first, name, meta)
        return
    mark = "/" if "#" in PurePosixPath(name).name else "#"
    yield _document(first, f"{name}{mark}1", meta)
    yield _document(second, f"{name}{mark}2", meta)
    for number, part in enumerate(parts, 3):
        yield _document(part, f"{name}{mark}{number}", meta)


def _document(part: str, name: str, meta: dict[str, Any]) -> Document | SetAside:
    if part.strip("\x00 \t\r\n\u3000\ufeff"):
        return make_document(part, name, **meta)
    return SetAside(name, "empty text", size=len(part))
