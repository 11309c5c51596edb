"""GGUF, the file format of llama.cpp: named values, then named tensors, in one file. Written and read by ourselves.

The format, version 3 (`docs/gguf.md` of ggml; `ggml/include/gguf.h` of llama.cpp), everything little-endian:

    "GGUF" · version u32 · tensors i64 · values i64
    each value:   key · type i32 · the value; an array: type of its elements i32 · how many u64 · the elements
    each tensor:  name · dimensions u32 · each size i64, the fastest first (torch's shape reversed) · type i32 ·
                  offset u64
    zeros up to a multiple of 32, then the tensors' bytes, each from a multiple of 32

A string is its length u64 and its UTF-8 bytes. Of the twelve value types we write some: unsigned integers and
floats of 32 bits, booleans, strings, and arrays of strings, booleans, floats or signed integers.
"""

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.inference.ggml import NumberType
from athanor.inference.ggml_read import READABLE

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
PLAIN = {  # value type: its code in `enum gguf_type`, and how struct spells it
    "u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i"), "f32": (6, "f"),
    "bool": (7, "?"), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d"),
}  # fmt: skip
LAYOUTS = dict(PLAIN.values())
STRING, ARRAY = 8, 9
MOST_TENSORS, MOST_VALUES, MOST_DIMENSIONS = 1_000_000, 100_000, 4
ENCODED_AT_ONCE = 4_000_000  # numbers

Value = bool | int | float | str | bytes | Sequence[str] | Sequence[bool] | Sequence[float] | Sequence[int]


@dataclass(frozen=True)
class TensorPlan:
    """A tensor to be written: its numbers are asked for when their turn comes, so one is in memory at a time.

    Attributes:
        read: its numbers, as one tensor or as several whose rows follow each other, such as those of each expert.
    """

    name: str
    shape: tuple[int, ...]
    type: NumberType
    read: Callable[[], Iterable[Tensor]]

    @property
    def bytes(self) -> int:
        """Size in the file, without the padding."""
        return math.prod(self.shape) // self.type.numbers * self.type.size


# ---------------------------------------------------------------------------------------------------------- writing


def write_gguf(path: Path, values: Mapping[str, Value], tensors: Sequence[TensorPlan]) -> None:
    """Write a GGUF file; not atomic by itself.

    Raises:
        AthanorError: a tensor's rows are no whole blocks of its type, or a number does not fit it.
        OSError: the disk is full.
    """
    head = [MAGIC, struct.pack("<Iqq", VERSION, len(tensors), len(values))]
    for key, value in values.items():
        head += [_string(key), _value(value)]
    offset = 0
    for plan in tensors:
        if plan.shape[-1] % plan.type.numbers:
            raise AthanorError(f"{plan.name}: rows of {plan.shape[-1]} numbers are no whole blocks of {plan.type.name}")
        sizes = struct.pack(f"<I{len(plan.shape)}q", len(plan.shape), *reversed(plan.shape))
        head += [_string(plan.name), sizes, struct.pack("<iQ", plan.type.code, offset)]
        offset += _padded(plan.bytes)
    with open(path, "wb") as file:
        _write_padded(file, b"".join(head))
        for plan in tensors:
            written = sum(file.write(data) for data in _encoded(plan))
            assert written == plan.bytes, f"{plan.name}: {written} bytes instead of {plan.bytes}"
            file.write(bytes(_padded(written) - written))


