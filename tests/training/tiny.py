"""A network small enough to train in milliseconds, and its task: shared by the tests of the loop's parts."""

import torch
from torch import nn

from athanor.training.objective import Loss, Objective
from athanor.training.settings import LoopSettings

ROWS = 4


def small_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batch_of(step: int, rank: int = 0, world: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """One share of a step's rows."""
    inputs = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(step)).chunk(world)[rank]
    return inputs, inputs[:, :3].argmax(dim=1)


def loss_of(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> Loss:
    inputs, targets = batch
    return Loss(nn.functional.cross_entropy(model(inputs), targets, reduction="sum"), torch.tensor(len(targets)))


OBJECTIVE = Objective(batch_of, loss_of, tokens=ROWS, sources=lambda step: [f"document {step}"])
SETTINGS = LoopSettings(steps=40, rows=ROWS, learning_rate=0.02, optimizer="adamw", warmup=4, checkpoint_seconds=0)
