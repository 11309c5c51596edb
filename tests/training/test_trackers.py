"""Trackers, each read back by its own program: what was logged is there, once per step, also after a stop."""

import importlib.util
from pathlib import Path

import pytest

from athanor.base.errors import AthanorError, Stopped
from athanor.base.progress import SilentProgress
from athanor.training.loop import train
from athanor.training.objective import Objective
from athanor.training.settings import LoopSettings
from athanor.training.show import Show
from athanor.training.trackers import flat, open_tracker
from tests.training.test_loop import StopAfter, settings
from tests.training.tiny import ROWS, SETTINGS, batch_of, loss_of, small_model
from tests.training.victim import MORE
from tests.training.victim import objective as damaged

STEPS = 12


def run_twice(tracker: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """A run that is stopped in the middle and gone on with."""
    monkeypatch.chdir(folder)
    objective = Objective(
        batch_of, loss_of, tokens=ROWS, watch=lambda model: {"heldout": 1.5}, samples=lambda model: ["once <b> upon"]
    )
    chosen = settings(steps=STEPS, tracker=tracker, watch_every=4)
    with pytest.raises(Stopped):
        train(small_model(), objective, chosen, folder / "run-1" / "work", StopAfter(5), "x")
    return train(small_model(), objective, chosen, folder / "run-1" / "work", SilentProgress(), "x")


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = run_twice("tensorboard", tmp_path, monkeypatch)
    events = EventAccumulator(str(tmp_path / "runs" / "run-1")).Reload()
    told = events.Scalars("loss")
    assert [one.step for one in told] == list(range(STEPS))
    assert [one.value for one in told] == pytest.approx([row["loss"] for row in rows])
    assert [one.step for one in events.Scalars("watched/heldout")] == [3, 7, 11]
    assert {"rate", "norm", "tokens_per_second", "peak_memory"} <= set(events.Tags()["scalars"])


def test_a_run_that_goes_back_shows_every_step_once_in_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    chosen = LoopSettings.model_validate({**SETTINGS.model_dump(), **MORE, "tracker": "tensorboard"})
    rows = train(small_model(), damaged(), chosen, tmp_path / "run-1" / "work", SilentProgress(), "x")
    assert [row["step"] for row in rows if row.get("skipped")] == [11, 12, 13], "it went back"
    events = EventAccumulator(str(tmp_path / "runs" / "run-1")).Reload()
    assert [one.step for one in events.Scalars("rate")] == list(range(chosen.steps))
    told = {one.step: one.value for one in events.Scalars("loss")}
    assert told == pytest.approx({row["step"]: row["loss"] for row in rows if row["loss"] is not None})


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    rows = run_twice("mlflow", tmp_path, monkeypatch)
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    [run] = client.search_runs([client.get_experiment_by_name("athanor").experiment_id])
    told = sorted(client.get_metric_history(run.info.run_id, "loss"), key=lambda one: one.step)
    assert [one.step for one in told] == list(range(STEPS))
    assert [one.value for one in told] == pytest.approx([row["loss"] for row in rows])
    assert run.info.run_name == "run-1" and run.data.params["learning_rate"] == "0.02"
    assert run.info.status == "FINISHED"


def test_weights_and_biases_stays_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run_twice("wandb", tmp_path, monkeypatch)
    files = list((tmp_path / "runs" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert files and all(path.stat().st_size > 500 for path in files)
    assert b"tokens_per_second" in files[0].read_bytes()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(AthanorError, match="not installed") as caught:
        open_tracker(name, "run", {})  # type: ignore[arg-type]
    assert caught.value.fix == f'pip install "athanor[{name}]"'


def test_what_changes_no_result_is_no_part_of_the_settings_that_name_an_artifact() -> None:
    named = LoopSettings(steps=1, rows=1, learning_rate=0.1).model_dump(mode="json")
    assert not {"tracker", "checkpoint_seconds", "keep_checkpoints"} & set(named)
    assert {"steps", "seed", "accumulate", "watch_every"} <= set(named)


def test_rows_become_flat_figures() -> None:
    row = {"step": 3, "loss": None, "parts": {"books": 2.0}, "samples": ["x"], "spike": True}
    assert flat(row) == {"step": 3.0, "parts/books": 2.0, "spike": 1.0}


def test_the_share_of_the_peak_is_that_of_all_processes() -> None:
    """A step's FLOPs are those of all of them together."""
    objective = Objective(batch_of, loss_of, tokens=ROWS, flops=1e9)
    peaks = [Show(objective, settings(), SilentProgress(), "x", places).peak for places in (1, 8)]
    assert peaks[1] == 8 * peaks[0] > 0
