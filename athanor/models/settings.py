"""Settings in and out: a parsed `config.json` to our TransformerConfig and back, strictly.

A setting we do not know, or a value we cannot run, is refused by name: ignoring it could change results silently.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields as fields_of
from dataclasses import is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from athanor.base.errors import AthanorError
from athanor.models.config import MOST_MODULES, TransformerConfig
from athanor.models.families import FAMILIES, Family
from athanor.models.rope import RopeScaling, yarn_attention_factor

# Keys of a config.json that say nothing about the network itself.
HARMLESS = frozenset(
    "architectures model_type dtype torch_dtype transformers_version _name_or_path bos_token_id eos_token_id "
    "pad_token_id sep_token_id decoder_start_token_id initializer_range init_std use_cache chunk_size_feed_forward "
    "id2label label2id problem_type task_specific_params output_attentions output_hidden_states return_dict "
    "is_encoder_decoder is_decoder gradient_checkpointing output_router_logits router_aux_loss_coef layerdrop".split()
)
DROPPED = ("dropout", "_dropout_prob", "_dropout_rate", "_pdrop")  # endings of keys that matter in training only
ROPE_KEYS = frozenset(
    "rope_parameters rope_theta rope_scaling partial_rotary_factor layer_types max_window_layers".split()
)
WINDOW_KEYS: dict[str, tuple[str, ...]] = {
    "none": (),
    "always": ("sliding_window",),
    "switched": ("sliding_window", "use_sliding_window"),
    "by_layer": ("sliding_window", "use_sliding_window"),
}
EXPERT_LAYER_KEYS = ("decoder_sparse_step", "mlp_only_layers")


def read_config(theirs: Mapping[str, Any], where: str) -> tuple[Family, Any]:
    """The family and our config for a parsed config.json.

    Raises:
        AthanorError: an unknown family, a setting we do not know, or a value we cannot run; `where` is named.
    """
    family = named_family(theirs, where)
    if "auto_map" in theirs and "auto_map" not in family.ignored:
        raise AthanorError(
            f"{where}: `auto_map` asks us to run code that came with the checkpoint",
            allowed="weights and settings only",
            fix="convert it to a known family with its own library first",
        )
    theirs = renamed(family, theirs, where)
    known = known_keys(family)
    unknown = sorted(key for key in leaves(theirs, known) if key not in known and not harmless(key))
    if unknown:
        raise AthanorError(
            f"{where}: {family.name} settings we do not know: {', '.join(unknown)}",
            allowed=", ".join(sorted(known)),
            fix="ignoring a setting could change the results silently, so it is refused",
        )
    for key, only in family.required.items():
        given = look_up(theirs, key, only)
        if given != only:
            raise AthanorError(f"{where}: {key}={given!r} is not supported", allowed=f"{key}={only!r}")
    for key, other in family.equal.items():
        if look_up(theirs, key) not in (None, look_up(theirs, other)):
            raise AthanorError(f"{where}: {key}={look_up(theirs, key)!r} is not supported", allowed=f"the {other}")
    return family, our_config(family, theirs, where)


def named_family(theirs: Mapping[str, Any], where: str) -> Family:
    """The family a config.json is of: by its model_type, then by the network it names, then by keys only one has."""
    given, built = theirs.get("model_type"), theirs.get("architectures") or ()
    rows = [family for family in FAMILIES.values() if family.type == given]
    if not rows:
        known = ", ".join(sorted({family.type for family in FAMILIES.values()}))
        raise AthanorError(f"{where}: model_type={given!r} is not a family we know", allowed=known)
    if not isinstance(built, list | tuple):
        raise AthanorError(f"{where}: architectures={built!r}", allowed="a list of names")
    rows = [family for family in rows if family.architecture in built] or rows
    return max(rows, key=lambda family: all(marked(theirs, mark) for mark in family.marks) and len(family.marks))


def marked(theirs: Mapping[str, Any], mark: str) -> bool:
    """Whether a config.json has a key that is set, or, for `key=value`, one of that value."""
    key, named, value = mark.partition("=")
    return theirs.get(key) == value if named else bool(theirs.get(key))


def harmless(key: str) -> bool:
    """Whether a key says nothing about what a trained network computes."""
    name = key.split(".")[-1]
    return name in HARMLESS or name.endswith(DROPPED)


def look_up(theirs: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """A value of config.json by its key, with dots where it stands inside another object."""
    value: Any = theirs
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def leaves(theirs: Mapping[str, Any], known: set[str], prefix: str = "") -> Iterator[str]:
    """The keys of config.json, those of an object one by one where we know some of them."""
    for name, value in theirs.items():
        key = prefix + name
        if isinstance(value, Mapping) and any(other.startswith(key + ".") for other in known):
            yield from leaves(value, known, key + ".")
        else:
            yield key


def renamed(family: Family, theirs: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings with other names of keys replaced by those we write."""
    out = {key: value for key, value in theirs.items() if key not in family.old_keys}
    for old, key in family.old_keys.items():
        if old in theirs and theirs[old] != out.setdefault(key, theirs[old]):
            raise AthanorError(f"{where}: {old}={theirs[old]!r} contradicts {key}={out[key]!r}")
    for old, key in family.old_objects.items():
        if isinstance(out.get(old), Mapping):
            start = key + "."
            defaults = {
                name.removeprefix(start): only for name, only in family.optional.items() if name.startswith(start)
            }
            out[key] = {**(out.get(key) or {}), **defaults, **out.pop(old)}
    count_labels(family, out, where)
    return out


