"""The record that flows through the corpus steps: one text and where it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from athanor.base.files import hash_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text, its origin, and what is known about it.

    Attributes:
        id: short hash of source and text: the same document has the same id on every machine.
        text: the text itself, any Unicode but lone surrogates.
        source: where it came from, for people: "notes/today.md", "rows.jsonl#12", "python:Lib/json/decoder.py#code".
        language: "en", "zh" … as far as known; None before it was looked at.
        meta: small facts; `meta["kind"]` is "prose", "page" (from HTML), "code" or "caption" (of a picture or sound).
        media: pictures and sounds that belong to the text, as references: `kind` ("picture", "sound"), `path` (and
            `member`, `offset` in an archive, `row`, `column` in a table), `bytes`, `width` and `height` or `seconds`.
    """

    id: str
    text: str
    source: str
    language: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    media: tuple[Mapping[str, Any], ...] = ()
    _bytes: int | None = field(default=None, init=False, repr=False, compare=False)  # asked for at every stage

    @property
    def kind(self) -> str:
        return str(self.meta.get("kind", "prose"))

    @property
    def bytes(self) -> int:
        """Size of the text in UTF-8."""
        if self._bytes is None:
            object.__setattr__(self, "_bytes", text_bytes(self.text))
        assert self._bytes is not None
        return self._bytes

    def with_text(self, text: str) -> "Document":
        """The same document with another text; it keeps its id, which names what was read."""
        if text == self.text:
            return self
        return Document(
            id=self.id, text=text, source=self.source, language=self.language, meta=self.meta, media=self.media
        )

    def with_language(self, language: str | None) -> "Document":
        """The same document, its language told."""
        told = Document(
            id=self.id, text=self.text, source=self.source, language=language, meta=self.meta, media=self.media
        )
        object.__setattr__(told, "_bytes", self._bytes)
        return told

    def to_row(self) -> dict[str, Any]:
        """The document as one JSON object, empty fields left out."""
        row: dict[str, Any] = {"id": self.id, "text": self.text, "source": self.source}
        if self.language is not None:
            row["language"] = self.language
        if self.meta:
            row["meta"] = dict(self.meta)
        if self.media:
            row["media"] = [dict(item) for item in self.media]
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Document":
        """The document of a row written by `to_row`."""
        return cls(
            id=row["id"], text=row["text"], source=row["source"], language=row.get("language"),
            meta=row.get("meta", {}), media=tuple(row.get("media", ())),
        )  # fmt: skip


def make_document(text: str, source: str, kind: str = "prose", language: str | None = None, **meta: Any) -> Document:
    """A new document with its id."""
    return document_of_facts(text, source, {"kind": kind, **meta}, language)


def document_of_facts(text: str, source: str, meta: Mapping[str, Any], language: str | None = None) -> Document:
    """A new document with its id, whose facts may have any names, such as those of a stranger's columns."""
    name = hash_bytes(f"{source}\0{text}".encode())[:16]
    return Document(id=name, text=text, source=source, language=language, meta=meta)


def text_bytes(text: str) -> int:
    """Size of a text in UTF-8, without encoding it when it is plain ASCII."""
    return len(text) if text.isascii() else len(text.encode())
