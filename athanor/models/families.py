"""Which networks we know by name: one row per family, from its `config.json` to ours.

Adding a family means a row here, its tensors in `names.py`, and its parity test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from athanor.models.names import (
    GLM4_LAYER,
    GPT1_TENSORS,
    GPT2_TENSORS,
    GPTJ_TENSORS,
    LLAMA_LAYER,
    MIXTRAL_EXPERTS,
    NEOX_TENSORS,
    OPT_TENSORS,
    OUTSIDE_LAYERS,
    QWEN3_EXPERTS,
    Weight,
)


@dataclass(frozen=True)
class Family:
    """One row: names, fixed properties, settings and tensors of a family.

    Attributes:
        name: `model_type` in config.json.
        architecture: the class `transformers` builds.
        settings: their key of config.json -> our field of TransformerConfig, with the same meaning.
        fixed: our fields that all members share.
        required: their keys with the only value we can run; a key left out has that value too.
        optional: their keys that may be absent, with the value `transformers` then takes.
        tensors: what the weights are called.
        equal: their keys that must be missing, null, or equal to another of theirs.
        old_keys: other names of a key, such as those of earlier versions -> the one we write.
        derived: endings of tensor names that hold nothing learned and may be skipped.
        rope_settings: whether config.json carries `rope_parameters`.
        rotated: their key that counts the rotated numbers of a head, where there is one.
        windows: which layers see a sliding window: none, all of them always, all when switched on, or a choice.
        dense_layers: whether layers without experts may stand between those that have them.
        activation: their key that names the activation, when the family has a choice of them.
        activations: its values -> our `mlp`; the first name is the one we write.
    """

    name: str
    architecture: str
    settings: Mapping[str, str]
    tensors: tuple[Weight, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    required: Mapping[str, Any] = field(default_factory=dict)
    optional: Mapping[str, Any] = field(default_factory=dict)
    equal: Mapping[str, str] = field(default_factory=dict)
    old_keys: Mapping[str, str] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    rope_settings: bool = True
    rotated: str | None = None
    windows: Literal["none", "always", "switched", "by_layer"] = "none"
    dense_layers: bool = False
    activation: str | None = None
    activations: Mapping[str, str] = field(default_factory=dict)


LLAMA_SETTINGS = {
    "vocab_size": "vocabulary",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_width",
    "intermediate_size": "hidden",
    "max_position_embeddings": "max_positions",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tied",
}
GPT2_SETTINGS = {
    "vocab_size": "vocabulary",
    "n_embd": "width",
    "n_layer": "layers",
    "n_head": "heads",
    "n_inner": "hidden",
    "n_positions": "max_positions",
    "layer_norm_epsilon": "norm_eps",
    "tie_word_embeddings": "tied",
}
MIXTRAL_SETTINGS = {**LLAMA_SETTINGS, "num_local_experts": "experts", "num_experts_per_tok": "experts_per_token"}
QWEN3_MOE_SETTINGS = {
    **LLAMA_SETTINGS,
    "num_experts": "experts",
    "num_experts_per_tok": "experts_per_token",
    "moe_intermediate_size": "expert_hidden",
    "norm_topk_prob": "router_normal",
}
OPT_SETTINGS = {
    "vocab_size": "vocabulary",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "ffn_dim": "hidden",
    "max_position_embeddings": "max_positions",
    "tie_word_embeddings": "tied",
}
NEOX_SETTINGS = {
    "vocab_size": "vocabulary",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "max_position_embeddings": "max_positions",
    "layer_norm_eps": "norm_eps",
    "tie_word_embeddings": "tied",
    "use_parallel_residual": "parallel",
}
LAYER_NORM_BIASES = {"norm": "layer", "bias_qkv": True, "bias_out": True, "bias_mlp": True}
GLM_FIXED = {"rope_share": 0.5, "rope_pairs": "neighbours", "norm_place": "around"}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="llama",
            architecture="LlamaForCausalLM",
            settings=LLAMA_SETTINGS,
            required={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1},
            optional={"tie_word_embeddings": False, "rms_norm_eps": 1e-6},
            tensors=(*OUTSIDE_LAYERS, *LLAMA_LAYER),
            derived=(".self_attn.rotary_emb.inv_freq",),
        ),
        Family(
            name="qwen2",
            architecture="Qwen2ForCausalLM",
            settings=LLAMA_SETTINGS,
            fixed={"bias_qkv": True},
            required={"hidden_act": "silu"},
            optional={
                "tie_word_embeddings": False,
                "rms_norm_eps": 1e-6,
                "num_key_value_heads": 32,
                "sliding_window": 4_096,
            },
            windows="by_layer",
            tensors=(*OUTSIDE_LAYERS, *LLAMA_LAYER),
        ),
        Family(
            name="qwen3",
            architecture="Qwen3ForCausalLM",
            settings=LLAMA_SETTINGS,
            fixed={"norm_qk": True},
            required={"hidden_act": "silu", "attention_bias": False},
            optional={
                "tie_word_embeddings": False,
                "rms_norm_eps": 1e-6,
                "num_key_value_heads": 32,
                "head_dim": 128,
                "sliding_window": 4_096,
            },
            windows="by_layer",
            tensors=(*OUTSIDE_LAYERS, *LLAMA_LAYER),
        ),
        Family(
            name="glm4",
            architecture="Glm4ForCausalLM",
            settings={**LLAMA_SETTINGS, "attention_bias": "bias_qkv"},
            fixed=GLM_FIXED,
            required={"hidden_act": "silu"},
            optional={
                "tie_word_embeddings": False,
                "rms_norm_eps": 1.5625e-07,
                "attention_bias": True,
                "num_key_value_heads": 2,
                "head_dim": 128,
            },
            tensors=(*OUTSIDE_LAYERS, *GLM4_LAYER),
        ),
        Family(
            name="gpt2",
            architecture="GPT2LMHeadModel",
            settings=GPT2_SETTINGS,
            fixed={"position": "learned", "mlp": "gelu_tanh", **LAYER_NORM_BIASES},
            required={
                "activation_function": "gelu_new",
                "scale_attn_weights": True,
                "scale_attn_by_inverse_layer_idx": False,
                "reorder_and_upcast_attn": False,
                "add_cross_attention": False,
            },
            optional={"tie_word_embeddings": True, "layer_norm_epsilon": 1e-5, "n_inner": None},
            tensors=GPT2_TENSORS,
            derived=(".attn.bias", ".attn.masked_bias"),
            rope_settings=False,
        ),
        Family(
            name="mistral",
            architecture="MistralForCausalLM",
            settings=LLAMA_SETTINGS,
            required={"hidden_act": "silu"},
            optional={
                "tie_word_embeddings": False,
                "rms_norm_eps": 1e-6,
                "num_key_value_heads": 8,
                "sliding_window": 4_096,
            },
            tensors=(*OUTSIDE_LAYERS, *LLAMA_LAYER),
            windows="always",
        ),
        Family(
            name="mixtral",
            architecture="MixtralForCausalLM",
            settings=MIXTRAL_SETTINGS,
            required={"hidden_act": "silu", "router_jitter_noise": 0.0},
            optional={
                "tie_word_embeddings": False,
                "rms_norm_eps": 1e-5,
                "num_key_value_heads": 8,
                "num_local_experts": 8,
                "num_experts_per_tok": 2,
                "rope_theta": 1e6,
            },
            tensors=(*OUTSIDE_LAYERS, *LLAMA_LAYER, *MIXTRAL_EXPERTS),
            windows="always",
        ),
        Family(
            name="qwen3_moe",
            architecture="Qwen3MoeForCausalLM",
            settings=QWEN3_MOE_SETTINGS,
            fixed={"norm_qk": True},
            required={"hidden_act": "silu", "attention_bias": False},
            optional={
                "tie_word_embeddings": False,
                "rms_norm_eps": 1e-6,
                "num_key_value_heads": 4,
                "num_experts": 128,
                "num_experts_per_tok": 8,
                "moe_intermediate_size": 768,
                "norm_topk_prob": False,
                "sliding_window": 4_096,
            },
            tensors=(*OUTSIDE_LAYERS, *LLAMA_LAYER, *QWEN3_EXPERTS),
            old_keys={"num_local_experts": "num_experts"},
            windows="switched",
            dense_layers=True,
        ),
        Family(
            name="opt",
            architecture="OPTForCausalLM",
            settings=OPT_SETTINGS,
            fixed={
                "position": "learned",
                "position_offset": 2,
                "norm_eps": 1e-5,
                "mlp": "relu",
                **LAYER_NORM_BIASES,
            },
            required={
                "activation_function": "relu",
                "do_layer_norm_before": True,
                "_remove_final_layer_norm": False,
                "enable_bias": True,
                "layer_norm_elementwise_affine": True,
            },
            optional={"tie_word_embeddings": True},
            equal={"word_embed_proj_dim": "hidden_size"},
            tensors=OPT_TENSORS,
            rope_settings=False,
        ),
        Family(
            name="openai-gpt",
            architecture="OpenAIGPTLMHeadModel",
            settings={key: ours for key, ours in GPT2_SETTINGS.items() if key != "n_inner"},
            fixed={"position": "learned", "mlp": "gelu_tanh", "norm_place": "after", **LAYER_NORM_BIASES},
            required={"afn": "gelu"},
            optional={"tie_word_embeddings": True, "layer_norm_epsilon": 1e-5},
            tensors=GPT1_TENSORS,
            derived=(".attn.bias",),
            rope_settings=False,
        ),
        Family(
            name="gpt_neox",
            architecture="GPTNeoXForCausalLM",
            settings=NEOX_SETTINGS,
            fixed=LAYER_NORM_BIASES,
            required={"attention_bias": True},
            optional={
                "tie_word_embeddings": False,
                "layer_norm_eps": 1e-5,
                "use_parallel_residual": True,
                "partial_rotary_factor": 0.25,
                "hidden_act": "gelu",
            },
            old_keys={"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"},
            tensors=NEOX_TENSORS,
            derived=(".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq"),
            activation="hidden_act",
            activations={"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "relu": "relu"},
        ),
        Family(
            name="gptj",
            architecture="GPTJForCausalLM",
            settings=GPT2_SETTINGS,
            fixed={
                "rope_pairs": "neighbours",
                "parallel": True,
                "shared_norm": True,
                "norm": "layer",
                "mlp": "gelu_tanh",
                "bias_mlp": True,
                "bias_head": True,
            },
            required={"activation_function": "gelu_new", "scale_attn_weights": True},
            optional={
                "tie_word_embeddings": False,
                "layer_norm_epsilon": 1e-5,
                "n_inner": None,
                "rotary_dim": 64,
            },
            tensors=GPTJ_TENSORS,
            derived=(".attn.bias", ".attn.masked_bias"),
            rope_settings=False,
            rotated="rotary_dim",
        ),
    )
}
