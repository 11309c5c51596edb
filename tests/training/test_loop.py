"""The loop: resuming, pieces, averages, trouble, held-out data."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from athanor.base.errors import AthanorError, Stopped
from athanor.base.progress import SilentProgress
from athanor.training.checkpoint import Checkpoints
from athanor.training.guard import MOST_REWINDS, PATIENCE, Guard, is_spike
from athanor.training.history import METRICS
from athanor.training.loop import train
from athanor.training.objective import Loss, Objective
from athanor.training.settings import LoopSettings
from tests.training.tiny import OBJECTIVE, ROWS, SETTINGS, batch_of, loss_of, small_model


class StopAfter(SilentProgress):
    """Asks to stop once so many steps were taken by this process."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self.notes: list[str] = []

    def start(self, label: str, total: float | None = None, unit: str = "", done: float = 0.0) -> None:
        super().start(label, total, unit, done)
        self.last = done + self.steps * ROWS

    def note(self, text: str) -> None:
        self.notes.append(text)

    def count(self, amount: float = 1.0, **figures: float | int | str) -> None:
        super().count(amount, **figures)
        self.stop.asked = self.done >= self.last


def settings(**more: object) -> LoopSettings:
    return LoopSettings.model_validate({**SETTINGS.model_dump(), **more})


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("more", [{}, {"optimizer": "muon"}, {"average": 0.9}, {"accumulate": 2}, {"watch_every": 3}])
def test_a_run_stopped_again_and_again_ends_with_the_same_bits(more: dict[str, object], tmp_path: Path) -> None:
    objective = Objective(
        batch_of, dropping, tokens=ROWS, watch=lambda model: {"heldout": float(loss_of(model, batch_of(10**6)).total)}
    )
    whole = small_model()
    rows = train(whole, objective, settings(**more), tmp_path / "whole", SilentProgress(), "x")
    broken = small_model()
    for seed in itertools.count(1):
        try:
            again = train(broken, objective, settings(**more), tmp_path / "broken", StopAfter(7), "x")
            break
        except Stopped:
            broken = small_model(seed)  # whatever it holds, the checkpoint decides
    assert seed >= 5
    assert again == rows
    assert same(whole, broken)
    assert (tmp_path / "broken" / METRICS).read_text() == (tmp_path / "whole" / METRICS).read_text()


