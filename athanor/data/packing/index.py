"""The step that builds the document index: the training texts, where each came from, and when a model read it.

Over one packed corpus, or over a mixture and all its sources. What it answers: `explain`.
"""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from athanor.base.errors import AthanorError
from athanor.base.files import write_json
from athanor.base.progress import Progress
from athanor.base.records import encode_record, read_records
from athanor.base.settings import Settings
from athanor.data.instruct.names import TRAIN
from athanor.data.packing.mixture import MIXTURE
from athanor.data.packing.order import PACKING, ReadingOrder, keep_order, plan_of
from athanor.data.shards import read_shards
from athanor.data.verdicts import copies_of, filters_of
from athanor.store.artifact import Artifact, several
from athanor.store.index_build import SHARD_BYTES, build_index

CONVERSATION = "conversation #"
READINGS = "readings.json"
INDEX, ORDER = "index", "order"
STAGES = ("pretrained", "finetuned")


class IndexSettings(Settings):
    """How the index is cut."""

    shard_bytes: int = pydantic.Field(default=SHARD_BYTES, ge=1 << 16, le=1 << 30)
    """Text per suffix array; building takes about seven times as much memory, fewer arrays answer faster."""


def index_documents(
    settings: IndexSettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Index every training document and conversation, and keep what tells at which steps a token was read.

    Parents: the corpus and the shards packed from it, or a mixture and the corpora of its sources by their names in it;
    the conversations; the models that learnt from them (pretrained, finetuned).

    Raises:
        AthanorError: corpora and shards do not belong together.
    """
    corpora = _corpora(parents)
    (folder / INDEX).mkdir()
    keep_order(parents["shards"], folder / ORDER)
    sources: list[dict[str, Any]] = []
    measured = build_index(folder / INDEX, _texts(corpora, parents, sources), progress, settings.shard_bytes)
    (folder / "tokenizer.json").write_bytes(parents["pretrained"].file("tokenizer.json").read_bytes())
    packed = "finetuned" in parents and PACKING in parents["finetuned"].record["files"]
    if packed:
        (folder / PACKING).write_bytes(parents["finetuned"].file(PACKING).read_bytes())
    plans = {role: plan for role in STAGES if role in parents and (plan := plan_of(parents[role]))}
    packing = np.load(folder / PACKING) if packed else None
    read = ReadingOrder(folder / ORDER, plans, packing).measured()
    documents = sum(source["documents"] for source in sources)
    write_json(folder / READINGS, {"plans": plans, "sources": sources, "documents": documents, "read": read})
    return {**measured, "read": read}


def _corpora(parents: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """The corpora by their names in the mixture; a single one has the empty name.

    Raises:
        AthanorError: there are more or fewer than the shards were packed from.
    """
    shards, sources = parents["shards"], several(parents, "sources")
    if MIXTURE not in shards.record["files"]:
        if "corpus" not in parents or sources:
            raise AthanorError(
                f"{shards.id} was packed from one corpus", allowed="from: {corpus: a step, …} without sources",
                fix="name the corpus that the step pack read",
            )  # fmt: skip
        return {"": parents["corpus"]}
    names = sorted({name.partition("/")[0] for name in shards.record["files"] if "/" in name})
    if "corpus" in parents or sorted(sources) != names:
        raise AthanorError(
            f"{shards.id} is a mixture of {', '.join(names)}",
            allowed="from: {sources: {" + ", ".join(f"{name}: its corpus" for name in names) + "}, …} without corpus",
            fix=f"not named: {', '.join(sorted(set(names) - set(sources))) or 'none'}; "
            f"not in it: {', '.join(sorted(set(sources) - set(names))) or 'none'}",
        )
    return {name: sources[name] for name in names}


def _texts(
    corpora: Mapping[str, Artifact], parents: Mapping[str, Artifact], sources: list[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    """(name, text) of everything that was trained on; a document's name is a row of JSON that says what is known of it.

    `sources` gets a row for each corpus: name, corpus, number of its first document, filters, documents.
    """
    number = 0
    for name, corpus in corpora.items():
        table = f"{name}/train-documents.jsonl.zst".lstrip("/")
        rows, copies = read_records(parents["shards"].file(table)), copies_of(corpus)
        first = number
        for document, row in zip_longest(read_shards(corpus, "train"), rows):
            if document is None or row is None or document.id != row["id"]:
                raise AthanorError(
                    f"{parents['shards'].id} was not packed from {corpus.id}: they part at document {number}",
                    fix="name the corpus that the step pack read" + (f" for {name}" if name else ""),
                )
            row = {
                "source": document.source, "id": document.id, "language": document.language, "kind": document.kind,
                "copies": copies[document.id],
            }  # fmt: skip
            yield encode_record(row)[:-1], document.text
            number += 1
        known = {"name": name, "corpus": corpus.id, "first": first, "documents": number - first}
        sources.append({**known, "filters": filters_of(corpus)})
    if "conversations" in parents:
        for number, row in enumerate(read_records(parents["conversations"].file(TRAIN))):
            name = encode_record({"source": f"{CONVERSATION}{number}"})[:-1]
            yield name, "\n".join(turn["content"] for turn in row["messages"])
