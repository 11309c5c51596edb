"""Files of JSON lines without their copies: read three times.

First reading: every text is signed. Second: the candidates are compared exactly. Third: each line that stays is
written as it was. Memory: 24 bytes per document (size, where its line lies) and 300 per candidate beside those of
`deduplicate`.
"""

import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Literal

import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray
from pydantic import Field

from athanor.base.errors import AthanorError
from athanor.base.files import explain_disk_error
from athanor.base.records import write_records
from athanor.base.settings import Settings
from athanor.data.copies.clusters import Copy
from athanor.data.copies.deduplicate import NearCopyFinder, rank_by
from athanor.data.copies.shingles import Places
from athanor.data.funnel import Funnel, Stage

DOCUMENTS, DUPLICATES = "documents.jsonl", "duplicates.jsonl"
COMPRESSED = (".gz", ".zst")
PIECE = 1 << 20
BLOCK = 1 << 19  # bytes of a file read and hashed at once: their arrays stay in the cache


class CopySettings(Settings):
    """What counts as a copy, and which one stays."""

    threshold: float = Field(default=0.7, gt=0, le=1)
    """Documents whose word runs are at least this similar (Jaccard) are copies."""
    run: int = Field(default=5, ge=1)
    """Words (Chinese: characters) in a run."""
    keep: Literal["first", "longest", "best"] = "first"
    """Which of similar documents stays: the first in order, the longest, or the one with the highest score."""
    score: str | None = None
    """With `keep: best`: the name of the number in `meta`, or else in the row, that says how good a document is."""


@dataclass
class _Seen:
    """What stays in memory of all documents: 8 bytes of size, 8 of score where scores decide."""

    sizes: list[NDArray[np.int64]] = field(default_factory=list)
    scores: list[NDArray[np.float64]] = field(default_factory=list)


def remove_copies(sources: Sequence[Path], folder: Path, settings: CopySettings) -> dict[str, Any]:
    """Write the documents of `sources` that are no copies to documents.jsonl, in order, byte for byte as they were.

    Also writes duplicates.jsonl (kind, removed, kept, similarity: rows with the same `kept` are one cluster) and
    funnel.json. A source holds rows with a field "text"; .zst and .gz are read as well.

    Returns:
        documents, kept, exact_copies, near_copies, clusters, largest_cluster.

    Raises:
        AthanorError: a line is no JSON object with a text, or has no score where the best one is to stay.
    """
    if (settings.keep == "best") != (settings.score is not None):
        raise AthanorError(
            f"keep={settings.keep!r} with score={settings.score!r}",
            allowed="keep: best with the name of a score; keep: first or longest without",
        )
    folder.mkdir(parents=True, exist_ok=True)
    files, seen = [Source(path) for path in sources], _Seen()
    try:
        with TemporaryDirectory(dir=folder, prefix=".copies-") as work:
            with NearCopyFinder(Path(work), settings.threshold, settings.run) as finder:
                for rows in chain.from_iterable(file.read_rows() for file in files):
                    seen.sizes.append(finder.add([row["text"] for row in rows]))
                    if settings.score is not None:
                        seen.scores.append(np.array([_score(row, settings.score) for row in rows]))
                sizes_D = np.concatenate([np.zeros(0, dtype=np.int64), *seen.sizes])
                copies, names = _compare(finder, files, _ranks(settings.keep, sizes_D, seen.scores))
        return _write(files, folder, sizes_D, copies, names)
    except OSError as problem:
        raise explain_disk_error(problem, folder) from problem


