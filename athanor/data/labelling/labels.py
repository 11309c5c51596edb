"""Labels by machine: several votes on every text, a confidence, and a queue for a person where it is too low.

A labeller is any function from texts to (label, confidence): a model of ours, one behind an interface, a rule. Votes
may come from several of them, or from one asked in several ways.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from athanor.base.errors import AthanorError
from athanor.base.files import hash_file, hash_json, write_json
from athanor.base.progress import Progress
from athanor.base.records import encode_record, open_text
from athanor.base.settings import Settings
from athanor.data.labelling.agreement import tempered
from athanor.data.lines import read_rows

Vote = tuple[str, float]
Labeller = Callable[[Sequence[str]], Sequence[Vote]]
LABELLED, QUEUE, ABOUT = "labelled.jsonl", "review.jsonl", "labels.json"
BATCH = 64
OWN_FIELDS = ("number", "label", "confidence", "by", "votes", "why", "machine", "accept")


class LabelSettings(Settings):
    """What is labelled, and what a person looks at."""

    labels: tuple[str, ...] = Field(min_length=2)
    """The labels to choose from."""
    threshold: float = Field(default=0.9, ge=0, le=1)
    """A row of less confidence goes to the queue."""
    spot_checks: float = Field(default=0.02, ge=0, le=1)
    """Share of the other rows that goes to the queue as well, or nobody would know how often confidence is right."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the confidences, as a review of earlier rows measured it; below 1 makes surer."""
    seed: int = Field(default=1, ge=0)
    """Chooses the spot checks."""

    @field_validator("labels")
    @classmethod
    def _different(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) < len(labels) or not all(label.strip() for label in labels):
            raise ValueError("labels are different and not empty")
        return labels


@dataclass(frozen=True)
class Decision:
    """What the machine makes of one text."""

    label: str
    confidence: float
    votes: tuple[Vote, ...]


def decide(votes: Sequence[Vote], labels: Sequence[str], temperature: float = 1.0) -> Decision:
    """The label of most votes; of equally many the one with more confidence behind it.

    Its confidence is the mean over all votes of the chance they give it (a vote for another label spreads what it is
    not sure of over the rest): the linear pool of opinions (Stone 1961), which errs on the side of doubt where votes
    are independent. A review measures the temperature that corrects it.
    """
    others = len(labels) - 1
    counts = {label: sum(name == label for name, _ in votes) for label in labels}
    chances = {
        label: sum(sure if name == label else (1 - sure) / others for name, sure in votes) / len(votes)
        for label in labels
    }
    best = max(labels, key=lambda label: (counts[label], chances[label]))
    sure = chances[best]
    if temperature != 1:
        sure = float(tempered(np.array([sure]), temperature, len(labels))[0])
    return Decision(best, sure, tuple(votes))


def label_files(
    files: Sequence[Path],
    labellers: Sequence[Labeller],
    about: Mapping[str, Any],
    folder: Path,
    journal: Path,
    settings: LabelSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Label the rows of JSON lines with a field "text".

    Writes to `folder` labelled.jsonl (every row of enough confidence with label, confidence, votes), review.jsonl (the
    queue: those of too little, and spot checks) and labels.json. The votes are kept in `journal` as they come: a
    stopped run with the same settings goes on from there; the file is removed at the end.

    Args:
        labellers: one vote each.
        about: what the labellers are, for the record; a journal of others is not gone on with.

    Raises:
        AthanorError: a row has no text, or a field of a name that is written here; a labeller answers nonsense.
    """
    made_of = {"files": [hash_file(path) for path in files], "about": about, "labels": settings.labels}
    total = sum(1 for _ in rows_of(files))
    votes = _Journal(journal, hash_json(made_of))
    progress.start("labelling", total, "rows", done=len(votes.known))
    waiting: list[tuple[int, str]] = []
    for number, row in rows_of(files):
        if number not in votes.known:
            waiting.append((number, row["text"]))
        if len(waiting) == BATCH:
            _vote(waiting, labellers, settings.labels, votes, progress)
            waiting = []
    if waiting:
        _vote(waiting, labellers, settings.labels, votes, progress)
    progress.finish()
    figures = _write(files, votes.known, settings, about, folder)
    journal.unlink()
    return figures


def rows_of(files: Sequence[Path]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, row) of every row with a text, over all files."""
    number = 0
    for path in files:
        for rows in read_rows(path):
            for row in rows:
                taken = [key for key in OWN_FIELDS if key in row]
                if taken:
                    raise AthanorError(f"{path}: row {number} has a field {taken[0]!r} already", fix="rename it first")
                yield number, row
                number += 1


def _vote(
    waiting: Sequence[tuple[int, str]],
    labellers: Sequence[Labeller],
    labels: Sequence[str],
    votes: "_Journal",
    progress: Progress,
) -> None:
    texts = [text for _, text in waiting]
    every = [list(labeller(texts)) for labeller in labellers]
    for given in every:
        _check_votes(given, len(texts), labels)
    votes.add([(number, [given[place] for given in every]) for place, (number, _) in enumerate(waiting)])
    progress.advance(len(waiting))


def _check_votes(given: Sequence[Vote], texts: int, labels: Sequence[str]) -> None:
    if len(given) != texts:
        raise AthanorError(f"a labeller gave {len(given)} answers to {texts} texts")
    for label, confidence in given:
        if label not in labels or not 0 <= confidence <= 1:
            raise AthanorError(f"a labeller says {label!r} with {confidence!r}", allowed=f"{', '.join(labels)}; 0 to 1")


class _Journal:
    """Votes on disk as they come, one line for each row."""

    def __init__(self, path: Path, made_of: str):
        self.path, self.known = path, dict[int, list[Vote]]()
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []  # a torn last line goes
        if lines and json.loads(lines[0]) == made_of:
            for number, votes in map(json.loads, lines[1:]):
                self.known[number] = [(label, confidence) for label, confidence in votes]
        else:
            lines = [json.dumps(made_of)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def add(self, rows: Sequence[tuple[int, list[Vote]]]) -> None:
        """Keep the votes on some rows."""
        self.known.update(rows)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def _write(
    files: Sequence[Path],
    votes: Mapping[int, list[Vote]],
    settings: LabelSettings,
    about: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Write the three files."""
    folder.mkdir(exist_ok=True)
    chosen = np.random.default_rng(settings.seed).random(len(votes)) < settings.spot_checks
    queued: dict[str, str] = {}  # number to what the row must still be when it comes back
    sure = 0
    with open_text(folder / LABELLED, "w") as labelled, open_text(folder / QUEUE, "w") as queue:
        for number, row in rows_of(files):
            decision = decide(votes[number], settings.labels, settings.temperature)
            told = {"label": decision.label, "confidence": round(decision.confidence, 6), "votes": decision.votes}
            confident = decision.confidence >= settings.threshold
            if confident:
                sure += 1
                labelled.write(encode_record({"number": number, **row, **told, "by": "machine"}))
            if not confident or chosen[number]:
                why = "spot check" if confident else "below the threshold"
                waiting = {"number": number, "why": why, "machine": told, **row}
                queued[str(number)] = hash_json(waiting)
                queue.write(encode_record({"label": None, "accept": None, **waiting}))
    figures = {
        "rows": len(votes),
        "labelled": sure,
        "queued": len(queued),
        "spot_checks": len(queued) + sure - len(votes),
    }
    write_json(folder / ABOUT, {**settings.model_dump(mode="json"), "about": dict(about), **figures, "open": queued})
    return figures
