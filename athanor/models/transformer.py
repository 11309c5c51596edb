"""One Transformer trunk for every family: vectors in, vectors out.

What the vectors mean is the business of fronts and heads (`language.py` wraps token embeddings and logits around it).

Shape letters: B batch, T positions of the query, S positions of the key, D width, N query heads, K key/value heads,
H width of a head, F hidden width of the feed-forward layer, V vocabulary, R rotated pairs of a head.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from athanor.models import kernels
from athanor.models.config import TransformerConfig
from athanor.models.feedforward import Experts, FeedForward, Routes
from athanor.models.rope import rope_table

Mask = kernels.CausalMask | Tensor


class Cache(Protocol):
    """Keys and values kept between calls; the memory behind it belongs to the caller.

    A row's keys stand in the order of the text, and the last one a query may attend to is its own.
    """

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
    """Where every position stands: what the layers need to know, computed once for all of them."""

    rope: tuple[Tensor, Tensor] | None  # cosine and sine, (B, T, 1, R) float32
    mask: Mask  # who attends to whom; with a cache a tensor (B, T, S)
    window: Mask | None  # the same through the window, for the layers that have one
    routes: Routes | None  # layers with experts write here where they sent each token


class Attention(nn.Module):
    """Self-attention with grouped key/value heads (Ainslie et al. 2023); one product makes q, k and v."""

    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        self.config, self.layer, self.windowed = config, layer, config.windowed(layer)
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
        mask = places.window if self.windowed else places.mask
        if cache is None:
            assert isinstance(mask, kernels.CausalMask)
            y_BTNH = kernels.causal_attention(q_BTNH, k_BTKH, v_BTKH, mask)
        else:
            assert isinstance(mask, Tensor)
            k_BKSH, v_BKSH = cache.append(self.layer, k_BTKH.transpose(1, 2), v_BTKH.transpose(1, 2))
            y_BTNH = kernels.masked_attention(q_BTNH, k_BKSH, v_BKSH, mask)
        return self.out(y_BTNH.reshape(batch, length, -1))


class Block(nn.Module):
    """Attention, then feed-forward (or both at once), each added to the stream it reads."""

    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        around = config.norm_place == "around"
        self.after, self.parallel = config.norm_place == "after", config.parallel
        self.attention_norm = Norm(config, config.width)
        self.attention = Attention(config, layer)
        self.attention_norm_out = Norm(config, config.width) if around else None
        self.mlp_norm = None if config.shared_norm else Norm(config, config.width)
        self.mlp = Experts(config) if config.routed(layer) else FeedForward(config)
        self.mlp_norm_out = Norm(config, config.width) if around else None

    def feed(self, x_BTD: Tensor, places: Places) -> Tensor:
        """The feed-forward layer or the experts."""
        return self.mlp(x_BTD, places.routes) if isinstance(self.mlp, Experts) else self.mlp(x_BTD)

    def forward(self, x_BTD: Tensor, places: Places, cache: Cache | None) -> Tensor:
        if self.after:
            x_BTD = self.attention_norm(x_BTD + self.attention(x_BTD, places, cache))
            return self.mlp_norm(x_BTD + self.feed(x_BTD, places))
        normal_BTD = self.attention_norm(x_BTD)
        y_BTD = self.attention(normal_BTD, places, cache)
        if self.parallel:  # GPT-J and PaLM (Chowdhery et al. 2022, section 2) share the norm, GPT-NeoX has two
            other_BTD = normal_BTD if self.mlp_norm is None else self.mlp_norm(x_BTD)
            return x_BTD + y_BTD + self.feed(other_BTD, places)
        x_BTD = x_BTD + (y_BTD if self.attention_norm_out is None else self.attention_norm_out(y_BTD))
        y_BTD = self.feed(self.mlp_norm(x_BTD), places)
        return x_BTD + (y_BTD if self.mlp_norm_out is None else self.mlp_norm_out(y_BTD))


class Transformer(nn.Module):
    """The trunk: vectors (B, T, D) in, vectors (B, T, D) out, normalised."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = None if config.norm_place == "after" else Norm(config, config.width)

    def forward(
        self,
        x_BTD: Tensor,
        *,
        positions_BT: Tensor,
        starts_BT: Tensor | None = None,
        cache: Cache | None = None,
        routes: Routes | None = None,
    ) -> Tensor:
        """Run all layers.

        Args:
            x_BTD: one vector per position.
            positions_BT: the number each position is rotated by.
            starts_BT: index of the first position each one may attend to (start of its document); None: 0.
            cache: keys and values of earlier calls; its mask then decides who attends to whom.
            routes: takes note of where layers with experts send each token.
        """
        rope = rope_table(self.config, positions_BT, starts_BT) if self.config.position == "rope" else None
        mask: Mask
        window: Mask | None = None
        if cache is None:
            mask = kernels.CausalMask(x_BTD.shape[1], starts_BT, x_BTD.device)
            if self.config.window is not None:
                window = kernels.CausalMask(x_BTD.shape[1], starts_BT, x_BTD.device, self.config.window)
        else:
            mask = cache.mask_BTS
            window = None if self.config.window is None else within(self.config.window, mask)
        places = Places(rope, mask, window, routes)
        for block in self.blocks:
            x_BTD = block(x_BTD, places, cache)
        return x_BTD if self.norm is None else self.norm(x_BTD)


def within(window: int, mask_BTS: Tensor) -> Tensor:
    """The mask of a cache narrowed to the last `window` keys of each query, its own included."""
    column_S = torch.arange(mask_BTS.shape[-1], device=mask_BTS.device)
    own_BT1 = (column_S * mask_BTS).amax(-1, keepdim=True)
    return mask_BTS & (column_S > own_BT1 - window)
