"""What llama.cpp calls a network: its architecture, the keys that describe it, and where each of our tensors goes.

From `src/llama-arch.cpp` (names), `src/llama-model.cpp` and `src/llama-context.cpp` (keys), and `src/models/` (what
each architecture can do). Whatever one would leave out or do otherwise is refused here, or said in `notes_of`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.inference.gguf import Value
from athanor.models.config import TransformerConfig
from athanor.models.families import Family
from athanor.models.rope import RopeScaling, llama3, yarn_attention_factor


@dataclass(frozen=True)
class Layout:
    """An architecture of llama.cpp, as far as our families use it.

    Attributes:
        architecture: `general.architecture`.
        turned: it rotates neighbours where we rotate halves, so that rows of queries and keys change places.
        whole: parts of a block that stay one tensor; else q, k and v, and gate and up, are tensors of their own.
        says: fields of ours that may differ from the family's, beside those of every architecture.
        scalings: the kinds of rope scaling that it computes.
        square: the heads together must be as wide as the network.
        needs_head: a tied head is not read.
        no_head: only a tied head is read.
        fewer_layers: it computes networks of fewer layers only.
        windows: it honours `attention.sliding_window`.
        also: keys that it wants besides, and our fields that say them.
    """

    architecture: str
    turned: bool = False
    whole: tuple[str, ...] = ()
    says: frozenset[str] = frozenset()
    scalings: tuple[str, ...] = ("linear", "yarn")
    square: bool = False
    needs_head: bool = False
    no_head: bool = False
    fewer_layers: int | None = None
    windows: bool = False
    also: Mapping[str, str] = field(default_factory=dict)


EXPERTS = frozenset({"experts", "experts_per_token", "expert_hidden"})
EXPERT_LENGTH = {"expert_feed_forward_length": "expert_size"}
LLAMA = Layout("llama", turned=True, scalings=("linear", "yarn", "llama3"))
CHATGLM = Layout("chatglm", whole=("mlp.up",), square=True, scalings=(), says=frozenset({"bias_qkv"}))
LAYOUTS = {  # family: layout
    "llama": LLAMA,
    "mistral": LLAMA,
    "mixtral": replace(LLAMA, says=EXPERTS),
    "qwen2": Layout("qwen2", square=True),
    "qwen3": Layout("qwen3"),
    "qwen3_moe": Layout("qwen3moe", says=EXPERTS, also=EXPERT_LENGTH),
    "glm4": Layout("glm4", whole=("mlp.up",), says=frozenset({"bias_qkv"})),
    "gpt2": Layout("gpt2", whole=("attention.qkv",), square=True, scalings=()),
    "gpt_neox": Layout(
        "gptneox", whole=("attention.qkv",), square=True, needs_head=True,
        says=frozenset({"rope_share", "parallel", "mlp"}),
    ),
    "bloom": Layout("bloom", whole=("attention.qkv",), square=True, scalings=()),
    "cohere": Layout(  # from 64 layers on it wants norms of queries and keys, which Command-R+ has and we have not
        "command-r", square=True, no_head=True, scalings=("linear",), says=frozenset({"logit_scale"}), fewer_layers=64,
        also={"logit_scale": "logit_scale"},
    ),
    "glm": CHATGLM,
    "chatglm2": CHATGLM,
}  # fmt: skip
# llama.cpp reads no window for any of these families, but two of its other architectures compute networks like theirs
# and do. mimo2: dense layers, no biases, one base for all rotations; mellum: experts, normalised queries and keys.
WITH_WINDOWS = {
    "mistral": Layout("mimo2", scalings=(), needs_head=True, windows=True,
                      also={"rope.freq_base_swa": "rope_base", "expert_feed_forward_length": "hidden"}),
    "qwen3_moe": Layout("mellum", scalings=(), needs_head=True, windows=True, says=EXPERTS, also=EXPERT_LENGTH),
}  # fmt: skip
SETTINGS = {  # key after the architecture's name: our field
    "context_length": "max_positions", "embedding_length": "width", "block_count": "layers",
    "feed_forward_length": "hidden", "vocab_size": "vocabulary", "attention.head_count": "heads",
    "attention.head_count_kv": "key_heads", "attention.key_length": "head_size", "attention.value_length": "head_size",
}  # fmt: skip
EPSILON = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}
SAID = frozenset({  # fields of ours that every file says, or that change nothing in it
    "width", "layers", "heads", "hidden", "max_positions", "vocabulary", "tied", "kv_heads", "head_width", "norm_eps",
    "rope_base", "rope_scaling", "window", "window_layers",
})  # fmt: skip
NAMES = {  # ours, within a block or outside of them: llama.cpp's, one for each of the equal parts it is cut into
    "tokens": ("token_embd",), "positions": ("position_embd",), "trunk.norm": ("output_norm",), "head": ("output",),
    "attention_norm": ("attn_norm",), "attention_norm_out": ("post_attention_norm",),
    "embedding_norm": ("token_embd_norm",),
    "attention.qkv": ("attn_q", "attn_k", "attn_v"), "attention.out": ("attn_output",),
    "attention.q_norm": ("attn_q_norm",), "attention.k_norm": ("attn_k_norm",),
    "mlp_norm": ("ffn_norm",), "mlp_norm_out": ("post_ffw_norm",),
    "mlp.up": ("ffn_gate", "ffn_up"), "mlp.down": ("ffn_down",), "mlp.router": ("ffn_gate_inp",),
    "mlp.experts.up": ("ffn_gate_exps", "ffn_up_exps"), "mlp.experts.down": ("ffn_down_exps",),
}  # fmt: skip
WHOLE_NAMES = {"attention.qkv": "attn_qkv", "mlp.up": "ffn_up"}
BETA_FAST, BETA_SLOW = 32.0, 1.0  # what llama.cpp takes, whatever the file says


# ------------------------------------------------------------------------------------------------------- the network


def sees_less(config: TransformerConfig) -> bool:
    """Whether a window is narrower than the longest text."""
    return config.window is not None and config.window < config.max_positions


def layout_of(family: Family, config: TransformerConfig) -> Layout:
    """The architecture that computes this network; with a window, first the one that reads it.

    Raises:
        AthanorError: llama.cpp has none, or it would compute something else.
    """
    if family.name not in LAYOUTS:
        raise AthanorError(
            f"{family.name} models cannot be exported as GGUF: no architecture of llama.cpp is known to compute them",
            allowed=", ".join(LAYOUTS), fix="athanor export --to hf",
        )  # fmt: skip
    layout = WITH_WINDOWS.get(family.name)
    if layout and sees_less(config) and not problem_of(layout, family, config):
        return layout
    layout = LAYOUTS[family.name]
    problem = problem_of(layout, family, config)
    if problem:
        what, allowed = problem
        raise AthanorError(f"the GGUF architecture {layout.architecture} cannot say {what}", allowed=allowed,
                           fix="athanor export --to hf")  # fmt: skip
    return layout


def problem_of(layout: Layout, family: Family, config: TransformerConfig) -> tuple[str, str] | None:
    """What of a network an architecture would leave out or compute otherwise, and what it can do."""
    plain = {one.name: one.default for one in fields(config)} | dict(family.fixed)
    complete = config.complete()
    for name, value in plain.items():
        if name not in SAID | layout.says and getattr(complete, name) != value:
            return f"{name}={getattr(complete, name)!r}", f"{name}={value!r}"
    if layout.square and config.heads * config.head_size != config.width:
        return f"heads of width {config.head_size}", f"{config.width // config.heads}"
    if layout.needs_head and config.tied:
        return "tied=True", "a head of its own"
    if layout.no_head and not config.tied:
        return "tied=False", "a tied head"
    if layout.fewer_layers is not None and config.layers >= layout.fewer_layers:
        return f"layers={config.layers}", f"fewer than {layout.fewer_layers}"
    if config.mlp not in ("swiglu", "gelu_tanh", "gelu"):
        return f"mlp={config.mlp!r}", "'gelu_tanh' or 'gelu'"
    return scaling_problem(layout, config.rope_scaling)


def scaling_problem(layout: Layout, scaling: RopeScaling | None) -> tuple[str, str] | None:
    """The same for rope scaling: dynamic is known nowhere, Llama 3's and YaRN's numbers in part."""
    if scaling is None:
        return None
    if scaling.kind not in layout.scalings:
        return f"rope scaling of kind {scaling.kind!r}", ", ".join(layout.scalings) or "no scaling"
    if scaling.kind == "yarn":
        told = {"beta_fast": BETA_FAST, "beta_slow": BETA_SLOW, "whole_bounds": True}
        for name, value in told.items():
            if getattr(scaling, name) != value:
                return f"yarn with {name}={getattr(scaling, name)!r}", f"{name}={value!r}"
    return None


def network_values(layout: Layout, config: TransformerConfig) -> dict[str, Value]:
    """The keys that describe a network, each without the architecture's name before it."""
    values: dict[str, Any] = {key: getattr(config, name) for key, name in SETTINGS.items()}
    values["context_length"] = context_length(layout, config)
    values[EPSILON[config.norm]] = config.norm_eps
    if config.position == "rope":
        values |= {"rope.dimension_count": config.rotated, "rope.freq_base": config.rope_base}
        values |= scaling_values(config.rope_scaling)
    if config.experts is not None:
        values |= {"expert_count": config.experts, "expert_used_count": config.experts_per_token}
    if "parallel" in layout.says:
        values["use_parallel_residual"] = config.parallel
    if layout.windows:
        values["attention.sliding_window"] = config.window
        values["attention.sliding_window_pattern"] = [config.windowed(layer) for layer in range(config.layers)]
    return values | {key: getattr(config, name) for key, name in layout.also.items()}


