"""What a person made of the queue, put back into the labels, with how far machine and person agree.

A person edits review.jsonl: `accept: true` takes the machine's label, `label: …` sets another, `accept: false` without
a label says that none fits. Rows that are left as they are stay open.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.files import hash_json, read_json, write_json
from athanor.base.records import encode_record, open_text, read_records
from athanor.data.labelling.agreement import calibration_bins, calibration_error, fit_temperature, kappa
from athanor.data.labelling.labels import ABOUT, LABELLED, QUEUE

NONE = "(none)"  # a person's word that no label fits
EDITED = ("label", "accept")  # what a person changes
AGREEMENT = "agreement.json"
FEWEST = 20  # reviewed rows below which a temperature would be made up


@dataclass(frozen=True)
class Reviewed:
    """A row of the queue that a person has decided.

    Attributes:
        label: the person's, or NONE.
        machine, confidence: what the machine said.
        why: it was in the queue.
    """

    number: int
    label: str
    machine: str
    confidence: float
    why: str

    @property
    def right(self) -> bool:
        """Whether the machine said the same."""
        return self.label == self.machine


@dataclass(frozen=True)
class Queue:
    """An edited queue.

    Attributes:
        about: labels.json beside it.
        earlier: what was decided in rounds before this one.
        decided, rows: what is decided now, and the rows themselves in the same order.
        left: rows that are open.
    """

    about: dict[str, Any]
    earlier: list[Reviewed]
    decided: list[Reviewed]
    rows: list[dict[str, Any]]
    left: list[dict[str, Any]]

    def figures(self) -> dict[str, Any]:
        """How much is decided, and `agreement` over all rounds."""
        every = [*self.earlier, *self.decided]
        found = agreement(every, self.about["labels"])
        if found["temperature"] is not None:  # these confidences have been through one already
            found["temperature"] = _rounded(found["temperature"] * self.about["temperature"])
        return {"decided": len(every), "open": len(self.left), **found}


def read_queue(path: Path) -> Queue:
    """The queue that a person edited.

    Raises:
        AthanorError: names the line that cannot be read, was changed or contradicts itself, or a row that is missing.
    """
    if not path.is_file() or not (path.parent / ABOUT).is_file():
        raise AthanorError(f"{path} is no queue", allowed=f"{QUEUE} in a folder made by athanor data label")
    about = read_json(path.parent / ABOUT)
    waiting = dict(about["open"])
    queue = Queue(about, [Reviewed(**row) for row in about.get("reviewed", ())], [], [], [])
    with open_text(path) as file:
        for place, line in enumerate(file, 1):
            if line.strip():
                _take(_row(line, f"{path}, line {place}", waiting), queue, f"{path}, line {place}")
    if waiting:
        raise AthanorError(
            f"{path}: row {next(iter(waiting))} is missing ({len(waiting)} in all)",
            fix='put it back; "accept": false without a label takes a row out',
        )
    return queue


def _take(row: dict[str, Any], queue: Queue, where: str) -> None:
    label, machine = _decision(row, queue.about["labels"], where), row["machine"]
    if label is None:
        queue.left.append(row)
        return
    queue.decided.append(Reviewed(row["number"], label, machine["label"], machine["confidence"], row["why"]))
    queue.rows.append(row)


def _row(line: str, where: str, waiting: dict[str, str]) -> dict[str, Any]:
    """A row of the queue; it is taken off those that are waited for."""
    try:
        row = json.loads(line)
    except ValueError as problem:
        raise AthanorError(f"{where} is no JSON: {problem}", fix="each row is one line") from None
    known = waiting.pop(str(row.get("number")), None) if isinstance(row, dict) else None
    if known is None:
        raise AthanorError(f"{where} is {str(row)[:80]}", allowed="a row of the queue, once")
    if hash_json({key: value for key, value in row.items() if key not in EDITED}) != known:
        raise AthanorError(f"{where}: more was changed than label and accept", fix="put the rest back as it was")
    return row


def _decision(row: Mapping[str, Any], labels: Sequence[str], where: str) -> str | None:
    """The person's label, NONE, or None where the row is open."""
    label, accept, machine = row.get("label"), row.get("accept"), row["machine"]["label"]
    if accept is not None and not isinstance(accept, bool):
        raise AthanorError(f"{where}: accept is {accept!r}", allowed="true, false or null")
    if label is not None and label not in labels:
        raise AthanorError(f"{where}: label is {label!r:.80}", allowed=", ".join(labels) + ", or null")
    if label is not None and accept is not None and accept != (label == machine):
        told = f"label {label} and accept {str(accept).lower()}"
        raise AthanorError(
            f"{where}: {told} contradict each other: the machine said {machine}",
            fix="set one of the two, and the other to null",
        )
    if label is not None:
        return str(label)
    return None if accept is None else str(machine) if accept else NONE


def agreement(decided: Sequence[Reviewed], labels: Sequence[str]) -> dict[str, Any]:
    """Agreement and kappa of all decided rows and of each kind, whether confidences mean what they say, and (from 20
    rows on) the temperature that corrects them."""
    kinds = {"all": list(decided)}
    for one in decided:
        kinds.setdefault(one.why, []).append(one)
    table = {
        kind: {
            "rows": len(rows), "agree": sum(one.right for one in rows),
            "kappa": _rounded(kappa([one.machine for one in rows], [one.label for one in rows])),
        }
        for kind, rows in kinds.items()
    }  # fmt: skip
    sure, right = [one.confidence for one in decided], [one.right for one in decided]
    enough = len(decided) >= FEWEST
    return {
        "agreement": table, "calibration_error": _rounded(calibration_error(sure, right)),
        "bins": [{"rows": one.count, "confidence": round(one.confidence, 4), "right": round(one.right, 4)}
                 for one in calibration_bins(sure, right)],
        "temperature": _rounded(fit_temperature(sure, right, len(labels))) if enough else None,
    }  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def merge(path: Path, folder: Path) -> dict[str, Any]:
    """Write the labels with what a person decided to `folder`: labelled.jsonl, review.jsonl (what is open), labels.json
    and agreement.json. The person's word counts, over a spot check's label too; rows that no label fits are left out.

    Raises:
        AthanorError: as `read_queue`.
    """
    queue = read_queue(path)
    folder.mkdir(exist_ok=True)
    rows = {row["number"]: row for row in read_records(path.parent / LABELLED)}
    for one, row in zip(queue.decided, queue.rows, strict=True):
        rows.pop(one.number, None)
        if one.label != NONE:
            own = {key: value for key, value in row.items() if key not in (*EDITED, "why", "machine")}
            rows[one.number] = {**own, **row["machine"], "label": one.label, "by": "person"}
    with open_text(folder / LABELLED, "w") as file:
        file.writelines(encode_record(rows[number]) for number in sorted(rows))
    with open_text(folder / QUEUE, "w") as file:
        file.writelines(map(encode_record, queue.left))
    left = {str(row["number"]) for row in queue.left}
    write_json(folder / ABOUT, {
        **queue.about, "labelled": len(rows), "reviewed": [asdict(one) for one in (*queue.earlier, *queue.decided)],
        "open": {number: known for number, known in queue.about["open"].items() if number in left},
    })  # fmt: skip
    figures = queue.figures()
    write_json(folder / AGREEMENT, figures)
    return {**figures, "labelled": len(rows), "by_person": sum(row["by"] == "person" for row in rows.values())}
