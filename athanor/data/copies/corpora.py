"""The steps `copies` and `repeats`: near copies, and text that stood before, taken out of a corpus.

What is held out stays held out: a training document that is nearly a held-out one goes, and so does what of a held-out
document stands in the training text, or evaluation would measure memory.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import Field

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.base.records import write_records
from athanor.base.settings import Settings
from athanor.base.workers import current
from athanor.data.copies.clusters import Copy
from athanor.data.copies.deduplicate import NearCopyFinder, Signed, in_batches, sign
from athanor.data.copies.repeats import RepeatSettings, count_cut, cut_repeats, repeat_figures, repeat_funnel
from athanor.data.copies.shingles import Places
from athanor.data.document import Document
from athanor.data.funnel import Funnel
from athanor.data.lines import Piece, whole_lines
from athanor.data.shards import ShardWriter, read_shards, shard_names
from athanor.store.artifact import Artifact, several

MEGA = 1e6
SPLITS = ("heldout", "train")  # in this order: a held-out document stays, its copy in the training text goes
OTHERS = "against"


class CorpusCopySettings(Settings):
    """What counts as a near copy, and which one stays."""

    threshold: float = Field(default=0.7, gt=0, le=1)
    """Documents whose word runs are at least this similar (Jaccard) are copies."""
    run: int = Field(default=5, ge=1)
    """Words (Chinese: characters) in a run."""
    keep: Literal["first", "longest"] = "longest"
    """Which of similar documents stays."""


def remove_corpus_copies(
    settings: CorpusCopySettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write `parents["corpus"]` without documents that nearly stand elsewhere in it or in `parents["against.…"]`.

    Documents of the others always stay where they are; they are taken to be free of copies among one another. Also
    writes duplicates.jsonl (removed, kept, similarity) and funnel.json.

    Raises:
        AthanorError: nothing is left.
    """
    corpus, others = parents["corpus"], several(parents, OTHERS)
    work = folder / ".work"
    work.mkdir(exist_ok=True)
    total = sum(_text_bytes(artifact) for artifact in (corpus, *others.values()))
    progress.start("signing documents", total=total / MEGA or None, unit="MB")
    names: list[tuple[str, str, int]] = []  # id, source, bytes
    groups: list[int] = []
    with NearCopyFinder(work, settings.threshold, settings.run) as finder:
        signing = partial(_sign, settings.threshold, settings.run)
        for group, signed, some in current().map(signing, _pieces(corpus, others), _describe):
            progress.advance(int(signed.sizes_D.sum()) / MEGA)
            finder.add_signed(signed)
            sizes = signed.sizes_D.tolist()
            names += [(name, source, size) for (name, source), size in zip(some, sizes, strict=True)]
            groups += [group] * len(sizes)
        progress.finish()
        ranks_D = _ranks(np.array(groups), np.array([size for _, _, size in names]), settings.keep)
        copies = finder.find(ranks_D, lambda numbers: in_batches(_chosen(_all_documents(corpus, others), numbers)))
    first = groups.index(1) if 1 in groups else groups.index(2)
    by_number = {copy.removed: copy for copy in copies if copy.removed >= first}
    rows = [_row(copy, names) for copy in by_number.values()]
    write_records(folder / "duplicates.jsonl", rows)
    bands = Counter(f"{int(10 * copy.similarity + 1e-9) / 10:.1f}" for copy in by_number.values())
    figures = {"copies_near": len(rows), "copies_by_similarity": dict(sorted(bands.items()))}
    return {**_write_left(corpus, by_number, names, first, folder), **figures}


def _text_bytes(artifact: Artifact) -> int:
    known = artifact.measurements
    return int(known.get("text_bytes", 0)) + int(known.get("heldout_bytes", 0))


def _all_documents(corpus: Artifact, others: Mapping[str, Artifact]) -> Iterator[tuple[int, Document]]:
    """(group, document): 0 of the others, 1 held out, 2 to train on."""
    for artifact in others.values():
        for document in read_shards(artifact, "train"):
            yield 0, document
    for group, split in enumerate(SPLITS, 1):
        for document in read_shards(corpus, split):
            yield group, document


def _pieces(corpus: Artifact, others: Mapping[str, Artifact]) -> Iterator[tuple[int, Piece]]:
    """The same documents in the same order, as pieces of their files."""
    shards = [(0, artifact, "train") for artifact in others.values()]
    shards += [(group, corpus, split) for group, split in enumerate(SPLITS, 1)]
    for group, artifact, split in shards:
        for name in shard_names(artifact, split):
            for piece in whole_lines(artifact.file(name)):
                yield group, piece


