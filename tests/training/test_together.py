"""Several objectives in one batch: a loss for each, and how far their gradients agree."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from athanor.base.progress import SilentProgress
from athanor.data.packing.batches import Batches
from athanor.training.corpus import every_rows, learning, read_rows
from athanor.training.loop import train
from athanor.training.networks import build
from athanor.training.objective import Objective
from athanor.training.sft import FinetuneSettings
from tests.training.pretraining import CONTEXT, CPU, ROWS, Runs, settings_of, tokenizer_for


def test_blank_infilling_and_next_token_are_learnt_together_on_the_same_rows(tmp_path: Path) -> None:
    """GLM's network read both ways: a loss for each, and how far their gradients agree."""
    settings = settings_of("blank_infilling", beside={"next_token": 0.5}, compare_every=12, steps=24)
    tokenizer = tokenizer_for(settings)
    model = build(settings, tokenizer.vocabulary)
    batches = Batches(Runs(tokenizer), settings.context, settings.rows, settings.seed)
    batch, loss = learning(settings, batches, every_rows(settings, tokenizer, model), CPU)
    found = loss(model, batch(0, 0, 1))
    alone = {name: rows.loss(None)(model, read_rows(batches, rows, settings.seed, CPU)(0, 0, 1))
             for name, rows in every_rows(settings, tokenizer, model).items()}  # fmt: skip
    means = {name: float(one.total.detach() / one.count) for name, one in alone.items()}
    weighted = (means["blank_infilling"] + 0.5 * means["next_token"]) / 1.5
    assert float(found.total.detach() / found.count) == pytest.approx(weighted, rel=1e-5)
    rows = train(model, Objective(batch, loss, 2 * ROWS * CONTEXT), settings, tmp_path, SilentProgress(), "x")
    for name in means:
        assert rows[-1]["parts"][name] < 0.7 * rows[0]["parts"][name]
    assert [row["step"] for row in rows if "agreement blank_infilling next_token" in row["parts"]] == [0, 12]


def test_objectives_that_need_another_network_are_not_learnt_together() -> None:
    for more, told in (({"beside": {"masked": 1.0}}, "cannot learn masked"), ({"compare_every": 2}, "name one")):
        with pytest.raises(ValidationError, match=told):
            settings_of("blank_infilling", **more)
    with pytest.raises(ValidationError, match="cannot learn next_token"):
        settings_of("masked", beside={"next_token": 1.0})


def test_conversations_alone_have_nothing_to_be_compared_with() -> None:
    with pytest.raises(ValidationError, match="set document_rows"):
        FinetuneSettings(steps=1, rows=1, learning_rate=0.1, compare_every=1)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"engine": "tensor", "processes": 2, "heads": 3, "width": 96}, "cannot divide heads=3"),
        ({"engine": "context", "objective": "span_corruption"}, "cannot divide rows with objective: span_corruption"),
        ({"engine": "context", "experts": 4, "experts_per_token": 2}, "cannot divide rows with experts"),
    ],
)
def test_what_an_engine_cannot_divide_is_refused_with_the_settings(more: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        settings_of(str(more.pop("objective", "next_token")), **more)
