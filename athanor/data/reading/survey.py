"""Reading a path without a recipe: its documents one after another, and a count of what was read and set aside."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.progress import SilentProgress
from athanor.base.records import encode_record, open_text
from athanor.data.document import Document
from athanor.data.funnel import Stage, describe_reasons
from athanor.data.reading.items import ReadLimits, SetAside, advise
from athanor.data.reading.kinds import ALLOWED
from athanor.data.reading.readers import read_file
from athanor.data.reading.sources import find_sources
from athanor.data.writing import open_writer, unfinished

MEGA = 1e6


@dataclass
class Survey:
    """What was met: files, documents, bytes of text, documents by kind, and what was set aside, with examples."""

    files: int = 0
    documents: int = 0
    text_bytes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    aside: Stage = field(default_factory=lambda: Stage("read"))

    def take(self, document: Document) -> int:
        """Count a document; its bytes."""
        size = document.bytes
        self.documents += 1
        self.text_bytes += size
        self.kinds[document.kind] += 1
        return size

    def as_row(self) -> dict[str, Any]:
        """The counts for machines, the most frequent reason first."""
        reasons = self.aside.as_row()["reasons"]
        rows = [
            {"reason": reason, "count": entry["count"], "examples": entry["examples"]}
            for reason, entry in reasons.items()
        ]
        return {
            "files": self.files, "documents": self.documents, "text_bytes": self.text_bytes,
            "kinds": dict(sorted(self.kinds.items())), "set_aside": rows,
        }  # fmt: skip

    def explain(self, path: str) -> AthanorError:
        """The error when no document was found."""
        reasons = [(reason, entry["count"]) for reason, entry in self.aside.as_row()["reasons"].items()]
        what = f"nothing in {path} can be read: {describe_reasons(reasons)}" if reasons else f"{path} is empty"
        return AthanorError(what, allowed=ALLOWED, fix=advise(reasons))


def read_path(path: str, limits: ReadLimits, survey: Survey, progress: SilentProgress) -> Iterator[Document | SetAside]:
    """Every document of a path, and what is set aside, counted in `survey`.

    Raises:
        AthanorError: there is nothing of that name.
    """
    files = list(find_sources(path))
    progress.start("reading", total=sum(file.size for file in files if not file.problem) / MEGA, unit="MB")
    for file in files:
        survey.files += 1
        shown, met = 0, False
        for item in read_file(file, limits):
            met = True
            if isinstance(item, SetAside):
                survey.aside.drop(item.reason, item.size, item.source, item.detail)
            else:
                step = min(survey.take(item), file.size - shown)
                shown += step
                progress.advance(step / MEGA)
            yield item
        if not met:
            nothing = SetAside(file.name, "nothing usable in it", size=file.size)
            survey.aside.drop(nothing.reason, nothing.size, nothing.source)
            yield nothing
        progress.advance(0 if file.problem else (file.size - shown) / MEGA)
    progress.finish(documents=survey.documents)


def convert(path: str, out: Path, aside: Path | None, limits: ReadLimits, progress: SilentProgress) -> Survey:
    """Write every document of a path into one file, and what was set aside into another where that is wanted.

    Raises:
        AthanorError: there is nothing to read, nothing of it can be read, or a file cannot be written.
    """
    survey = Survey()
    if aside and aside.absolute() == out.absolute():
        raise AthanorError(f"{out} is to hold the documents and what is set aside", fix="choose two names")
    with ExitStack() as open_files:
        writer = open_files.enter_context(open_writer(out))
        others = (
            open_files.enter_context(open_text(open_files.enter_context(unfinished(aside)), "w")) if aside else None
        )
        for item in read_path(path, limits, survey, progress):
            if isinstance(item, Document):
                writer.write(item)
            elif others is not None:
                others.write(encode_record({"source": item.source, "reason": item.reason, "detail": item.detail}))
        if not survey.documents:
            raise survey.explain(path)
    return survey
