"""Clusters of near copies, side by side, with what differs between them marked."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from athanor.base.progress import Progress
from athanor.base.records import read_records
from athanor.data.copies.deduplicate import NearCopyFinder, in_batches, rank_by
from athanor.data.copies.overlap import IDEOGRAPHS
from athanor.data.copies.shingles import Places
from athanor.data.show.collection import Collection
from athanor.data.trace import READ, all_documents, parts_of

WORDS = re.compile(rf"[{IDEOGRAPHS}]|[^\W{IDEOGRAPHS}]+|\s+|[^\w\s]")
COMPARED_LETTERS = 3_000  # of each text
CONTEXT = 60  # letters of what is equal beside a difference
MEMBERS = 4  # shown of a cluster
MONOTONOUS = 2  # a word that is every second one would take the square of its count to compare
Pieces = list[tuple[str, str]]  # ("same" or "only"; text), ("gap" or "rest"; how many letters)


def find_clusters(
    collection: Collection, most: int, threshold: float, progress: Progress
) -> tuple[int, list[dict[str, Any]]]:
    """How many clusters there are, and the largest of them: what was removed on the way here, else what stands here.

    Args:
        most: clusters to show; of the same size those with a difference first.
        threshold: least Jaccard similarity of word runs where nothing was removed before.

    Returns:
        rows of kept (id, source), size, and members: id, source, kind, similarity, kept and removed pieces; pieces are
        None where a text is not at hand.
    """
    if collection.copies:
        rows = [row for path in collection.copies for row in read_records(path)]
    else:
        rows = _rows_here(collection, threshold, progress)
    clusters: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        clusters.setdefault(row["kept"], []).append(row)
    ranked = sorted(clusters.values(), key=lambda one: (-len(one), all(row["similarity"] == 1 for row in one)))[:most]
    ids = {row[key] for cluster in ranked for row in cluster[:MEMBERS] for key in ("kept", "removed")}
    texts = _texts_of(collection, ids)
    return len(clusters), [_shown(cluster, texts) for cluster in ranked]


def _rows_here(collection: Collection, threshold: float, progress: Progress) -> list[dict[str, Any]]:
    """Copies among the documents of the collection itself."""
    names: list[tuple[str, str]] = []
    sizes: list[int] = []
    progress.start("near copies", collection.total, "documents")
    with TemporaryDirectory(prefix="athanor-show-") as work, NearCopyFinder(Path(work), threshold, 5) as finder:
        for _, document in collection.read():
            finder.add_one(document.text)
            names.append((document.id, document.source))
            sizes.append(document.bytes)
            progress.advance(1)
        progress.finish()
        copies = finder.find(rank_by(np.array(sizes)), lambda numbers: in_batches(_chosen(collection, numbers)))
    return [
        {"kind": "near", "removed": names[copy.removed][0], "removed_source": names[copy.removed][1],
         "kept": names[copy.kept][0], "kept_source": names[copy.kept][1], "similarity": round(copy.similarity, 4)}
        for copy in copies
    ]  # fmt: skip


def _chosen(collection: Collection, numbers: Places) -> Iterator[str]:
    wanted = set(numbers.tolist())
    return (document.text for number, (_, document) in enumerate(collection.read()) if number in wanted)


def _texts_of(collection: Collection, ids: set[str]) -> dict[str, str]:
    """The texts of these documents, from what was read first on the way, else from the collection itself."""
    readers = [one for one in collection.origins if READ in parts_of(one)]
    documents = (document for one in readers for document in all_documents(one))
    texts = {document.id: document.text for document in documents if document.id in ids}
    if len(texts) < len(ids):
        texts |= {one.id: one.text for _, one in collection.read() if one.id in ids and one.id not in texts}
    return texts


def _shown(cluster: list[dict[str, Any]], texts: Mapping[str, str]) -> dict[str, Any]:
    members = []
    for row in cluster[:MEMBERS]:
        kept, removed = texts.get(row["kept"]), texts.get(row["removed"])
        pair = differences(kept, removed) if kept is not None and removed is not None else (None, None)
        members.append({
            "id": row["removed"], "source": row["removed_source"], "kind": row["kind"],
            "similarity": row["similarity"], "kept_pieces": pair[0], "removed_pieces": pair[1],
        })  # fmt: skip
    return {"kept": cluster[0]["kept"], "source": cluster[0]["kept_source"], "size": len(cluster) + 1,
            "members": members}  # fmt: skip


def differences(one: str, other: str) -> tuple[Pieces, Pieces]:
    """The words (Chinese: characters) of two texts, those that stand in one of them only marked "only".

    Long stretches that are equal become a "gap" with the number of their letters, so that the differences can be seen;
    of long texts the first 3,000 letters from the first difference on are compared, what follows is the "rest".
    """
    pairs = enumerate(zip(one, other, strict=False))
    shared = next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))
    passed = max(0, shared - CONTEXT)
    passed = passed if passed > COMPARED_LETTERS // 2 else 0
    words, others = (WORDS.findall(text[passed : passed + COMPARED_LETTERS]) for text in (one, other))
    skipped = [("gap", str(passed))] if passed else []
    pieces: tuple[Pieces, Pieces] = ([*skipped], [*skipped])
    monotonous = max(Counter(others).values(), default=0) > len(others) / MONOTONOUS
    matcher = SequenceMatcher(a=words, b=others, autojunk=monotonous)
    codes = matcher.get_opcodes()
    for number, (kind, start, end, begin, stop) in enumerate(codes):
        if kind == "equal":
            text = "".join(words[start:end])
            for side in pieces:
                side += _shortened(text, first=number == 0, last=number == len(codes) - 1)
            continue
        for side, part in ((pieces[0], words[start:end]), (pieces[1], others[begin:stop])):
            if part:
                side.append(("only", "".join(part)))
    if min(len(one), len(other)) > passed + COMPARED_LETTERS:  # both were cut: where they end they differ by chance
        for side in pieces:
            if side[-1][0] == "only":
                side.pop()
    for text, side in zip((one, other), pieces, strict=True):
        shown = sum(int(piece) if what == "gap" else len(piece) for what, piece in side)
        if shown < len(text):
            side.append(("rest", str(len(text) - shown)))
    return pieces


def _shortened(text: str, first: bool, last: bool) -> Pieces:
    """What is equal, its middle left out where it is long."""
    head = 0 if first and not last else 2 * CONTEXT if first and last else CONTEXT
    tail = 0 if last else CONTEXT
    if len(text) <= head + tail + 20:
        return [("same", text)]
    pieces: Pieces = [("same", text[:head]), ("gap", f"{len(text) - head - tail}"), ("same", text[len(text) - tail :])]
    return [piece for piece in pieces if piece[1]]
