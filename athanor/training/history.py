"""The rows of a run: one per step in metrics.jsonl, readable while it trains, each step once however often it stops."""

import json
from pathlib import Path
from typing import Any

from athanor.base.files import explain_disk_error, write_atomic

METRICS = "metrics.jsonl"
Row = dict[str, Any]


class History:
    """Rows in memory and in a live file; a checkpoint holds its own copy, from which a resumed run goes on.

    A row has no clock in it, so that two runs write the same bytes.

    Args:
        path: of the live file; None: memory only (every process but the first).
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Append the row of a step."""
        self.rows.append(row)
        if self.path is None:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as problem:
            raise explain_disk_error(problem, self.path) from problem

    def restore(self, lines: str) -> None:
        """Go back to the rows of a checkpoint: what was written after it is written again."""
        self.rows = [json.loads(line) for line in lines.splitlines()]
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, lines)

    def lines(self) -> str:
        """All rows as they stand in the file."""
        return "".join(json.dumps(row) + "\n" for row in self.rows)

    def recent(self, count: int = 20) -> float:
        """Mean loss of the last steps that have one, in nats; NaN before the first."""
        losses = [row["loss"] for row in self.rows[-count:] if row["loss"] is not None]
        return sum(losses) / len(losses) if losses else float("nan")
