"""Where the figures of a run are shown besides the terminal: one file per program, opened by the setting `tracker`."""

import importlib.util
from pathlib import Path
from typing import Any, Literal, Protocol

from athanor.base.errors import AthanorError

TrackerName = Literal["none", "tensorboard", "mlflow", "wandb"]
FOLDER = "runs"  # under the folder the run was started in: where each of these programs looks by default


class Tracker(Protocol):
    """Takes the figures of every step."""

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Figures by name, such as 'loss' or 'watched/heldout'."""

    def text(self, step: int, name: str, text: str) -> None:
        """Something to read, such as a sample."""

    def close(self) -> None:
        """Write what waits."""


def open_tracker(name: TrackerName, run: str, settings: dict[str, Any]) -> Tracker | None:
    """The tracker of a run; None: nobody looks.

    Args:
        run: what the run is called there.
        settings: shown beside the curves.

    Raises:
        AthanorError: its package is not installed.
    """
    if name == "none":
        return None
    module = importlib.import_module(f"athanor.training.trackers.{name}")
    try:
        return module.open_run(Path(FOLDER), run, settings)
    except ImportError as problem:
        raise AthanorError(
            f"tracker={name}: {problem.name or problem} is not installed", fix=f'pip install "athanor[{name}]"'
        ) from None


def require_tracker(name: TrackerName) -> None:
    """Refuse a tracker whose program is not here, before anything starts.

    Raises:
        AthanorError: its package is not installed.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise AthanorError(f"tracker={name}: {name} is not installed", fix=f'pip install "athanor[{name}]"')


def flat(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a row by name, those of inner tables as 'table/name'."""
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            found[prefix + key] = float(value)
    return found
