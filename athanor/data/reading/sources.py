"""Finding the files that a user named: a folder, one file, or a pattern; and opening them, compressed or not.

Nothing here follows a link twice, waits on a pipe, or trusts a name to be printable.
"""

import bz2
import glob
import gzip
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from athanor.base.errors import AthanorError
from athanor.base.xz import open_xz
from athanor.base.zstd import open_zstd
from athanor.data.reading.kinds import ALLOWED, MEDIA, TABLES, describe_kind, find_kind, pair

LARGEST_WINDOW = 1 << 27  # bytes a .zst file may ask for


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to read.

    Attributes:
        path: where it lies; of a file that is none of this machine's, its name.
        name: its name within what the user named; printable, the same on every machine.
        kind: the name of its reader (readers.py); None when `problem` says why it is not read.
        size: bytes on disk.
        problem: why it is set aside without being opened, None if it is to be read.
        captions: the files with the words to a picture or sound.
        raw: opens the bytes as they are stored, where that is not a file of this machine.
        where: how a reference to a picture or sound names the place, where that is not the path.
        mark: changes whenever the contents do; None: they have to be read to know.
        folder: of a table of pictures or sounds, the folder it speaks of.
    """

    path: Path
    name: str
    kind: str | None
    size: int
    problem: str | None = None
    captions: tuple["SourceFile", ...] = ()
    raw: Callable[[], IO[bytes]] | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    mark: str | None = None
    folder: "Folder | None" = None

    def open_raw(self) -> IO[bytes]:
        """The bytes as they are stored."""
        return self.raw() if self.raw else open(self.path, "rb")

    def open(self) -> IO[bytes]:
        """The bytes of the file, decompressed as they are read."""
        suffix = self.path.suffix.lower()
        if suffix in (".gz", ".tgz"):
            return gzip.GzipFile(fileobj=self.raw()) if self.raw else gzip.open(self.path, "rb")  # type: ignore[return-value]
        if suffix == ".zst":
            return open_zstd(self.open_raw(), LARGEST_WINDOW)
        if suffix == ".bz2":
            return bz2.BZ2File(self.open_raw())  # type: ignore[return-value]
        if suffix == ".xz":
            return open_xz(self.open_raw(), 2 * LARGEST_WINDOW)
        return self.open_raw()

    def reference(self) -> dict[str, Any]:
        """Where a picture or sound is found again."""
        return dict(self.where) or {"path": str(self.path.absolute())}


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder around a table of pictures or sounds.

    Attributes:
        find: the file of a path within the folder.
        media: the paths of all pictures and sounds in it and below, without those that have captions of their own.
    """

    find: Callable[[str], SourceFile]
    media: Callable[[], Iterator[str]]


def find_sources(path: str) -> Iterator[SourceFile]:
    """Every file under `path` (a folder, a file or a pattern), sorted by name.

    Hidden files and folders are passed over, unless the user named them.

    Raises:
        AthanorError: there is nothing of that name.
    """
    if is_address(path):
        from athanor.data.reading.remote import find_remote

        yield from find_remote(path)
        return
    if not path.strip():
        raise AthanorError("the path is empty", allowed="a folder, a file, a pattern", fix="name . for this folder")
    named = Path(path).expanduser()
    if named.is_dir():
        yield from _walk(named, "", set())
        return
    if _exists(named):
        yield _describe(named, named.name, _captions_beside(named))
        return
    matches = sorted(glob.glob(str(named), recursive=True)) if glob.has_magic(path) else []
    if not matches:
        raise AthanorError(
            f"there is nothing at {path}", allowed=f"a folder, a file, a pattern such as 'notes/*.md' ({ALLOWED})",
            fix="check the spelling; python: names the text that every Python installation carries",
        )  # fmt: skip
    yield from _expand(matches)


def _expand(matches: list[str]) -> Iterator[SourceFile]:
    """The files a pattern matched; folders among them are walked, nothing is read twice."""
    base = os.path.commonpath([os.path.dirname(match) for match in matches])
    seen: set[tuple[int, int]] = set()
    for match in matches:
        name = os.path.relpath(match, base) if base else match
        if os.path.isdir(match):
            yield from _walk(Path(match), name, seen)
        elif _is_new(match, seen):
            yield _describe(Path(match), name, _captions_beside(Path(match)))


