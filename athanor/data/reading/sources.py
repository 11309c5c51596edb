"""Finding the files that a user named: a folder, one file, or a pattern; and opening them, compressed or not.

Nothing here follows a link twice, waits on a pipe, or trusts a name to be printable.
"""

import glob
import gzip
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from athanor.base.errors import AthanorError
from athanor.base.zstd import open_zstd

KINDS = {
    ".txt": "text", ".text": "text", ".md": "text", ".markdown": "text",
    ".html": "html", ".htm": "html", ".xhtml": "html",
    ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".csv": "table", ".tsv": "table",
    ".warc": "warc", ".wet": "warc", ".epub": "epub", ".docx": "docx",
    ".pdf": "pdf", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow",
}  # fmt: skip
COMPRESSED = (".gz", ".zst")
COMPRESSIBLE = ("text", "html", "jsonl", "table", "warc")  # kinds that may be compressed as a whole
ALLOWED = ".txt .md .html .jsonl .csv .tsv .warc, these also with .gz or .zst, .pdf .epub .docx .parquet .arrow"
LARGEST_WINDOW = 1 << 27  # bytes a .zst file may ask for


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to read.

    Attributes:
        path: where it lies.
        name: its name within what the user named; printable, the same on every machine.
        kind: the name of its reader (readers.py); None when `problem` says why it is not read.
        size: bytes on disk.
        problem: why it is set aside without being opened, None if it is to be read.
    """

    path: Path
    name: str
    kind: str | None
    size: int
    problem: str | None = None

    def open(self) -> IO[bytes]:
        """The bytes of the file, decompressed as they are read."""
        suffix = self.path.suffix.lower()
        if suffix == ".gz":
            return gzip.open(self.path, "rb")  # type: ignore[return-value]
        if suffix == ".zst":
            return open_zstd(open(self.path, "rb"), LARGEST_WINDOW)
        return open(self.path, "rb")


def find_sources(path: str) -> Iterator[SourceFile]:
    """Every file under `path` (a folder, a file or a pattern), sorted by name.

    Hidden files and folders are passed over, unless the user named them.

    Raises:
        AthanorError: there is nothing of that name.
    """
    named = Path(path).expanduser()
    if named.is_dir():
        yield from _walk(named, "", set())
        return
    if _exists(named):
        yield _describe(named, named.name)
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
            yield _describe(Path(match), name)


def _walk(folder: Path, prefix: str, seen: set[tuple[int, int]]) -> Iterator[SourceFile]:
    """Files below a folder in the order of their names; each real file or folder once, so links cannot loop."""
    waiting = [(folder, prefix)]
    while waiting:
        place, name = waiting.pop()
        if place.is_dir():
            if not _is_new(place, seen):
                continue
            try:
                entries = [entry for entry in os.listdir(place) if not entry.startswith(".")]
            except OSError as problem:
                yield SourceFile(place, printable(name), None, 0, f"cannot be opened: {problem.strerror}")
                continue
            entries = _data_of(place, entries)
            entries.sort(key=os.fsencode, reverse=True)
            waiting += [(place / entry, f"{name}/{entry}" if name else entry) for entry in entries]
        elif not _exists(place) or _is_new(place, seen):
            yield _describe(place, name)


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


def _describe(path: Path, name: str) -> SourceFile:
    """What kind of file it is, or why it is not read."""
    name = printable(name)
    try:
        status = path.stat()
    except OSError:
        return SourceFile(path, name, None, 0, "broken link" if path.is_symlink() else "vanished")
    if not stat.S_ISREG(status.st_mode):
        return SourceFile(path, name, None, 0, "not a file (pipe, socket or device)")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSED
    if compressed:
        suffixes.pop()
    kind = KINDS.get(suffixes[-1]) if suffixes else None
    if kind is None or (compressed and kind not in COMPRESSIBLE):
        return SourceFile(path, name, None, status.st_size, f"kind not read: {_kind_name(path)}")
    if status.st_size == 0:
        return SourceFile(path, name, kind, 0, "empty file")
    return SourceFile(path, name, kind, status.st_size)


def _kind_name(path: Path) -> str:
    suffix = "".join(path.suffixes[-2:] if path.suffix.lower() in COMPRESSED else path.suffixes[-1:])
    return printable(suffix.lower()[:12]) or "no suffix"


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