def count_labels(family: Family, theirs: dict[str, Any], where: str) -> None:
    """Set the number of classes from the names of the classes, where only those are given."""
    labels = theirs.get("id2label")
    if "num_labels" in family.settings and isinstance(labels, Mapping):
        if theirs.setdefault("num_labels", len(labels)) != len(labels):
            raise AthanorError(
                f"{where}: num_labels={theirs['num_labels']!r} contradicts id2label: {len(labels)} names"
            )


def known_keys(family: Family) -> set[str]:
    """Every key of config.json that says something about a network of this family."""
    known = {*family.settings, *family.required, *family.equal, *family.choices, *family.ignored}
    known |= {*WINDOW_KEYS[family.windows], *(ROPE_KEYS if family.rope_settings else ())}
    known |= set() if family.rotated is None else {family.rotated}
    return known | set(EXPERT_LAYER_KEYS if family.dense_layers else ())


# JSON types that may stand for each type of our fields; an integer is a fine base or epsilon, true is no layer count.
KINDS: dict[Any, tuple[type, ...]] = {int: (int,), float: (float, int), bool: (bool,), str: (str,), tuple: (list,)}


def our_config(family: Family, theirs: Mapping[str, Any], where: str) -> Any:
    """Translate settings one by one and let our config check the whole."""
    fields = dict(family.fixed)
    for key, ours in family.settings.items():
        fields[ours] = read_setting(family, theirs, key, where)
    for name in [name.removesuffix("width") + "hidden" for name in fields if name.split(".")[-1] == "width"]:
        if fields.get(name) is None:  # GPT-2 writes n_inner only when it is not four widths; GPT-1 has no such key
            fields[name] = 4 * fields[name.removesuffix("hidden") + "width"]
    for key, (ours, values) in family.choices.items():
        value = look_up(theirs, key, family.optional.get(key))
        if isinstance(value, list | dict) or value not in values:
            allowed = ", ".join(map(str, values))
            raise AthanorError(f"{where}: {key}={value!r} is not supported", allowed=allowed)
        fields[ours] = values[value]
    try:
        if family.rope_settings:
            fields |= read_rope(family, theirs, fields["max_positions"], where)
            fields |= read_windows(family, theirs, fields["layers"], where)
        if family.rotated:
            fields["rope_share"] = read_rotated(family, theirs, fields["width"] / max(1, fields["heads"]), where)
        if family.dense_layers:
            fields["expert_layers"] = read_expert_layers(theirs, fields["layers"], where)
        return complete(build_config(family.config, fields))
    except (ValueError, TypeError, ArithmeticError) as error:  # the last: of counts and shares that are 0 or infinite
        raise AthanorError(f"{where}: {error}") from error


