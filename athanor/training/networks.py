"""The network that each objective of pretraining teaches, from the same few numbers: which family, and why.

next_token: Qwen3's; masked: BERT's; permutation: XLNet's; span_corruption: T5's; blank_infilling: ChatGLM-6B's. All are
saved under their family's names, so that `transformers` and others read them.
"""

import math
from contextlib import nullcontext
from typing import Annotated, Any, Literal, get_args

import pydantic
from torch import nn

from athanor.base.errors import AthanorError
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.models.masked import EncoderConfig, TextEncoder
from athanor.models.outline import outline
from athanor.models.permuted import PermutedConfig, PermutedLanguageModel
from athanor.models.seq2seq import EncoderDecoder, EncoderDecoderConfig
from athanor.training.objectives.next_token import NextTokenSettings
from athanor.training.setup import DtypeName

ObjectiveName = Literal["next_token", "masked", "permutation", "span_corruption", "blank_infilling"]
ONLY_FOR: dict[str, tuple[ObjectiveName, ...]] = {  # settings that have a meaning for some objectives alone
    "share": ("masked", "span_corruption", "blank_infilling"),
    "whole_words": ("masked",),
    "mean_span": ("span_corruption", "blank_infilling"),
    "long_blanks": ("blank_infilling",),
    "guess_one_in": ("permutation",),
    "max_positions": ("next_token", "masked", "blank_infilling"),
    **dict.fromkeys(("kv_heads", "experts", "experts_per_token", "expert_hidden", "balance"), ("next_token",)),
    **dict.fromkeys(("fused_loss", "document_mask"), ("next_token",)),
    "prompts": ("next_token", "blank_infilling"),
    **dict.fromkeys(("recompute", "compile"), ("next_token", "masked", "span_corruption", "blank_infilling")),
}
DIVIDING = ("fsdp2", "tensor")  # engines whose processes hold a part of every matrix
SIDED = ("permutation", "span_corruption")  # networks that are no single Transformer over a row
BESIDE: dict[ObjectiveName, tuple[ObjectiveName, ...]] = {  # whose network can be read the other way, too
    "blank_infilling": ("next_token",),
}


