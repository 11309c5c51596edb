"""The two files of an adapter: adapter_config.json and adapter_model.safetensors, as PEFT lays them out.

Format: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.base.tensorfile import TensorWriter
from athanor.models.convert import NAMES, raw, write_object

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
BASE_HASH = "athanor_base"  # a word of ours among the file's metadata: hash of the base model's weights
# Keys that say nothing about what is computed, whatever the kind of the adapter.
SILENT = frozenset("auto_mapping peft_version revision inference_mode".split())


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


def write_folder(folder: Path, record: Mapping[str, Any], tensors: Mapping[str, Tensor], base: str | None) -> None:
    """Write both files.

    Raises:
        AthanorError: a number is not finite.
    """
    tensors = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise AthanorError(f"{name} holds a number that is not finite: it is not saved")
    folder.mkdir(parents=True, exist_ok=True)
    write_object(folder / CONFIG, record)
    entries = {name: (NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    writer = TensorWriter(folder / WEIGHTS, entries, {BASE_HASH: base} if base else None)
    writer.write(lambda name: raw(tensors[name]))


def refuse_unknown(record: Mapping[str, Any], used: frozenset[str], where: str) -> None:
    """Refuse keys that nobody knows, since ignoring one could change the results silently, and whole new layers."""
    unknown = sorted(set(record) - used - SILENT)
    if unknown:
        raise AthanorError(
            f"{where}: settings we do not know: {', '.join(unknown)}", allowed=", ".join(sorted(used)),
            fix="ignoring a setting could change the results silently, so it is refused",
        )  # fmt: skip
    if record.get("modules_to_save"):
        raise AthanorError(f"{where}: modules_to_save is not supported: it replaces whole layers of the model")


def refuse_unlike(header: Mapping[str, Any], expected: set[str], path: Path) -> None:
    """Refuse a file that holds other tensors than these."""
    for name in sorted(set(header) ^ expected):
        what = "is missing" if name in expected else f"is there, but {CONFIG} does not name it"
        raise AthanorError(f"{path}: the tensor {name} {what}", fix="was the adapter made for another model?")


def name_of_base(record: Mapping[str, Any], where: str) -> str | None:
    """What the maker called the base model."""
    name = record.get("base_model_name_or_path") or None
    if name is not None and not isinstance(name, str):
        raise AthanorError(f"{where}: base_model_name_or_path={name!r}", allowed="text, or null")
    return name
