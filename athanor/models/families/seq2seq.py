"""Networks that read a source and write: one row per family, and what they call their tensors."""

from athanor.models.families.family import LAYER_NORM_BIASES, Family, Weight, with_biases
from athanor.models.seq2seq import EncoderDecoder, EncoderDecoderConfig
from athanor.models.speech import SpeechConfig, SpeechModel

# --- T5 and mT5 ---------------------------------------------------------------------------------------------------


def t5_trunk(trunk: str, ups: tuple[str, ...]) -> tuple[Weight, ...]:
    """One of the two trunks; `ups` are their names of the first products of a feed-forward layer."""
    ours, theirs = trunk + ".blocks.{}.", trunk + ".block.{}.layer."
    own, last = theirs + "0.SelfAttention.", theirs + ("2." if trunk == "decoder" else "1.")
    return (
        Weight(trunk + ".norm.weight", (trunk + ".final_layer_norm.weight",)),
        Weight(
            trunk + ".distance_bias.weight", (trunk + ".block.0.layer.0.SelfAttention.relative_attention_bias.weight",)
        ),
        Weight(ours + "attention_norm.weight", (theirs + "0.layer_norm.weight",)),
        Weight(ours + "attention.qkv.weight", tuple(f"{own}{name}.weight" for name in "qkv")),
        Weight(ours + "attention.out.weight", (own + "o.weight",)),
        Weight(ours + "mlp_norm.weight", (last + "layer_norm.weight",)),
        Weight(ours + "mlp.up.weight", tuple(f"{last}DenseReluDense.{name}.weight" for name in ups)),
        Weight(ours + "mlp.down.weight", (last + "DenseReluDense.wo.weight",)),
    )


def t5_tensors(*ups: str) -> tuple[Weight, ...]:
    """The tensors of the whole network."""
    ours, theirs = "decoder.blocks.{}.cross", "decoder.block.{}.layer.1."
    return (
        Weight("tokens.weight", ("shared.weight",)),
        Weight("head.weight", ("lm_head.weight",)),
        *t5_trunk("encoder", ups),
        *t5_trunk("decoder", ups),
        Weight(ours + "_norm.weight", (theirs + "layer_norm.weight",)),
        Weight(ours + ".q.weight", (theirs + "EncDecAttention.q.weight",)),
        Weight(ours + ".kv.weight", (theirs + "EncDecAttention.k.weight", theirs + "EncDecAttention.v.weight")),
        Weight(ours + ".out.weight", (theirs + "EncDecAttention.o.weight",)),
    )


T5_PLAIN, T5_GATED = t5_tensors("wi"), t5_tensors("wi_0", "wi_1")
T5_COPIES = {f"{trunk}.embed_tokens.weight": "shared.weight" for trunk in ("encoder", "decoder")}
T5_DERIVED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)  # in old files, never used
T5_SETTINGS = {
    "vocab_size": "vocabulary",
    "d_model": "encoder.width",
    "d_kv": "encoder.head_width",
    "d_ff": "encoder.hidden",
    "num_layers": "encoder.layers",
    "num_decoder_layers": "decoder_layers",
    "num_heads": "encoder.heads",
    "relative_attention_num_buckets": "encoder.buckets",
    "relative_attention_max_distance": "encoder.farthest",
    "layer_norm_epsilon": "encoder.norm_eps",
    "tie_word_embeddings": "tied",
}
T5_OPTIONAL = {
    "vocab_size": 32_128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2_048,
    "num_layers": 6,
    "num_decoder_layers": None,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "tie_word_embeddings": True,
    "scale_decoder_outputs": None,
    "feed_forward_proj": "relu",
}
T5_FIXED = {
    "encoder.causal": False,
    "encoder.position": "buckets",
    "encoder.max_positions": 512,  # what it was trained on (Raffel et al. 2020, section 3.1.2); no limit
    "encoder.attention_scale": 1.0,
    "padding": None,
    "decoder_positions": None,
    "scale_embedding": False,
}
T5_IGNORED = ("dropout_rate", "n_positions", "output_past", "initializer_factor", "tokenizer_class")
GATED_GELU = {"is_gated_act": True, "dense_act_fn": "gelu_new"}

# --- M2M-100 and Whisper ------------------------------------------------------------------------------------------


