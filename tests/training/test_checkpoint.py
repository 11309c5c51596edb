"""Checkpoints: every byte guarded, damaged ones set aside, the newest and the best kept."""

import errno
from pathlib import Path

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.training import checkpoint
from athanor.training.checkpoint import NEWEST, Checkpoints

STATE = {"guard": {"avoided": [], "events": []}}


def write(folder: Path, step: int, best: int | None = None) -> Checkpoints:
    """A checkpoint whose weight tells its step."""
    kept = Checkpoints(folder)
    kept.save(step, {"weight": torch.full((4,), float(step)), "half": torch.ones(3).bfloat16()}, STATE, "{}\n", best)
    return kept


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*step-*"))


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    kept = write(tmp_path, 7)
    found = kept.load()
    assert found is not None and kept.complaints == []
    assert (found.step, found.state, found.lines) == (7, STATE, "{}\n")
    assert found.tensors["weight"].tolist() == [7.0] * 4
    assert found.tensors["half"].dtype == torch.bfloat16


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path: Path) -> None:
    write(tmp_path, 10)
    kept = write(tmp_path, 20)
    newest = tmp_path / "step-00000020" / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[-3] ^= 8
    newest.write_bytes(data)
    found = kept.load()
    assert found is not None and found.step == 10
    assert found.tensors["weight"].tolist() == [10.0] * 4
    assert "step-00000020" in kept.complaints[0] and "half" in kept.complaints[0]
    assert names(tmp_path) == ["bad-step-00000020", "step-00000010"]


@pytest.mark.parametrize("file", ["state.json", "state.safetensors", "metrics.jsonl"])
def test_every_byte_of_a_checkpoint_is_guarded(file: str, tmp_path: Path) -> None:
    kept = write(tmp_path, 5)
    path = tmp_path / "step-00000005" / file
    good = path.read_bytes()
    for place in range(0, len(good), max(1, len(good) // 60)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        assert kept.load() is None
        (tmp_path / "bad-step-00000005").rename(tmp_path / "step-00000005")
    for damaged in (good[: len(good) // 2], b""):
        path.write_bytes(damaged)
        assert kept.load() is None
        (tmp_path / "bad-step-00000005").rename(tmp_path / "step-00000005")
    path.write_bytes(good)
    assert kept.load() is not None


def test_only_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        kept = write(tmp_path, step, best=2 if step > 1 else 1)
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]
    assert (tmp_path / NEWEST).read_text() == "step-00000005\n"
    best = kept.whole(2)
    assert best is not None and best.tensors["weight"].tolist() == [2.0] * 4
    write(tmp_path, 6, best=6)
    assert names(tmp_path) == ["step-00000005", "step-00000006"]


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    """Copies that a person or a program for backups put beside the checkpoints."""
    kept = write(tmp_path, 7)
    (tmp_path / "step-00000009 (copy)").mkdir()
    (tmp_path / "step-00000008").write_text("a file")
    (tmp_path / "step-old").mkdir()
    found = kept.load()
    assert found is not None and found.step == 7 and kept.complaints == []
    assert len(names(tmp_path)) == 4


def test_going_back_deletes_what_came_later(tmp_path: Path) -> None:
    write(tmp_path, 10)
    kept = write(tmp_path, 20)
    found = kept.load(before=15)
    assert found is not None and found.step == 10
    assert names(tmp_path) == ["step-00000010"]


@pytest.mark.parametrize("place", range(8))
def test_a_full_disk_at_any_write_leaves_the_last_good_one(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that writes or syncs fails once; whatever was there before still loads."""
    write(tmp_path, 1)
    calls = iter(range(100))

    def failing(real):  # type: ignore[no-untyped-def]
        def call(*args, **more):  # type: ignore[no-untyped-def]
            if next(calls) == place:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **more)

        return call

    for name in ("write_tensors", "sync_file", "sync_folder", "write_json", "write_atomic"):
        monkeypatch.setattr(checkpoint, name, failing(getattr(checkpoint, name)))
    try:
        write(tmp_path, 2)
        failed = False
    except AthanorError as problem:
        assert "disk is full" in problem.what
        failed = True
    monkeypatch.undo()
    found = Checkpoints(tmp_path).load()
    assert failed == (place < 6), "six calls write a checkpoint"
    assert found is not None and found.step in ((1, 2) if failed else (2,))
    assert not list(tmp_path.glob(".*tmp"))