def _encoded(plan: TensorPlan) -> Iterator[memoryview]:
    """A tensor's bytes, some rows at a time: what encoding needs beside the numbers stays small."""
    assert plan.type.encode is not None, f"{plan.type.name} is only read"
    rows = max(1, ENCODED_AT_ONCE // plan.shape[-1])
    for tensor in plan.read():
        assert tensor.shape[-1] == plan.shape[-1], f"{plan.name} changed its shape"
        flat = tensor.detach().reshape(-1, plan.shape[-1])
        for start in range(0, len(flat), rows):
            yield plan.type.encode(flat[start : start + rows].float().cpu()).data
        del tensor, flat  # before the next one is read


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _write_padded(file: IO[bytes], data: bytes | memoryview) -> None:
    size = file.write(data)
    file.write(bytes(_padded(size) - size))


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    """Type and bytes of a value."""
    if isinstance(value, bool):
        return struct.pack("<i?", PLAIN["bool"][0], value)
    if isinstance(value, int):
        return struct.pack("<iI", PLAIN["u32"][0], value)
    if isinstance(value, float):
        return struct.pack("<if", PLAIN["f32"][0], value)
    if isinstance(value, bytes):
        return struct.pack("<iiQ", ARRAY, PLAIN["u8"][0], len(value)) + value
    if isinstance(value, str):
        return struct.pack("<i", STRING) + _string(value)
    if all(isinstance(one, str) for one in value):
        return struct.pack("<iiQ", ARRAY, STRING, len(value)) + b"".join(_string(str(one)) for one in value)
    if all(isinstance(one, bool) for one in value):
        return struct.pack(f"<iiQ{len(value)}?", ARRAY, PLAIN["bool"][0], len(value), *value)
    if all(isinstance(one, float) for one in value):
        return struct.pack(f"<iiQ{len(value)}f", ARRAY, PLAIN["f32"][0], len(value), *value)
    return struct.pack(f"<iiQ{len(value)}i", ARRAY, PLAIN["i32"][0], len(value), *value)


# ---------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor of a file is; `shape` as torch has it."""

    shape: tuple[int, ...]
    type: NumberType
    start: int
    bytes: int


class GgufFile:
    """A GGUF file opened for reading, every length checked against the file before it is used.

    Attributes:
        values: what its keys say.
        tensors: name to place.

    Raises:
        AthanorError: the file is no GGUF of version 3, is cut short, or holds number types that we do not read.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise AthanorError(f"{path} is missing")
        self.bytes = path.stat().st_size
        with open(path, "rb") as file:
            reader = _Reader(file, path, self.bytes)
            if reader.take(4) != MAGIC:
                raise AthanorError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}")
            version, tensors, values = reader.unpack("Iqq")
            if version != VERSION:
                raise AthanorError(f"{path} is GGUF of version {version}", allowed=str(VERSION))
            if not (0 <= tensors <= MOST_TENSORS and 0 <= values <= MOST_VALUES):
                raise AthanorError(f"{path}: {tensors} tensors and {values} values", fix="the file is damaged")
            self.values: dict[str, Any] = {}
            for _ in range(values):
                key = reader.string()
                self.values[key] = reader.value(reader.unpack("i")[0])
            rows = [reader.tensor() for _ in range(tensors)]
            self.start = _padded(file.tell())
        self.tensors = {name: self._place(name, *row) for name, *row in rows}
        if len(self.tensors) != len(rows):
            raise AthanorError(f"{path} names a tensor twice")

    def read(self, name: str, part: int | None = None) -> Tensor:
        """One tensor as float32; `part`: only this one along the first dimension, such as one expert's."""
        entry = self.tensors[name]
        shape = (*entry.shape[:-1], entry.shape[-1] // entry.type.numbers * entry.type.size)
        start, size = entry.start, entry.bytes
        if part is not None:
            shape, size = shape[1:], size // shape[0]
            start += part * size
        data = np.fromfile(self.path, dtype=np.uint8, count=size, offset=start)
        return entry.type.decode(data.reshape(shape))

    def _place(self, name: str, shape: tuple[int, ...], code: int, offset: int) -> TensorEntry:
        kind = next((one for one in READABLE.values() if one.code == code), None)
        if kind is None:
            raise AthanorError(f"{self.path}: {name} is of ggml type {code}", allowed=", ".join(READABLE))
        if not shape or min(shape) < 1 or shape[-1] % kind.numbers or offset % ALIGNMENT:
            raise AthanorError(f"{self.path}: {name} of shape {list(shape)} at {offset} is malformed")
        size = math.prod(shape) // kind.numbers * kind.size
        if self.start + offset + size > self.bytes:
            raise AthanorError(f"{self.path}: {name} ends beyond the file of {self.bytes} bytes", fix="copy it again")
        return TensorEntry(shape, kind, self.start + offset, size)


class _Reader:
    """Reads the head of a file; nothing longer than the file is believed."""

    def __init__(self, file: IO[bytes], path: Path, size: int):
        self.file, self.path, self.size = file, path, size

    def take(self, count: int) -> bytes:
        data = self.file.read(count) if 0 <= count <= self.size else b""
        if len(data) != count:
            raise AthanorError(f"{self.path} ends in the middle of its head", fix="the file is damaged: copy it again")
        return data

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def string(self) -> str:
        try:
            return self.take(self.unpack("Q")[0]).decode("utf-8")
        except UnicodeDecodeError as problem:
            raise AthanorError(f"{self.path}: a string of its head is not UTF-8") from problem

    def value(self, code: int) -> Any:
        if code == STRING:
            return self.string()
        if code in LAYOUTS:
            return self.unpack(LAYOUTS[code])[0]
        if code != ARRAY:
            raise AthanorError(f"{self.path}: value type {code} does not exist", fix="the file is damaged")
        inner, count = self.unpack("iQ")
        if count > self.size:
            raise AthanorError(f"{self.path}: an array of {count} elements in {self.size} bytes")
        if inner in LAYOUTS:
            return list(self.unpack(f"{count}{LAYOUTS[inner]}"))
        if inner != STRING:
            raise AthanorError(f"{self.path}: arrays of type {inner} are not read", allowed="numbers or strings")
        return [self.string() for _ in range(count)]

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, (dimensions,) = self.string(), self.unpack("I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise AthanorError(f"{self.path}: {name} has {dimensions} dimensions", allowed=f"1 to {MOST_DIMENSIONS}")
        sizes = self.unpack(f"{dimensions}q")
        code, offset = self.unpack("iQ")
        return name, tuple(reversed(sizes)), code, offset
