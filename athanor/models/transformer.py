"""One Transformer trunk for every family: vectors in, vectors out.

What the vectors mean is the business of fronts and heads (`language.py` wraps token embeddings and logits around it).

Shape letters: B batch, T positions of the query, S positions of the key, D width, N query heads, K key/value heads,
H width of a head, F hidden width of the feed-forward layer, V vocabulary, R rotated pairs of a head.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from athanor.models import kernels
from athanor.models.attention import (
    Attention,
    Cache,
    CrossAttention,
    DistanceBias,
    Mask,
    Memory,
    Norm,
    Places,
    alibi,
    cached_distances,
    distances,
    within,
)
from athanor.models.config import TransformerConfig
from athanor.models.feedforward import Experts, FeedForward, Routes
from athanor.models.rope import rope_angles


class Block(nn.Module):
    """Attention, attention to a memory where there is one, feed-forward: each added to the stream it reads."""

    def __init__(self, config: TransformerConfig, layer: int):
        super().__init__()
        around = config.norm_place == "around"
        self.place, self.scale = config.norm_place, config.residual_scale
        self.parallel, self.layer = config.parallel, layer
        self.attention_norm = Norm(config, config.width)
        self.attention = Attention(config, layer)
        self.attention_norm_out = Norm(config, config.width) if around else None
        self.cross_norm = Norm(config, config.width) if config.cross else None
        self.cross = CrossAttention(config) if config.cross else None
        self.mlp_norm = None if config.shared_norm else Norm(config, config.width)
        self.mlp = Experts(config) if config.routed(layer) else FeedForward(config)
        self.mlp_norm_out = Norm(config, config.width) if around else None

    def feed(self, x_BTD: Tensor, places: Places) -> Tensor:
        """The feed-forward layer or the experts."""
        return self.mlp(x_BTD, places.routes) if isinstance(self.mlp, Experts) else self.mlp(x_BTD)

    def recall(self, x_BTD: Tensor, places: Places) -> Tensor:
        """Attention to the memory."""
        assert self.cross is not None and places.memory is not None
        return self.cross(x_BTD, places.memory.keys_values[self.layer], places.memory.allowed_B1S)

    def forward(self, x_BTD: Tensor, places: Places, cache: Cache | None) -> Tensor:
        if self.place == "after":
            return self.forward_normalising_after(x_BTD, places, cache)
        if self.place == "residual":  # DeepNorm (Wang et al. 2022) as GLM-130B has it: of one layer in the next
            x_BTD = self.attention_norm(x_BTD)
            x_BTD = self.mlp_norm(x_BTD * self.scale + self.attention(x_BTD, places, cache))
            return x_BTD * self.scale + self.feed(x_BTD, places)
        normal_BTD = self.attention_norm(x_BTD)
        y_BTD = self.attention(normal_BTD, places, cache)
        if self.parallel:  # GPT-J and PaLM (Chowdhery et al. 2022, section 2) share the norm, GPT-NeoX has two
            other_BTD = normal_BTD if self.mlp_norm is None else self.mlp_norm(x_BTD)
            return x_BTD + y_BTD + self.feed(other_BTD, places)
        x_BTD = x_BTD + (y_BTD if self.attention_norm_out is None else self.attention_norm_out(y_BTD))
        if self.cross_norm is not None:
            x_BTD = x_BTD + self.recall(self.cross_norm(x_BTD), places)
        y_BTD = self.feed(self.mlp_norm(x_BTD), places)
        return x_BTD + (y_BTD if self.mlp_norm_out is None else self.mlp_norm_out(y_BTD))

    def forward_normalising_after(self, x_BTD: Tensor, places: Places, cache: Cache | None) -> Tensor:
        """norm(x + f(x)) for each layer f (Vaswani et al. 2017, section 3.1)."""
        x_BTD = self.attention_norm(self.attention(x_BTD, places, cache).add_(x_BTD, alpha=self.scale))
        if self.cross_norm is not None:
            x_BTD = self.cross_norm(self.recall(x_BTD, places).add_(x_BTD, alpha=self.scale))
        return self.mlp_norm(self.feed(x_BTD, places).add_(x_BTD, alpha=self.scale))


class Transformer(nn.Module):
    """The trunk: vectors (B, T, D) in, vectors (B, T, D) out, normalised."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = None if config.norm_place == "after" else Norm(config, config.width)
        self.distance_bias = DistanceBias(config) if config.position == "buckets" else None
        self.recompute = False  # while training keep only what enters each block, and compute the rest a second time

    def forward(
        self,
        x_BTD: Tensor,
        *,
        positions_BT: Tensor | None = None,
        starts_BT: Tensor | None = None,
        allowed_BTS: Tensor | None = None,
        cache: Cache | None = None,
        memory: Memory | None = None,
        routes: Routes | None = None,
    ) -> Tensor:
        """Run all layers.

        Args:
            x_BTD: one vector per position.
            positions_BT: the number each position is rotated by, with two axes (B, T, 2); needed for rotation only.
            starts_BT: index of the first position of each one's document, which nobody looks beyond; None: 0.
            allowed_BTS: who may attend to whom, True where so, instead of what `causal` and starts_BT say; everybody
                to someone. Not with a cache: its mask decides.
            cache: keys and values of earlier calls; its mask then decides who attends to whom.
            memory: what `remember` made of the source, for a trunk with cross-attention.
            routes: takes note of where layers with experts send each token.
        """
        places = self.places(
            x_BTD,
            positions_BT=positions_BT,
            starts_BT=starts_BT,
            allowed_BTS=allowed_BTS,
            cache=cache,
            memory=memory,
            routes=routes,
        )
        again = self.recompute and torch.is_grad_enabled()
        for block in self.blocks:
            # Chen et al. 2016, section 3: the square root of the memory for one more forward pass.
            x_BTD = (
                checkpoint(block, x_BTD, places, cache, use_reentrant=False) if again else block(x_BTD, places, cache)
            )
        return x_BTD if self.norm is None else self.norm(x_BTD)

    def places(
        self,
        x_BTD: Tensor,
        *,
        positions_BT: Tensor | None = None,
        starts_BT: Tensor | None = None,
        allowed_BTS: Tensor | None = None,
        cache: Cache | None = None,
        memory: Memory | None = None,
        routes: Routes | None = None,
    ) -> Places:
        """What all layers need to know about where every position stands; the arguments are those of `forward`."""
        c = self.config
        assert (memory is not None) == c.cross, "a memory goes with cross-attention, and only with it"
        assert cache is None or (allowed_BTS is None and c.causal), "with a cache its mask decides"
        length, device = x_BTD.shape[1], x_BTD.device
        rope = None
        if c.position == "rope":
            assert positions_BT is not None
            rope = rope_angles(c, positions_BT, starts_BT)
        mask: Mask
        window: Mask | None = None
        if cache is None:
            assert c.window is None or allowed_BTS is None, "windows and masks from outside do not go together"
            mask = kernels.Mask(length, starts_BT, device, causal=c.causal, allowed_BTS=allowed_BTS)
            window = None if c.window is None else kernels.Mask(length, starts_BT, device, c.window)
        else:
            mask = cache.mask_BTS
            window = None if c.window is None else within(c.window, cache.mask_BTS)
        return Places(rope, mask, window, self.bias(length, device, cache), memory, routes)

    def bias(self, length: int, device: torch.device, cache: Cache | None) -> Tensor | None:
        """What is added to the scores by distance, (1 or B, N, T, S); None: nothing."""
        if self.config.position not in ("buckets", "alibi"):
            return None
        distance_BTS = distances(length, device) if cache is None else cached_distances(cache.mask_BTS)
        if self.distance_bias is not None:
            return self.distance_bias(distance_BTS)
        return alibi(self.config.heads, distance_BTS)

    def remember(self, source_BSD: Tensor, seen_BS: Tensor | None = None) -> Memory:
        """Keys and values of a source for every layer's cross-attention; made once, used for every token written.

        Args:
            source_BSD: what the encoder made of the source.
            seen_BS: bool, False where the source is padding; None: all is seen.
        """
        pairs = tuple(block.cross.remember(source_BSD) for block in self.blocks)
        return Memory(pairs, None if seen_BS is None else seen_BS[:, None])
