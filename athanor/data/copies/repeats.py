"""Text that stood in the corpus before: repeated lines, paragraphs, and stretches of words, cut out of documents.

The first occurrence stays. Stretches: Lee et al. 2022, "Deduplicating training data makes language models better",
remove every stretch of at least 50 tokens that occurs again, found by a suffix array. The same stretches are found
here without one: a repeated stretch of at least 50 words is nothing but repeated runs of exactly 50 words, one beside
the other, and those are found by sorting hashes. A word is that of `shingles`, so case and punctuation do not matter.

Memory: lines and paragraphs 100 bytes for each that is different; stretches 1 byte per word, and 2 while the hashes
(8 bytes per word on disk) are sorted in 16 parts.

Shapes: D documents, W words of all documents.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field

from athanor.base.files import explain_disk_error
from athanor.base.settings import Settings
from athanor.data.copies.byteshingles import place_runs
from athanor.data.copies.files import DOCUMENTS
from athanor.data.copies.shingles import Hashes
from athanor.data.funnel import Funnel
from athanor.data.lines import read_rows

PARTS = 16
UNITS = {  # each with the line ends behind it
    "line": re.compile(r"[^\n]*\n|[^\n]+\Z"),
    "paragraph": re.compile(r"(?s).+?(?:\n\s*\n|\Z)"),
}


class RepeatSettings(Settings):
    """What is cut out when it stood in the corpus before."""

    unit: Literal["line", "paragraph", "words"] = "words"
    """Whole lines, whole paragraphs (between empty lines), or any stretch of words."""
    shortest: int = Field(default=50, ge=1)
    """The least words of a stretch; for lines and paragraphs the least letters."""


class Cut(NamedTuple):
    """A document after the cutting: its row, the text that stays, the text that goes (what was cut, line by line)."""

    source: Path
    row: dict[str, Any]
    stays: str
    goes: str


def remove_repeats(sources: Sequence[Path], folder: Path, settings: RepeatSettings) -> dict[str, Any]:
    """Write the documents of `sources` (JSON lines with a field "text") to documents.jsonl without what repeats.

    Texts in which nothing repeats stay as they are; documents of which no word is left are dropped. Also writes
    funnel.json, with examples of what was cut.

    Returns:
        documents, kept, changed, bytes_cut.

    Raises:
        AthanorError: a line is no JSON object with a text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _write(folder, cut_repeats(sources, folder, settings))
    except OSError as problem:
        raise explain_disk_error(problem, folder) from problem


def cut_repeats(sources: Sequence[Path], folder: Path, settings: RepeatSettings) -> Iterator[Cut]:
    """Every document of `sources`, in order, without what stood before; `folder` takes a file while it is read."""
    if settings.unit != "words":
        return _cut_units(sources, settings)
    with TemporaryDirectory(dir=folder, prefix=".repeats-") as work:
        again_W = _find_again(sources, Path(work) / "runs.bin", settings.shortest)
    return _cut_words(sources, again_W, settings.shortest)


def _cut_units(sources: Sequence[Path], settings: RepeatSettings) -> Iterator[Cut]:
    seen: set[bytes] = set()
    for path in sources:
        for rows in read_rows(path):
            for row in rows:
                stays: list[str] = []
                goes: list[str] = []
                for part in UNITS[settings.unit].findall(row["text"]):
                    core = part.strip()
                    if len(core) < settings.shortest:
                        stays.append(part)
                        continue
                    digest = hashlib.blake2b(core.encode(), digest_size=12).digest()
                    (goes if digest in seen else stays).append(part)
                    seen.add(digest)
                yield Cut(path, row, "".join(stays), "".join(goes))


def _find_again(sources: Sequence[Path], path: Path, width: int) -> NDArray[np.bool_]:
    """again_W: whether a run of `width` words that begins here stood somewhere before."""
    count = 0
    with open(path, "wb") as file:
        for source in sources:
            for rows in read_rows(source):
                runs_W = place_runs([row["text"].encode() for row in rows], width).runs_W
                file.write(runs_W.tobytes())
                count += len(runs_W)
    again_W = np.zeros(count, dtype=np.bool_)
    if not count:
        return again_W
    hashes_W = np.memmap(path, dtype=np.uint64, mode="r")
    for part in range(PARTS):
        places = _places_of_part(hashes_W, part)
        hashes = hashes_W[places]
        order = np.argsort(hashes, kind="stable")
        same = hashes[order][1:] == hashes[order][:-1]
        again_W[places[order[1:][same]]] = True
    return again_W