class PretrainSettings(NextTokenSettings):
    """What is learnt, the shape of the network, and how it is trained."""

    objective: ObjectiveName = "next_token"
    """What is to be guessed, which decides the family of the network, too."""
    share: float | None = pydantic.Field(default=None, gt=0, lt=1)
    """Share of a row's tokens that is hidden; unset: 0.15."""
    whole_words: bool = False
    """Hide all tokens of a word together."""
    mean_span: float | None = pydantic.Field(default=None, ge=1)
    """Mean length of the spans that are hidden; unset: 3."""
    long_blanks: float | None = pydantic.Field(default=None, ge=0, le=1)
    """Share of the rows that lose their second half or more, [gMASK], not short spans, [MASK]; unset: 0.5."""
    guess_one_in: int | None = pydantic.Field(default=None, ge=2)
    """One word in so many is guessed, the last ones of its order; unset: 6."""
    beside: dict[ObjectiveName, Annotated[float, pydantic.Field(gt=0)]] = pydantic.Field(default_factory=dict)
    """Further objectives that the same network learns on the same rows, and what each counts beside the first, which
    counts 1: {next_token: 1} with blank_infilling (GLM, Du et al. 2022, section 2.2: multi-task pretraining)."""
    compare_every: int | None = pydantic.Field(default=None, ge=1)
    """Steps between two comparisons of the objectives' gradients; unset: none."""
    layers: int = pydantic.Field(ge=1)
    """Of an encoder-decoder: on either side."""
    width: int = pydantic.Field(ge=16)
    heads: int = pydantic.Field(ge=1)
    kv_heads: int | None = pydantic.Field(default=None, ge=1)
    """Key/value heads; unset: as many as heads."""
    hidden: int = pydantic.Field(ge=16)
    """Hidden width of the feed-forward layers."""
    context: int = pydantic.Field(ge=16)
    """Tokens per training row."""
    max_positions: int | None = pydantic.Field(default=None, ge=16)
    """Longest row the model may be asked for; unset: the longest it is trained on."""
    experts: int | None = pydantic.Field(default=None, ge=2)
    """Feed-forward layers per block, of which each token goes through some; unset: one for all tokens."""
    experts_per_token: int | None = pydantic.Field(default=None, ge=1)
    expert_hidden: int | None = pydantic.Field(default=None, ge=8)
    """Hidden width of an expert; unset: `hidden`."""
    balance: float | None = pydantic.Field(default=None, ge=0)
    """Share of the loss that keeps experts evenly used; unset: 0.01 with experts."""
    dtype: DtypeName = "float32"
    """Number type of weights and activations; the optimiser keeps fp32 copies."""

    @pydantic.model_validator(mode="after")
    def _fits_the_objective(self) -> "PretrainSettings":
        for name, objectives in ONLY_FOR.items():
            unset = type(self).model_fields[name].default
            if getattr(self, name) != unset and self.objective not in objectives:
                raise ValueError(
                    f"{name}={getattr(self, name)} has no meaning with objective: {self.objective}; "
                    f"leave it out, or choose {' or '.join(objectives)}"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _divides(self) -> "PretrainSettings":
        for name in ("heads", "kv_heads", "hidden", "expert_hidden"):
            number = getattr(self, name)
            if self.engine == "tensor" and number is not None and number % self.processes:
                raise ValueError(
                    f"engine=tensor cannot divide {name}={number} among processes={self.processes}: "
                    "choose a number that does, or engine=fsdp2"
                )
        if self.engine == "context" and (self.experts is not None or self.objective in SIDED):
            what = "experts" if self.experts is not None else f"objective: {self.objective}"
            raise ValueError(f"engine=context cannot divide rows with {what}: use engine=ddp or fsdp2")
        return self

    @pydantic.model_validator(mode="after")
    def _learns_together(self) -> "PretrainSettings":
        for other in self.beside:
            if other not in BESIDE.get(self.objective, ()):
                known = "; ".join(f"{one}: beside {', '.join(others)}" for one, others in BESIDE.items())
                raise ValueError(
                    f"beside: the network of {self.objective} cannot learn {other}, too; allowed is {known}"
                )
        if self.compare_every is not None and not self.beside:
            raise ValueError("compare_every compares the gradients of several objectives: name one in `beside`")
        return self


def network(settings: PretrainSettings, vocabulary: int) -> TransformerConfig:
    """The trunk that these settings describe; of an encoder-decoder its encoder's.

    Raises:
        AthanorError: the numbers cannot form a network, such as experts without experts_per_token.
    """
    try:
        return TransformerConfig(
            width=settings.width, layers=settings.layers, heads=settings.heads, hidden=settings.hidden,
            **OWN[settings.objective](settings, vocabulary),
        )  # fmt: skip
    except ValueError as problem:
        raise AthanorError(f"pretrain: {problem}") from problem


def build(settings: PretrainSettings, vocabulary: int) -> Any:
    """The network itself, with fresh weights; engines that divide matrices make them (`models/outline.py`).

    Raises:
        AthanorError: see `network`.
    """
    return unfilled(settings, vocabulary).initialise(settings.seed)


def unfilled(settings: PretrainSettings, vocabulary: int) -> Any:
    """The network before its weights are drawn."""
    trunk = network(settings, vocabulary)
    model: nn.Module
    if settings.objective == "masked":
        model = TextEncoder(EncoderConfig(trunk=trunk))
    elif settings.objective == "permutation":
        model = PermutedLanguageModel(PermutedConfig(trunk=trunk))
    elif settings.objective == "span_corruption":
        # The head reads what the decoder makes as it is (T5 v1.1): scaled as in T5, small weights learn slowly.
        model = EncoderDecoder(EncoderDecoderConfig(encoder=trunk, vocabulary=vocabulary, tied=True, scale_head=False))
    else:
        with outline() if settings.engine in DIVIDING else nullcontext():
            model = LanguageModel(trunk)
    return model


LAYER_NORM = {"norm": "layer", "bias_qkv": True, "bias_out": True, "bias_mlp": True}


def _qwen3(s: PretrainSettings, vocabulary: int) -> dict[str, Any]:
    """RoPE, RMSNorm, SwiGLU, QK norm, tied embeddings."""
    return {
        "kv_heads": s.kv_heads, "max_positions": s.max_positions or s.context, "vocabulary": vocabulary, "tied": True,
        "norm_qk": True, "experts": s.experts, "experts_per_token": s.experts_per_token,
        "expert_hidden": s.expert_hidden,
    }  # fmt: skip


def _bert(s: PretrainSettings, vocabulary: int) -> dict[str, Any]:
    return {
        "causal": False, "position": "learned", "max_positions": s.max_positions or s.context, "mlp": "gelu",
        "vocabulary": vocabulary, "norm_place": "after", "norm_eps": 1e-12, **LAYER_NORM,
    }  # fmt: skip


def _xlnet(s: PretrainSettings, vocabulary: int) -> dict[str, Any]:
    return {
        "causal": False, "position": "none", "max_positions": 1_000_000, "mlp": "gelu", "vocabulary": vocabulary,
        "norm": "layer", "norm_place": "after", "norm_eps": 1e-12, "bias_mlp": True, "tied": True,
    }  # fmt: skip


def _t5(s: PretrainSettings, vocabulary: int) -> dict[str, Any]:
    """T5 v1.1's, with the embedding shared by the head; the vocabulary belongs to both trunks."""
    return {
        "causal": False, "position": "buckets", "buckets": 32, "farthest": 128, "max_positions": 512, "mlp": "geglu",
        "attention_scale": 1.0,
    }  # fmt: skip


def _chatglm(s: PretrainSettings, vocabulary: int) -> dict[str, Any]:
    """Two positions for each token, rotated, and DeepNorm as GLM-130B has it."""
    from athanor.training.objectives.blank_infilling import SHARE, longest_row

    longest = longest_row(s.context, s.share or SHARE)
    if s.max_positions is not None and s.max_positions < longest:
        raise ValueError(
            f"max_positions={s.max_positions}: blanks make rows of up to {longest} tokens out of {s.context}"
        )
    return {
        "prefix": True, "position_axes": 2, "max_positions": s.max_positions or longest, "vocabulary": vocabulary,
        "tied": True, "mlp": "gelu_tanh", "norm_place": "residual", "norm_eps": 1e-5,
        "residual_scale": math.sqrt(2 * s.layers), **LAYER_NORM,
    }  # fmt: skip


OWN = dict(zip(get_args(ObjectiveName), (_qwen3, _bert, _xlnet, _t5, _chatglm), strict=True))
