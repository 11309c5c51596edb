"""GLM: networks that fill in blanks, and the chat models that grew from them.

Two families share the model_type `glm`: that of `transformers` (GLM-4) and the older one that fills in blanks; and two
share `chatglm`: ChatGLM-6B with its two-dimensional positions, and what came later. Keys that only one has tell them
apart. Where a published config.json names code (`auto_map`), it is not run: what it does is here.
"""

import math

from athanor.models.families.causal import GLM_FIXED, LLAMA_SETTINGS
from athanor.models.families.causal_tensors import LAYER, OUTSIDE_LAYERS
from athanor.models.families.family import LAYER_NORM_BIASES, Family, Weight, with_biases

# What the stream is multiplied by in a network of L layers: (2 L)^(1/2) (GLM-130B, Zeng et al. 2022, section 2.1);
# the decoders of DeepNorm itself take (2 L)^(1/4) (Wang et al. 2022, figure 2).
DEEPNORM_ALPHA = {layers: math.sqrt(2 * layers) for layers in range(1, 201)}


def base_of_ratio(ratio: float) -> float:
    """The base of the rotation from how many times the usual one it is."""
    return 10_000.0 * ratio


def ratio_of_base(base: float) -> float:
    """The inverse."""
    return base / 10_000.0


def rows_of_table(longest: int) -> int:
    """GLM's tables of positions begin with 0 and end with `max_sequence_length` itself."""
    return longest + 1


def longest_of_table(rows: int) -> int:
    """The inverse."""
    return rows - 1


def layer_tensors(place: str, attention: str = "attention") -> tuple[Weight, ...]:
    """Norms and products of a layer that all of these checkpoints store as we do; biases where there are some."""
    return with_biases(
        (
            ("trunk.blocks.{}.attention_norm", place + "input_layernorm"),
            ("trunk.blocks.{}.attention.out", f"{place}{attention}.dense"),
            ("trunk.blocks.{}.mlp_norm", place + "post_attention_layernorm"),
            ("trunk.blocks.{}.mlp.down", place + "mlp.dense_4h_to_h"),
        )
    )


def product(ours: str, theirs: str, *, by_head: bool = False, swapped: bool = False) -> tuple[Weight, ...]:
    """Weight and bias of a product whose rows they may store in another order."""
    return tuple(
        Weight(f"{ours}.{part}", (f"{theirs}.{part}",), by_head=by_head, swapped=swapped) for part in ("weight", "bias")
    )


QKV, UP = "trunk.blocks.{}.attention.qkv", "trunk.blocks.{}.mlp.up"
EARLY, LATER = "transformer.layers.{}.", "transformer.encoder.layers.{}."
CHATGLM_TENSORS = (
    Weight("tokens.weight", ("transformer.word_embeddings.weight",)),
    Weight("head.weight", ("lm_head.weight",)),
    *with_biases((("trunk.norm", "transformer.final_layernorm"),)),
    *layer_tensors(EARLY),
    *product(QKV, EARLY + "attention.query_key_value", by_head=True),
    *product(UP, EARLY + "mlp.dense_h_to_4h"),
)
GLM130B_TENSORS = (
    Weight("tokens.weight", ("transformer.word_embeddings.weight",)),
    *with_biases((("trunk.norm", "transformer.final_layernorm"),)),
    *layer_tensors(EARLY),
    *product(QKV, EARLY + "attention.query_key_value", by_head=True),
    *product(UP, EARLY + "mlp.dense_h_to_4h", swapped=True),  # what is gated stands before the gate
)
GLM10B_TENSORS = (
    Weight("tokens.weight", ("glm.word_embeddings.weight",)),
    Weight("positions.weight", ("glm.transformer.position_embeddings.weight",)),
    Weight("span_positions.weight", ("glm.transformer.block_position_embeddings.weight",)),
    *with_biases((("trunk.norm", "glm.transformer.final_layernorm"),)),
    *layer_tensors("glm." + EARLY),
    *product(QKV, f"glm.{EARLY}attention.query_key_value"),
    *product(UP, f"glm.{EARLY}mlp.dense_h_to_4h"),
)
CHATGLM2_TENSORS = (
    Weight("tokens.weight", ("transformer.embedding.word_embeddings.weight",)),
    Weight("head.weight", ("transformer.output_layer.weight",)),
    Weight("trunk.norm.weight", ("transformer.encoder.final_layernorm.weight",)),
    *layer_tensors(LATER, "self_attention"),
    *product(QKV, LATER + "self_attention.query_key_value"),
    *product(UP, LATER + "mlp.dense_h_to_4h"),
)
GLM_TENSORS = (
    *OUTSIDE_LAYERS,
    *LAYER,
    Weight("trunk.blocks.{}.mlp_norm.weight", ("model.layers.{}.post_attention_layernorm.weight",)),
    Weight("trunk.blocks.{}.mlp.up.weight", ("model.layers.{}.mlp.gate_up_proj.weight",)),
)
EARLY_SETTINGS = {
    "vocab_size": "vocabulary",
    "hidden_size": "width",
    "num_layers": "layers",
    "num_attention_heads": "heads",
    "max_sequence_length": "max_positions",
    "layernorm_epsilon": "norm_eps",
}
CHATGLM2_SETTINGS = {
    "padded_vocab_size": "vocabulary",
    "hidden_size": "width",
    "num_layers": "layers",
    "num_attention_heads": "heads",
    "multi_query_group_num": "kv_heads",
    "kv_channels": "head_width",
    "ffn_hidden_size": "hidden",
    "seq_length": "max_positions",
    "layernorm_epsilon": "norm_eps",
    "add_qkv_bias": "bias_qkv",
    "rope_ratio": "rope_base",
}
DEEPNORM = {"norm_place": "residual", **LAYER_NORM_BIASES}
# A network whose weights are codes, or that has a learned prefix in front, is another one.
PLAIN = {"quantization_bit": 0, "pre_seq_len": None, "prefix_projection": False}

