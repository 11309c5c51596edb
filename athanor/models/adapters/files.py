"""Adapters of every kind in PEFT's layout, in and out.

Reading is strict, as for checkpoints: what the settings say must be what the file holds, and what we do not compute is
refused by its name.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.base.tensorfile import read_tensor_header
from athanor.models.adapters import lora_files, prefix_files, scaling_files
from athanor.models.adapters.attach import AnyAdapter
from athanor.models.adapters.layout import BASE_HASH, CONFIG, WEIGHTS, write_folder
from athanor.models.adapters.lora import Adapter
from athanor.models.adapters.places import every_place, places
from athanor.models.adapters.scaling import ScalingAdapter
from athanor.models.convert import read_header, read_object, refuse_pickles
from athanor.models.families import Family

READERS: dict[str, Callable[..., AnyAdapter]] = {
    "LORA": lora_files.read_lora, "IA3": scaling_files.read_scales, "PREFIX_TUNING": prefix_files.read_prefix,
}  # fmt: skip


def read_adapter(folder: Path, family: Family, config: Any) -> AnyAdapter:
    """The adapter in a folder, for a network of this family and config.

    Raises:
        AthanorError: a pickle, a setting we do not compute, or a tensor that is missing, left over, of the wrong shape
            or not finite, each by its name.
    """
    refuse_pickles(folder)
    path, where = folder / WEIGHTS, str(folder / CONFIG)
    record = read_object(folder / CONFIG)
    kind = record.get("peft_type", "LORA")
    if kind not in READERS:
        raise AthanorError(f"{where}: peft_type={kind!r} is not supported", allowed=", ".join(READERS))
    adapter = READERS[kind](record, read_header(path), path, where, family, config)
    metadata = read_tensor_header(path)[0].get("__metadata__")
    base = metadata.get(BASE_HASH) if isinstance(metadata, dict) else None
    return replace(adapter, base=base)


def save_adapter(adapter: AnyAdapter, folder: Path, family: Family, config: Any) -> None:
    """Write a folder that `peft` loads; matrices keep their number type.

    Raises:
        AthanorError: a number is not finite.
    """
    tensors: Mapping[str, Tensor]
    if isinstance(adapter, Adapter):
        known = every_place(family, config)
        record, tensors = (
            lora_files.their_settings(adapter, family, known),
            lora_files.tensors_of(adapter, known, config),
        )
    elif isinstance(adapter, ScalingAdapter):
        known = places(family, config)
        record, tensors = (
            scaling_files.their_settings(adapter, family, known),
            scaling_files.tensors_of(adapter, known, config),
        )
    else:
        record, tensors = prefix_files.their_settings(adapter), prefix_files.tensors_of(adapter)
    write_folder(folder, record, tensors, adapter.base)


def with_base(adapter: AnyAdapter, base: str | None, base_name: str | None) -> AnyAdapter:
    """The same adapter with another record of what it was made for."""
    return replace(adapter, base=base, base_name=base_name)
