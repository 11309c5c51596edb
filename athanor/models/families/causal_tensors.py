"""What Hugging Face calls the tensors of language models: one table per family, or one that families share."""

from athanor.models.config import TransformerConfig
from athanor.models.families.family import Weight, qkv_rows, with_biases


def gate_up_rows(config: TransformerConfig) -> tuple[int, ...]:
    """Heights of gate and up in our one tensor."""
    return config.hidden, config.hidden


def expert_rows(config: TransformerConfig) -> tuple[int, ...]:
    """Heights of gate and up in one expert's tensor."""
    return config.expert_size, config.expert_size


ATTENTION = "model.layers.{}.self_attn."
QKV = tuple(ATTENTION + name for name in ("q_proj", "k_proj", "v_proj"))

OUTSIDE_LAYERS = (
    Weight("tokens.weight", ("model.embed_tokens.weight",)),
    Weight("trunk.norm.weight", ("model.norm.weight",)),
    Weight("head.weight", ("lm_head.weight",)),
)
LAYER = (
    Weight("trunk.blocks.{}.attention_norm.weight", ("model.layers.{}.input_layernorm.weight",)),
    Weight("trunk.blocks.{}.attention.qkv.weight", tuple(name + ".weight" for name in QKV), qkv_rows),
    Weight("trunk.blocks.{}.attention.qkv.bias", tuple(name + ".bias" for name in QKV), qkv_rows),
    Weight("trunk.blocks.{}.attention.q_norm.weight", (ATTENTION + "q_norm.weight",)),
    Weight("trunk.blocks.{}.attention.k_norm.weight", (ATTENTION + "k_norm.weight",)),
    Weight("trunk.blocks.{}.attention.out.weight", (ATTENTION + "o_proj.weight",)),
    Weight("trunk.blocks.{}.mlp.down.weight", ("model.layers.{}.mlp.down_proj.weight",)),
)
LLAMA_LAYER = (
    *LAYER,
    Weight("trunk.blocks.{}.mlp_norm.weight", ("model.layers.{}.post_attention_layernorm.weight",)),
    Weight(
        "trunk.blocks.{}.mlp.up.weight",
        ("model.layers.{}.mlp.gate_proj.weight", "model.layers.{}.mlp.up_proj.weight"),
        gate_up_rows,
    ),
)
GLM4_LAYER = (
    *LAYER,
    Weight("trunk.blocks.{}.attention_norm_out.weight", ("model.layers.{}.post_self_attn_layernorm.weight",)),
    Weight("trunk.blocks.{}.mlp_norm.weight", ("model.layers.{}.post_attention_layernorm.weight",)),
    Weight("trunk.blocks.{}.mlp_norm_out.weight", ("model.layers.{}.post_mlp_layernorm.weight",)),
    Weight("trunk.blocks.{}.mlp.up.weight", ("model.layers.{}.mlp.gate_up_proj.weight",)),
)
GPT2_LAYER = tuple(
    Weight(f"trunk.blocks.{{}}.{ours}.{part}", (f"transformer.h.{{}}.{theirs}.{part}",), None, turned)
    for ours, theirs, is_product in (
        ("attention_norm", "ln_1", False),
        ("attention.qkv", "attn.c_attn", True),
        ("attention.out", "attn.c_proj", True),
        ("mlp_norm", "ln_2", False),
        ("mlp.up", "mlp.c_fc", True),
        ("mlp.down", "mlp.c_proj", True),
    )
    for part, turned in (("weight", is_product), ("bias", False))
)
GPT2_TENSORS = (
    Weight("tokens.weight", ("transformer.wte.weight",)),
    Weight("positions.weight", ("transformer.wpe.weight",)),
    Weight("trunk.norm.weight", ("transformer.ln_f.weight",)),
    Weight("trunk.norm.bias", ("transformer.ln_f.bias",)),
    Weight("head.weight", ("lm_head.weight",)),
    *GPT2_LAYER,
)
IMAGEGPT_TENSORS = tuple(row for row in GPT2_TENSORS if "norm.bias" not in row.ours)


def expert_weights(place: str, gate: str, down: str, up: str) -> tuple[Weight, ...]:
    """Router and experts of a layer, by what they call the three matrices of an expert."""
    place = "model.layers.{}." + place
    experts = "trunk.blocks.{}.mlp.experts.{}."
    return (
        Weight("trunk.blocks.{}.mlp.router.weight", (place + ".gate.weight",)),
        Weight(experts + "up.weight", tuple(f"{place}.experts.{{}}.{name}.weight" for name in (gate, up)), expert_rows),
        Weight(experts + "down.weight", (f"{place}.experts.{{}}.{down}.weight",)),
    )


MIXTRAL_EXPERTS = expert_weights("block_sparse_moe", "w1", "w2", "w3")
QWEN3_EXPERTS = expert_weights("mlp", "gate_proj", "down_proj", "up_proj")


