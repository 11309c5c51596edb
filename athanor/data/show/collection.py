"""What can be shown: an artifact that is made of documents, or was packed from some; or any files that can be read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from athanor.base.errors import AthanorError
from athanor.base.records import read_records
from athanor.data.document import Document, make_document
from athanor.data.funnel import read_funnel
from athanor.data.instruct.names import HELDOUT, TRAIN
from athanor.data.packing.mixture import MIXTURE
from athanor.data.reading.items import ReadLimits, SetAside
from athanor.data.reading.read import ReadSettings
from athanor.data.reading.readers import read_file
from athanor.data.reading.sources import find_sources
from athanor.data.shards import read_shards
from athanor.data.trace import TABLE, parts_of
from athanor.data.verdicts import DUPLICATES, FUNNEL, way_of
from athanor.store.artifact import Artifact, Store

Parts = Iterator[tuple[str, Document]]  # (part: train, heldout, the name of a mixture's source, …; document)
SOURCES = "sources."


@dataclass(frozen=True)
class Collection:
    """Documents with what is known of them.

    Attributes:
        name: what was asked for.
        read: reads the documents, from the beginning each time.
        total: how many there are, where that is known.
        funnels: of each step on the way, oldest first: step, artifact, stages.
        copies: files of removed copies on the way.
        origins: artifacts that hold the texts of what was removed.
        mixture: of each source its size, share and epochs as planned, and as each training read it.
    """

    name: str
    read: Callable[[], Parts]
    total: int | None = None
    funnels: list[dict[str, Any]] = field(default_factory=list)
    copies: list[Path] = field(default_factory=list)
    origins: list[Artifact] = field(default_factory=list)
    mixture: list[dict[str, Any]] = field(default_factory=list)


def of_artifact(artifact: Artifact) -> Collection:
    """The documents of an artifact.

    Raises:
        AthanorError: it is not made of documents, and was not packed from some that are still there.
    """
    if TRAIN in artifact.record["files"]:
        return Collection(artifact.id, lambda: _conversations(artifact), funnels=_funnels([artifact]))
    corpora = _corpora(artifact)
    ways = [way_of(corpus) for corpus in corpora.values()]
    way = list({one.id: one for one in (*(one for way in ways for one in way), artifact)}.values())
    totals = [corpus.measurements.get("documents", 0) + corpus.measurements.get("heldout_documents", 0)
              for corpus in corpora.values()]  # fmt: skip
    return Collection(
        artifact.id, lambda: _documents(corpora), sum(totals) or None, _funnels(way),
        [one.file(DUPLICATES) for one in way if DUPLICATES in one.record["files"]], way, _mixture(artifact),
    )  # fmt: skip


def _corpora(artifact: Artifact) -> dict[str, Artifact]:
    """What an artifact's documents are read from, by source of a mixture; the artifact itself where it holds them."""
    parts = parts_of(artifact)
    if parts and not any(name.endswith(TABLE) for files in parts.values() for name in files):
        return {"": artifact}
    store, parents = Store(artifact.path.parent.parent), artifact.record.get("parents", {})
    if parts and MIXTURE in artifact.record["files"]:
        packed = {role.removeprefix(SOURCES): store.get(parents[role]) for role in parents if role.startswith(SOURCES)}
        return {name: store.get(one.record["parents"]["corpus"]) for name, one in packed.items()}
    if parts and "corpus" in parents:
        return {"": store.get(parents["corpus"])}
    raise AthanorError(
        f"{artifact.id} is not made of documents", allowed="documents, corpora, conversations, packed shards, mixtures",
        fix="athanor lineage lists the artifacts",
    )  # fmt: skip


def _documents(corpora: dict[str, Artifact]) -> Parts:
    for name, corpus in corpora.items():
        for part in parts_of(corpus):
            for document in read_shards(corpus, part):
                yield (f"{name}/{part}" if name else part), document


def _conversations(artifact: Artifact) -> Parts:
    for part, name in (("train", TRAIN), ("heldout", HELDOUT)):
        if name not in artifact.record["files"]:
            continue
        for number, row in enumerate(read_records(artifact.file(name))):
            turns = [f"{turn['role']}: {turn.get('content') or ''}" for turn in row["messages"]]
            text = "\n".join([*turns, *(f"answer: {answer}" for answer in row.get("answers", ()))])
            yield part, make_document(text, f"{name}#{number + 1}", kind="conversation")


def _funnels(way: list[Artifact]) -> list[dict[str, Any]]:
    return [
        {"step": one.record.get("name", one.kind), "artifact": one.id, "stages": read_funnel(one.path)}
        for one in way if FUNNEL in one.record["files"]
    ]  # fmt: skip


def _mixture(artifact: Artifact) -> list[dict[str, Any]]:
    """The planned shares of a mixture, and beside each what every training in the store has read."""
    if MIXTURE not in artifact.record["files"]:
        return []
    rows = {name: {"name": name, **row, "read": []} for name, row in artifact.measurements["sources"].items()}
    for model in Store(artifact.path.parent.parent).all():
        if artifact.id in model.record["parents"].values():
            for name, row in model.measurements.get("sources", {}).items():
                known = {"model": model.id, "share": row["share"], "epochs": row["epochs"]}
                rows[name]["read"].append(known)
    return list(rows.values())


def of_path(path: str) -> Collection:
    """The documents in files, or in the folder that `athanor data copies` and `repeats` made.

    Raises:
        AthanorError: there is nothing of that name.
    """
    folder = Path(path).expanduser()
    made = folder / "documents.jsonl"
    if made.is_file() and (folder / FUNNEL).is_file():
        funnel = {"step": folder.name, "artifact": str(folder), "stages": read_funnel(folder)}
        copies = [folder / DUPLICATES] if (folder / DUPLICATES).is_file() else []
        return Collection(path, lambda: _lines(made), funnels=[funnel], copies=copies)
    found = list(find_sources(path))
    settings = ReadSettings(path=path)
    limits = ReadLimits(max_document_bytes=settings.max_document_bytes, max_line_bytes=settings.max_line_bytes)

    def read() -> Parts:
        for file in found:
            for item in read_file(file, limits):
                if not isinstance(item, SetAside):
                    yield "", item

    return Collection(path, read)


def _lines(path: Path) -> Parts:
    """Documents of a file of JSON lines, whatever else is in them."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            row = orjson.loads(line)
            where = f"{path.name}#{number}"
            meta = row["meta"] if isinstance(row.get("meta"), dict) else {}
            yield "", Document(
                id=str(row.get("id", where)), text=row["text"], source=str(row.get("source", where)),
                language=row.get("language"), meta=meta,
            )  # fmt: skip
