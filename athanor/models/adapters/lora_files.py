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
from athanor.models.adapters.places import Place, every_place
from athanor.models.adapters.targets import escaped, named_by, shortest, targeted
from athanor.models.families import Family
from athanor.models.patterns import Pattern

A, B, LENGTH = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
EMBEDDING_A, EMBEDDING_B = ".lora_embedding_A", ".lora_embedding_B"
BESIDE = ".base_layer.weight"  # of an embedding or a head that has an adapter PEFT stores the frozen weight too
UP, DOWN = ".experts.gate_up_proj", ".experts.down_proj"

USED = frozenset(
    "r lora_alpha lora_dropout use_rslora use_dora target_modules target_parameters exclude_modules layers_pattern "
    "layers_to_transform rank_pattern alpha_pattern base_model_name_or_path".split()
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
    **dict.fromkeys(("loftq_config", "layer_replication", "trainable_token_indices"), (None, {}, [])),
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
    "layer_replication": "it changes the layers of the model",
    "trainable_token_indices": "it changes rows of the embedding",
    "ensure_weight_tying": "it ties the adapters of embedding and head",
}


# ------------------------------------------------------------------------------------------------------------ reading


def read_lora(
    record: Mapping[str, Any], header: Mapping[str, Any], path: Path, where: str, family: Family, config: Any
) -> Adapter:
    """The adapter that these settings and this file are."""
    settings = read_settings(record, where)
    known = every_place(family, config)
    wanted = chosen(record, known, config, settings, where)
    files = names_in_file(wanted, known, settings)
    refuse_strangers(header, files, known, settings, path)
    ranks, alphas = (patterns(record, key, known, wanted, where) for key in ("rank_pattern", "alpha_pattern"))
    pieces, beside = {}, {}
    for name in wanted:
        place, rank, named = known[name], ranks.get(name, settings.rank), files[name]
        count = len(place.layers)
        a_RK = read_tensor(path, header, named["a"], (rank * count, place.inputs))
        b_PR = read_tensor(path, header, named["b"], (place.height, rank * count))
        if place.experts:  # in A expert after expert, in B the experts of each rank side by side
            a_RK, b_PR = a_RK.unflatten(0, (count, rank)), b_PR.unflatten(1, (rank, count)).permute(2, 0, 1)
        length_P = None
        if settings.decomposed:
            length_P = place.to_ours(config, read_tensor(path, header, named["length"], (place.height,)))
        pieces[name] = Matrices(a_RK, place.to_ours(config, b_PR), alphas.get(name, settings.alpha), length_P)
        stored = PREFIX + name + BESIDE
        if place.kind in ("embedding", "head") and stored in header:
            shape = (place.height, place.inputs) if place.kind == "head" else (place.inputs, place.height)
            beside[name] = read_tensor(path, header, stored, shape)
    return Adapter(settings, pieces, base_name=name_of_base(record, where), beside=beside)


def chosen(
    record: Mapping[str, Any], known: Mapping[str, Place], config: Any, settings: LoraSettings, where: str
) -> list[str]:
    """Names of the pieces with matrices: layers by `target_modules`, routers and experts by `target_parameters`."""
    layers = {name: place for name, place in known.items() if place.kind not in ("router", "experts")}
    parameters = [name for name in known if name not in layers]
    given = record.get("target_parameters") or []
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise AthanorError(f"{where}: target_parameters={given!r}", allowed="a list of names")
    unknown = [one for one in given if not named_by([one], parameters)]
    if unknown:
        raise AthanorError(
            f"{where}: target_parameters names {', '.join(unknown)}: no router and no experts of this network",
            allowed=", ".join(sorted({name.partition(".mlp.")[2] for name in parameters})) or "none",
        )
    if given and (settings.decomposed or settings.dropout or record.get("layers_to_transform")):
        raise AthanorError(
            f"{where}: target_parameters with use_dora, lora_dropout or layers_to_transform", allowed="none of these"
        )
    found = targeted(record, layers, config, where) if record.get("target_modules") or not given else []
    return [name for name in known if name in found or name in named_by(given, parameters)]


