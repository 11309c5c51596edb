"""Tar and ZIP archives: their files one after another; of a tar in memory that does not grow with their number.

Neighbours whose names differ in what follows the first dot only (000.jpg, 000.txt) belong together where one of them is
a picture or sound: one document, as WebDataset has it. All others are read as if they lay in a folder. Nothing is
unpacked under its own name.
"""

import io
import tarfile
import tempfile
import zipfile
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
MOST_GROWTH = 200  # times its size in a ZIP archive that a file may have: text has 3 to 20, a bomb 1,000
SMALL = 64_000_000  # bytes: what is no longer than that may have grown as it likes
IN_UTF8 = 0x800  # flag of a ZIP member: its name is in UTF-8
ENCRYPTED = 1  # flag of a ZIP member

ARCHIVES = ("tar", "zip")

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
    """The documents of a tar archive's members, named `archive.tar/member`; `read` reads a file of any kind."""
    with file.open() as stream:
        yield from _read_members(_members(file, stream), limits, read)


def read_zip(file: SourceFile, limits: ReadLimits, read: Read) -> Iterator[Document | SetAside]:
    """The documents of a ZIP archive's members, in the order of their names, named `archive.zip/member`.

    Raises:
        Unreadable: it is none, or unpacks to more than any text does.
    """
    with file.open() as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                _refuse_bomb(archive)
                yield from _read_members(_zip_members(file, archive), limits, read)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as problem:
            raise Unreadable("broken or truncated archive", str(problem)) from None


def _read_members(members: Iterator[SourceFile], limits: ReadLimits, read: Read) -> Iterator[Document | SetAside]:
    """The documents of members, those together whose names begin alike."""
    together: list[SourceFile] = []
    key = ""
    problem: Exception | None = None
    while problem is None:
        try:
            member = next(members, None)
        except (tarfile.TarError, Unreadable, *BROKEN) as found:
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
            if member.isdir() or _is_hidden(member.name):
                continue
            if file.size and _grows_too_much(file.size, member.size):
                raise Unreadable("archive unpacks to too much", f"{printable(member.name)}: {member.size} bytes")
            where = {**file.reference(), "member": printable(member.name)}
            if not compressed:
                where["offset"] = member.offset_data
            yield _described(archive, member, f"{file.name}/{printable(member.name)}", where)


def _described(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, where: dict[str, Any]) -> SourceFile:
    """A member as a file to read; what is wanted of its contents is kept."""
    path, size = Path(member.name), member.size
    kind = find_kind(path.name)[0]
    problem = "not a file (link or device)" if not member.isreg() else _problem_of(member.name, kind, size)
    if problem:
        return SourceFile(path, name, kind, size, problem)
    contents = archive.extractfile(member)
    assert contents is not None  # a regular file
    raw = _keep(contents, min(size, HEADER) if kind == "picture" else size)
    return SourceFile(path, name, kind, size, raw=raw, where=where)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part.strip(".") for part in name.split("/"))


def _problem_of(name: str, kind: str | None, size: int) -> str | None:
    """Why a member is not read, None if it is."""
    if name.startswith("/") or ".." in name.replace("\\", "/").split("/"):
        return "a name that leads out of the archive"
    if kind in ARCHIVES:
        return "an archive inside an archive"
    if kind is None and Path(name).suffix.lower() not in CAPTIONS:
        return f"kind not read: {printable(describe_kind(name))}"
    return None if size else "empty file"


def _grows_too_much(packed: int, unpacked: int) -> bool:
    return unpacked > max(SMALL, MOST_GROWTH * packed)


def _refuse_bomb(archive: zipfile.ZipFile) -> None:
    """Refuse an archive that holds more than any text would, in one member or in all together."""
    sizes = [(member.compress_size, member.file_size) for member in archive.infolist()]
    for packed, unpacked in (*sizes, (sum(packed for packed, _ in sizes), sum(unpacked for _, unpacked in sizes))):
        if _grows_too_much(packed, unpacked):
            raise Unreadable("archive unpacks to too much", f"{packed} bytes to {unpacked}")


def _zip_members(file: SourceFile, archive: zipfile.ZipFile) -> Iterator[SourceFile]:
    """The files of a ZIP archive; each can be opened as long as the archive is open."""
    named = sorted((_name_of(member), place, member) for place, member in enumerate(archive.infolist()))
    for name, _, member in named:
        if member.is_dir() or _is_hidden(name):
            continue
        path, kind = Path(name), find_kind(name)[0]
        problem = _problem_of(name, kind, member.file_size)
        if problem is None and member.flag_bits & ENCRYPTED:
            problem = "encrypted file"
        full = f"{file.name}/{printable(name)}"
        if problem:
            yield SourceFile(path, full, kind, member.file_size, problem)
            continue
        size = min(member.file_size, HEADER) if kind == "picture" else member.file_size
        where = {**file.reference(), "member": printable(name)}
        yield SourceFile(path, full, kind, member.file_size, raw=_unpacker(archive, member, size), where=where)


def _unpacker(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> Callable[[], IO[bytes]]:
    """Opens the first bytes of a ZIP member, unpacked when they are first asked for."""
    kept: list[Callable[[], IO[bytes]]] = []

    def open_member() -> IO[bytes]:
        if not kept:
            try:
                with archive.open(member) as contents:
                    kept.append(_keep(contents, size))
            except (*BROKEN, RuntimeError) as problem:  # the last: a compression that is not known
                raise Unreadable("broken or unusual compression", str(problem)) from None
        return kept[0]()

    return open_member


def _name_of(member: zipfile.ZipInfo) -> str:
    """A member's name; without the flag for UTF-8 it is that of the system that packed it, in China GB18030."""
    if not member.flag_bits & IN_UTF8:
        stored = member.filename.encode("cp437", errors="replace")  # as the library took it
        for encoding in ("utf-8", "gb18030"):
            try:
                return stored.decode(encoding)
            except UnicodeDecodeError:
                continue
    return member.filename


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
