"""Break the code in one place at a time; some test must notice.

A change that nobody notices is a hole in the tests; one whose line is gone must be written anew. Slow: each change is a
run of its own, on a copy of the package.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mutations.change import Change
from tests.mutations.changes import CHANGES

ROOT = Path(__file__).parent.parent.parent
NOTICED = 1  # pytest's exit code when tests ran and some failed
Run = Callable[..., tuple[int, str]]  # pytest's arguments -> its exit code, and what it printed


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, its tests and what they read, to be broken."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("athanor", "docs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def run(copy: Path) -> Iterator[Run]:
    """Runs pytest on the copy as it is now."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-B", "-m", "tests.mutations.server"]
    server = subprocess.Popen(
        command, cwd=copy, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(*arguments: str) -> tuple[int, str]:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps([str(copy / "output"), "-q", "-p", "no:cacheprovider", *arguments]) + "\n")
        server.stdin.flush()
        code = server.stdout.readline()
        assert code, "the server that runs pytest has ended"
        return int(code), (copy / "output").read_text(encoding="utf-8")

    yield run
    server.communicate(timeout=60)
    assert server.returncode == 0


@pytest.fixture(scope="module")
def noticing() -> list[str]:
    """The tests that noticed a change."""
    return []


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_the_line_is_still_there(change: Change) -> None:
    text = (ROOT / "athanor" / change.file).read_text(encoding="utf-8")
    assert text.count(change.old) == 1, f"{change.file} has {text.count(change.old)} times: {change.old}"
    assert change.old != change.new


def test_names_are_told_apart() -> None:
    assert len({change.name for change in CHANGES}) == len(CHANGES)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_it_is_noticed(change: Change, copy: Path, run: Run, noticing: list[str]) -> None:
    path = copy / "athanor" / change.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(change.old, change.new), encoding="utf-8")
    try:
        code, output = run("-x", "--tb=no", change.tests, *(("-k", change.only) if change.only else ()))
    finally:
        path.write_text(text, encoding="utf-8")
    ends = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    assert code == NOTICED and ends, f"nobody noticed: pytest ended with {code}\n{output[-3_000:]}"
    noticing += [line.partition(" ")[2].partition(" - ")[0] for line in ends]


@pytest.mark.slow
def test_what_noticed_is_silent_about_the_code_as_it_is(run: Run, noticing: list[str]) -> None:
    """Else a test that always fails would notice everything."""
    if not noticing:
        pytest.skip("no change was noticed in this run")
    code, output = run(*dict.fromkeys(noticing))
    assert code == 0, output[-3_000:]
