"""Several tasks in one batch: each with its loss, and how far their gradients agree.

    loss = sum over tasks k of w_k times the mean loss of k; its total is counted in the positions of all tasks

Whether tasks help or hinder each other is seen in the angle between their gradients on the same weights: a cosine
below zero says that a step for one undoes a step for the other (Yu et al. 2020, "Gradient Surgery for Multi-Task
Learning", definition 1). It takes one more backward pass for each task, and is measured now and then.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from athanor.training.objective import Loss


class Task(NamedTuple):
    """One task of several.

    Attributes:
        batch: (step, rank, world) to this task's share of the step's batch.
        loss: (model, batch) to its loss.
        weight: w_k; what counts beside the others.
    """

    batch: Callable[[int, int, int], Any]
    loss: Callable[[nn.Module, Any], Loss]
    weight: float = 1.0


class MixedBatch(NamedTuple):
    """One share of a step: a batch for each task, and whether gradients are to be compared."""

    batches: Mapping[str, Any]
    compared: bool


def mixed_batch(tasks: Mapping[str, Task], every: int | None) -> Callable[[int, int, int], MixedBatch]:
    """(step, rank, world) to the batches of all tasks; gradients are compared at every so many steps (None: never)."""

    def batch(step: int, rank: int, world: int) -> MixedBatch:
        batches = {name: task.batch(step, rank, world) for name, task in tasks.items()}
        return MixedBatch(batches, every is not None and step % every == 0)

    return batch


def mixed_loss(
    tasks: Mapping[str, Task], by_positions: bool = False
) -> Callable[[nn.Module, MixedBatch], Loss]:  # fmt: skip
    """The loss of all tasks; its parts are each task's loss and that loss's own parts, and the cosine of each pair's
    gradients.

    A figure is of one share of a step, and the loop's mean over all shares: with several pieces or processes the
    cosines are those of smaller batches.

    Args:
        by_positions: every position counts the same, as if all were of one task; else every task by its weight.
    """
    whole = sum(task.weight for task in tasks.values())

    def loss(model: nn.Module, batch: MixedBatch) -> Loss:
        found = {name: task.loss(model, batch.batches[name]) for name, task in tasks.items()}
        count = torch.stack([one.count for one in found.values()]).sum()
        means = {name: one.total / one.count.clamp_min(1) for name, one in found.items()}
        share = {name: tasks[name].weight / whole for name in tasks}
        total = count * torch.stack([share[name] * mean for name, mean in means.items()]).sum()
        if by_positions:
            total = torch.stack([one.total for one in found.values()]).sum()
        parts = {name: (one.total.detach(), one.count) for name, one in found.items()}
        parts |= {f"{name} {part}": pair for name, one in found.items() for part, pair in one.parts.items()}
        return Loss(total, count, {**parts, **agreement(model, means, batch.compared and torch.is_grad_enabled())})

    return loss


def agreement(model: nn.Module, means: Mapping[str, Tensor], measured: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """The cosine of every two tasks' gradients, -1 to 1, as (figure, 1), or (0, 0) where it is not measured.

    Weights that only one of the tasks uses count as zero for the other.
    """
    device = next(iter(means.values())).device
    pairs = [(f"agreement {one} {other}", one, other) for one, other in combinations(means, 2)]
    if not measured:
        return {name: (torch.zeros((), device=device), torch.zeros((), device=device)) for name, _, _ in pairs}
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = {name: flat_gradient(mean, weights) for name, mean in means.items()}
    cosine = nn.functional.cosine_similarity
    return {
        name: (cosine(gradients[one], gradients[other], dim=0), torch.ones((), device=device))
        for name, one, other in pairs
    }


def flat_gradient(loss: Tensor, weights: list[nn.Parameter]) -> Tensor:
    """The gradient of a loss as one row of numbers, float32; the graph is kept for the step itself."""
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    filled = [torch.zeros_like(w) if g is None else g for g, w in zip(gradients, weights, strict=True)]
    return torch.cat([gradient.flatten().float() for gradient in filled])
