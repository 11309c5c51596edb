"""The step that builds the document index, and the question it answers: who taught the model this text, and when?"""

from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from athanor.base.errors import AthanorError
from athanor.base.files import read_json, write_json
from athanor.base.progress import Progress
from athanor.base.records import read_records
from athanor.base.settings import Settings
from athanor.data.instruct.names import TRAIN
from athanor.data.packing.batches import Batches, Rows
from athanor.data.packing.mixture import MIXTURE
from athanor.data.shards import read_shards
from athanor.store.artifact import Artifact
from athanor.store.index import DocumentIndex, Occurrence, build_index
from athanor.tokens.tokenizer import Tokenizer

CONVERSATION = "conversation #"
SCHEDULE, PACKING, STARTS = "schedule.json", "packing.npy", "train-starts.npy"
INDEX = "index"
SHOWN = 8  # steps named per place


class IndexSettings(Settings):
    """How the index is cut."""

    shard_bytes: int = pydantic.Field(default=64 << 20, ge=1 << 16, le=1 << 30)
    """Text per suffix array; building takes about seven times as much memory."""


def index_documents(
    settings: IndexSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Index every training document and conversation, and keep what tells at which steps a token was read.

    Parents: corpus, shards, conversations, and the models that learnt from them (pretrained, finetuned).
    """
    if MIXTURE in parents["shards"].record["files"]:
        raise AthanorError(
            f"{parents['shards'].id} is a mixture: an index over several corpora (SPEC L2) is not built yet",
            fix="index one of its sources: that corpus and the shards packed from it",
        )
    (folder / INDEX).mkdir()

    def texts() -> Any:
        for document in read_shards(parents["corpus"], "train"):
            yield document.source, document.text
        for number, row in enumerate(read_records(parents["conversations"].file(TRAIN))):
            yield f"{CONVERSATION}{number}", "\n".join(turn["content"] for turn in row["messages"])

    measured = build_index(folder / INDEX, texts(), progress, settings.shard_bytes)
    for role, name in (("shards", STARTS), ("finetuned", PACKING), ("pretrained", "tokenizer.json")):
        (folder / name).write_bytes(parents[role].file(name).read_bytes())
    write_json(folder / SCHEDULE, {role: _schedule(parents[role]) for role in ("pretrained", "finetuned")})
    return measured


def _schedule(model: Artifact) -> dict[str, int]:
    settings = model.record["settings"]
    return {key: settings[key] for key in ("steps", "rows", "seed", "context") if key in settings}


class Explainer:
    """An index artifact opened for questions."""

    def __init__(self, artifact: Artifact):
        artifact.file(SCHEDULE)
        self.index = DocumentIndex(artifact.path / INDEX)
        self.schedule: dict[str, dict[str, int]] = read_json(artifact.file(SCHEDULE))
        self.tokenizer = Tokenizer.load(artifact.file("tokenizer.json").parent)
        self.starts_D = np.load(artifact.file(STARTS))
        self.row_of_conversation = np.load(artifact.file(PACKING))
        plan = self.schedule["pretrained"]
        self.batches = Batches(TokenTable(self.starts_D), plan["context"], plan["rows"], plan["seed"])

    def spans(self, text: str, minimum: int | None = None, limit: int = 5) -> list[dict[str, Any]]:
        """The longest spans of `text` that stand word for word in the training texts, longest first.

        Args:
            minimum: bytes of the shortest span; unset: 16, or the whole text where it is shorter, but never below 6,
                since two digits stand everywhere and explain nothing.
            limit: most spans.

        Returns:
            rows of text, start, end (characters), count, and matches: document, line, offset (characters), before,
            after, stage ('pretrained' or 'finetuned'), steps that read these very tokens, and the first of them.
        """
        rows = []
        least = minimum or min(16, max(6, len(text.encode("utf-8", "surrogatepass"))))
        for span in self.index.longest_spans(text, minimum_bytes=least, limit=limit):
            matches = [self._match(place, span.text) for place in span.occurrences]
            rows.append(
                {"text": span.text, "start": span.start, "end": span.end, "count": span.count, "matches": matches}
            )
        return rows

    def _match(self, place: Occurrence, text: str) -> dict[str, Any]:
        stage, steps = self._steps(place, len(text.encode("utf-8", "surrogatepass")))
        return {
            "document": place.document, "number": place.number, "line": place.line, "offset": place.character_offset,
            "before": place.before, "after": place.after, "stage": stage,
            "steps": steps[:SHOWN], "step": steps[0] if steps else None,
        }  # fmt: skip

    def _steps(self, place: Occurrence, length: int) -> tuple[str, list[int]]:
        """The optimiser steps that read these bytes, found by tokenising the document up to their end."""
        documents = len(self.starts_D) - 1
        if place.number >= documents:
            plan = self.schedule["finetuned"]
            rows = Rows(int(self.row_of_conversation.max()) + 1, plan["rows"], plan["seed"])
            row = self.row_of_conversation[place.number - documents]
            return "finetuned", rows.steps_of(np.array([row], dtype=np.int64), plan["steps"])
        whole = self.index.read(place.number, 0, int(self.index.bytes))
        sizes = self._token_sizes(whole)
        first, last = np.searchsorted(sizes, [place.byte_offset, place.byte_offset + length - 1], side="right")
        plan = self.schedule["pretrained"]  # +1: a document's first token is <|document|>
        return "pretrained", self.batches.steps_of(place.number, plan["steps"], int(first) + 1, int(last) + 2)

    def _token_sizes(self, document: bytes) -> np.ndarray:
        """Bytes of a document up to and with each of its tokens."""
        table = self.tokenizer.token_bytes()
        ids = self.tokenizer.encode(document.decode("utf-8", "surrogatepass"))
        return np.cumsum([len(table[index]) for index in ids])


class TokenTable:
    """The part of `TokenFiles` that the order of training depends on: where each document's tokens begin."""

    def __init__(self, starts_D: np.ndarray):
        self.starts_D = starts_D
        self.tokens = int(starts_D[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Not kept in an index: only the order of training is asked here."""
        raise AthanorError("a document index holds no tokens", fix="read them from the packed corpus")
