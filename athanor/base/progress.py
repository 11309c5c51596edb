"""Progress on standard error: a live bar on a terminal, plain lines elsewhere, silence in tests.

A step calls `start`, then `advance` for every unit of work, then `finish`; the bar shows the rate and the time left.
"""

import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

from athanor.base.stopping import StopRequest
from athanor.base.tables import duration, quantity

if TYPE_CHECKING:
    from rich.progress import TaskID

Figure = float | int | str
PLAIN_SECONDS = 10.0  # between two plain lines


class SilentProgress:
    """Shows nothing; still stops when asked. The other two build on it."""

    def __init__(self, stop: StopRequest | None = None):
        self.stop = stop or StopRequest()
        self.label, self.unit = "", ""
        self.total: float | None = None
        self.done, self.resumed_at, self.started = 0.0, 0.0, time.monotonic()
        self.figures: dict[str, Figure] = {}

    @property
    def stopping(self) -> bool:
        """True once the user or the system asked to stop: save, then call `advance` or `check`."""
        return self.stop.asked

    def check(self) -> None:
        """Raise `Stopped` when a stop was asked for."""
        self.stop.check()

    def start(self, label: str, total: float | None = None, unit: str = "", done: float = 0.0) -> None:
        """Begin a stretch of work of `total` units; `done` of them were finished by an earlier, stopped run."""
        self.label, self.total, self.unit = label, total, unit
        self.done = self.resumed_at = done
        self.started, self.figures = time.monotonic(), {}
        self._show(first=True)

    def advance(self, amount: float = 1.0, **figures: Figure) -> None:
        """Count finished units and show named figures (loss=3.2) beside the bar.

        Raises:
            Stopped: a stop was asked for.
        """
        self.count(amount, **figures)
        self.check()

    def count(self, amount: float = 1.0, **figures: Figure) -> None:
        """`advance` without stopping: for work that saves first."""
        self.done += amount
        self.figures.update(figures)
        self._show()

    def note(self, text: str) -> None:
        """One line that stays on the screen."""

    def show(self, **figures: Figure) -> None:
        """Named figures beside the bar, from the next redrawing on."""
        self.figures.update(figures)

    def finish(self, **figures: Figure) -> None:
        """End the stretch begun by `start`."""
        self.figures.update(figures)
        self._show(last=True)

    def close(self) -> None:
        """Give the terminal back."""

    def _show(self, first: bool = False, last: bool = False) -> None:
        pass

    def _rate(self) -> float:
        return (self.done - self.resumed_at) / max(time.monotonic() - self.started, 1e-6)

    def _tail(self, last: bool) -> str:
        """'12.3 MB/s · 0:41 left · loss 3.21'."""
        rate = self._rate()
        parts = [f"{_amount(rate, self.unit)}/s"] if self.done or self.total else []  # nothing that is counted
        if not last and self.total and rate > 0:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        if last:
            parts.append(f"took {duration(time.monotonic() - self.started)}")
        parts += [f"{name} {_figure(value)}" for name, value in self.figures.items()]
        return " · ".join(parts)


class PlainProgress(SilentProgress):
    """One line now and then, for logs and pipes."""

    def __init__(self, stop: StopRequest | None = None, stream: TextIO | None = None):
        super().__init__(stop)
        self.stream = stream or sys.stderr
        self.last_line = 0.0

    def note(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def _show(self, first: bool = False, last: bool = False) -> None:
        now = time.monotonic()
        if first or (not last and now - self.last_line < PLAIN_SECONDS):
            self.last_line = now if first else self.last_line
            return
        self.last_line = now
        share = f" {self.done / self.total:4.0%}" if self.total else ""
        amount = f" · {_amount(self.done, self.unit)}" if self.done or self.total else ""
        print(f"  {self.label}{share}{amount} · {self._tail(last)}", file=self.stream, flush=True)


class LiveProgress(SilentProgress):
    """A bar that redraws itself, through the `rich` library."""

    def __init__(self, stop: StopRequest | None = None):
        super().__init__(stop)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.console = Console(stderr=True)
        self.bars = Progress(
            TextColumn("  {task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[tail]}"),
            console=self.console, transient=True, refresh_per_second=8,
        )  # fmt: skip
        self.task: TaskID | None = None

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self.bars.stop()

    def _show(self, first: bool = False, last: bool = False) -> None:
        if first:
            self.bars.start()
            self.task = self.bars.add_task(self.label, total=self.total, tail="", completed=int(self.done))
        if self.task is None:
            return
        share = f"{self.done / self.total:.0%} · " if self.total else ""
        self.bars.update(self.task, completed=self.done, tail=share + self._tail(last))
        if last:
            self.bars.remove_task(self.task)
            self.bars.stop()
            self.task = None
            amount = f" · {_amount(self.done, self.unit)}" if self.done or self.total else ""
            self.note(f"  {self.label}{amount} · {self._tail(last)}")


def make_progress(stop: StopRequest | None = None) -> SilentProgress:
    """The right kind for this standard error: live on a terminal, plain lines elsewhere."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return LiveProgress(stop)
    return PlainProgress(stop)


def _amount(value: float, unit: str) -> str:
    """'12.3 MB', '950 B', '4.1 k tok'."""
    text = quantity(value)
    return f"{text}B" if unit == "B" and text[-1].isalpha() else f"{text} {unit}".strip()


def _figure(value: Figure) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


Progress = SilentProgress  # the name steps use in their signatures
