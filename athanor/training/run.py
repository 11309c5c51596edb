"""The parts of one training run, and how it is saved, resumed and taken back."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from athanor.base.progress import Progress
from athanor.training.alongside import SyncedAlongside
from athanor.training.average import Average
from athanor.training.checkpoint import Checkpoints, Found
from athanor.training.engines.engine import Engine
from athanor.training.engines.part import PartDone
from athanor.training.guard import Guard, bad_run
from athanor.training.history import METRICS, History, Row
from athanor.training.objective import Objective, Scored
from athanor.training.settings import LoopSettings
from athanor.training.show import Show


class Run:
    """Everything that changes while a model learns.

    Attributes:
        step: the next one.
        saved: when the last checkpoint was written.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        settings: LoopSettings,
        work: Path,
        progress: Progress,
        engine: Engine,
    ):
        self.objective, self.settings, self.work = objective, settings, work
        self.progress, self.engine, self.model = progress, engine, model
        self.module, self.optimizer = engine.start(Scored(model, objective.loss), settings)
        self.average = None
        if settings.average is not None:
            self.average = Average(self.optimizer.names, self.optimizer.masters, settings.average)
        self.checkpoints = Checkpoints(work, settings.keep_checkpoints)
        self.writer: Any = (
            SyncedAlongside(self.checkpoints) if engine.places == 1 else in_background(self.checkpoints, engine)
        )
        self.guard = Guard(settings.on_spike)
        self.history = History(work / METRICS if engine.first else None)
        self.step, self.saved = 0, time.monotonic()
        name = work.parent.name
        self.show = Show(objective, settings, progress, name, engine.places) if engine.first else None

    def save(self) -> None:
        """Write a checkpoint; it is whole some time later, see `settle`."""
        # Those of steps without a number do not count: one from before them must stay, to go back to.
        self.checkpoints.keep = self.settings.keep_checkpoints + len(bad_run(self.history.rows))
        parts = dict(self.optimizer.tensors())
        if self.average is not None:
            parts |= dict(self.average.tensors())
        best = self.best_step() if self.settings.keep_best else None
        self.writer.save(self.step, parts, {"guard": self.guard.state()}, self.history.lines(), best)
        self.saved = time.monotonic()

    def settle(self) -> None:
        """Until the last checkpoint is whole."""
        self.writer.wait()

    def restore(self) -> None:
        """Go on from the newest whole checkpoint; with none, write the first, so that there is one to go back to."""
        if not self._load():
            self.history.restore("")
            self.save()
        elif self.step:
            self.progress.note(f"  going on at step {self.step} of {self.settings.steps}")

    def rewind(self) -> None:
        """Go back to before the steps that led to trouble, and remember to leave them out."""
        guard, trouble = self.guard, self.step
        first = min(guard.events[-1]["avoided"])
        assert self._load(before=first), "a checkpoint from before the trouble is kept"
        self.guard = guard
        self.progress.done -= (trouble - 1 - self.step) * self.objective.tokens
        self.progress.note(f"  step {trouble - 1} went wrong: back at step {self.step}; the batch is left out")
        self.save()

    def watching(self) -> bool:
        """Whether held-out data is looked at after the step that was just taken."""
        every = self.settings.watch_every
        return every is not None and (self.step == self.settings.steps or self.step % every == 0)

    def watch(self) -> Row:
        """Figures on held-out data and samples, of the averaged weights where there are some."""
        weights = self.optimizer.held
        kept = [] if self.average is None else [weight.detach().clone() for weight in weights]
        if self.average is not None:
            self.average.put_into(weights)
        self.model.eval()
        with torch.no_grad(), self.engine.looking():
            watched = {} if self.objective.watch is None else {"watched": dict(self.objective.watch(self.model))}
            samples = {} if self.objective.samples is None else {"samples": list(self.objective.samples(self.model))}
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=False):
                weight.copy_(value)
        self.model.train()
        return {**watched, **samples}

    def best_step(self) -> int | None:
        """Steps taken when the first watched figure was lowest, of equal ones the last; None: nothing was watched."""
        looked = [row for row in reversed(self.history.rows) if "watched" in row]
        return None if not looked else 1 + min(looked, key=first_figure)["step"]

    def best(self) -> bool:
        """Whether the newest row's first watched figure is the lowest so far."""
        return "watched" in self.history.rows[-1] and self.best_step() == self.step

    def finish(self) -> list[Row]:
        """The rows; the model holds the averaged weights where they were asked for.

        Raises:
            PartDone: this is not the first process.
        """
        rows = self.history.rows
        self.settle()
        step = self.best_step() if self.settings.keep_best else None
        if step is not None and step != self.step:
            best = self.checkpoints.whole(step)
            if best is None:
                self.progress.note(f"  the best checkpoint, of step {step}, is damaged: these are the last weights")
            else:
                self._take(best)
                self.progress.note(f"  held-out data was foretold best after {best.step} steps: these are its weights")
        if self.average is not None:
            self.average.put_into(self.optimizer.held)
        self.engine.restore(self.model)
        if not self.engine.first:
            raise PartDone
        if self.show is not None:
            self.show.close()
        return rows

    def _load(self, before: int | None = None) -> bool:
        self.settle()
        found = self.checkpoints.load(before) if self.engine.first else None
        for complaint in self.checkpoints.complaints:
            self.progress.note(f"  {complaint}")
        step = self.engine.agreed(None if found is None else found.step)
        if step is None:
            return False
        found = found or self.checkpoints.at(step)
        self._take(found)
        self.step = found.step
        self.guard = Guard(self.settings.on_spike, found.state["guard"])
        self.history.restore(found.lines)
        return True

    def _take(self, found: Found) -> None:
        parts = found.parts(self.engine)
        self.optimizer.load(parts)
        if self.average is not None:
            self.average.load(parts)


def first_figure(row: Row) -> float:
    """The first of the figures that were watched; one that is no number is worse than any."""
    figure = next(iter(row["watched"].values()))
    return math.inf if math.isnan(figure) else figure


def in_background(checkpoints: Checkpoints, engine: Engine) -> Any:
    """What writes the checkpoints of several processes."""
    from athanor.training.background import Background  # torch's DCP takes a second to load

    return Background(checkpoints, engine)