OPT_LAYER, OPT_QKV = "model.decoder.layers.{}.", tuple(f"self_attn.{name}_proj" for name in "qkv")
OPT_TENSORS = (
    Weight("tokens.weight", ("model.decoder.embed_tokens.weight",)),
    Weight("positions.weight", ("model.decoder.embed_positions.weight",)),
    Weight("head.weight", ("lm_head.weight",)),
    *(
        Weight(
            f"trunk.blocks.{{}}.attention.qkv.{part}", tuple(f"{OPT_LAYER}{name}.{part}" for name in OPT_QKV), qkv_rows
        )
        for part in ("weight", "bias")
    ),
    *with_biases(
        (
            ("trunk.norm", "model.decoder.final_layer_norm"),
            ("trunk.blocks.{}.attention_norm", OPT_LAYER + "self_attn_layer_norm"),
            ("trunk.blocks.{}.attention.out", OPT_LAYER + "self_attn.out_proj"),
            ("trunk.blocks.{}.mlp_norm", OPT_LAYER + "final_layer_norm"),
            ("trunk.blocks.{}.mlp.up", OPT_LAYER + "fc1"),
            ("trunk.blocks.{}.mlp.down", OPT_LAYER + "fc2"),
        )
    ),
)
GPT1_TENSORS = (
    Weight("tokens.weight", ("transformer.tokens_embed.weight",)),
    Weight("positions.weight", ("transformer.positions_embed.weight",)),
    Weight("head.weight", ("lm_head.weight",)),
    *with_biases(
        (
            ("trunk.blocks.{}.attention.qkv", "transformer.h.{}.attn.c_attn"),
            ("trunk.blocks.{}.attention.out", "transformer.h.{}.attn.c_proj"),
            ("trunk.blocks.{}.attention_norm", "transformer.h.{}.ln_1"),
            ("trunk.blocks.{}.mlp.up", "transformer.h.{}.mlp.c_fc"),
            ("trunk.blocks.{}.mlp.down", "transformer.h.{}.mlp.c_proj"),
            ("trunk.blocks.{}.mlp_norm", "transformer.h.{}.ln_2"),
        ),
        transposed=("qkv", "out", "up", "down"),
    ),
)
NEOX_LAYER = "gpt_neox.layers.{}."
NEOX_TENSORS = (
    Weight("tokens.weight", ("gpt_neox.embed_in.weight",)),
    Weight("head.weight", ("embed_out.weight",)),
    *(
        Weight(
            f"trunk.blocks.{{}}.attention.qkv.{part}",
            (f"{NEOX_LAYER}attention.query_key_value.{part}",),
            by_head=True,
        )
        for part in ("weight", "bias")
    ),
    *with_biases(
        (
            ("trunk.norm", "gpt_neox.final_layer_norm"),
            ("trunk.blocks.{}.attention_norm", NEOX_LAYER + "input_layernorm"),
            ("trunk.blocks.{}.attention.out", NEOX_LAYER + "attention.dense"),
            ("trunk.blocks.{}.mlp_norm", NEOX_LAYER + "post_attention_layernorm"),
            ("trunk.blocks.{}.mlp.up", NEOX_LAYER + "mlp.dense_h_to_4h"),
            ("trunk.blocks.{}.mlp.down", NEOX_LAYER + "mlp.dense_4h_to_h"),
        )
    ),
)
GPTJ_LAYER, GPTJ_QKV = "transformer.h.{}.", tuple(f"attn.{name}_proj.weight" for name in "qkv")
GPTJ_TENSORS = (
    Weight("tokens.weight", ("transformer.wte.weight",)),
    Weight("trunk.blocks.{}.attention.qkv.weight", tuple(GPTJ_LAYER + name for name in GPTJ_QKV), qkv_rows),
    Weight("trunk.blocks.{}.attention.out.weight", (GPTJ_LAYER + "attn.out_proj.weight",)),
    *with_biases(
        (
            ("trunk.norm", "transformer.ln_f"),
            ("head", "lm_head"),
            ("trunk.blocks.{}.attention_norm", GPTJ_LAYER + "ln_1"),
            ("trunk.blocks.{}.mlp.up", GPTJ_LAYER + "mlp.fc_in"),
            ("trunk.blocks.{}.mlp.down", GPTJ_LAYER + "mlp.fc_out"),
        )
    ),
)
BLOOM_LAYER = "transformer.h.{}."
BLOOM_TENSORS = (
    Weight("tokens.weight", ("transformer.word_embeddings.weight",)),
    Weight("head.weight", ("lm_head.weight",)),
    *(
        Weight(
            f"trunk.blocks.{{}}.attention.qkv.{part}",
            (f"{BLOOM_LAYER}self_attention.query_key_value.{part}",),
            by_head=True,
        )
        for part in ("weight", "bias")
    ),
    *with_biases(
        (
            ("embedding_norm", "transformer.word_embeddings_layernorm"),
            ("trunk.norm", "transformer.ln_f"),
            ("trunk.blocks.{}.attention_norm", BLOOM_LAYER + "input_layernorm"),
            ("trunk.blocks.{}.attention.out", BLOOM_LAYER + "self_attention.dense"),
            ("trunk.blocks.{}.mlp_norm", BLOOM_LAYER + "post_attention_layernorm"),
            ("trunk.blocks.{}.mlp.up", BLOOM_LAYER + "mlp.dense_h_to_4h"),
            ("trunk.blocks.{}.mlp.down", BLOOM_LAYER + "mlp.dense_4h_to_h"),
        )
    ),
)
