"""On a network and off it: wrapping its layers, choosing one of several adapters, folding one into the weights.

Shape letters: B rows of a batch, X rows of the input (any leading axes), K inputs of a layer, N outputs.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.models.adapters.lora import Adapter, stacked
from athanor.models.adapters.places import Place, every_place, frozen_layer, places
from athanor.models.adapters.prefix import PrefixAdapter, Prefixed, attach_prefix, without_prefixes
from athanor.models.adapters.scaling import ScalingAdapter
from athanor.models.families import Family

AnyAdapter = Adapter | ScalingAdapter | PrefixAdapter
Chosen = str | tuple[str | None, ...] | None  # one for all rows of a batch, or one for each


class Adapted(nn.Module):
    """A frozen linear layer, dense or quantised, with the pieces of any number of adapters, of which one is active.

    Args:
        base: the layer; it is called, and never changed.
        heights: outputs of its pieces.
    """

    def __init__(self, base: nn.Module, heights: tuple[int, ...]):
        super().__init__()
        self.base, self.heights = base, heights
        self.adapters = nn.ModuleDict()  # name of an adapter -> number of a piece -> LowRank or Scaling
        self.active: Chosen = None

    def forward(self, x_XK: Tensor) -> Tensor:
        if isinstance(self.active, tuple):
            return self.by_row(x_XK, self.active)
        pieces = self.of(self.active)
        return self.base(x_XK) if pieces is None else self.changed(pieces, x_XK, self.base(entering(pieces, x_XK)))

    def by_row(self, x_BXK: Tensor, names: tuple[str | None, ...]) -> Tensor:
        """One product with the frozen weight for all rows; then the rows of each adapter are changed by it."""
        if len(names) != len(x_BXK):
            raise AthanorError(f"adapters were chosen for {len(names)} rows, and {len(x_BXK)} came", allowed="as many")
        rows = {name: [row for row, one in enumerate(names) if one == name] for name in dict.fromkeys(names)}
        parts = [(pieces, rows[name]) for name in rows if (pieces := self.of(name)) is not None]
        into_BXK = x_BXK.clone()
        for pieces, some in parts:
            into_BXK[some] = entering(pieces, x_BXK[some])
        y_BXN = self.base(into_BXK)
        out_BXN = y_BXN.clone()
        for pieces, some in parts:
            out_BXN[some] = self.changed(pieces, x_BXK[some], y_BXN[some])
        return out_BXN

    def of(self, name: str | None) -> nn.ModuleDict | None:
        """The pieces of an adapter in this layer, if it has some."""
        return self.adapters[name] if name is not None and name in self.adapters else None

    def changed(self, pieces: nn.ModuleDict, x_XK: Tensor, y_XN: Tensor) -> Tensor:
        """What an adapter makes of the layer's input and output."""
        parts = list(y_XN.split(self.heights, dim=-1))
        for number, piece in pieces.items():
            place = int(number)
            parts[place] = piece(x_XK, parts[place], lambda place=place: self.rows(place))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    @property
    def weight(self) -> Tensor:
        """The weight (N, K) that computes what the layer does, with its gradients: the loss asks a head for it."""
        if isinstance(self.active, tuple):
            raise AthanorError("several adapters at once have no weight in common", fix="select one of them")
        pieces = self.of(self.active)
        if pieces is None:
            return self.base.weight
        if self.training and any(piece.dropout for piece in pieces.values()):
            raise AthanorError("an adapter of the head with dropout: the loss drops nothing", allowed="dropout 0")
        made = [
            pieces[str(number)].folded(*self.rows(number))[0] if str(number) in pieces else self.rows(number)[0]
            for number in range(len(self.heights))
        ]
        return torch.cat([one.to(self.base.weight.dtype) for one in made])

    @property
    def bias(self) -> Tensor | None:
        """The bias of the frozen layer."""
        return self.base.bias

    def rows(self, piece: int) -> tuple[Tensor, Tensor | None]:
        """The frozen weight's rows of a piece, and its bias's."""
        weight = self.base.weight.split(self.heights)[piece].detach()
        return weight, None if self.base.bias is None else self.base.bias.split(self.heights)[piece].detach()

    def folded(self, name: str) -> nn.Linear:
        """A new layer with the weight and the bias that the frozen ones and an adapter make together."""
        adapter, weights, biases = self.adapters[name], [], []
        for number in range(len(self.heights)):
            weight_PK, bias_P = self.rows(number)
            if str(number) in adapter:
                weight_PK, bias_P = adapter[str(number)].folded(weight_PK, bias_P)
            weights.append(weight_PK.float())
            biases.append(bias_P)
        weight_NK = torch.cat(weights).to(self.base.weight.dtype)
        outputs, inputs = weight_NK.shape
        with torch.device("meta"):
            made = nn.Linear(inputs, outputs, bias=self.base.bias is not None)
        made.weight = nn.Parameter(weight_NK, requires_grad=False)
        if self.base.bias is not None:
            bias_N = torch.cat([one.float() for one in biases if one is not None]).to(self.base.bias.dtype)
            made.bias = nn.Parameter(bias_N, requires_grad=False)
        return made


