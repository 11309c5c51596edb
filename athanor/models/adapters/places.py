"""Where an adapter may stand: the linear layers of a network, by the names their weights have in a checkpoint.

Where our one layer is several of the checkpoint's (q, k and v; gate and up), each of those pieces is adapted by itself,
as in other libraries, and any of them may be left alone. A piece goes by the name its weight has in a checkpoint:
`model.layers.0.self_attn.q_proj`.

Shape letters: K inputs of a layer, P outputs of one piece.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.models.convert import rows_of
from athanor.models.families import Family
from athanor.models.families.family import Weight


@dataclass(frozen=True)
class Place:
    """A piece of a linear layer, or a whole one: what one pair of matrices adapts.

    Attributes:
        layer: our name of the linear layer.
        piece: which of its pieces.
        heights: outputs of all of its pieces.
        inputs: K.
        row: what the layer's weight is called in a checkpoint.
    """

    layer: str
    piece: int
    heights: tuple[int, ...]
    inputs: int
    row: Weight

    @property
    def height(self) -> int:
        """P."""
        return self.heights[self.piece]

    def to_ours(self, config: Any, theirs: Tensor) -> Tensor:
        """Rows (P, ...) of a checkpoint's layout in our order."""
        ours = torch.empty_like(theirs)
        self._in_their_order(config, ours).copy_(theirs.view(self._in_their_order(config, ours).shape))
        return ours

    def to_theirs(self, config: Any, ours: Tensor) -> Tensor:
        """Rows (P, ...) of ours in a checkpoint's order."""
        return self._in_their_order(config, ours).reshape(ours.shape).contiguous()

    def _in_their_order(self, config: Any, ours: Tensor) -> Tensor:
        """A view of our rows; only a layer stored head after head has another order."""
        return replace(self.row, transposed=False).pieces(config, ours)[0] if self.row.by_head else ours


def places(family: Family, config: Any) -> dict[str, Place]:
    """Every piece that may be adapted, by its name: the linear layers of attention and feed-forward.

    Not embeddings and heads; and in a network with experts attention only, because other libraries keep experts as one
    tensor that takes adapters of another kind.
    """
    with torch.device("meta"):
        network = family.build(config)
    found = {}
    for name, row, their_names in rows_of(family, network.state_dict()):
        layer, _, part = name.rpartition(".")
        plain = part == "weight" and isinstance(network.get_submodule(layer), nn.Linear)
        behind_router = ".mlp." in layer and getattr(config, "experts", None) is not None
        if not plain or behind_router or layer == "head" or row.swapped:  # no library adapts swapped halves
            continue
        outputs, inputs = network.get_submodule(layer).weight.shape
        heights = (outputs,)
        if len(their_names) > 1:
            pieces = replace(row, transposed=False).pieces(config, torch.empty(outputs, 1, device="meta"))
            heights = tuple(len(piece) for piece in pieces)
        for number, stored in enumerate(their_names):
            if stored is not None:
                found[stored.removesuffix(".weight")] = Place(layer, number, heights, inputs, row)
    return found


def chosen_places(known: Mapping[str, Place], targets: Iterable[str]) -> dict[str, Place]:
    """The pieces that names, or ends of names such as 'q_proj' or 'self_attn.q_proj', mean, in the network's order.

    Raises:
        AthanorError: a target is no piece of this network, or there is none.
    """
    chosen: set[str] = set()
    for target in targets:
        found = {name for name in known if name == target or name.endswith("." + target)}
        if not found:
            ends = sorted({name.rpartition(".")[2] for name in known})
            raise AthanorError(f"the target {target!r} is no linear layer of this network", allowed=", ".join(ends))
        chosen |= found
    if not chosen:
        raise AthanorError("an adapter without targets", fix="name at least one, such as q_proj")
    return {name: place for name, place in known.items() if name in chosen}


def unwrapped(layer: nn.Module) -> nn.Module:
    """The layer inside the wrapping, if it is wrapped."""
    return layer.base if hasattr(layer, "adapters") else layer


def weight_of(layer: nn.Module, place: str) -> Tensor:
    """The weight of a layer, which a decomposed adapter needs.

    Raises:
        AthanorError: it is quantised, and its kernel has given the codes away.
    """
    if getattr(layer, "codes", layer) is None:
        raise AthanorError(
            f"{place}: a decomposed adapter (DoRA) needs the weight, and the packed kernel has given it away",
            fix="load the quantised model with kernel='plain'",
        )
    return layer.weight.detach()
