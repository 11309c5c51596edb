"""Adapters in PEFT's layout, in and out: adapter_config.json and adapter_model.safetensors.

Reading is strict, as for checkpoints. What the settings say must be what the file holds: every matrix that
`target_modules` promises, and no other. A setting we do not compute is refused by name unless it says nothing; so are
ways to begin training that changed the base model (PiSSA and its kind), whose weights are then not the ones we have.

Format: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.base.tensorfile import read_tensor_header
from athanor.models.convert import read_header, read_object, refuse_pickles, write_object
from athanor.models.families import Family
from athanor.models.lora import Adapter, LoraSettings, Matrices, Place, places
from athanor.models.patterns import Pattern

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
A, B, LENGTH = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
BASE_HASH = "athanor_base"  # a word of ours among the file's metadata: hash of the base model's weights

USED = frozenset(
    "r lora_alpha lora_dropout use_rslora use_dora target_modules exclude_modules layers_to_transform layers_pattern "
    "rank_pattern alpha_pattern base_model_name_or_path".split()
)
# Keys that say nothing about what is computed: about the tool, or settings of what another key switches on.
SILENT = frozenset(
    "auto_mapping peft_version revision inference_mode megatron_core qalora_group_size runtime_config "
    "fan_in_fan_out".split()
)
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


def read_adapter(folder: Path, family: Family, config: Any) -> Adapter:
    """The adapter in a folder, for a network of this family and config.

    Raises:
        AthanorError: a pickle, a setting we do not compute, or a tensor that is missing, left over, of the wrong shape
            or not finite, each by its name.
    """
    refuse_pickles(folder)
    path, where = folder / WEIGHTS, str(folder / CONFIG)
    record = read_object(folder / CONFIG)
    settings = read_settings(record, where)
    known = places(family, config)
    wanted = targeted(record, known, config, where)
    header = read_header(path)
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
    metadata = read_tensor_header(path)[0].get("__metadata__")
    base = metadata.get(BASE_HASH) if isinstance(metadata, dict) else None
    return Adapter(settings, pieces, base, record.get("base_model_name_or_path") or None)


def read_settings(record: Mapping[str, Any], where: str) -> LoraSettings:
    """Settings that hold for all pieces, after every key was checked."""
    unknown = sorted(set(record) - USED - SILENT - set(NEUTRAL))
    if unknown:
        raise AthanorError(
            f"{where}: settings we do not know: {', '.join(unknown)}", allowed=", ".join(sorted(USED)),
            fix="ignoring a setting could change the results silently, so it is refused",
        )  # fmt: skip
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
        ("use_dora", (bool,), "true or false"), ("base_model_name_or_path", (str, type(None)), "text, or null"),
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


def targeted(record: Mapping[str, Any], known: Mapping[str, Place], config: Any, where: str) -> list[str]:
    """Names of the pieces that the settings say have matrices.

    `target_modules` is 'all-linear', a pattern for whole names, or a list of names and ends of names; the ends may be
    narrowed to some layers. What `exclude_modules` names has none.
    """
    target = record.get("target_modules")
    layers = layer_numbers(record, where)
    if target == "all-linear":
        if getattr(config, "experts", None) is not None:
            raise AthanorError(f"{where}: target_modules='all-linear' with experts", allowed="the layers by name")
        chosen = list(known)
    elif isinstance(target, str):
        chosen = named_by(target, known)
    elif isinstance(target, list) and all(isinstance(one, str) for one in target):
        chosen = named_by(target, known)
        no_piece = sorted(end for end in target if not named_by([end], known))
        if no_piece:
            raise AthanorError(
                f"{where}: target_modules names {', '.join(no_piece)}: no linear layer of this network that can have "
                "an adapter", allowed=", ".join(sorted({name.rpartition(".")[2] for name in known})),
                fix="was the adapter made for another model?",
            )  # fmt: skip
        chosen = [
            name for name in chosen if layers is None or name in target or layer_of(name, record, where) in layers
        ]
    else:
        raise AthanorError(f"{where}: target_modules={target!r}", allowed="a list of names, a pattern, or 'all-linear'")
    if layers is not None and isinstance(target, str):
        raise AthanorError(f"{where}: layers_to_transform with a pattern", allowed="only with a list of target_modules")
    excluded = record.get("exclude_modules")
    if excluded is not None and not isinstance(excluded, str | list):
        raise AthanorError(f"{where}: exclude_modules={excluded!r}", allowed="a list of names, or a pattern")
    left_out = set(named_by(excluded, known)) if excluded else set()
    wanted = [name for name in chosen if name not in left_out]
    if not wanted:
        raise AthanorError(f"{where}: target_modules={target!r} matches no layer of this network",
                           fix="was the adapter made for another model?")  # fmt: skip
    return wanted


def named_by(target: str | list[Any], names: Iterable[str]) -> list[str]:
    """The names that a pattern matches, or that are on a list, whole or by their ends."""
    if isinstance(target, str):
        pattern = Pattern(target)
        return [name for name in names if pattern.matches(name)]
    return [name for name in names if any(name == one or name.endswith(f".{one}") for one in target)]


def layer_numbers(record: Mapping[str, Any], where: str) -> set[int] | None:
    """The layers that `layers_to_transform` names; None: all."""
    given = record.get("layers_to_transform")
    numbers = given if isinstance(given, list) else [given]
    if given is None or given == []:
        return None
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise AthanorError(f"{where}: layers_to_transform={given!r}", allowed="numbers of layers")
    return set(numbers)


def layer_of(name: str, record: Mapping[str, Any], where: str) -> int | None:
    """The number of the layer in a piece's name: the first behind a dot, or behind one of `layers_pattern`."""
    given = record.get("layers_pattern") or []
    before = [given] if isinstance(given, str) else given
    if not isinstance(before, list) or not all(isinstance(word, str) and word.isidentifier() for word in before):
        raise AthanorError(
            f"{where}: layers_pattern={given!r}", allowed="the name of the list of layers, such as layers"
        )
    words = name.split(".")
    for place, word in enumerate(words[1:-1], start=1):
        if word.isdecimal() and (not before or words[place - 1] in before):
            return int(word)
    return None


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


