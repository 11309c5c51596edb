"""Which networks we know by name: how a Hugging Face `config.json` says them, and what it calls their tensors.

A family is one row of FAMILIES. Adding one means a row here and its parity test.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from athanor.base.errors import AthanorError
from athanor.models.transformer import TransformerConfig

# Keys of a config.json that say nothing about the network itself.
HARMLESS = frozenset(
    "architectures attention_dropout attn_pdrop embd_pdrop resid_pdrop bos_token_id eos_token_id pad_token_id dtype "
    "torch_dtype initializer_range model_type transformers_version use_cache _name_or_path chunk_size_feed_forward "
    "id2label label2id output_attentions output_hidden_states return_dict problem_type task_specific_params "
    "is_encoder_decoder gradient_checkpointing sep_token_id decoder_start_token_id".split()
)


@dataclass(frozen=True)
class Weight:
    """A tensor of ours and the Hugging Face tensors it is made of, stacked along the rows; {} is the layer number.

    `rows` names the height of each piece where there are several; `transposed`: theirs is stored (in, out).
    """

    ours: str
    theirs: tuple[str, ...]
    rows: Callable[[TransformerConfig], tuple[int, ...]] | None = None
    transposed: bool = False


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
        derived: endings of tensor names that hold nothing learned and may be skipped.
        rope_settings: whether config.json carries `rope_parameters`.
    """

    name: str
    architecture: str
    settings: Mapping[str, str]
    tensors: tuple[Weight, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    required: Mapping[str, Any] = field(default_factory=dict)
    optional: Mapping[str, Any] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    rope_settings: bool = True


def qkv_rows(config: TransformerConfig) -> tuple[int, ...]:
    """Heights of q, k and v in our one tensor."""
    size = config.head_size
    return config.heads * size, config.key_heads * size, config.key_heads * size


def gate_up_rows(config: TransformerConfig) -> tuple[int, ...]:
    """Heights of gate and up in our one tensor."""
    return config.hidden, config.hidden


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
GPT2_TENSORS = (
    Weight("tokens.weight", ("transformer.wte.weight",)),
    Weight("positions.weight", ("transformer.wpe.weight",)),
    Weight("trunk.norm.weight", ("transformer.ln_f.weight",)),
    Weight("trunk.norm.bias", ("transformer.ln_f.bias",)),
    Weight("head.weight", ("lm_head.weight",)),
    *(
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
    ),
)

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
NO_WINDOW = {"use_sliding_window": False, "sliding_window": None}
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
            required={"hidden_act": "silu", **NO_WINDOW},
            optional={"tie_word_embeddings": False, "rms_norm_eps": 1e-6},
            tensors=(*OUTSIDE_LAYERS, *LLAMA_LAYER),
        ),
        Family(
            name="qwen3",
            architecture="Qwen3ForCausalLM",
            settings=LLAMA_SETTINGS,
            fixed={"norm_qk": True},
            required={"hidden_act": "silu", "attention_bias": False, **NO_WINDOW},
            optional={"tie_word_embeddings": False, "rms_norm_eps": 1e-6, "head_dim": 128},
            tensors=(*OUTSIDE_LAYERS, *LLAMA_LAYER),
        ),
        Family(
            name="glm4",
            architecture="Glm4ForCausalLM",
            settings={**LLAMA_SETTINGS, "attention_bias": "bias_qkv"},
            fixed=GLM_FIXED,
            required={"hidden_act": "silu"},
            optional={"tie_word_embeddings": False, "rms_norm_eps": 1.5625e-07, "attention_bias": False},
            tensors=(*OUTSIDE_LAYERS, *GLM4_LAYER),
        ),
        Family(
            name="gpt2",
            architecture="GPT2LMHeadModel",
            settings=GPT2_SETTINGS,
            fixed={
                "position": "learned",
                "norm": "layer",
                "mlp": "gelu_tanh",
                "bias_qkv": True,
                "bias_out": True,
                "bias_mlp": True,
            },
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
    )
}


def read_config(theirs: Mapping[str, Any], where: str) -> tuple[Family, TransformerConfig]:
    """The family and our config for a parsed config.json.

    Raises:
        AthanorError: an unknown family, a setting we do not know, or a value we cannot run; `where` is named.
    """
    if "auto_map" in theirs:
        raise AthanorError(
            f"{where}: `auto_map` asks us to run code that came with the checkpoint",
            allowed="weights and settings only",
            fix="convert it to a known family with its own library first",
        )
    family = FAMILIES.get(str(theirs.get("model_type")))
    if family is None:
        raise AthanorError(
            f"{where}: model_type={theirs.get('model_type')!r} is not a family we know", allowed=", ".join(FAMILIES)
        )
    known = {*family.settings, *family.required, *HARMLESS, *SPECIAL[family.rope_settings]}
    unknown = sorted(set(theirs) - known)
    if unknown:
        raise AthanorError(
            f"{where}: {family.name} settings we do not know: {', '.join(unknown)}",
            allowed=", ".join(sorted(known - HARMLESS)),
            fix="ignoring a setting could change the results silently, so it is refused",
        )
    for key, only in family.required.items():
        if theirs.get(key, only) != only and not (only is None and not theirs.get("use_sliding_window", False)):
            raise AthanorError(f"{where}: {key}={theirs[key]!r} is not supported", allowed=f"{key}={only!r}")
    return family, our_config(family, theirs, where)


