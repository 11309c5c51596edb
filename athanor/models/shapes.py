"""Named shapes: the scales of `--scale`, and published models; with their parameters, FLOPs and memory by formula.

Letters in the formulas: D width, L layers, N query heads, K key/value heads, H width of a head, F hidden width,
V vocabulary, P positions, T context.
"""

from dataclasses import dataclass

from athanor.models.kernels import QUERY_BLOCK
from athanor.models.transformer import TransformerConfig


def qwen3(width: int, layers: int, heads: int, kv_heads: int, hidden: int, **more: object) -> TransformerConfig:
    """The shape our own models take: Qwen3's, because it trains stably and every engine knows it."""
    numbers = {"width": width, "layers": layers, "heads": heads, "kv_heads": kv_heads, "hidden": hidden}
    return TransformerConfig(**{"norm_qk": True, "tied": True, **numbers, **more})


def llama(
    width: int,
    layers: int,
    heads: int,
    hidden: int,
    vocabulary: int = 32_000,
    max_positions: int = 2_048,
    **more: object,
) -> TransformerConfig:
    """A LLaMA shape (Touvron et al. 2023, table 2)."""
    numbers = {"width": width, "layers": layers, "heads": heads, "hidden": hidden, "max_positions": max_positions}
    return TransformerConfig(**{"vocabulary": vocabulary, "norm_eps": 1e-5, **numbers, **more})


def gpt2(width: int, layers: int, heads: int) -> TransformerConfig:
    """A GPT-2 shape (Radford et al. 2019, table 2)."""
    return TransformerConfig(
        width=width, layers=layers, heads=heads, hidden=4 * width, vocabulary=50_257, max_positions=1_024, tied=True,
        position="learned", norm="layer", norm_eps=1e-5, mlp="gelu_tanh", bias_qkv=True, bias_out=True, bias_mlp=True,
    )  # fmt: skip


GLM = {"norm": "layer", "norm_eps": 1e-5, "tied": True, "bias_qkv": True, "bias_out": True, "bias_mlp": True}

SHAPES: dict[str, TransformerConfig] = {
    # The scales: nano trains on two CPU cores in minutes, 130b needs a cluster.
    "nano": qwen3(192, 4, 3, 3, 512, vocabulary=4_096, max_positions=256),
    "micro": qwen3(512, 8, 8, 4, 1_408, vocabulary=16_384, max_positions=1_024),
    "small": qwen3(768, 12, 12, 4, 2_048, vocabulary=32_768, max_positions=2_048),
    # The shapes of ChatGLM-6B and GLM-130B (Zeng et al. 2022), run here with one-dimensional positions.
    "6b": TransformerConfig(
        width=4_096, layers=28, heads=32, hidden=16_384, vocabulary=130_528, max_positions=2_048, mlp="gelu_tanh", **GLM
    ),
    "130b": TransformerConfig(
        width=12_288, layers=70, heads=96, hidden=32_768, vocabulary=150_528, max_positions=2_048, mlp="geglu", **GLM
    ),
    "gpt2": gpt2(768, 12, 12),
    "gpt2-medium": gpt2(1_024, 24, 16),
    "gpt2-large": gpt2(1_280, 36, 20),
    "gpt2-xl": gpt2(1_600, 48, 25),
    "llama-7b": llama(4_096, 32, 32, 11_008),
    "llama-13b": llama(5_120, 40, 40, 13_824),
    "llama-33b": llama(6_656, 60, 52, 17_920),
    "llama-65b": llama(8_192, 80, 64, 22_016),
    "llama-2-70b": llama(8_192, 80, 64, 28_672, max_positions=4_096, kv_heads=8),
    "llama-3-8b": llama(4_096, 32, 32, 14_336, 128_256, 8_192, kv_heads=8, rope_base=500_000.0),
    "qwen3-0.6b": qwen3(
        1_024, 28, 16, 8, 3_072, head_width=128, vocabulary=151_936, max_positions=40_960, rope_base=1e6
    ),
    "qwen3-8b": qwen3(
        4_096, 36, 32, 8, 12_288, head_width=128, vocabulary=151_936, max_positions=40_960, rope_base=1e6, tied=False
    ),
}


