"""Taking documents out of a store: which artifacts know them, and making those again without.

What is removed is remembered by the store (`data.reading.removed`): every later run leaves it out too.
"""

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.base.settings import parse_settings
from athanor.data.document import Document
from athanor.data.reading.removed import add_removed, read_removed, text_hash
from athanor.data.reading.sources import find_sources
from athanor.data.trace import READ, all_documents, copies_among, made_from, parts_of, places_of
from athanor.recipes.dial import Choice
from athanor.recipes.runner import PlannedStep, leave_out, make_artifact, name_step
from athanor.recipes.steps import step_named
from athanor.store.artifact import Artifact, Store

SHORTEST_TEXT = 12  # characters; what is shorter names no document
MOST_NAMED = 1_000
LEARNING = ("quality",)  # steps that make documents and yet learn from those they read


@dataclass(frozen=True)
class Stale:
    """An artifact that was made from a removed document.

    Attributes:
        holds: "text" where the document stands in it, "learnt" where it was made from one that holds it, "" where the
            document was dropped before: it is stale in name only.
        recipes: names of the recipes whose newest run made it; of none: a newer artifact has taken its place.
    """

    artifact: Artifact
    holds: str
    recipes: tuple[str, ...]


@dataclass(frozen=True)
class Removal:
    """Documents to be taken out, and what that touches, parents first.

    Attributes:
        documents: rows of id, source, text (its hash), path (what was read), why.
        stale: all artifacts on their way.
    """

    documents: list[dict[str, Any]]
    stale: list[Stale]


def find_removal(store: Store, targets: Sequence[str], with_copies: bool, progress: Progress) -> Removal:
    """What removing these documents would touch; nothing is changed.

    Args:
        targets: each an id, a source, a file on disk, or a text that stands in the documents. None at all: what was
            removed before.
        with_copies: also what was removed as a copy of them, or they as a copy of it: it would stand in for them.

    Raises:
        AthanorError: nothing has such a name or text, or a text stands in too many documents.
    """
    artifacts = list(store.all())
    readers = [one for one in artifacts if READ in parts_of(one)]
    named = _named(readers, targets, progress) if targets else _named_before(store, readers, progress)
    near = copies_among(artifacts, [row["id"] for row in named]) if with_copies else {}
    reasons = {row["text"]: "the same text" for row in named}
    reasons |= {row["id"]: row["why"] for row in named}
    reasons |= {other: f"{row['kind']} copy ({row['similarity']:.2f})" for other, row in near.items()}
    rows = _rows(readers, lambda one: reasons.get(one.id) or reasons.get(text_hash(one.text)), progress)
    return Removal(rows, _stale(store, artifacts, {row["id"] for row in rows}))


def _named(readers: Collection[Artifact], targets: Sequence[str], progress: Progress) -> list[dict[str, Any]]:
    """The documents that each target names: by id, source or file; else by a text in them."""
    names = {target: _names_of(target, readers) for target in targets}
    texts = [target for target in targets if len(target.strip()) >= SHORTEST_TEXT]

    def reasons(one: Document) -> set[tuple[str, str]]:
        by_name = {(target, "named") for target in targets if _is_named(one, names[target])}
        return by_name | {(text, "holds the text") for text in texts if text in one.text}

    rows = _rows(readers, reasons, progress)
    found = []
    for target in targets:
        for why in ("named", "holds the text"):
            chosen = [{**row, "why": why} for row in rows if (target, why) in row["why"]]
            if chosen:
                break
        if not chosen or len(chosen) > MOST_NAMED:
            raise AthanorError(
                f"{target[:60]!r} is no id, source or file, and stands in {len(chosen) or 'no'} documents",
                allowed=f"what names or stands in 1 to {MOST_NAMED:,} documents; a text of {SHORTEST_TEXT} characters "
                "or more", fix="athanor why TEXT tells ids and sources",
            )  # fmt: skip
        found += chosen
    return found


def _named_before(store: Store, readers: Collection[Artifact], progress: Progress) -> list[dict[str, Any]]:
    hashes = {row["text"]: row["why"] for row in read_removed(store)}
    if not hashes:
        raise AthanorError("nothing was removed from this store yet", fix="athanor remove DOCUMENT")
    return _rows(readers, lambda one: hashes.get(text_hash(one.text)), progress)


def _names_of(target: str, readers: Collection[Artifact]) -> set[str]:
    """The target itself, and where it is a file on disk the names that reading gave it."""
    path = Path(target).expanduser()
    names = {target}
    try:
        is_file = path.is_file()
    except OSError:  # a text too long for a name
        is_file = False
    if is_file:
        for reader in readers:
            root = str(reader.record["settings"].get("path", ""))
            try:
                names |= {one.name for one in find_sources(root) if one.path.resolve() == path.resolve()}
            except AthanorError:
                continue  # what was read is not there any more
    return names


