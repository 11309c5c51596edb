"""Pretraining: predict the next token of packed documents, attention kept inside each document."""

import time
from pathlib import Path
from typing import Any

import pydantic
import torch

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.data.packing.batches import Batches
from athanor.data.packing.mixed import MixedBatches
from athanor.data.packing.mixture import document_ids, measured_mixture, mixture_table, open_batches
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.models.shapes import flops_per_token
from athanor.store.artifact import RESUME, Artifact
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.loop import train
from athanor.training.objective import Objective
from athanor.training.objectives.next_token import NextTokenSettings, TokenBatch, next_token_loss, to_tensors
from athanor.training.setup import DtypeName, prepare, save_model, summary, write_metrics
from athanor.training.watching import looks


class PretrainSettings(NextTokenSettings):
    """The shape of the network and how it is trained."""

    layers: int = pydantic.Field(ge=1)
    width: int = pydantic.Field(ge=16)
    heads: int = pydantic.Field(ge=1)
    kv_heads: int | None = pydantic.Field(default=None, ge=1)
    """Key/value heads; unset: as many as heads."""
    hidden: int = pydantic.Field(ge=16)
    """Hidden width of the feed-forward layers."""
    context: int = pydantic.Field(ge=16)
    """Tokens per training row."""
    max_positions: int | None = pydantic.Field(default=None, ge=16)
    """Longest row the model may be asked for; unset: the context."""
    experts: int | None = pydantic.Field(default=None, ge=2)
    """Feed-forward layers per block, of which each token goes through some; unset: one for all tokens."""
    experts_per_token: int | None = pydantic.Field(default=None, ge=1)
    expert_hidden: int | None = pydantic.Field(default=None, ge=8)
    """Hidden width of an expert; unset: `hidden`."""
    balance: float | None = pydantic.Field(default=None, ge=0)
    """Share of the loss that keeps experts evenly used; unset: 0.01 with experts."""
    dtype: DtypeName = "float32"
    """Number type of weights and activations; the optimiser keeps fp32 copies."""


def network(settings: PretrainSettings, vocabulary: int) -> TransformerConfig:
    """The network that these settings describe: Qwen3's family (RoPE, RMSNorm, SwiGLU, QK norm), tied embeddings.

    Raises:
        AthanorError: the numbers cannot form a network, such as experts without experts_per_token.
    """
    try:
        return TransformerConfig(
            width=settings.width, layers=settings.layers, heads=settings.heads, kv_heads=settings.kv_heads,
            hidden=settings.hidden, max_positions=settings.max_positions or settings.context, vocabulary=vocabulary,
            tied=True, norm_qk=True, experts=settings.experts, experts_per_token=settings.experts_per_token,
            expert_hidden=settings.expert_hidden,
        )  # fmt: skip
    except ValueError as problem:
        raise AthanorError(f"pretrain: {problem}") from problem


def pretrain(
    settings: PretrainSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write a checkpoint in Hugging Face layout and metrics.jsonl (one row per step)."""
    shards = parents["shards"]
    shards.verify()
    tokenizer = Tokenizer.load(parents["tokenizer"].file("tokenizer.json").parent)
    highest = 1 + max(tokenizer.core.get_vocab().values())  # ids of another model's tokenizer may have gaps
    model = LanguageModel(network(settings, highest)).initialise(settings.seed)
    prepare(model, settings.dtype, settings)
    batches = open_batches(shards.path, settings.context, settings.rows, settings.seed, settings.steps)
    device = next(model.parameters()).device
    sources = dict(enumerate(batches.names)) if isinstance(batches, MixedBatches) else None
    objective = Objective(
        batch=lambda step, rank, world: read_batch(batches, step, rank, world, device),
        loss=next_token_loss(
            model.config, settings.balance, settings.z_loss, sources, settings.fused_loss, settings.document_mask
        ),
        tokens=settings.rows * settings.context,
        flops=float(settings.rows * settings.context * flops_per_token(model.config, settings.context)),
        **looks(settings, tokenizer, shards.path, settings.context),
        sources=lambda step: document_ids(shards.path, batches, step),
    )
    clock = time.monotonic()
    rows = train(model, objective, settings, folder / RESUME, progress, "pretraining")
    seconds = time.monotonic() - clock
    save_model(model, tokenizer, folder)
    write_metrics(folder, rows)
    parameters = sum(weight.numel() for weight in model.parameters())
    mixture = measured_mixture(batches, settings.steps)
    if "sources" in mixture:
        progress.note(mixture_table(mixture["sources"], settings.steps * objective.tokens))
    return {"parameters": parameters, **summary(rows, objective, seconds), **mixture}


def read_batch(batches: Batches | MixedBatches, step: int, rank: int, world: int, device: torch.device) -> TokenBatch:
    """One share of a step on a device; of a mixture with the source of each position, so that losses are told apart."""
    batch = batches.batch(step, rank, world)
    tensors = to_tensors(batch, device)
    if isinstance(batches, Batches):
        return tensors
    return tensors._replace(sources_BT=torch.from_numpy(batches.sources_of(batch.documents_BT)).to(device))
