"""Documents written to one file of a form that others read: JSON lines, plain or compressed, and parquet."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import orjson

from athanor.base.errors import AthanorError
from athanor.base.files import explain_disk_error, sync_file, sync_folder
from athanor.base.records import encode_record, open_text
from athanor.data.document import Document
from athanor.data.reading.columns import pyarrow

FORMS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
GROUP_BYTES = 32_000_000  # of text in a row group: what a reader holds at least
COLUMNS = ("id", "text", "source", "language", "meta", "media")  # the last two as JSON: each row has other facts


class Writer(Protocol):
    """Takes documents one by one."""

    def write(self, document: Document) -> None: ...

    def close(self) -> None: ...


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A hidden name to write to, which becomes `path` when all is written; nothing is left when that fails.

    Raises:
        AthanorError: the file exists, or its folder does not.
    """
    if path.exists() or path.is_symlink():
        raise AthanorError(f"{path} exists already", fix="choose another name, or delete it first")
    if not path.parent.is_dir():
        raise AthanorError(f"there is no folder {path.parent}", fix=f"mkdir -p {path.parent}")
    work = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield work
        sync_file(work)
        work.rename(path)
        sync_folder(path.parent)
    except OSError as problem:
        raise explain_disk_error(problem, path) from problem
    finally:
        work.unlink(missing_ok=True)


@contextmanager
def open_writer(path: Path) -> Iterator[Writer]:
    """A writer of documents to a file.

    Raises:
        AthanorError: as `unfinished`, or the file's ending is none of FORMS.
    """
    if not path.name.lower().endswith(FORMS):
        raise AthanorError(f"{path} has no known ending", allowed=", ".join(FORMS))
    with unfinished(path) as work:
        writer: Writer = _Parquet(work) if path.suffix.lower() == ".parquet" else _Lines(work)
        try:
            yield writer
        finally:
            writer.close()


class _Lines:
    """JSON lines, one document's row each."""

    def __init__(self, path: Path):
        self.file = open_text(path, "w")

    def write(self, document: Document) -> None:
        self.file.write(encode_record(document.to_row()))

    def close(self) -> None:
        self.file.close()


class _Parquet:
    """Parquet with the columns COLUMNS, compressed with Zstandard; one row group is held in memory."""

    def __init__(self, path: Path):
        self.arrow = pyarrow()
        self.schema = self.arrow.schema([(name, self.arrow.string()) for name in COLUMNS])
        self.file = self.arrow.parquet.ParquetWriter(path, self.schema, compression="zstd")
        self.held: list[dict[str, Any]] = []
        self.bytes = 0

    def write(self, document: Document) -> None:
        row = document.to_row()
        for name in ("meta", "media"):
            if name in row:
                row[name] = orjson.dumps(row[name]).decode()
        self.held.append(row)
        self.bytes += len(document.text)
        if self.bytes >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self.file.close()

    def _flush(self) -> None:
        if self.held:
            self.file.write_table(self.arrow.Table.from_pylist(self.held, schema=self.schema))
            self.held, self.bytes = [], 0
