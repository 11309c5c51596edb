"""The one training loop, for every objective and engine: batch, loss, gradient, update, save, resume."""

import time
from pathlib import Path

import torch
from torch import Tensor, nn

from athanor.base.errors import Stopped
from athanor.base.progress import Progress
from athanor.training.engines.choose import open_engine
from athanor.training.engines.engine import Engine
from athanor.training.guard import finite, stop_with_report, trouble_of
from athanor.training.history import Row
from athanor.training.objective import Objective
from athanor.training.run import Run
from athanor.training.schedule import rate_share
from athanor.training.settings import LoopSettings


def train(
    model: nn.Module,
    objective: Objective,
    settings: LoopSettings,
    work: Path,
    progress: Progress,
    label: str,
    engine: Engine | None = None,
) -> list[Row]:
    """Train `model` in place and return one row of metrics per step (step, loss, rate, norm, scored).

    Resuming gives the same weights, bit for bit: the state in `work` holds the fp32 weights and moments, and batches
    and random numbers depend on the seed and the step alone.

    Args:
        work: folder of checkpoints, the live metrics and the report of a run that could not go on.
        engine: how the run spreads over processes; None: as the settings say.

    Raises:
        PartDone: in every process but the first, once all are done; the first holds the model.
        Stopped: asked to stop; the state was saved first.
        AthanorError: the loss stayed no number after going back.
    """
    run = Run(model, objective, settings, work, progress, engine or open_engine(settings.engine))
    run.restore()
    if settings.warmup > settings.steps:
        progress.note(
            f"  warmup={settings.warmup} of {settings.steps} steps: the rate never reaches {settings.learning_rate:g}"
        )
    progress.start(label, settings.steps * objective.tokens, "tok", done=run.step * objective.tokens)
    while run.step < settings.steps:
        take_step(run)
    progress.finish(loss=run.history.recent())
    return run.finish()


def take_step(run: Run) -> None:
    """Learn from one batch, judge what came of it, and save when it is time."""
    row = learn(run)
    if row is None:
        run.save()
        run.settle()
        raise Stopped(run.progress.stop.by_system)
    verdict = run.guard.judge(run.history.rows, row)
    run.step += 1
    if verdict == "go" and (what := trouble_of(row)):
        run.progress.note(f"  step {row['step']}: {what}")
    if run.watching():
        row |= run.watch()
    run.history.add(row)
    if verdict == "stop":
        stop_with_report(run.guard, run.history.rows, run.objective.sources, run.work)
    if verdict == "rewind":
        run.rewind()
        return
    due = time.monotonic() - run.saved >= run.settings.checkpoint_seconds and run.step < run.settings.steps
    due = due and row.get("skipped") != "no number"  # the last good checkpoint must outlive the trouble
    due = due or (run.settings.keep_best and run.best())
    if run.show is not None:
        run.show.step(row, run.history.recent())
    run.progress.count(run.objective.tokens)
    asked = run.engine.any(run.progress.stopping)
    if run.engine.any(asked or due):
        run.save()
    if asked:
        run.settle()
        raise Stopped(run.progress.stop.by_system)


def learn(run: Run) -> Row | None:
    """One step: gradients of all pieces, one update; a step without a number updates nothing.

    None: asked to stop before all pieces were computed (a system gives 30 seconds); nothing was learnt.
    """
    s, step = run.settings, run.step
    rate = s.learning_rate * rate_share(s.schedule, step, s.steps, s.warmup)
    row: Row = {"step": step, "loss": None, "rate": rate, "norm": None, "scored": 0}
    if step in run.guard.avoided:
        return {**row, "skipped": "left out"}
    found = gradients(run)
    if found is None:
        run.optimizer.forget()
        return None
    total, scored, parts = found
    loss, scale = total / max(1, scored), 1 / max(1, scored)
    norm = run.optimizer.norm(scale)
    if not finite(loss, norm):
        run.optimizer.forget()
        return {**row, "scored": scored, "skipped": "no number"}
    clipped = 1.0 if s.clip is None else min(1.0, s.clip / (norm + 1e-6))
    run.optimizer.update(rate, scale * clipped)
    if run.average is not None:
        run.average.update(run.optimizer.masters, step)
    return {**row, "loss": loss, "norm": norm, "scored": scored, **({"parts": parts} if parts else {})}


def gradients(run: Run) -> tuple[float, int, dict[str, float]] | None:
    """Add up the gradients of this process's pieces: summed loss, positions scored, and the mean loss of every part.

    None: asked to stop between two pieces.
    """
    pieces, engine = run.settings.accumulate, run.engine
    sums: list[Tensor] = []
    for piece in range(pieces):
        if piece and engine.any(run.progress.stopping):
            return None
        share = engine.rank * pieces + piece
        torch.manual_seed(noise_seed(run.settings.seed, run.step, share))
        last = piece == pieces - 1
        with engine.piece(last):
            loss = run.module(run.objective.batch(run.step, share, engine.world * pieces))
            engine.backward(loss.total)
        run.optimizer.collect(last)
        flat = [loss.total.detach(), loss.count, *(number for pair in loss.parts.values() for number in pair)]
        sums.append(torch.stack([number.double() for number in flat]))
    total, scored, *rest = engine.sum(torch.stack(sums).sum(0)).tolist()
    means = {name: part / count for name, part, count in zip(loss.parts, rest[::2], rest[1::2], strict=True) if count}
    return total, round(scored), means


def noise_seed(seed: int, step: int, share: int) -> int:
    """A seed for dropout and noise that a resumed run finds again."""
    return ((seed * 1_000_003 + step) * 1_000_003 + share) % 2**63
