"""Artifacts: folders that exist whole or not at all, named by the hash of what made them.

Layout of a store:
    artifacts/<kind>-<hash>/     the files, and artifact.json beside them
    work/<kind>-<hash>/          the same folder while a step is filling it; survives a kill, so the step can resume
    names/<recipe>.json          the newest artifact of every step of a recipe, for people and for `athanor chat`
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.files import explain_disk_error, hash_file, hash_json, read_json, sync_folder, write_json
from athanor.store.tensors import check_tensors, hash_tensors

RECORD = "artifact.json"
RESUME = ".work"  # a step's own files for resuming, inside its folder; deleted when the artifact is committed
FORMAT = 1
HASH_LETTERS = 16


def artifact_name(kind: str, step: str, settings: Mapping[str, Any], parents: Mapping[str, str], code: str) -> str:
    """The name of the artifact that `step` makes of these settings, parents (their names) and code."""
    made_by = {"format": FORMAT, "step": step, "settings": settings, "parents": parents, "code": code}
    return f"{kind}-{hash_json(made_by)[:HASH_LETTERS]}"


class Artifact:
    """A finished folder with its record. Files are verified against the record before they are first used.

    Attributes:
        path: the folder.
        id: its name, `<kind>-<hash of what made it>`.
        record: artifact.json: kind, step, settings, parents, code, machine, measurements, files, tensors.
    """

    def __init__(self, path: Path):
        self.path = path
        self.record: dict[str, Any] = read_json(path / RECORD)
        if self.record.get("format") != FORMAT:
            raise AthanorError(
                f"{path / RECORD} has format {self.record.get('format')!r}", allowed=str(FORMAT),
                fix="it was written by another version of Athanor: use that one, or make the artifact again",
            )  # fmt: skip
        content = {key: value for key, value in self.record.items() if key != "seal"}
        if self.record.get("seal") != hash_json(content):
            raise AthanorError(f"{path / RECORD} has changed since it was written", fix=self._how_to_mend())
        self._verified: set[str] = set()

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def kind(self) -> str:
        return str(self.record["kind"])

    @property
    def measurements(self) -> dict[str, Any]:
        """What the step measured while it ran."""
        return dict(self.record["measurements"])

    def file(self, name: str) -> Path:
        """Path of one file, its bytes verified.

        Raises:
            AthanorError: the file is not part of the artifact, is missing, or has changed; a changed checkpoint
                names the tensor.
        """
        if name not in self.record["files"]:
            raise AthanorError(f"{self.id} has no file {name!r}", allowed=", ".join(self.record["files"]))
        if name not in self._verified:
            self._verify(name)
            self._verified.add(name)
        return self.path / name

    def verify(self) -> None:
        """Check every file against the record.

        Raises:
            AthanorError: at the first file that is missing, changed, or should not be there.
        """
        for name in self.record["files"]:
            self.file(name)
        extra = {name for name, _ in _files(self.path)} - set(self.record["files"])
        if extra:
            raise AthanorError(f"{self.id} holds files that its record does not name: {', '.join(sorted(extra))}")

    def _verify(self, name: str) -> None:
        path, expected = self.path / name, self.record["files"][name]
        if not path.is_file():
            raise AthanorError(f"{path} is missing", fix=self._how_to_mend())
        if path.stat().st_size == expected["bytes"] and hash_file(path) == expected["hash"]:
            return
        culprit = check_tensors(path, expected.get("tensors", {}))
        raise AthanorError(
            f"{path} has changed since it was written: {culprit or 'its bytes differ from the record'}",
            fix=self._how_to_mend(),
        )

    def _how_to_mend(self) -> str:
        return f"delete the folder {self.path} and run the recipe again: only this step and what follows is redone"


def several(parents: Mapping[str, Artifact], role: str) -> dict[str, Artifact]:
    """The parents of a role that takes several, by name: those that are called 'role.name'."""
    return {name.partition(".")[2]: artifact for name, artifact in parents.items() if name.startswith(f"{role}.")}


def weights_hash(artifact: Artifact) -> str:
    """A hash of every weight of a model by its name, however they are cut into files."""
    hashes: dict[str, str] = {}
    for name, row in artifact.record["files"].items():
        if name.endswith(".safetensors"):
            hashes |= row.get("tensors") or hash_tensors(artifact.path / name)
    return hash_json({name: value for name, value in hashes.items() if name})


class Store:
    """All artifacts of one person or project: a folder."""

    def __init__(self, root: Path):
        self.root = root
        self.artifacts, self.work, self.names = root / "artifacts", root / "work", root / "names"

    def create(self) -> "Store":
        """Make the folders, if they are not there yet."""
        try:
            for folder in (self.artifacts, self.work, self.names):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise explain_disk_error(problem, self.root) from problem
        return self

    def has(self, name: str) -> bool:
        """Whether the artifact is finished."""
        return (self.artifacts / name / RECORD).is_file()

    def get(self, name: str) -> Artifact:
        """A finished artifact by its full name or an unambiguous beginning of it."""
        if self.has(name):
            return Artifact(self.artifacts / name)
        found = [path for path in self._folders() if path.name.startswith(name) or _hash_of(path).startswith(name)]
        if len(found) == 1:
            return Artifact(found[0])
        raise AthanorError(
            f"{name!r} names {len(found) or 'no'} artifacts in {self.root}",
            allowed=", ".join(path.name for path in (found or self._folders())[:8]),
            fix="athanor lineage lists what there is",
        )

    def all(self) -> Iterator[Artifact]:
        """Every finished artifact, oldest first."""
        folders = self._folders()
        folders.sort(key=lambda path: (path / RECORD).stat().st_mtime_ns)
        return (Artifact(path) for path in folders)

    def workplace(self, name: str) -> Path:
        """The folder in which a step fills the artifact `name`; it may hold what a killed run left."""
        folder = self.work / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise explain_disk_error(problem, folder) from problem
        return folder

    def commit(self, name: str, record: Mapping[str, Any]) -> Artifact:
        """Hash and sync every file of the workplace, write its record, and rename it into place."""
        folder = self.work / name
        try:
            files = {file: describe_file(path) for file, path in _files(folder)}
            whole = {"format": FORMAT, **record, "files": files}
            write_json(folder / RECORD, {**whole, "seal": hash_json(whole)})
            for path in sorted(folder.rglob("*")):
                _sync(path)
            sync_folder(folder)
            os.rename(folder, self.artifacts / name)
            sync_folder(self.artifacts)
        except OSError as problem:
            raise explain_disk_error(problem, folder) from problem
        return Artifact(self.artifacts / name)

    def remember(self, recipe: str, names: Mapping[str, str]) -> None:
        """Point a recipe's name at its newest artifacts."""
        write_json(self.names / f"{recipe}.json", dict(names))

    def remembered(self, recipe: str) -> dict[str, str]:
        """The newest artifacts of a recipe: step to artifact name; empty when it never ran."""
        path = self.names / f"{recipe}.json"
        return dict(read_json(path)) if path.is_file() else {}

    def recipes(self) -> list[str]:
        """Names of the recipes that ran here, the newest last."""
        return [path.stem for path in sorted(self.names.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)]

    def _folders(self) -> list[Path]:
        return sorted(path.parent for path in self.artifacts.glob(f"*/{RECORD}"))


