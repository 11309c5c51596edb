"""Learned scales of what a frozen layer makes or takes (IA3, Liu et al. 2022, section 3.3).

Keys and values are multiplied by a vector each, and so is what enters the last matrix of the feed-forward layer.

Shape letters: X rows of the input (any leading axes), K inputs of a layer, P outputs of one piece.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.models.adapters.places import Place, chosen_places, places
from athanor.models.families import Family


@dataclass(frozen=True)
class Scale:
    """The numbers of one piece: a vector (P,) for its outputs, or (K,) for its inputs."""

    vector: Tensor
    inward: bool

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return self.vector.numel()


@dataclass(frozen=True)
class ScalingAdapter:
    """A whole set of scales, attached to nothing; the attributes are those of `lora.Adapter`."""

    pieces: Mapping[str, Scale]
    base: str | None = None
    base_name: str | None = None

    def check(self, name: str, place: Place, layer: nn.Module) -> None:
        """Refuse a vector of another length than its place, and one for the inputs that other pieces share."""
        scale = self.pieces[name]
        if scale.inward and len(place.heights) > 1:
            raise AthanorError(
                f"{name}: inputs cannot be scaled, since other layers share them", allowed="the last matrix of a layer"
            )
        wanted = (place.inputs if scale.inward else place.height,)
        if tuple(scale.vector.shape) != wanted:
            raise AthanorError(
                f"{name}: scales of shape {tuple(scale.vector.shape)}", allowed=str(wanted),
                fix="was the adapter made for another model?",
            )  # fmt: skip

    def at_work(self, name: str, place: Place, expert: int, device: torch.device) -> "Scaling":
        """A copy of a piece's scales that computes, in float32."""
        scale = self.pieces[name]
        return Scaling(Scale(scale.vector.detach().to(device, torch.float32, copy=True), scale.inward))


class Scaling(nn.Module):
    """The scales of one piece at work."""

    def __init__(self, scale: Scale):
        super().__init__()
        self.inward, self.vector = scale.inward, nn.Parameter(scale.vector)

    def entering(self, x_XK: Tensor) -> Tensor:
        """What the frozen layer gets instead of its input."""
        return (x_XK * self.vector).to(x_XK.dtype) if self.inward else x_XK

    def forward(self, x_XK: Tensor, y_XP: Tensor, rows: Callable[[], tuple[Tensor, Tensor | None]]) -> Tensor:
        """The piece's output, from what the frozen layer made."""
        return y_XP if self.inward else (y_XP * self.vector).to(y_XP.dtype)

    def folded(self, weight_PK: Tensor, bias_P: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weight, float32, and the bias that compute what the frozen ones and the scales do together."""
        vector = self.vector.detach().float()
        if self.inward:
            return weight_PK.float() * vector, bias_P
        return weight_PK.float() * vector[:, None], None if bias_P is None else bias_P.float() * vector

    def numbers(self) -> Scale:
        """A copy of the numbers."""
        return Scale(self.vector.detach().clone(), self.inward)


def fresh_scales(model: nn.Module, family: Family, targets: Iterable[str], inward: Iterable[str]) -> ScalingAdapter:
    """Scales of one, which change nothing yet.

    Args:
        targets: names of pieces, or their ends; their outputs are scaled.
        inward: the same for those whose inputs are scaled.

    Raises:
        AthanorError: a target is no piece of this network.
    """
    known, device, pieces = places(family, model.config), next(model.parameters()).device, {}
    for names, inwards in ((list(targets), False), (list(inward), True)):
        for name, place in chosen_places(known, names).items() if names else ():
            pieces[name] = Scale(torch.ones(place.inputs if inwards else place.height, device=device), inwards)
    if not pieces:
        raise AthanorError("an adapter without targets", fix="name at least one, such as k_proj")
    return ScalingAdapter(pieces)
