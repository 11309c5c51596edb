"""Low-rank adapters: small matrices beside frozen weights, attached to a network by wrapping its linear layers.

Where our one layer is several of the checkpoint's (q, k and v; gate and up), each of those pieces has matrices of its
own, as in other libraries, and any of them may have none. A piece goes by the name its weight has in a checkpoint:
`model.layers.0.self_attn.q_proj`.

Shape letters: X rows of the input (any leading axes), K inputs of a layer, N outputs, P outputs of one piece, R rank.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.models.convert import rows_of
from athanor.models.families import Family
from athanor.models.families.family import Weight


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """How an adapter is made and computed.

    Attributes:
        rank: R, where a piece has no other.
        alpha: strength, where a piece has no other: what the matrices make is multiplied by alpha / R.
        dropout: share of the inputs of the matrices that is left out in training.
        rank_stabilised: multiply by alpha / sqrt(R) instead (rsLoRA, Kalajdzievski 2023, section 3).
        decomposed: learn the length of every row of the weight apart from its direction (DoRA, Liu et al. 2024).
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rank_stabilised: bool = False
    decomposed: bool = False

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise AthanorError(f"rank={self.rank!r}", allowed="a whole number from 1")
        if type(self.alpha) not in (int, float) or not math.isfinite(self.alpha):
            raise AthanorError(f"alpha={self.alpha!r}", allowed="a number")
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise AthanorError(f"dropout={self.dropout!r}", allowed="a number from 0 to below 1")

    def scale(self, rank: int, alpha: float) -> float:
        """What the product of a piece's matrices is multiplied by."""
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


@dataclass(frozen=True)
class Matrices:
    """The numbers of one piece: A (R, K), B (P, R), and lengths of rows (P,) when the adapter is decomposed."""

    a_RK: Tensor
    b_PR: Tensor
    alpha: float
    length_P: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.a_RK.shape[0]


@dataclass(frozen=True)
class Adapter:
    """A whole adapter, attached to nothing.

    Attributes:
        pieces: name of a piece -> its matrices, rows in our order.
        base: hash of the weights it was made for, where that is known.
        base_name: what its maker called that model, where that is known.
    """

    settings: LoraSettings
    pieces: Mapping[str, Matrices]
    base: str | None = None
    base_name: str | None = None


# ----------------------------------------------------------------------------------------- where an adapter may stand


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


# ------------------------------------------------------------------------------------------------------- the wrapping


class LowRank(nn.Module):
    """The matrices of one piece at work."""

    def __init__(self, matrices: Matrices, settings: LoraSettings):
        super().__init__()
        self.alpha, self.dropout = matrices.alpha, settings.dropout
        self.scale = settings.scale(matrices.rank, matrices.alpha)
        self.a, self.b = nn.Parameter(matrices.a_RK), nn.Parameter(matrices.b_PR)
        self.length = None if matrices.length_P is None else nn.Parameter(matrices.length_P)

    def added(self, x_XK: Tensor) -> Tensor:
        """s B A x: what is added to W x (LoRA, Hu et al. 2021, equation 3, where s = alpha / R)."""
        x_XK = F.dropout(x_XK.to(self.a.dtype), self.dropout, self.training)
        return F.linear(F.linear(x_XK, self.a), self.b) * self.scale

    def forward(self, x_XK: Tensor, y_XP: Tensor, rows: Callable[[], tuple[Tensor, Tensor | None]]) -> Tensor:
        """The piece's output, from its input, what the frozen weight makes of it, and that weight's rows."""
        if self.length is None:
            return (y_XP + self.added(x_XK)).to(y_XP.dtype)
        weight_PK, bias_P = rows()
        straight_XP = y_XP if bias_P is None else y_XP - bias_P
        y_XP = (straight_XP + self.added(x_XK)) * self.stretch(weight_PK)
        return (y_XP if bias_P is None else y_XP + bias_P).to(straight_XP.dtype)

    def stretch(self, weight_PK: Tensor) -> Tensor:
        """m / |W + s B A| by rows (DoRA, equation 5); gradients do not flow through the length (section 4.3)."""
        assert self.length is not None
        with torch.no_grad():
            norm_P = self.sum(weight_PK).norm(dim=1)
        return self.length / norm_P.to(self.length.dtype)

    def sum(self, weight_PK: Tensor) -> Tensor:
        """W + s B A in float32."""
        return weight_PK.float() + self.scale * (self.b.float() @ self.a.float())

    def folded(self, weight_PK: Tensor) -> Tensor:
        """The weight that computes what the frozen one and the matrices do together, float32."""
        summed_PK = self.sum(weight_PK)
        return summed_PK if self.length is None else summed_PK * self.stretch(weight_PK).float()[:, None]

    def matrices(self) -> Matrices:
        """A copy of the numbers."""
        length = None if self.length is None else self.length.detach().clone()
        return Matrices(self.a.detach().clone(), self.b.detach().clone(), self.alpha, length)


