"""One Transformer trunk for every family: vectors in, vectors out.

What the vectors mean is the business of fronts and heads (`language.py` wraps token embeddings and logits around it).

Shape letters: B batch, T positions of the query, S positions of the key, D width, N query heads, K key/value heads,
H width of a head, F hidden width of the feed-forward layer, V vocabulary, R rotated pairs of a head.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from athanor.models import kernels


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The whole description of a network, flat and frozen; `None` means not set.

    Raises:
        ValueError: when the numbers cannot form a network.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    max_positions: int
    vocabulary: int | None = None  # None: the network has no token front
    tied: bool = False  # the head reuses the token embedding
    kv_heads: int | None = None  # None: as many as `heads`
    head_width: int | None = None  # None: width / heads
    position: Literal["rope", "learned"] = "rope"
    rope_base: float = 10_000.0
    rope_share: float = 1.0  # part of each head that is rotated (GLM: 0.5)
    rope_pairs: Literal["halves", "neighbours"] = "halves"  # which two numbers of a head are rotated together
    norm: Literal["rms", "layer"] = "rms"
    norm_place: Literal["before", "around"] = "before"  # around: GLM-4 normalises what a layer returns, too
    norm_eps: float = 1e-6
    norm_qk: bool = False  # Qwen3 normalises queries and keys, head by head
    mlp: Literal["swiglu", "geglu", "gelu_tanh"] = "swiglu"
    bias_qkv: bool = False
    bias_out: bool = False
    bias_mlp: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "hidden", "max_positions", "vocabulary", "kv_heads", "head_width"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name}={number}: must be at least 1, or None for not set")
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(get_args(hint))}")
        if self.head_width is None and self.width % self.heads:
            raise ValueError(f"width={self.width} is not a multiple of heads={self.heads}: set head_width")
        if self.heads % self.key_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        if self.position == "rope" and (self.rotated < 2 or self.rotated % 2):
            raise ValueError(f"rope rotates pairs, but {self.rotated} numbers of each head are to be rotated")
        if self.tied and self.vocabulary is None:
            raise ValueError("tied=True ties the head to the token embedding, but vocabulary is not set")

    @property
    def key_heads(self) -> int:
        """Number of key/value heads (K)."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_size(self) -> int:
        """Width of one head (H)."""
        return self.width // self.heads if self.head_width is None else self.head_width

    @property
    def rotated(self) -> int:
        """How many numbers of each head are rotated (2R)."""
        return int(self.head_size * self.rope_share)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer multiplies two products of its input."""
        return self.mlp in ("swiglu", "geglu")

    def complete(self) -> "TransformerConfig":
        """The same network with every number that follows from others written out."""
        return replace(self, kv_heads=self.key_heads, head_width=self.head_size)


ACTIVATIONS = {"swiglu": kernels.swiglu, "geglu": kernels.geglu, "gelu_tanh": kernels.gelu_tanh}


class Cache(Protocol):
    """Keys and values kept between calls; the memory behind it belongs to the caller."""

    mask_BTS: Tensor  # bool: True where a query of this call may attend

    def append(self, layer: int, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values and return all of the layer's so far, (B, K, S, H) each."""
        ...


class Norm(nn.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019), or layer normalisation (Ba et al. 2016)."""

    def __init__(self, config: TransformerConfig, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if config.norm == "layer" else None
        self.eps = config.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None:
            return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return kernels.rms_norm(x, self.weight, self.eps)


@dataclass(frozen=True)
class Places:
    """Where every position stands: what attention and rotation need to know, computed once for all layers."""

    rope: tuple[Tensor, Tensor] | None  # cosine and sine, (B, T, 1, R) float32
    mask: kernels.CausalMask | None  # None: a cache is there, and brings its own mask


def rope_table(config: TransformerConfig, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every rotation, (B, T, 1, R) float32 each (RoFormer, Su et al. 2021, section 3.2.2)."""
    pair_R = torch.arange(0, config.rotated, 2, device=positions_BT.device, dtype=torch.float32)
    frequency_R = config.rope_base ** (-pair_R / config.rotated)
    angle_BT1R = positions_BT[:, :, None, None].float() * frequency_R
    return angle_BT1R.cos(), angle_BT1R.sin()


