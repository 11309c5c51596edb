"""How a tensor is divided among processes: along one axis, and there section by section.

A matrix that makes queries, keys and values in one product has three sections: each process takes some heads of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """One tensor's division.

    Attributes:
        axis: along which it is divided.
        sections: lengths along this axis that are divided one by one; their sum is the length of the whole.
        parts: number of processes.
    """

    axis: int
    sections: tuple[int, ...]
    parts: int

    def spans(self, part: int) -> list[tuple[int, int]]:
        """First and last position (exclusive) of what a part holds of each section: as even as rounding up allows."""
        found, start = [], 0
        for length in self.sections:
            size = -(-length // self.parts)
            found.append((start + min(part * size, length), start + min((part + 1) * size, length)))
            start += length
        return found

    def length(self, part: int) -> int:
        """Length of a part along the axis."""
        return sum(last - first for first, last in self.spans(part))

    def take(self, whole: Tensor, part: int) -> Tensor:
        """A part of the whole."""
        return torch.cat([whole.narrow(self.axis, first, last - first) for first, last in self.spans(part)], self.axis)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The whole, from all parts in order."""
        pieces: list[tuple[int, Tensor]] = []
        for number, tensor in enumerate(parts):
            lengths = [last - first for first, last in self.spans(number)]
            firsts = [first for first, _ in self.spans(number)]
            pieces += zip(firsts, tensor.split(lengths, self.axis), strict=True)
        return torch.cat([piece for _, piece in sorted(pieces, key=lambda pair: pair[0])], self.axis)
