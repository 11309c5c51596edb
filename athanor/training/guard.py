"""What happens when a step goes wrong: skip it, then go back and leave its batch out, then stop and say why.

A loss or gradient that is no number is never applied. One or two such steps in a row are skipped. A third means that
the weights themselves are damaged: the run goes back to a checkpoint from before them and leaves these batches out
(PaLM, Chowdhery et al. 2022, section 5.1, did so by hand). When that has not helped twice, the run stops with a report.
"""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from athanor.base.errors import AthanorError
from athanor.base.files import write_atomic
from athanor.training.history import Row

PATIENCE = 3  # bad steps in a row that make a run go back
MOST_REWINDS = 2
SPIKE_WINDOW, SPIKE_SIGMAS = 128, 6.0
FEWEST = 32  # steps before a spike can be told from the fall of the first steps
REPORT = "trouble.md"
Verdict = Literal["go", "rewind", "stop"]


class Guard:
    """Judges every step by its row, and remembers which batches are left out.

    Attributes:
        avoided: steps whose batch is not used any more, since it led to trouble.
        events: what happened, for the report and the curve.
    """

    def __init__(self, on_spike: str = "note", state: Mapping[str, Any] | None = None):
        self.on_spike = on_spike
        self.avoided: set[int] = set(state["avoided"]) if state else set()
        self.events: list[dict[str, Any]] = list(state["events"]) if state else []

    def judge(self, rows: Sequence[Row], newest: Row) -> Verdict:
        """What to do after the newest row, which follows `rows` and is marked when it is a spike."""
        step = newest["step"]
        if newest.get("skipped") == "no number":
            self.events.append({"what": "no number", "step": step})
            bad = [*bad_run(rows), step]
            return self._go_back(bad, "no number") if len(bad) >= PATIENCE else "go"
        if newest["loss"] is not None and is_spike(newest["loss"], rows):
            newest["spike"] = True
            self.events.append({"what": "spike", "step": step, "loss": newest["loss"]})
            return self._go_back([step], "spike") if self.on_spike == "rewind" else "go"
        return "go"

    def _go_back(self, steps: list[int], why: str) -> Verdict:
        rewinds = sum(event["what"] == "rewind" and event["why"] == why for event in self.events)
        if why == "no number" and rewinds >= MOST_REWINDS:
            return "stop"
        self.avoided.update(steps)
        self.events.append({"what": "rewind", "why": why, "step": steps[-1], "avoided": steps})
        return "rewind"

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"avoided": sorted(self.avoided), "events": self.events}


def trouble_of(row: Row) -> str:
    """What went wrong at a step, for the one who watches; empty where nothing did."""
    if row.get("skipped") == "no number":
        return "loss or gradient is no number; nothing is learnt from this batch"
    return f"the loss jumped to {row['loss']:.3f}, {SPIKE_SIGMAS:g} standard deviations up" if row.get("spike") else ""


def bad_run(rows: Sequence[Row]) -> list[int]:
    """The steps at the end of `rows` that gave no number, one after the other."""
    steps: list[int] = []
    for row in reversed(rows):
        if row.get("skipped") != "no number":
            break
        steps.insert(0, row["step"])
    return steps


def is_spike(loss: float, before: Sequence[Row]) -> bool:
    """Whether a loss lies 6 standard deviations above the mean of the last 128 steps."""
    known = [row["loss"] for row in before[-SPIKE_WINDOW:] if row["loss"] is not None]
    if len(known) < FEWEST:
        return False
    return loss > statistics.fmean(known) + SPIKE_SIGMAS * max(statistics.pstdev(known), 1e-6)


def stop_with_report(guard: Guard, rows: Sequence[Row], sources: Callable[[int], Sequence[str]], work: Path) -> None:
    """Write trouble.md, which names the documents of the batches, and end the run.

    Raises:
        AthanorError: always.
    """
    steps = bad_run(rows) or [rows[-1]["step"]]
    lines = ["# A training run that could not go on", ""]
    lines += [f"Steps without a number: {', '.join(map(str, steps))}.", "", "## Documents of these steps", ""]
    for step in steps:
        lines += [f"- step {step}: {name}" for name in sources(step)]
    lines += ["", "## What happened before", ""]
    lines += [f"- {json.dumps(event)}" for event in guard.events[-50:]]
    lines += ["", "## The last steps", "", "| step | loss | norm of the gradient | rate |", "|---|---|---|---|"]
    lines += [f"| {row['step']} | {row['loss']} | {row['norm']} | {row['rate']:.3g} |" for row in rows[-50:]]
    work.mkdir(parents=True, exist_ok=True)
    write_atomic(work / REPORT, "\n".join(lines) + "\n")
    raise AthanorError(
        f"the loss stayed no number at steps {steps[0]} to {steps[-1]}, after going back {MOST_REWINDS} times",
        fix=f"lower the learning rate, or look at the documents named in {work / REPORT}",
    )


def finite(*values: float) -> bool:
    """Whether all are numbers one can learn from."""
    return all(math.isfinite(value) for value in values)
