"""The step `decontaminate`: what a test will ask is taken out of the corpus, so that its score means something.

Around each item found, text is cut away and the rest kept, as for GPT-3 (Brown et al. 2020, appendix C); a document
that falls into too many pieces is dropped. What may be a paraphrase is reported, not removed. items.jsonl holds the
verdict on every item, so that an evaluation can tell the score of clean items from that of the others.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from athanor.base.errors import AthanorError
from athanor.base.files import hash_file, hash_json
from athanor.base.progress import Progress
from athanor.base.records import write_records
from athanor.base.settings import Settings
from athanor.data.copies.overlap import TOKEN, Item, Match, RareWords, Runs, too_short
from athanor.data.copies.verdicts import Verdict, write_verdicts
from athanor.data.document import Document, document_of_facts
from athanor.data.funnel import Funnel, shorten
from athanor.data.instruct.names import EXAM, HELDOUT
from athanor.data.reading.decode import Unreadable, decode_stream, find_encoding
from athanor.data.reading.items import BROKEN, SetAside
from athanor.data.reading.kinds import find_kind
from athanor.data.reading.rows import json_file_rows, json_rows
from athanor.data.reading.sources import SourceFile
from athanor.data.shards import ShardWriter, read_shards
from athanor.store.artifact import Artifact, several

MEGA = 1e6
LONGEST_ROW = 64_000_000  # bytes
HELD_OUT = (EXAM, HELDOUT)  # files of conversations kept apart
FIELDS = ("question", "prompt", "problem", "text", "instruction", "goal", "query", "sentence", "content", "input")


class DecontaminateSettings(Settings):
    """What must not be learned, and how it is found."""

    tasks: tuple[str, ...] = ()
    """Files of test items: .txt (one a line), .jsonl or .json, also with .gz or .zst; beside those of the parents
    `tasks`."""
    fields: tuple[str, ...] = FIELDS
    """Of a row, what is looked for: every one of these fields that it has, and what users say in `messages`."""
    run: int = Field(default=8, ge=3)
    """Words (Chinese: characters) in a run that is compared."""
    least_share: float = Field(default=0.7, gt=0, le=1)
    """Share of an item's runs that must be in a document."""
    action: Literal["cut", "drop", "report"] = "cut"
    """Cut the item and its surroundings out of the document, drop the whole document, or change nothing and report."""
    margin: int = Field(default=200, ge=0)
    """Letters cut away before and after an item."""
    most_pieces: int = Field(default=10, ge=1)
    """A document that falls into more is dropped."""
    shortest_piece: int = Field(default=200, ge=1)
    """Letters; a shorter piece is dropped."""
    paraphrase_share: float | None = Field(default=0.7, gt=0, le=1)
    """Share of an item's rare words within three of its lengths that is reported; null: nothing is looked for."""


def fingerprint(settings: DecontaminateSettings) -> str:
    """A hash that changes whenever a file of items does."""
    return hash_json([hash_file(_file(name)) for name in settings.tasks])


