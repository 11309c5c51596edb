"""Tar archives: their files one after another, in memory that does not grow with their number.

Neighbours whose names differ in what follows the first dot only (000.jpg, 000.txt) belong together where one of them is
a picture or sound: one document, as WebDataset has it. All others are read as if they lay in a folder.
"""

import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from athanor.data.document import Document
from athanor.data.reading.decode import BLOCK, Unreadable
from athanor.data.reading.items import BROKEN, ReadLimits, SetAside
from athanor.data.reading.kinds import CAPTIONS, MEDIA, describe_kind, find_kind
from athanor.data.reading.media import HEADER, document_of, read_captions, refer
from athanor.data.reading.sources import SourceFile, printable

IN_MEMORY = 1 << 20  # bytes: a longer member is kept in a temporary file while it is read
MOST_TOGETHER = 32  # members of one sample

Read = Callable[[SourceFile, ReadLimits], Iterator[Document | SetAside]]


class _Member(tarfile.TarInfo):
    """A member's header; damage in the middle of an archive is an error, and not its end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_Member":
        try:
            return super().fromtarfile(archive)
        except (tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError, tarfile.SubsequentHeaderError) as problem:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"at byte {archive.offset}: {problem}") from None  # type: ignore[attr-defined]


def read_tar(file: SourceFile, limits: ReadLimits, read: Read) -> Iterator[Document | SetAside]:
    """The documents of an archive's members, named `archive.tar/member`; `read` reads a file of any kind."""
    together: list[SourceFile] = []
    key = ""
    problem: Exception | None = None
    with file.open() as stream:
        members = _members(file, stream)
        while problem is None:
            try:
                member = next(members, None)
            except (tarfile.TarError, *BROKEN) as found:
                member, problem = None, found
            if together and (member is None or _key(member.name) != key or len(together) == MOST_TOGETHER):
                yield from _sample(together, key, limits, read)
                together = []
            if member is None:
                break
            key = _key(member.name)
            together.append(member)
    if isinstance(problem, tarfile.TarError):
        raise Unreadable("broken or truncated archive", str(problem)) from None
    if problem is not None:
        raise problem


def _members(file: SourceFile, stream: IO[bytes]) -> Iterator[SourceFile]:
    """The files of an archive; each can be opened until the next but MOST_TOGETHER is asked for, and longer."""
    compressed = find_kind(file.path.name)[1]
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # the library would keep a million of them
            parts = member.name.split("/")
            if member.isdir() or any(part.startswith(".") and part.strip(".") for part in parts):
                continue
            where = {**file.reference(), "member": printable(member.name)}
            if not compressed:
                where["offset"] = member.offset_data
            yield _described(archive, member, f"{file.name}/{printable(member.name)}", where)


def _described(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, where: dict[str, Any]) -> SourceFile:
    """A member as a file to read; what is wanted of its contents is kept."""
    path, size = Path(member.name), member.size
    kind = find_kind(path.name)[0]
    is_caption = path.suffix.lower() in CAPTIONS  # .json is read as the words to a picture only
    problem = None
    if not member.isreg():
        problem = "not a file (link or device)"
    elif kind == "tar":
        problem = "an archive inside an archive"
    elif kind is None and not is_caption:
        problem = f"kind not read: {printable(describe_kind(path.name))}"
    elif size == 0:
        problem = "empty file"
    if problem:
        return SourceFile(path, name, kind, size, problem)
    contents = archive.extractfile(member)
    assert contents is not None  # a regular file
    raw = _keep(contents, min(size, HEADER) if kind == "picture" else size)
    return SourceFile(path, name, kind, size, raw=raw, where=where)


def _keep(contents: IO[bytes], size: int) -> Callable[[], IO[bytes]]:
    """Opens the first bytes of a member, again and again."""
    if size <= IN_MEMORY:
        data = contents.read(size)
        return lambda: io.BytesIO(data)
    file = tempfile.NamedTemporaryFile()  # removed when the function that is returned is
    while size and (block := contents.read(min(BLOCK, size))):
        file.write(block)
        size -= len(block)
    file.flush()
    return lambda: open(file.name, "rb")


def _key(name: str) -> str:
    """A member's name up to the first dot behind its last stroke."""
    folder, stroke, base = name.rpartition("/")
    return folder + stroke + base.split(".", 1)[0]


def _sample(members: list[SourceFile], name: str, limits: ReadLimits, read: Read) -> Iterator[Document | SetAside]:
    """The documents of members whose names begin alike."""
    media = [member for member in members if member.kind in MEDIA and not member.problem]
    if not media:
        for member in members:
            if member.kind is None and not member.problem:
                yield SetAside(member.name, f"kind not read: {member.path.suffix.lower()}", size=member.size)
            else:
                yield from read(member, limits)
        return
    size = sum(member.size for member in members)
    captions = tuple(member for member in members if member.path.suffix.lower() in CAPTIONS)
    try:
        references = []
        for medium in media:
            with medium.open() as stream:
                references.append(refer(medium, stream))
        yield document_of(read_captions(captions, limits), name, references, limits)
    except Unreadable as problem:
        yield SetAside(name, problem.reason, problem.detail, size)
