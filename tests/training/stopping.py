"""Runs that are stopped again and again: shared by the tests of steps that learn."""

from collections.abc import Callable
from pathlib import Path

from athanor.base.errors import Stopped
from athanor.base.progress import SilentProgress
from athanor.store.artifact import Artifact


class StopEvery(SilentProgress):
    """Asks to stop when this process has taken so many steps of what has this label."""

    def __init__(self, label: str, steps: int):
        super().__init__()
        self.wanted, self.steps, self.taken = label, steps, 0

    def start(self, label: str, total: float | None = None, unit: str = "", done: float = 0.0) -> None:
        super().start(label, total, unit, done)
        self.learning = label == self.wanted

    def count(self, amount: float = 1.0, **figures: float | int | str) -> None:
        super().count(amount, **figures)
        self.taken += self.learning
        self.stop.asked = self.taken >= self.steps


def stopped_again_and_again(
    run: Callable[[SilentProgress], dict[str, Artifact]], label: str, steps: int
) -> tuple[dict[str, Artifact], int]:
    """What a run makes that is stopped after every so many steps of `label`, and how often it was."""
    for stops in range(100):
        try:
            return run(StopEvery(label, steps)), stops
        except Stopped:
            continue
    raise AssertionError("it never came to an end")


def files_of(artifact: Artifact) -> dict[str, bytes]:
    """Every file of an artifact but its record, which holds times."""
    files = (path for path in sorted(Path(artifact.path).rglob("*")) if path.is_file())
    return {path.name: path.read_bytes() for path in files if path.name != "artifact.json"}