def default_values(config: TransformerConfig) -> dict[str, Value]:
    """What llama.cpp takes for keys that a file may leave out, as those of its own tools sometimes do."""
    size = config.width // config.heads
    return {
        "vocab_size": config.vocabulary or 0, "attention.head_count_kv": config.heads, "attention.key_length": size,
        "attention.value_length": size, "rope.dimension_count": config.head_size, "rope.freq_base": 10_000.0,
        "rope.scaling.attn_factor": 1.0,
    }  # fmt: skip


def scaling_values(scaling: RopeScaling | None) -> dict[str, Value]:
    """The keys of rope scaling; that of Llama 3 is a tensor instead.

    YaRN: llama.cpp multiplies cosine and sine by 0.1 ln s + 1 (section 3.4) whatever the file says, and then by
    `attn_factor`, which is therefore what is left of our attention factor.
    """
    if scaling is None or scaling.kind == "llama3":
        return {}
    values: dict[str, Value] = {"rope.scaling.type": scaling.kind, "rope.scaling.factor": float(scaling.factor)}
    if scaling.kind == "yarn":
        assert scaling.original_positions is not None and scaling.attention_factor is not None
        values["rope.scaling.original_context_length"] = scaling.original_positions
        values["rope.scaling.attn_factor"] = scaling.attention_factor / yarn_attention_factor(scaling.factor)
    return values


