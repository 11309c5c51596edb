"""Pretraining: one objective on packed documents, from fresh weights to a checkpoint in Hugging Face layout."""

import time
from pathlib import Path
from typing import Any

from athanor.base.device import pick_device
from athanor.base.progress import Progress
from athanor.data.packing.mixture import document_ids, measured_mixture, mixture_table, open_batches
from athanor.store.artifact import RESUME, Artifact
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.corpus import every_rows, judge, learning, row_flops, with_marks
from athanor.training.loop import train
from athanor.training.networks import PretrainSettings, build, network
from athanor.training.objective import Objective
from athanor.training.setup import prepare, save_model, summary, write_metrics
from athanor.training.watching import looks

__all__ = ["PretrainSettings", "network", "pretrain"]


def pretrain(
    settings: PretrainSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write a checkpoint in Hugging Face layout and metrics.jsonl (one row per step)."""
    shards = parents["shards"]
    shards.verify()
    tokenizer = with_marks(settings, Tokenizer.load(parents["tokenizer"].file("tokenizer.json").parent))
    highest = 1 + max(tokenizer.core.get_vocab().values())  # ids of another model's tokenizer may have gaps
    model = prepare(build(settings, highest), settings.dtype, settings)
    batches = open_batches(shards.path, settings.context, settings.rows, settings.seed, settings.steps)
    every = every_rows(settings, tokenizer, model)
    made = every[settings.objective]
    batch, loss = learning(settings, batches, every, pick_device())
    objective = Objective(
        batch=batch, loss=loss, tokens=settings.rows * settings.context,
        flops=settings.rows * sum(
            row_flops(settings.model_copy(update={"objective": name}), model) for name in every
        ),
        **looks(settings, tokenizer, shards.path, settings.context, judge(made)),
        sources=lambda step: document_ids(shards.path, batches, step),
    )  # fmt: skip
    clock = time.monotonic()
    rows = train(model, objective, settings, folder / RESUME, progress, "pretraining")
    seconds = time.monotonic() - clock
    save_model(model, tokenizer, folder, made.generation)
    write_metrics(folder, rows)
    parameters = sum(weight.numel() for weight in model.parameters())
    mixture = measured_mixture(batches, settings.steps)
    if "sources" in mixture:
        progress.note(mixture_table(mixture["sources"], settings.steps * objective.tokens))
    return {"parameters": parameters, **summary(rows, objective, seconds), **mixture}
