"""The funnel: what went in, what came out, and why the rest did not, counted and shown by example."""

import json
from pathlib import Path
from typing import Any

from athanor.base.files import write_json

EXAMPLES = 3  # per reason
EXAMPLE_LETTERS = 120


class Stage:
    """One stage of a step: counts in documents and in bytes of UTF-8 text."""

    def __init__(self, name: str):
        self.name = name
        self.documents_in = self.documents_out = self.bytes_in = self.bytes_out = 0
        self.reasons: dict[str, dict[str, Any]] = {}

    def enter(self, size: int) -> None:
        """Count one document that reached this stage."""
        self.documents_in += 1
        self.bytes_in += size

    def leave(self, size: int) -> None:
        """Count one document that went on to the next stage."""
        self.documents_out += 1
        self.bytes_out += size

    def pass_on(self, documents: int, size: int) -> None:
        """Count documents that reached this stage and went on."""
        self.documents_in += documents
        self.documents_out += documents
        self.bytes_in += size
        self.bytes_out += size

    def drop(self, reason: str, size: int, source: str, text: str = "") -> None:
        """Count one document that ends here, and keep it as an example while few are known.

        Args:
            reason: the rule in a few words, without the document's own figures, so that equal reasons add up.
            size: bytes of text lost.
            source: the document's name.
            text: the text or the details to show.
        """
        entry = self.reasons.setdefault(reason, {"count": 0, "bytes": 0, "examples": []})
        entry["count"] += 1
        entry["bytes"] += size
        if len(entry["examples"]) < EXAMPLES:
            entry["examples"].append({"source": source, "text": shorten(text)})

    def add(self, other: "Stage") -> None:
        """Count the documents of another stage of this name, which came behind those counted here."""
        self.documents_in += other.documents_in
        self.documents_out += other.documents_out
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        for reason, found in other.reasons.items():
            entry = self.reasons.setdefault(reason, {"count": 0, "bytes": 0, "examples": []})
            entry["count"] += found["count"]
            entry["bytes"] += found["bytes"]
            entry["examples"] = [*entry["examples"], *found["examples"]][:EXAMPLES]

    def as_row(self) -> dict[str, Any]:
        """The stage as a row of funnel.json, the most frequent reason first."""
        ranked = sorted(self.reasons.items(), key=lambda item: (-item[1]["count"], item[0]))
        return {
            "stage": self.name, "in": self.documents_in, "out": self.documents_out,
            "bytes_in": self.bytes_in, "bytes_out": self.bytes_out, "reasons": dict(ranked),
        }  # fmt: skip


class Funnel:
    """The stages of one step in order."""

    def __init__(self, *names: str):
        self.stages = {name: Stage(name) for name in names}

    def __getitem__(self, name: str) -> Stage:
        return self.stages[name]

    def add(self, other: "Funnel") -> None:
        """Add the stages of another funnel to those of the same name."""
        for name, stage in other.stages.items():
            self.stages[name].add(stage)

    def reasons(self) -> list[tuple[str, int]]:
        """(reason, count) over all stages, the most frequent first."""
        counts = [(reason, entry["count"]) for stage in self.stages.values() for reason, entry in stage.reasons.items()]
        return sorted(counts, key=lambda item: (-item[1], item[0]))

    def rows(self) -> list[dict[str, Any]]:
        """The stages as JSON rows."""
        return [stage.as_row() for stage in self.stages.values()]

    def write(self, folder: Path) -> None:
        """Write funnel.json."""
        write_json(folder / "funnel.json", self.rows())


def describe_reasons(reasons: list[tuple[str, int]], most: int = 6) -> str:
    """'too few words 12, empty 3' for messages."""
    text = ", ".join(f"{reason} ({count})" for reason, count in reasons[:most])
    left = len(reasons) - most
    return text + (f" and {left} other reason{'s' if left > 1 else ''}" if left > 0 else "")


def shorten(text: str) -> str:
    """One line of at most 120 characters."""
    line = " ".join(text[: 4 * EXAMPLE_LETTERS].split())
    return line if len(line) <= EXAMPLE_LETTERS else line[: EXAMPLE_LETTERS - 1] + "…"


def read_funnel(folder: Path) -> list[dict[str, Any]]:
    """The rows of a step's funnel.json."""
    return list(json.loads((folder / "funnel.json").read_text(encoding="utf-8")))
