"""Muon where several processes train together: each makes the direction of some matrices, and tells the others.

The library's Muon takes whole matrices. Momentum is kept as the weights are, in parts; a matrix's update is put
together for the process whose turn it is. So they share the work of the products (Moonlight, Liu et al. 2025, 2.3).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from athanor.training.engines.engine import Engine

MOMENTUM = 0.95  # as torch.optim.Muon


class DividedMuon(torch.optim.Optimizer):
    """The update of `torch.optim.Muon` with Nesterov momentum, on parts of matrices.

    Args:
        named: this process's part of each matrix, by the name of the weight.

    The state of each part holds its `momentum_buffer`, as with `torch.optim.Muon`; `MasterOptimizer` makes it.
    """

    def __init__(self, named: Mapping[str, Tensor], weight_decay: float, engine: Engine):
        super().__init__(list(named.values()), {"lr": 1e-3, "weight_decay": weight_decay})
        self.names, self.engine = list(named), engine

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update of every matrix that has a gradient, as many at a time as there are processes."""
        group = self.param_groups[0]
        pairs = [(name, part) for name, part in zip(self.names, group["params"], strict=True) if part.grad is not None]
        for first in range(0, len(pairs), self.engine.places):
            turn = pairs[first : first + self.engine.places]
            updates = [self.engine.whole(name, self._nesterov(part)) for name, part in turn]
            for (name, part), direction in zip(turn, self._directions(updates), strict=True):
                part.mul_(1 - group["lr"] * group["weight_decay"])
                part.add_(self.engine.part(name, direction), alpha=group["lr"])

    def _nesterov(self, part: Tensor) -> Tensor:
        """momentum <- m momentum + (1 - m) gradient; the update looks one step ahead."""
        assert part.grad is not None
        kept = self.state[part]["momentum_buffer"]
        kept.lerp_(part.grad, 1 - MOMENTUM)
        return part.grad.lerp(kept, MOMENTUM)

    def _directions(self, updates: Sequence[Tensor]) -> list[Tensor]:
        """Every update made orthogonal, by one process each."""
        return [
            self.engine.told(direction(one) if place == self.engine.place else torch.empty_like(one), place)
            for place, one in enumerate(updates)
        ]


def direction(update: Tensor) -> Tensor:
    """Minus the update made orthogonal, at AdamW's size: what Muon without momentum makes of a matrix of zeros."""
    zeros = torch.nn.Parameter(torch.zeros_like(update))
    zeros.grad = update
    settings: dict[str, Any] = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    torch.optim.Muon([zeros], lr=1.0, adjust_lr_fn="match_rms_adamw", **settings).step()
    return zeros.detach()
