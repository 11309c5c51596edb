"""Low-rank adapters in PEFT's layout, in and out.

Reading is strict, as for checkpoints. What the settings say must be what the file holds: every matrix that
`target_modules` promises, and no other. A setting we do not compute is refused by name unless it says nothing; so are
ways to begin training that changed the base model (PiSSA and its kind), whose weights are then not the ones we have.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.models.adapters.layout import CONFIG, PREFIX, name_of_base, read_tensor, refuse_unknown
from athanor.models.adapters.layout import SILENT as ALWAYS_SILENT
from athanor.models.adapters.lora import Adapter, LoraSettings, Matrices
from athanor.models.adapters.places import Place, places
from athanor.models.adapters.targets import escaped, shortest, targeted
from athanor.models.families import Family
from athanor.models.patterns import Pattern

A, B, LENGTH = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"

USED = frozenset(
    "r lora_alpha lora_dropout use_rslora use_dora target_modules exclude_modules layers_to_transform layers_pattern "
    "rank_pattern alpha_pattern base_model_name_or_path".split()
)
# Keys that say nothing about what is computed: about the tool, or settings of what another key switches on.
SILENT = ALWAYS_SILENT | frozenset("megatron_core qalora_group_size runtime_config fan_in_fan_out".split())
# Keys -> the values at which they say nothing; left out they have the first.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    "modules_to_save": (None, []),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "mica"),
    **dict.fromkeys(("lora_bias", "use_qalora", "ensure_weight_tying"), (False, None)),
    **dict.fromkeys(
        ("loftq_config", "layer_replication", "target_parameters", "trainable_token_indices"), (None, {}, [])
    ),
    **dict.fromkeys(
        (
            "alora_invocation_tokens", "use_bdlora", "arrow_config", "kasa_config", "megatron_config", "velora_config",
            "monteclora_config", "corda_config", "lora_ga_config", "eva_config",
        ), (None, {}),
    ),
}  # fmt: skip
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
WHY = {
    "modules_to_save": "it replaces whole layers of the model",
    "bias": "it changes the biases of the model",
    "target_parameters": "adapters of experts are not supported",
    "layer_replication": "it changes the layers of the model",
    "trainable_token_indices": "it changes rows of the embedding",
}


# ------------------------------------------------------------------------------------------------------------ reading


def read_lora(
    record: Mapping[str, Any], header: Mapping[str, Any], path: Path, where: str, family: Family, config: Any
) -> Adapter:
    """The adapter that these settings and this file are."""
    settings = read_settings(record, where)
    known = places(family, config)
    wanted = targeted(record, known, config, where)
    refuse_strangers(header, wanted, known, settings, path)
    ranks, alphas = (patterns(record, key, known, wanted, where) for key in ("rank_pattern", "alpha_pattern"))
    pieces = {}
    for name in wanted:
        place, rank = known[name], ranks.get(name, settings.rank)
        a_RK = read_tensor(path, header, PREFIX + name + A, (rank, place.inputs))
        b_PR = read_tensor(path, header, PREFIX + name + B, (place.height, rank))
        length_P = None
        if settings.decomposed:
            length_P = place.to_ours(config, read_tensor(path, header, PREFIX + name + LENGTH, (place.height,)))
        pieces[name] = Matrices(a_RK, place.to_ours(config, b_PR), alphas.get(name, settings.alpha), length_P)
    return Adapter(settings, pieces, base_name=name_of_base(record, where))


def read_settings(record: Mapping[str, Any], where: str) -> LoraSettings:
    """Settings that hold for all pieces, after every key was checked."""
    refuse_unknown({key: None for key in record if key not in SILENT and key not in NEUTRAL}, USED, where)
    for key, allowed in NEUTRAL.items():
        value = record.get(key, allowed[0])
        if key == "init_lora_weights" and isinstance(value, str) and value.startswith(CHANGES_BASE):
            raise AthanorError(
                f"{where}: {key}={value!r} changed the weights of the base model: the adapter fits none that we have",
                fix="save it with PEFT's path_initial_model_for_weight_conversion, which makes it an ordinary one",
            )
        if not any(value == one and type(value) is type(one) for one in allowed):
            why = f": {WHY[key]}" if key in WHY else ""
            raise AthanorError(
                f"{where}: {key}={value!r} is not supported{why}", allowed=", ".join(str(one) for one in allowed)
            )
    for key, kinds, kind in (
        ("r", (int,), "a whole number"), ("lora_alpha", (int, float), "a number"),
        ("lora_dropout", (int, float), "a number"), ("use_rslora", (bool,), "true or false"),
        ("use_dora", (bool,), "true or false"),
    ):  # fmt: skip
        if key in record and type(record[key]) not in kinds:
            raise AthanorError(f"{where}: {key}={record[key]!r}", allowed=kind)
    try:
        return LoraSettings(
            rank=record.get("r", 8), alpha=record.get("lora_alpha", 8), dropout=record.get("lora_dropout", 0.0),
            rank_stabilised=record.get("use_rslora", False), decomposed=record.get("use_dora", False),
        )  # fmt: skip
    except AthanorError as problem:
        key = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}[problem.what.partition("=")[0]]
        raise AthanorError(f"{where}: {key}={record[key]!r}", allowed=problem.allowed) from problem


def patterns(
    record: Mapping[str, Any], key: str, known: Mapping[str, Place], wanted: list[str], where: str
) -> dict[str, Any]:
    """Pieces with a rank or alpha of their own. The first pattern that matches the end of a name holds."""
    given = record.get(key) or {}
    if not isinstance(given, dict):
        raise AthanorError(f"{where}: {key}={given!r}", allowed="an object: patterns of names, and numbers")
    found: dict[str, Any] = {}
    for source, number in given.items():
        good = type(number) is int and number > 0 if key == "rank_pattern" else type(number) in (int, float)
        if not good or not math.isfinite(number):
            raise AthanorError(f"{where}: {key}: {source}: {number!r}", allowed="a number above 0")
        pattern = Pattern(rf"(.*\.)?({source})")
        for name in wanted:
            if name not in found and pattern.matches(name):
                found[name] = number
    return found


def refuse_strangers(
    header: Mapping[str, Any], wanted: list[str], known: Mapping[str, Place], settings: LoraSettings, path: Path
) -> None:
    """Every tensor of the file must be a matrix of a piece that the settings name."""
    ends = (A, B, LENGTH) if settings.decomposed else (A, B)
    expected = {PREFIX + name + end for name in wanted for end in ends}
    for tensor in sorted(set(header) - expected):
        stem = next((tensor.removesuffix(end) for end in (A, B, LENGTH) if tensor.endswith(end)), None)
        if stem is None:
            what = "is no matrix of an adapter that we know (embeddings, biases and saved layers are not supported)"
        elif stem.removeprefix(PREFIX) not in known:
            what = "belongs to no linear layer of this network that can have an adapter"
        elif tensor.endswith(LENGTH) and not settings.decomposed:
            what = f"is there, but {CONFIG} does not say use_dora"
        else:
            what = f"is there, but target_modules of {CONFIG} does not name its layer"
        raise AthanorError(f"{path}: {tensor} {what}", fix="was the adapter made for another model?")
    missing = sorted(expected - set(header))
    if missing:
        raise AthanorError(f"{path}: the tensor {missing[0]} is missing", fix=f"{CONFIG} says that its layer has one")


# ------------------------------------------------------------------------------------------------------------ writing


def tensors_of(adapter: Adapter, known: Mapping[str, Place], config: Any) -> dict[str, Tensor]:
    """The matrices by their names in the file, rows in the checkpoint's order."""
    tensors: dict[str, Tensor] = {}
    for name, matrices in adapter.pieces.items():
        place = known[name]
        tensors[PREFIX + name + A] = matrices.a_RK
        tensors[PREFIX + name + B] = place.to_theirs(config, matrices.b_PR.detach().cpu())
        if matrices.length_P is not None:
            tensors[PREFIX + name + LENGTH] = place.to_theirs(config, matrices.length_P.detach().cpu())
    return tensors


def their_settings(adapter: Adapter, family: Family, known: Mapping[str, Place]) -> dict[str, Any]:
    """The adapter_config.json that makes `peft` compute what we do."""
    settings = adapter.settings
    ranks = {name: matrices.rank for name, matrices in adapter.pieces.items()}
    alphas = {name: matrices.alpha for name, matrices in adapter.pieces.items()}
    rank, alpha = settings.rank, settings.alpha
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": adapter.base_name,
        "inference_mode": True, "r": rank, "lora_alpha": alpha, "lora_dropout": settings.dropout,
        "use_rslora": settings.rank_stabilised, "use_dora": settings.decomposed, "bias": "none",
        "fan_in_fan_out": any(known[name].row.transposed for name in adapter.pieces),
        "target_modules": shortest(set(adapter.pieces), family, known),
        "rank_pattern": {escaped(name): one for name, one in ranks.items() if one != rank},
        "alpha_pattern": {escaped(name): one for name, one in alphas.items() if one != alpha},
        "init_lora_weights": True, "modules_to_save": None,
    }  # fmt: skip
