"""The step `clean`: documents become a corpus: repaired, judged, masked, without copies, a part held out."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.base.records import open_compressed, read_record, read_records, write_records
from athanor.base.settings import Settings
from athanor.base.workers import current
from athanor.data.cleaning.improve import STAGES, Improved, improver
from athanor.data.cleaning.settings import CleanSettings
from athanor.data.copies.clusters import Copy
from athanor.data.copies.deduplicate import NearCopyFinder, in_batches, rank_by
from athanor.data.copies.shingles import Places
from athanor.data.document import Document, document_of_facts
from athanor.data.funnel import Funnel, Stage, describe_reasons
from athanor.data.lines import Piece, open_bytes, whole_lines
from athanor.data.rules.chinese import ChineseLimits
from athanor.data.rules.published import PublishedLimits
from athanor.data.shards import ShardWriter, shard_names
from athanor.data.split import boundary
from athanor.store.artifact import Artifact

MEGA = 1e6
KEPT_LEVEL = -1  # of compression: it is written and read again at once
KEPT = "kept.jsonl.zst"  # in .work: what passed the filters, before near copies are removed


@dataclass
class _Kept:
    """What stays in memory of the documents that passed the filters: under 600 bytes each.

    Lists are indexed by the document's number.
    """

    names: list[tuple[str, str]] = field(default_factory=list)  # id, source
    sizes: list[int] = field(default_factory=list)  # bytes of text
    hashes: list[str] = field(default_factory=list)  # of the normalised text
    by_hash: dict[str, int] = field(default_factory=dict)


def clean_documents(
    settings: CleanSettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Turn the documents of `parents["documents"]` into train-*.jsonl.zst and heldout-*.jsonl.zst.

    Also writes duplicates.jsonl (removed, kept, similarity) and funnel.json.

    Raises:
        AthanorError: no document is left; the message names the reasons and the settings that relax them.
    """
    work = folder / ".work"
    work.mkdir(exist_ok=True)
    source = parents["documents"]
    funnel = Funnel(*STAGES, "exact copies", "near copies")
    kept, masked, languages = _Kept(), Counter[str](), Counter[str]()
    removed: list[dict[str, Any]] = []
    progress.start("clean", total=source.measurements.get("text_bytes", 0) / MEGA or None, unit="MB")
    pieces = chain.from_iterable(whole_lines(source.file(name)) for name in shard_names(source, "documents"))
    with NearCopyFinder(work, settings.copy_threshold, settings.copy_run) as finder:
        with open_compressed(work / KEPT, KEPT_LEVEL) as file:
            for found in current().map(improver(settings), pieces, Piece.describe):
                funnel.add(found.funnel)
                masked.update(found.masked)
                new = np.flatnonzero(_keep_new(found, kept, funnel["exact copies"], removed))
                finder.add_signed(found.signed.chosen(new))
                languages.update(found.languages[number] for number in new)
                file.write(b"".join([found.lines[number] for number in new]))
                progress.advance(found.bytes_in / MEGA)
        progress.finish(kept=len(kept.sizes))
        if not kept.sizes:
            funnel.write(folder)
            raise _nothing_left(funnel, settings)
        copies = finder.find(rank_by(np.array(kept.sizes)), lambda numbers: in_batches(_texts(work / KEPT, numbers)))
    _record_near_copies(copies, kept, funnel["near copies"], removed)
    write_records(folder / "duplicates.jsonl", removed)
    funnel.write(folder)
    written = _write_split(settings, kept, {copy.removed for copy in copies}, folder, work / KEPT)
    return {
        **written, "copies_exact": len(removed) - len(copies), "copies_near": len(copies),
        "masked": dict(sorted(masked.items())), "languages": dict(sorted(languages.items())),
    }  # fmt: skip


def _keep_new(found: Improved, kept: _Kept, stage: Stage, removed: list[dict[str, Any]]) -> NDArray[np.bool_]:
    """Which documents of a piece have a text that no document before them has; these are remembered."""
    new = np.zeros(len(found.names), dtype=np.bool_)
    sizes = found.signed.sizes_D.tolist()
    for number, (name, size, digest) in enumerate(zip(found.names, sizes, found.hashes, strict=True)):
        stage.enter(size)
        first = kept.by_hash.setdefault(digest, len(kept.sizes))
        if first < len(kept.sizes):
            removed.append(_copy_row("exact", name, kept.names[first], 1.0))
            stage.drop("exact copy", size, name[1], f"of {kept.names[first][1]}")
            continue
        new[number] = True
        kept.names.append(name)
        kept.sizes.append(size)
        kept.hashes.append(digest)
        stage.leave(size)
    return new