def attention_parts(ours: str, theirs: str, joined: str, key_bias: bool) -> tuple[Weight, ...]:
    """One of our joined products, 'qkv' or 'kv'; where their keys have no bias, ours has no influence and is zero."""
    return tuple(
        Weight(
            f"{ours}.{joined}.{part}",
            tuple(
                None if (name, part, key_bias) == ("k", "bias", False) else f"{theirs}.{name}_proj.{part}"
                for name in joined
            ),
        )
        for part in ("weight", "bias")
    )


def layer_tensors(ours: str, theirs: str, trunk: str, key_bias: bool = True) -> tuple[Weight, ...]:
    """One trunk; ours and theirs are the places it stands in."""
    block, layer = f"{ours}{trunk}.blocks.{{}}.", f"{theirs}{trunk}.layers.{{}}."
    parts = [
        (f"{ours}{trunk}.norm", f"{theirs}{trunk}.layer_norm"),
        (block + "attention_norm", layer + "self_attn_layer_norm"),
        (block + "attention.out", layer + "self_attn.out_proj"),
        (block + "mlp_norm", layer + "final_layer_norm"),
        (block + "mlp.up", layer + "fc1"),
        (block + "mlp.down", layer + "fc2"),
    ]
    own = attention_parts(block + "attention", layer + "self_attn", "qkv", key_bias)
    if trunk == "encoder":
        return (*own, *with_biases(tuple(parts)))
    parts += [
        (block + "cross_norm", layer + "encoder_attn_layer_norm"),
        (block + "cross.q", layer + "encoder_attn.q_proj"),
        (block + "cross.out", layer + "encoder_attn.out_proj"),
    ]
    return (*own, *attention_parts(block + "cross", layer + "encoder_attn", "kv", key_bias), *with_biases(tuple(parts)))


M2M_TENSORS = (
    Weight("tokens.weight", ("model.shared.weight",)),
    *layer_tensors("", "model.", "encoder"),
    *layer_tensors("", "model.", "decoder"),
)
M2M_COPIES = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
WHISPER_TENSORS = (
    Weight("places", ("model.encoder.embed_positions.weight",)),
    Weight("text.tokens.weight", ("model.decoder.embed_tokens.weight",)),
    Weight("text.positions.weight", ("model.decoder.embed_positions.weight",)),
    Weight("text.head.weight", ("proj_out.weight",)),
    *with_biases((("first", "model.encoder.conv1"), ("second", "model.encoder.conv2"))),
    *layer_tensors("text.", "model.", "encoder", key_bias=False),
    *layer_tensors("text.", "model.", "decoder", key_bias=False),
)
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "quick_gelu": "quick_gelu"}


def bart_settings(place: str) -> dict[str, str]:
    """The keys that M2M-100 and Whisper have from their ancestor, for a config that stands in this place of ours."""
    return {
        "vocab_size": place + "vocabulary",
        "d_model": place + "encoder.width",
        "encoder_layers": place + "encoder.layers",
        "encoder_attention_heads": place + "encoder.heads",
        "encoder_ffn_dim": place + "encoder.hidden",
        "decoder_layers": place + "decoder_layers",
        "decoder_attention_heads": place + "decoder_heads",
        "decoder_ffn_dim": place + "decoder_hidden",
    }


def bart_fixed(place: str) -> dict[str, object]:
    """What both share."""
    fixed = {"causal": False, "position": "none", "norm_eps": 1e-5, **LAYER_NORM_BIASES}
    return {**{f"{place}encoder.{name}": value for name, value in fixed.items()}, place + "scale_head": False}


# How it is trained, or how it is to write: not what it computes.
BART_IGNORED = (
    "encoder_layerdrop",
    "decoder_layerdrop",
    "max_length",
    "num_beams",
    "early_stopping",
    "tokenizer_class",
)

