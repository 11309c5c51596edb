"""Shapes in numbers: how many weights, FLOPs and bytes a network takes, by formula; and the scales of `--scale`.

A `Shape` is a plain description that can be counted even where our trunk cannot build it; every TransformerConfig has
one (`describe`). Published models are rows of `published.py`.

Letters in the formulas: D width, L layers, N query heads, K key/value heads, H width of a head, F hidden width,
V vocabulary, P positions, T context, X experts.
"""

from dataclasses import dataclass, replace

from athanor.models.config import TransformerConfig
from athanor.models.kernels import QUERY_BLOCK


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The numbers of one stack of layers that its weights, FLOPs and cache follow from; nothing about how it computes.

    Attributes:
        vocabulary: rows of the token embedding; 0 where there is none.
        embedding_width: width of that embedding; None: D. Else one product leads into the trunk and one out.
        positions: rows of a learned (or stored) table of positions; 0: none, as with rotation.
        norms: normalisations of width D in a layer.
        norm_bias: whether they have a bias (layer norm) or not (root mean square).
        key_bias: whether `bias_qkv` holds for the keys; Whisper leaves it out there.
        experts: feed-forward layers to choose from, of which a token goes through `active_experts`.
        expert_hidden: hidden width of one expert; None: F.
        routed: how many layers have experts; None: all, where there are any.
        cross: whether each layer also attends to an encoder's output (a decoder's second attention).
        window: how many keys a query sees at most; None: all before it.
        windowed: how many layers look through that window; None: all.
        extra: weights outside the layers that no rule above counts; each row of the table says which.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    vocabulary: int = 0
    embedding_width: int | None = None
    tied: bool = False
    kv_heads: int | None = None
    head_width: int | None = None
    gated: bool = True
    positions: int = 0
    norms: int = 2
    norm_bias: bool = False
    norm_qk: bool = False
    final_norm: bool = True
    bias_qkv: bool = False
    key_bias: bool = True
    bias_out: bool = False
    bias_mlp: bool = False
    experts: int = 1
    active_experts: int = 1
    expert_hidden: int | None = None
    routed: int | None = None
    cross: bool = False
    window: int | None = None
    windowed: int | None = None
    extra: int = 0

    @property
    def key_heads(self) -> int:
        """Number of key/value heads (K)."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_size(self) -> int:
        """Width of one head (H)."""
        return self.width // self.heads if self.head_width is None else self.head_width

    @property
    def routed_layers(self) -> int:
        """Layers with experts."""
        return 0 if self.experts == 1 else self.layers if self.routed is None else self.routed

    def keys_seen(self, context: int) -> int:
        """Keys that one query at the end of `context` sees, all layers together."""
        narrow = 0 if self.window is None else self.layers if self.windowed is None else self.windowed
        return (self.layers - narrow) * context + narrow * min(context, self.window or context)


AnyShape = TransformerConfig | Shape


def describe(config: AnyShape) -> Shape:
    """The countable numbers of a config; a Shape is one already."""
    if isinstance(config, Shape):
        return config
    c = config
    words, tables = c.vocabulary or 0, c.position_axes if c.position == "learned" else 0
    norms = 4 if c.norm_place == "around" else 1 if c.shared_norm else 2
    head = -c.silent_ids * c.width
    embedding_norm = c.width * (2 if c.norm == "layer" and c.norm_bias else 1) if c.embedding_norm else 0
    return Shape(
        width=c.width, layers=c.layers, heads=c.heads, hidden=c.hidden, vocabulary=c.vocabulary or 0, tied=c.tied,
        kv_heads=c.key_heads, head_width=c.head_size, gated=c.gated,
        positions=(c.max_positions + c.position_offset) * tables,
        norms=norms + c.cross, norm_bias=c.norm == "layer" and c.norm_bias, cross=c.cross,
        norm_qk=c.norm_qk, final_norm=c.norm_place != "after",
        bias_qkv=c.bias_qkv, bias_out=c.bias_out, bias_mlp=c.bias_mlp,
        extra=words * c.bias_head + head + embedding_norm + (c.buckets or 0) * c.heads,
        experts=c.experts or 1, active_experts=c.experts_per_token or 1, expert_hidden=c.expert_hidden,
        routed=None if c.expert_layers is None else len(c.expert_layers),
        window=c.window, windowed=None if c.window_layers is None else len(c.window_layers),
    )  # fmt: skip


def qwen3(width: int, layers: int, heads: int, kv_heads: int, hidden: int, **more: object) -> TransformerConfig:
    """The shape our own models take: Qwen3's, because it trains stably and every engine knows it."""
    numbers = {"width": width, "layers": layers, "heads": heads, "kv_heads": kv_heads, "hidden": hidden}
    return TransformerConfig(**{"norm_qk": True, "tied": True, **numbers, **more})


