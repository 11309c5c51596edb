"""Keys and values of their own that stand before every text, at every layer of a frozen network.

P-tuning v2 (Liu et al. 2022, section 3.2) learns them as they are. Prefix tuning (Li and Liang 2021, section 4.3)
learns vectors and a small network that makes them, and keeps what that makes.

They are where so many tokens before the text would be: every text of a row begins that many positions later.

Shape letters as in `transformer.py`; L layers, P positions of the prefix, E hidden width of the small network.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.models import kernels
from athanor.models.attention import Attention, Cache, Mask, Places
from athanor.models.language import LanguageModel


@dataclass(frozen=True)
class PrefixAdapter:
    """A whole prefix, attached to nothing.

    Attributes:
        numbers: keys and values of every layer (L, 2, P, K, H), rotated as their places ask.
        hidden: E, to learn them through a small network; None: as they are.
        base, base_name: as in `lora.Adapter`.
    """

    numbers: Tensor
    hidden: int | None = None
    base: str | None = None
    base_name: str | None = None

    @property
    def tokens(self) -> int:
        """P."""
        return self.numbers.shape[2]


class Straight(nn.Module):
    """A prefix that is learnt as it is."""

    def __init__(self, numbers: Tensor):
        super().__init__()
        self.kv = nn.Parameter(numbers)

    def forward(self, layer: int) -> Tensor:
        """Keys and values of a layer, (2, P, K, H)."""
        return self.kv[layer]

    def numbers(self) -> Tensor:
        """A copy, (L, 2, P, K, H)."""
        return self.kv.detach().clone()


class Made(nn.Module):
    """A prefix that a small network makes: first + W2 tanh(W1 e), of which W2 begins with zero.

    The sum with fixed numbers is not in the paper: it begins as what real tokens leave behind (section 7.3 there finds
    that to help), and steps through the network are as steady from there.
    """

    def __init__(self, numbers: Tensor, hidden: int, seed: int):
        super().__init__()
        layers, pair, tokens, heads, size = numbers.shape
        self.register_buffer("first", numbers)
        generator = torch.Generator().manual_seed(seed)

        def drawn(rows: int, columns: int, scale: float) -> nn.Parameter:
            return nn.Parameter((torch.randn(rows, columns, generator=generator) * scale).to(numbers.device))

        width = heads * size
        self.vectors = drawn(tokens, width, 1.0)
        self.into, self.into_bias = drawn(hidden, width, width**-0.5), drawn(1, hidden, 0.0)
        self.out = nn.Parameter(torch.zeros(layers, pair * width, hidden, device=numbers.device))

    def forward(self, layer: int) -> Tensor:
        """Keys and values of a layer, (2, P, K, H)."""
        first_2PKH = self.first[layer]
        hidden_PE = torch.tanh(nn.functional.linear(self.vectors, self.into, self.into_bias[0]))
        moved_PX = nn.functional.linear(hidden_PE, self.out[layer])
        return first_2PKH + moved_PX.unflatten(1, (2, *first_2PKH.shape[2:])).transpose(0, 1)

    @torch.no_grad()
    def numbers(self) -> Tensor:
        """A copy of what it makes, (L, 2, P, K, H)."""
        return torch.stack([self(layer) for layer in range(len(self.first))])


class Prefixed(nn.Module):
    """Attention of a frozen layer that sees the prefix of any number of adapters, of which one is active."""

    def __init__(self, base: Attention):
        super().__init__()
        self.base, self.layer = base, base.layer
        self.adapters: dict[str, nn.Module] = {}  # the network holds them; every layer takes its own part
        self.active: str | tuple[str | None, ...] | None = None

    def forward(self, x_BTD: Tensor, places: Places, cache: Cache | None) -> Tensor:
        prefix = self.adapters.get(self.active) if isinstance(self.active, str) else None
        if prefix is None:
            return self.base(x_BTD, places, cache)
        kv_2PKH = prefix(self.layer).to(x_BTD.dtype)
        assert places.mask is not None
        seen = replace(places, mask=seeing(places.mask, kv_2PKH.shape[1], x_BTD))
        return self.base(x_BTD, seen, Before(kv_2PKH, cache))


class Before:
    """A cache whose keys and values stand behind a prefix; what it keeps is kept by the one inside, if there is one."""

    def __init__(self, kv_2PKH: Tensor, inside: Cache | None):
        self.kv_2KPH, self.inside = kv_2PKH.transpose(1, 2), inside
        self.mask_BTS = torch.empty(0)

    def append(self, layer: int, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of the layer, the prefix's first."""
        if self.inside is not None:
            k_BKTH, v_BKTH = self.inside.append(layer, k_BKTH, v_BKTH)
        rows = len(k_BKTH)
        k_BKPH, v_BKPH = (part.expand(rows, -1, -1, -1) for part in self.kv_2KPH)
        return torch.cat((k_BKPH, k_BKTH), dim=2), torch.cat((v_BKPH, v_BKTH), dim=2)