class Source:
    """One file of JSON lines, and after the first reading where each document's line lies (8 bytes each)."""

    def __init__(self, path: Path):
        self.path = path
        self.ends: list[NDArray[np.int64]] = []  # of the lines of documents, behind their newline
        self.starts: list[NDArray[np.int64]] = []

    @property
    def documents(self) -> int:
        """How many were read."""
        return sum(map(len, self.ends))

    def read_rows(self) -> Iterator[list[dict[str, Any]]]:
        """The rows in lists of about 256 KB; empty lines are passed over."""
        place = before = 0
        for lines in _read_line_blocks(self.path):
            try:
                rows = [orjson.loads(line) for line in lines if line]
                if not all(type(row) is dict and type(row.get("text")) is str for row in rows):
                    raise ValueError("no field text")
            except ValueError:
                raise _explain(self.path, lines, before) from None
            sizes = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines)) + 1
            ends = np.cumsum(sizes) + place
            self.ends.append(ends[sizes > 1])
            self.starts.append((ends - sizes)[sizes > 1])
            place, before = place + int(sizes.sum()), before + len(lines)
            yield rows

    def read_pieces(self, chosen_D: NDArray[np.bool_]) -> Iterator[bytes]:
        """The lines of the chosen documents, one by one, without their newline."""
        starts_D, ends_D = np.concatenate([*self.starts, [0]]), np.concatenate([*self.ends, [0]])
        numbers = np.flatnonzero(chosen_D)
        yield from self._read(starts_D[numbers], ends_D[numbers] - 1)

    def read_runs(self, chosen_D: NDArray[np.bool_]) -> Iterator[bytes]:
        """The lines of the chosen documents, whole stretches at once; only the file's last newline may be missing."""
        starts_D, ends_D = (np.concatenate(parts or [np.zeros(0, np.int64)]) for parts in (self.starts, self.ends))
        starts, ends = starts_D[chosen_D], ends_D[chosen_D]
        begins = np.flatnonzero(starts != np.concatenate([[-1], ends[:-1]])[: len(starts)])
        stops = np.concatenate([begins[1:], [len(ends)]])[: len(begins)]
        yield from self._read(starts[begins], ends[stops - 1])

    def _read(self, starts: Places, ends: Places) -> Iterator[bytes]:
        """The bytes between these places, in pieces of at most 1 MB."""
        with _open_bytes(self.path) as file:
            place = 0
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                if self.path.suffix in COMPRESSED:
                    while place < start:
                        place += len(file.read(min(PIECE, start - place)))
                elif place != start:
                    file.seek(start)
                place = end
                yield file.read(end - start)


def _open_bytes(path: Path) -> IO[bytes]:
    """Open a file to read, decompressing by its suffix."""
    if path.suffix == ".zst":
        raw = zstandard.ZstdDecompressor().stream_reader(open(path, "rb"), read_across_frames=True, closefd=True)
        return io.BufferedReader(raw, BLOCK)  # type: ignore[arg-type]
    if path.suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    return open(path, "rb", buffering=0)


def _read_line_blocks(path: Path) -> Iterator[list[bytes]]:
    """The lines of a file without their ends, in lists of about 256 KB; a longer line makes a longer list."""
    begun: list[bytes] = []  # pieces of a line whose end was not read yet
    with _open_bytes(path) as file:
        while block := file.read(BLOCK):
            lines = block.split(b"\n")
            begun.append(lines[0])
            if len(lines) > 1:
                lines[0] = b"".join(begun)
                begun = [lines.pop()]
                yield lines
    if any(begun):
        yield [b"".join(begun)]


def _explain(path: Path, lines: list[bytes], before: int) -> AthanorError:
    """The error that names the first line without a text."""
    for number, line in enumerate(lines, before + 1):
        try:
            row = orjson.loads(line) if line else {"text": ""}
        except ValueError as problem:
            return AthanorError(f"{path}, line {number}: not JSON ({problem})", fix="repair or delete the line")
        if type(row) is not dict or type(row.get("text")) is not str:
            return AthanorError(f"{path}, line {number}: {str(row)[:80]}", allowed='an object with a string "text"')
    raise AssertionError("one of the lines is wrong")


def _score(row: dict[str, Any], name: str) -> float:
    """A document's score."""
    meta = row.get("meta")
    value = meta[name] if type(meta) is dict and name in meta else row.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise AthanorError(
            f"document {row.get('id', row['text'][:40])!r} has {name}={value!r}",
            allowed="a number in meta or in the row of every document, since keep is best",
        )
    return float(value)


