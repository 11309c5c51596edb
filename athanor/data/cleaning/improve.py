"""What `clean` does to each document by itself: repaired, with its language, judged, masked and signed, piece by piece.

The result depends on the piece alone, so any worker of `base.workers` may do it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import orjson

from athanor.base.files import hash_bytes
from athanor.base.records import encode_line
from athanor.data.cleaning.boilerplate import drop_boilerplate
from athanor.data.cleaning.facts import Facts
from athanor.data.cleaning.filters import judge, judge_pages
from athanor.data.cleaning.language import guess_languages, languages_of
from athanor.data.cleaning.personal import mask_personal, may_be_personal
from athanor.data.cleaning.repair import repair_text, repair_texts
from athanor.data.cleaning.settings import CleanSettings
from athanor.data.copies.deduplicate import Signed, sign
from athanor.data.document import Document
from athanor.data.funnel import Funnel
from athanor.data.lines import Piece

STAGES = ("repair", "language", "quality")


@dataclass
class Improved:
    """The documents of a piece that stay.

    Attributes:
        names: id and source of each.
        lines: each as a line of JSON.
        hashes: of their normalised texts.
        languages: of each.
        signed: their keys and sizes.
        funnel: why the others do not.
        masked: how often what was masked.
        bytes_in: text that came in.
    """

    signed: Signed
    names: list[tuple[str, str]] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    funnel: Funnel = field(default_factory=lambda: Funnel(*STAGES))
    masked: Counter[str] = field(default_factory=Counter)
    bytes_in: int = 0


def improver(settings: CleanSettings) -> Callable[[Piece], Improved]:
    """`improve` with its settings, ready for workers."""
    return partial(improve, settings)


def improve(settings: CleanSettings, piece: Piece) -> Improved:
    """The documents of a piece, improved."""
    rows = piece.read(lambda data: [orjson.loads(line) for line in data.split(b"\n") if line])
    documents = [Document.from_row(row) for row in rows]
    funnel, masked = Funnel(*STAGES), Counter[str]()
    better = list(_improved(documents, settings, funnel, masked))
    texts = [document.text for document in better]
    return Improved(
        sign(texts, settings.copy_threshold, settings.copy_run),
        names=[(document.id, document.source) for document in better],
        lines=[encode_line(document.to_row()) for document in better],
        hashes=[normalised_hash(text) for text in texts],
        languages=[document.language or "und" for document in better],
        funnel=funnel, masked=masked, bytes_in=sum(document.bytes for document in documents),
    )  # fmt: skip


def _improved(
    documents: Sequence[Document], settings: CleanSettings, funnel: Funnel, masked: Counter[str]
) -> Iterator[Document]:
    repaired = _repaired(documents, settings, funnel)
    stage = funnel["quality"]
    nothing = [False] * len(repaired)
    may_be = may_be_personal([one.text for one in repaired]) if settings.mask_personal_data else nothing
    for document, reason, personal in zip(repaired, _reasons(repaired, settings), may_be, strict=True):
        stage.enter(document.bytes)
        if reason is not None:
            stage.drop(reason, document.bytes, document.source, document.text)
            continue
        if personal:
            text, counts = mask_personal(document.text, code=document.kind == "code")
            masked.update(counts)
            document = document.with_text(text)
        stage.leave(document.bytes)
        yield document


def judge_one(document: Document, settings: CleanSettings) -> str | None:
    """Why a document by itself does not pass repair, language and quality; None where it does."""
    funnel = Funnel(*STAGES)
    for _ in _improved([document], settings, funnel, Counter()):
        return None
    return funnel.reasons()[0][0]


def _repaired(documents: Sequence[Document], settings: CleanSettings, funnel: Funnel) -> list[Document]:
    """The documents repaired, with their languages; without those that are empty or of a language not wanted."""
    stage, left = funnel["repair"], []
    for document, text in zip(documents, repair_texts([document.text for document in documents]), strict=True):
        stage.enter(document.bytes)
        if settings.drop_boilerplate and document.kind in ("prose", "page"):
            text = repair_text(drop_boilerplate(text)[0])
        if text:
            left.append(document.with_text(text))
            stage.leave(left[-1].bytes)
        else:
            stage.drop("nothing left after repair", document.bytes, document.source)
    tell = languages_of if settings.tell == "many" else guess_languages
    unknown = [number for number, document in enumerate(left) if not document.language]
    for number, language in zip(unknown, tell([left[number].text for number in unknown]), strict=True):
        left[number] = left[number].with_language(language)
    stage, wanted = funnel["language"], []
    for document in left:
        stage.enter(document.bytes)
        if settings.languages and document.language not in settings.languages:
            reason = f"language {document.language} not wanted (languages)"
            stage.drop(reason, document.bytes, document.source, document.text)
        else:
            stage.leave(document.bytes)
            wanted.append(document)
    return wanted


def _reasons(documents: list[Document], settings: CleanSettings) -> list[str | None]:
    """Why each document is dropped, None where it stays."""
    if settings.rules == "published":
        return judge_pages(documents, settings.published, settings.chinese, settings.filters)
    return [judge(Facts(document), settings.filters) for document in documents]


def normalised_hash(text: str) -> str:
    """Hash of the text without regard to case and blanks: two documents with the same hash are exact copies."""
    return hash_bytes(" ".join(text.lower().split()).encode())
