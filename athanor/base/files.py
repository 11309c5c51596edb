"""Files that exist whole or not at all: hashing, syncing, and writing by rename."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from athanor.base.errors import AthanorError

DIGEST_BYTES = 16  # 128 bits: accidental collisions are out of the question for any store a person can own


def hash_bytes(data: bytes | memoryview) -> str:
    """BLAKE2b-128 of `data`, as 32 hexadecimal characters (RFC 7693)."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def hash_json(value: Any) -> str:
    """Hash of a JSON value that does not depend on the order of its keys."""
    return hash_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode())


def hash_file(path: Path) -> str:
    """BLAKE2b-128 of a file's bytes, read in blocks."""
    with open(path, "rb") as file:
        return hash_stream(file)


def hash_stream(file: IO[bytes]) -> str:
    """BLAKE2b-128 of what is left to read of an open file."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def sync_file(path: Path) -> None:
    """Force a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Force a folder's names to the disk, where the system has such a call (Windows has none)."""
    if os.name == "posix":
        sync_file(path)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file: temporary name beside it, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise explain_disk_error(problem, path) from problem
    sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """Read one JSON value; a damaged file is named."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise AthanorError(f"{path} is not valid JSON: {problem}", fix="the file is damaged: make it again") from None


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value atomically, readable by people, keys in the given order."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name, without its bytes being stored twice where the disk can do that."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def explain_disk_error(problem: OSError, path: Path) -> Exception:
    """Turn 'no space', 'read-only' and 'no permission' into what the user can do; other errors stay as they are."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return AthanorError(
            f"the disk is full: {path} could not be written; everything finished before is kept",
            fix="free some space (or choose another disk with --store), then run the same command again",
        )
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AthanorError(
            f"{path} cannot be written: {problem.strerror}",
            fix="choose a folder you may write to with --store, or mend the permissions",
        )
    return problem


def folder_bytes(folder: Path) -> int:
    """Sum of the sizes of the files under `folder`, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def empty_folder(folder: Path, keep: str | None = None) -> None:
    """Delete everything in `folder` but the entry named `keep`."""
    for entry in folder.iterdir():
        if entry.name == keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
