"""What every training step prepares and leaves behind: device, number type, tensors of a batch, the checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from athanor.base.device import keep_freed_memory, pick_device, set_threads
from athanor.models.convert import save_checkpoint
from athanor.models.outline import moved
from athanor.tokens.chat import Template, end_ids, generation_of, jinja_of, special_ids, stored_ends
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.history import METRICS, Row
from athanor.training.objective import Objective
from athanor.training.settings import LoopSettings
from athanor.training.techniques import apply_techniques

SomeModel = TypeVar("SomeModel", bound=nn.Module)
DtypeName = Literal["float32", "bfloat16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def prepare(model: SomeModel, dtype: DtypeName | None, settings: LoopSettings) -> SomeModel:
    """The model on its device, ready to train; the same operations in the same order every time.

    Args:
        dtype: number type of the weights; None: as they are (codes have none).
    """
    set_threads()
    keep_freed_memory()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs 5 % of a step
    apply_techniques(model, settings)
    moved(model, pick_device(), None if dtype is None else DTYPES[dtype])
    return model.train()


def save_model(
    model: nn.Module, tokenizer: Tokenizer, folder: Path, generation: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint that `transformers` loads: weights, config, tokenizer, chat template.

    Args:
        generation: generation_config.json; None: what the tokenizer says.
    """
    save_checkpoint(model, folder, generation=special_ids(tokenizer) if generation is None else generation)
    tokenizer.save(folder, jinja_of(tokenizer))


def chat_generation(base: Path, tokenizer: Tokenizer, template: Template) -> dict[str, Any]:
    """generation_config.json of a model fine-tuned to chat: its base's, and what ends an answer ends the generation."""
    if tokenizer.native:
        return special_ids(tokenizer)
    generation = generation_of(base, tokenizer)
    ends = end_ids(tokenizer, template, stored_ends(base))
    return {**generation, "eos_token_id": list(ends) if len(ends) > 1 else ends[0]}


def write_metrics(folder: Path, rows: list[Row]) -> None:
    """One line per step; no clock in it, so that two runs write the same bytes."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / METRICS).write_text(text, encoding="utf-8")


def summary(rows: list[Row], objective: Objective, seconds: float) -> dict[str, Any]:
    """Final loss (mean of the last 20 steps, nats), tokens, and the rate over this process's part of the run."""
    last = [row["loss"] for row in rows[-20:] if row["loss"] is not None]
    skipped = sum("skipped" in row for row in rows)
    return {
        "loss": round(sum(last) / len(last), 5) if last else None,
        "steps": len(rows),
        "tokens": len(rows) * objective.tokens,
        "train_seconds": round(seconds, 2),
        "train_flops": len(rows) * objective.flops,
        **({"skipped_steps": skipped} if skipped else {}),
    }
