"""The question a document index answers: who taught the model this text, and when?"""

import bisect
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from athanor.base.files import read_json
from athanor.data.packing.index import INDEX, ORDER, READINGS
from athanor.data.packing.order import PACKING, ReadingOrder, Steps
from athanor.data.verdicts import passed
from athanor.store.artifact import Artifact
from athanor.store.index import DocumentIndex, Occurrence
from athanor.tokens.tokenizer import Tokenizer

SHOWN = 8  # steps named per place
SHORTEST = 16  # bytes of a span, unless asked otherwise


class Explainer:
    """An index artifact opened for questions; what is small is verified now, the index page by page as it is read."""

    def __init__(self, artifact: Artifact):
        for name in artifact.record["files"]:
            if not name.startswith(f"{INDEX}/") or name == f"{INDEX}/index.json":
                artifact.file(name)
        self.index = DocumentIndex(artifact.path / INDEX)
        kept = read_json(artifact.path / READINGS)
        self.sources: list[dict[str, Any]] = kept["sources"]
        self.documents: int = kept["documents"]  # conversations follow behind them
        self.tokenizer = Tokenizer.load(artifact.path)
        packing = artifact.path / PACKING
        rows = np.load(packing) if packing.is_file() else None
        self.order = ReadingOrder(artifact.path / ORDER, kept["plans"], rows)
        self._token_ends = lru_cache(8)(self._ends_of_tokens)

    def spans(self, text: str, minimum: int | None = None, limit: int = 5) -> list[dict[str, Any]]:
        """The longest spans of `text` that stand word for word in the training texts, longest first.

        Args:
            minimum: bytes of the shortest span; unset: 16, or the whole text where it is shorter, but never below 6,
                since two digits stand everywhere and explain nothing.
            limit: most spans.

        Returns:
            rows of text, start, end (characters), count, and matches: document, id, number, line, offset (characters),
            before, after; corpus and source (its name in the mixture); language; filters (step, artifact and what the
            document passed there); copies (removed in its favour); steps of each stage that read these very tokens
            (`read`, at most 8 each, and how many in all: `times`), and of the first stage that did `stage`, `steps`,
            and the first of them, `step`.
        """
        rows = []
        least = minimum or min(SHORTEST, max(6, len(text.encode("utf-8", "surrogatepass"))))
        for span in self.index.longest_spans(text, minimum_bytes=least, limit=limit):
            matches = [self._match(place, span.text) for place in span.occurrences]
            rows.append(
                {"text": span.text, "start": span.start, "end": span.end, "count": span.count, "matches": matches}
            )
        return rows

    def _match(self, place: Occurrence, text: str) -> dict[str, Any]:
        known = orjson.loads(place.document)
        source = self._source_of(place.number) if "id" in known else None
        read = self._steps(place, source, len(text.encode("utf-8", "surrogatepass")))
        stage = next((stage for stage, steps in read.items() if steps), None)
        steps = read[stage] if stage else []
        return {
            "document": known["source"], "id": known.get("id"), "number": place.number, "line": place.line,
            "offset": place.character_offset, "before": place.before, "after": place.after,
            "corpus": source["corpus"] if source else None, "source": source["name"] if source else None,
            "language": known.get("language"), "copies": known.get("copies", 0),
            "filters": passed(source["filters"], known["kind"], known["language"]) if source else [],
            "read": {name: found[:SHOWN] for name, found in read.items()},
            "times": {name: len(found) for name, found in read.items()},
            "stage": stage, "steps": steps[:SHOWN], "step": steps[0] if steps else None,
        }  # fmt: skip

    def _source_of(self, number: int) -> dict[str, Any]:
        firsts = [source["first"] for source in self.sources]
        return self.sources[bisect.bisect_right(firsts, number) - 1]

    def _steps(self, place: Occurrence, source: dict[str, Any] | None, length: int) -> Steps:
        """The optimiser steps that read these bytes, found by tokenising the document up to their end."""
        if source is None:
            return self.order.of_conversation(place.number - self.documents)
        ends = self._token_ends(place.number)
        first, last = np.searchsorted(ends, [place.byte_offset, place.byte_offset + length - 1], side="right")
        number = place.number - source["first"]  # +1: a document's first token is its mark
        return self.order.of_document(source["name"], number, int(first) + 1, int(last) + 2)

    def _ends_of_tokens(self, number: int) -> np.ndarray:
        """Where each token of a document ends, in bytes."""
        document = self.index.read(number, 0, int(self.index.bytes))
        table = self.tokenizer.token_bytes()
        ids = self.tokenizer.encode(document.decode("utf-8", "surrogatepass"))
        return np.cumsum([len(table[index]) for index in ids])