def read_setting(family: Family, theirs: Mapping[str, Any], key: str, where: str) -> Any:
    """One value of config.json, of the type that our field has; lists become tuples."""
    value, hint = look_up(theirs, key, family.optional.get(key)), field_type(family.config, family.settings[key])
    kinds = {get_origin(one) or one for one in (get_args(hint) if isinstance(hint, UnionType) else (hint,))}
    if value is None:
        if key not in family.optional and (NoneType not in kinds or family.settings[key].endswith("vocabulary")):
            if not family.settings[key].endswith("hidden"):
                raise AthanorError(f"{where}: {key} is missing", fix="the config.json is not complete")
        return None
    allowed = [kind for one in kinds if one in KINDS for kind in KINDS[one]]
    if type(value) not in allowed:
        raise AthanorError(f"{where}: {key}={value!r}", allowed=" or ".join(kind.__name__ for kind in allowed))
    if family.settings[key].endswith(("layers", "experts")) and type(value) is int and value > MOST_MODULES:
        raise AthanorError(
            f"{where}: {key}={value}", allowed=f"at most {MOST_MODULES:,}"
        )  # before lists of that length
    if key in family.converted:
        return family.converted[key][0](value)
    return tuple(value) if isinstance(value, list) else value


def field_type(config: type, path: str) -> Any:
    """The type of one of our fields, with dots where it stands inside another config."""
    for part in path.split("."):
        config = get_type_hints(config)[part]
    return config


def build_config(config: type, fields: Mapping[str, Any]) -> Any:
    """Our config from its fields; those with a dot belong to a config inside it."""
    plain = {name: value for name, value in fields.items() if "." not in name}
    for inner in sorted({name.split(".")[0] for name in fields if "." in name}):
        own = {name.removeprefix(inner + "."): fields[name] for name in fields if name.startswith(inner + ".")}
        plain[inner] = build_config(field_type(config, inner), own)
    return config(**plain)


def complete(config: Any) -> Any:
    """A config with every trunk in it completed."""
    if isinstance(config, TransformerConfig):
        return config.complete()
    inner = {one.name: getattr(config, one.name) for one in fields_of(config)}
    return replace(config, **{name: complete(value) for name, value in inner.items() if is_dataclass(value)})


def field_of(config: Any, path: str) -> Any:
    """The value of one of our fields, with dots where it stands inside another config."""
    for part in path.split("."):
        config = getattr(config, part)
    return config


def read_rope(family: Family, theirs: Mapping[str, Any], positions: int, where: str) -> dict[str, Any]:
    """Base, share and scaling of the rotation, from `rope_parameters` or the older `rope_scaling`."""
    given = []
    for key in ("rope_scaling", "rope_parameters"):
        settings = theirs.get(key) or {}
        if not isinstance(settings, Mapping):
            raise AthanorError(f"{where}: {key}={settings!r}", allowed="an object, or null")
        given.append({"rope_type" if name == "type" else name: value for name, value in settings.items()})
    old, new = given
    clash = sorted(key for key in old.keys() & new.keys() if old[key] != new[key])
    if clash:
        told = f"rope_scaling has {clash[0]}={old[clash[0]]!r}, rope_parameters {new[clash[0]]!r}"
        raise AthanorError(f"{where}: {told}", fix="keep the one that is meant")
    settings = {key: value for key, value in {**old, **new}.items() if value is not None}
    kind = settings.pop("rope_type", "default")
    base = settings.pop("rope_theta", theirs.get("rope_theta", family.optional.get("rope_theta", 10_000.0)))
    if type(base) not in (int, float):
        raise AthanorError(f"{where}: rope_theta={base!r}", allowed="a number")
    share = settings.pop("partial_rotary_factor", theirs.get("partial_rotary_factor"))
    expected = family.fixed.get("rope_share", 1.0)
    if "partial_rotary_factor" in family.optional:
        share = expected = family.optional["partial_rotary_factor"] if share is None else share
    if share is not None and share != expected:
        raise AthanorError(f"{where}: partial_rotary_factor={share} is not supported", allowed=str(expected))
    scaling = None if kind == "default" else read_scaling(kind, settings, positions, where)
    if scaling is None and settings:
        raise AthanorError(f"{where}: rope_type='default' takes no {', '.join(sorted(settings))}")
    return {"rope_base": float(base), "rope_share": float(expected), "rope_scaling": scaling}


