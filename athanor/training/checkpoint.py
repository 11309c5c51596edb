"""Checkpoints for resuming: written whole or not at all, every tensor checksummed, the newest good one is used.

Layout of the folder: step-00000200/{state.safetensors, metrics.jsonl, state.json}, and `newest`, which names the last
one. Several processes write files of torch's DCP in the place of state.safetensors (`background.py`, `parts.py`), with
a checksum for each. No format in use notices a flipped bit (safetensors, torch.save, torch DCP); this one does.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.base.files import (
    explain_disk_error,
    hash_bytes,
    hash_file,
    hash_json,
    read_json,
    sync_file,
    sync_folder,
    write_atomic,
    write_json,
)
from athanor.base.tensorfile import TensorWriter
from athanor.models.convert import NAMES, raw
from athanor.store.tensors import hash_header, hash_tensors
from athanor.training.engines.engine import Engine, owner_of
from athanor.training.history import METRICS

TENSORS, STATE, NEWEST = "state.safetensors", "state.json", "newest"
NAME = re.compile(r"step-\d{8,}")


@dataclass(frozen=True)
class Found:
    """A checkpoint that is whole: the next step, where its tensors are, the state of the loop, and the rows so far."""

    step: int
    path: Path
    state: dict[str, Any]
    lines: str

    def parts(self, engine: Engine) -> dict[str, Tensor]:
        """The part of every tensor that this process holds, whoever wrote it."""
        if not (self.path / TENSORS).is_file():
            from athanor.training.parts import read_parts  # torch's DCP takes a second to load

            return read_parts(self.path, engine)
        with safe_open(self.path / TENSORS, framework="pt") as file:
            return {name: engine.part(owner_of(name), file.get_tensor(name)) for name in file.keys()}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of every tensor."""
        return self.parts(Engine())


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they stand; made when the first is written.
        keep: how many of the newest stay.

    Attributes:
        complaints: what was wrong with checkpoints that `load` set aside.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder, keep
        self.complaints: list[str] = []

    def save(
        self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], lines: str, best: int | None = None
    ) -> None:
        """Write the checkpoint of `step`: temporary folder, checksums, fsync, rename, fsync of the parent, pointer.

        Args:
            tensors: any number type that safetensors has, on any device.
            state: JSON.
            lines: metrics.jsonl as it stands.
            best: step of the best so far, which is kept beside the newest.

        Raises:
            AthanorError: the disk is full; every older checkpoint is still there.
        """
        self.finish(step, self.write(step, tensors), state, lines, best)

    def write(self, step: int, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Give the tensors to the operating system, under the temporary name; returns their checksums."""
        self.begin(step)
        path = self.temporary(step) / TENSORS
        try:
            return write_tensors(path, tensors)
        except OSError as problem:
            self.abandon(step)
            raise explain_disk_error(problem, path) from problem

    def finish(
        self, step: int, hashes: Mapping[str, str], state: Mapping[str, Any], lines: str, best: int | None
    ) -> None:
        """Wait until what `write` wrote is on the disk, and make the checkpoint whole."""
        path = self.temporary(step) / TENSORS
        try:
            sync_file(path)
        except OSError as problem:
            self.abandon(step)
            raise explain_disk_error(problem, path) from problem
        self.commit(step, {"tensors": dict(hashes)}, state, lines, best)

    def temporary(self, step: int) -> Path:
        """Where the checkpoint of a step is written."""
        return self.folder / f".step-{step:08d}.tmp"

    def begin(self, step: int) -> None:
        """Make the empty temporary folder."""
        try:
            shutil.rmtree(self.temporary(step), ignore_errors=True)
            self.temporary(step).mkdir(parents=True)
        except OSError as problem:
            raise explain_disk_error(problem, self.folder) from problem

    def abandon(self, step: int) -> None:
        """Give the space of an unfinished checkpoint back."""
        shutil.rmtree(self.temporary(step), ignore_errors=True)

    def commit(
        self, step: int, sums: Mapping[str, Any], state: Mapping[str, Any], lines: str, best: int | None
    ) -> None:
        """Make whole what stands, written and synced, in the temporary folder, and delete what is too old.

        Args:
            sums: checksums of the tensors or of the files.
        """
        final, temporary = self.folder / f"step-{step:08d}", self.temporary(step)
        try:
            (temporary / METRICS).write_text(lines, encoding="utf-8")
            sync_file(temporary / METRICS)
            row = {"step": step, **sums, "metrics": hash_bytes(lines.encode()), "state": dict(state)}
            write_json(temporary / STATE, {**row, "seal": hash_json(row)})
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            sync_folder(self.folder)
            write_atomic(self.folder / NEWEST, final.name + "\n")
        except OSError as problem:
            self.abandon(step)
            raise explain_disk_error(problem, final) from problem
        for old in self.all()[: -self.keep]:
            if step_of(old) != best:
                shutil.rmtree(old)

    def load(self, before: int | None = None) -> Found | None:
        """The newest checkpoint that is whole, or none; a damaged one is moved aside (`bad-…`), never loaded.

        Args:
            before: only of a step up to this one; later ones are deleted, since the run takes another way from here.
        """
        self.complaints = []
        for path in reversed(self.all()):
            if before is not None and step_of(path) > before:
                shutil.rmtree(path)
                continue
            problem = what_is_wrong(path)
            if not problem:
                return read_checkpoint(path)
            self.complaints.append(f"{path.name}: {problem}; it was set aside")
            aside = path.with_name("bad-" + path.name)
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        return None

    def at(self, step: int) -> Found:
        """The checkpoint of a step that was found whole by another process."""
        return read_checkpoint(self.folder / f"step-{step:08d}")

    def whole(self, step: int) -> Found | None:
        """The checkpoint of a step, or none when it is damaged or not there."""
        path = self.folder / f"step-{step:08d}"
        return None if what_is_wrong(path) else read_checkpoint(path)

    def all(self) -> list[Path]:
        """The finished checkpoints, oldest first."""
        found = (path for path in self.folder.glob("step-*") if NAME.fullmatch(path.name) and path.is_dir())
        return sorted(found, key=step_of)


def read_checkpoint(path: Path) -> Found:
    """The content of a checkpoint that was found whole."""
    row = read_json(path / STATE)
    return Found(row["step"], path, row["state"], (path / METRICS).read_text(encoding="utf-8"))


def step_of(path: Path) -> int:
    """The step that a checkpoint's name tells."""
    return int(path.name.removeprefix("step-"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Write a safetensors file tensor by tensor, and return the hash of each as it was in memory, not as on disk."""
    writer = TensorWriter(path, {name: (NAMES[one.dtype], tuple(one.shape)) for name, one in tensors.items()})
    hashes = {"": hash_header(json.loads(writer.header))}

    def read(name: str) -> memoryview:
        data = raw(tensors[name].cpu())
        hashes[name] = hash_bytes(data)
        return data

    writer.write(read)
    return hashes


def what_is_wrong(path: Path) -> str:
    """What is damaged in a checkpoint; empty when it is whole."""
    try:
        row = read_json(path / STATE)
        if not isinstance(row, dict) or row.pop("seal", None) != hash_json(row):
            return f"{STATE} has changed since it was written"
        if hash_bytes((path / METRICS).read_bytes()) != row["metrics"]:
            return f"{METRICS} has changed since it was written"
        if "files" in row:
            changed = [name for name, one in row["files"].items() if hash_file(path / name) != one]
            return f"{', '.join(changed[:3])} has changed since it was written" if changed else ""
        found = hash_tensors(path / TENSORS)
        changed = [name or "the header" for name, one in row["tensors"].items() if found.get(name) != one]
        if changed or len(found) != len(row["tensors"]):
            return f"{TENSORS} has changed since it was written ({', '.join(changed[:3]) or 'other tensors'})"
    except (OSError, AthanorError, ValueError, KeyError, TypeError, AttributeError) as problem:
        return str(problem).splitlines()[0]
    return ""
