"""A checkpoint as one GGUF file that llama.cpp loads: names, settings and tokenizer translated, and read back.

Names and keys as llama.cpp reads them (`src/llama-arch.cpp`, `src/llama-model.cpp`) and its converter writes them
(`conversion/`, `gguf-py/gguf/constants.py`). The tokenizer's are in `gguf_tokenizer`.
"""

import math
from collections.abc import Iterator, Mapping
from functools import partial, reduce
from pathlib import Path

import torch
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.base.tables import quantity
from athanor.inference.ggml import TYPES, NumberType
from athanor.inference.gguf import ALIGNMENT, GgufFile, TensorPlan, Value, write_gguf
from athanor.inference.gguf_layout import (
    Layout,
    Part,
    default_values,
    fixed_tensors,
    layout_of,
    network_values,
    notes_of,
    parts_of,
    turned,
    unturned,
)
from athanor.inference.gguf_tokenizer import tokenizer_values
from athanor.models.config import TransformerConfig
from athanor.models.convert import Stored, fill_one, read_object, rows_of
from athanor.models.families import Family
from athanor.models.language import LanguageModel
from athanor.models.settings import read_config
from athanor.models.streamed import Fill

NOTES = "athanor.notes"


def write_model(source: Path, target: Path, kind: NumberType, about: Mapping[str, str]) -> list[str]:
    """Write the checkpoint of a folder (weights not quantised) as a GGUF file, tensor by tensor.

    Args:
        kind: the number type of the matrices; `type_of` says which tensors keep another.
        about: `general.` keys: name, description, license …

    Returns:
        What a user of the file must know, as `notes_of` says it; the file's key `athanor.notes` has it too.

    Raises:
        AthanorError: llama.cpp has no such architecture, setting or tokenizer.
    """
    family, config = read_config(read_object(source / "config.json"), str(source / "config.json"))
    layout = layout_of(family, config)
    tokenizer = tokenizer_values(source, config.vocabulary)
    ours = shapes_of(config)
    notes, network = notes_of(layout, config), network_values(layout, config)
    values: dict[str, Value] = {
        "general.architecture": layout.architecture, "general.type": "model",
        "general.size_label": quantity(sum(weight.numel() for weight in ours.values())).replace(" ", ""),
        **{f"general.{key}": text for key, text in about.items()},
        "general.file_type": kind.file_code, "general.quantization_version": 2, "general.alignment": ALIGNMENT,
        **({NOTES: notes} if notes else {}),
        **{f"{layout.architecture}.{key}": value for key, value in network.items()}, **tokenizer,
    }  # fmt: skip
    checkpoint = Checkpoint(source, family, config, ours)
    plans = [
        TensorPlan(name, part.shape, type_of(name, part.shape, kind), partial(checkpoint.read, part))
        for name, part in parts_of(layout, config, ours).items()
    ]
    for name, tensor in fixed_tensors(config).items():
        plans.append(TensorPlan(name, tuple(tensor.shape), TYPES["F32"], partial(iter, [tensor])))
    write_gguf(target, values, plans)
    return notes


class Checkpoint:
    """The tensors of a folder under our names; the last one is kept, since q, k and v are cut from the same."""

    def __init__(self, folder: Path, family: Family, config: TransformerConfig, ours: Mapping[str, Tensor]):
        self.stored, self.config, self.ours = Stored(folder), config, ours
        self.rows = {name: (row, theirs) for name, row, theirs in rows_of(family, ours)}
        self.last: tuple[str, Tensor] | None = None

    def read(self, part: Part) -> Iterator[Tensor]:
        """What the file's tensor is made of, one matrix at a time."""
        for name in part.ours:
            if self.last is None or self.last[0] != name:
                self.last = None  # given back before the next is read
                self.last = name, self.assemble(name)
            yield turned(self.last[1][part.start : part.stop], part.heads)

    def assemble(self, name: str) -> Tensor:
        """One of our tensors, from the pieces that the folder stores."""
        row, theirs = self.rows[name]
        (first, *others), shape = row.pieces(self.config, self.ours[name]), self.ours[name].shape
        if not others and first.shape == shape and first.is_contiguous():
            return self.stored.read(theirs[0], row.stored_shape(self.config, first))
        types = [self.stored.dtype_of(one) for one in theirs if one is not None]
        whole = torch.empty(shape, dtype=reduce(torch.promote_types, types))
        fill_one(whole, row, theirs, self.config, self.stored)
        return whole


