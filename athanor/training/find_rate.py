"""A search for the learning rate: train for a moment while the rate grows, and see where the loss falls fastest.

The range test of Smith (2017, section 3.3). The weights are thrown away.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.store.artifact import Artifact
from athanor.training import adapt, sft
from athanor.training.guard import finite
from athanor.training.loop import noise_seed
from athanor.training.objective import Objective
from athanor.training.optimizer import MasterOptimizer
from athanor.training.settings import LoopSettings
from athanor.training.sft import ChatSettings

STEPS, LOWEST, HIGHEST = 100, 1e-6, 1.0
MEMORY = 0.9  # of the smoothed loss: what it keeps of its past at every step
TOO_MUCH = 1.5  # times the lowest loss: the rest of the range is worse still
SHARE = 2 / 3  # of the way, in powers of ten, from where the loss begins to fall to where it is lowest


@dataclass(frozen=True)
class RateCurve:
    """Rates, the smoothed loss at each in nats, and the rate to take."""

    rates: list[float]
    losses: list[float]
    suggested: float


def find_rate(model: nn.Module, objective: Objective, settings: LoopSettings, progress: Progress) -> RateCurve:
    """Train `model` for up to 100 steps, the rate rising from 1e-6 to 1; it is of no use afterwards.

    Raises:
        AthanorError: the loss is no number from the start, or falls nowhere.
        Stopped: `progress` was asked to stop.
    """
    optimizer = MasterOptimizer(
        model, settings.optimizer, settings.betas, settings.weight_decay, fused=settings.fused_optimizer
    )
    rates: list[float] = []
    losses: list[float] = []
    smooth = 0.0
    progress.start("looking for the learning rate", STEPS, "steps")
    for step in range(STEPS):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        loss = step_at(model, objective, settings, optimizer, step, rate)
        if not finite(loss):
            break
        smooth = MEMORY * smooth + (1 - MEMORY) * loss
        rates.append(rate)
        losses.append(smooth / (1 - MEMORY ** (step + 1)))
        progress.advance(loss=losses[-1], lr=rate)
        if losses[-1] > TOO_MUCH * min(losses):
            break
    progress.finish()
    return RateCurve(rates, losses, suggest(rates, losses))


def step_at(
    model: nn.Module, objective: Objective, settings: LoopSettings, optimizer: MasterOptimizer, step: int, rate: float
) -> float:
    """One step of training at a rate, as the loop takes it; its mean loss, infinite where that is no number."""
    total, count = 0.0, 0
    for piece in range(settings.accumulate):
        torch.manual_seed(noise_seed(settings.seed, step, piece))
        loss = objective.loss(model, objective.batch(step, piece, settings.accumulate))
        loss.total.backward()
        optimizer.collect(last=piece == settings.accumulate - 1)
        total, count = total + float(loss.total.detach()), count + int(loss.count)
    scale = 1 / max(1, count)
    norm = optimizer.norm(scale)
    if not finite(total, norm):
        return math.inf
    clipped = 1.0 if settings.clip is None else min(1.0, settings.clip / (norm + 1e-6))
    optimizer.update(rate, scale * clipped)
    return total * scale


def suggest(rates: list[float], losses: list[float]) -> float:
    """Two thirds of the way, in powers of ten, from where the loss begins to fall to where it is lowest.

    It begins to fall where a twentieth of the whole fall is behind it.
    """
    if not losses:
        raise AthanorError("the loss is no number from the first step on", fix="check the model and the data")
    lowest = min(range(len(losses)), key=losses.__getitem__)
    fall = losses[0] - losses[lowest]
    if fall <= 0:
        raise AthanorError("the loss falls at no learning rate", fix="check the model and the data")
    begins = next(place for place in range(lowest + 1) if losses[0] - losses[place] >= fall / 20)
    place = math.log(rates[begins]) + SHARE * (math.log(rates[lowest]) - math.log(rates[begins]))
    return float(f"{math.exp(place):.2g}")


def find_finetuning_rate(
    settings: ChatSettings, parents: Mapping[str, Artifact], progress: Progress
) -> RateCurve:  # fmt: skip
    """The range test for the step `finetune` or `adapt` with these settings and parents."""
    make = adapt.prepared if isinstance(settings, adapt.AdaptSettings) else sft.prepared
    model, tokenizer, template = make(settings, parents)
    quiet = settings.model_copy(update={"watch_every": None, "keep_best": False, "prompts": ()})
    learning = sft.lesson(model, tokenizer, template, quiet, parents, progress)
    return find_rate(model, learning.objective, settings, progress)