def _describe(item: tuple[int, Piece]) -> str:
    return item[1].describe()


def _sign(threshold: float, run: int, item: tuple[int, Piece]) -> tuple[int, Signed, list[tuple[str, str]]]:
    """The group, keys and sizes, ids and sources of a piece's documents; for any worker."""
    group, piece = item
    rows = piece.read(lambda data: [orjson.loads(line) for line in data.split(b"\n") if line])
    return group, sign([row["text"] for row in rows], threshold, run), [(row["id"], row["source"]) for row in rows]


def _ranks(groups_D: Places, sizes_D: Places, keep: str) -> Places:
    """rank_D: the others first, then what is held out, then the longest or the first."""
    sizes_D = sizes_D if keep == "longest" else np.zeros_like(sizes_D)
    ranks_D = np.empty(len(groups_D), dtype=np.int64)
    ranks_D[np.lexsort((np.arange(len(groups_D)), -sizes_D, groups_D))] = np.arange(len(groups_D))
    return ranks_D


def _chosen(documents: Iterable[tuple[int, Document]], numbers: Places) -> Iterator[str]:
    """The texts of the documents with these numbers, in order."""
    wanted = set(numbers.tolist())
    return (document.text for number, (_, document) in enumerate(documents) if number in wanted)


def _row(copy: Copy, names: list[tuple[str, str, int]]) -> dict[str, Any]:
    removed, kept = names[copy.removed], names[copy.kept]
    return {
        "kind": "near", "removed": removed[0], "removed_source": removed[1], "kept": kept[0], "kept_source": kept[1],
        "similarity": round(copy.similarity, 4),
    }  # fmt: skip


def _write_left(
    corpus: Artifact, copies: Mapping[int, Copy], names: list[tuple[str, str, int]], first: int, folder: Path
) -> dict[str, Any]:
    """Write the documents that stay and funnel.json."""
    funnel, written, number = Funnel(*(f"near copies, {split}" for split in SPLITS)), {}, first
    for split in SPLITS:
        stage = funnel[f"near copies, {split}"]
        with ShardWriter(folder, split) as writer:
            for document in read_shards(corpus, split):
                stage.enter(document.bytes)
                copy = copies.get(number)
                if copy is None:
                    stage.leave(document.bytes)
                    writer.write(document)
                else:
                    told = f"{copy.similarity:.2f} of {names[copy.kept][1]}"
                    stage.drop("near copy (threshold)", document.bytes, document.source, told)
                number += 1
        written[split] = writer
    funnel.write(folder)
    return _figures(written, corpus)


def _figures(written: Mapping[str, ShardWriter], corpus: Artifact) -> dict[str, Any]:
    """What every corpus says about itself.

    Raises:
        AthanorError: a part of it is empty.
    """
    for split, writer in written.items():
        if not writer.documents:
            raise AthanorError(
                f"nothing is left of the {split} documents of {corpus.id}",
                fix="look at the reasons in funnel.json; a larger heldout_share in the step clean holds more apart",
            )
    return {
        "documents": written["train"].documents, "text_bytes": written["train"].bytes,
        "heldout_documents": written["heldout"].documents, "heldout_bytes": written["heldout"].bytes,
        "languages": corpus.measurements.get("languages", {}),
    }  # fmt: skip


def remove_corpus_repeats(
    settings: RepeatSettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write `parents["corpus"]` without lines, paragraphs or stretches of words that stood before; and funnel.json.

    Raises:
        AthanorError: nothing is left.
    """
    corpus = parents["corpus"]
    paths = {split: [corpus.file(name) for name in shard_names(corpus, split)] for split in ("train", "heldout")}
    progress.start("repeats", total=_text_bytes(corpus) / MEGA or None, unit="MB")
    funnel = repeat_funnel()
    with ShardWriter(folder, "train") as train, ShardWriter(folder, "heldout") as heldout:
        for cut in cut_repeats([*paths["train"], *paths["heldout"]], folder, settings):
            document = Document.from_row(cut.row)
            progress.advance(document.bytes / MEGA)
            if count_cut(cut, funnel):
                (train if cut.source in paths["train"] else heldout).write(document.with_text(cut.stays))
    progress.finish()
    funnel.write(folder)
    figures = repeat_figures(funnel)
    return {
        **_figures({"train": train, "heldout": heldout}, corpus), "changed": figures["changed"],
        "bytes_cut": figures["bytes_cut"],
    }  # fmt: skip
