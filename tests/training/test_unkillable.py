"""Killed, frozen, out of disk, under a wrong clock: a run ends with the same weights and rows, to the bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from athanor.base.errors import Stopped
from athanor.base.progress import SilentProgress
from athanor.training.history import METRICS
from athanor.training.loop import train
from athanor.training.objective import Loss, Objective
from tests.conftest import ROOT, surroundings
from tests.training.tiny import OBJECTIVE, ROWS, SETTINGS, batch_of, loss_of, small_model

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def suffer(*words: object, before: list[str] | None = None) -> dict[str, int]:
    """What the program `victim` reports."""
    command = [*(before or []), sys.executable, "-m", "tests.training.victim", *map(str, words)]
    store = Path(str(words[1])) / "store"
    done = subprocess.run(
        command, cwd=ROOT, env=surroundings(store), text=True, stdout=subprocess.PIPE, timeout=1800, check=True
    )
    return json.loads(done.stdout)


def may_mount() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def test_killed_at_calls_that_change_the_disk(tmp_path: Path) -> None:
    found = suffer("calls", tmp_path, 23)
    assert found["deaths"] >= 5
    assert found["different"] == 0


@pytest.mark.slow
def test_killed_at_every_call_that_changes_the_disk(tmp_path: Path) -> None:
    found = suffer("calls", tmp_path, 1)
    assert found["deaths"] >= 150
    assert found["different"] == 0


@pytest.mark.slow
def test_a_thousand_kills_at_random_moments(tmp_path: Path) -> None:
    found = suffer("kills", tmp_path, 1000, 1)
    assert found["deaths"] >= 1000
    assert found["different"] == 0


@pytest.mark.slow
def test_frozen_and_woken(tmp_path: Path) -> None:
    assert suffer("frozen", tmp_path, 20, 1)["different"] == 0


@pytest.mark.slow
def test_the_clock_of_the_machine_jumps(tmp_path: Path) -> None:
    assert suffer("clock", tmp_path, 1)["different"] == 0


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="needs a mount namespace of its own for a disk of a few blocks")
def test_a_disk_of_any_number_of_blocks_is_full_at_every_write(tmp_path: Path) -> None:
    """A real file system with room for 1 to 16 blocks: each write is the one that fails; with room the run goes on."""
    found = suffer("full", tmp_path, 1, 16, before=NAMESPACE)
    assert 10 <= found["refusals"] < 16, "the largest disk has room for everything"
    assert found["different"] == 0


def test_a_stop_does_not_wait_for_the_other_pieces_of_a_step(tmp_path: Path) -> None:
    """Asked to stop in piece 2 of 4: pieces 3 and 4 are not computed, and the step is taken whole after resuming."""
    progress, pieces = SilentProgress(), []

    def loss(model: nn.Module, batch: object) -> Loss:
        pieces.append(1)
        if len(pieces) == 4 * 3 + 2:
            progress.stop.asked = True
        return loss_of(model, batch)  # type: ignore[arg-type]

    settings = SETTINGS.model_copy(update={"accumulate": 4, "steps": 6})
    whole, stopped, again = small_model(), small_model(), small_model(1)
    train(whole, OBJECTIVE, settings, tmp_path / "whole", SilentProgress(), "x")
    with pytest.raises(Stopped):
        train(stopped, Objective(batch_of, loss, tokens=ROWS), settings, tmp_path / "cut", progress, "x")
    assert len(pieces) == 4 * 3 + 2
    train(again, OBJECTIVE, settings, tmp_path / "cut", SilentProgress(), "x")
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert one.equal(other)
    assert (tmp_path / "cut" / METRICS).read_bytes() == (tmp_path / "whole" / METRICS).read_bytes()
