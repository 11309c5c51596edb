"""Runs corpus steps the way the recipe runner does, into real artifacts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from athanor.base.files import empty_folder
from athanor.base.progress import SilentProgress
from athanor.store.artifact import Artifact, Store

RunStep = Callable[..., Artifact]


@pytest.fixture
def run_step(tmp_path: Path) -> RunStep:
    """`run_step(step, settings, **parents)`: the artifact that a step fills."""
    store = Store(tmp_path / "store").create()
    made: list[str] = []

    def run(step: Callable[..., dict[str, Any]], settings: Any, **parents: Artifact) -> Artifact:
        name = f"{step.__name__}-{len(made)}"
        made.append(name)
        folder = store.workplace(name)
        measurements = step(settings, parents, folder, SilentProgress())
        work = folder / ".work"
        if work.is_dir():
            empty_folder(work)
            work.rmdir()
        return store.commit(name, {"kind": step.__name__, "measurements": measurements})

    return run
