"""An exponential moving average of the weights (Polyak and Juditsky 1992; its use in networks: Tarvainen and Valpola
2017): less noisy than the last weights, and often better."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor


class Average:
    """avg <- decay avg + (1 - decay) weight after every step, in float32.

    With few steps behind it the decay is (1 + step) / (10 + step), so that the beginning is forgotten soon (the warm-up
    of TensorFlow's moving averages).
    """

    def __init__(self, names: Sequence[str], masters: Sequence[Tensor], decay: float):
        self.names, self.decay = names, decay
        self.averages = [master.detach().clone() for master in masters]

    @torch.no_grad()
    def update(self, masters: Sequence[Tensor], step: int) -> None:
        """Take in the weights after `step` (counted from 0)."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, master in zip(self.averages, masters, strict=True):
            average.lerp_(master.detach(), share)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What a checkpoint keeps."""
        for name, average in zip(self.names, self.averages, strict=True):
            yield f"average.{name}", average

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        for name, average in zip(self.names, self.averages, strict=True):
            average.copy_(tensors[f"average.{name}"])

    @torch.no_grad()
    def put_into(self, weights: Sequence[Tensor]) -> None:
        """Give the averages to a model, in its number type."""
        for weight, average in zip(weights, self.averages, strict=True):
            weight.copy_(average)