SEQ2SEQ = (
    Family(
        name="t5",
        architecture="T5ForConditionalGeneration",
        config=EncoderDecoderConfig,
        build=EncoderDecoder,
        settings={**T5_SETTINGS, "scale_decoder_outputs": "scale_head"},
        fixed=T5_FIXED,
        required={"is_gated_act": False, "dense_act_fn": "relu"},
        optional=T5_OPTIONAL,
        choices={"feed_forward_proj": ("encoder.mlp", {"relu": "relu"})},
        ignored=T5_IGNORED,
        tensors=T5_PLAIN,
        copies=T5_COPIES,
        derived=T5_DERIVED,
    ),
    Family(
        name="t5-gated",  # T5 v1.1, FLAN-T5
        model_type="t5",
        architecture="T5ForConditionalGeneration",
        marks=("feed_forward_proj=gated-gelu",),
        config=EncoderDecoderConfig,
        build=EncoderDecoder,
        settings={**T5_SETTINGS, "scale_decoder_outputs": "scale_head"},
        fixed=T5_FIXED,
        required=GATED_GELU,
        optional=T5_OPTIONAL,
        choices={"feed_forward_proj": ("encoder.mlp", {"gated-gelu": "geglu"})},
        ignored=T5_IGNORED,
        tensors=T5_GATED,
        copies=T5_COPIES,
        derived=T5_DERIVED,
    ),
    Family(
        name="mt5",
        architecture="MT5ForConditionalGeneration",
        config=EncoderDecoderConfig,
        build=EncoderDecoder,
        settings=T5_SETTINGS,
        fixed={**T5_FIXED, "scale_head": False},
        required=GATED_GELU,
        optional={
            **T5_OPTIONAL,
            "vocab_size": 250_112,
            "d_ff": 1_024,
            "num_layers": 8,
            "num_heads": 6,
            "feed_forward_proj": "gated-gelu",
        },
        choices={"feed_forward_proj": ("encoder.mlp", {"gated-gelu": "geglu"})},
        ignored=T5_IGNORED,
        tensors=T5_GATED,
        copies=T5_COPIES,
        derived=T5_DERIVED,
    ),
    Family(
        name="m2m_100",
        architecture="M2M100ForConditionalGeneration",
        config=EncoderDecoderConfig,
        build=EncoderDecoder,
        settings={
            **bart_settings(""),
            "max_position_embeddings": "encoder.max_positions",
            "pad_token_id": "padding",
            "scale_embedding": "scale_embedding",
        },
        fixed={**bart_fixed(""), "tied": True, "decoder_positions": None},
        required={"tie_word_embeddings": True},
        optional={
            "vocab_size": 128_112,
            "d_model": 1_024,
            "encoder_layers": 12,
            "encoder_attention_heads": 16,
            "encoder_ffn_dim": 4_096,
            "decoder_layers": 12,
            "decoder_attention_heads": 16,
            "decoder_ffn_dim": 4_096,
            "max_position_embeddings": 1_024,
            "pad_token_id": 1,
            "scale_embedding": True,
            "activation_function": "relu",
        },
        choices={"activation_function": ("encoder.mlp", ACTIVATIONS)},
        equal={"num_hidden_layers": "encoder_layers"},
        ignored=BART_IGNORED,
        tensors=M2M_TENSORS,
        copies=dict.fromkeys(M2M_COPIES, "model.shared.weight"),
        derived=(".embed_positions.weights",),
    ),
    Family(
        name="whisper",
        architecture="WhisperForConditionalGeneration",
        config=SpeechConfig,
        build=SpeechModel,
        settings={
            **bart_settings("text."),
            "num_mel_bins": "mels",
            "max_source_positions": "text.encoder.max_positions",
            "max_target_positions": "text.decoder_positions",
            "tie_word_embeddings": "text.tied",
        },
        fixed={**bart_fixed("text."), "text.padding": None, "text.scale_embedding": False},
        required={"scale_embedding": False},
        optional={
            "vocab_size": 51_865,
            "d_model": 384,
            "encoder_layers": 4,
            "encoder_attention_heads": 6,
            "encoder_ffn_dim": 1_536,
            "decoder_layers": 4,
            "decoder_attention_heads": 6,
            "decoder_ffn_dim": 1_536,
            "num_mel_bins": 80,
            "max_source_positions": 1_500,
            "max_target_positions": 448,
            "tie_word_embeddings": True,
            "activation_function": "gelu",
        },
        choices={"activation_function": ("text.encoder.mlp", ACTIVATIONS)},
        equal={"num_hidden_layers": "encoder_layers"},
        ignored=(
            *BART_IGNORED,
            "suppress_tokens",
            "begin_suppress_tokens",
            "forced_decoder_ids",
            "median_filter_width",  # of timestamps
            "use_weighted_layer_sum",  # of its classifier of sounds
            "classifier_proj_size",
            "apply_spec_augment",  # hides parts of the sound in training
            "mask_time_prob",
            "mask_time_length",
            "mask_time_min_masks",
            "mask_feature_prob",
            "mask_feature_length",
            "mask_feature_min_masks",
        ),
        tensors=WHISPER_TENSORS,
        copies={"proj_out.weight": "model.decoder.embed_tokens.weight"},
    ),
)
