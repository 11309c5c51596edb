"""What a run learns: batches as a pure function, and the loss of one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn


class Loss(NamedTuple):
    """Sums over the scored positions of one batch; the loop divides by the counts of the whole step.

    Attributes:
        total: what the gradient is taken of.
        count: positions (or pictures, or pairs) that were scored.
        parts: sum and count apart for every source or task, without gradient.
    """

    total: Tensor
    count: Tensor
    parts: Mapping[str, tuple[Tensor, Tensor]] = {}


@dataclass(frozen=True)
class Objective:
    """Everything the loop needs to know of a task.

    Attributes:
        batch: (step, rank, world) to one share of the step's batch; a pure function, so that a resumed run, a run in
            more pieces and a run on more machines see the same. The shares in order are the batch of a world of one.
        loss: (model, batch) to its loss.
        tokens: tokens in one step, for the rate.
        sources: step to the names of the documents it reads, for the report of a step that went wrong.
        watch: model to figures measured now and then, such as the loss on held-out text; lower is better.
    """

    batch: Callable[[int, int, int], Any]
    loss: Callable[[nn.Module, Any], Loss]
    tokens: int
    sources: Callable[[int], Sequence[str]] = field(default=lambda step: ())
    watch: Callable[[nn.Module], Mapping[str, float]] | None = None


class Scored(nn.Module):
    """A model together with its loss, so that calling it is what an engine wraps."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Loss]):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Loss:
        return self.loss(self.model, batch)