def names_in_file(wanted: list[str], known: Mapping[str, Place], settings: LoraSettings) -> dict[str, dict[str, str]]:
    """What the tensors of each piece are called: A, B and, of a decomposed adapter, lengths."""
    found = {}
    for name in wanted:
        stem, ends = name, (A, B)
        if known[name].kind == "embedding":
            ends = (EMBEDDING_A, EMBEDDING_B)
        elif known[name].kind == "router":
            stem = name.removesuffix(".weight")
        elif known[name].kind == "experts":
            stem = name.rpartition(".")[0]
            if name.endswith(UP) and name.removesuffix(UP) + DOWN in wanted:  # one wrapped by the other
                stem += ".base_layer"
        found[name] = {"a": PREFIX + stem + ends[0], "b": PREFIX + stem + ends[1]}
        if settings.decomposed:
            found[name]["length"] = PREFIX + stem + LENGTH
    return found


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
    header: Mapping[str, Any], files: Mapping[str, Mapping[str, str]], known: Mapping[str, Place],
    settings: LoraSettings, path: Path,
) -> None:  # fmt: skip
    """Every tensor of the file must be a matrix of a piece that the settings name, or the weight beside it."""
    expected = {tensor for named in files.values() for tensor in named.values()}
    allowed = {PREFIX + name + BESIDE for name in files if known[name].kind in ("embedding", "head")}
    for tensor in sorted(set(header) - expected - allowed):
        ends = (A, B, LENGTH, EMBEDDING_A, EMBEDDING_B)
        stem = next((tensor.removesuffix(end) for end in ends if tensor.endswith(end)), None)
        if stem is None:
            what = "is no matrix of an adapter that we know (biases and saved layers are not supported)"
        elif stem.removeprefix(PREFIX) not in known:
            what = "belongs to no layer of this network that can have an adapter"
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
    files = names_in_file(list(adapter.pieces), known, adapter.settings)
    for name, matrices in adapter.pieces.items():
        place, named = known[name], files[name]
        a_RK, b_PR = matrices.a_RK, place.to_theirs(config, matrices.b_PR.detach().cpu())
        if place.experts:
            a_RK, b_PR = a_RK.flatten(0, 1), b_PR.permute(1, 2, 0).flatten(1)
        tensors[named["a"]], tensors[named["b"]] = a_RK, b_PR
        if matrices.length_P is not None:
            tensors[named["length"]] = place.to_theirs(config, matrices.length_P.detach().cpu())
    return tensors


def their_settings(adapter: Adapter, family: Family, known: Mapping[str, Place]) -> dict[str, Any]:
    """The adapter_config.json that makes `peft` compute what we do."""
    settings = adapter.settings
    ranks = {name: matrices.rank for name, matrices in adapter.pieces.items()}
    alphas = {name: matrices.alpha for name, matrices in adapter.pieces.items()}
    rank, alpha = settings.rank, settings.alpha
    parameters = sorted(name for name in adapter.pieces if known[name].kind in ("router", "experts"))
    layers = {name: place for name, place in known.items() if place.kind not in ("router", "experts")}
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": adapter.base_name,
        "inference_mode": True, "r": rank, "lora_alpha": alpha, "lora_dropout": settings.dropout,
        "use_rslora": settings.rank_stabilised, "use_dora": settings.decomposed, "bias": "none",
        "fan_in_fan_out": any(known[name].row.transposed for name in adapter.pieces),
        "target_modules": shortest(set(adapter.pieces) - set(parameters), family, layers),
        "target_parameters": parameters or None,
        "rank_pattern": {escaped(name): one for name, one in ranks.items() if one != rank},
        "alpha_pattern": {escaped(name): one for name, one in alphas.items() if one != alpha},
        "init_lora_weights": True, "modules_to_save": None,
    }  # fmt: skip