class Attention(nn.Module):
    """Self-attention with grouped key/value heads (Ainslie et al. 2023); one product makes q, k and v."""

    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        heads = config.heads + 2 * config.key_heads
        self.qkv = nn.Linear(config.width, heads * config.head_size, bias=config.bias_qkv)
        self.out = nn.Linear(config.heads * config.head_size, config.width, bias=config.bias_out)
        self.q_norm = Norm(config, config.head_size) if config.norm_qk else None
        self.k_norm = Norm(config, config.head_size) if config.norm_qk else None

    def forward(self, x_BTD: Tensor, places: Places, cache: Cache | None) -> Tensor:
        batch, length, _ = x_BTD.shape
        c = self.config
        heads = self.qkv(x_BTD).view(batch, length, -1, c.head_size)
        q_BTNH, k_BTKH, v_BTKH = heads.split((c.heads, c.key_heads, c.key_heads), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTNH, k_BTKH = self.q_norm(q_BTNH), self.k_norm(k_BTKH)
        if places.rope is not None:
            q_BTNH = kernels.rotate(q_BTNH, *places.rope, pairs=c.rope_pairs)
            k_BTKH = kernels.rotate(k_BTKH, *places.rope, pairs=c.rope_pairs)
        if cache is None:
            assert places.mask is not None
            y_BTNH = kernels.causal_attention(q_BTNH, k_BTKH, v_BTKH, places.mask)
        else:
            k_BKSH, v_BKSH = cache.append(self.layer, k_BTKH.transpose(1, 2), v_BTKH.transpose(1, 2))
            y_BTNH = kernels.masked_attention(q_BTNH, k_BKSH, v_BKSH, cache.mask_BTS)
        return self.out(y_BTNH.reshape(batch, length, -1))


class FeedForward(nn.Module):
    """The layer that treats every position alone: gated (Shazeer 2020) or plain."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.mlp]
        # Gated: gate and up lie side by side, and one product makes both.
        self.up = nn.Linear(config.width, config.hidden * (2 if config.gated else 1), bias=config.bias_mlp)
        self.down = nn.Linear(config.hidden, config.width, bias=config.bias_mlp)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x_BTD)))


class Block(nn.Module):
    """Attention, then feed-forward, each added to the stream it reads."""

    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        around = config.norm_place == "around"
        self.attention_norm = Norm(config, config.width)
        self.attention = Attention(config, layer)
        self.attention_norm_out = Norm(config, config.width) if around else None
        self.mlp_norm = Norm(config, config.width)
        self.mlp = FeedForward(config)
        self.mlp_norm_out = Norm(config, config.width) if around else None

    def forward(self, x_BTD: Tensor, places: Places, cache: Cache | None) -> Tensor:
        y_BTD = self.attention(self.attention_norm(x_BTD), places, cache)
        x_BTD = x_BTD + (y_BTD if self.attention_norm_out is None else self.attention_norm_out(y_BTD))
        y_BTD = self.mlp(self.mlp_norm(x_BTD))
        return x_BTD + (y_BTD if self.mlp_norm_out is None else self.mlp_norm_out(y_BTD))


class Transformer(nn.Module):
    """The trunk: vectors (B, T, D) in, normalised vectors (B, T, D) out."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = Norm(config, config.width)

    def forward(
        self, x_BTD: Tensor, *, positions_BT: Tensor, starts_BT: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Run all layers.

        Args:
            x_BTD: one vector per position.
            positions_BT: the number each position is rotated by.
            starts_BT: index of the first position each one may attend to (start of its document); None: 0.
            cache: keys and values of earlier calls; its mask then decides who attends to whom.
        """
        rope = rope_table(self.config, positions_BT) if self.config.position == "rope" else None
        mask = None if cache is not None else kernels.CausalMask(x_BTD.shape[1], starts_BT, x_BTD.device)
        places = Places(rope, mask)
        for block in self.blocks:
            x_BTD = block(x_BTD, places, cache)
        return self.norm(x_BTD)
