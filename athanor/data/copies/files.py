"""Files of JSON lines without their copies: read three times.

First reading: every text is signed. Second: the candidates are compared exactly. Third: each line that stays is
written as it was. Memory: 24 bytes per document (size, where its line lies) and 300 per candidate (what it is called)
beside those of `deduplicate`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from athanor.base.errors import AthanorError
from athanor.base.files import explain_disk_error
from athanor.base.records import write_records
from athanor.base.settings import Settings
from athanor.base.textblock import TextBlock
from athanor.base.workers import current
from athanor.data.copies.clusters import Copy
from athanor.data.copies.deduplicate import NearCopyFinder, Signed, rank_by, sign
from athanor.data.copies.shingles import Places
from athanor.data.funnel import Funnel, Stage
from athanor.data.lines import COMPRESSED, Piece, Texts, open_bytes, read_lines, whole_lines

DOCUMENTS, DUPLICATES = "documents.jsonl", "duplicates.jsonl"
PIECE, GAP = 1 << 20, 1 << 16  # bytes read at once, and bytes between two pieces that are read rather than skipped


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
                for found in current().map(partial(_look_at, settings), _pieces(files), _describe):
                    files[found.file].add(found.starts_D, found.ends_D)
                    finder.add_signed(found.signed)
                    seen.sizes.append(found.signed.sizes_D)
                    seen.scores.append(found.scores_D)
                sizes_D = np.concatenate([np.zeros(0, dtype=np.int64), *seen.sizes])
                ranks_D = _ranks(settings.keep, sizes_D, seen.scores)
                names: dict[int, _Name] = {}
                copies = finder.find(ranks_D, partial(_read_candidates, files, names))
        return _write(files, folder, sizes_D, copies, names)
    except OSError as problem:
        raise explain_disk_error(problem, folder) from problem


@dataclass(frozen=True, slots=True)
class _Looked:
    """What the first reading finds in a piece: where its documents lie in their file, their keys, their scores."""

    file: int
    starts_D: Places
    ends_D: Places
    signed: Signed
    scores_D: NDArray[np.float64]


def _pieces(files: Sequence["Source"]) -> Iterator[tuple[int, Piece]]:
    """The files' pieces, with the number of their file."""
    return ((number, piece) for number, file in enumerate(files) for piece in whole_lines(file.path))


def _describe(item: tuple[int, Piece]) -> str:
    return item[1].describe()


def _look_at(settings: CopySettings, item: tuple[int, Piece]) -> _Looked:
    """The first reading of a piece; for any worker."""
    number, piece = item
    block = piece.read(read_lines)
    wanted = settings.score
    scores = [] if wanted is None else [_score(row, wanted) for row in block.rows()]
    signed = sign(block.texts, settings.threshold, settings.run)
    place = piece.before
    return _Looked(number, block.starts_D + place, block.ends_D + place, signed, np.array(scores, dtype=np.float64))


class Source:
    """One file of JSON lines, and after the first reading where each document's line lies (16 bytes each)."""

    def __init__(self, path: Path):
        self.path = path
        self._starts: list[Places] = []
        self._ends: list[Places] = []

    def add(self, starts_D: Places, ends_D: Places) -> None:
        """Note where the next documents' lines lie."""
        self._starts.append(starts_D)
        self._ends.append(ends_D)

    @cached_property
    def starts_D(self) -> Places:
        """Where each document's line begins."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *self._starts])

    @cached_property
    def ends_D(self) -> Places:
        """Where each document's line ends, in front of its line feed."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *self._ends])

    def __len__(self) -> int:
        return len(self.starts_D)

    def read_chosen(self, chosen_D: NDArray[np.bool_]) -> Iterator[bytes]:
        """The lines of the chosen documents, in order, about 1 MB at a time, a line feed behind each."""
        starts, ends = self.starts_D[chosen_D], self.ends_D[chosen_D] + 1
        with open_bytes(self.path) as file:
            place = first = 0
            while first < len(starts):
                last = _reach(starts, ends, first)
                place = _go_on(file, place, int(starts[first]), self.path.suffix in COMPRESSED)
                data = file.read(int(ends[last - 1]) - place)
                yield _join_pieces(data, starts[first:last] - place, ends[first:last] - place)
                place, first = place + len(data), last


def _join_pieces(data: bytes, starts: Places, ends: Places) -> bytes:
    """The lines between these places, a line feed behind the last, too."""
    apart = np.flatnonzero(starts[1:] != ends[:-1]) + 1  # lines that follow each other are one piece
    firsts, lasts = np.concatenate(([0], apart)), np.concatenate((apart, [len(ends)])) - 1
    spans, view = zip(starts[firsts].tolist(), ends[lasts].tolist(), strict=True), memoryview(data)
    joined = b"".join([view[start:end] for start, end in spans])
    return joined if joined.endswith(b"\n") else joined + b"\n"


def _reach(starts: Places, ends: Places, first: int) -> int:
    """How far one reading goes: over gaps of less than 64 kB, up to 1 MB unless a single line is longer."""
    last = first + 1
    behind = max(last, int(np.searchsorted(ends, starts[first] + PIECE, side="right")))
    wide = np.flatnonzero(starts[last:behind] - ends[first : behind - 1] > GAP)
    return last + int(wide[0]) if len(wide) else behind


def _go_on(file: IO[bytes], place: int, wanted: int, compressed: bool) -> int:
    """Move from a place in a file to a later one, and return it."""
    if not compressed:
        return file.seek(wanted)
    while place < wanted:
        place += len(file.read(min(PIECE, wanted - place)))
    return place


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


_Name = tuple[str, str, int]  # a document's id, source, and hash of the text


def _read_candidates(sources: list[Source], names: dict[int, _Name], numbers: Places) -> Iterator[Texts]:
    """The texts of the documents with these numbers, in order; what they are called is noted in `names`."""
    first = 0
    for source in sources:
        wanted = numbers[(numbers >= first) & (numbers < first + len(source))]
        chosen_D = np.zeros(len(source), dtype=np.bool_)
        chosen_D[wanted - first] = True
        coming = iter(wanted.tolist())
        for lines in source.read_chosen(chosen_D):
            block = read_lines(lines, ("id", "source"))
            for place, number in enumerate(islice(coming, len(block.texts))):
                where = f"{source.path.name}#{number - first + 1}"
                name, origin = block.values(place, (where, where))
                text = block.texts.encoded(place) if isinstance(block.texts, TextBlock) else block.texts[place]
                names[number] = (str(name), str(origin), hash(text))
            yield block.texts
        first += len(source)


def _write(
    sources: list[Source], folder: Path, sizes_D: Places, copies: list[Copy], names: dict[int, _Name]
) -> dict[str, Any]:
    """Write the three files."""
    stays_D = np.ones(len(sizes_D), dtype=np.bool_)
    stays_D[[copy.removed for copy in copies]] = False
    with open(folder / DOCUMENTS, "wb") as out:
        for source, chosen_D in zip(sources, np.split(stays_D, np.cumsum(list(map(len, sources)))[:-1]), strict=True):
            for lines in source.read_chosen(chosen_D):
                out.write(lines)
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
