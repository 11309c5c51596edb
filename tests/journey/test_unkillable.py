"""Killed at any moment, stopped politely, or out of disk: nothing committed is lost, and the result is the same."""

import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from athanor.base.errors import EXIT_STOPPED_BY_SYSTEM, EXIT_STOPPED_BY_USER
from athanor.store.artifact import Store
from tests.conftest import ROOT, SMALLEST, athanor, file_hashes, surroundings

UNTIL = ("--until", "finetune", "pretrain.checkpoint_seconds=0", "finetune.checkpoint_seconds=0")
LONGER = tuple(word for word in SMALLEST if not word.startswith(("pretrain.steps", "finetune.steps")))
STEPS = ("pretrain.steps=60", "finetune.steps=40")


def start(store: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "athanor", "run", "quickstart", *LONGER, *STEPS, *UNTIL, *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=surroundings(store), text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, str]], float]:
    """The hashes of an undisturbed run, and how long it took."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    clock = time.monotonic()
    process = start(store)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return file_hashes(store), time.monotonic() - clock


def wait_for_steps(process: subprocess.Popen[str], store: Path) -> None:
    """Until pretraining has written down its first steps, which are the last thing that can be known from outside."""
    end = time.monotonic() + 120
    while not any(path.stat().st_size for path in (store / "work").glob("model-*/**/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < end, "pretraining never began"
        time.sleep(0.01)


def kill_until_done(store: Path, kills: int, longest: float, seed: int) -> None:
    """Start the run again and again, killing it (SIGKILL, no warning) at random moments; the last run may finish."""
    draw = random.Random(seed)
    for _ in range(kills):
        process = start(store)
        try:
            process.wait(timeout=draw.uniform(0.4, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        for artifact in Store(store).create().all():
            artifact.verify()  # whatever stands in the store is whole, at every moment
    process = start(store)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said


def test_kill_9_at_ten_random_moments_changes_no_bit(
    undisturbed: tuple[dict[str, dict[str, str]], float], tmp_path: Path
) -> None:
    hashes, seconds = undisturbed
    kill_until_done(tmp_path, kills=10, longest=min(6.0, 0.6 * seconds), seed=1)
    assert file_hashes(tmp_path) == hashes


@pytest.mark.slow
def test_kill_9_at_a_hundred_random_moments_changes_no_bit(
    undisturbed: tuple[dict[str, dict[str, str]], float], tmp_path: Path
) -> None:
    hashes, seconds = undisturbed
    for seed in range(5):
        kill_until_done(tmp_path / str(seed), kills=20, longest=min(6.0, 0.6 * seconds), seed=100 + seed)
        assert file_hashes(tmp_path / str(seed)) == hashes


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, EXIT_STOPPED_BY_USER), (signal.SIGTERM, EXIT_STOPPED_BY_SYSTEM)]
)
def test_a_polite_stop_saves_and_goes_on(
    number: signal.Signals, code: int, undisturbed: tuple[dict[str, dict[str, str]], float], tmp_path: Path
) -> None:
    """Ctrl-C or SIGTERM in the middle of training: saved, the documented exit code, and the same weights afterwards."""
    process = start(tmp_path, "pretrain.checkpoint_seconds=3600", "finetune.checkpoint_seconds=3600")
    wait_for_steps(process, tmp_path)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "run the same command again" in said
    again = start(tmp_path, "pretrain.checkpoint_seconds=3600", "finetune.checkpoint_seconds=3600")
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    found = {name.rpartition("-")[0]: files for name, files in file_hashes(tmp_path, ["pretrain"]).items()}
    expected = [
        files for name, files in undisturbed[0].items() if "metrics.jsonl" in files and "packing.npy" not in files
    ]
    assert list(found.values()) == expected


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """No file may grow beyond 200 kB: the first step that needs more says so; with room again the run goes on."""

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    command = [sys.executable, "-m", "athanor", "run", "quickstart", *SMALLEST, "--until", "tokenizer"]
    environment = {**surroundings(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, text=True, capture_output=True, preexec_fn=little_room, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    for artifact in Store(tmp_path).all():
        artifact.verify()
    athanor("run", "quickstart", *SMALLEST, "--until", "tokenizer", store=tmp_path)


def test_a_damaged_parent_stops_the_run_with_its_name(tmp_path: Path) -> None:
    athanor("run", "quickstart", *SMALLEST, "--until", "tokenizer", store=tmp_path)
    corpus = next((tmp_path / "artifacts").glob("corpus-*"))
    shard = next(corpus.glob("train-*.jsonl.zst"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    done = athanor("run", "quickstart", *SMALLEST, "--until", "pack", store=tmp_path, check=False)
    assert done.returncode == 2
    assert shard.name in done.stderr and "has changed" in done.stderr
    assert "delete the folder" in done.stderr


def test_two_runs_never_fill_the_same_workplace(tmp_path: Path) -> None:
    first = start(tmp_path)
    wait_for_steps(first, tmp_path)
    first.send_signal(signal.SIGSTOP)  # or a fast machine is done with it before the second run gets there
    second = athanor("run", "quickstart", *LONGER, *STEPS, *UNTIL, store=tmp_path, check=False)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert second.returncode == 2
    assert "another run is making" in second.stderr


def test_resuming_keeps_the_metrics_without_gaps_or_repeats(tmp_path: Path) -> None:
    kill_until_done(tmp_path, kills=3, longest=5.0, seed=3)
    for path in (tmp_path / "artifacts").glob("model-*/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps == list(range(len(steps)))
        assert len(steps) in (60, 40)