def _ranks(keep: str, sizes_D: Places, scores: list[NDArray[np.float64]]) -> Places:
    """rank_D: the document of the lowest rank stays."""
    if keep == "longest":
        return rank_by(sizes_D)
    if keep == "best" and scores:
        return rank_by(np.concatenate(scores))
    return np.arange(len(sizes_D), dtype=np.int64)


_Name = tuple[str, str, int]  # a candidate's id, source, and hash of the text


def _compare(finder: NearCopyFinder, sources: list[Source], ranks_D: Places) -> tuple[list[Copy], dict[int, _Name]]:
    """The copies, and the names of all candidates by number."""
    names: dict[int, _Name] = {}

    def read_texts(numbers: Places) -> Iterator[str]:
        wanted_D = np.zeros(len(ranks_D), dtype=np.bool_)
        wanted_D[numbers] = True
        start = 0
        for source in sources:
            chosen_D = wanted_D[start : start + source.documents]
            for place, line in zip(np.flatnonzero(chosen_D).tolist(), source.read_pieces(chosen_D), strict=True):
                row = orjson.loads(line)
                if "id" not in row or "source" not in row:
                    where = f"{source.path.name}#{place + 1}"
                    row = {"id": where, "source": where, **row}
                names[start + place] = (str(row["id"]), str(row["source"]), hash(row["text"]))
                yield row["text"]
            start += source.documents

    return finder.find(ranks_D, read_texts), names


def _write_kept(sources: list[Source], path: Path, stays_D: NDArray[np.bool_]) -> None:
    """Copy the lines of the documents that stay."""
    start = 0
    with open(path, "wb", buffering=BLOCK) as out:
        for source in sources:
            last = b"\n"
            for last in source.read_runs(stays_D[start : start + source.documents]):
                out.write(last)
            if not last.endswith(b"\n"):
                out.write(b"\n")
            start += source.documents


def _write(
    sources: list[Source], folder: Path, sizes_D: Places, copies: list[Copy], names: dict[int, _Name]
) -> dict[str, Any]:
    """Write the three files."""
    stays_D = np.ones(len(sizes_D), dtype=np.bool_)
    stays_D[[copy.removed for copy in copies]] = False
    _write_kept(sources, folder / DOCUMENTS, stays_D)
    rows = [_row(copy, names) for copy in copies]
    write_records(folder / DUPLICATES, rows)
    funnel = Funnel("copies")
    _count(funnel["copies"], sizes_D, copies, rows)
    funnel.write(folder)
    clusters = np.unique([copy.kept for copy in copies], return_counts=True)[1]
    exact = sum(row["kind"] == "exact" for row in rows)
    return {
        "documents": len(sizes_D), "kept": len(sizes_D) - len(copies), "exact_copies": exact,
        "near_copies": len(copies) - exact, "clusters": len(clusters),
        "largest_cluster": int(clusters.max(initial=0)) + 1 if len(clusters) else 0,
    }  # fmt: skip


def _row(copy: Copy, names: dict[int, _Name]) -> dict[str, Any]:
    """One row of duplicates.jsonl."""
    removed, kept = names[copy.removed], names[copy.kept]
    return {
        "kind": "exact" if copy.similarity == 1 and removed[2] == kept[2] else "near",
        "removed": removed[0], "removed_source": removed[1], "kept": kept[0], "kept_source": kept[1],
        "similarity": round(copy.similarity, 4),
    }  # fmt: skip


def _count(stage: Stage, sizes_D: Places, copies: list[Copy], rows: list[dict[str, Any]]) -> None:
    """The funnel's figures."""
    stage.documents_in, stage.bytes_in = len(sizes_D), int(sizes_D.sum())
    stage.documents_out, stage.bytes_out = stage.documents_in, stage.bytes_in
    for copy, row in zip(copies, rows, strict=True):
        size = int(sizes_D[copy.removed])
        stage.documents_out -= 1
        stage.bytes_out -= size
        reason = "exact copy" if row["kind"] == "exact" else "near copy"
        stage.drop(reason, size, row["removed_source"], f"{row['similarity']:.2f} of {row['kept_source']}")