GLM = {"norm": "layer", "norm_eps": 1e-5, "tied": True, "bias_qkv": True, "bias_out": True, "bias_mlp": True}

SHAPES: dict[str, TransformerConfig] = {
    # The scales: nano trains on two CPU cores in minutes, 130b needs a cluster.
    "nano": qwen3(128, 4, 4, 4, 384, vocabulary=4_096, max_positions=256),
    "micro": qwen3(512, 8, 8, 4, 1_408, vocabulary=16_384, max_positions=1_024),
    "small": qwen3(768, 12, 12, 4, 2_048, vocabulary=32_768, max_positions=2_048),
    # The shapes of ChatGLM-6B and GLM-130B (Zeng et al. 2022), run here with one-dimensional positions.
    "6b": TransformerConfig(
        width=4_096, layers=28, heads=32, hidden=16_384, vocabulary=130_528, max_positions=2_048, mlp="gelu_tanh", **GLM
    ),
    "130b": TransformerConfig(
        width=12_288, layers=70, heads=96, hidden=32_768, vocabulary=150_528, max_positions=2_048, mlp="geglu", **GLM
    ),
}


def count_parameters(config: AnyShape) -> int:
    """Learned numbers of a network of this shape, exactly; a tied head counts once."""
    s = describe(config)
    embedding = s.embedding_width or s.width
    outside = s.vocabulary * embedding * (1 if s.tied else 2) + s.positions * s.width + s.extra
    outside += 2 * embedding * s.width if embedding != s.width else 0
    outside += norm_weights(s) if s.final_norm else 0
    routed = s.routed_layers
    return outside + routed * count_block(s, True) + (s.layers - routed) * count_block(s, False)


def norm_weights(shape: Shape) -> int:
    """Learned numbers of one normalisation of width D."""
    return shape.width * (2 if shape.norm_bias else 1)


def count_block(s: Shape, routed: bool) -> int:
    """Learned numbers of one layer, with experts or without: matrices, biases and norms."""
    qkv = s.heads + s.key_heads * (2 if s.key_bias else 1)
    biases = (2 if s.cross else 1) * (qkv * s.head_size * s.bias_qkv + s.width * s.bias_out)
    layers, hidden = (s.experts, s.expert_hidden or s.hidden) if routed else (1, s.hidden)
    biases += layers * (hidden * (2 if s.gated else 1) + s.width) * s.bias_mlp
    head_norms = 2 * s.head_size * (2 if s.norm_bias else 1) if s.norm_qk else 0
    return block_products(s, s.experts if routed else 0) + biases + s.norms * norm_weights(s) + head_norms


def block_products(s: Shape, experts: int) -> int:
    """Numbers in the matrices of one layer: with so many experts and their router, or (0) with one plain layer."""
    attention = s.width * s.head_size * (2 * s.heads + 2 * s.key_heads) * (2 if s.cross else 1)
    matrices = s.width * (3 if s.gated else 2)
    if not experts:
        return attention + matrices * s.hidden
    return attention + experts * matrices * (s.expert_hidden or s.hidden) + s.width * s.experts


def active_products(config: AnyShape) -> int:
    """Numbers in the matrices one token is multiplied with, the head's included and looked-up embeddings not."""
    s = describe(config)
    embedding = s.embedding_width or s.width
    into_and_out = 2 * embedding * s.width if embedding != s.width else 0
    routed = s.routed_layers * block_products(s, s.active_experts) if s.routed_layers else 0
    return routed + (s.layers - s.routed_layers) * block_products(s, 0) + s.vocabulary * embedding + into_and_out


def active_parameters(config: AnyShape) -> int:
    """Learned numbers that one token meets: all of them, but of the experts only those it goes through."""
    s = describe(config)
    idle = s.routed_layers * (count_block(s, True) - count_block(replace(s, experts=s.active_experts), True))
    return count_parameters(s) - idle if s.routed_layers else count_parameters(s)


