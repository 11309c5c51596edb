"""Checkpoints in Hugging Face layout, in and out: config.json, safetensors (one file, or shards with an index).

Reading is strict. A checkpoint is data from a stranger: nothing in it is run, every name and size is checked before
use, and whatever does not fit is refused with its file and tensor.
"""

import json
import math
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.base.tensorfile import TensorWriter, read_tensor_header
from athanor.models.families import FAMILIES, Family
from athanor.models.families.family import Weight
from athanor.models.language import LanguageModel
from athanor.models.settings import family_of, read_config, their_config

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
BITS = {"F32": 32, "F16": 16, "BF16": 16, "I64": 64}
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")


def load_checkpoint(
    folder: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> LanguageModel:
    """Build the language model a Hugging Face folder describes and fill it with its weights.

    Args:
        folder: holds config.json and model.safetensors, or shards and their index.
        dtype: number type to compute in; None: the one the weights are stored in.
        device: where the weights go.

    Raises:
        AthanorError: anything unsafe, missing, left over, of the wrong shape or not finite, by file and tensor; or the
            network is no language model that writes from left to right.
    """
    network = load_network(folder, dtype, device)
    if not isinstance(network, LanguageModel):
        kind = read_object(Path(folder) / "config.json")["model_type"]
        raise AthanorError(
            f"{folder} holds a network of the family {kind}, which writes no text from left to right",
            allowed="a language model, such as " + ", ".join(list(FAMILIES)[:4]),
        )
    return network


def load_network(folder: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> nn.Module:
    """The same for a network of any family: encoders, encoder-decoders, pictures, sound."""
    folder = Path(folder)
    refuse_pickles(folder)
    config_file = folder / "config.json"
    family, config = read_config(read_object(config_file), str(config_file))
    stored = Stored(folder, family.other_names)
    with torch.device("meta"):
        model = family.build(config)
    check_shapes(model, family, stored)
    model = model.to(dtype or stored.dtype()).to_empty(device=device)
    fill(model, family, stored)
    return model.eval()


def save_checkpoint(
    model: nn.Module,
    folder: str | Path,
    *,
    generation: Mapping[str, Any] | None = None,
    shard_bytes: int = 5_000_000_000,
    family: str | None = None,
) -> None:
    """Write a folder that `transformers` loads: config.json, generation_config.json and the weights.

    Args:
        model: a network of any family, with its `config`; its number type is the stored one.
        folder: created when missing; must not hold weights already.
        generation: settings for generation_config.json, such as eos_token_id; token ids also go into config.json.
        shard_bytes: weights above this size are cut into files of at most that many bytes (one tensor at least).
        family: under whose names; None: the first family of the table that can express the network.

    Raises:
        AthanorError: no family can express the network, a weight is not finite, or weights are there already.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    present = sorted(path.name for path in folder.glob("model*.safetensors*"))
    if present:
        raise AthanorError(f"{folder} holds {present[0]} already", fix="choose another folder, or delete it first")
    row = family_of(model.config, family)
    pieces = their_pieces(model, row)
    for name, piece in pieces.items():
        if not bool(piece.isfinite().all()):
            raise AthanorError(f"{name} holds a number that is not finite: it is not saved")
    settings = their_config(row, model.config, str(next(model.parameters()).dtype).removeprefix("torch."))
    special = {key: value for key, value in (generation or {}).items() if key.endswith("_token_id")}
    write_object(folder / "config.json", settings | special)
    write_object(folder / "generation_config.json", dict(generation or {}))
    entries = {name: (NAMES[piece.dtype], tuple(piece.shape)) for name, piece in pieces.items()}
    write_weights(entries, pieces.__getitem__, folder, shard_bytes)


def convert_checkpoint(source: Path, target: Path, dtype: torch.dtype, shard_bytes: int = 5_000_000_000) -> None:
    """Write a checkpoint anew in another number type, under the same names, with one tensor in memory at a time.

    Args:
        source: a folder that `load_network` reads.
        target: an existing folder without weights.

    Raises:
        AthanorError: what `load_network` refuses, or a number that the other type cannot hold.
    """
    refuse_pickles(source)
    record = read_object(source / "config.json")
    family, config = read_config(record, str(source / "config.json"))
    stored = Stored(source, family.other_names)
    with torch.device("meta"):
        names = set(their_pieces(family.build(config), family))
    refuse_extra(family, stored, names)
    shapes = {name: stored.shape_of(name) for name in names}

    def cast(name: str) -> Tensor:
        tensor = stored.read(name, shapes[name])
        changed = tensor.to(dtype) if tensor.is_floating_point() else tensor
        if not bool(changed.isfinite().all()):
            raise AthanorError(f"{stored.where(name)} holds a number that {dtype} cannot", allowed="bf16 or f32")
        return changed

    kinds = {name: stored.dtype_of(name) for name in names}
    entries = {name: (NAMES[dtype if kinds[name].is_floating_point else kinds[name]], shapes[name]) for name in names}
    record = {key: value for key, value in record.items() if key != "auto_map"}  # the code it names stays behind
    write_object(target / "config.json", {**record, "dtype": str(dtype).removeprefix("torch.")})
    if (source / "generation_config.json").is_file():
        shutil.copyfile(source / "generation_config.json", target / "generation_config.json")
    write_weights(entries, cast, target, shard_bytes)


def write_weights(
    entries: Mapping[str, tuple[str, tuple[int, ...]]], read: Callable[[str], Tensor], folder: Path, shard_bytes: int
) -> None:
    """Write the weights into one file, or into shards and the index that names them; `read` gives a tensor by name."""
    shards: list[dict[str, tuple[str, tuple[int, ...]]]] = [{}]
    total = used = 0
    for name, (kind, shape) in entries.items():
        size = math.prod(shape) * BITS[kind] // 8
        if shards[-1] and used + size > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = (kind, shape)
        used, total = used + size, total + size
    if len(shards) == 1:
        TensorWriter(folder / WEIGHTS, shards[0]).write(lambda name: raw(read(name)))
        return
    places = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        TensorWriter(folder / file, shard).write(lambda name: raw(read(name)))
        places |= dict.fromkeys(shard, file)
    write_object(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row by row."""
    return memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


def rows_of(family: Family, ours: Iterable[str]) -> Iterator[tuple[str, Weight, tuple[str | None, ...]]]:
    """Every tensor of a network that the family names: our full name, its row of the table, and their full names."""
    patterns = [(re.compile(re.escape(row.ours).replace(r"\{\}", r"(\d+)")), row) for row in family.tensors]
    for name in ours:
        for pattern, row in patterns:
            found = pattern.fullmatch(name)
            if found:
                numbers = found.groups()
                yield name, row, tuple(theirs and theirs.format(*numbers) for theirs in row.theirs)
                break


def their_pieces(model: nn.Module, family: Family) -> dict[str, Tensor]:
    """Views of our weights under Hugging Face names, each of the shape in which they store it."""
    ours = model.state_dict()
    theirs: dict[str, Tensor] = {}
    written = set()
    for name, row, their_names in rows_of(family, ours):
        written.add(name)
        for their_name, piece in zip(their_names, row.pieces(model.config, ours[name].detach()), strict=True):
            if their_name is not None:
                theirs[their_name] = row.reordered(piece).reshape(row.stored_shape(model.config, piece))
    left = sorted(set(ours) - written)
    if left:
        raise AthanorError(f"{left[0]} has no name in a {family.name} checkpoint", fix="merge or remove adapters first")
    return theirs


def check_shapes(model: nn.Module, family: Family, stored: "Stored") -> None:
    """Refuse tensors of another shape than the network's, which may be on the meta device: no memory is taken yet."""
    for name, piece in their_pieces(model, family).items():
        stored.check_shape(name, tuple(piece.shape))


def fill(model: nn.Module, family: Family, stored: "Stored") -> None:
    """Copy every stored tensor to its place; nothing may be missing, left over, misshaped or not finite."""
    ours = model.state_dict()
    wanted, filled = set(), set()
    for name, row, their_names in rows_of(family, ours):
        fill_one(ours[name], row, their_names, model.config, stored)
        filled.add(name)
        wanted.update(their_names)
    assert filled == set(ours), f"a row is missing in the family's tensors: {sorted(set(ours) - filled)[:3]}"
    refuse_extra(family, stored, wanted)


def fill_one(target: Tensor, row: Weight, their_names: tuple[str | None, ...], config: Any, stored: "Stored") -> None:
    """Copy the pieces of one of our tensors to their places; a piece that is stored nowhere is zero."""
    for their_name, place in zip(their_names, row.pieces(config, target), strict=True):
        if their_name is None:
            place.zero_()
        else:
            piece = stored.read(their_name, row.stored_shape(config, place)).view(place.shape)
            place.copy_(row.reordered(piece))


def refuse_extra(family: Family, stored: "Stored", wanted: Iterable[str | None]) -> None:
    """A tensor nobody asked for is an error, but for a second copy of another (a tied head) and for derived numbers."""
    names = {row.ours: row.theirs[0] for row in family.tensors}
    copies = {names.get("head.weight"): names.get("tokens.weight"), **family.copies}
    for name in sorted(set(stored.places) - set(wanted)):
        if family.derived and name.endswith(family.derived):
            continue
        if name not in copies:
            raise AthanorError(f"{stored.where(name)}: a {family.name} network of this config has no such tensor")
        first = copies[name]
        if not bool((stored.read(name, stored.shape_of(first)) == stored.read(first, stored.shape_of(first))).all()):
            raise AthanorError(
                f"{stored.where(name)}: config.json ties it to {first}, but the two differ",
                fix="set tie_word_embeddings to false if the head is a weight of its own",
            )


class Stored:
    """The tensors of a folder: where each is, with every header checked before anything is read.

    Args:
        folder: holds the weights.
        names: parts of tensor names -> what we call them; every name here is then ours.
    """

    def __init__(self, folder: Path, names: Mapping[str, str] | None = None):
        self.folder, self.names = folder, names or {}
        self.in_file: dict[str, str] = {}  # our name -> the one in the file
        self.places: dict[str, str] = {}
        self.headers: dict[str, dict[str, Any]] = {}
        promised = self.promised()
        for file in sorted(set(promised.values())) if promised is not None else [WEIGHTS]:
            header = read_header(folder / file)
            self.in_file |= {self.known(name): name for name in header}
            self.headers[file] = {self.known(name): entry for name, entry in header.items()}
            if len(self.headers[file]) != len(header):
                raise AthanorError(f"{folder / file} holds a tensor twice, under two of its names")
            for name in self.headers[file]:
                if name in self.places:
                    raise AthanorError(f"{folder / file}: {name} is also in {self.places[name]}")
                self.places[name] = file
        if promised is not None and promised != self.places:
            wrong = sorted(dict(promised.items() ^ self.places.items()))[0]
            raise AthanorError(f"{folder / INDEX}: {wrong} is not where the index says")
        left = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in self.headers)
        if left:
            raise AthanorError(f"{folder / left[0]} belongs to no index", fix="move files that are no part of it away")

    def known(self, name: str) -> str:
        """What we call a tensor of a file."""
        for part, ours in self.names.items():
            name = name.replace(part, ours)
        return name

    def promised(self) -> dict[str, str] | None:
        """What the index says, tensor -> file name; None when there is no index."""
        path = self.folder / INDEX
        if not path.exists():
            return None
        if (self.folder / WEIGHTS).exists():
            raise AthanorError(f"{self.folder} holds both {WEIGHTS} and {INDEX}", fix="keep the one that is meant")
        promised = read_object(path).get("weight_map")
        if not isinstance(promised, dict) or not promised:
            raise AthanorError(f"{path}: weight_map is missing or empty")
        for name, file in promised.items():
            plain = isinstance(file, str) and file.endswith(".safetensors") and not set(file) & set("/\\:\0")
            if not plain:
                raise AthanorError(f"{path}: {name} points to {file!r}", allowed="a .safetensors file beside the index")
        return {self.known(name): file for name, file in promised.items()}

    def where(self, name: str) -> str:
        """File and tensor, for messages."""
        return f"{self.folder / self.places[name]}: {name}"

    @property
    def numbers(self) -> int:
        """How many numbers are stored."""
        return sum(math.prod(entry["shape"]) for header in self.headers.values() for entry in header.values())

    def dtype(self) -> torch.dtype:
        """The number type most of the weights are stored in."""
        size: dict[str, int] = {}
        for header in self.headers.values():
            for entry in header.values():
                size[entry["dtype"]] = size.get(entry["dtype"], 0) + math.prod(entry["shape"])
        size.pop("I64", None)  # counters
        return DTYPES[max(sorted(size), key=size.__getitem__)]

    def dtype_of(self, name: str) -> torch.dtype:
        """The number type of one tensor."""
        if name not in self.places:
            raise AthanorError(f"{self.folder}: the tensor {name} is missing")
        return DTYPES[self.headers[self.places[name]][name]["dtype"]]

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor."""
        if name not in self.places:
            raise AthanorError(f"{self.folder}: the tensor {name} is missing")
        return tuple(self.headers[self.places[name]][name]["shape"])

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse a tensor that is missing, or of another shape than this."""
        if name not in self.places:
            raise AthanorError(f"{self.folder}: the tensor {name} is missing, shape {list(shape)}")
        found = self.headers[self.places[name]][name]["shape"]
        if tuple(found) != shape:
            raise AthanorError(f"{self.where(name)} has shape {found}", allowed=f"{list(shape)}")

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor, of the shape asked for and finite."""
        self.check_shape(name, shape)
        try:
            with safe_open(self.folder / self.places[name], framework="pt") as file:
                tensor = file.get_tensor(self.in_file[name])
        except SafetensorError as error:
            raise AthanorError(f"{self.where(name)}: {error}") from error
        if not bool(tensor.isfinite().all()):
            raise AthanorError(f"{self.where(name)} holds a number that is not finite (NaN or infinite)")
        return tensor


def read_header(path: Path) -> dict[str, Any]:
    """Name -> {dtype, shape, data_offsets} of a safetensors file, each checked against the size of the file."""
    header, start = read_tensor_header(path)
    header.pop("__metadata__", None)
    check_spans(path, header, path.stat().st_size - start)
    return header


def check_spans(path: Path, header: dict[str, Any], data_bytes: int) -> None:
    """Every tensor's bytes must follow the one before, and the last must end with the file."""
    end, before = 0, "the header"
    for name, entry in sorted(header.items(), key=span_start):
        if not well_formed(entry):
            raise AthanorError(f"{path}: the entry of {name} is malformed: {entry}")
        if entry["dtype"] not in BITS:
            raise AthanorError(f"{path}: {name} is stored as {entry['dtype']}", allowed=", ".join(BITS))
        start, stop = entry["data_offsets"]
        if start != end:
            raise AthanorError(f"{path}: {name} starts at byte {start}, {before} before it ends at {end}")
        if stop - start != math.prod(entry["shape"]) * BITS[entry["dtype"]] // 8:
            raise AthanorError(f"{path}: {name} of shape {entry['shape']} cannot have {stop - start} bytes")
        end, before = stop, name
    if end != data_bytes:
        raise AthanorError(f"{path}: the tensors take {end} bytes, the file holds {data_bytes}")


def span_start(item: tuple[str, Any]) -> tuple[int, int]:
    """Where a header entry's bytes start, for sorting; malformed entries come first and are refused there."""
    entry = item[1]
    return tuple(entry["data_offsets"]) if well_formed(entry) else (-1, -1)


def well_formed(entry: Any) -> bool:
    """Whether a header entry has a type, a shape and two offsets, all of them counts."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return False
    shape, span = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(span, list) or len(span) != 2:
        return False
    return all(type(number) is int and 0 <= number < 2**63 for number in (*shape, *span))


def refuse_pickles(folder: Path) -> None:
    """A pickle runs code when it is read; none is accepted in a checkpoint, by name or by content."""
    if not folder.is_dir():
        raise AthanorError(f"{folder} is not a folder", fix="name the folder that holds config.json")
    for path in sorted(folder.iterdir()):
        if path.is_file() and (path.suffix in PICKLES or looks_pickled(path)):
            raise AthanorError(
                f"{path} is a pickle, which can run code when read",
                allowed="safetensors",
                fix="delete it, or convert the checkpoint with its own library",
            )


def looks_pickled(path: Path) -> bool:
    """Whether the first bytes are those of a pickle, or of a zip that holds one (torch.save)."""
    if path.suffix == ".safetensors":  # starts with a length, which may be any bytes; its header is checked on reading
        return False
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith(".pkl") for name in archive.namelist())
        except zipfile.BadZipFile:
            return True
    return len(start) >= 2 and start[0] == 0x80 and 2 <= start[1] <= pickle.HIGHEST_PROTOCOL


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AthanorError(f"{path} is missing") from error
    except (ValueError, RecursionError) as error:
        raise AthanorError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise AthanorError(f"{path} holds no JSON object")
    return content


def write_object(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, the same bytes for the same content."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
