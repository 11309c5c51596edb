"""What every training step prepares and leaves behind: device, number type, tensors of a batch, the checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from athanor.base.device import pick_device, set_threads
from athanor.data.packing.batches import Batch
from athanor.models.convert import save_checkpoint
from athanor.models.language import LanguageModel
from athanor.tokens.chat import Template, end_ids, generation_of, jinja_of, special_ids, stored_ends
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.loop import Objective

DtypeName = Literal["float32", "bfloat16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def prepare(model: LanguageModel, dtype: DtypeName) -> LanguageModel:
    """The model on its device, in its number type, ready to train; the same operations in the same order every time."""
    set_threads()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs 5 % of a step
    return model.to(device=pick_device(), dtype=DTYPES[dtype]).train()


def to_tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, targets, documents), each (B, T), int64."""
    arrays = (batch.ids_BT, batch.targets_BT, batch.documents_BT)
    ids, targets, documents = (torch.from_numpy(array).to(device, non_blocking=True) for array in arrays)
    return ids, targets, documents


def next_token_loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """-log p(token | tokens of the same document before it), summed over targets that are not -100; and their number.

    GPT-1 (Radford et al. 2018), equation 1; fine-tuning uses the same loss with other targets.
    """
    assert isinstance(model, LanguageModel)
    ids_BT, targets_BT, documents_BT = batch
    return model.loss(ids_BT, targets_BT, documents_BT)


def save_model(
    model: LanguageModel, tokenizer: Tokenizer, folder: Path, generation: Mapping[str, Any] | None = None
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


def summary(rows: list[dict[str, Any]], objective: Objective, seconds: float) -> dict[str, Any]:
    """Final loss (mean of the last 20 steps, nats), tokens, and the rate over this process's part of the run."""
    last = [row["loss"] for row in rows[-20:]]
    tokens = len(rows) * objective.tokens
    return {
        "loss": round(sum(last) / len(last), 5),
        "steps": len(rows),
        "tokens": tokens,
        "train_seconds": round(seconds, 2),
    }
