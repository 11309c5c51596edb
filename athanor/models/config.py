"""The whole description of a network: one flat, frozen record that every family's settings translate to."""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args, get_origin, get_type_hints

from athanor.models.rope import RopeScaling


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
    causal: bool = True  # a position attends to itself and those before it; False: to all of its document
    prefix: bool = False  # reads what it is given in both directions and writes from left to right (GLM); see `glm.py`
    cross: bool = False  # every layer also attends to a memory, such as what an encoder made (T5, Whisper)
    position: Literal["rope", "learned", "buckets", "alibi", "none"] = "rope"
    position_axes: int = 1  # numbers that say where a token stands (ChatGLM-6B: 2, its place and its place in a span)
    buckets: int | None = None  # position="buckets": how many classes of distance have a score of their own (T5)
    farthest: int | None = None  # position="buckets": distances from here on share one class
    position_offset: int = 0  # learned positions: rows of the table before that of position 0 (OPT: 2)
    rope_base: float = 10_000.0
    rope_share: float = 1.0  # part of each head that is rotated (GLM: 0.5)
    rope_pairs: Literal["halves", "neighbours"] = "halves"  # which two numbers of a head are rotated together
    rope_scaling: RopeScaling | None = None  # how rotations reach beyond the context of pretraining
    window: int | None = None  # keys a query sees, itself included (Mistral); None: all before it
    window_layers: tuple[int, ...] | None = None  # layers that look through the window; None: all
    norm: Literal["rms", "layer"] = "rms"
    # around: GLM-4; after: GPT-1, normalises the sum; residual: GLM-130B, the normalised input is what is added to
    norm_place: Literal["before", "around", "after", "residual"] = "before"
    norm_eps: float = 1e-6
    norm_bias: bool = True  # layer norms add a number (PaLM: they do not)
    residual_scale: float = 1.0  # what the stream is multiplied by before a layer adds to it (DeepNorm's alpha)
    norm_qk: bool = False  # Qwen3 normalises queries and keys, head by head
    parallel: bool = False  # attention and feed-forward read the same stream (GPT-J, PaLM, GPT-NeoX)
    shared_norm: bool = False  # parallel, and both read it through one norm (GPT-J, PaLM)
    mlp: Literal["swiglu", "geglu", "geglu_exact", "gelu_tanh", "gelu", "quick_gelu", "relu"] = "swiglu"
    experts: int | None = None  # feed-forward layers per block to choose from; None: one, and no choice
    experts_per_token: int | None = None  # how many each token is sent to
    expert_hidden: int | None = None  # hidden width of an expert; None: `hidden`
    expert_layers: tuple[int, ...] | None = None  # layers that have experts; None: all
    router_normal: bool = True  # the weights of a token's chosen experts are made to sum to 1
    bias_qkv: bool = False
    bias_out: bool = False
    bias_mlp: bool = False
    bias_head: bool = False  # GPT-J adds a number to each token's score
    attention_scale: float | None = None  # what scores of attention are multiplied by; None: 1 / sqrt(head width)
    embedding_norm: bool = False  # embeddings are normalised before the first layer (BLOOM)
    silent_ids: int = 0  # last ids of the vocabulary that the head has no score for (ImageGPT: 1, its start token)
    logit_scale: float = 1.0  # what the scores of ids are multiplied by (Cohere)

    def __post_init__(self) -> None:
        for name in COUNTS:
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name}={number}: must be at least 1, or None for not set")
            if number is not None and name in ("layers", "experts") and number > MOST_MODULES:
                raise ValueError(f"{name}={number}: must be at most {MOST_MODULES:,}")
        if not 0 <= self.norm_eps < math.inf or not 0 < self.rope_base < math.inf:
            raise ValueError(f"norm_eps={self.norm_eps}, rope_base={self.rope_base}: must be numbers above 0")
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(get_args(hint))}")
        if self.head_width is None and self.width % self.heads:
            raise ValueError(f"width={self.width} is not a multiple of heads={self.heads}")
        if self.heads % self.key_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        if self.tied and self.vocabulary is None:
            raise ValueError("tied=True ties the head to the token embedding, but vocabulary is not set")
        if self.shared_norm and not self.parallel:
            raise ValueError("shared_norm=True has no meaning without parallel=True")
        if self.bias_head and (self.tied or self.vocabulary is None):
            raise ValueError("bias_head=True needs a head of its own: a vocabulary, and tied=False")
        if self.silent_ids and (self.tied or not 0 < self.silent_ids < (self.vocabulary or 0)):
            raise ValueError(f"silent_ids={self.silent_ids} needs a head of its own, and fewer than {self.vocabulary}")
        if self.logit_scale != 1.0 and self.bias_head:
            raise ValueError("logit_scale with bias_head: whether the bias is scaled too is not defined")
        if not self.norm_bias and self.norm != "layer":
            raise ValueError("norm_bias=False has no meaning: only norm='layer' could have a bias")
        if self.residual_scale != 1.0 and self.norm_place not in ("after", "residual"):
            raise ValueError(f"residual_scale needs norm_place 'after' or 'residual', not {self.norm_place!r}")
        if self.parallel and (self.norm_place != "before" or self.cross):
            raise ValueError(
                f"parallel=True with norm_place={self.norm_place!r}, cross={self.cross}: 'before' and False"
            )
        if self.cross and self.norm_place not in ("before", "after"):
            raise ValueError(f"cross=True with norm_place={self.norm_place!r}: must be 'before' or 'after'")
        if self.prefix and (not self.causal or self.window is not None):
            raise ValueError("prefix=True needs causal=True and no window")
        if not self.causal and (self.window is not None or self.position == "alibi"):
            raise ValueError("causal=False: windows and position='alibi' are for causal networks")
        self._check_positions()
        self._check_layers("window", self.window_layers)
        self._check_layers("experts", self.expert_layers)
        self._check_experts()

    def _check_positions(self) -> None:
        axes = self.position_axes
        if axes not in (1, 2) or (axes == 2 and self.position not in ("rope", "learned")):
            raise ValueError(f"position_axes={axes} with position={self.position!r}: 1, or 2 for rope and learned")
        if axes == 2 and (self.rope_share != 1.0 or self.rope_scaling is not None):
            raise ValueError("position_axes=2 rotates each half of a head whole: no rope_share, no rope_scaling")
        if self.position == "rope" and (self.rotated < 2 * axes or self.rotated % (2 * axes)):
            raise ValueError(f"rope rotates pairs, but {self.rotated} numbers of each head are to be rotated")
        if (self.position == "buckets") != (self.buckets is not None and self.farthest is not None):
            raise ValueError("buckets and farthest are set for position='buckets', and for no other")
        if self.position_offset < 0 or (self.position_offset and self.position != "learned"):
            raise ValueError(f"position_offset={self.position_offset}: at least 0, and only for learned positions")
        if self.rope_scaling is not None and self.position != "rope":
            raise ValueError(f"rope_scaling is set, but position={self.position!r} rotates nothing")
        if self.rope_scaling is not None and self.rope_scaling.kind == "dynamic" and self.rotated < 4:
            raise ValueError("dynamic rope scaling needs at least two pairs to rotate")

    def _check_layers(self, name: str, layers: tuple[int, ...] | None) -> None:
        if layers is None:
            return
        if getattr(self, name) is None:
            raise ValueError(f"layers {layers} are named for `{name}`, which is not set")
        if not layers or list(layers) != sorted({layer for layer in layers if 0 <= layer < self.layers}):
            raise ValueError(f"layers {layers} for `{name}`: name some of 0 to {self.layers - 1}, in order")

    def _check_experts(self) -> None:
        if (self.experts is None) != (self.experts_per_token is None):
            raise ValueError("experts and experts_per_token are set together, or neither")
        if self.experts is None and (self.expert_hidden is not None or not self.router_normal):
            raise ValueError("expert_hidden and router_normal have no meaning without experts")
        if self.experts is not None and self.experts_per_token is not None and self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token={self.experts_per_token} is more than experts={self.experts}")

    @property
    def key_heads(self) -> int:
        """Number of key/value heads (K)."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_size(self) -> int:
        """Width of one head (H)."""
        return self.width // self.heads if self.head_width is None else self.head_width

    @property
    def score_scale(self) -> float:
        """What scores of attention are multiplied by."""
        return self.head_size**-0.5 if self.attention_scale is None else self.attention_scale

    @property
    def rotated(self) -> int:
        """How many numbers of each head are rotated (2R)."""
        return int(self.head_size * self.rope_share)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer multiplies two products of its input."""
        return self.mlp in ("swiglu", "geglu", "geglu_exact")

    @property
    def expert_size(self) -> int:
        """Hidden width of one expert."""
        return self.hidden if self.expert_hidden is None else self.expert_hidden

    @property
    def longest(self) -> int:
        """Most positions a row may have: dynamic scaling goes `factor` times beyond `max_positions`."""
        dynamic = self.rope_scaling is not None and self.rope_scaling.kind == "dynamic"
        return int(self.max_positions * self.rope_scaling.factor) if dynamic else self.max_positions

    def windowed(self, layer: int) -> bool:
        """Whether this layer sees a window only."""
        return self.window is not None and (self.window_layers is None or layer in self.window_layers)

    def routed(self, layer: int) -> bool:
        """Whether this layer has experts."""
        return self.experts is not None and (self.expert_layers is None or layer in self.expert_layers)

    def complete(self) -> "TransformerConfig":
        """The same network with every number that follows from others written out, and in one way only."""
        every = tuple(range(self.layers))
        return replace(
            self,
            kv_heads=self.key_heads,
            head_width=self.head_size,
            window_layers=None if self.window_layers == every else self.window_layers,
            expert_hidden=None if self.experts is None else self.expert_size,
            expert_layers=None if self.expert_layers == every else self.expert_layers,
        )


MOST_MODULES = 10_000  # ten times the deepest network published; a stranger's config may name any number
COUNTS = (
    "width", "layers", "heads", "hidden", "max_positions", "vocabulary", "kv_heads", "head_width", "window", "experts",
    "experts_per_token", "expert_hidden", "buckets", "farthest",
)  # fmt: skip
