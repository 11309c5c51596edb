"""Attention: of a text to itself, and to what an encoder made of another.

Shape letters as in `transformer.py`; S positions of the key, A axes of a position.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from athanor.models import kernels, native_kernels
from athanor.models.config import TransformerConfig
from athanor.models.feedforward import Routes
from athanor.models.linear import Linear

Mask = kernels.Mask | Tensor  # of a row for itself, or with a cache who attends to whom, (B, T, S)
Angles = tuple[tuple[Tensor, Tensor], ...]  # cosine and sine for each axis of a position, (B, T, 1, R) float32 each


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
        self.centred = config.norm == "layer"
        self.bias = nn.Parameter(torch.zeros(width)) if self.centred and config.norm_bias else None
        self.eps = config.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        if self.centred:
            return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return kernels.rms_norm(x, self.weight, self.eps)


@dataclass(frozen=True)
class Memory:
    """What a decoder attends to besides its own text: keys and values of every layer, made once per source."""

    keys_values: tuple[tuple[Tensor, Tensor], ...]  # (B, K, S, H) each, one pair per layer
    allowed_B1S: Tensor | None  # bool: which positions of the source may be seen; None: all


@dataclass(frozen=True)
class Places:
    """Where every position stands: what the layers need to know, computed once for all of them."""

    rope: Angles | None
    mask: Mask  # who attends to whom
    window: Mask | None  # the same through the window, for the layers that have one
    bias_BNTS: Tensor | None  # added to the scores, by distance
    memory: Memory | None
    routes: Routes | None  # layers with experts write here where they sent each token


class Attention(nn.Module):
    """Self-attention with grouped key/value heads (Ainslie et al. 2023); one product makes q, k and v."""

    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        self.config, self.layer, self.windowed = config, layer, config.windowed(layer)
        heads = config.heads + 2 * config.key_heads
        self.qkv = Linear(config.width, heads * config.head_size, bias=config.bias_qkv)
        self.out = Linear(config.heads * config.head_size, config.width, bias=config.bias_out)
        self.q_norm = Norm(config, config.head_size) if config.norm_qk else None
        self.k_norm = Norm(config, config.head_size) if config.norm_qk else None

    def forward(self, x_BTD: Tensor, places: Places, cache: Cache | None) -> Tensor:
        batch, length, _ = x_BTD.shape
        c = self.config
        heads_BTMH = self.qkv(x_BTD).view(batch, length, -1, c.head_size)
        q_BTNH, k_BTKH, v_BTKH = self.split(heads_BTMH, places.rope)
        y_BTNH = self.attend(q_BTNH, k_BTKH, v_BTKH, places, cache)
        return self.out(y_BTNH.reshape(batch, length, -1))

    def split(self, heads_BTMH: Tensor, rope: Angles | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (M = N + 2 K heads), normalised and turned by their place."""
        c = self.config
        plain = rope is not None and len(rope) == 1 and self.q_norm is None
        if plain and kernels.trains_on_cpu(heads_BTMH) and native_kernels.can_rotate(heads_BTMH, c.rope_pairs):
            return native_kernels.SplitAndRotate.apply(heads_BTMH, *rope[0], c.heads, c.key_heads)
        q_BTNH, k_BTKH, v_BTKH = heads_BTMH.split((c.heads, c.key_heads, c.key_heads), dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTNH, k_BTKH = self.q_norm(q_BTNH), self.k_norm(k_BTKH)
        if rope is not None:
            q_BTNH, k_BTKH = turn(q_BTNH, rope, c), turn(k_BTKH, rope, c)
        return q_BTNH, k_BTKH, v_BTKH

    def attend(self, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, places: Places, cache: Cache | None) -> Tensor:
        """Weighted values for every query, (B, T, N, H)."""
        mask = places.window if self.windowed else places.mask
        assert mask is not None
        c = self.config
        if isinstance(mask, kernels.Mask) and places.bias_BNTS is None:
            return kernels.self_attention(q_BTNH, k_BTKH, v_BTKH, mask, c.score_scale)
        k_BKSH, v_BKSH = k_BTKH.transpose(1, 2), v_BTKH.transpose(1, 2)
        if cache is not None:
            k_BKSH, v_BKSH = cache.append(self.layer, k_BKSH, v_BKSH)
        allowed = mask.allowed_BTS if isinstance(mask, kernels.Mask) else mask
        return kernels.masked_attention(q_BTNH, k_BKSH, v_BKSH, allowed, c.score_scale, places.bias_BNTS)


def turn(x_BTNH: Tensor, angles: Angles, config: TransformerConfig) -> Tensor:
    """Rotate a head by its place; with two axes its first half by the first, its second half by the second."""
    parts = x_BTNH.chunk(len(angles), dim=-1)
    turned = [kernels.rotate(part, *angle, pairs=config.rope_pairs) for part, angle in zip(parts, angles, strict=True)]
    return turned[0] if len(turned) == 1 else torch.cat(turned, dim=-1)


class CrossAttention(nn.Module):
    """Attention of a decoder to a memory (Vaswani et al. 2017, section 3.2.3); one product makes keys and values."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        size = config.head_size
        self.q = Linear(config.width, config.heads * size, bias=config.bias_qkv)
        self.kv = Linear(config.width, 2 * config.key_heads * size, bias=config.bias_qkv)
        self.out = Linear(config.heads * size, config.width, bias=config.bias_out)

    def remember(self, source_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the source, (B, K, S, H) each."""
        kv_BSKH = self.kv(source_BSD).unflatten(-1, (2 * self.config.key_heads, -1))
        k_BKSH, v_BKSH = kv_BSKH.transpose(1, 2).chunk(2, dim=1)
        return k_BKSH, v_BKSH

    def forward(self, x_BTD: Tensor, keys_values: tuple[Tensor, Tensor], allowed_B1S: Tensor | None) -> Tensor:
        q_BTNH = self.q(x_BTD).unflatten(-1, (self.config.heads, -1))
        y_BTNH = kernels.masked_attention(q_BTNH, *keys_values, allowed_B1S, self.config.score_scale)
        return self.out(y_BTNH.flatten(2))


# ---------------------------------------------------------------------------------- scores that depend on the distance


class DistanceBias(nn.Module):
    """One learned score per class of distance and head, shared by all layers (T5, Raffel et al. 2020, section 2.1)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        assert config.buckets is not None and config.farthest is not None
        self.buckets, self.farthest, self.causal = config.buckets, config.farthest, config.causal
        self.weight = nn.Parameter(torch.zeros(config.buckets, config.heads))

    def forward(self, distance_BTS: Tensor) -> Tensor:
        """Scores (B, N, T, S) for how far before the query each key stands; a key behind it has a negative distance."""
        bucket_BTS = distance_bucket(distance_BTS, self.buckets, self.farthest, self.causal)
        return nn.functional.embedding(bucket_BTS, self.weight).permute(0, 3, 1, 2)


def distance_bucket(distance: Tensor, buckets: int, farthest: int, causal: bool) -> Tensor:
    """The class of each distance: half of them exact, half growing with the logarithm up to `farthest`.

    Without causality, half of all classes are for keys behind the query. With e exact classes of n, and d > e:
    e + floor(ln(d / e) / ln(farthest / e) (n - e)), at most n - 1 (T5, Raffel et al. 2020, section 2.1, and its code).
    """
    if causal:
        offset, distance = torch.zeros_like(distance), distance.clamp_min(0)
    else:
        buckets //= 2
        offset, distance = (distance < 0) * buckets, distance.abs()
    exact = buckets // 2
    growth = torch.log(distance.float().clamp_min(1) / exact) / math.log(farthest / exact) * (buckets - exact)
    far = (exact + growth.long()).clamp_max(buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


def alibi(heads: int, distance_BTS: Tensor) -> Tensor:
    """Scores -m d for a distance d, (B, N, T, S): each head has its own slope m (ALiBi, Press et al. 2022, section 3).

    For a power of two n of heads the slopes are 2^(-8 i / n), i = 1 to n; other counts add every second slope of the
    next power of two (the authors' published code).
    """
    whole = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * number / whole) for number in range(1, whole + 1)]
    slopes += [2 ** (-4 * number / whole) for number in range(1, 2 * (heads - whole), 2)]
    slope_N11 = torch.tensor(slopes, device=distance_BTS.device)[:, None, None]
    return -slope_N11 * distance_BTS[:, None]


def distances(length: int, device: torch.device) -> Tensor:
    """How far before each query each key stands when both are the same positions, (1, T, T)."""
    place_T = torch.arange(length, device=device)
    return (place_T[:, None] - place_T)[None]


def cached_distances(mask_BTS: Tensor) -> Tensor:
    """The same for keys of a cache, (B, T, S): the last key a query may attend to is its own."""
    column_S = torch.arange(mask_BTS.shape[-1], device=mask_BTS.device)
    return (column_S * mask_BTS).amax(-1, keepdim=True) - column_S


def within(window: int, mask_BTS: Tensor) -> Tensor:
    """The mask of a cache narrowed to the last `window` keys of each query, its own included."""
    return mask_BTS & (cached_distances(mask_BTS) < window)