# Kind of scaling -> their key -> ours; a value of its own is what `transformers` takes when the key is missing.
SCALING_KEYS = {
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_positions",
        "attention_factor": "attention_factor",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "truncate": "whole_bounds",
    },
    "llama3": {
        "factor": "factor",
        "original_max_position_embeddings": "original_positions",
        "low_freq_factor": "low_factor",
        "high_freq_factor": "high_factor",
    },
}


def read_scaling(kind: Any, settings: Mapping[str, Any], positions: int, where: str) -> RopeScaling:
    """One of the four scalings we know, from their keys; what is missing gets the value `transformers` takes."""
    if not isinstance(kind, str) or kind not in SCALING_KEYS:
        raise AthanorError(
            f"{where}: rope_type={kind!r} is not supported", allowed=f"default, {', '.join(SCALING_KEYS)}"
        )
    keys = SCALING_KEYS[kind]
    magnitudes = ("mscale", "mscale_all_dim") if kind == "yarn" else ()
    unknown = sorted(set(settings) - set(keys) - set(magnitudes))
    if unknown:
        raise AthanorError(f"{where}: rope_type={kind!r} takes no {', '.join(unknown)}", allowed=", ".join(keys))
    for key, value in settings.items():
        if type(value) not in ((bool,) if key == "truncate" else (int, float)):
            raise AthanorError(
                f"{where}: {key}={value!r}", allowed="true or false" if key == "truncate" else "a number"
            )
    values = {"original_max_position_embeddings": positions, **settings}
    if kind == "yarn" and "factor" in settings:
        factor, whole, part = settings["factor"], settings.get("mscale"), settings.get("mscale_all_dim")
        attention = yarn_attention_factor(factor)
        if whole and part:
            attention = yarn_attention_factor(factor, whole) / yarn_attention_factor(factor, part)
        values = {"attention_factor": attention, "beta_fast": 32, "beta_slow": 1, "truncate": True, **values}
    missing = sorted(set(keys) - set(values))
    if missing:
        raise AthanorError(f"{where}: rope_type={kind!r} needs {', '.join(missing)}")
    return RopeScaling(kind=kind, **{ours: values[key] for key, ours in keys.items()})


def read_rotated(family: Family, theirs: Mapping[str, Any], head_size: float, where: str) -> float:
    """The share of each head that is rotated, from the count of its rotated numbers."""
    count = theirs.get(family.rotated, family.optional.get(family.rotated))
    if type(count) is not int or int(head_size * (count / head_size)) != count or count > head_size:
        raise AthanorError(f"{where}: {family.rotated}={count!r}", allowed=f"a whole number up to {head_size:g}")
    return count / head_size


