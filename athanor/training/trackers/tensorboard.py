"""TensorBoard: `tensorboard --logdir runs`."""

import json
from pathlib import Path
from typing import Any


class TensorBoard:
    """An event file per process that trained, and another where a run goes back; steps that follow it are dropped."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        self.writer, self.folder, self.newest = None, folder, -1
        self.make, self.settings = SummaryWriter, settings

    def log(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._at(step).add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        self._at(step).add_text(name, text, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def _at(self, step: int) -> Any:
        # With purge_step TensorBoard forgets what was written of this step and later ones.
        if self.writer is None or step < self.newest:
            self.close()
            self.writer = self.make(str(self.folder), purge_step=step)
            if not step:
                self.writer.add_text("settings", "```json\n" + json.dumps(self.settings, indent=2) + "\n```")
        self.newest = step
        return self.writer


def open_run(folder: Path, run: str, settings: dict[str, Any]) -> TensorBoard:
    """A folder under `folder`."""
    return TensorBoard(folder / run, settings)
