"""What every engine does for the loop; this one is a single process, and the others change what they must.

An engine stands between the loop and the processes: it wraps the model, adds up what the processes counted, and says
what a checkpoint holds. The loop is the same for all.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from athanor.training.objective import Scored


class Engine:
    """One process.

    Attributes:
        rank, world: which share of a step's batch this process computes, of how many.
        first: whether this process writes files and talks.
    """

    rank, world, first = 0, 1, True

    def wrap(self, scored: Scored) -> nn.Module:
        """The module whose call computes the loss; afterwards the parameters of the model are final."""
        return scored

    def backward(self, total: Tensor, last: bool) -> None:
        """Add the gradient of one piece of a step; `last` when no other follows."""
        total.backward()

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all shares of the batch; what is not finite anywhere is not finite everywhere."""
        return numbers

    def any(self, flag: bool) -> bool:
        """Whether any process says so: all of them then do the same."""
        return flag

    def norm(self, gradients: Iterable[Tensor]) -> Tensor:
        """Length of the whole gradient, of which a process may hold a part."""
        return torch.nn.utils.get_total_norm(list(gradients))

    def whole(self, tensor: Tensor) -> Tensor:
        """A weight or moment in full, on every process."""
        return tensor

    def wait(self) -> None:
        """Until all processes are here."""

    def close(self) -> None:
        """Leave the group of processes."""

    def describe(self) -> dict[str, Any]:
        """What the record of a run says about it."""
        return {"engine": "single", "world": self.world}