class LoRA(nn.Module):
    """A frozen linear layer, dense or quantised, with the matrices of any number of adapters, of which one is active.

    Args:
        base: the layer; it is called, and never changed.
        heights: outputs of its pieces.
    """

    def __init__(self, base: nn.Module, heights: tuple[int, ...]):
        super().__init__()
        self.base, self.heights = base, heights
        self.adapters = nn.ModuleDict()  # name of an adapter -> number of a piece -> LowRank
        self.active: str | None = None

    def forward(self, x_XK: Tensor) -> Tensor:
        y_XN = self.base(x_XK)
        if self.active is None or self.active not in self.adapters:
            return y_XN
        adapter = self.adapters[self.active]
        pieces = list(y_XN.split(self.heights, dim=-1))
        for number, low_rank in adapter.items():
            place = int(number)
            pieces[place] = low_rank(x_XK, pieces[place], lambda place=place: self.rows(place))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

    def rows(self, piece: int) -> tuple[Tensor, Tensor | None]:
        """The frozen weight's rows of a piece, and its bias's."""
        weight = self.base.weight.split(self.heights)[piece].detach()
        return weight, None if self.base.bias is None else self.base.bias.split(self.heights)[piece].detach()

    def folded(self, name: str) -> nn.Linear:
        """A new layer with the weight that the frozen one and an adapter make together."""
        weight_NK = torch.cat([
            self.adapters[name][str(piece)].folded(rows_PK) if str(piece) in self.adapters[name] else rows_PK.float()
            for piece, rows_PK in enumerate(self.base.weight.detach().split(self.heights))
        ]).to(self.base.weight.dtype)  # fmt: skip
        outputs, inputs = weight_NK.shape
        with torch.device("meta"):
            made = nn.Linear(inputs, outputs, bias=self.base.bias is not None)
        made.weight, made.bias = nn.Parameter(weight_NK, requires_grad=False), self.base.bias
        return made


# --------------------------------------------------------------------------------------------- on and off a network


def fresh(
    model: nn.Module,
    family: Family,
    settings: LoraSettings,
    targets: Iterable[str] = ("q_proj", "v_proj"),
    seed: int = 1,
) -> Adapter:
    """A new adapter that changes nothing yet: A uniform in +-1 / sqrt(K), B zero (Hu et al. 2021, section 4.1).

    Args:
        targets: names of pieces, or their ends, such as 'q_proj' or 'self_attn.q_proj'.
        seed: the same seed gives the same numbers on every device.

    Raises:
        AthanorError: a target is no piece of this network.
    """
    known, generator = places(family, model.config), torch.Generator().manual_seed(seed)
    chosen: dict[str, Place] = {}
    for target in targets:
        found = {name: place for name, place in known.items() if name == target or name.endswith("." + target)}
        if not found:
            ends = sorted({name.rpartition(".")[2] for name in known})
            raise AthanorError(f"the target {target!r} is no linear layer of this network", allowed=", ".join(ends))
        chosen |= found
    if not chosen:
        raise AthanorError("an adapter without targets", fix="name at least one, such as q_proj")
    pieces = {}
    for name in sorted(chosen, key=list(known).index):
        place, device = chosen[name], next(model.parameters()).device
        bound = 1 / math.sqrt(place.inputs)
        a_RK = torch.empty(settings.rank, place.inputs).uniform_(-bound, bound, generator=generator)
        length_P = None
        if settings.decomposed:
            weight_NK = weight_of(unwrapped(model.get_submodule(place.layer)), place.layer)
            length_P = weight_NK.split(place.heights)[place.piece].float().norm(dim=1)
        b_PR = torch.zeros(place.height, settings.rank, device=device)
        pieces[name] = Matrices(a_RK.to(device), b_PR, settings.alpha, length_P)
    return Adapter(settings, pieces)


def attach(model: nn.Module, family: Family, adapter: Adapter, name: str = "adapter", train: bool = False) -> None:
    """Put an adapter beside the weights of a network, which are frozen from now on, and make it the active one.

    Args:
        name: to choose it by, when there are several.
        train: its matrices learn. They are kept in float32, whatever the type of the network.

    Raises:
        AthanorError: the name is taken, or a piece does not fit the network.
    """
    if not name or "." in name or name in adapter_names(model):
        raise AthanorError(f"the adapter's name {name!r}", allowed="a name without dots that is not taken")
    known = places(family, model.config)
    for piece, matrices in adapter.pieces.items():
        check(piece, matrices, known, adapter.settings)
        layer = unwrapped(model.get_submodule(known[piece].layer))
        if adapter.settings.decomposed:
            weight_of(layer, known[piece].layer)
    model.requires_grad_(False)
    for piece, matrices in adapter.pieces.items():
        place = known[piece]
        layer = model.get_submodule(place.layer)
        if not isinstance(layer, LoRA):
            layer = LoRA(layer, place.heights).train(layer.training)
            model.set_submodule(place.layer, layer)
        if name not in layer.adapters:
            layer.adapters[name] = nn.ModuleDict()
        device = next(tensor.device for tensor in (*layer.base.parameters(), *layer.base.buffers()))
        own = {field: getattr(matrices, field) for field in ("a_RK", "b_PR", "length_P")}
        own = {
            field: None if tensor is None else tensor.detach().to(device, torch.float32, copy=True)
            for field, tensor in own.items()
        }
        low_rank = LowRank(replace(matrices, **own), adapter.settings).requires_grad_(train).train(layer.training)
        layer.adapters[name][str(place.piece)] = low_rank
    settings_of(model)[name] = replace(adapter, pieces={})
    select(model, name)