def _texts(path: Path, numbers: Places) -> Iterator[str]:
    """The texts of the rows with these numbers, in order."""
    wanted = set(numbers.tolist())
    with open_bytes(path) as file:
        for number, line in enumerate(file):
            if number in wanted:
                yield read_record(line)["text"]


def _copy_row(kind: str, removed: tuple[str, str], kept: tuple[str, str], similarity: float) -> dict[str, Any]:
    """One row of duplicates.jsonl; rows with the same `kept` are one cluster."""
    return {
        "kind": kind, "removed": removed[0], "removed_source": removed[1],
        "kept": kept[0], "kept_source": kept[1], "similarity": round(similarity, 4),
    }  # fmt: skip


def _record_near_copies(copies: list[Copy], kept: _Kept, stage: Stage, removed: list[dict[str, Any]]) -> None:
    by_number = {copy.removed: copy for copy in copies}
    for number, size in enumerate(kept.sizes):
        stage.enter(size)
        copy = by_number.get(number)
        if copy is None:
            stage.leave(size)
            continue
        removed.append(_copy_row("near", kept.names[number], kept.names[copy.kept], copy.similarity))
        stage.drop("near copy", size, kept.names[number][1], f"{copy.similarity:.2f} of {kept.names[copy.kept][1]}")


def choose_heldout(hashes: list[str], sizes: list[int], gone: set[int], share: float, most_bytes: int) -> set[int]:
    """Numbers of the documents kept apart: those whose hash is smallest; at least one, never all.

    The choice depends on each text alone (and on the limit in bytes), so a corpus that grows keeps its split.
    """
    there = sorted((hashes[number], number) for number in range(len(hashes)) if number not in gone)
    chosen: set[int] = set()
    total = 0
    for digest, number in there[:-1]:
        if chosen and int(digest, 16) >= share * 16 ** len(digest):
            break
        if chosen and total + sizes[number] > most_bytes:
            continue
        chosen.add(number)
        total += sizes[number]
    return chosen


def _write_split(settings: CleanSettings, kept: _Kept, gone: set[int], folder: Path, source: Path) -> dict[str, Any]:
    """Write train and held-out shards from what passed; a single document is itself cut in two."""
    heldout = choose_heldout(kept.hashes, kept.sizes, gone, settings.heldout_share, settings.heldout_most_bytes)
    with ShardWriter(folder, "train") as train, ShardWriter(folder, "heldout") as apart:
        if not heldout:
            left = next(row for number, row in enumerate(read_records(source)) if number not in gone)
            first, last = _cut_in_two(Document.from_row(left))
            train.write(first)
            apart.write(last)
        else:
            with open_bytes(source) as file:
                for number, line in enumerate(file):
                    if number not in gone:
                        (apart if number in heldout else train).write_line(line, kept.sizes[number])
    return {
        "documents": train.documents, "text_bytes": train.bytes,
        "heldout_documents": apart.documents, "heldout_bytes": apart.bytes,
    }  # fmt: skip


def _cut_in_two(document: Document) -> tuple[Document, Document]:
    """About the first nine tenths of a document, and the rest.

    Raises:
        AthanorError: it is a single character.
    """
    text = document.text
    place = boundary(text, max(1, int(len(text) * 0.9)))
    if not text[place:].strip():
        place = max(1, len(text.rstrip()) - 1)
    if not text[:place].strip() or not text[place:].strip():
        raise AthanorError(f"{document.source} is the only document and too short to learn from", fix="add more text")
    return tuple(  # type: ignore[return-value]
        document_of_facts(part, f"{document.source}/{number}", document.meta, document.language)
        for number, part in ((1, text[:place]), (2, text[place:]))
    )


def _nothing_left(funnel: Funnel, settings: CleanSettings) -> AthanorError:
    reasons = funnel.reasons()
    first = reasons[0][0] if "(" in reasons[0][0] else "too few words (minimum_words)"
    setting = first.rsplit("(", 1)[1].rstrip(")")
    homes: dict[str, type[Settings]] = {"published": PublishedLimits, "chinese": ChineseLimits}
    homes = homes if settings.rules == "published" else {}
    home = next((name for name, limits in homes.items() if setting in limits.model_fields), "filters")
    where = setting if setting in CleanSettings.model_fields else f"{home}.{setting}"
    count = funnel["repair"].documents_in
    return AthanorError(
        f"none of {count} documents passed the filters: {describe_reasons(reasons)}",
        allowed="the setting that decides stands in brackets behind each reason",
        fix=f"relax the most frequent one: {where}; or name better documents",
    )