def read_windows(family: Family, theirs: Mapping[str, Any], layers: int, where: str) -> dict[str, Any]:
    """Size of the window, and the layers that look through it."""
    switched_on = family.windows == "always" or bool(theirs.get("use_sliding_window", False))
    size = theirs.get("sliding_window", family.optional.get("sliding_window")) if switched_on else None
    if size is not None and type(size) is not int:
        raise AthanorError(f"{where}: sliding_window={size!r}", allowed="a whole number, or null")
    kinds = theirs.get("layer_types")
    if kinds is None:
        first = theirs.get("max_window_layers", 28) if family.windows == "by_layer" else 0
        if type(first) is not int:
            raise AthanorError(f"{where}: max_window_layers={first!r}", allowed="a whole number")
        chosen = tuple(range(max(first, 0), layers))
    else:
        possible = {"full_attention"} if size is None else {"full_attention", "sliding_attention"}
        if not isinstance(kinds, list) or len(kinds) != layers or not set(map(str, kinds)) <= possible:
            raise AthanorError(f"{where}: layer_types={kinds}", allowed=f"{layers} of {', '.join(sorted(possible))}")
        chosen = tuple(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention")
        if size is not None and family.windows != "by_layer" and len(chosen) != layers:
            raise AthanorError(f"{where}: layer_types={kinds}", allowed="sliding_attention in every layer")
    return {"window": size, "window_layers": chosen} if size is not None and chosen else {}


def read_expert_layers(theirs: Mapping[str, Any], layers: int, where: str) -> tuple[int, ...]:
    """The layers that have experts: every `decoder_sparse_step`-th one, without `mlp_only_layers`."""
    step, dense = theirs.get("decoder_sparse_step", 1), theirs.get("mlp_only_layers") or []
    if type(step) is not int or step < 1:
        raise AthanorError(f"{where}: decoder_sparse_step={step!r}", allowed="a whole number from 1")
    if not isinstance(dense, list) or not all(type(layer) is int for layer in dense):
        raise AthanorError(f"{where}: mlp_only_layers={dense!r}", allowed="a list of layer numbers")
    return tuple(layer for layer in range(layers) if layer not in dense and (layer + 1) % step == 0)


def their_config(family: Family, config: Any, dtype: str) -> dict[str, Any]:
    """The config.json that makes `transformers` build this network.

    Args:
        dtype: name of the number type the weights are stored in, such as 'bfloat16'.
    """
    whole = complete(config)
    # Left out, these would take the numbers of the family's best known member, which this vocabulary may not have.
    out: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    out |= {"architectures": [family.architecture], "model_type": family.type, "dtype": dtype}
    for key, only in family.required.items():
        if key != "pretraining_tp":
            put(out, key, only)
    for key, ours in family.settings.items():
        value = field_of(whole, ours)
        value = family.converted[key][1](value) if key in family.converted else value
        put(out, key, list(value) if isinstance(value, tuple) else value)
    for key, (ours, values) in family.choices.items():
        put(out, key, next((theirs for theirs, value in values.items() if value == field_of(whole, ours)), None))
    if family.rope_settings:
        out["rope_theta"] = whole.rope_base
        out["rope_parameters"] = {"rope_type": "default", "rope_theta": whole.rope_base}
        if whole.rope_scaling is not None:
            kind = whole.rope_scaling.kind
            scaled = {key: getattr(whole.rope_scaling, ours) for key, ours in SCALING_KEYS[kind].items()}
            out["rope_parameters"] |= {"rope_type": kind, **scaled}
        if "rope_share" in family.fixed or "partial_rotary_factor" in family.optional:
            out["partial_rotary_factor"] = out["rope_parameters"]["partial_rotary_factor"] = whole.rope_share
    if family.rotated:
        out[family.rotated] = whole.rotated
    if family.dense_layers:
        dense = [layer for layer in range(whole.layers) if not whole.routed(layer)]
        out |= {"decoder_sparse_step": 1, "mlp_only_layers": dense}
    return out | (their_windows(family, whole) if family.rope_settings else {})


def put(out: dict[str, Any], key: str, value: Any) -> None:
    """Set a value of config.json by its key, with dots where it stands inside another object."""
    *places, name = key.split(".")
    for place in places:
        out = out.setdefault(place, {})
    out[name] = value


def their_windows(family: Family, config: TransformerConfig) -> dict[str, Any]:
    """What config.json says about windows."""
    out: dict[str, Any] = {}
    if "sliding_window" in WINDOW_KEYS[family.windows]:
        out["sliding_window"] = config.window
    if "use_sliding_window" in WINDOW_KEYS[family.windows]:
        out["use_sliding_window"] = config.window is not None
    if family.windows == "by_layer" and config.window is not None:
        windowed = [config.windowed(layer) for layer in range(config.layers)]
        out["layer_types"] = ["sliding_attention" if sees_less else "full_attention" for sees_less in windowed]
        out["max_window_layers"] = windowed.index(True)  # for readers that know no layer_types
    return out


def family_of(config: Any, name: str | None = None) -> Family:
    """The family of that name, or the first one whose config.json can say exactly this network.

    Raises:
        AthanorError: when none can.
    """
    for family in FAMILIES.values() if name is None else [FAMILIES[name]]:
        if family.config is type(config) and says(family, config):
            return family
    raise AthanorError(
        f"{'no family can' if name is None else f'the family {name} cannot'} express {config}",
        allowed=", ".join(FAMILIES),
    )


def says(family: Family, config: Any) -> bool:
    """Whether the family has what the network has, and its config.json, read again, gives the same network."""
    if any(field_of(config, name) != value for name, value in family.fixed.items()):
        return False
    try:
        return our_config(family, their_config(family, config, ""), family.name) == complete(config)
    except AthanorError:  # a setting the family needs, and this network has not
        return False
