"""Checkpoints for resuming: written whole or not at all, every tensor checksummed, the newest good one is used.

Layout of the folder: step-00000200/{state.safetensors, state.json}; only the newest two are kept.
"""

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.base.files import explain_disk_error, hash_json, read_json, sync_file, sync_folder, write_json
from athanor.store.artifact import describe_file

KEPT = 2
TENSORS, STATE = "state.safetensors", "state.json"


def save_state(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write the checkpoint of `step`: temporary folder, checksums, fsync, rename, fsync of the parent."""
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary / TENSORS)
        sync_file(temporary / TENSORS)
        row = {"step": step, "tensors": describe_file(temporary / TENSORS), "state": state}
        write_json(temporary / STATE, {**row, "seal": hash_json(row)})
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync_folder(folder)
    except (OSError, SafetensorError) as problem:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _explain(problem, final) from problem
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def load_newest(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any], list[str]]:
    """The newest checkpoint that is whole: its step, tensors and state, and what was wrong with newer ones.

    A damaged checkpoint is moved aside (`bad-…`), never loaded. With none left, the step is 0 and all is empty.
    """
    complaints: list[str] = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        problem = _what_is_wrong(path)
        if problem:
            complaints.append(f"{path.name}: {problem}; it was set aside")
            shutil.rmtree(path.with_name("bad-" + path.name), ignore_errors=True)
            path.rename(path.with_name("bad-" + path.name))
            continue
        row = read_json(path / STATE)
        return row["step"], load_file(path / TENSORS), row["state"], complaints
    return 0, {}, {}, complaints


def _what_is_wrong(path: Path) -> str:
    try:
        row = read_json(path / STATE)
        if not isinstance(row, dict) or row.pop("seal", None) != hash_json(row):
            return f"{STATE} has changed since it was written"
        if describe_file(path / TENSORS) != row["tensors"]:
            return f"{TENSORS} has changed since it was written"
    except (OSError, AthanorError, ValueError, KeyError, TypeError) as problem:
        return str(problem).splitlines()[0]
    return ""


def _explain(problem: Exception, path: Path) -> Exception:
    """The safetensors library reports a full disk as an error of its own, with the system's words inside."""
    if isinstance(problem, OSError):
        return explain_disk_error(problem, path)
    if "No space left" in str(problem) or "File too large" in str(problem) or "quota" in str(problem):
        return explain_disk_error(OSError(28, "No space left on device"), path)
    return problem