def read_tensor(path: Path, header: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor, of the shape asked for and finite."""
    if tuple(header[name]["shape"]) != shape:
        raise AthanorError(f"{path}: {name} has shape {header[name]['shape']}", allowed=str(list(shape)),
                           fix="was the adapter made for another model?")  # fmt: skip
    if header[name]["dtype"] not in ("F32", "F16", "BF16"):
        raise AthanorError(f"{path}: {name} is stored as {header[name]['dtype']}", allowed="F32, F16, BF16")
    try:
        with safe_open(path, framework="pt") as file:
            tensor = file.get_tensor(name)
    except SafetensorError as error:
        raise AthanorError(f"{path}: {name}: {error}") from error
    if not bool(tensor.isfinite().all()):
        raise AthanorError(f"{path}: {name} holds a number that is not finite (NaN or infinite)")
    return tensor


# ------------------------------------------------------------------------------------------------------------ writing


def save_adapter(adapter: Adapter, folder: Path, family: Family, config: Any) -> None:
    """Write a folder that `peft` loads; matrices keep their number type.

    Raises:
        AthanorError: a number is not finite.
    """
    known = places(family, config)
    tensors: dict[str, Tensor] = {}
    for name, matrices in adapter.pieces.items():
        place = known[name]
        tensors[PREFIX + name + A] = matrices.a_RK.detach().cpu().contiguous()
        tensors[PREFIX + name + B] = place.to_theirs(config, matrices.b_PR.detach().cpu())
        if matrices.length_P is not None:
            tensors[PREFIX + name + LENGTH] = place.to_theirs(config, matrices.length_P.detach().cpu())
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise AthanorError(f"{name} holds a number that is not finite: it is not saved")
    folder.mkdir(parents=True, exist_ok=True)
    write_object(folder / CONFIG, their_settings(adapter, family, known))
    metadata = {"format": "pt", **({BASE_HASH: adapter.base} if adapter.base else {})}
    save_file(dict(sorted(tensors.items())), folder / WEIGHTS, metadata=metadata)


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


def shortest(pieces: set[str], family: Family, known: Mapping[str, Place]) -> list[str]:
    """Ends of names, such as q_proj, if they mean these pieces and nothing else of the family; else the whole names."""
    ends = sorted({name.rpartition(".")[2] for name in pieces})
    others = {theirs.removesuffix(".weight") for row in family.tensors for theirs in row.theirs if theirs is not None}
    every = {*known, *(name.replace("{}", "0") for name in others)}
    return ends if set(named_by(ends, every)) == pieces else sorted(pieces)


def escaped(name: str) -> str:
    """A name as a pattern that matches nothing else."""
    return name.replace(".", r"\.")


def with_base(adapter: Adapter, base: str | None, base_name: str | None) -> Adapter:
    """The same adapter with another record of what it was made for."""
    return replace(adapter, base=base, base_name=base_name)
