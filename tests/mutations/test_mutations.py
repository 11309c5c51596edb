"""Break the code in one place at a time; some test must notice.

A change that nobody notices is a hole in the tests; one whose line is gone must be written anew. Slow: each change is a
run of its own, on a copy of the package.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutations.changes import CHANGES, Change

ROOT = Path(__file__).parent.parent.parent
NOTICED = 1  # pytest's exit code when tests ran and some failed


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and its tests, to be broken."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("athanor", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture
def broken(request: pytest.FixtureRequest, copy: Path) -> Iterator[Path]:
    """The copy with one change, until the test is over."""
    change: Change = request.param
    path = copy / "athanor" / change.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(change.old, change.new), encoding="utf-8")
    yield copy
    path.write_text(text, encoding="utf-8")


def run(folder: Path, change: Change) -> subprocess.CompletedProcess[str]:
    """The tests that must notice, until the first failure."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", change.tests]
    command += ["-k", change.only] if change.only else []
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_the_line_is_still_there(change: Change) -> None:
    text = (ROOT / "athanor" / change.file).read_text(encoding="utf-8")
    assert text.count(change.old) == 1, f"{change.file} has {text.count(change.old)} times: {change.old}"
    assert change.old != change.new


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "change"), [(change, change) for change in CHANGES], indirect=["broken"], ids=[c.name for c in CHANGES]
)
def test_it_is_noticed(broken: Path, change: Change) -> None:
    result = run(broken, change)
    assert result.returncode == NOTICED, f"nobody noticed\n{result.stdout[-2_000:]}\n{result.stderr[-2_000:]}"
