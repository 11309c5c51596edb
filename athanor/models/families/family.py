"""What a family is: how its `config.json` becomes our config, and what it calls our tensors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel


@dataclass(frozen=True)
class Weight:
    """A tensor of ours and the stored tensors it is made of, stacked along the rows.

    Attributes:
        ours: our name; each {} stands for a number (of a layer, of an expert).
        theirs: their names, with the same {}; None for a piece that is stored nowhere, because it has no influence on
            any result (a bias of keys): ours is zero there.
        rows: the height of each piece where there are several; None: equal heights.
        transposed: theirs is stored (in, out).
        by_head: theirs is one tensor that holds q, k and v head after head; ours has all q, then all k, then all v.
        shape: the shape in which they store a piece, where it is not its own.
        swapped: theirs is one tensor whose two halves stand in the other order.
    """

    ours: str
    theirs: tuple[str | None, ...]
    rows: Callable[[Any], tuple[int, ...]] | None = None
    transposed: bool = False
    by_head: bool = False
    shape: Callable[[Any], tuple[int, ...]] | None = None
    swapped: bool = False

    def pieces(self, config: Any, weight: Tensor) -> tuple[Tensor, ...]:
        """Views of our tensor that hold, in their order, the numbers of each of theirs."""
        if self.by_head:
            return (weight.unflatten(0, (3, config.heads, config.head_size)).transpose(0, 1),)
        pieces: tuple[Tensor, ...] = (weight,)
        if len(self.theirs) > 1:
            pieces = weight.split(self.rows(config)) if self.rows else weight.chunk(len(self.theirs))
        return tuple(piece.t() for piece in pieces) if self.transposed else tuple(pieces)

    def reordered(self, piece: Tensor) -> Tensor:
        """A piece as they store it from ours, or ours from theirs: an exchange of halves is its own inverse."""
        return torch.cat(piece.chunk(2)[::-1]) if self.swapped else piece

    def stored_shape(self, config: Any, piece: Tensor) -> tuple[int, ...]:
        """The shape in which they store a piece."""
        if self.shape is not None:
            return self.shape(config)
        return tuple(piece.flatten(0, 2).shape) if self.by_head else tuple(piece.shape)


@dataclass(frozen=True)
class Family:
    """One row: names, fixed properties, settings and tensors of a family.

    A key inside another object of config.json is written with a dot (`vision_config.hidden_size`), and so is a field of
    ours inside another config (`vision.trunk.width`).

    Attributes:
        name: ours, and `model_type` in config.json unless that is said apart.
        architecture: the class `transformers` builds.
        settings: their key of config.json -> our field, with the same meaning.
        tensors: what the weights are called.
        model_type: `model_type` in config.json; None: the name.
        marks: what config.json must say where several families share a model_type: a key that is set, or `key=value`.
        config: our description of the network.
        build: makes the network from it.
        fixed: our fields that all members share.
        required: their keys with the only value we can run; a key left out has that value too.
        optional: their keys that may be absent, with the value `transformers` then takes.
        ignored: their keys that do not change what the network computes.
        choices: their key -> (our field, {their value: ours}); of several for one of ours the first is written.
        converted: their key -> two functions, from their number to ours and back, where they are not the same.
        equal: their keys that must be missing, null, or equal to another of theirs.
        old_keys: other names of a key, such as those of earlier versions -> the one we write.
        old_objects: objects of config.json that, where they are given, replace another one whole: what they leave out
            has its value from `optional`.
        other_names: parts of tensor names that some versions write -> what we call them.
        derived: endings of tensor names that hold nothing learned and may be skipped.
        copies: tensors that may be stored beside the one they repeat; they must be equal.
        rope_settings: whether config.json carries `rope_parameters`.
        rotated: their key that counts the rotated numbers of a head, where there is one.
        windows: which layers see a sliding window: none, all of them always, all when switched on, or a choice.
        dense_layers: whether layers without experts may stand between those that have them.
    """

    name: str
    architecture: str
    settings: Mapping[str, str]
    tensors: tuple[Weight, ...]
    model_type: str | None = None
    marks: tuple[str, ...] = ()
    config: type = TransformerConfig
    build: Callable[[Any], nn.Module] = LanguageModel
    fixed: Mapping[str, Any] = field(default_factory=dict)
    required: Mapping[str, Any] = field(default_factory=dict)
    optional: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    choices: Mapping[str, tuple[str, Mapping[Any, Any]]] = field(default_factory=dict)
    converted: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = field(default_factory=dict)
    equal: Mapping[str, str] = field(default_factory=dict)
    old_keys: Mapping[str, str] = field(default_factory=dict)
    old_objects: Mapping[str, str] = field(default_factory=dict)
    other_names: Mapping[str, str] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    rope_settings: bool = False
    rotated: str | None = None
    windows: Literal["none", "always", "switched", "by_layer"] = "none"
    dense_layers: bool = False

    @property
    def type(self) -> str:
        """`model_type` in config.json."""
        return self.name if self.model_type is None else self.model_type


def with_biases(pairs: tuple[tuple[str, str], ...], transposed: tuple[str, ...] = ()) -> tuple[Weight, ...]:
    """Weight and bias of each pair (ours, theirs); those named in `transposed` are stored (in, out)."""
    return tuple(
        Weight(
            f"{ours}.{part}", (f"{theirs}.{part}",), None, part == "weight" and ours.rpartition(".")[2] in transposed
        )
        for ours, theirs in pairs
        for part in ("weight", "bias")
    )


def qkv_rows(config: TransformerConfig) -> tuple[int, ...]:
    """Heights of q, k and v in our one tensor."""
    size = config.head_size
    return config.heads * size, config.key_heads * size, config.key_heads * size


LAYER_NORM_BIASES = {"norm": "layer", "bias_qkv": True, "bias_out": True, "bias_mlp": True}
