"""One reading of a collection: how many, how long, in which languages, some of them, and where a text stands in them.

Memory does not grow with the collection: a sample is kept as its documents pass, chosen by the hash of their ids.
"""

import heapq
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from athanor.base.files import hash_bytes
from athanor.base.progress import Progress
from athanor.data.cleaning.language import guess_language
from athanor.data.document import Document
from athanor.data.show.collection import Collection

SHOWN_LETTERS = 4_000  # of a sampled document
CONTEXT = 90  # letters on each side of what was searched for
MOST_FOUND = 50
BINS_PER_DOUBLING = 2


@dataclass
class Survey:
    """What one reading found.

    Attributes:
        documents, bytes, characters: how many.
        parts: documents and bytes of each part.
        languages: documents and bytes of each language, the largest first.
        kinds: documents by kind.
        lengths: by length in characters: (from, up to, documents), two bins for each doubling.
        sample: rows of part, id, source, language, kind, characters, text.
        query: what was searched for; None: nothing.
        found: places in all; in how many documents; and the first of them: id, source, before, match, after.
    """

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    parts: dict[str, dict[str, int]] = field(default_factory=dict)
    languages: dict[str, dict[str, int]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    lengths: list[tuple[int, int, int]] = field(default_factory=list)
    sample: list[dict[str, Any]] = field(default_factory=list)
    query: str | None = None
    found: int = 0
    found_in: int = 0
    places: list[dict[str, str]] = field(default_factory=list)


def survey(collection: Collection, sample: int, seed: int, query: str | None, progress: Progress) -> Survey:
    """Read a collection once.

    Args:
        sample: how many documents to keep.
        seed: other numbers choose other documents; the same the same, whatever their order.
        query: a text to look for, whatever its case.
    """
    result = Survey(query=query)
    pattern = re.compile(re.escape(query), re.IGNORECASE) if query else None
    bins, kinds = Counter[int](), Counter[str]()
    kept: list[tuple[int, int, dict[str, Any]]] = []  # a heap: the largest hash, negated, goes first
    progress.start("reading", collection.total, "documents")
    for part, document in collection.read():
        language = document.language or guess_language(document.text)
        _count(result, part, language, document)
        bins[_bin(len(document.text))] += 1
        kinds[document.kind] += 1
        if pattern is not None:
            _search(result, pattern, document)
        chance = int(hash_bytes(f"{seed} {document.id}".encode())[:15], 16)
        if len(kept) < sample or (kept and -chance > kept[0][0]):
            entry = (-chance, -result.documents, _row(part, language, document))
            (heapq.heappush if len(kept) < sample else heapq.heapreplace)(kept, entry)
        progress.advance(1)
    progress.finish(documents=result.documents)
    result.kinds = dict(kinds.most_common())
    result.languages = dict(sorted(result.languages.items(), key=lambda item: -item[1]["bytes"]))
    result.lengths = [(_edge(place), _edge(place + 1), bins[place]) for place in _whole_range(bins)]
    result.sample = [row for _, _, row in sorted(kept, key=lambda entry: -entry[1])]
    return result


def _count(result: Survey, part: str, language: str, document: Document) -> None:
    size = document.bytes
    result.documents += 1
    result.bytes += size
    result.characters += len(document.text)
    for table, key in ((result.parts, part), (result.languages, language)):
        row = table.setdefault(key, {"documents": 0, "bytes": 0})
        row["documents"] += 1
        row["bytes"] += size


def _bin(length: int) -> int:
    return int(BINS_PER_DOUBLING * math.log2(length)) if length else 0


def _edge(place: int) -> int:
    return math.ceil(2 ** (place / BINS_PER_DOUBLING))


def _whole_range(bins: Counter[int]) -> range:
    return range(min(bins), max(bins) + 1) if bins else range(0)


def _row(part: str, language: str, document: Document) -> dict[str, Any]:
    return {
        "part": part, "id": document.id, "source": document.source, "language": language, "kind": document.kind,
        "characters": len(document.text), "text": document.text[:SHOWN_LETTERS],
    }  # fmt: skip


def _search(result: Survey, pattern: re.Pattern[str], document: Document) -> None:
    text, before = document.text, result.found
    for match in pattern.finditer(text):
        result.found += 1
        if len(result.places) < MOST_FOUND:
            start, end = match.span()
            result.places.append({
                "id": document.id, "source": document.source, "before": text[max(0, start - CONTEXT) : start],
                "match": match.group(), "after": text[end : end + CONTEXT],
            })  # fmt: skip
    result.found_in += result.found > before
