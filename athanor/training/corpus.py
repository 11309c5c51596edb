"""From a packed corpus to an objective: what each kind of pretraining needs of the tokenizer, and makes of a window.

A window of the corpus becomes one row of the objective, so that the documents and sources of a step are those of its
windows, whatever is hidden of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from athanor.data.packing.batches import Batch, Batches, bounds
from athanor.data.packing.mixed import MixedBatches
from athanor.data.packing.pack import document_mark
from athanor.models.shapes import flops_per_token
from athanor.tokens.chat import special_ids
from athanor.tokens.extend import extend
from athanor.tokens.tokenizer import Tokenizer
from athanor.tokens.wholeword import WordEdges
from athanor.training.networks import PretrainSettings
from athanor.training.objective import Loss
from athanor.training.objectives import blank_infilling, masked, permutation, span_corruption
from athanor.training.objectives.draws import row_numbers
from athanor.training.objectives.mixed import Task, mixed_batch, mixed_loss
from athanor.training.objectives.next_token import next_token_loss, to_tensors

Draw = Callable[[Batch, Sequence[np.random.Generator], torch.device], Any]
LossOf = Callable[[nn.Module, Any], Loss]
MASK = "[MASK]"
BLANKS = (MASK, "[gMASK]", "<sop>", "<eop>")  # GLM's names
LOOKING = 0  # seed of what is hidden of held-out text
SENTINEL = "<extra_id_{}>"  # T5's


@dataclass(frozen=True)
class Rows:
    """Windows of a corpus as rows of an objective.

    Attributes:
        draw: (windows, random numbers of each row, device) to the objective's batch.
        loss: names of sources, or None, to (model, batch) to loss.
        generation: what generation_config.json says.
    """

    draw: Draw
    loss: Callable[[Mapping[int, str] | None], LossOf]
    generation: Mapping[str, Any]


def marks(settings: PretrainSettings, tokenizer: Tokenizer) -> list[str]:
    """Names of the special tokens that the objective needs, whether the tokenizer has them or not."""
    if settings.objective == "masked":
        return [tokenizer.config.get("mask_token") or MASK]
    if settings.objective == "blank_infilling":
        return list(BLANKS)
    if settings.objective == "span_corruption":
        count = span_corruption.most_spans(settings.context, *_density(settings))
        return [SENTINEL.format(number) for number in range(count)]
    return []


def with_marks(settings: PretrainSettings, tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with the special tokens the objective needs; every id it had stays."""
    missing = [name for name in marks(settings, tokenizer) if name not in tokenizer.special]
    if missing:
        tokenizer, _ = extend(tokenizer, special=missing)
    if settings.objective == "masked":
        tokenizer.config["mask_token"] = marks(settings, tokenizer)[0]
    return tokenizer


def every_rows(settings: PretrainSettings, tokenizer: Tokenizer, model: nn.Module) -> dict[str, Rows]:
    """What each objective of a run makes of windows, the first one first."""
    return {
        name: rows_of(settings.model_copy(update={"objective": name}), tokenizer, model)
        for name in (settings.objective, *settings.beside)
    }


def rows_of(settings: PretrainSettings, tokenizer: Tokenizer, model: nn.Module) -> Rows:
    """What the objective makes of windows; the tokenizer has its marks."""
    special = sorted(tokenizer.special.values())
    ids = special_ids(tokenizer)
    named = [tokenizer.special[name] for name in marks(settings, tokenizer)]
    if settings.objective == "masked":
        every = sorted(tokenizer.core.get_vocab().values())
        more = {
            "mask": named[0], "special": special, "ordinary": np.setdiff1d(every, special),
            "share": settings.share or masked.SHARE, "words": WordEdges(tokenizer) if settings.whole_words else None,
        }  # fmt: skip
        return Rows(_with(masked.hide, more), lambda names: masked.masked_loss(settings.z_loss, names), ids)
    if settings.objective == "permutation":
        more = {"special": special, "one_in": settings.guess_one_in or permutation.ONE_IN}
        loss = permutation.permutation_loss
        return Rows(_with(permutation.permute, more), lambda names: loss(settings.z_loss, names), ids)
    if settings.objective == "span_corruption":
        density, mean = _density(settings)
        end = ids.get("eos_token_id", document_mark(tokenizer))
        start = ids.get("pad_token_id", end)
        more = {"sentinels": named, "end": end, "pad": start, "density": density, "mean": mean}
        generation = {"eos_token_id": end, "pad_token_id": start, "decoder_start_token_id": start}
        written = span_corruption.span_corruption_loss
        return Rows(_with(span_corruption.corrupt, more), lambda names: written(settings.z_loss, names), generation)
    if settings.objective == "blank_infilling":
        more = {
            "marks": blank_infilling.Marks(*named), "pad": named[3], "axes": 2,
            "long": blank_infilling.LONG if settings.long_blanks is None else settings.long_blanks,
            "share": settings.share or blank_infilling.SHARE, "mean": settings.mean_span or blank_infilling.MEAN,
        }  # fmt: skip
        filled = blank_infilling.blank_infilling_loss
        generation = {"eos_token_id": named[3], "pad_token_id": named[3], "bos_token_id": named[2]}
        return Rows(_with(blank_infilling.blank, more), lambda names: filled(settings.z_loss, names), generation)
    return Rows(
        lambda batch, numbers, device: to_tensors(batch, device),
        lambda names: next_token_loss(
            model.config, settings.balance, settings.z_loss, names, settings.fused_loss, settings.document_mask
        ), ids,
    )  # fmt: skip


