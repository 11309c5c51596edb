"""Building a document index: documents are collected until a shard is full, sorted, written, forgotten."""

from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from athanor.base.errors import AthanorError
from athanor.base.files import explain_disk_error, write_json
from athanor.base.progress import Progress, SilentProgress
from athanor.store.index_files import (
    SAMPLE,
    SAMPLED,
    SEPARATOR,
    VERSION,
    checks_of,
    count_characters,
    encode,
    sealed,
    write_checks,
)

SHARD_BYTES = 256 << 20  # a query searches every shard: 1 GB in five takes less than half of the time in eighteen
LONGEST_QUERY = 256 << 10
SORTED_AT_ONCE = 1 << 22  # suffixes


def build_index(
    folder: Path,
    documents: Iterable[tuple[str, str]],
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
    longest_query: int = LONGEST_QUERY,
) -> dict[str, Any]:
    """Index (name, text) pairs in the empty `folder`; the same documents give the same bytes.

    Args:
        shard_bytes: text per suffix array; building peaks at about 7 times as much memory, larger shards answer faster.
        longest_query: bytes; longer queries are refused by `DocumentIndex`.
    Returns:
        documents, bytes, shards, characters.
    Raises:
        AthanorError: a setting out of range, a full disk, or the sorting library is missing.
    """
    if not 1 <= shard_bytes <= 1 << 30 or not 1 <= longest_query <= 1 << 24:
        raise AthanorError(
            f"shard_bytes={shard_bytes}, longest_query={longest_query} cannot be used for a document index",
            allowed="shard_bytes 1 to 1,073,741,824 and longest_query 1 to 16,777,216",
        )
    progress = progress or SilentProgress()
    progress.start("document index", unit="B")
    try:
        with open(Path(folder) / "names", "wb") as names:
            builder = _Builder(Path(folder), names, shard_bytes, longest_query, progress)
            for name, text in documents:
                builder.add(name, encode(text))
        figures = builder.finish()
    except OSError as problem:
        raise explain_disk_error(problem, Path(folder)) from problem
    progress.finish()
    return figures