def describe_file(path: Path) -> dict[str, Any]:
    """Size and hash of a file, and the hash of every tensor of a checkpoint."""
    described: dict[str, Any] = {"bytes": path.stat().st_size, "hash": hash_file(path)}
    if path.suffix == ".safetensors":
        described["tensors"] = hash_tensors(path)
    return described


def find_store(given: str | None = None, create_at: Path | None = None) -> Store:
    """The store to use: `given`, else $ATHANOR_STORE, else the nearest `.athanor` here or above, else a new one.

    Args:
        given: the folder named on the command line.
        create_at: where to make a new `.athanor` when there is none; unset: that is an error.
    """
    named = given or os.environ.get("ATHANOR_STORE")
    if named:
        root = Path(named).expanduser()
        if create_at is None and not root.is_dir():
            raise AthanorError(f"there is no store at {root}", fix="athanor run quickstart --store " + named)
        return Store(root.absolute())
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".athanor" / "artifacts").is_dir():
            return Store(folder / ".athanor")
    if create_at is None:
        raise AthanorError(
            f"there is no store (a folder .athanor) in {here} or above it",
            fix="athanor run quickstart makes one here; or name one with --store FOLDER",
        )
    return Store(create_at.absolute() / ".athanor")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != RECORD:
            yield name, path


def _sync(path: Path) -> None:
    if path.is_dir():
        sync_folder(path)
    else:
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _hash_of(folder: Path) -> str:
    return folder.name.rpartition("-")[2]
