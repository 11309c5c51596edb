"""What every training run sets: length, optimiser, schedule, techniques, what happens when something goes wrong."""

from typing import Annotated, Literal

import pydantic

from athanor.base.settings import Settings
from athanor.training.engines.choose import EngineName
from athanor.training.optimizer import OptimizerName
from athanor.training.schedule import Shape
from athanor.training.trackers import TrackerName

TOGETHER = ("tensor", "context")  # engines whose processes all read the same rows
Beta = Annotated[float, pydantic.Field(ge=0, lt=1)]


class LoopSettings(Settings):
    """Settings of the loop; each technique is one of them and can be left out."""

    steps: int = pydantic.Field(ge=1)
    """Optimiser steps."""
    rows: int = pydantic.Field(ge=1)
    """Rows of `context` tokens in one step, over all processes together."""
    accumulate: int = pydantic.Field(default=1, ge=1)
    """Pieces a step's rows are computed in, one after the other: less memory, the same update."""
    learning_rate: float = pydantic.Field(gt=0, lt=1)
    """Peak learning rate."""
    optimizer: OptimizerName = "muon"
    fused_optimizer: bool = True
    """AdamW's whole update of a weight in one pass over memory; false: operation by operation."""
    schedule: Shape = "cosine"
    warmup: int = pydantic.Field(default=20, ge=0)
    """Steps over which the learning rate rises from zero."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's memory of gradients and of their squares."""
    weight_decay: float = pydantic.Field(default=0.1, ge=0)
    clip: float | None = pydantic.Field(default=1.0, gt=0)
    """Largest norm of the gradient; unset: no limit."""
    average: float | None = pydantic.Field(default=None, gt=0, lt=1)
    """Keep an exponential moving average of the weights with this decay, and end with it; unset: the last weights."""
    z_loss: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Adds this times the squared logarithm of the softmax's sum (PaLM: 1e-4): keeps scores from drifting."""
    neftune: float = pydantic.Field(default=0.0, ge=0)
    """Noise added to embeddings while training, alpha of NEFTune (5 to 15 for instruction data); 0: none."""
    recompute: bool = False
    """Keep only what enters each layer and compute the rest again for the gradient: less memory, a third more work."""
    compile: bool = False
    """Let torch.compile fuse the layers; needs a C++ compiler. Beside the C library a processor gains nothing by it."""
    on_spike: Literal["note", "rewind"] = "note"
    """When the loss jumps by 6 standard deviations: say so, or go back to a checkpoint and leave the batch out."""
    watch_every: int | None = pydantic.Field(default=None, ge=1)
    """Steps between two looks at held-out data, and at what the model writes; unset: none."""
    prompts: tuple[str, ...] = ()
    """Beginnings that the model goes on with at every look."""
    keep_best: bool = False
    """End with the weights that did best on held-out data, not with the last ones; needs watch_every."""
    seed: int = pydantic.Field(default=1, ge=0)
    # `exclude`: what changes no result is no part of an artifact's name
    engine: EngineName = pydantic.Field(default="single", exclude=True)
    """How training spreads: one process; ddp: the whole model in each; fsdp2: weights divided; tensor: layers divided;
    context: rows divided by positions; deepspeed: gradients and moments divided (ZeRO-2; needs athanor[deepspeed]).
    The result is the same within rounding, and a checkpoint of one goes on in any other."""
    processes: int = pydantic.Field(default=1, ge=1, exclude=True)
    """Processes that are started on this machine; under torchrun it says how many."""
    checkpoint_seconds: float = pydantic.Field(default=15.0, ge=0, exclude=True)
    """Time between two checkpoints for resuming."""
    keep_checkpoints: int = pydantic.Field(default=2, ge=1, exclude=True)
    """Newest checkpoints kept for resuming."""
    tracker: TrackerName = pydantic.Field(default="none", exclude=True)
    """Show the curves in tensorboard, mlflow or wandb as well."""

    @property
    def pieces(self) -> int:
        """Shares that a step's rows are computed in, over all processes together."""
        return self.accumulate * (1 if self.engine in TOGETHER else self.processes)

    @pydantic.model_validator(mode="after")
    def _spreads(self) -> "LoopSettings":
        if self.processes > 1 and self.engine == "single":
            raise ValueError(
                f"processes={self.processes} needs an engine that spreads: ddp, fsdp2, tensor, context, deepspeed"
            )
        if self.rows < self.pieces:
            raise ValueError(
                f"rows={self.rows} for {self.pieces} pieces (processes times accumulate={self.accumulate}): each piece "
                f"has one row or more; set rows to {self.pieces} at least"
            )
        if self.engine == "deepspeed" and (self.optimizer != "adamw" or self.average is not None):
            given = f"optimizer={self.optimizer}" if self.optimizer != "adamw" else f"average={self.average}"
            raise ValueError(
                f"engine=deepspeed with {given}: DeepSpeed keeps masters in flat rows, which only AdamW can update; "
                "set optimizer=adamw without average, or engine=fsdp2"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _looks(self) -> "LoopSettings":
        for name in ("keep_best", "prompts"):
            if getattr(self, name) and self.watch_every is None:
                raise ValueError(f"{name} needs watch_every, the steps between two looks")
        return self
