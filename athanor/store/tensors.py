"""Checksums of the tensors inside a safetensors file, without torch: a flipped bit is reported with its tensor."""

import hashlib
import json
from pathlib import Path
from typing import IO, Any

from athanor.base.errors import AthanorError
from athanor.base.files import DIGEST_BYTES, hash_bytes
from athanor.base.tensorfile import read_tensor_header


def hash_tensors(path: Path) -> dict[str, str]:
    """Hash of every tensor's bytes, by name; and of the header, under the empty name."""
    header, start = read_tensor_header(path)
    hashes = {"": hash_header(header)}
    with open(path, "rb") as file:
        for name, row in header.items():
            if name != "__metadata__":
                first, last = row["data_offsets"]
                file.seek(start + first)
                hashes[name] = _hash_part(file, last - first)
    return hashes


def hash_header(header: dict[str, Any]) -> str:
    """Hash of what a header says, however its JSON is written."""
    return hash_bytes(json.dumps(header, sort_keys=True).encode())


def _hash_part(file: IO[bytes], length: int) -> str:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    while length > 0 and (block := file.read(min(length, 1 << 20))):
        digest.update(block)
        length -= len(block)
    return digest.hexdigest()


def check_tensors(path: Path, expected: dict[str, str]) -> str:
    """Say which tensor of a checkpoint differs from its checksum; empty when none is known to."""
    if not expected:
        return ""
    try:
        found = hash_tensors(path)
    except (AthanorError, KeyError, TypeError, ValueError):
        return "the header of the checkpoint is damaged, so no tensor of it can be trusted"
    changed = [name or "the header" for name in expected if found.get(name) != expected[name]]
    return f"tensor {', '.join(changed[:3])} has wrong bytes" if changed else ""
