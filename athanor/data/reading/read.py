"""The step `read`: files, or the text that Python carries, become documents, and a list of what could not be read."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from athanor.base.errors import AthanorError
from athanor.base.files import hash_file, hash_json, hash_stream
from athanor.base.progress import Progress
from athanor.base.records import encode_record, open_text
from athanor.base.settings import Settings
from athanor.base.workers import current
from athanor.data.document import Document
from athanor.data.funnel import Funnel, describe_reasons
from athanor.data.reading import python_text
from athanor.data.reading.decode import Unreadable
from athanor.data.reading.items import Item, advise
from athanor.data.reading.kinds import ALLOWED
from athanor.data.reading.readers import ReadLimits, SetAside, read_file
from athanor.data.reading.removed import text_hash
from athanor.data.reading.sources import SourceFile, find_sources
from athanor.data.shards import ShardWriter
from athanor.store.artifact import Artifact

PYTHON = "python:"
MEGA = 1e6
GROUP_BYTES = 1_000_000  # of files that a worker reads at once
SIMPLE = (".txt", ".md", ".html", ".htm", ".jsonl", ".json", ".csv", ".tsv", ".pdf")
PACKED_BYTES = 256_000  # of any other file: what is compressed may grow a lot


class ReadSettings(Settings):
    """What to read."""

    path: str = PYTHON
    """A folder, a file, a pattern ('notes/*.md'), an address (s3://…), or python: for the text that every Python
    installation carries."""
    text_field: str | None = None
    """The field of a row that holds the text; unset: the first of text, content, body."""
    keep_fields: tuple[str, ...] = ()
    """Other fields of a row, or columns of a table, that go into the document's facts."""
    max_document_bytes: int = Field(default=1_000_000, ge=1_000)
    """A longer text is cut into documents at paragraph, line or sentence ends."""
    max_line_bytes: int = Field(default=16_000_000, ge=1_000)
    """A longer row of a file or table is set aside."""
    max_bytes: int | None = Field(default=None, ge=1)
    """Stop after about so many bytes of text; unset: read everything."""
    without: tuple[str, ...] = ()
    """Hashes of texts to leave out; `athanor remove` and what it wrote into the store fill it in."""

    @field_validator("keep_fields")
    @classmethod
    def _not_ours(cls, fields: tuple[str, ...]) -> tuple[str, ...]:
        if "kind" in fields:
            raise ValueError("'kind' of a document is what it was read from (prose, page …): rename the field first")
        return fields


class _Intake:
    """Where everything that was read ends up: shards, set_aside.jsonl and the funnel."""

    def __init__(self, folder: Path, settings: ReadSettings, progress: Progress):
        self.settings, self.progress = settings, progress
        self.funnel = Funnel("files", "documents")
        self.shards = ShardWriter(folder, "documents")
        self.aside = open_text(folder / "set_aside.jsonl", "w")
        self.kinds: Counter[str] = Counter()
        self.without = set(settings.without)

    @property
    def full(self) -> bool:
        """Whether `max_bytes` is reached."""
        return self.settings.max_bytes is not None and self.shards.bytes >= self.settings.max_bytes

    def take(self, name: str, size: int, items: Iterable[Document | SetAside]) -> None:
        """Store one file's documents; `size` is its bytes on disk, for the progress."""
        self.funnel["files"].enter(size)
        shown, written, explained = 0, 0, False
        for item in items:
            if isinstance(item, SetAside):
                explained = explained or item.source == name
                self._set_aside(item, whole_file=item.source == name and not written)
                continue
            self._write(item)
            written += 1
            step = min(item.bytes, size - shown)
            shown += step
            self.progress.advance(step / MEGA)
            if self.full:
                break
        self.progress.advance((size - shown) / MEGA)
        if written:
            self.funnel["files"].leave(size)
        elif not explained:
            self._set_aside(SetAside(name, "nothing usable in it", size=size), whole_file=True)

    def _write(self, document: Document) -> None:
        size = document.bytes
        self.funnel["documents"].enter(size)
        if self.without and text_hash(document.text) in self.without:
            self.funnel["documents"].drop("removed (without)", size, document.source)  # no text: it is to be forgotten
            return
        self.funnel["documents"].leave(size)
        self.kinds[document.kind] += 1
        self.shards.write(document)

    def _set_aside(self, item: SetAside, whole_file: bool) -> None:
        row = {"source": item.source, "reason": item.reason}
        self.aside.write(encode_record({**row, "detail": item.detail} if item.detail else row))
        if whole_file:
            self.funnel["files"].drop(item.reason, item.size, item.source, item.detail)
        else:
            self.funnel["documents"].enter(item.size)
            self.funnel["documents"].drop(item.reason, item.size, item.source, item.detail)

    def close(self) -> None:
        self.shards.__exit__()
        self.aside.close()


def read_documents(
    settings: ReadSettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Read what `settings.path` names into documents-*.jsonl.zst, set_aside.jsonl and funnel.json.

    Raises:
        AthanorError: there is nothing to read, or nothing of it can be read.
    """
    del parents  # reading stands at the beginning
    intake = _Intake(folder, settings, progress)
    try:
        if settings.path == PYTHON:
            _read_python(intake)
        else:
            _read_files(intake)
    finally:
        intake.close()
    intake.funnel.write(folder)
    if not intake.shards.documents:
        raise _nothing_read(settings.path, intake.funnel)
    progress.finish(documents=intake.shards.documents)
    files = intake.funnel["files"]
    return {
        "files": files.documents_in, "files_read": files.documents_out,
        "documents": intake.shards.documents, "text_bytes": intake.shards.bytes,
        "set_aside": sum(count for _, count in intake.funnel.reasons()), "kinds": dict(sorted(intake.kinds.items())),
        "stopped_at_max_bytes": intake.full,
    }  # fmt: skip


def _read_files(intake: _Intake) -> None:
    settings = intake.settings
    files = list(find_sources(settings.path))
    limits = ReadLimits(
        max_document_bytes=settings.max_document_bytes, max_line_bytes=settings.max_line_bytes,
        text_field=settings.text_field, keep_fields=settings.keep_fields,
    )  # fmt: skip
    intake.progress.start("read", total=sum(file.size for file in files if not file.problem) / MEGA, unit="MB")
    groups = list(group_files(files))
    workers = current()
    read: Iterable[list[list[Item]] | None] = repeat(None)
    if not workers.alone:
        read = workers.map(partial(_read_group, limits), groups, lambda group: group[0].name)
    for group, found in zip(groups, read, strict=False):
        for number, file in enumerate(group):
            if intake.full:
                return
            items = read_file(file, limits) if found is None else found[number]
            intake.take(file.name, 0 if file.problem else file.size, items)


def group_files(files: Iterable[SourceFile]) -> Iterator[list[SourceFile]]:
    """The files in order, small neighbours together: up to a megabyte that a worker reads and hands over as a whole."""
    group: list[SourceFile] = []
    for file in files:
        alone = not _is_small(file)
        if group and (alone or sum(one.size for one in group) + file.size > GROUP_BYTES):
            yield group
            group = []
        group.append(file)
        if alone:
            yield group
            group = []
    if group:
        yield group


def _is_small(file: SourceFile) -> bool:
    if file.folder or file.captions or file.raw is not None:  # more than one file, or one that is far away
        return False
    return file.size <= (GROUP_BYTES if file.path.suffix.lower() in SIMPLE else PACKED_BYTES)


def _read_group(limits: ReadLimits, group: list[SourceFile]) -> list[list[Item]] | None:
    """The items of each file, for any worker; None where the file is large and is read bit by bit, by one process."""
    return [list(read_file(file, limits)) for file in group] if all(map(_is_small, group)) else None


def _read_python(intake: _Intake) -> None:
    library = python_text.standard_library()
    names = python_text.list_modules(library)
    sizes = {name: (library / name).stat().st_size for name in [python_text.TOPICS, *names]}
    intake.progress.start("read", total=sum(sizes.values()) / MEGA, unit="MB")
    intake.take("python:topics", sizes[python_text.TOPICS], python_text.read_topics(library))
    for name in names:
        if intake.full:
            break
        intake.take(f"python:Lib/{name}", sizes[name], _module(library, name, intake.settings.max_document_bytes))


def _module(library: Path, name: str, most_bytes: int) -> Iterator[Document | SetAside]:
    if (library / name).stat().st_size == 0:
        yield SetAside(f"python:Lib/{name}", "empty file")
        return
    try:
        yield from python_text.read_module(library, name, most_bytes)
    except Unreadable as problem:
        yield SetAside(f"python:Lib/{name}", problem.reason, problem.detail)


def _nothing_read(path: str, funnel: Funnel) -> AthanorError:
    """The error that lists what was found instead."""
    found = describe_reasons(funnel.reasons())
    what = f"nothing in {path} can be read: {found}" if found else f"{path} is empty"
    return AthanorError(what, allowed=ALLOWED, fix=advise(funnel.reasons()))


def fingerprint(settings: ReadSettings) -> str:
    """A hash that changes whenever what `settings.path` names changes: names and contents of the files.

    The recipe runner puts it into the step's identity, so that a second run reads nothing again, and an edited file
    is noticed.
    """
    if settings.path == PYTHON:
        library = python_text.standard_library()
        names = [python_text.TOPICS, *python_text.list_modules(library)]
        sizes = [(library / name).stat().st_size if (library / name).is_file() else 0 for name in names]
        return hash_json([python_text.version(), list(zip(names, sizes, strict=True))])
    return hash_json([[file.name, _content(file)] for file in find_sources(settings.path)])


def _content(file: SourceFile) -> str | list[str]:
    if file.problem:
        return file.problem
    if file.captions:
        return [_content_alone(one) for one in (file, *file.captions)]
    if file.folder:
        return [_content_alone(one) for one in (file, *map(file.folder.find, file.folder.media()))]
    return _content_alone(file)


def _content_alone(file: SourceFile) -> str:
    if file.mark is not None:
        return file.mark
    try:
        if file.raw is None:
            return hash_file(file.path)
        with file.raw() as stream:
            return hash_stream(stream)
    except OSError as problem:
        return f"cannot be opened: {problem.strerror}"


def source_bytes(settings: ReadSettings) -> int:
    """Bytes on disk that `settings.path` names, for estimates."""
    if settings.path == PYTHON:
        library = python_text.standard_library()
        names = [python_text.TOPICS, *python_text.list_modules(library)]
        return sum((library / name).stat().st_size for name in names if (library / name).is_file())
    return sum(file.size for file in find_sources(settings.path) if not file.problem)