class AdaptedEmbedding(Adapted):
    """The same for an embedding."""

    @property
    def weight(self) -> Tensor:
        """The frozen weight: a head that is tied to the embedding does not see its adapter, as in other libraries."""
        return self.base.weight

    def rows(self, piece: int) -> tuple[Tensor, Tensor | None]:
        """The frozen weight, turned: one column for each token."""
        return self.base.weight.detach().t(), None

    def folded(self, name: str) -> nn.Embedding:
        """A new embedding with the weight that the frozen one and an adapter make together."""
        weight_PK, _ = self.adapters[name]["0"].folded(*self.rows(0))
        return nn.Embedding.from_pretrained(weight_PK.t().contiguous().to(self.base.weight.dtype))


def entering(pieces: nn.ModuleDict, x_XK: Tensor) -> Tensor:
    """What the frozen layer gets, after all pieces of an adapter have had their say."""
    for piece in pieces.values():
        x_XK = piece.entering(x_XK)
    return x_XK


WRAPPINGS = (Adapted, Prefixed)


# --------------------------------------------------------------------------------------------- on and off a network


def attach(model: nn.Module, family: Family, adapter: AnyAdapter, name: str = "adapter", train: bool = False) -> None:
    """Put an adapter beside the weights of a network, which are frozen from now on, and make it the active one.

    Args:
        name: to choose it by, when there are several.
        train: its numbers learn. They are kept in float32, whatever the type of the network.

    Raises:
        AthanorError: the name is taken, or a piece does not fit the network.
    """
    if not name or "." in name or name in adapter_names(model):
        raise AthanorError(f"the adapter's name {name!r}", allowed="a name without dots that is not taken")
    if isinstance(adapter, PrefixAdapter):
        attach_prefix(model, adapter, name, train)
        settings_of(model)[name] = replace(adapter, numbers=adapter.numbers[:0])
    else:
        with without_prefixes(model):
            attach_pieces(model, family, adapter, name, train)
        settings_of(model)[name] = replace(adapter, pieces={})
    select(model, name)


def attach_pieces(
    model: nn.Module, family: Family, adapter: Adapter | ScalingAdapter, name: str, train: bool
) -> None:  # fmt: skip
    """Wrap the linear layers that an adapter has pieces for."""
    known = (every_place if isinstance(adapter, Adapter) else places)(family, model.config)
    for piece in adapter.pieces:
        if piece not in known:
            raise AthanorError(f"{piece} is no layer of this network", fix="was the adapter made for another model?")
        adapter.check(piece, known[piece], frozen_layer(model, known[piece].layer))
    model.requires_grad_(False)
    for piece in adapter.pieces:
        place = known[piece]
        for expert, name_of_layer in enumerate(place.layers):
            layer = wrapped(model, place, name_of_layer)
            if name not in layer.adapters:
                layer.adapters[name] = nn.ModuleDict()
            own = (tensor.device for tensor in (*layer.base.parameters(), *layer.base.buffers()))
            device = next(own, next(model.parameters()).device)  # packed codes are neither
            at_work = adapter.at_work(piece, place, expert, device).requires_grad_(train).train(layer.training)
            layer.adapters[name][str(place.piece)] = at_work


def wrapped(model: nn.Module, place: Place, name: str) -> Adapted:
    """A layer with its wrapping, which it gets where it has none yet."""
    if name == "head" and model.head is None:
        model.head = tied_head(model.tokens)
    layer = model.get_submodule(name)
    if isinstance(layer, Adapted):
        return layer
    kind = AdaptedEmbedding if place.kind == "embedding" else Adapted
    layer = kind(layer, place.heights).train(layer.training)
    model.set_submodule(name, layer)
    return layer


def tied_head(tokens: nn.Module) -> nn.Linear:
    """A head that shares its weight with an embedding."""
    vocabulary, width = tokens.weight.shape
    with torch.device("meta"):
        head = nn.Linear(width, vocabulary, bias=False)
    head.weight = (tokens.base if isinstance(tokens, Adapted) else tokens).weight
    return head.train(tokens.training)


def select(model: nn.Module, name: str | None) -> None:
    """Choose the adapter that computes; None: the frozen network alone.

    Raises:
        AthanorError: there is no such adapter.
    """
    if name is not None:
        require(model, name)
    for module in model.modules():
        if isinstance(module, WRAPPINGS):
            module.active = name
    model.chosen = name
    record = settings_of(model).get(name or "")
    model.shift = record.tokens if isinstance(record, PrefixAdapter) else 0