# JSON types that may stand for each type of our fields; an integer is a fine base or epsilon, true is no layer count.
KINDS: dict[Any, tuple[type, ...]] = {int: (int,), int | None: (int,), float: (float, int), bool: (bool,)}
SPECIAL = {True: ("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor", "layer_types",
                  "max_window_layers"), False: ("n_ctx", "summary_type", "summary_use_proj",
                  "summary_activation", "summary_proj_to_labels", "summary_first_dropout")}  # fmt: skip


def our_config(family: Family, theirs: Mapping[str, Any], where: str) -> TransformerConfig:
    """Translate settings one by one and let TransformerConfig check the whole."""
    fields = dict(family.fixed)
    kinds = {name: KINDS[hint] for name, hint in get_type_hints(TransformerConfig).items() if hint in KINDS}
    for key, ours in family.settings.items():
        value = theirs.get(key, family.optional.get(key))
        if value is None and ours not in ("kv_heads", "head_width", "hidden"):
            raise AthanorError(f"{where}: {key} is missing", fix="the config.json is not complete")
        if value is not None and type(value) not in kinds[ours]:
            raise AthanorError(f"{where}: {key}={value!r}", allowed=" or ".join(kind.__name__ for kind in kinds[ours]))
        fields[ours] = value
    if fields["hidden"] is None:  # GPT-2 writes n_inner only when it is not four widths
        fields["hidden"] = 4 * fields["width"]
    if family.rope_settings:
        fields["rope_base"] = rope_base(family, theirs, where)
    try:
        return TransformerConfig(**fields).complete()
    except (ValueError, TypeError) as error:
        raise AthanorError(f"{where}: {error}") from error


def rope_base(family: Family, theirs: Mapping[str, Any], where: str) -> float:
    """The base of the rotation from either place config.json may name it; scaling is refused."""
    settings = {**(theirs.get("rope_scaling") or {}), **(theirs.get("rope_parameters") or {})}
    kind = settings.pop("rope_type", settings.pop("type", "default"))
    settings.pop("type", None)
    base = settings.pop("rope_theta", theirs.get("rope_theta", 10_000.0))
    share = settings.pop("partial_rotary_factor", theirs.get("partial_rotary_factor"))
    expected = family.fixed.get("rope_share", 1.0)
    if share is not None and share != expected:
        raise AthanorError(f"{where}: partial_rotary_factor={share} is not supported", allowed=str(expected))
    if kind != "default" or settings:
        raise AthanorError(f"{where}: rope_type={kind!r} {settings or ''} is not supported", allowed="'default'")
    layer_types = set(theirs.get("layer_types") or ())
    if layer_types - {"full_attention"}:
        raise AthanorError(f"{where}: layer_types={sorted(layer_types)}", allowed="full_attention")
    return float(base)


def their_config(family: Family, config: TransformerConfig, dtype: str) -> dict[str, Any]:
    """The config.json that makes `transformers` build this network.

    Args:
        dtype: name of the number type the weights are stored in, such as 'bfloat16'.
    """
    whole = config.complete()
    settings = {key: getattr(whole, ours) for key, ours in family.settings.items()}
    out: dict[str, Any] = {"architectures": [family.architecture], "model_type": family.name, "dtype": dtype}
    # Left out, these would take the numbers of the family's best known member, which this vocabulary may not have.
    out |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    out |= {key: value for key, value in family.required.items() if key != "pretraining_tp"} | settings
    if family.rope_settings:
        out["rope_theta"] = whole.rope_base
        out["rope_parameters"] = {"rope_type": "default", "rope_theta": whole.rope_base}
        if "rope_share" in family.fixed:
            out["partial_rotary_factor"] = out["rope_parameters"]["partial_rotary_factor"] = whole.rope_share
    return out


def family_of(config: TransformerConfig) -> Family:
    """The first family whose config.json can say exactly this network.

    Raises:
        AthanorError: when none can.
    """
    for family in FAMILIES.values():
        alike = all(getattr(config, name) == value for name, value in family.fixed.items())
        if alike and our_config(family, their_config(family, config, ""), family.name) == config.complete():
            return family
    raise AthanorError(f"no family can express {config}", allowed=", ".join(FAMILIES))
