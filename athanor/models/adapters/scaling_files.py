"""IA3 in PEFT's layout, in and out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.models.adapters.layout import PREFIX, name_of_base, read_tensor, refuse_unknown, refuse_unlike
from athanor.models.adapters.places import Place, places
from athanor.models.adapters.scaling import Scale, ScalingAdapter
from athanor.models.adapters.targets import named_by, shortest, targeted
from athanor.models.families import Family

END = ".ia3_l"
USED = frozenset(
    "peft_type task_type target_modules exclude_modules feedforward_modules fan_in_fan_out init_ia3_weights "
    "modules_to_save base_model_name_or_path".split()
)


def read_scales(
    record: Mapping[str, Any], header: Mapping[str, Any], path: Path, where: str, family: Family, config: Any
) -> ScalingAdapter:
    """The adapter that these settings and this file are."""
    refuse_unknown(record, USED, where)
    known = places(family, config)
    wanted = targeted(record, known, config, where)
    given = record.get("feedforward_modules") or []
    if not isinstance(given, str | list):
        raise AthanorError(f"{where}: feedforward_modules={given!r}", allowed="a list of names, or a pattern")
    inward = set(named_by(given, wanted)) if given else set()
    refuse_unlike(header, {PREFIX + name + END for name in wanted}, path)
    pieces = {}
    for name in wanted:
        place, inner = known[name], name in inward
        shape = (1, place.inputs) if inner else (place.height, 1)
        vector = read_tensor(path, header, PREFIX + name + END, shape).flatten()
        pieces[name] = Scale(vector if inner else place.to_ours(config, vector), inner)
    return ScalingAdapter(pieces, base_name=name_of_base(record, where))


def tensors_of(adapter: ScalingAdapter, known: Mapping[str, Place], config: Any) -> dict[str, Tensor]:
    """The scales by their names in the file, in the checkpoint's order."""
    return {
        PREFIX + name + END: one.vector[None] if one.inward
        else known[name].to_theirs(config, one.vector.detach().cpu())[:, None]
        for name, one in adapter.pieces.items()
    }  # fmt: skip


def their_settings(adapter: ScalingAdapter, family: Family, known: Mapping[str, Place]) -> dict[str, Any]:
    """The adapter_config.json that makes `peft` compute what we do."""
    inward = {name for name, one in adapter.pieces.items() if one.inward}
    outward = set(adapter.pieces) - inward
    targets = {kind: shortest(names, family, known) if names else [] for kind, names in
               (("in", inward), ("out", outward))}  # fmt: skip
    return {
        "peft_type": "IA3", "task_type": "CAUSAL_LM", "base_model_name_or_path": adapter.base_name,
        "inference_mode": True, "target_modules": [*targets["out"], *targets["in"]],
        "feedforward_modules": targets["in"], "init_ia3_weights": True, "modules_to_save": None,
        "fan_in_fan_out": any(known[name].row.transposed for name in adapter.pieces),
    }  # fmt: skip
