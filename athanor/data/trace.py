"""The way of one document: which artifacts hold it, and what became of it in those that do not."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.records import read_records
from athanor.base.settings import parse_settings
from athanor.data.cleaning.improve import judge_one
from athanor.data.cleaning.settings import CleanSettings
from athanor.data.document import Document
from athanor.data.packing.order import ReadingOrder, plan_of
from athanor.data.packing.pack import TokenFiles
from athanor.data.verdicts import DUPLICATES
from athanor.store.artifact import Artifact, Store

READ = "documents"
PARTS = (READ, "train", "heldout")
TABLE = "-documents.jsonl.zst"
STAGES = {"pretrain": "pretrained", "finetune": "finetuned"}
Places = dict[str, tuple[str, int]]  # by id: the part that holds it ('train', of a mixture 'web/train'), number in it


def parts_of(artifact: Artifact) -> dict[str, list[str]]:
    """The files that list an artifact's documents, by part; none for what is not made of documents."""
    found: dict[str, list[str]] = {}
    for name in sorted(artifact.record["files"]):
        folder, _, last = name.rpartition("/")
        for part in PARTS:
            if re.fullmatch(rf"{part}-(\d+|documents)\.jsonl\.zst", last):
                found.setdefault(f"{folder}/{part}".lstrip("/"), []).append(name)
    return found


def places_of(artifact: Artifact, ids: Collection[str]) -> Places:
    """Where in an artifact these documents stand."""
    places: Places = {}
    for part, files in parts_of(artifact).items():
        number = 0
        for name in files:
            for row in read_records(artifact.file(name)):
                if row["id"] in ids:
                    places[row["id"]] = part, number
                number += 1
    return places


def made_from(artifacts: Collection[Artifact], roots: Collection[str]) -> list[Artifact]:
    """The artifacts with these names and all that was made from them, parents first."""
    reached = set(roots)
    ordered: list[Artifact] = []
    waiting = list(artifacts)
    while waiting:
        names = {one.id for one in waiting}
        ready = [one for one in waiting if names.isdisjoint(one.record["parents"].values())]
        reached |= {one.id for one in ready if not reached.isdisjoint(one.record["parents"].values())}
        ordered += [one for one in ready if one.id in reached]
        waiting = [one for one in waiting if one not in ready]
    return ordered


def trace(store: Store, identity: str) -> list[dict[str, Any]]:
    """One row for each artifact on a document's way, parents first: artifact, name, kind, fate, and its details.

    Fates: read, kept, held out (number), copy (of what, similarity), dropped (reason), packed (split, tokens), learnt
    (steps), used (by what is made from those above).

    Raises:
        AthanorError: the store holds no such document.
    """
    artifacts = list(store.all())
    documents = {one.id: found for one in artifacts if (found := _document_in(one, identity))}
    if not documents:
        raise AthanorError(
            f"no document of {store.root} has the id {identity!r}",
            fix="athanor why TEXT names ids; so does athanor remove TEXT, which changes nothing by itself",
        )
    rows: list[dict[str, Any]] = []
    alive: dict[str, Places] = {}  # artifacts that hold it
    taught = set[str]()
    for artifact in made_from(artifacts, documents):
        row = {"artifact": artifact.id, "name": artifact.record.get("name", artifact.kind), "kind": artifact.kind}
        parents = artifact.record["parents"].values()
        if parts_of(artifact):
            alive[artifact.id] = places_of(artifact, {identity})
            before = next((documents[parent] for parent in parents if parent in documents), None)
            if not alive[artifact.id] and not any(alive.get(parent) for parent in parents):
                continue  # it was gone before
            rows.append({**row, **_fate(artifact, identity, alive[artifact.id], before)})
        elif any(alive.get(parent) or parent in taught for parent in parents):
            taught.add(artifact.id)
            rows.append({**row, **_lesson(store, artifact, identity, alive)})
    return rows


def _document_in(artifact: Artifact, identity: str) -> Document | None:
    """The document as it was read, of an artifact that reads."""
    for name in parts_of(artifact).get(READ, []):
        for row in read_records(artifact.file(name)):
            if row["id"] == identity:
                return Document.from_row(row)
    return None


def _fate(artifact: Artifact, identity: str, places: Places, read: Document | None) -> dict[str, Any]:
    """What became of the document in an artifact made of documents."""
    if identity in places:
        part, number = places[identity]
        name = part.rpartition("/")[2]
        if any(file.endswith(TABLE) for file in parts_of(artifact)[part]):
            starts = TokenFiles(artifact.path / part.rpartition("/")[0], name).starts_D
            span = [int(starts[number]), int(starts[number + 1])]
            return {"fate": "packed", "part": part, "number": number, "tokens": span}
        fate = {READ: "read", "train": "kept", "heldout": "held out"}[name]
        return {"fate": fate, "part": part, "number": number}
    if DUPLICATES in artifact.record["files"]:
        for row in read_records(artifact.file(DUPLICATES)):
            if row["removed"] == identity:
                return {"fate": "copy", "of": row["kept_source"], "id": row["kept"], "similarity": row["similarity"]}
    if artifact.record["step"] == "clean" and read is not None:
        settings = parse_settings(CleanSettings, artifact.record["settings"], artifact.id)
        return {"fate": "dropped", "reason": judge_one(read, settings)}
    return {"fate": "dropped", "reason": None}


def _lesson(store: Store, artifact: Artifact, identity: str, alive: Mapping[str, Places]) -> dict[str, Any]:
    """The steps at which a model read the document; of everything else, that it is made from it."""
    record = artifact.record
    shards = record["parents"].get("shards")
    if record["step"] not in STAGES or not alive.get(shards) or not (plan := plan_of(artifact)):
        return {"fate": "used"}
    part, number = alive[shards][identity]
    source, _, split = part.rpartition("/")
    if split != "train":
        return {"fate": "used"}
    folder = store.get(shards).path
    starts = TokenFiles(folder / source).starts_D
    order = ReadingOrder(folder, {STAGES[record["step"]]: plan}, None)
    steps = order.of_document(source, number, 0, int(starts[number + 1] - starts[number]))
    return {"fate": "learnt", "steps": next(iter(steps.values()), [])}


def all_documents(artifact: Artifact) -> Iterator[Document]:
    """What an artifact that reads has read, in order."""
    for name in parts_of(artifact).get(READ, []):
        yield from map(Document.from_row, read_records(artifact.file(name)))


def copies_among(artifacts: Collection[Artifact], ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Documents that were taken for copies of these, or these for copies of them, on any artifact's way, however far.

    Returns:
        id to a row of duplicates.jsonl that joins it to the others.
    """
    rows = [
        row for artifact in artifacts if DUPLICATES in artifact.record["files"]
        for row in read_records(artifact.file(DUPLICATES))
    ]  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    known = set(ids)
    while True:
        near = {
            other: row for row in rows for one, other in ((row["removed"], row["kept"]), (row["kept"], row["removed"]))
            if one in known and other not in known
        }  # fmt: skip
        if not near:
            return found
        found |= near
        known |= near.keys()