def _is_named(document: Document, names: Collection[str]) -> bool:
    file, mark, _ = document.source.rpartition("#")  # rows.jsonl#12: a row of a file
    return document.id in names or document.source in names or bool(mark and file in names)


def _rows(readers: Collection[Artifact], why: Callable[[Document], Any], progress: Progress) -> list[dict[str, Any]]:
    """Rows of the documents for which `why` gives a reason, from everything that was read, each once for each path."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for reader in readers:
        path = str(reader.record["settings"]["path"])
        progress.start("looking through documents", reader.measurements.get("documents"), "documents")
        for document in all_documents(reader):
            progress.advance(1)
            reason = why(document)
            if reason:
                found[(document.id, path)] = {
                    "id": document.id, "source": document.source, "text": text_hash(document.text), "path": path,
                    "why": reason, "bytes": document.bytes,
                }  # fmt: skip
        progress.finish()
    return list(found.values())


def _stale(store: Store, artifacts: Collection[Artifact], ids: Collection[str]) -> list[Stale]:
    """Every artifact on the documents' way, and whether it knows them."""
    recipes: dict[str, list[str]] = {}
    for recipe in store.recipes():
        for name in store.remembered(recipe).values():
            recipes.setdefault(name, []).append(recipe)
    readers = [one for one in artifacts if READ in parts_of(one) and places_of(one, ids)]
    knows: dict[str, str] = {}
    found = []
    for artifact in made_from(artifacts, [one.id for one in readers]):
        above = [knows.get(parent, "") for parent in artifact.record["parents"].values()]
        if parts_of(artifact):
            knows[artifact.id] = "text" if places_of(artifact, ids) else ""
        if (
            not knows.get(artifact.id)
            and any(above)
            and (not parts_of(artifact) or artifact.record["step"] in LEARNING or "learnt" in above)
        ):
            knows[artifact.id] = "learnt"
        found.append(Stale(artifact, knows.get(artifact.id, ""), tuple(recipes.get(artifact.id, ()))))
    return found


def rebuild(store: Store, removal: Removal, progress: Progress) -> dict[str, str]:
    """Make everything again that the newest run of a recipe made from the documents, without them.

    The list of what is removed is written first: a rebuild that was stopped goes on where it was, and a run of the
    recipe does the same. The recipes' names point to the new artifacts when all are there.

    Returns:
        old artifact to new.

    Raises:
        AthanorError: a step refuses what is left, or what was read is not there any more.
    """
    removed = add_removed(store, [{key: row[key] for key in ("text", "path", "id", "source", "why")}
                                  for row in removal.documents])  # fmt: skip
    names: dict[str, str] = {}
    chosen = _current(removal.stale)
    try:
        for number, artifact in enumerate(chosen, 1):
            progress.check()
            planned = _again(artifact, names, removed)
            progress.note(f"[{number}/{len(chosen)}] {planned.name}: {artifact.id} → {planned.artifact}")
            if not store.has(planned.artifact):
                make_artifact(planned, store, progress)
            names[artifact.id] = planned.artifact
    finally:
        progress.close()
    for recipe in store.recipes():  # all of them: the newest stays the newest
        store.remember(recipe, {step: names.get(name, name) for step, name in store.remembered(recipe).items()})
    return names


def _current(stale: Sequence[Stale]) -> list[Artifact]:
    """Those of the newest runs of recipes, and what they were made from."""
    wanted = {one.artifact.id for one in stale if one.recipes}
    for one in reversed(stale):
        if one.artifact.id in wanted:
            wanted |= set(one.artifact.record["parents"].values())
    return [one.artifact for one in stale if one.artifact.id in wanted]


def _again(artifact: Artifact, names: Mapping[str, str], removed: Sequence[dict[str, Any]]) -> PlannedStep:
    """The step that made an artifact, with what was made again as its parents."""
    record = artifact.record
    settings = parse_settings(step_named(record["step"]).settings_class(), record["settings"], record["name"])
    parents = {role: names.get(parent, parent) for role, parent in record["parents"].items()}
    chosen = {key: Choice(record["settings"][key], reason) for key, reason in record["reasons"].items()}
    return name_step(record["name"], record["step"], leave_out(settings, removed), parents, chosen)


def delete_stale(store: Store, removal: Removal, names: Mapping[str, str]) -> list[str]:
    """Delete the old artifacts: those that were made again and those that no recipe's newest run made.

    Returns:
        their names.
    """
    gone = [one.artifact for one in removal.stale if names.get(one.artifact.id, "") != one.artifact.id]
    for artifact in reversed(gone):  # children first: what is left always has its parents
        shutil.move(artifact.path, store.work / f"deleted-{artifact.id}")
        shutil.rmtree(store.work / f"deleted-{artifact.id}")
    return [artifact.id for artifact in gone]