def _places_of_part(hashes_W: Hashes, part: int) -> NDArray[np.int64]:
    """Where the hashes of one sixteenth stand; 0 is no hash."""
    found = []
    for start in range(0, len(hashes_W), 1 << 20):
        some = hashes_W[start : start + (1 << 20)]
        found.append(np.flatnonzero((some >> np.uint64(60) == part) & (some != 0)) + start)
    return np.concatenate(found)


def _cut_words(sources: Sequence[Path], again_W: NDArray[np.bool_], width: int) -> Iterator[Cut]:
    done = 0
    for path in sources:
        for rows in read_rows(path):
            encoded = [row["text"].encode() for row in rows]
            placed = place_runs(encoded, width)
            place = 0
            for row, text, words in zip(rows, encoded, placed.words_D.tolist(), strict=True):
                again = again_W[done : done + words]
                if again.any():
                    edges = _stretches(again, width)
                    bounds = [(int(placed.starts_W[place + a]), int(placed.ends_W[place + b - 1])) for a, b in edges]
                    yield Cut(path, row, *_cut(text, bounds))
                else:
                    yield Cut(path, row, row["text"], "")
                done += words
                place += words


def _stretches(again: NDArray[np.bool_], width: int) -> list[tuple[int, int]]:
    """The words (first, behind the last) that repeated runs cover, in order and apart from each other."""
    found: list[tuple[int, int]] = []
    for first in np.flatnonzero(again).tolist():
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], first + width)
        else:
            found.append((first, first + width))
    return found


def _cut(text: bytes, bounds: list[tuple[int, int]]) -> tuple[str, str]:
    """(what stays, what goes)."""
    stays, goes, last = [], [], 0
    for start, end in bounds:
        stays.append(text[last:start])
        goes.append(text[start:end])
        last = end
    return b"".join([*stays, text[last:]]).decode(), b"\n".join(goes).decode()


def _write(folder: Path, cuts: Iterator[Cut]) -> dict[str, Any]:
    """Write documents.jsonl and funnel.json."""
    funnel = repeat_funnel()
    with open(folder / DOCUMENTS, "wb") as out:
        for cut in cuts:
            if count_cut(cut, funnel):
                out.write(orjson.dumps({**cut.row, "text": cut.stays}, option=orjson.OPT_APPEND_NEWLINE))
    funnel.write(folder)
    return repeat_figures(funnel)


def repeat_funnel() -> Funnel:
    """A funnel of documents, and by themselves the parts cut out of documents that stay."""
    return Funnel("repeats", "parts")


def count_cut(cut: Cut, funnel: Funnel) -> bool:
    """Count a document; False when no word of it is left."""
    stage, parts = funnel["repeats"], funnel["parts"]
    size, left = len(cut.row["text"].encode()), len(cut.stays.encode())
    stage.enter(size)
    source = str(cut.row.get("source", cut.row.get("id", stage.documents_in)))
    if cut.goes and not any(map(str.isalnum, cut.stays)):
        stage.drop("nothing new", size, source, cut.goes)
        return False
    stage.leave(size)
    if cut.goes:
        parts.enter(size)
        parts.drop("stood before", size - left, source, cut.goes)
    return True


def repeat_figures(funnel: Funnel) -> dict[str, Any]:
    """documents, kept, changed, bytes_cut."""
    stage, parts = funnel["repeats"], funnel["parts"]
    cut_bytes = sum(reason["bytes"] for reason in [*stage.reasons.values(), *parts.reasons.values()])
    return {
        "documents": stage.documents_in, "kept": stage.documents_out, "changed": parts.documents_in,
        "bytes_cut": cut_bytes,
    }  # fmt: skip