class _Builder:
    """Collects documents until a shard is full, sorts it, writes it, begins the next."""

    def __init__(self, folder: Path, names: IO[bytes], shard_bytes: int, longest_query: int, progress: Progress):
        self.folder, self.shard_bytes = folder.absolute(), shard_bytes
        self.longest_query, self.progress = longest_query, progress
        self.text = bytearray()
        self.owned: list[tuple[int, int]] = []  # stretches of the text whose suffixes belong to this shard
        self.names, self.name_ends, self.pieces = names, array("Q"), array("Q")
        self.shards = self.documents = self.bytes = self.characters = 0
        self.checks: dict[str, list[int]] = {}

    def add(self, name: str, data: bytes) -> None:
        self.name_ends.append(self.names.write(encode(name)) + (self.name_ends[-1] if self.name_ends else 0))
        if len(self.text) + len(data) > self.shard_bytes:
            self.flush()
        characters = lines = 0
        for start, stop in self._cuts(data):
            self._add_piece(data, start, stop, characters, lines)
            lines += data.count(b"\n", start, stop)
            characters += count_characters(data, start, stop)
        self.documents += 1
        self.bytes += len(data)
        self.progress.advance(len(data))

    def _cuts(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Pieces of at most `shard_bytes`, cut between characters; one piece for all but giant documents."""
        start = 0
        while start < len(data):
            stop = min(start + self.shard_bytes, len(data))
            while stop < len(data) and stop > start and data[stop] & 0xC0 == 0x80:
                stop -= 1
            if stop == start:  # a shard smaller than one character: take the whole character
                stop += 1
                while stop < len(data) and data[stop] & 0xC0 == 0x80:
                    stop += 1
            yield start, stop
            start = stop

    def _add_piece(self, data: bytes, start: int, stop: int, characters: int, lines: int) -> None:
        place = len(self.text)
        self.pieces.extend((self.documents, start, stop - start, self.shards, place, characters, lines))
        self.owned.append((place, place + stop - start))
        self.text += data[start : stop + self.longest_query]
        self.text.append(SEPARATOR)
        if stop - start >= self.shard_bytes or stop < len(data):
            self.flush()

    def flush(self) -> None:
        """Sort the collected text and write its files."""
        if not self.text:
            return
        text = np.frombuffer(self.text, dtype=np.uint8)
        self.text = bytearray()  # the array keeps the old one
        stem = str(self.folder / f"{self.shards:05d}")
        text.tofile(f"{stem}.text")
        order = _sort_suffixes(text)
        wanted = np.zeros(len(text), dtype=bool)
        for start, stop in self.owned:
            wanted[start:stop] = text[start:stop] & 0xC0 != 0x80  # only suffixes that begin with a character
        self.owned.clear()
        counts = _write_suffixes(stem, text, wanted, order)
        prefixes = np.zeros(65_537, dtype="<u4")
        prefixes[1:] = np.cumsum(counts)
        prefixes.tofile(f"{stem}.prefixes")
        self._keep_checks(f"{stem}.text", f"{stem}.suffixes", f"{stem}.samples", small=f"{stem}.prefixes")
        self.characters += int(counts.sum())
        self.shards += 1
        self.progress.check()

    def finish(self) -> dict[str, Any]:
        self.flush()
        np.array(self.name_ends, dtype="<u8").tofile(self.folder / "name_ends")
        np.array(self.pieces, dtype="<u8").tofile(self.folder / "pieces")
        self._keep_checks("names", small="name_ends")
        self._keep_checks(small="pieces")
        figures = {
            "documents": self.documents, "bytes": self.bytes, "characters": self.characters, "shards": self.shards,
        }  # fmt: skip
        record = {"version": VERSION, "longest_query": self.longest_query, **figures, "checks": self.checks}
        write_json(self.folder / "index.json", record)
        return figures

    def _keep_checks(self, *large: str, small: str) -> None:
        """Checksums of finished files: of large ones page by page, in a file whose own checksum is kept."""
        for name in large:
            path = self.folder / name
            write_checks(path)
            self.checks[path.name] = sealed(path, checks_of(path))
        self.checks[Path(small).name] = sealed(self.folder / small)


def _sort_suffixes(text: np.ndarray) -> np.ndarray:
    """Starts of all suffixes of `text` in lexicographic order, int32.

    libdivsufsort (Mori 2005) is C, reached through ctypes: 22 MB of source text per second on 4 MB, 31 times as fast as
    prefix doubling in numpy, the pure alternative. A whole build ran at 10.6 MB/s (349 MB, 64 MiB shards, one core).
    """
    try:
        from pydivsufsort import divsufsort
    except ImportError:
        raise AthanorError(
            "the document index needs the suffix sorter pydivsufsort, which is not installed",
            fix="pip install pydivsufsort",
        ) from None
    return divsufsort(text)


def _write_suffixes(stem: str, text: np.ndarray, wanted: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Write the wanted suffixes in order, and their samples; count them by their two leading bytes (shape 65,536)."""
    counts = np.zeros(65_536, dtype=np.int64)
    last = len(text) - 1  # the separator: every wanted suffix has a byte after its first
    written = 0
    with open(f"{stem}.suffixes", "wb") as file, open(f"{stem}.samples", "wb") as samples:
        for begin in range(0, len(order), SORTED_AT_ONCE):
            some = order[begin : begin + SORTED_AT_ONCE]
            some = some[wanted[some]]
            file.write(some.astype("<u4").tobytes())
            sampled = some[-written % SAMPLED :: SAMPLED].astype(np.int64)
            places = sampled[:, None] + np.arange(SAMPLE)
            samples.write(np.where(places <= last, text[np.minimum(places, last)], 0).astype(np.uint8).tobytes())
            written += len(some)
            leading = text[some].astype(np.int64) * 256 + text[np.minimum(some + 1, last)]
            counts += np.bincount(leading, minlength=65_536)
    return counts
