"""The header of a safetensors file, read without trust: it may come from anywhere.

The format (https://github.com/huggingface/safetensors): eight bytes of header length, a JSON header that gives every
tensor's dtype, shape and byte range, then the bytes. It has no checksum of its own.
"""

import json
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
