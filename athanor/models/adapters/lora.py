"""Low-rank adapters: two small matrices beside a frozen weight (LoRA, Hu et al. 2021), rsLoRA and DoRA.

An embedding is a product too, of a weight (P, K) turned and a vector that is 1 at the token's place: A holds a column
for each token. All experts of a layer are one piece, whose matrices have a first axis for the expert.

Shape letters: X rows of the input (any leading axes), K inputs of a layer, P outputs of one piece, R rank, E experts.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.models.adapters.places import Place, chosen_places, every_place, frozen_layer, weight_of
from athanor.models.families import Family


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
    """The numbers of one piece: A (R, K), B (P, R), and lengths of rows (P,) when the adapter is decomposed.

    Of experts A is (E, R, K) and B (E, P, R).
    """

    a_RK: Tensor
    b_PR: Tensor
    alpha: float
    length_P: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.a_RK.shape[-2]

    @property
    def count(self) -> int:
        """How many numbers there are."""
        lengths = 0 if self.length_P is None else self.length_P.numel()
        return self.a_RK.numel() + self.b_PR.numel() + lengths


@dataclass(frozen=True)
class Adapter:
    """A whole low-rank adapter, attached to nothing.

    Attributes:
        pieces: name of a piece -> its matrices, rows in our order.
        base: hash of the weights it was made for, where that is known.
        base_name: what its maker called that model, where that is known.
        beside: name of an embedding or a head -> the frozen weight that was stored with the adapter, as PEFT does.
    """

    settings: LoraSettings
    pieces: Mapping[str, Matrices]
    base: str | None = None
    base_name: str | None = None
    beside: Mapping[str, Tensor] = field(default_factory=dict)

    def check(self, name: str, place: Place, layer: nn.Module) -> None:
        """Refuse matrices of a piece that have another shape than its place, or were made for another weight."""
        if self.settings.decomposed and place.kind in ("router", "experts"):
            raise AthanorError(f"{name}: a router or experts with a decomposed adapter (DoRA)", allowed="LoRA, rsLoRA")
        matrices, rank = self.pieces[name], self.pieces[name].rank
        first = (len(place.experts),) if place.experts else ()
        wanted: dict[str, tuple[Tensor | None, tuple[int, ...] | None]] = {
            "A": (matrices.a_RK, (*first, rank, place.inputs)), "B": (matrices.b_PR, (*first, place.height, rank)),
            "lengths": (matrices.length_P, (place.height,) if self.settings.decomposed else None),
        }  # fmt: skip
        for what, (tensor, shape) in wanted.items():
            found = None if tensor is None else tuple(tensor.shape)
            if found != shape:
                raise AthanorError(
                    f"{name}: {what} of shape {found}",
                    allowed=str(shape),
                    fix="was the adapter made for another model?",
                )
        if self.settings.decomposed:
            weight_of(layer, place.layer)
        stored, own = self.beside.get(name), layer.weight if isinstance(layer, nn.Linear | nn.Embedding) else None
        if stored is not None and own is not None and not torch.equal(stored.to(own.dtype), own.detach().cpu()):
            raise AthanorError(
                f"{name}: the adapter was stored with another weight of the base model than this one has",
                fix="was the adapter made for another model, or with embeddings of new tokens?",
            )

    def at_work(self, name: str, place: Place, expert: int, device: torch.device) -> "LowRank":
        """A copy of a piece's matrices that computes, in float32; of experts those of one."""
        matrices = self.pieces[name]
        if place.kind == "experts":
            matrices = replace(matrices, a_RK=matrices.a_RK[expert], b_PR=matrices.b_PR[expert])
        own = {field: getattr(matrices, field) for field in ("a_RK", "b_PR", "length_P")}
        own = {
            field: None if tensor is None else tensor.detach().to(device, torch.float32, copy=True)
            for field, tensor in own.items()
        }
        made = LowRankEmbedding if place.kind == "embedding" else LowRank
        return made(replace(matrices, **own), self.settings)


class LowRank(nn.Module):
    """The matrices of one piece at work."""

    def __init__(self, matrices: Matrices, settings: LoraSettings):
        super().__init__()
        self.alpha, self.dropout = matrices.alpha, settings.dropout
        self.scale = settings.scale(matrices.rank, matrices.alpha)
        self.a, self.b = nn.Parameter(matrices.a_RK), nn.Parameter(matrices.b_PR)
        self.length = None if matrices.length_P is None else nn.Parameter(matrices.length_P)

    def entering(self, x_XK: Tensor) -> Tensor:
        """What the frozen layer gets: its input as it is."""
        return x_XK

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

    def folded(self, weight_PK: Tensor, bias_P: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weight, float32, and the bias that compute what the frozen ones and the matrices do together."""
        summed_PK = self.sum(weight_PK)
        whole_PK = summed_PK if self.length is None else summed_PK * self.stretch(weight_PK).float()[:, None]
        return whole_PK, bias_P

    def numbers(self) -> Matrices:
        """A copy of the numbers."""
        length = None if self.length is None else self.length.detach().clone()
        return Matrices(self.a.detach().clone(), self.b.detach().clone(), self.alpha, length)


class LowRankEmbedding(LowRank):
    """The same beside an embedding, whose input is token ids."""

    def added(self, ids_X: Tensor) -> Tensor:
        """s B a, where a is the token's column of A; nothing is dropped, as in PEFT."""
        return F.linear(F.embedding(ids_X, self.a.t()), self.b) * self.scale


def stacked(parts: Sequence[Matrices]) -> Matrices:
    """The matrices of all experts as those of one piece; of a layer that is no expert its own."""
    if len(parts) == 1:
        return parts[0]
    a_ERK, b_EPR = torch.stack([one.a_RK for one in parts]), torch.stack([one.b_PR for one in parts])
    return Matrices(a_ERK, b_EPR, parts[0].alpha)


def fresh(
    model: nn.Module,
    family: Family,
    settings: LoraSettings,
    targets: Iterable[str] = ("q_proj", "v_proj"),
    seed: int = 1,
) -> Adapter:
    """A new adapter that changes nothing yet: A uniform in +-1 / sqrt(K), B zero (Hu et al. 2021, section 4.1).

    Of an embedding A is zero and B normal, as in PEFT: a column of A learns only from its own token.

    Args:
        targets: names of pieces, or their ends, such as 'q_proj', 'embed_tokens' or 'experts.down_proj'.
        seed: the same seed gives the same numbers on every device.

    Raises:
        AthanorError: a target is no piece of this network.
    """
    generator, pieces = torch.Generator().manual_seed(seed), {}
    device = next(model.parameters()).device
    for name, place in chosen_places(every_place(family, model.config), targets).items():
        bound, first = 1 / math.sqrt(place.inputs), (len(place.experts),) if place.experts else ()
        a_RK = torch.empty(*first, settings.rank, place.inputs)
        b_PR = torch.zeros(*first, place.height, settings.rank)
        if place.kind == "embedding":
            a_RK.zero_()
            b_PR.normal_(generator=generator)
        else:
            a_RK.uniform_(-bound, bound, generator=generator)
        length_P = None
        if settings.decomposed:
            weight_NK = weight_of(frozen_layer(model, place.layer), place.layer)
            weight_NK = weight_NK.t() if place.kind == "embedding" else weight_NK
            length_P = weight_NK.split(place.heights)[place.piece].float().norm(dim=1)
        pieces[name] = Matrices(a_RK.to(device), b_PR.to(device), settings.alpha, length_P)
    return Adapter(settings, pieces)