def forward_flops(config: AnyShape, context: int) -> int:
    """FLOPs of a forward pass for one token that attends to `context` keys: 2 M + 4 L N H T (see flops_per_token)."""
    s = describe(config)
    return 2 * active_products(s) + 4 * s.heads * s.head_size * s.keys_seen(context)


def flops_per_token(config: AnyShape, context: int) -> int:
    """FLOPs to train on one token: 6 M + 12 L N H T.

    M counts the numbers in matrix products, the head's included and looked-up embeddings not; of experts only those a
    token goes through. A forward pass is one third. As in the source, masked halves of attention are counted. Source:
    PaLM (Chowdhery et al. 2022), appendix B.
    """
    return 3 * forward_flops(config, context)


def learning_flops(config: TransformerConfig, context: int, scored: float, frozen: float, below: float) -> float:
    """FLOPs to fine-tune on one token, of which `flops_per_token` counts all: forward, and twice as many backward.

    The head sees only what is scored, frozen weights get no gradient, which is a third of their products, and layers
    below all that learn have no backward pass.

    Args:
        scored: share of the tokens.
        frozen: share of the weights.
        below: share of the layers.
    """
    layers = replace(config, vocabulary=None, tied=False)
    inside = flops_per_token(layers, 0)
    attention, head = flops_per_token(layers, context) - inside, scored * (flops_per_token(config, 0) - inside)
    return inside + attention + head - frozen * (inside + head) / 3 - below * (inside / 3 + attention * 2 / 3)


def training_flops(parameters: float, tokens: float) -> float:
    """C = 6 N D: the rule of thumb without attention (Kaplan et al. 2020, section 2.1)."""
    return 6.0 * parameters * tokens


YEAR = 365.25 * 86_400  # seconds
MONTHS = 12  # of a year
TRAINING_BYTES = 16  # per weight: bf16 weight and gradient, fp32 master and two moments of Adam


def accelerator_years(flops: float, speed: float) -> float:
    """Years one accelerator takes for `flops` at a sustained `speed` in FLOP/s; times 12: accelerator-months."""
    return flops / speed / YEAR


@dataclass(frozen=True)
class Memory:
    """Bytes a training step holds at its peak, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum, in bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations


def training_memory(
    config: AnyShape, *, rows: int, context: int, number_bytes: int = 2, optimizer_bytes: int = 12
) -> Memory:
    """Memory of one training step on a CPU, without recomputation.

    Args:
        config: the shape.
        rows: sequences per step that are in memory together.
        context: tokens per sequence.
        number_bytes: size of a weight, gradient or activation (bf16: 2, fp32: 4).
        optimizer_bytes: per parameter; 12 is Adam with float32 moments and a float32 master weight.
    """
    s = describe(config)
    count = count_parameters(s)
    kept = rows * context * (s.layers * kept_per_token(s, context) + 3 * s.width)
    head = s.vocabulary * s.width  # the loss makes the gradient of the head in its forward pass
    return Memory(count * number_bytes, count * number_bytes, count * optimizer_bytes, (kept + head) * number_bytes)


def kept_per_token(config: AnyShape, context: int) -> int:
    """Numbers one layer keeps per token for the backward pass, as `kernels.py` keeps them.

    Two norms keep their result before and after the weight (4 D); attention its q, k, v and result, the normalised
    q and k where it normalises them, and the probabilities of each block of queries over all keys before its end;
    the gated layer both halves, the activated gate and their product, once for every expert a token goes through.
    """
    s = describe(config)
    block = min(QUERY_BLOCK, context)
    heads = (2 * s.heads + 2 * s.key_heads) * s.head_size
    heads += (s.heads + s.key_heads) * s.head_size if s.norm_qk else 0
    scores = s.heads * (context + block) // 2
    hidden = s.active_experts * (s.expert_hidden or s.hidden) if s.routed_layers else s.hidden
    return 4 * s.width + heads + scores + (4 if s.gated else 2) * hidden


def cache_bytes_per_token(config: AnyShape, number_bytes: int = 2) -> int:
    """Bytes of keys and values one token leaves behind when decoding: 2 L K H numbers."""
    s = describe(config)
    return 2 * s.layers * s.key_heads * s.head_size * number_bytes
