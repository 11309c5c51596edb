"""Weights & Biases: written to runs/wandb; sent to their server only when WANDB_MODE=online says so."""

import os
from pathlib import Path
from typing import Any


class WeightsAndBiases:
    """One run; a resumed run goes on in the same."""

    def __init__(self, folder: Path, run: str, settings: dict[str, Any]):
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "offline")  # nothing leaves the machine unasked
        self.wandb = wandb
        self.run = wandb.init(
            project="athanor", name=run, id=run, resume="allow", dir=str(folder), mode=mode, config=settings,
            settings=wandb.Settings(silent=True),
        )  # fmt: skip

    def log(self, step: int, figures: dict[str, float]) -> None:
        self.run.log(figures, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self.run.log({name: self.wandb.Html(f"<pre>{_escaped(text)}</pre>")}, step=step)

    def close(self) -> None:
        self.run.finish()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def open_run(folder: Path, run: str, settings: dict[str, Any]) -> WeightsAndBiases:
    """A run under `folder`."""
    return WeightsAndBiases(folder, run, settings)