def _with(draw: Callable[..., Any], more: Mapping[str, Any]) -> Draw:
    return lambda batch, numbers, device: draw(batch, numbers, device, **more)


def _density(settings: PretrainSettings) -> tuple[float, float]:
    return settings.share or span_corruption.DENSITY, settings.mean_span or span_corruption.MEAN


def read_rows(
    batches: Batches | MixedBatches, rows: Rows, seed: int, device: torch.device
) -> Callable[[int, int, int], Any]:
    """(step, rank, world) to a share of the step's batch; of a mixture with the source of each row or position."""

    def read(step: int, rank: int, world: int) -> Any:
        windows = batches.batch(step, rank, world)
        first, after = bounds(batches.rows, rank, world)
        batch = rows.draw(windows, row_numbers(seed, step, first, after - first), device)
        if isinstance(batches, Batches):
            return batch
        sources_BT = torch.from_numpy(batches.sources_of(windows.documents_BT)).to(device)
        if hasattr(batch, "sources_BT"):
            return batch._replace(sources_BT=sources_BT)
        return batch._replace(sources_B=sources_BT[:, 0])

    return read


def learning(
    settings: PretrainSettings, batches: Batches | MixedBatches, made: Mapping[str, Rows], device: torch.device
) -> tuple[Callable[[int, int, int], Any], LossOf]:
    """Batches and their loss: of one objective, or of several on the same windows of the corpus.

    Args:
        made: what each objective makes of windows, see `rows_of`.
    """
    names = dict(enumerate(batches.names)) if isinstance(batches, MixedBatches) else None
    tasks = {
        name: Task(read_rows(batches, rows, settings.seed, device), rows.loss(names), settings.beside.get(name, 1.0))
        for name, rows in made.items()
    }  # fmt: skip
    if len(tasks) == 1:
        return tasks[settings.objective].batch, tasks[settings.objective].loss
    return mixed_batch(tasks, settings.compare_every), mixed_loss(tasks)


def judge(rows: Rows) -> LossOf:
    """(model, windows) to their loss, with the same blanks at every look."""
    loss = rows.loss(None)

    def judged(model: nn.Module, windows: Batch) -> Loss:
        numbers = row_numbers(LOOKING, 0, 0, len(windows.ids_BT))
        return loss(model, rows.draw(windows, numbers, next(model.parameters()).device))

    return judged


def row_flops(settings: PretrainSettings, model: nn.Module) -> float:
    """FLOPs to train on one row (`shapes.flops_per_token`), of the head only where something is guessed."""
    length, config = settings.context, model.config
    if settings.objective in ("next_token", "blank_infilling"):
        return float(length * flops_per_token(config, length))
    if settings.objective == "span_corruption":
        gone, count = span_corruption.noise_counts(length, *_density(settings))
        source, written = length - gone + count + 1, gone + count + 1
        return float(
            source * flops_per_token(config.encoder, source) + written * flops_per_token(config.decoder, written)
        )
    trunk = config.trunk
    guessed = settings.share or masked.SHARE if settings.objective == "masked" else 1 / (settings.guess_one_in or 6)
    layers = flops_per_token(replace(trunk, vocabulary=None, tied=False), length)
    streams = 2 if settings.objective == "permutation" else 1
    return float(length * (streams * layers + guessed * 6 * trunk.width * trunk.vocabulary))