def count_parameters(config: TransformerConfig) -> int:
    """Learned numbers of a language model of this shape, exactly; a tied head counts once."""
    c = config
    norm = c.width * (2 if c.norm == "layer" else 1)
    outside = 0 if c.vocabulary is None else c.vocabulary * c.width * (1 if c.tied else 2)
    outside += c.max_positions * c.width if c.position == "learned" else 0
    return outside + c.layers * count_block(c) + norm


def count_block(c: TransformerConfig) -> int:
    """Learned numbers of one layer: matrices, biases and norms."""
    qkv, up = (c.heads + 2 * c.key_heads) * c.head_size, c.hidden * (2 if c.gated else 1)
    biases = qkv * c.bias_qkv + c.width * c.bias_out + (up + c.width) * c.bias_mlp
    normed = (4 if c.norm_place == "around" else 2) * c.width + (2 * c.head_size if c.norm_qk else 0)
    return block_products(c) + biases + normed * (2 if c.norm == "layer" else 1)


def block_products(c: TransformerConfig) -> int:
    """Numbers in one layer's matrices: every one is multiplied once per token."""
    attention = c.width * c.head_size * (2 * c.heads + 2 * c.key_heads)
    return attention + c.width * c.hidden * (3 if c.gated else 2)


def flops_per_token(config: TransformerConfig, context: int) -> int:
    """FLOPs to train on one token: 6 M + 12 L N H T.

    M counts the numbers in matrix products, the head's included and looked-up embeddings not. A forward pass is one
    third. As in the source, masked halves of attention are counted. Source: PaLM (Chowdhery et al. 2022), appendix B.
    """
    c = config
    products = c.layers * block_products(c) + (0 if c.vocabulary is None else c.vocabulary * c.width)
    return 6 * products + 12 * c.layers * c.heads * c.head_size * context


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
    config: TransformerConfig, *, rows: int, context: int, number_bytes: int = 2, optimizer_bytes: int = 12
) -> Memory:
    """Memory of one training step on a CPU, without recomputation.

    Args:
        config: the shape.
        rows: sequences per step that are in memory together.
        context: tokens per sequence.
        number_bytes: size of a weight, gradient or activation (bf16: 2, fp32: 4).
        optimizer_bytes: per parameter; 12 is Adam with float32 moments and a float32 master weight.
    """
    count = count_parameters(config)
    kept = rows * context * (config.layers * kept_per_token(config, context) + 3 * config.width)
    head = (config.vocabulary or 0) * config.width  # the loss makes the gradient of the head in its forward pass
    return Memory(count * number_bytes, count * number_bytes, count * optimizer_bytes, (kept + head) * number_bytes)


def kept_per_token(c: TransformerConfig, context: int) -> int:
    """Numbers one layer keeps per token for the backward pass, as `kernels.py` keeps them.

    Two norms keep their result before and after the weight (4 D); attention its q, k, v and result, the normalised
    q and k where it normalises them, and the probabilities of each block of queries over all keys before its end;
    the gated layer both halves, the activated gate and their product.
    """
    block = min(QUERY_BLOCK, context)
    heads = (2 * c.heads + 2 * c.key_heads) * c.head_size
    heads += (c.heads + c.key_heads) * c.head_size if c.norm_qk else 0
    scores = c.heads * (context + block) // 2
    return 4 * c.width + heads + scores + (4 if c.gated else 2) * c.hidden


def cache_bytes_per_token(config: TransformerConfig, number_bytes: int = 2) -> int:
    """Bytes of keys and values one token leaves behind when decoding: 2 L K H numbers."""
    return 2 * config.layers * config.key_heads * config.head_size * number_bytes
