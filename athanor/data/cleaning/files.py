"""Everything at a path, cleaned document by document into one file: what `clean` does, without copies and held-out."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.files import explain_disk_error
from athanor.base.progress import SilentProgress
from athanor.base.records import encode_line, encode_record, open_text
from athanor.base.workers import current
from athanor.data.cleaning.improve import STAGES, improver
from athanor.data.cleaning.settings import CleanSettings
from athanor.data.document import Document
from athanor.data.funnel import Funnel, describe_reasons
from athanor.data.lines import BLOCK, Piece
from athanor.data.reading.items import ReadLimits
from athanor.data.reading.survey import Survey, read_path

DOCUMENTS = "documents.jsonl"


def clean_path(
    path: str, folder: Path, settings: CleanSettings, limits: ReadLimits, progress: SilentProgress
) -> dict[str, Any]:
    """Write the documents of a path that pass to documents.jsonl, repaired and masked, in order.

    Also writes funnel.json (why others do not pass, with examples) and set_aside.jsonl (what cannot be read).

    Returns:
        documents, kept, set_aside, languages, masked, reasons.

    Raises:
        AthanorError: nothing can be read, or nothing passes.
    """
    folder.mkdir(parents=True)
    survey, funnel = Survey(), Funnel(*STAGES)
    masked, languages = Counter[str](), Counter[str]()
    try:
        with open_text(folder / "set_aside.jsonl", "w") as aside, open(folder / DOCUMENTS, "wb") as kept:
            read = read_path(path, limits, survey, progress)
            pieces = _pieces(read, path, partial(_write_aside, aside))
            for found in current().map(improver(settings), pieces, Piece.describe):
                kept.writelines(found.lines)
                funnel.add(found.funnel)
                masked.update(found.masked)
                languages.update(found.languages)
    except OSError as problem:
        raise explain_disk_error(problem, folder) from problem
    if not survey.documents:
        raise survey.explain(path)
    if not languages:
        raise AthanorError(
            f"none of {survey.documents} documents passed: {describe_reasons(funnel.reasons())}",
            fix="--rules own is patient with files that a person chose; or name better documents",
        )
    funnel.write(folder)
    set_aside = sum(row["count"] for row in survey.as_row()["set_aside"])
    return {
        "documents": survey.documents, "kept": languages.total(), "set_aside": set_aside,
        "languages": dict(languages.most_common()), "masked": dict(sorted(masked.items())),
        "reasons": dict(funnel.reasons()),
    }  # fmt: skip


def _write_aside(file: Any, item: Any) -> None:
    file.write(encode_record({"source": item.source, "reason": item.reason, "detail": item.detail}))


def _pieces(items: Iterator[Any], path: str, set_aside: Any) -> Iterator[Piece]:
    """Documents as pieces of lines, as the workers take them."""
    lines: list[bytes] = []
    size = before = 0
    for item in items:
        if not isinstance(item, Document):
            set_aside(item)
            continue
        lines.append(encode_line(item.to_row()))
        size += len(lines[-1])
        if size >= BLOCK:
            yield Piece(Path(path), b"".join(lines), before)
            lines, size, before = [], 0, before + size
    if lines:
        yield Piece(Path(path), b"".join(lines), before)
