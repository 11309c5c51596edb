"""Where an adapter may stand: layers of a network, by the names their weights have in a checkpoint.

Where our one layer is several of the checkpoint's (q, k and v; gate and up), each of those pieces is adapted by itself,
as in other libraries, and any of them may be left alone. A piece goes by the name its weight has in a checkpoint:
`model.layers.0.self_attn.q_proj`.

Experts are adapted as `transformers` keeps them, those of a layer in one parameter, and PEFT's `target_parameters` name
them: `model.layers.0.mlp.experts.down_proj` means that matrix of every expert.

Shape letters: K inputs of a layer, P outputs of one piece.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.models.config import TransformerConfig
from athanor.models.convert import rows_of
from athanor.models.families import Family
from athanor.models.families.family import Weight

# What files call otherwise than `transformers` does now, whose name adapters go by: GPT-NeoX's head.
LATER_NAMES = {"embed_out": "lm_head"}


@dataclass(frozen=True)
class Place:
    """A piece of a linear layer, or a whole one: what one pair of matrices adapts.

    Attributes:
        layer: our name of the linear layer.
        piece: which of its pieces.
        heights: outputs of all of its pieces.
        inputs: K; of an embedding the number of its rows.
        row: what the layer's weight is called in a checkpoint.
        kind: linear, or what only low-rank adapters may change: the embedding, the head, the router or all experts.
        experts: our names of the linear layers of all experts, of which `layer` is the first.
    """

    layer: str
    piece: int
    heights: tuple[int, ...]
    inputs: int
    row: Weight
    kind: Literal["linear", "embedding", "head", "router", "experts"] = "linear"
    experts: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Our names of the layers that are changed: one, or one for each expert."""
        return self.experts or (self.layer,)

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
    """Every piece that adapters of all kinds may change, by its name: linear layers of attention and feed-forward.

    Not embeddings, heads, routers and experts: see `every_place`.
    """
    with torch.device("meta"):
        network = family.build(config)
    found = {}
    for name, row, their_names in rows_of(family, network.state_dict()):
        layer, _, part = name.rpartition(".")
        plain = part == "weight" and isinstance(network.get_submodule(layer), nn.Linear)
        behind_router = ".mlp.experts." in layer or layer.endswith(".mlp.router")
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


def every_place(family: Family, config: Any) -> dict[str, Place]:
    """Every piece that a low-rank adapter may change: also the embedding of tokens, the head, routers and experts."""
    found = places(family, config)
    if not isinstance(config, TransformerConfig) or config.vocabulary is None:
        return found
    rows = {row.ours: row for row in family.tensors}
    tokens, head = rows["tokens.weight"], rows.get("head.weight")
    found[stem(tokens)] = Place("tokens", 0, (config.width,), config.vocabulary, tokens, "embedding")
    if head is not None:  # a tied one too: beside the embedding it shares, as other libraries have it
        said = config.vocabulary - config.silent_ids
        found[stem(head)] = Place("head", 0, (said,), config.width, head, "head")
    for layer in range(config.layers):
        if config.routed(layer):
            found |= expert_places(rows, config, layer)
    return found


def expert_places(rows: Mapping[str, Weight], config: TransformerConfig, layer: int) -> dict[str, Place]:
    """Router and experts of a layer, by their names in a network of `transformers`, which files do not have."""
    ours, theirs, hidden = f"trunk.blocks.{layer}.mlp.", f"model.layers.{layer}.mlp.", config.expert_size

    def all_of(matrix: str, height: int, inputs: int) -> Place:
        names = tuple(f"{ours}experts.{expert}.{matrix}" for expert in range(config.experts or 0))
        row = rows[f"trunk.blocks.{{}}.mlp.experts.{{}}.{matrix}.weight"]
        return Place(names[0], 0, (height,), inputs, row, "experts", names)

    router = rows["trunk.blocks.{}.mlp.router.weight"]
    return {
        theirs + "gate.weight": Place(ours + "router", 0, (config.experts or 0,), config.width, router, "router"),
        theirs + "experts.gate_up_proj": all_of("up", hidden * (2 if config.gated else 1), config.width),
        theirs + "experts.down_proj": all_of("down", config.width, hidden),
    }


def stem(row: Weight) -> str:
    """The name of a layer from that of its weight."""
    (stored,) = row.theirs
    assert stored is not None
    name = stored.removesuffix(".weight")
    return LATER_NAMES.get(name, name)


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
            raise AthanorError(f"the target {target!r} is no layer of this network", allowed=", ".join(ends))
        chosen |= found
    if not chosen:
        raise AthanorError("an adapter without targets", fix="name at least one, such as q_proj")
    return {name: place for name, place in known.items() if name in chosen}


def unwrapped(layer: nn.Module) -> nn.Module:
    """The layer inside the wrapping, if it is wrapped."""
    return layer.base if hasattr(layer, "adapters") else layer


def frozen_layer(network: nn.Module, name: str) -> nn.Module:
    """A layer of a network without its wrapping; a tied head is the embedding it shares its weight with."""
    if name == "head" and network.head is None:
        name = "tokens"
    return unwrapped(network.get_submodule(name))


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
    if not hasattr(layer, "weight"):
        raise AthanorError(f"{place}: a decomposed adapter (DoRA) needs the weight, and this embedding is quantised")
    return layer.weight.detach()
