"""Tiny checkpoints with a tokenizer of their own, for the tests of GGUF files."""

import math
from pathlib import Path

import torch

from athanor.inference.equivalence import TEXTS
from athanor.models.config import TransformerConfig
from athanor.models.convert import save_checkpoint
from athanor.models.language import LanguageModel
from athanor.models.rope import RopeScaling
from athanor.tokens.template import jinja_source
from athanor.tokens.tokenizer import DOCUMENT, END, Tokenizer

SHAPE = {"width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 96, "max_positions": 256, "norm_eps": 1e-6}
LAYER_NORM = {"norm": "layer", "bias_qkv": True, "bias_out": True, "bias_mlp": True, "norm_eps": 0.01, "kv_heads": None}
MIXTURE = {"experts": 4, "experts_per_token": 2}
YARN = {
    "kind": "yarn", "factor": 4.0, "original_positions": 64, "beta_fast": 32.0, "beta_slow": 1.0, "whole_bounds": True,
}  # fmt: skip
SHAPES = {  # every shape of network that a GGUF file can hold
    "llama": {"tied": False},
    "llama-tied": {"tied": True, "rope_base": 500_000.0},
    "qwen2": {"bias_qkv": True},
    "qwen3": {"norm_qk": True, "tied": True},
    "qwen3-wide-heads": {"norm_qk": True, "head_width": 32},
    "linear-scaling": {"rope_scaling": RopeScaling(kind="linear", factor=2.5)},
    "yarn-scaling": {"rope_scaling": RopeScaling(attention_factor=0.1 * math.log(4.0) + 1, **YARN)},
    "yarn-other-attention": {
        "norm_qk": True, "head_width": 64, "rope_scaling": RopeScaling(attention_factor=1.4, **YARN),
    },
    "llama3-scaling": {
        "rope_base": 500_000.0,
        "rope_scaling": RopeScaling(
            kind="llama3", factor=8.0, original_positions=64, low_factor=1.0, high_factor=4.0
        ),
    },
    "mistral-window": {"window": 24},
    "qwen2-window": {"window": 48, "window_layers": (1,), "bias_qkv": True},
    "mixtral": {**MIXTURE},
    "mixtral-window": {**MIXTURE, "window": 48, "tied": True},
    "qwen3-moe": {**MIXTURE, "norm_qk": True, "expert_hidden": 64, "head_width": 32, "experts": 6},
    "qwen3-moe-window": {**MIXTURE, "norm_qk": True, "expert_hidden": 64, "window": 24},
    "gpt2": {**LAYER_NORM, "position": "learned", "mlp": "gelu_tanh", "tied": True},
    "gpt-neox": {**LAYER_NORM, "parallel": True, "mlp": "gelu_tanh", "rope_share": 0.5},
    "gpt-neox-in-turn": {**LAYER_NORM, "mlp": "gelu_tanh", "rope_share": 0.25},
    "gpt-neox-exact-gelu": {**LAYER_NORM, "parallel": True, "mlp": "gelu", "rope_share": 0.5},
    "gpt-neox-linear": {
        **LAYER_NORM, "parallel": True, "mlp": "gelu_tanh", "rope_share": 0.5,
        "rope_scaling": RopeScaling(kind="linear", factor=2.5),
    },
    "glm4-yarn": {
        "rope_share": 0.5, "rope_pairs": "neighbours", "norm_place": "around", "head_width": 64,
        "rope_scaling": RopeScaling(attention_factor=1.4, **YARN),
    },
    "qwen2-linear": {"bias_qkv": True, "rope_scaling": RopeScaling(kind="linear", factor=2.5)},
    "mixtral-llama3": {
        **MIXTURE,
        "rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_positions=64, low_factor=1.0, high_factor=4.0),
    },
    "bloom": {
        **LAYER_NORM, "position": "alibi", "embedding_norm": True, "mlp": "gelu_tanh", "tied": True, "width": 96,
        "heads": 6, "hidden": 384,
    },
    "cohere": {
        "rope_pairs": "neighbours", "parallel": True, "shared_norm": True, "norm": "layer", "norm_bias": False,
        "tied": True, "logit_scale": 0.0625,
    },
    "cohere-linear": {
        "rope_pairs": "neighbours", "parallel": True, "shared_norm": True, "norm": "layer", "norm_bias": False,
        "tied": True, "logit_scale": 0.25, "rope_scaling": RopeScaling(kind="linear", factor=2.5),
    },
    "chatglm": {"bias_qkv": True, "rope_share": 0.5, "rope_pairs": "neighbours", "rope_base": 50_000.0},
    "glm4": {"bias_qkv": True, "rope_share": 0.5, "rope_pairs": "neighbours", "norm_place": "around"},
}  # fmt: skip


def train_tokenizer(vocabulary: int = 1500) -> Tokenizer:
    """A tokenizer whose merges cross everything that the fixed texts hold, white space and signs included."""
    # Never the pages themselves: other merges are another network, whose near ties fall elsewhere.
    pages = (Path(__file__).parent / "fixed_texts.txt").read_text(encoding="utf-8").split("\f")
    return Tokenizer.train([*pages, *(TEXTS * 5)], vocabulary)


def make_checkpoint(folder: Path, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32, **changed) -> LanguageModel:
    """A randomly initialised model, far from ties, with its tokenizer, as a Hugging Face folder."""
    model = make_weights(folder, tokenizer.vocabulary, {
        "bos_token_id": tokenizer.special[DOCUMENT], "eos_token_id": tokenizer.special[END],
        "pad_token_id": tokenizer.special[END],
    }, dtype, **changed)  # fmt: skip
    tokenizer.save(folder, jinja_source())
    return model


def make_weights(
    folder: Path, vocabulary: int, generation: dict[str, int], dtype: torch.dtype = torch.float32,
    family: str | None = None, **changed,
) -> LanguageModel:  # fmt: skip
    """The same without a tokenizer."""
    model = LanguageModel(TransformerConfig(vocabulary=vocabulary, **{**SHAPE, **changed})).initialise(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight *= 4 if weight.dim() == 2 else 1
            if name.endswith("bias"):
                weight += torch.linspace(-0.5, 0.5, len(weight))
    save_checkpoint(model.to(dtype), folder, generation=generation, family=family)
    return model.eval()