def shapes_of(config: TransformerConfig) -> dict[str, Tensor]:
    """Our tensors of a network, without their numbers."""
    with torch.device("meta"):
        return LanguageModel(config).state_dict()


def read_model(file: GgufFile, folder: Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The network of `folder`'s config.json filled with a GGUF file's weights, computing in `dtype`.

    Raises:
        AthanorError: what `gguf_filler` refuses, or a tensor is missing, of the wrong shape or not finite.
    """
    config, fill = gguf_filler(file, folder)
    with torch.device("meta"):
        model = LanguageModel(config)
    model = model.to(dtype).to_empty(device="cpu")
    for name, weight in model.state_dict().items():
        fill(name, weight)
    return model.eval()


def gguf_filler(file: GgufFile, folder: Path) -> tuple[TransformerConfig, Fill]:
    """The network of `folder`'s config.json, and what reads its tensors from a GGUF file.

    Raises:
        AthanorError: the file describes another network, or has a tensor that this one has not.
    """
    family, config = read_config(read_object(folder / "config.json"), str(folder / "config.json"))
    layout = layout_of(family, config)
    check_values(file, layout, config)
    parts, fixed = parts_of(layout, config, shapes_of(config)), fixed_tensors(config)
    left = sorted(set(file.tensors) - set(parts) - set(fixed))
    if left:
        raise AthanorError(f"{file.path}: {left[0]}: a {family.name} network of this config has no such tensor")
    for name, tensor in fixed.items():
        found = read_part(file, name, Part((), 0, len(tensor), tuple(tensor.shape)), None)
        if not torch.allclose(found, tensor, rtol=1e-5):
            raise AthanorError(f"{file.path}: {name} is not what config.json says", fix="export the model again")
    places: dict[str, list[tuple[str, Part, int | None]]] = {}
    for name, part in parts.items():
        for number, our_name in enumerate(part.ours):
            places.setdefault(our_name, []).append((name, part, number if part.stacked else None))

    def fill(our_name: str, weight: Tensor) -> None:
        for name, part, number in places[our_name]:
            weight[part.start : part.stop] = unturned(read_part(file, name, part, number), part.heads)

    return config, fill


def read_part(file: GgufFile, name: str, part: Part, number: int | None) -> Tensor:
    """One matrix of the file, of the shape asked for and finite."""
    if name not in file.tensors:
        raise AthanorError(f"{file.path}: the tensor {name} is missing")
    if file.tensors[name].shape != part.shape:
        raise AthanorError(
            f"{file.path}: {name} has shape {list(file.tensors[name].shape)}", allowed=f"{list(part.shape)}"
        )
    tensor = file.read(name, number)
    if not bool(tensor.isfinite().all()):
        raise AthanorError(f"{file.path}: {name} holds a number that is not finite (NaN or infinite)")
    return tensor


def check_values(file: GgufFile, layout: Layout, config: TransformerConfig) -> None:
    """Refuse a file whose keys describe another network than config.json: llama.cpp would compute that one."""
    found = file.values.get("general.architecture")
    if found != layout.architecture:
        raise AthanorError(f"{file.path}: general.architecture is {found!r}", allowed=repr(layout.architecture))
    start = layout.architecture + "."
    told = {key.removeprefix(start): value for key, value in file.values.items() if key.startswith(start)}
    expected = network_values(layout, config)
    told = {key: value for key, value in default_values(config).items() if key in expected} | told
    for key in sorted(told.keys() | expected.keys()):
        one, other = told.get(key), expected.get(key)
        near = isinstance(one, float) and isinstance(other, float) and math.isclose(one, other, rel_tol=1e-6)
        if one != other and not near:
            raise AthanorError(
                f"{file.path}: {start}{key} is {one!r}, but config.json makes it {other!r}",
                fix="take the config.json that belongs to the file",
            )


def type_of(name: str, shape: tuple[int, ...], kind: NumberType) -> NumberType:
    """The number type a tensor is stored in.

    As with llama.cpp's own tools, vectors, learned positions and routers stay F32, and a matrix whose rows are no whole
    blocks becomes F16. Embedding and head keep 8 bits in a Q4_0 file, as in our own INT4.
    """
    if len(shape) == 1 or name == "position_embd.weight" or name.endswith("ffn_gate_inp.weight"):
        return TYPES["F32"]
    if shape[-1] % kind.numbers:
        return TYPES["F16"]
    if kind.name == "Q4_0" and name in ("token_embd.weight", "output.weight"):
        return TYPES["Q8_0"]
    return kind
