"""Vision Transformers, masked autoencoders, and towers for images and texts: one row per family."""

from collections.abc import Mapping
from typing import Any

from athanor.models.contrastive import ContrastiveConfig, ContrastiveModel
from athanor.models.families.family import LAYER_NORM_BIASES, Family, Weight, with_biases
from athanor.models.families.masked import BERT_ACTIVATIONS, BERT_FIXED, BERT_OPTIONAL, BERT_SETTINGS, bert_layers
from athanor.models.vision.mae import MaskedAutoencoder, MaskedAutoencoderConfig
from athanor.models.vision.vit import ViT, ViTConfig

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}
TOWER_SETTINGS = {
    "image_size": "image",
    "patch_size": "patch",
    "num_channels": "channels",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "layer_norm_eps": "norm_eps",
}
TOWER_OPTIONAL = {
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3_072,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}


def inside(place: str, table: Mapping[str, Any], own: str | None = None) -> dict[str, Any]:
    """A table of settings whose keys stand inside another object of config.json, and ours inside another config."""
    return {place + key: value if own is None else own + value for key, value in table.items()}


# ------------------------------------------------------------------------------------------------------- ViT and MAE


def vit_first(config: Any) -> tuple[int, ...]:
    """The shape in which a class token is stored."""
    return 1, 1, config.tower.width


def vit_positions(config: Any) -> tuple[int, ...]:
    """The shape in which the table of positions is stored."""
    return 1, config.tower.places, config.tower.width


def mae_mask_token(config: MaskedAutoencoderConfig) -> tuple[int, ...]:
    """The shape in which the decoder's mask token is stored."""
    return 1, 1, config.decoder_width


def mae_positions(config: MaskedAutoencoderConfig) -> tuple[int, ...]:
    """The shape in which the decoder's table of positions is stored."""
    return 1, config.tower.places, config.decoder_width


def vit_layers(ours: str, theirs: str) -> tuple[Weight, ...]:
    """The tensors of the layers, under the names that theirs begin with."""
    parts = tuple(f"{theirs}attention.attention.{name}" for name in ("query", "key", "value"))
    return (
        *(Weight(f"{ours}attention.qkv.{part}", tuple(f"{name}.{part}" for name in parts)) for part in PARTS),
        *with_biases(
            (
                (ours + "attention_norm", theirs + "layernorm_before"),
                (ours + "attention.out", theirs + "attention.output.dense"),
                (ours + "mlp_norm", theirs + "layernorm_after"),
                (ours + "mlp.up", theirs + "intermediate.dense"),
                (ours + "mlp.down", theirs + "output.dense"),
            )
        ),
    )


def vit_tower(place: str) -> tuple[Weight, ...]:
    """The tensors of the front and the layers, under the name their tower has in a checkpoint ('vit.')."""
    return (
        Weight("tower.front.class_token", (place + "embeddings.cls_token",), shape=vit_first),
        Weight("tower.front.positions", (place + "embeddings.position_embeddings",), shape=vit_positions),
        *with_biases(
            (
                ("tower.front.project", place + "embeddings.patch_embeddings.projection"),
                ("tower.trunk.norm", place + "layernorm"),
            )
        ),
        *vit_layers("tower.trunk.blocks.{}.", place + "encoder.layer.{}."),
    )


PARTS = ("weight", "bias")
VIT_SETTINGS = inside("", {**TOWER_SETTINGS, "qkv_bias": "bias_qkv"}, "tower.")
VIT_OPTIONAL = {**TOWER_OPTIONAL, "qkv_bias": True}
VIT_CHOICES = {"hidden_act": ("tower.mlp", ACTIVATIONS)}
MAE_SETTINGS = {
    **VIT_SETTINGS,
    "decoder_hidden_size": "decoder_width",
    "decoder_num_hidden_layers": "decoder_layers",
    "decoder_num_attention_heads": "decoder_heads",
    "decoder_intermediate_size": "decoder_hidden",
    "mask_ratio": "hidden_share",
    "norm_pix_loss": "normal_pixels",
}
MAE_OPTIONAL = {
    **VIT_OPTIONAL,
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2_048,
    "mask_ratio": 0.75,
    "norm_pix_loss": False,
}
MAE_DECODER = (
    Weight("mask_token", ("decoder.mask_token",), shape=mae_mask_token),
    Weight("positions", ("decoder.decoder_pos_embed",), shape=mae_positions),
    *with_biases(
        (
            ("embed", "decoder.decoder_embed"),
            ("decoder.norm", "decoder.decoder_norm"),
            ("guess", "decoder.decoder_pred"),
        )
    ),
    *vit_layers("decoder.blocks.{}.", "decoder.decoder_layers.{}."),
)

# --------------------------------------------------------------------------------------------------- images and texts