GLM = (
    Family(
        name="glm",
        architecture="GlmForCausalLM",
        settings={**LLAMA_SETTINGS, "attention_bias": "bias_qkv"},
        rope_settings=True,
        fixed={**GLM_FIXED, "norm_place": "before"},
        required={"hidden_act": "silu"},
        optional={
            "tie_word_embeddings": False,
            "rms_norm_eps": 1.5625e-07,
            "attention_bias": True,
            "num_key_value_heads": 2,
            "head_dim": 128,
        },
        tensors=GLM_TENSORS,
    ),
    Family(
        name="glm-10b",  # and its smaller sisters (Du et al. 2022)
        architecture="GLMModel",
        model_type="glm",
        marks=("block_position_encoding",),
        settings=EARLY_SETTINGS,
        converted={"max_sequence_length": (rows_of_table, longest_of_table)},
        fixed={
            "prefix": True,
            "position": "learned",
            "position_axes": 2,
            "mlp": "gelu_tanh",
            "tied": True,
            **LAYER_NORM_BIASES,
        },
        required={
            "block_position_encoding": True,
            "relative_encoding": False,
            "attention_scale": 1.0,
            "spell_length": None,
            "output_predict": True,
        },
        optional={"layernorm_epsilon": 1e-5},
        ignored=(
            "auto_map",
            *("attention_dropout_prob", "embedding_dropout_prob", "output_dropout_prob"),
            *(
                "checkpoint_activations",
                "checkpoint_num_layers",
                "parallel_output",
                "use_scaled_init_for_output_weights",
            ),
            *("pool_token", "spell_func", "bad_words_id"),
        ),
        tensors=GLM10B_TENSORS,
    ),
    Family(
        name="chatglm",
        architecture="ChatGLMModel",
        marks=("inner_hidden_size",),
        settings={**EARLY_SETTINGS, "inner_hidden_size": "hidden", "tie_word_embeddings": "tied"},
        choices={"num_layers": ("residual_scale", DEEPNORM_ALPHA)},
        fixed={"prefix": True, "position_axes": 2, "mlp": "gelu_tanh", **DEEPNORM},
        required={"position_encoding_2d": True, **PLAIN},
        optional={"layernorm_epsilon": 1e-5, "tie_word_embeddings": True},
        ignored=("auto_map", "gmask_token_id", "mask_token_id"),
        tensors=CHATGLM_TENSORS,
        derived=(".attention.rotary_emb.inv_freq",),
    ),
    Family(
        name="chatglm2",  # ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B as first published
        architecture="ChatGLMModel",
        model_type="chatglm",
        marks=("multi_query_attention",),
        settings=CHATGLM2_SETTINGS,
        converted={"rope_ratio": (base_of_ratio, ratio_of_base)},
        fixed={"rope_share": 0.5, "rope_pairs": "neighbours"},
        required={
            "multi_query_attention": True,
            "original_rope": True,
            "rmsnorm": True,
            "post_layer_norm": True,
            "add_bias_linear": False,
            "apply_residual_connection_post_layernorm": False,
            "interleaved_qkv": False,
            "tie_word_embeddings": False,
            **PLAIN,
        },
        optional={"layernorm_epsilon": 1e-5, "kv_channels": 128, "add_qkv_bias": False, "rope_ratio": 1.0},
        equal={"vocab_size": "padded_vocab_size", "num_hidden_layers": "num_layers"},
        ignored=(
            "auto_map",
            *("apply_query_key_layer_scaling", "attention_softmax_in_fp32", "bias_dropout_fusion"),
            "fp32_residual_connection",
        ),
        tensors=CHATGLM2_TENSORS,
        derived=(".rotary_pos_emb.inv_freq",),
    ),
    Family(
        name="glm-130b",  # SwissArmyTransformer's names, and the names its settings have as arguments
        architecture="GLM130B",
        settings={**EARLY_SETTINGS, "inner_hidden_size": "hidden"},
        choices={"num_layers": ("residual_scale", DEEPNORM_ALPHA)},
        fixed={"prefix": True, "mlp": "geglu_exact", "tied": True, **DEEPNORM},
        required={"position_encoding_2d": False, "no_glu": False, "layernorm_order": "post"},
        optional={"layernorm_epsilon": 1e-5},
        ignored=("model_class", "tokenizer_type"),
        tensors=GLM130B_TENSORS,
        derived=("rotary_emb.inv_freq",),
    ),
)