def dropping(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> Loss:
    """A loss that draws random numbers, as dropout does."""
    inputs, targets = batch
    inputs = nn.functional.dropout(inputs, 0.2, training=model.training)
    return loss_of(model, (inputs, targets))


def test_pieces_make_the_same_update(tmp_path: Path) -> None:
    rows, models = [], []
    for pieces in (1, 2, 4):
        models.append(small_model())
        rows.append(
            train(models[-1], OBJECTIVE, settings(accumulate=pieces), tmp_path / str(pieces), SilentProgress(), "x")
        )
    for other in (1, 2):
        for one, two in zip(rows[0], rows[other], strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
            assert two["norm"] == pytest.approx(one["norm"], rel=1e-4)
        for one, two in zip(models[0].parameters(), models[other].parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_clipping_bounds_what_is_applied_and_the_row_tells_the_norm_before(tmp_path: Path) -> None:
    """Muon and Adam forget the scale of a gradient, so one step of plain AdamW is compared through its moments."""
    norms = {}
    for clip in (None, 1e-3):
        model = small_model()
        rows = train(model, OBJECTIVE, settings(steps=1, clip=clip), tmp_path / str(clip), SilentProgress(), "x")
        norms[clip] = rows[0]["norm"]
    assert norms[None] == norms[1e-3] > 0.01
    model = small_model()
    total, count, _ = loss_of(model, batch_of(0))
    (total / count).backward()
    expected = math.sqrt(sum(float(weight.grad.square().sum()) for weight in model.parameters()))
    assert norms[None] == pytest.approx(expected, rel=1e-5)


def test_the_average_is_its_formula(tmp_path: Path) -> None:
    """Weights after each step by runs of one step more; avg <- d avg + (1 - d) w, d = min(.9, (1 + t) / (10 + t))."""
    more = {"schedule": "constant", "warmup": 0}
    averages = weights_of(small_model())
    for step in range(5):
        model = small_model()
        train(model, OBJECTIVE, settings(steps=step + 1, **more), tmp_path / str(step), SilentProgress(), "x")
        decay = min(0.9, (1 + step) / (10 + step))
        averages = [decay * old + (1 - decay) * new for old, new in zip(averages, weights_of(model), strict=True)]
    found = small_model()
    train(found, OBJECTIVE, settings(steps=5, average=0.9, **more), tmp_path / "average", SilentProgress(), "x")
    for one, two in zip(averages, found.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------------------------- trouble


def broken_at(steps: set[int]) -> Objective:
    """A task whose loss is no number at some steps, wherever the run comes from."""

    def batch(step: int, rank: int = 0, world: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = batch_of(step, rank, world)
        return (inputs * float("nan") if step in steps else inputs), targets

    return Objective(batch, loss_of, tokens=ROWS, sources=lambda step: [f"document {step}"])


def test_one_bad_step_is_skipped_and_nothing_of_it_is_learnt(tmp_path: Path) -> None:
    model = small_model()
    progress = StopAfter(10**6)
    rows = train(model, broken_at({10, 11}), settings(average=0.9), tmp_path, progress, "x")
    assert [note.split(":")[0] for note in progress.notes] == ["  step 10", "  step 11"]
    assert [row["step"] for row in rows] == list(range(40))
    assert [row["step"] for row in rows if row.get("skipped") == "no number"] == [10, 11]
    assert rows[10]["loss"] is None and math.isfinite(rows[12]["loss"])
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())
    json.dumps(rows, allow_nan=False)


def test_a_run_of_bad_steps_goes_back_and_leaves_their_batches_out(tmp_path: Path) -> None:
    bad = set(range(10, 10 + PATIENCE))
    progress = StopAfter(10**6)
    rows = train(small_model(), broken_at(bad), settings(), tmp_path, progress, "x")
    assert [row["step"] for row in rows] == list(range(40))
    assert {row["step"] for row in rows if row.get("skipped") == "left out"} == bad
    assert any("went wrong: back at step" in note for note in progress.notes)
    assert progress.done == 40 * ROWS


@pytest.mark.parametrize("every", [1, 10**6])
def test_what_is_saved_amid_trouble_leaves_something_to_go_back_to(every: int, tmp_path: Path) -> None:
    """With one checkpoint kept: a look at held-out data that saves its best, and stops between bad steps."""
    bad = set(range(10, 10 + PATIENCE))
    objective = replace(broken_at(bad), watch=lambda model: {"heldout": 1.0})
    given = settings(steps=15, keep_checkpoints=1, keep_best=True, watch_every=every, checkpoint_seconds=1e9)
    for _ in range(30):
        try:
            rows = train(small_model(), objective, given, tmp_path, StopAfter(1 if every > 1 else 99), "x")
            break
        except Stopped:
            continue
    assert {row["step"] for row in rows if row.get("skipped") == "left out"} == bad
    assert len(Checkpoints(tmp_path).all()) == 1


def test_a_warm_up_that_never_ends_is_told(tmp_path: Path) -> None:
    progress = StopAfter(10**6)
    train(small_model(), OBJECTIVE, settings(warmup=41), tmp_path / "long", progress, "x")
    assert any("warmup=41 of 40 steps: the rate never reaches 0.02" in note for note in progress.notes)
    progress = StopAfter(10**6)
    train(small_model(), OBJECTIVE, settings(), tmp_path / "short", progress, "x")
    assert not progress.notes


def test_trouble_and_a_stop_in_the_middle_of_it_end_with_the_same_bits(tmp_path: Path) -> None:
    bad = set(range(10, 10 + PATIENCE)) | {20}
    whole, broken = small_model(), small_model()
    rows = train(whole, broken_at(bad), settings(), tmp_path / "whole", SilentProgress(), "x")
    for _ in range(60):
        try:
            again = train(broken, broken_at(bad), settings(), tmp_path / "broken", StopAfter(2), "x")
            break
        except Stopped:
            continue
    assert again == rows and same(whole, broken)


def test_trouble_that_goes_on_stops_with_a_report_that_names_the_documents(tmp_path: Path) -> None:
    with pytest.raises(AthanorError, match="stayed no number") as caught:
        train(small_model(), broken_at(set(range(8, 40))), settings(), tmp_path, SilentProgress(), "x")
    report = (tmp_path / "trouble.md").read_text()
    last = 8 + PATIENCE * (MOST_REWINDS + 1) - 1
    assert f"step {last}: document {last}" in report and f"document {last - PATIENCE}" not in report
    assert "trouble.md" in caught.value.fix and "learning rate" in caught.value.fix
    assert report.count('"what": "rewind"') == MOST_REWINDS


def test_a_gradient_that_is_no_number_is_not_applied(tmp_path: Path) -> None:
    """The loss is fine and its gradient is not: sqrt at zero."""

    def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> Loss:
        total, count, _ = loss_of(model, batch)
        zero = (model[0].weight * 0).sum()
        return Loss(total + zero.sqrt(), count)

    with pytest.raises(AthanorError, match="stayed no number"):
        train(small_model(), Objective(batch_of, loss, ROWS), settings(), tmp_path, SilentProgress(), "x")


def test_a_spike_is_six_deviations_above_the_last_128_steps() -> None:
    quiet = [{"step": step, "loss": 2.0 + 0.1 * (-1) ** step} for step in range(200)]  # deviation 0.1
    assert is_spike(2.61, quiet) and not is_spike(2.59, quiet)
    assert not is_spike(9.0, quiet[:20]), "too few steps to tell"
    high = [{"step": step, "loss": 50.0} for step in range(100)]
    assert is_spike(2.61, high + quiet[:128]), "older steps do not count"


def test_a_spike_is_marked_or_taken_back(tmp_path: Path) -> None:
    objective = Objective(lambda step, rank, world: (step, batch_of(step)), spiking, tokens=ROWS)
    progress = StopAfter(10**6)
    rows = train(small_model(), objective, settings(steps=70), tmp_path / "note", progress, "x")
    assert [row["step"] for row in rows if row.get("spike")] == [60]
    assert progress.notes == [f"  step 60: the loss jumped to {rows[60]['loss']:.3f}, 6 standard deviations up"]
    model = small_model()
    rows = train(model, objective, settings(steps=70, on_spike="rewind"), tmp_path / "back", SilentProgress(), "x")
    assert [row["step"] for row in rows if row.get("skipped") == "left out"] == [60]
    assert not any(row.get("spike") for row in rows)
    lines = (tmp_path / "back" / METRICS).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(70))


def spiking(model: nn.Module, batch: tuple[int, tuple[torch.Tensor, torch.Tensor]]) -> Loss:
    """A loss that is fifty times too large at step 60."""
    step, inner = batch
    total, count, _ = loss_of(model, inner)
    return Loss(total * (50 if step == 60 else 1), count)


def test_spikes_alone_never_stop_a_run() -> None:
    guard = Guard("rewind")
    quiet = [{"step": step, "loss": 2.0 + 0.1 * (-1) ** step} for step in range(100)]
    verdicts = {guard.judge(quiet, {"step": step, "loss": 9.0}) for step in range(100, 110)}
    assert verdicts == {"rewind"}


# ---------------------------------------------------------------------------------------------------- held-out data


def test_the_best_weights_are_those_at_the_end_when_asked_for(tmp_path: Path) -> None:
    """The rate is so large that held-out data gets worse; the weights of the best look are kept."""
    seen: list[tuple[float, list[torch.Tensor]]] = []

    def watch(model: nn.Module) -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        value = [3.0, 1.0, 2.0, 5.0][len(seen)]
        seen.append((value, weights_of(model)))
        return {"heldout": value}

    objective = Objective(batch_of, loss_of, tokens=ROWS, watch=watch)
    model = small_model()
    rows = train(model, objective, settings(watch_every=10, keep_best=True), tmp_path, SilentProgress(), "x")
    assert [row["watched"]["heldout"] for row in rows if "watched" in row] == [3.0, 1.0, 2.0, 5.0]
    assert len(rows) == 40
    assert all(torch.equal(one, two) for one, two in zip(weights_of(model), seen[1][1], strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(weights_of(model), seen[3][1], strict=True))


def test_a_figure_that_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    figures = iter([float("nan"), 2.0, 3.0, float("nan")])
    objective = Objective(batch_of, loss_of, tokens=ROWS, watch=lambda model: {"heldout": next(figures)})
    given = settings(watch_every=10, keep_best=True, checkpoint_seconds=1e9)
    kept, plain = small_model(), small_model()
    train(kept, objective, given, tmp_path / "kept", SilentProgress(), "x")
    with pytest.raises(Stopped):
        train(plain, objective, settings(), tmp_path / "plain", StopAfter(20), "x")
    assert same(kept, plain), "the weights after 20 steps, of which 2.0 was the lowest figure"


def test_looking_changes_nothing(tmp_path: Path) -> None:
    plain, watched = small_model(), small_model()
    train(plain, OBJECTIVE, settings(average=0.9), tmp_path / "plain", SilentProgress(), "x")
    objective = Objective(batch_of, loss_of, tokens=ROWS, watch=lambda model: {"heldout": 1.0})
    train(watched, objective, settings(average=0.9, watch_every=1), tmp_path / "watched", SilentProgress(), "x")
    assert same(plain, watched)
