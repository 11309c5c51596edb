"""What readers give: documents, and what they set aside; and what all readers of rows do with a row."""

import gzip
import json
import lzma
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import zstandard

from athanor.base.settings import Settings
from athanor.data.document import Document, document_of_facts
from athanor.data.reading.decode import Unreadable
from athanor.data.split import split_text

BROKEN = (  # of compression
    EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, zipfile.BadZipFile, lzma.LZMAError
)  # fmt: skip
TEXT_FIELDS = ("text", "content", "body")
LONGEST_CHARACTER = 4  # bytes in UTF-8
CONVERSATIONS = ("messages", "conversations")


class ReadLimits(Settings):
    """What the readers need to know: the fields of the same names of the step `read`, and

    Attributes:
        whole_documents: a row that holds a document as this program writes it keeps its name and source.
    """

    max_document_bytes: int
    max_line_bytes: int
    text_field: str | None = None
    keep_fields: tuple[str, ...] = ()
    whole_documents: bool = False


@dataclass(frozen=True, slots=True)
class SetAside:
    """A file or row that is not used: its name, why, where exactly, and about how many bytes it has."""

    source: str
    reason: str
    detail: str = ""
    size: int = 0


Item = Document | SetAside


def find_text_field(names: Iterable[str], text_field: str | None) -> str:
    """The field that holds the text of rows with these fields, small and capital letters alike where it must be.

    Raises:
        Unreadable: there is none, or the rows are conversations.
    """
    names = list(names)
    wanted = (text_field,) if text_field else TEXT_FIELDS
    found = next((name for name in wanted if name in names), None)
    if found is None:  # Text, BODY: spreadsheets have their own taste
        found = next((name for one in wanted for name in names if name.lower() == one.lower()), None)
    if found is not None:
        return found
    if any(name in names for name in CONVERSATIONS):
        raise Unreadable("a conversation (field messages), not a document: it is for fine-tuning")
    raise Unreadable(f"no field {' or '.join(wanted)}", f"has {', '.join(map(str, names[:8]))}")


def advise(reasons: Iterable[tuple[str, int]]) -> str:
    """What to do where nothing could be read, for these reasons."""
    if any(reason.startswith("no field") for reason, _ in reasons):
        return "say which field holds the text: --text-field NAME, or text_field in a recipe"
    return "name another path, or convert the files first"


def wanted_fields(field: str, limits: ReadLimits) -> tuple[str, ...]:
    """The fields of a row that are looked at, the one with the text first."""
    whole = ("id", "source", "language", "meta", "media") if limits.whole_documents else ()
    return tuple(dict.fromkeys((field, "url", *limits.keep_fields, *whole)))


def documents_of_row(
    row: Mapping[str, Any], field: str, name: str, where: str, limits: ReadLimits
) -> Iterator[Document | SetAside]:
    """The documents of one row called `name`; `where` tells a person where in the file it stands."""
    text = row[field]
    problem = _problem(text, field)
    if problem:
        yield SetAside(name, problem, where, len(text) if isinstance(text, str) else 0)
    elif limits.whole_documents and (document := _as_document(row)):
        yield document
    else:
        facts = {"url": row["url"]} if isinstance(row.get("url"), str) else {}
        facts |= {field: as_json(row[field]) for field in limits.keep_fields if row.get(field) is not None}
        if len(text) * LONGEST_CHARACTER <= limits.max_document_bytes:
            yield _document(text, name, facts)
        else:
            yield from documents_of([text], name, limits, **facts)


def _problem(text: Any, field: str) -> str | None:
    """Why a field is no text to use, None if it is."""
    if not isinstance(text, str):
        return f"field {field} is not text"
    if not text.strip():
        return "empty text"
    if not text.isascii() and _has_half_pairs(text):
        return "half of a surrogate pair in the text"
    return None


def _has_half_pairs(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _as_document(row: Mapping[str, Any]) -> Document | None:
    """The document of a row that `Document.to_row` made, or the writer of parquet; None when it is another's."""
    if not all(isinstance(row.get(name), str) for name in ("id", "text", "source")):
        return None
    whole = {name: value for name, value in row.items() if value is not None}
    try:
        for name in ("meta", "media"):
            if isinstance(whole.get(name), str):
                whole[name] = json.loads(whole[name])
    except ValueError:
        return None
    if not isinstance(whole.get("meta", {}), dict) or not isinstance(whole.get("media", []), list):
        return None
    return Document.from_row(whole)


def as_json(value: Any) -> Any:
    """A value of a table as JSON has it; what JSON does not know becomes text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): as_json(one) for name, one in value.items()}
    return [as_json(one) for one in value] if isinstance(value, list | tuple) else str(value)


def documents_of(pieces: Iterable[str], name: str, limits: ReadLimits, /, **meta: Any) -> Iterator[Document | SetAside]:
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
        return document_of_facts(part, name, {"kind": "prose", **meta})
    return SetAside(name, "empty text", size=len(part))
