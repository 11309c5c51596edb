"""What a search for test items found, item by item: the bridge from decontamination to evaluation.

An item is known by its words, so an evaluation finds its verdict whatever file, order or punctuation it came in.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

from athanor.base.errors import AthanorError
from athanor.base.files import hash_bytes
from athanor.base.records import read_records, write_records
from athanor.data.copies.overlap import Item, tokens_of
from athanor.store.artifact import Artifact

ITEMS = "items.jsonl"
Verdict = Literal["found", "paraphrase", "short", "clean"]  # short: too short to be told from chance
WORST_FIRST: tuple[Verdict, ...] = get_args(Verdict)
PART_OF: dict[Verdict, str] = {"found": "dirty", "paraphrase": "dirty", "short": "unjudged", "clean": "clean"}


def item_key(text: str) -> str:
    """Hash of an item's words, without case, punctuation and spacing."""
    return hash_bytes(" ".join(tokens_of(text)).encode())


def write_verdicts(folder: Path, items: Iterable[tuple[Item, Verdict]]) -> None:
    """Write items.jsonl: task, number, key, verdict."""
    rows = (
        {"task": item.task, "number": item.number, "key": item_key(item.text), "verdict": verdict}
        for item, verdict in items
    )
    write_records(folder / ITEMS, rows)


def has_verdicts(artifact: Artifact) -> bool:
    """Whether a corpus was searched for test items."""
    return ITEMS in artifact.record["files"]


def read_verdicts(artifact: Artifact) -> dict[str, Verdict]:
    """Key of an item to its verdict; of the same words asked twice the worst.

    Raises:
        AthanorError: the artifact is no corpus that was searched for test items.
    """
    if not has_verdicts(artifact):
        raise AthanorError(
            f"{artifact.id} was not searched for test items", fix="name a step that does `decontaminate`"
        )
    verdicts: dict[str, Verdict] = {}
    for row in read_records(artifact.file(ITEMS)):
        verdicts[row["key"]] = worst([row["verdict"], verdicts.get(row["key"], "clean")])
    return verdicts


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The gravest of several verdicts."""
    return min(verdicts, key=WORST_FIRST.index)


def split_by_verdict(items: Iterable[Iterable[str]], verdicts: Mapping[str, Verdict]) -> dict[str, list[int]]:
    """Numbers of the items by part: clean, dirty (found, or in other words), unjudged (too short, or not looked for).

    Args:
        items: the texts of each item: its question, and whatever else of it was looked for.
        verdicts: by the key of a text.
    """
    parts: dict[str, list[int]] = {"clean": [], "dirty": [], "unjudged": []}
    for number, texts in enumerate(items):
        known = [verdicts[key] for key in map(item_key, texts) if key in verdicts]
        parts[PART_OF[worst(known)] if known else "unjudged"].append(number)
    return parts