# What older versions wrote into both inner objects, whether it meant anything there or not: it steers generation,
# or belongs to networks that classify or that a tower is no part of.
OLD_KEYS = (
    "add_cross_attention bad_words_ids begin_suppress_tokens cross_attention_hidden_size diversity_penalty do_sample "
    "early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task forced_bos_token_id "
    "forced_eos_token_id initializer_factor length_penalty max_length min_length no_repeat_ngram_size num_beam_groups "
    "num_beams num_return_sequences output_scores prefix projection_dim pruned_heads remove_invalid_values "
    "repetition_penalty return_dict_in_generate suppress_tokens temperature tf_legacy_loss tie_encoder_decoder "
    "tie_word_embeddings tokenizer_class top_k top_p torchscript typical_p use_bfloat16"
).split()
OLD_TEXT_KEYS = (
    "directionality learn_encoder output_past pooler_fc_size pooler_fn pooler_num_attention_heads pooler_num_fc_layers "
    "pooler_size_per_head pooler_type"
).split()
CLIP_IGNORED = (
    "logit_scale_init_value",
    "initializer_factor",
    *(f"{place}_config.{key}" for place in ("text", "vision") for key in OLD_KEYS),
    *(f"text_config.{key}" for key in OLD_TEXT_KEYS),
)
# An older way to give the inner objects; null where the newer one is used.
CLIP_OBJECTS = {"text_config_dict": "text_config", "vision_config_dict": "vision_config"}
CLIP_REQUIRED = {"text_config_dict": None, "vision_config_dict": None}
VISION_SETTINGS = {**inside("vision_config.", TOWER_SETTINGS, "vision."), "projection_dim": "joint"}
VISION_OPTIONAL = {
    **inside("vision_config.", TOWER_OPTIONAL),
    "vision_config.patch_size": 32,
    "vision_config.layer_norm_eps": 1e-5,
    "vision_config.hidden_act": "quick_gelu",
    "projection_dim": 512,
}
VISION_FIXED = {"vision.norm_before": True, "vision.bias_patch": False, "vision.bias_qkv": True}
VISION_CHOICES = {"vision_config.hidden_act": ("vision.mlp", ACTIVATIONS)}


def clip_layers(ours: str, theirs: str) -> tuple[Weight, ...]:
    """The tensors of the layers of either tower, under the names that theirs begin with."""
    parts = tuple(f"{theirs}self_attn.{name}_proj" for name in "qkv")
    return (
        *(Weight(f"{ours}attention.qkv.{part}", tuple(f"{name}.{part}" for name in parts)) for part in PARTS),
        *with_biases(
            (
                (ours + "attention_norm", theirs + "layer_norm1"),
                (ours + "attention.out", theirs + "self_attn.out_proj"),
                (ours + "mlp_norm", theirs + "layer_norm2"),
                (ours + "mlp.up", theirs + "mlp.fc1"),
                (ours + "mlp.down", theirs + "mlp.fc2"),
            )
        ),
    )


def scalar(config: ContrastiveConfig) -> tuple[int, ...]:
    """The scale of the scores is stored as a number without axes."""
    return ()


def bert_text(theirs: str) -> tuple[Weight, ...]:
    """The tensors of a text tower as BERT has it."""
    return tuple(Weight("text.words." + row.ours, row.theirs, row.rows) for row in bert_layers(theirs))


VISION_TENSORS = (
    Weight("scale", ("logit_scale",), shape=scalar),
    Weight("image_out.weight", ("visual_projection.weight",)),
    Weight("text_out.weight", ("text_projection.weight",)),
    Weight("vision.front.class_token", ("vision_model.embeddings.class_embedding",)),
    Weight("vision.front.positions", ("vision_model.embeddings.position_embedding.weight",)),
    Weight("vision.front.project.weight", ("vision_model.embeddings.patch_embedding.weight",)),
    *with_biases(
        (("vision.front.norm", "vision_model.pre_layrnorm"), ("vision.trunk.norm", "vision_model.post_layernorm"))
    ),
    *clip_layers("vision.trunk.blocks.{}.", "vision_model.encoder.layers.{}."),
)
CLIP_TEXT = (
    Weight("text.words.tokens.weight", ("text_model.embeddings.token_embedding.weight",)),
    Weight("text.words.positions.weight", ("text_model.embeddings.position_embedding.weight",)),
    *with_biases((("text.words.trunk.norm", "text_model.final_layer_norm"),)),
    *clip_layers("text.words.trunk.blocks.{}.", "text_model.encoder.layers.{}."),
)
CLIP_TEXT_SETTINGS = {
    "vocab_size": "trunk.vocabulary",
    "hidden_size": "trunk.width",
    "num_hidden_layers": "trunk.layers",
    "num_attention_heads": "trunk.heads",
    "intermediate_size": "trunk.hidden",
    "max_position_embeddings": "trunk.max_positions",
    "layer_norm_eps": "trunk.norm_eps",
    "eos_token_id": "end_id",
}
CLIP_TEXT_OPTIONAL = {
    "vocab_size": 49_408,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2_048,
    "max_position_embeddings": 77,
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49_407,
    "hidden_act": "quick_gelu",
}
CLIP_TEXT_FIXED = {"tied": True, "causal": True, "position": "learned", **LAYER_NORM_BIASES}
BERT_TEXT_FIXED = {**inside("text.", BERT_FIXED), "text.end_id": None}
BERT_TEXT_CHOICES = {"text_config.hidden_act": ("text." + BERT_ACTIVATIONS[0], BERT_ACTIVATIONS[1])}
ALTCLIP_OPTIONAL = {
    **BERT_OPTIONAL,
    "vocab_size": 250_002,
    "hidden_size": 1_024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4_096,
    "max_position_embeddings": 514,
    "layer_norm_eps": 1e-5,
    "type_vocab_size": 1,
    "project_dim": 768,
}
ABSOLUTE = {"text_config.position_embedding_type": "absolute"}

