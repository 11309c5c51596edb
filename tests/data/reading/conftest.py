"""Reading a path as the recipe's step does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from athanor.base.records import read_records
from athanor.data.reading.read import ReadSettings, read_documents
from athanor.data.shards import read_shards


@pytest.fixture
def read_all(run_step) -> Callable[..., tuple[list[Any], dict[str, str]]]:
    """(documents, set-aside reasons by source) of a path."""

    def run(path: Path | str, **settings: object) -> tuple[list[Any], dict[str, str]]:
        artifact = run_step(read_documents, ReadSettings(path=str(path), **settings))
        documents = list(read_shards(artifact, "documents"))
        aside = {row["source"]: row["reason"] for row in read_records(artifact.file("set_aside.jsonl"))}
        assert len({document.id for document in documents}) == len(documents)
        return documents, aside

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for what is read; the store stands beside it."""
    place = tmp_path / "given"
    place.mkdir()
    return place
