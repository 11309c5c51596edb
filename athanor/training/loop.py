"""The one training loop, for every objective: batch, loss, gradient, update, save, and go on where it stopped."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.base.settings import Settings
from athanor.training.checkpoint import load_newest, save_state
from athanor.training.optimizer import MasterOptimizer, OptimizerName
from athanor.training.schedule import Shape, rate_share

METRICS = "metrics.jsonl"


class LoopSettings(Settings):
    """What every training run sets."""

    steps: int = pydantic.Field(ge=1)
    """Optimiser steps."""
    rows: int = pydantic.Field(ge=1)
    """Rows of `context` tokens in one step."""
    learning_rate: float = pydantic.Field(gt=0, lt=1)
    """Peak learning rate."""
    optimizer: OptimizerName = "muon"
    schedule: Shape = "cosine"
    warmup: int = pydantic.Field(default=20, ge=0)
    """Steps over which the learning rate rises from zero."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = pydantic.Field(default=0.1, ge=0)
    clip: float = pydantic.Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    checkpoint_seconds: float = pydantic.Field(default=15.0, ge=0)
    """Time between two checkpoints for resuming; changes no result."""
    seed: int = pydantic.Field(default=1, ge=0)


@dataclass(frozen=True)
class Objective:
    """What a run learns: batches as a pure function of the step, and the loss of one.

    Attributes:
        batch: step to whatever `loss` takes.
        loss: (model, batch) to the summed loss and the number of scored positions.
        tokens: tokens in one step, for the rate.
    """

    batch: Callable[[int], Any]
    loss: Callable[[nn.Module, Any], tuple[Tensor, Tensor]]
    tokens: int


def train(
    model: nn.Module, objective: Objective, settings: LoopSettings, work: Path, progress: Progress, label: str
) -> list[dict[str, float]]:
    """Train `model` in place and return one row of metrics per step (step, loss, rate, norm).

    Resuming gives the same weights, bit for bit: the state in `work` holds the fp32 weights and moments, and batches
    depend on the step alone.

    Raises:
        Stopped: asked to stop; the state was saved first.
        AthanorError: the loss is not a number.
    """
    optimizer = MasterOptimizer(model, settings.optimizer, settings.betas, settings.weight_decay)
    first, tensors, state, complaints = load_newest(work)
    rows: list[dict[str, float]] = state.get("metrics", [])
    for complaint in complaints:
        progress.note(f"  {complaint}")
    if first:
        optimizer.load(tensors)
        progress.note(f"  going on at step {first} of {settings.steps}")
    progress.start(label, settings.steps * objective.tokens, "tok", done=first * objective.tokens)
    saved = time.monotonic()
    for step in range(first, settings.steps):
        rows.append(_step(model, optimizer, objective, settings, step))
        due = time.monotonic() - saved >= settings.checkpoint_seconds
        if progress.stopping or (due and step + 1 < settings.steps):
            save_state(work, step + 1, dict(optimizer.tensors()), {"metrics": rows})
            saved = time.monotonic()
        progress.advance(objective.tokens, loss=_recent(rows), lr=rows[-1]["rate"])
    progress.finish(loss=_recent(rows))
    return rows


def _step(
    model: nn.Module, optimizer: MasterOptimizer, objective: Objective, settings: LoopSettings, step: int
) -> dict[str, float]:
    batch = objective.batch(step)
    total, count = objective.loss(model, batch)
    scored = max(1, int(count))
    loss = float(total.detach()) / scored
    if not math.isfinite(loss):
        raise AthanorError(
            f"the loss became {loss} at step {step}",
            fix=f"lower the learning rate (now {settings.learning_rate}) or set clip below {settings.clip}",
        )
    total.backward()
    rate = settings.learning_rate * rate_share(settings.schedule, step, settings.steps, settings.warmup)
    norm = optimizer.step(rate, 1 / scored, settings.clip)
    return {"step": step, "loss": loss, "rate": rate, "norm": norm, "scored": scored}


def write_metrics(folder: Path, rows: list[dict[str, float]]) -> None:
    """One line per step; no clock in it, so that two runs write the same bytes."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / METRICS).write_text(text, encoding="utf-8")


def _recent(rows: list[dict[str, float]], count: int = 20) -> float:
    last = rows[-count:]
    return sum(row["loss"] for row in last) / max(1, len(last))