def _walk(folder: Path, prefix: str, seen: set[tuple[int, int]]) -> Iterator[SourceFile]:
    """Files below a folder in the order of their names; each real file or folder once, so links cannot loop."""
    waiting: list[tuple[Path, str, bool, tuple[Path, ...]]] = [(folder, prefix, False, ())]
    while waiting:
        place, name, in_table, captions = waiting.pop()
        if place.is_dir():
            if not _is_new(place, seen):
                continue
            try:
                entries = [entry for entry in os.listdir(place) if not entry.startswith(".")]
            except OSError as problem:
                yield SourceFile(place, printable(name), None, 0, f"cannot be opened: {problem.strerror}")
                continue
            entries, words = pair(_data_of(place, entries))
            in_table = in_table or not set(TABLES).isdisjoint(entries)
            entries.sort(key=os.fsencode, reverse=True)
            for entry in entries:
                beside = tuple(place / other for other in words.get(entry, ()))
                waiting.append((place / entry, f"{name}/{entry}" if name else entry, in_table, beside))
        elif in_table and not captions and find_kind(place.name)[0] in MEDIA:
            continue  # the table's reader speaks of it
        elif not _exists(place) or _is_new(place, seen):
            yield _describe(place, name, captions)


def _data_of(folder: Path, names: list[str]) -> list[str]:
    """Those of a folder's files that are data: where Hugging Face `datasets` saved one, what its state.json names.

    Such a folder may also hold cached results (cache-….arrow), which are no part of the data set.
    """
    if "state.json" in names and "dataset_info.json" in names:
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            return [os.path.basename(row["filename"]) for row in state["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError):
            return names  # state.json is then set aside like any unknown file, and every .arrow file is read
    return [name for name in names if name != "dataset_dict.json"]


def _describe(path: Path, name: str, captions: tuple[Path, ...] = ()) -> SourceFile:
    """What kind of file it is, or why it is not read."""
    name = printable(name)
    try:
        status = path.stat()
    except OSError:
        return SourceFile(path, name, None, 0, "broken link" if path.is_symlink() else "vanished")
    if not stat.S_ISREG(status.st_mode):
        return SourceFile(path, name, None, 0, "not a file (pipe, socket or device)")
    kind, problem = judge(path.name, status.st_size)
    words = tuple(SourceFile(path, path.name, "caption", path.stat().st_size) for path in captions if path.is_file())
    folder = _folder_of(path) if kind == "captions" else None
    return SourceFile(path, name, kind, status.st_size, problem, words, folder=folder)


def judge(name: str, size: int) -> tuple[str | None, str | None]:
    """(kind, problem) of a file by its name and size."""
    if name.lower() in TABLES:
        return "captions", None if size else "empty file"
    kind, _ = find_kind(name)
    if kind is None:
        return None, f"kind not read: {printable(describe_kind(name))}"
    return kind, None if size else "empty file"


def _captions_beside(path: Path) -> tuple[Path, ...]:
    """The captions in the folder of one picture or sound."""
    if find_kind(path.name)[0] not in MEDIA:
        return ()
    _, captions = pair(os.listdir(path.parent))
    return tuple(path.parent / name for name in captions.get(path.name, ()))


def _folder_of(table: Path) -> Folder:
    place = table.parent

    def media() -> Iterator[str]:
        for folder, folders, names in os.walk(place):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            alone, captions = pair(name for name in names if not name.startswith("."))
            for name in sorted(alone):
                if name not in captions and find_kind(name)[0] in MEDIA:
                    yield Path(folder, name).relative_to(place).as_posix()

    return Folder(lambda name: _describe(place / name, name), media)


def is_address(path: str) -> bool:
    """Whether a path is the address of something that fsspec opens, such as s3://bucket/folder."""
    return "://" in path


def is_access_error(problem: Exception) -> bool:
    """Whether a file could not be reached: the system's errors, and those of packages loaded for an address."""
    known: list[type[Exception]] = [OSError]
    for module, name in (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError")):
        if module in sys.modules:
            known.append(getattr(sys.modules[module], name))
    return isinstance(problem, tuple(known))


def printable(name: str) -> str:
    """A file name as text that UTF-8 can hold: bytes that are no UTF-8 become \\xNN."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than the system allows, or a folder that may not be entered
        return False


def _is_new(path: str | Path, seen: set[tuple[int, int]]) -> bool:
    """Whether this file or folder was not met before under another name."""
    try:
        status = os.stat(path)
    except OSError:
        return True
    mark = (status.st_dev, status.st_ino)
    if mark in seen:
        return False
    seen.add(mark)
    return True
