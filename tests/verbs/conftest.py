"""Verbs run in this process, as the command line runs them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from athanor.cli import main

Verb = Callable[..., str]


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Run a verb and give what it printed; a refusal comes back as its message, with the exit code that is expected."""
    monkeypatch.setenv("ATHANOR_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("ATHANOR_LANGUAGE", "en")
    monkeypatch.chdir(tmp_path)

    def run(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        try:
            main([str(word) for word in words])
            found = 0
        except SystemExit as done:
            found = int(done.code or 0)
        said = capsys.readouterr()
        assert found == code, said.err
        return said.err if code else said.out

    return run