PICTURES = (
    Family(
        name="vit",
        architecture="ViTForImageClassification",
        config=ViTConfig,
        build=ViT,
        settings={**VIT_SETTINGS, "num_labels": "classes"},
        fixed={"pooled": False},
        optional={**VIT_OPTIONAL, "num_labels": 2},
        choices=VIT_CHOICES,
        ignored=("encoder_stride", "pooler_output_size", "pooler_act"),
        tensors=(*vit_tower("vit."), *with_biases((("head", "classifier"),))),
    ),
    Family(
        name="vit-encoder",
        model_type="vit",
        architecture="ViTModel",
        config=ViTConfig,
        build=ViT,
        settings=VIT_SETTINGS,
        fixed={"classes": None, "pooled": True},
        required={"pooler_act": "tanh"},
        optional=VIT_OPTIONAL,
        equal={"pooler_output_size": "hidden_size"},
        choices=VIT_CHOICES,
        ignored=("encoder_stride", "num_labels"),
        tensors=(*vit_tower(""), *with_biases((("pooler", "pooler.dense"),))),
    ),
    Family(
        name="vit_mae",
        architecture="ViTMAEForPreTraining",
        config=MaskedAutoencoderConfig,
        build=MaskedAutoencoder,
        settings=MAE_SETTINGS,
        optional=MAE_OPTIONAL,
        choices=VIT_CHOICES,
        tensors=(*vit_tower("vit."), *MAE_DECODER),
        other_names={"decoder.decoder_encoder.layer.": "decoder.decoder_layers."},  # transformers 5 writes it back so
    ),
    Family(
        name="clip",
        architecture="CLIPModel",
        config=ContrastiveConfig,
        build=ContrastiveModel,
        settings={**VISION_SETTINGS, **inside("text_config.", CLIP_TEXT_SETTINGS, "text.")},
        fixed={**VISION_FIXED, **inside("text.trunk.", CLIP_TEXT_FIXED), "text.segments": None, "text.last": None},
        required=CLIP_REQUIRED,
        optional={**VISION_OPTIONAL, **inside("text_config.", CLIP_TEXT_OPTIONAL)},
        choices={**VISION_CHOICES, "text_config.hidden_act": ("text.trunk.mlp", ACTIVATIONS)},
        ignored=CLIP_IGNORED,
        old_objects=CLIP_OBJECTS,
        tensors=(*VISION_TENSORS, *CLIP_TEXT),
        derived=("embeddings.position_ids",),
    ),
    Family(
        name="chinese_clip",
        architecture="ChineseCLIPModel",
        config=ContrastiveConfig,
        build=ContrastiveModel,
        settings={**VISION_SETTINGS, **inside("text_config.", BERT_SETTINGS, "text.")},
        fixed={**VISION_FIXED, **BERT_TEXT_FIXED, "text.first_position": 0, "text.last": None},
        required={**CLIP_REQUIRED, **ABSOLUTE},
        optional={**VISION_OPTIONAL, **inside("text_config.", BERT_OPTIONAL)},
        choices={**VISION_CHOICES, **BERT_TEXT_CHOICES},
        ignored=CLIP_IGNORED,
        old_objects=CLIP_OBJECTS,
        tensors=(*VISION_TENSORS, *bert_text("text_model.")),
        derived=("embeddings.position_ids",),
    ),
    Family(
        name="altclip",
        architecture="AltCLIPModel",
        config=ContrastiveConfig,
        build=ContrastiveModel,
        settings={
            **VISION_SETTINGS,
            **inside("text_config.", {**BERT_SETTINGS, "project_dim": "last"}, "text."),
        },
        # Positions are counted from the row behind that of padding, so the id of padding says where they begin.
        fixed={**VISION_FIXED, **BERT_TEXT_FIXED, "text.first_position": 2},
        required={**CLIP_REQUIRED, **ABSOLUTE, "text_config.pad_token_id": 1},
        optional={**VISION_OPTIONAL, **inside("text_config.", ALTCLIP_OPTIONAL), "projection_dim": 768},
        choices={**VISION_CHOICES, **BERT_TEXT_CHOICES},
        ignored=(*CLIP_IGNORED, "direct_kd"),
        old_objects=CLIP_OBJECTS,
        other_names={"vision_model.encoder.layer.": "vision_model.encoder.layers."},  # transformers 5 writes it back so
        tensors=(
            *VISION_TENSORS,
            *bert_text("text_model.roberta."),
            *with_biases((("text.norm", "text_model.pre_LN"), ("text.product", "text_model.transformation"))),
        ),
        derived=("embeddings.position_ids",),
    ),
)
