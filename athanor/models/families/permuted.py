"""XLNet: its row, and what it calls its tensors."""

from athanor.models.families.family import Family, Weight, with_biases
from athanor.models.permuted import PermutedConfig, PermutedLanguageModel

LAYER, ATTENTION = "transformer.layer.{}.", "transformer.layer.{}.rel_attn."


def by_head(config: PermutedConfig) -> tuple[int, ...]:
    """XLNet stores its products as (D, N, H)."""
    return config.trunk.width, config.trunk.heads, config.trunk.head_size


PERMUTED = (
    Family(
        name="xlnet",
        architecture="XLNetLMHeadModel",
        config=PermutedConfig,
        build=PermutedLanguageModel,
        settings={
            "vocab_size": "trunk.vocabulary",
            "d_model": "trunk.width",
            "n_layer": "trunk.layers",
            "n_head": "trunk.heads",
            "d_head": "trunk.head_width",
            "d_inner": "trunk.hidden",
            "layer_norm_eps": "trunk.norm_eps",
        },
        fixed={
            "trunk.position": "none",
            "trunk.norm": "layer",
            "trunk.norm_place": "after",
            "trunk.bias_mlp": True,
            "trunk.tied": True,
            "trunk.max_positions": 1_000_000,  # distances need no table: there is no limit but memory
        },
        required={
            "tie_word_embeddings": True,
            "bi_data": False,
            "clamp_len": -1,
            "same_length": False,
            "reuse_len": None,
            "untie_r": True,
        },
        optional={
            "vocab_size": 32_000,
            "d_model": 1_024,
            "n_layer": 24,
            "n_head": 16,
            "d_head": None,
            "d_inner": 4_096,
            "layer_norm_eps": 1e-12,
            "ff_activation": "gelu",
            "attn_type": "bi",
        },
        ignored=(
            "mem_len",
            "use_mems_eval",
            "use_mems_train",
            "summary_type",
            "summary_use_proj",
            "summary_activation",
            "summary_last_dropout",
            "start_n_top",
            "end_n_top",
        ),
        choices={
            "ff_activation": ("trunk.mlp", {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu"}),
            "attn_type": ("trunk.causal", {"bi": False, "uni": True}),
        },
        copies={"lm_loss.weight": "transformer.word_embedding.weight"},
        tensors=(
            Weight("tokens.weight", ("transformer.word_embedding.weight",)),
            Weight("query", ("transformer.mask_emb",)),
            Weight("bias", ("lm_loss.bias",)),
            *(
                Weight(
                    f"blocks.{{}}.attention.{ours}.weight", (ATTENTION + theirs,), None, ours != "out", shape=by_head
                )
                for ours, theirs in (("q", "q"), ("k", "k"), ("v", "v"), ("distance", "r"), ("out", "o"))
            ),
            *(
                Weight("blocks.{}.attention." + ours, (ATTENTION + theirs,))
                for ours, theirs in (
                    ("content_bias", "r_w_bias"),
                    ("distance_bias", "r_r_bias"),
                    ("segment_bias", "r_s_bias"),
                    ("segments", "seg_embed"),
                )
            ),
            *with_biases(
                (
                    ("blocks.{}.attention_norm", ATTENTION + "layer_norm"),
                    ("blocks.{}.mlp.up", LAYER + "ff.layer_1"),
                    ("blocks.{}.mlp.down", LAYER + "ff.layer_2"),
                    ("blocks.{}.mlp_norm", LAYER + "ff.layer_norm"),
                )
            ),
        ),
    ),
)
