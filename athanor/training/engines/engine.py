"""What every engine does for the loop; this one is a single process, and the others change what they must.

An engine stands between the loop and the processes: it wraps the model, adds up what the processes counted, and knows
which part of a weight is held where. The loop is the same for all.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from athanor.training.engines.cut import Cut
from athanor.training.objective import Scored

AT_ONCE = 4_000_000  # numbers of a gradient whose length is taken


class Engine:
    """One process.

    Attributes:
        name: as in the setting `engine`.
        place, places: number of this process, and how many there are.
        rank, world: which share of a step's batch this process computes, of how many.
        first: whether this process writes files and talks.
        cuts: how the weights that are divided among processes are divided, by their name in the model.
    """

    name = "single"
    place, places = 0, 1
    rank, world, first = 0, 1, True
    cuts: dict[str, Cut]

    def __init__(self) -> None:
        self.cuts = {}

    def start(self, scored: Scored, settings: Any) -> tuple[nn.Module, Any]:
        """The module whose call computes the loss, and what updates its weights, as `settings` (of the loop) say."""
        from athanor.training.optimizer import MasterOptimizer

        module, s = self.wrap(scored), settings
        return module, MasterOptimizer(scored.model, s.optimizer, s.betas, s.weight_decay, self, s.fused_optimizer)

    def backward(self, total: Tensor) -> None:
        """Add the gradients of one piece's loss to those of the pieces before."""
        total.backward()

    def wrap(self, scored: Scored) -> nn.Module:
        """The module whose call computes the loss; afterwards the parameters of the model are final."""
        return scored

    def piece(self, last: bool) -> AbstractContextManager[Any]:
        """Surrounds forward and backward of one piece of a step; `last` when no other follows."""
        return nullcontext()

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all shares of the batch; what is not finite anywhere is not finite everywhere."""
        return numbers

    def any(self, flag: bool) -> bool:
        """Whether any process says so: all of them then do the same."""
        return flag

    def told(self, tensor: Tensor, place: int) -> Tensor:
        """The tensor of one process, on all; it is written into the one that is given."""
        return tensor

    def agreed(self, number: int | None) -> int | None:
        """The number of the first process, on all."""
        return number

    def norm(self, names: Iterable[str], gradients: Iterable[Tensor]) -> Tensor:
        """Length of the whole gradient, of which a process may hold a part."""
        return length_of(list(gradients))

    def local(self, weight: Tensor) -> Tensor:
        """The part of a weight, or of its gradient, that this process holds; it shares the memory of the weight."""
        return weight

    def part(self, name: str, whole: Tensor) -> Tensor:
        """The part that this process holds of a whole tensor that goes with the weight `name`."""
        return whole

    def whole(self, name: str, part: Tensor) -> Tensor:
        """All of a tensor that goes with the weight `name`, of which every process gives its part."""
        return part

    def looking(self) -> AbstractContextManager[Any]:
        """Surrounds use of the model outside of a training step."""
        return nullcontext()

    def restore(self, model: nn.Module) -> None:
        """Give the first process the whole model again, as it was before `wrap`, with the weights of now."""

    def close(self) -> None:
        """Leave the other processes."""

    def describe(self) -> dict[str, Any]:
        """What the record of a run says about it."""
        return {"engine": self.name, "processes": self.places}


def length_of(gradients: Sequence[Tensor]) -> Tensor:
    """Length of all of them as one vector, in float32 whatever their number type; 0 of none."""
    # On a CPU torch copies what it adds up to float32: not a whole embedding at once.
    pieces = [piece for gradient in gradients for piece in gradient.flatten().split(AT_ONCE)]
    if not pieces:
        return torch.tensor(0.0)
    lengths = torch._foreach_norm(pieces, 2, torch.float32)  # as `torch.nn.utils.get_total_norm`, which rounds bf16
    return torch.linalg.vector_norm(torch.stack(lengths))


def owner_of(name: str) -> str:
    """The weight that a tensor of a checkpoint goes with: of 'exp_avg.trunk.norm.weight' it is 'trunk.norm.weight'."""
    return name.partition(".")[2]
