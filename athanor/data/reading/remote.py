"""Files behind an address (s3://, gs://, https://, memory://, zip://…), found and opened by fsspec.

Nothing is asked of the network unless the user named an address.
"""

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from athanor.base.errors import AthanorError
from athanor.data.reading.decode import Unreadable
from athanor.data.reading.kinds import ALLOWED, MEDIA, TABLES, find_kind, pair
from athanor.data.reading.sources import Folder, SourceFile, is_access_error, judge

BLOCK = 1 << 22  # bytes asked for at a time: a request costs more than a megabyte does
MARKS = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "mtime", "LastModified", "last_modified", "created")
BUFFER = 1 << 17
NO_FOLDERS = ("http", "https")  # what they call a listing is any page with links


class _Place:
    """A file system of fsspec, and how its paths are written as addresses."""

    def __init__(self, address: str):
        try:
            import fsspec
        except ImportError:
            raise AthanorError(
                f"{address} needs fsspec, which is not installed", fix='pip install "athanor[remote]"'
            ) from None
        try:
            self.system, self.root = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError, zipfile.BadZipFile) as problem:  # a package is missing, or no such protocol
            raise AthanorError(f"{address} cannot be opened: {problem}", allowed=ALLOWED) from None
        self.chain = "::" + address.split("::", 1)[1] if "::" in address else ""
        protocol = self.system.protocol
        self.has_folders = (protocol if isinstance(protocol, str) else protocol[0]) not in NO_FOLDERS

    def address(self, path: str) -> str:
        return str(self.system.unstrip_protocol(path)) + self.chain

    def describe(self, facts: dict[str, Any], name: str, captions: tuple[SourceFile, ...] = ()) -> SourceFile:
        """A file from what the file system says about it; an unknown size counts as 0, and the file is not empty."""
        path, size = str(facts["name"]), facts.get("size")
        base = _base(path if self.has_folders else path.split("?", 1)[0])
        kind, problem = judge(base, 1 if size is None else size)
        marks = [f"{mark}={facts[mark]}" for mark in MARKS if facts.get(mark) is not None]
        return SourceFile(
            Path(base), name, kind, size or 0, problem, captions, raw=self._opener(path),
            where={"path": self.address(path)}, mark=f"{size} {' '.join(marks)}" if marks else None,
            folder=self._folder(path.rpartition("/")[0]) if kind == "captions" else None,
        )  # fmt: skip

    def _opener(self, path: str) -> Callable[[], IO[bytes]]:
        def open_file() -> IO[bytes]:
            try:
                return io.BufferedReader(self.system.open(path, "rb", block_size=BLOCK), BUFFER)
            except RuntimeError as problem:  # of zipfile: a password, or a kind of compression it does not know
                raise Unreadable("encrypted or unusual archive", str(problem)) from None

        return open_file

    def _folder(self, folder: str) -> Folder:
        def find(name: str) -> SourceFile:
            path = f"{folder}/{name}"
            if not self.system.isfile(path):
                return SourceFile(Path(path), name, None, 0, "vanished")
            return self.describe(self.system.info(path), name)

        def media() -> Iterator[str]:
            for file in self.walk(folder, heed_tables=False):
                if file.kind in MEDIA and not file.captions:
                    yield file.name

        return Folder(find, media)

    def walk(self, root: str, heed_tables: bool = True) -> Iterator[SourceFile]:
        """The files of a folder and below, in the order of their names.

        Args:
            heed_tables: leave out the pictures and sounds that a table in their folder speaks of.
        """
        waiting: list[tuple[dict[str, Any], str, bool, tuple[SourceFile, ...]]] = []
        waiting.append(({"name": root, "type": "directory"}, "", False, ()))
        while waiting:
            facts, name, in_table, captions = waiting.pop()
            if facts["type"] != "directory":
                if not (in_table and not captions and find_kind(name)[0] in MEDIA):
                    yield self.describe(facts, name, captions)
                continue
            entries = {_base(entry["name"]): entry for entry in self.system.ls(facts["name"], detail=True)}
            shown = {base: entry for base, entry in entries.items() if base and not base.startswith(".")}
            alone, words = pair(shown)
            in_table = in_table or (heed_tables and not set(TABLES).isdisjoint(shown))
            for base in sorted(alone, reverse=True):
                beside = tuple(self.describe(shown[other], other) for other in words.get(base, ()))
                waiting.append((shown[base], f"{name}/{base}" if name else base, in_table, beside))


def _base(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def find_remote(address: str) -> Iterator[SourceFile]:
    """Every file at an address: a file, a folder, or a pattern.

    Raises:
        AthanorError: there is nothing, or a package that opens such addresses is missing.
    """
    found = _found(_Place(address))
    try:
        first = next(found, None)
    except Exception as problem:
        if not is_access_error(problem):
            raise
        reason = problem.__cause__ or problem  # fsspec calls every problem with a web server "not found"
        if not isinstance(reason, FileNotFoundError):
            raise AthanorError(
                f"{address} cannot be reached: {reason}", fix="check the address and the network"
            ) from None
        first = None
    if first is None:
        raise AthanorError(
            f"there is nothing at {address}", allowed=f"a file, a folder or a pattern ({ALLOWED})",
            fix="check the address",
        )  # fmt: skip
    yield first
    yield from found


def _found(place: _Place) -> Iterator[SourceFile]:
    if place.has_folders and any(mark in place.root for mark in "*?["):
        base = place.root[: min(place.root.index(mark) for mark in "*?[" if mark in place.root)].rpartition("/")[0]
        for path in sorted(place.system.glob(place.root)):
            name = path[len(base) :].lstrip("/") if path.startswith(base) else path
            if place.system.isdir(path):
                for file in place.walk(path):
                    yield replace(file, name=f"{name}/{file.name}")
            else:
                yield place.describe(place.system.info(path), name)
    elif place.has_folders and place.system.isdir(place.root):
        yield from place.walk(place.root)
    else:
        facts = place.system.info(place.root)
        yield place.describe(facts, _base(place.root.split("?", 1)[0]) or place.root)