def seeing(mask: Mask, tokens: int, x_BTD: Tensor) -> Tensor:
    """A mask (B, T, P + S): the prefix is seen from everywhere."""
    allowed_BTS = mask.allowed_BTS if isinstance(mask, kernels.Mask) else mask
    batch, length, _ = x_BTD.shape
    if allowed_BTS is None:
        allowed_BTS = torch.ones((1, length, length), dtype=torch.bool, device=x_BTD.device)
    allowed_BTS = allowed_BTS.expand(batch, -1, -1)
    return torch.cat((allowed_BTS.new_ones((batch, length, tokens)), allowed_BTS), dim=2)


def attach_prefix(model: LanguageModel, adapter: PrefixAdapter, name: str, train: bool) -> None:
    """Wrap the attention of every layer.

    Raises:
        AthanorError: the prefix does not fit the network, or the network's attention has no room for one.
    """
    refuse_no_room(model, adapter.tokens)
    c = model.config
    wanted = (c.layers, 2, adapter.tokens, c.key_heads, c.head_size)
    if tuple(adapter.numbers.shape) != wanted:
        raise AthanorError(
            f"a prefix of shape {tuple(adapter.numbers.shape)}", allowed=f"{wanted}: layers, 2, tokens, heads, size",
            fix="was the adapter made for another model?",
        )  # fmt: skip
    model.requires_grad_(False)
    device = next(model.parameters()).device
    numbers = adapter.numbers.detach().to(device, torch.float32, copy=True)
    made = Straight(numbers) if adapter.hidden is None or not train else Made(numbers, adapter.hidden, seed=1)
    if not hasattr(model, "prefixes"):
        model.prefixes = nn.ModuleDict()
    model.prefixes[name] = made.requires_grad_(train)
    for block in model.trunk.blocks:
        if not isinstance(block.attention, Prefixed):
            block.attention = Prefixed(block.attention).train(block.training)
        block.attention.adapters[name] = made


@contextmanager
def without_prefixes(model: nn.Module) -> Iterator[None]:
    """For a moment the layers of attention stand where they stood before prefixes were put on them."""
    blocks = model.trunk.blocks if isinstance(model, LanguageModel) else ()
    hidden = [(block, block.attention) for block in blocks if isinstance(block.attention, Prefixed)]
    for block, wrapping in hidden:
        block.attention = wrapping.base
    try:
        yield
    finally:
        for block, wrapping in hidden:
            block.attention = wrapping


def refuse_no_room(model: LanguageModel, tokens: int) -> None:
    """Refuse networks that cannot have a prefix."""
    c = model.config
    if not 1 <= tokens < c.max_positions:
        raise AthanorError(f"a prefix of {tokens} tokens", allowed=f"1 to {c.max_positions - 1}: it takes positions")
    why = {
        "its scores depend on distances, which a prefix has none of": c.position not in ("rope", "learned", "none"),
        "some of its layers see through a window, which a prefix would fall out of": any(
            c.windowed(layer) for layer in range(c.layers)
        ),
        "its positions have two axes": c.position_axes != 1,
    }
    for reason, found in why.items():
        if found:
            raise AthanorError(f"this network cannot have a prefix: {reason}", fix="use LoRA or IA3")


class Noted:
    """A cache that keeps what one call of the network leaves behind."""

    def __init__(self, tokens: int, device: torch.device):
        self.kept: dict[int, Tensor] = {}
        self.mask_BTS = torch.ones((1, tokens, tokens), dtype=torch.bool, device=device).tril()

    def append(self, layer: int, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values of the only row, (2, T, K, H)."""
        self.kept[layer] = torch.stack((k_BKTH[0], v_BKTH[0])).transpose(1, 2).float()
        return k_BKTH, v_BKTH


@torch.no_grad()
def fresh_prefix(model: LanguageModel, ids: Sequence[int], hidden: int | None = None) -> PrefixAdapter:
    """A prefix that begins as keys and values of real tokens: better than noise (Li and Liang 2021, section 7.3).

    Args:
        ids: the tokens; there are as many positions.
        hidden: E of prefix tuning; None: P-tuning v2.
    """
    refuse_no_room(model, len(ids))
    device = next(model.parameters()).device
    noted = Noted(len(ids), device)
    positions = torch.arange(len(ids), device=device)[None]
    model.hidden(torch.tensor([list(ids)], device=device), positions_BT=positions, cache=noted)
    return PrefixAdapter(torch.stack([noted.kept[layer] for layer in range(model.config.layers)]), hidden)
