"""Documents on disk: numbered shards of JSON lines (`documents-00000.jsonl.zst`), written one by one, read in order."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from athanor.base.errors import AthanorError
from athanor.base.files import explain_disk_error
from athanor.base.records import encode_line, open_compressed, read_records
from athanor.data.document import Document
from athanor.store.artifact import Artifact

SHARD_BYTES = 32_000_000  # of JSON text per shard, before compression


class ShardWriter:
    """Writes rows to `<prefix>-00000.jsonl.zst` and so on; holds no document in memory.

    Use as a context manager; `documents` and `bytes` count what was written (bytes of text in UTF-8).
    """

    def __init__(self, folder: Path, prefix: str, shard_bytes: int = SHARD_BYTES):
        self.folder, self.prefix, self.shard_bytes = folder, prefix, shard_bytes
        self.documents = self.bytes = 0
        self._file: IO[bytes] | None = None
        self._in_shard, self._shards = 0, 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *problem: object) -> None:
        self._close()

    def write(self, document: Document) -> None:
        """Append one document."""
        self.write_line(encode_line(document.to_row()), document.bytes)

    def write_line(self, line: bytes, size: int) -> None:
        """Append one document that is already a line of JSON; `size` is its text's bytes."""
        try:
            if self._file is None or self._in_shard >= self.shard_bytes:
                self._next_shard()
            assert self._file is not None
            self._file.write(line)
        except OSError as problem:
            raise explain_disk_error(problem, self.folder) from problem
        self._in_shard += len(line)
        self.documents += 1
        self.bytes += size

    def _next_shard(self) -> None:
        self._close()
        self._file = open_compressed(self.folder / f"{self.prefix}-{self._shards:05d}.jsonl.zst")
        self._shards += 1
        self._in_shard = 0

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def shard_names(artifact: Artifact, prefix: str) -> list[str]:
    """Names of an artifact's shards `<prefix>-*.jsonl.zst`, in order.

    Raises:
        AthanorError: there are none.
    """
    names = sorted(path.name for path in artifact.path.glob(f"{prefix}-*.jsonl.zst"))
    if not names:
        raise AthanorError(f"{artifact.path} holds no {prefix}-*.jsonl.zst", fix="make the artifact again")
    return names


def read_shards(artifact: Artifact, prefix: str) -> Iterator[Document]:
    """The documents of an artifact's shards, in order, one at a time; every shard is verified before it is read."""
    for name in shard_names(artifact, prefix):
        for row in read_records(artifact.file(name)):
            yield Document.from_row(row)