def select_rows(model: nn.Module, names: Sequence[str | None]) -> None:
    """Choose an adapter for every row of the batches that come, until `select`: several at once beside one network.

    Raises:
        AthanorError: there is no such adapter, or it is a prefix, which moves all positions of a batch.
    """
    for name in dict.fromkeys(names):
        if name is not None and isinstance(require(model, name), PrefixAdapter):
            raise AthanorError(f"the adapter {name!r} is a prefix: it serves whole batches", fix=f"select({name!r})")
    for module in model.modules():
        if isinstance(module, WRAPPINGS):
            module.active = tuple(names)
    model.shift = 0


def extract(model: nn.Module, family: Family, name: str) -> AnyAdapter:
    """An attached adapter with its present numbers, as one value."""
    record = require(model, name)
    if isinstance(record, PrefixAdapter):
        return replace(record, numbers=model.prefixes[name].numbers())
    pieces = {}
    known = (every_place if isinstance(record, Adapter) else places)(family, model.config)
    for piece, place in known.items():
        if place.kind == "head" and model.head is None:
            continue
        with without_prefixes(model):
            layers = [model.get_submodule(one) for one in place.layers]
        own = [layer.adapters[name] for layer in layers if isinstance(layer, Adapted) and name in layer.adapters]
        if own and str(place.piece) in own[0]:
            numbers = [one[str(place.piece)].numbers() for one in own]
            pieces[piece] = stacked(numbers) if place.kind == "experts" else numbers[0]
    return replace(record, pieces=pieces)


def drop(model: nn.Module, name: str) -> None:
    """Take an adapter off; layers that have none left are again the ones they were, still frozen."""
    if isinstance(require(model, name), PrefixAdapter):
        del model.prefixes[name]
    for place, module in list(model.named_modules()):
        if not isinstance(module, WRAPPINGS):
            continue
        if name in module.adapters:
            del module.adapters[name]
        if name == module.active or (isinstance(module.active, tuple) and name in module.active):
            module.active = model.chosen = None
            model.shift = 0
        if not module.adapters:
            model.set_submodule(place, module.base)
    if getattr(model.config, "tied", False) and isinstance(model.head, nn.Linear):
        model.head = None  # it was made for the adapter; the embedding is the head again
    del settings_of(model)[name]


def merge(model: nn.Module, name: str) -> nn.Module:
    """A new network without wrapping whose weights hold the adapter; the given one is left as it is.

    Weights that no adapter touches are shared between the two. To unmerge, drop the new one.

    Raises:
        AthanorError: there is no such adapter, it stands beside quantised weights, or it is a prefix.
    """
    if isinstance(require(model, name), PrefixAdapter):
        raise AthanorError(
            f"the adapter {name!r} is a prefix: it changes no weight, so it cannot be folded into any",
            fix="use it beside its base",
        )
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    merged = copy.deepcopy(model, shared)
    for place, module in list(merged.named_modules()):
        if isinstance(module, Prefixed):
            merged.set_submodule(place, module.base)
    adapted = {place for place, module in merged.named_modules() if isinstance(module, Adapted)}
    tied = getattr(merged.config, "tied", False)
    parted = tied and any(name in merged.get_submodule(place).adapters for place in adapted & {"tokens", "head"})
    if parted and merged.head is None:
        merged.head = tied_head(merged.tokens)
    for place, module in list(merged.named_modules()):
        if not isinstance(module, Adapted):
            continue
        if name in module.adapters and not isinstance(module.base, nn.Linear | nn.Embedding):
            raise AthanorError(
                f"{place} is quantised: an adapter cannot be folded into its codes",
                fix="merge into the unquantised model, and quantise the result",
            )
        merged.set_submodule(place, module.folded(name) if name in module.adapters else module.base)
    if parted:  # embedding and head are no longer one weight
        merged.config = replace(merged.config, tied=False)
    elif tied and isinstance(merged.head, nn.Linear):  # made for another adapter
        merged.head = None
    del merged.adapter_settings
    if hasattr(merged, "prefixes"):
        del merged.prefixes
    merged.shift, merged.chosen = 0, None
    return merged


# ---------------------------------------------------------------------------------------------------------- helpers


def require(model: nn.Module, name: str) -> AnyAdapter:
    """An attached adapter as it came, without numbers.

    Raises:
        AthanorError: there is no such adapter.
    """
    if name not in adapter_names(model):
        raise AthanorError(f"there is no adapter {name!r}", allowed=", ".join(adapter_names(model)) or "none")
    return settings_of(model)[name]


def adapter_names(model: nn.Module) -> list[str]:
    """Names of the adapters on a network, oldest first."""
    return list(settings_of(model))


def settings_of(model: nn.Module) -> dict[str, AnyAdapter]:
    """The adapters as they were attached, without numbers; on the network, because a layer knows only its pieces."""
    if not hasattr(model, "adapter_settings"):
        model.adapter_settings = {}
    return model.adapter_settings