def check(piece: str, matrices: Matrices, known: Mapping[str, Place], settings: LoraSettings) -> None:
    """Refuse matrices that have no place in a network, or another shape than their place."""
    if piece not in known:
        raise AthanorError(f"{piece} is no layer of this network", fix="was the adapter made for another model?")
    place, rank = known[piece], matrices.rank
    wanted: dict[str, tuple[Tensor | None, tuple[int, ...] | None]] = {
        "A": (matrices.a_RK, (rank, place.inputs)), "B": (matrices.b_PR, (place.height, rank)),
        "lengths": (matrices.length_P, (place.height,) if settings.decomposed else None),
    }  # fmt: skip
    for what, (tensor, shape) in wanted.items():
        found = None if tensor is None else tuple(tensor.shape)
        if found != shape:
            raise AthanorError(
                f"{piece}: {what} of shape {found}", allowed=str(shape), fix="was the adapter made for another model?"
            )


def select(model: nn.Module, name: str | None) -> None:
    """Choose the adapter that computes; None: the frozen network alone.

    Raises:
        AthanorError: there is no such adapter.
    """
    if name is not None and name not in adapter_names(model):
        raise AthanorError(f"there is no adapter {name!r}", allowed=", ".join(adapter_names(model)) or "none")
    for module in model.modules():
        if isinstance(module, LoRA):
            module.active = name


def extract(model: nn.Module, family: Family, name: str) -> Adapter:
    """An attached adapter with its present numbers, as one value."""
    if name not in adapter_names(model):
        raise AthanorError(f"there is no adapter {name!r}", allowed=", ".join(adapter_names(model)) or "none")
    pieces = {}
    for piece, place in places(family, model.config).items():
        layer = model.get_submodule(place.layer)
        if isinstance(layer, LoRA) and name in layer.adapters and str(place.piece) in layer.adapters[name]:
            pieces[piece] = layer.adapters[name][str(place.piece)].matrices()
    return replace(settings_of(model)[name], pieces=pieces)


def drop(model: nn.Module, name: str) -> None:
    """Take an adapter off; layers that have none left are again the ones they were, still frozen."""
    if name not in adapter_names(model):
        raise AthanorError(f"there is no adapter {name!r}", allowed=", ".join(adapter_names(model)) or "none")
    for place, module in list(model.named_modules()):
        if isinstance(module, LoRA):
            if name in module.adapters:
                del module.adapters[name]
            module.active = None if module.active == name else module.active
            if not module.adapters:
                model.set_submodule(place, module.base)
    del settings_of(model)[name]


def merge(model: nn.Module, name: str) -> nn.Module:
    """A new network without wrapping whose weights hold the adapter; the given one is left as it is.

    Weights that no adapter touches are shared between the two. To unmerge, drop the new one.

    Raises:
        AthanorError: there is no such adapter, or it stands beside quantised weights.
    """
    if name not in adapter_names(model):
        raise AthanorError(f"there is no adapter {name!r}", allowed=", ".join(adapter_names(model)) or "none")
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    merged = copy.deepcopy(model, shared)
    for place, module in list(merged.named_modules()):
        if not isinstance(module, LoRA):
            continue
        if name in module.adapters and not isinstance(module.base, nn.Linear):
            raise AthanorError(
                f"{place} is quantised: an adapter cannot be folded into its codes",
                fix="merge into the unquantised model, and quantise the result",
            )
        merged.set_submodule(place, module.folded(name) if name in module.adapters else module.base)
    del merged.adapter_settings
    return merged


# ---------------------------------------------------------------------------------------------------------- helpers


def adapter_names(model: nn.Module) -> list[str]:
    """Names of the adapters on a network, oldest first."""
    return list(settings_of(model))


def settings_of(model: nn.Module) -> dict[str, Adapter]:
    """The adapters as they were attached, without numbers; on the network, because a layer knows only its pieces."""
    if not hasattr(model, "adapter_settings"):
        model.adapter_settings = {}
    return model.adapter_settings


def unwrapped(layer: nn.Module) -> nn.Module:
    """The layer inside the wrapping, if it is wrapped."""
    return layer.base if isinstance(layer, LoRA) else layer


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
