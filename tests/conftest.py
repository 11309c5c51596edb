"""What several test folders share: a small but complete run of the quickstart, made once per session."""

import contextlib
import io
import json
import os
import subprocess
import sys
import unittest.mock
from collections.abc import Sequence
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # two workers on two cores: one thread each, in what they start as well
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import athanor as _before_torch  # noqa: F401 - OpenMP's threads must be told to sleep before any test loads torch
from athanor.cli import main

ROOT = Path(__file__).parent.parent
# Real data sets, absent on most machines: tests that read them skip and say so.
REAL_DATA = Path(os.environ.get("ATHANOR_TEST_DATA") or ROOT.parent / "shared" / "data")

# The quickstart at its smallest: the whole journey in seconds. A model this small learns little, so the INT4 gate is
# opened wide; `make demo` runs with the real thresholds.
SMALLEST = (
    "data.max_bytes=1500000", "skills.conversations=600", "skills.exam=3", "tokenizer.vocabulary=1000",
    "pretrain.steps=12", "pretrain.layers=2", "pretrain.width=64", "pretrain.heads=1", "pretrain.hidden=96",
    "pretrain.context=256", "pretrain.rows=4", "finetune.steps=12", "finetune.rows=3", "evaluate.heldout_bytes=20000",
    "evaluate.exam=2", "quantize.heldout_bytes=10000", "quantize.exam=2", "quantize.most_kl=10",
    "quantize.least_agreement=0", "quantize.most_bits_lost=1", "quantize.most_accuracy_lost=1",
)  # fmt: skip


def athanor(
    *words: str, store: Path, check: bool = True, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would: a process of its own, no terminal."""
    done = subprocess.run(
        [sys.executable, "-m", "athanor", *words],
        cwd=ROOT, text=True, capture_output=True, timeout=timeout, env=surroundings(store, **environment),
    )  # fmt: skip
    if check and done.returncode:
        raise AssertionError(f"athanor {' '.join(words)} → {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def athanor_here(*words: str, store: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same words inside this process, for tests of what it says and not of its start: torch is loaded once."""
    said, shown, code = io.StringIO(), io.StringIO(), 0
    with (
        unittest.mock.patch.dict(os.environ, surroundings(store, **environment), clear=True),
        contextlib.redirect_stdout(said), contextlib.redirect_stderr(shown), contextlib.chdir(ROOT),
    ):  # fmt: skip
        try:
            main(list(words))
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return subprocess.CompletedProcess(words, code, said.getvalue(), shown.getvalue())


def surroundings(store: Path, **more: str) -> dict[str, str]:
    """The environment of a test's process: its own store, English, no colour."""
    return {**os.environ, "ATHANOR_STORE": str(store), "ATHANOR_LANGUAGE": "en", "NO_COLOR": "1", **more}


def run_smallest(store: Path, *overrides: str) -> dict[str, dict]:
    """Run the quickstart at its smallest and return every step's record."""
    done = athanor("run", "quickstart", *SMALLEST, *overrides, "--json", store=store)
    return json.loads(done.stdout)


def file_hashes(store: Path, names: Sequence[str] | None = None) -> dict[str, dict[str, str]]:
    """Every artifact's files and their hashes, as their records say; volatile ones (reports) left out."""
    found = {}
    for path in sorted((store / "artifacts").glob("*/artifact.json")):
        record = json.loads(path.read_text())
        if not record["volatile"] and (names is None or record["name"] in names):
            found[path.parent.name] = {name: row["hash"] for name, row in record["files"].items()}
    return found


@pytest.fixture(scope="session")
def journey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict]]:
    """A store after one smallest run, and the records of its steps."""
    store = tmp_path_factory.mktemp("journey") / "store"
    return store, run_smallest(store)
