"""Everything at a path without the items of tests, in one file: what the step `decontaminate` does to a corpus."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.files import explain_disk_error
from athanor.base.progress import SilentProgress
from athanor.base.records import encode_line, encode_record, open_text, write_records
from athanor.data.copies.decontaminate import (
    DecontaminateSettings,
    Found,
    all_items,
    clean_document,
    report_paraphrases,
)  # fmt: skip
from athanor.data.copies.overlap import Runs
from athanor.data.copies.verdicts import write_verdicts
from athanor.data.document import Document
from athanor.data.funnel import Funnel
from athanor.data.reading.items import ReadLimits
from athanor.data.reading.survey import Survey, read_path

DOCUMENTS = "documents.jsonl"
STAGE = "test items"


def decontaminate_path(
    path: str, folder: Path, settings: DecontaminateSettings, limits: ReadLimits, progress: SilentProgress
) -> dict[str, Any]:
    """Write the documents of a path to documents.jsonl without what the tests ask.

    Also writes contaminated.jsonl, items.jsonl, paraphrases.jsonl and funnel.json, as the step does, and
    set_aside.jsonl (what cannot be read).

    Returns:
        documents, kept, touched, items, items_found, items_too_short, paraphrases.

    Raises:
        AthanorError: no test items, nothing that can be read, or nothing is left.
    """
    items = all_items(settings, {})
    runs, funnel, found, survey = Runs(items, settings.run), Funnel(STAGE), Found(), Survey()
    folder.mkdir(parents=True)
    written = 0
    try:
        with open_text(folder / "set_aside.jsonl", "w") as aside, open(folder / DOCUMENTS, "wb") as kept:
            for item in read_path(path, limits, survey, progress):
                if not isinstance(item, Document):
                    row = {"source": item.source, "reason": item.reason, "detail": item.detail}
                    aside.write(encode_record(row))
                    continue
                for piece in clean_document(item, runs, settings, funnel, STAGE, found):
                    kept.write(encode_line(piece.to_row()))
                    written += 1
    except OSError as problem:
        raise explain_disk_error(problem, folder) from problem
    if not survey.documents:
        raise survey.explain(path)
    if not written:
        raise AthanorError("nothing is left of the documents", fix="a --share up to 1 finds less")
    near = report_paraphrases(lambda: _again(path, limits), runs, settings, found, folder, progress)
    write_records(folder / "contaminated.jsonl", found.rows)
    write_verdicts(folder, found.verdicts(items))
    funnel.write(folder)
    return {
        "documents": survey.documents, "kept": written, "touched": len({row["document"] for row in found.rows}),
        "items": len(items), "items_found": len(found.items), "items_too_short": runs.skipped, "paraphrases": near,
    }  # fmt: skip


def _again(path: str, limits: ReadLimits) -> Iterator[Document]:
    for item in read_path(path, limits, Survey(), SilentProgress()):
        if isinstance(item, Document):
            yield item