def decontaminate(
    settings: DecontaminateSettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write the corpus of `parents["corpus"]` without the items of the tasks: those of the files, and the held-out
    problems of the conversations `parents["tasks.…"]`.

    Also writes contaminated.jsonl (document, item, share, what was done), items.jsonl (the verdict on each item),
    paraphrases.jsonl and funnel.json.

    Raises:
        AthanorError: no task is given, a file of items is missing or holds none, or nothing is left of the corpus.
    """
    items = all_items(settings, parents)
    runs, corpus = Runs(items, settings.run), parents["corpus"]
    total = corpus.measurements.get("text_bytes", 0) + corpus.measurements.get("heldout_bytes", 0)
    progress.start("decontaminate", total=total / MEGA or None, unit="MB")
    funnel, found = Funnel("train", "heldout"), Found()
    written: dict[str, ShardWriter] = {}
    for prefix in ("train", "heldout"):
        with ShardWriter(folder, prefix) as writer:
            for document in read_shards(corpus, prefix):
                progress.advance(document.bytes / MEGA)
                for piece in clean_document(document, runs, settings, funnel, prefix, found):
                    writer.write(piece)
        written[prefix] = writer
    progress.finish(found=len(found.rows))
    funnel.write(folder)
    if not written["train"].documents:
        raise AthanorError(
            "nothing is left of the training documents", allowed="least_share up to 1", fix="look at contaminated.jsonl"
        )
    near = report_paraphrases(lambda: read_shards(corpus, "train"), runs, settings, found, folder, progress)
    write_records(folder / "contaminated.jsonl", found.rows)
    write_verdicts(folder, found.verdicts(items))
    return {
        "items": len(items), "items_too_short": runs.skipped, "items_found": len(found.items),
        "documents_touched": len({row["document"] for row in found.rows}), "paraphrases": near,
        "documents": written["train"].documents, "text_bytes": written["train"].bytes,
        "heldout_documents": written["heldout"].documents, "heldout_bytes": written["heldout"].bytes,
        "languages": corpus.measurements.get("languages", {}),
    }  # fmt: skip


def all_items(settings: DecontaminateSettings, parents: Mapping[str, Artifact]) -> list[Item]:
    """The items of the files, and of the parents that are tasks."""
    items = [item for name in settings.tasks for item in read_items(_file(name), settings.fields)]
    for name, artifact in several(parents, "tasks").items():
        held = next((file for file in HELD_OUT if file in artifact.record["files"]), None)
        if held is None:
            raise AthanorError(f"tasks.{name}: {artifact.id} holds no problems apart", allowed=", ".join(HELD_OUT))
        items += read_items(artifact.file(held), settings.fields, name)
    if not items:
        raise AthanorError("there are no test items to look for", allowed="tasks: files; from: {tasks: {name: a step}}")
    return items


class Found:
    """What was found so far: rows of contaminated.jsonl, the items, and for each document which items it holds.

    Attributes:
        trained, near: items found in training documents, word for word and in other words.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.items: set[int] = set()
        self.trained: set[int] = set()
        self.near: set[int] = set()
        self.by_document: dict[str, list[int]] = {}

    def verdicts(self, items: Sequence[Item]) -> Iterator[tuple[Item, Verdict]]:
        """Each item with the verdict on it."""
        for index, item in enumerate(items):
            if index in self.trained:
                yield item, "found"
            elif index in self.near:
                yield item, "paraphrase"
            else:
                yield item, "short" if too_short(item.text) else "clean"


def clean_document(
    document: Document, runs: Runs, settings: DecontaminateSettings, funnel: Funnel, prefix: str, found: Found
) -> Iterator[Document]:
    """What is left of a document: itself, pieces of it, or nothing."""
    stage = funnel[prefix]
    stage.enter(document.bytes)
    matches = runs.matches(document.text, settings.least_share)
    if not matches:
        stage.leave(document.bytes)
        yield document
        return
    spans = [span_of(document.text, match, settings.margin) for match in matches]
    pieces = pieces_left(document.text, spans, settings)
    done = "reported" if settings.action == "report" else "cut" if pieces else "dropped"
    found.by_document[document.id] = [match.item for match in matches]
    for match, (start, end) in zip(matches, spans, strict=True):
        item = runs.items[match.item]
        found.items.add(match.item)
        if prefix != "heldout":
            found.trained.add(match.item)
        found.rows.append({
            "document": document.id, "source": document.source, "part": prefix, "task": item.task,
            "item": item.number, "share": round(match.share, 4), "done": done, "asked": shorten(item.text),
            "text": shorten(document.text[start + settings.margin : end]),
        })  # fmt: skip
    if done == "dropped":
        stage.drop("holds test items", document.bytes, document.source, runs.items[matches[0].item].text)
        return
    if len(pieces) == 1:
        yield document.with_text(pieces[0])
    else:
        for number, piece in enumerate(pieces, 1):
            yield document_of_facts(piece, f"{document.source}/{number}", document.meta, document.language)
    stage.leave(sum(len(piece.encode()) for piece in pieces))


def pieces_left(text: str, spans: list[tuple[int, int]], settings: DecontaminateSettings) -> list[str]:
    """What is left of a text that holds items; nothing where it is dropped."""
    if settings.action == "report":
        return [text]
    pieces = rest_of(text, spans, settings.shortest_piece) if settings.action == "cut" else []
    return pieces if len(pieces) <= settings.most_pieces else []


def span_of(text: str, match: Match, margin: int) -> tuple[int, int]:
    """First letter, and the one after the last, of a match with its margins."""
    start, end = None, len(text)
    for place, token in enumerate(TOKEN.finditer(text)):
        if place == match.first:
            start = token.start()
        if place == match.last - 1:
            end = token.end()
            break
    return max(0, (start or 0) - margin), min(len(text), end + margin)


def rest_of(text: str, spans: list[tuple[int, int]], shortest: int) -> list[str]:
    """What stands between the spans, without pieces that are too short."""
    pieces, before = [], 0
    for start, end in sorted(spans):
        pieces.append(text[before : max(start, before)])
        before = max(before, end)
    pieces.append(text[before:])
    return [piece.strip() for piece in pieces if len(piece.strip()) >= shortest]


def report_paraphrases(
    documents: Callable[[], Iterator[Document]], runs: Runs, settings: DecontaminateSettings, found: Found,
    folder: Path, progress: Progress,
) -> int:  # fmt: skip
    """Write paraphrases.jsonl, what may say an item in other words, and return how many there are."""
    rows: list[dict[str, Any]] = []
    if settings.paraphrase_share is not None:
        progress.start("looking for paraphrases", None, "")
        documents_with = Counter[int]()
        count = 0
        for document in documents():
            documents_with.update(np.unique(runs.numbers(document.text)).tolist())
            count += 1
        highest = max((int(numbers.max(initial=0)) for numbers in runs.tokens), default=0)
        frequency = np.array([documents_with[number] for number in range(highest + 1)], dtype=np.int64)
        words = RareWords(runs, frequency, count)
        for document in documents():
            known = found.by_document.get(document.id, [])
            for item, share in words.near(runs.numbers(document.text), settings.paraphrase_share, known):
                found.near.add(item)
                rows.append({
                    "document": document.id, "source": document.source, "task": runs.items[item].task,
                    "item": runs.items[item].number, "share": round(share, 4), "asked": shorten(runs.items[item].text),
                })  # fmt: skip
        progress.finish(found=len(rows))
    write_records(folder / "paraphrases.jsonl", rows)
    return len(rows)


def read_items(path: Path, fields: tuple[str, ...], task: str | None = None) -> list[Item]:
    """The items of a file; `task`: what they are called (unset: as the file).

    Raises:
        AthanorError: it holds none, or a row has none of the fields.
    """
    called = task or path.name
    file = SourceFile(path, path.name, None, 0)
    try:
        if find_kind(path.name)[0] == "text":
            lines = "".join(decode_stream(file.open, find_encoding(file.open))).splitlines()
            items = [Item(called, number, line) for number, line in enumerate(lines, 1) if line.strip()]
        else:
            rows = (json_file_rows if find_kind(path.name)[0] == "json" else json_rows)(file, LONGEST_ROW)
            items = [Item(called, number, text) for number, row in rows for text in _asked(path, number, row, fields)]
    except (Unreadable, *BROKEN) as problem:
        raise AthanorError(
            f"{path} cannot be read: {problem}", fix="name a file with one item a line, or rows of JSON"
        ) from problem
    if not items:
        raise AthanorError(f"{path} holds no test items", fix="name a file with one item a line, or JSON lines")
    return items


def _file(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise AthanorError(f"there is no file of test items {path}", fix="name .txt, .jsonl or .json files as tasks")
    return path


def _asked(path: Path, number: int, row: dict[str, Any] | SetAside, fields: tuple[str, ...]) -> list[str]:
    """What a row of a task asks."""
    if isinstance(row, SetAside):
        raise AthanorError(f"{path} row {number}: {row.reason} {row.detail}".rstrip(), fix="repair or delete the row")
    texts = [row[name] for name in fields if isinstance(row.get(name), str)]
    turns = row.get("messages")
    for turn in turns if isinstance(turns, list) else ():
        if isinstance(turn, dict) and turn.get("role") == "user" and isinstance(turn.get("content"), str):
            texts.append(turn["content"])
    if not texts:
        raise AthanorError(
            f"{path} row {number} has none of the fields to look for", allowed=", ".join((*fields, "messages")),
            fix=f"name the field in `fields`; the row has {', '.join(row)}",
        )  # fmt: skip
    return texts
