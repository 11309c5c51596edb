"""Safetensors files: the header, read without trust since it may come from anywhere; and a writer, tensor by tensor.

The format (https://github.com/huggingface/safetensors): eight bytes of header length, a JSON header that gives every
tensor's dtype, shape and byte range, then the bytes. It has no checksum of its own.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from athanor.base.errors import AthanorError

LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000  # the limit of the safetensors library


def read_tensor_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header as it stands (with `__metadata__`, if any) and the position of the first tensor byte.

    Raises:
        AthanorError: the file is missing, or its header is longer than the file or the format allows, or no JSON.
    """
    if not path.is_file():
        raise AthanorError(f"{path} is missing")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, LARGEST_HEADER):
            raise AthanorError(f"{path}: a header of {length} bytes in a file of {size}", fix="download it again")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as problem:
            raise AthanorError(f"{path}: the header is not JSON: {problem}") from problem
    if not isinstance(header, dict):
        raise AthanorError(f"{path}: the header is not an object")
    return header, LENGTH_BYTES + length


SIZES = {"I64": 8, "F32": 4, "BF16": 2, "F16": 2}  # bytes of one number, in the order in which a file has them


class TensorWriter:
    """Writes a safetensors file tensor by tensor, so that no more than one is ever in memory.

    The bytes are those the safetensors library writes for the same tensors: by number type, then by name.

    Args:
        path: created, or written anew.
        entries: dtype ('F32', 'F16', 'BF16', 'I64') and shape of every tensor.
        words: further words among the file's metadata (the library writes several in an order that changes).
    """

    def __init__(
        self, path: Path, entries: Mapping[str, tuple[str, tuple[int, ...]]], words: Mapping[str, str] | None = None
    ):
        self.path = path
        kinds = list(SIZES)
        self.order = sorted(entries, key=lambda name: (kinds.index(entries[name][0]), name))
        header: dict[str, Any] = {"__metadata__": {"format": "pt", **(words or {})}}
        self.bytes: dict[str, int] = {}
        end = 0
        for name in self.order:
            kind, shape = entries[name]
            start, end = end, end + SIZES[kind] * math.prod(shape)
            self.bytes[name] = end - start
            header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        self.header = text + b" " * (-len(text) % LENGTH_BYTES)

    def write(self, read: Callable[[str], bytes | memoryview]) -> None:
        """Write the file; `read` gives the bytes of a tensor by its name, in the order of `order`."""
        with self.path.open("wb") as file:
            file.write(len(self.header).to_bytes(LENGTH_BYTES, "little") + self.header)
            for name in self.order:
                data = read(name)
                if memoryview(data).nbytes != self.bytes[name]:
                    raise ValueError(f"{name}: {memoryview(data).nbytes} bytes given, {self.bytes[name]} promised")
                file.write(data)