def context_length(layout: Layout, config: TransformerConfig) -> int:
    """The longest text for which llama.cpp computes what we compute."""
    assert config.window is not None or not sees_less(config)
    return config.window if sees_less(config) and not layout.windows else config.max_positions


def notes_of(layout: Layout, config: TransformerConfig) -> list[str]:
    """What a user of the file must know: where it says less than the model can, or llama.cpp computes otherwise."""
    notes = []
    if layout.windows:
        notes.append(
            f"written as {layout.architecture}, the architecture of llama.cpp that computes this network with its "
            f"window of {config.window} positions; older versions of llama.cpp may not know it"
        )
    if context_length(layout, config) < config.max_positions:
        notes.append(
            f"context length {config.window} instead of {config.max_positions}: beyond its window of {config.window} "
            f"positions the model looks at the last ones only, which the architecture {layout.architecture} ignores"
        )
    if config.mlp == "gelu":
        notes.append("llama.cpp computes GELU by its tanh approximation; each activation differs by up to 0.0005")
    return notes


# ------------------------------------------------------------------------------------------------------- the tensors


@dataclass(frozen=True)
class Part:
    """A tensor of the file: some rows of one of ours, or the same rows of every expert's, stacked.

    Attributes:
        ours: our name, or those of each expert's.
        start, stop: rows.
        shape: in the file.
        heads: how many heads of rows are turned; None: the rows stay in order.
    """

    ours: tuple[str, ...]
    start: int
    stop: int
    shape: tuple[int, ...]
    heads: int | None = None

    @property
    def stacked(self) -> bool:
        """Whether it holds one matrix per expert."""
        return len(self.shape) == 3


