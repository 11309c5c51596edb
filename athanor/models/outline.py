"""Networks whose large weights have no numbers yet: for processes that will each hold a part of every weight.

A network of 130 billion weights has no room in one process. Here it is built with its matrices on torch's device
`meta`, which keeps shapes alone; `initialise` then notes, for each, where in the row of random numbers its own begin.
Whoever divides the network makes one weight at a time, and keeps its part: the numbers are those of a network built
whole.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Drawn(NamedTuple):
    """How a weight will be drawn: normal(0, deviation) from this state of the generator on.

    Attributes:
        shape: of the whole weight.
    """

    state: Tensor
    deviation: float
    shape: torch.Size

    def numbers(self) -> Tensor:
        """The whole weight, float32."""
        generator = torch.Generator()
        generator.set_state(self.state)
        return torch.empty(self.shape).normal_(0.0, self.deviation, generator=generator)


class Outline(TorchFunctionMode):
    """Matrices that are made without numbers have none."""

    def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        named = dict(named or {})
        if function is torch.empty and given and isinstance(given[0], tuple | list) and len(given[0]) > 1:
            named["device"] = "meta"
        return function(*given, **named)


def outline() -> AbstractContextManager[Any]:
    """Networks built within have their large weights on `meta`; norms and biases have their numbers."""
    return Outline()


def drawn_weights(network: nn.Module) -> dict[str, Drawn]:
    """What `initialise` noted of every weight that has no numbers, by name."""
    return {name: weight.drawn for name, weight in network.named_parameters() if weight.is_meta}  # type: ignore[attr-defined]


def moved(network: nn.Module, device: torch.device, dtype: torch.dtype | None) -> None:
    """`network.to(device, dtype)`, but weights without numbers stay on `meta`."""
    network._apply(lambda one: one.to(dtype=dtype) if one.is_meta else one.to(device=device, dtype=dtype))


def made_real(network: nn.Module, device: torch.device) -> None:
    """Give memory, of any content, to what is on `meta`: of a divided weight to this process's part."""
    network._apply(lambda one: torch.empty_like(one, device=device) if one.is_meta else one)


def fill(
    network: nn.Module, drawn: dict[str, Drawn], part: Callable[[str, Tensor], Tensor],
    held: Callable[[Tensor], Tensor],
) -> None:  # fmt: skip
    """Draw one weight after the other and keep a part of each.

    Args:
        part: (name, the whole weight) to what this process keeps of it.
        held: a parameter to the memory of its part.
    """
    with torch.no_grad():
        for name, one in drawn.items():
            held(network.get_parameter(name)).copy_(part(name, one.numbers()))
