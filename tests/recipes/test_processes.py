"""Training in several processes from the command line: killed, stopped, started again, and under torchrun."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from athanor.base.errors import EXIT_FAILED, EXIT_STOPPED_BY_SYSTEM, AthanorError
from athanor.recipes.processes import Job
from athanor.recipes.recipe import load_recipe
from athanor.recipes.runner import plan_recipe
from tests.conftest import ROOT, SMALLEST, athanor, surroundings

STEPS = 100  # enough that none is through before it is killed
WORDS = (
    *SMALLEST,
    f"pretrain.steps={STEPS}",
    "pretrain.heads=2",
    "pretrain.checkpoint_seconds=0",
    "--until",
    "pretrain",
)


@pytest.fixture
def store(journey: tuple[Path, dict[str, dict]], tmp_path: Path) -> Path:
    """A store of its own that has everything but the model."""
    shutil.copytree(journey[0], tmp_path / "store")
    return tmp_path / "store"


def start(store: Path, *words: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *before, "-m", "athanor", "run", "quickstart", *WORDS, *words],
        cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=surroundings(store),
    )  # fmt: skip


def rows_so_far(store: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in store.glob("work/*/*/metrics.jsonl"))


def wait_for_rows(store: Path, count: int, process: subprocess.Popen[str]) -> None:
    while rows_so_far(store) < count:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def process_of(parent: subprocess.Popen[str], rank: int) -> psutil.Process:
    """The process that trains as number `rank`."""
    found = [child for child in psutil.Process(parent.pid).children(recursive=True) if "RANK" in child.environ()]
    return next(child for child in found if child.environ()["RANK"] == str(rank))


def final_rows(store: Path) -> list[dict]:
    path = next(path for path in store.glob("artifacts/model-*/metrics.jsonl") if path.read_text().count("\n") == STEPS)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_killed_process_stops_the_others_and_another_engine_goes_on_from_there(store: Path) -> None:
    endless = "pretrain.steps=1000000"
    process = start(store, endless, "pretrain.engine=fsdp2", "pretrain.processes=2")
    wait_for_rows(store, 4, process)
    process_of(process, 1).send_signal(signal.SIGKILL)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == EXIT_FAILED, said
    assert "process 1 of 2 was killed (SIGKILL)" in said and "run the same command again" in said
    assert "Traceback" not in said

    before = rows_so_far(store)
    process = start(store, endless, "pretrain.engine=tensor", "pretrain.processes=2")
    wait_for_rows(store, before + 1, process)  # then it trains, and knows what to do when it is asked to stop
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == EXIT_STOPPED_BY_SYSTEM, said
    assert "going on at step" in said and "stopped by the system" in said


@pytest.mark.slow
def test_torchrun_starts_all_again_when_one_is_killed_and_they_go_on(store: Path) -> None:
    """torch's elastic agent; the first process alone makes what does not spread."""
    agent = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    process = start(store, "pretrain.engine=ddp", before=agent)
    wait_for_rows(store, 4, process)
    process_of(process, 1).send_signal(signal.SIGKILL)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said
    assert "going on at step" in said
    assert [row["step"] for row in final_rows(store)] == list(range(STEPS))
    [record] = [
        record
        for path in store.glob("artifacts/model-*/artifact.json")
        if (record := json.loads(path.read_text()))["measurements"].get("engine")
    ]
    assert record["measurements"]["engine"] == "ddp" and record["measurements"]["processes"] == 2


def test_the_engine_is_no_part_of_a_name_and_reaches_the_processes(tmp_path: Path) -> None:
    plans = [
        {step.name: step for step in plan_recipe(load_recipe("quickstart", words))}
        for words in ([], ["pretrain.engine=ddp", "pretrain.processes=2"])
    ]
    assert plans[0]["pretrain"].artifact == plans[1]["pretrain"].artifact
    settings = plans[1]["pretrain"].settings
    Job("pretrain", "pretrain", settings, {"shards": "a"}, tmp_path, tmp_path).write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json").settings == settings


def test_several_processes_need_an_engine() -> None:
    with pytest.raises(AthanorError, match="processes=2 needs an engine"):
        plan_recipe(load_recipe("quickstart", ["pretrain.processes=2"]))


def test_torchrun_without_an_engine_is_refused(store: Path) -> None:
    done = athanor(
        "run", "quickstart", *WORDS, store=store, check=False, RANK="0", WORLD_SIZE="2", LOCAL_RANK="0"
    )  # fmt: skip
    assert done.returncode == 2 and "pretrain.engine=ddp" in done.stderr