def parts_of(layout: Layout, config: TransformerConfig, ours: Mapping[str, Tensor]) -> dict[str, Part]:
    """Every tensor of the file that holds numbers of ours: llama.cpp's name and the place; each of ours is in some."""
    parts: dict[str, Part] = {}
    for name, weight in ours.items():
        place, inner, last, expert = dissect(name)
        theirs = names_of(layout, config, inner)
        heights = qkv_heights(config) if len(theirs) == 3 else [weight.shape[0] // len(theirs)] * len(theirs)
        start = 0
        for their_name, height in zip(theirs, heights, strict=True):
            full = f"{place}{their_name}.{last}"
            shape = (height, *weight.shape[1:])
            before = parts[full].ours if full in parts else ()
            if expert is not None:
                shape = (config.experts or 0, *shape)
            parts[full] = Part((*before, name), start, start + height, shape, turned_heads(layout, config, their_name))
            start += height
        assert start == weight.shape[0], f"{name} is not used up"
    return parts


def dissect(name: str) -> tuple[str, str, str, int | None]:
    """trunk.blocks.3.mlp.experts.5.up.weight is ('blk.3.', 'mlp.experts.up', 'weight', 5)."""
    stem, _, last = name.rpartition(".")
    if not stem.startswith("trunk.blocks."):
        return "", stem, last, None
    layer, _, inner = stem.removeprefix("trunk.blocks.").partition(".")
    words = inner.split(".")
    expert = next((int(word) for word in words if word.isdigit()), None)
    return f"blk.{layer}.", ".".join(word for word in words if not word.isdigit()), last, expert


def names_of(layout: Layout, config: TransformerConfig, inner: str) -> tuple[str, ...]:
    """llama.cpp's names of the parts of one of our tensors."""
    if inner in layout.whole or (inner == "mlp.up" and not config.gated):
        return (WHOLE_NAMES[inner],)
    return NAMES[inner]


def qkv_heights(config: TransformerConfig) -> list[int]:
    """Rows of queries, keys and values."""
    return [heads * config.head_size for heads in (config.heads, config.key_heads, config.key_heads)]


def turned_heads(layout: Layout, config: TransformerConfig, their_name: str) -> int | None:
    """How many heads of a tensor are turned."""
    return {"attn_q": config.heads, "attn_k": config.key_heads}.get(their_name) if layout.turned else None


def turned(weight: Tensor, heads: int | None) -> Tensor:
    """Rows of each head from halves (r0 r1 … i0 i1 …) to neighbours (r0 i0 r1 i1 …)."""
    return weight if heads is None else weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def unturned(weight: Tensor, heads: int | None) -> Tensor:
    """The reverse of `turned`."""
    return weight if heads is None else weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def fixed_tensors(config: TransformerConfig) -> dict[str, Tensor]:
    """Tensors that hold nothing learned: what llama.cpp divides each frequency by, for the scaling of Llama 3."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return {}
    pair = torch.arange(0, config.rotated, 2, dtype=torch.float32)
    frequency = config.rope_base ** (-pair / config.rotated)
    return {"rope_freqs.weight": frequency / llama3(scaling, frequency, config)}
