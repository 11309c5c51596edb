"""The scales that follow from their shape: each rule worked out again."""

import pytest

from athanor.base.errors import AthanorError
from athanor.models.shapes import SHAPES, count_parameters, training_memory
from athanor.recipes.dial import SCALES, best_batch, best_rate, choose
from athanor.recipes.recipe import load_recipe
from athanor.recipes.runner import plan_recipe
from athanor.recipes.spread import HELD, device_needs, planned_spread, require_room
from athanor.training.pretrain import network

DERIVED = ["micro", "small", "6b", "130b"]


def planned_shape(scale):
    steps = {step.name: step for step in plan_recipe(load_recipe("quickstart", [f"scale={scale}"]))}
    return network(steps["pretrain"].settings, steps["tokenizer"].settings.vocabulary), steps["pretrain"].settings


@pytest.mark.parametrize("scale", DERIVED)
def test_tokens_are_twenty_for_each_weight(scale):
    config, settings = planned_shape(scale)
    tokens = settings.steps * settings.rows * settings.context
    assert 20 * count_parameters(config) <= tokens < 20 * count_parameters(config) + settings.rows * settings.context


@pytest.mark.parametrize("scale", ["micro", "small"])
def test_a_scale_that_runs_is_its_shape_and_has_room(scale):
    config, settings = planned_shape(scale)
    assert config.complete() == SHAPES[scale].complete()
    assert training_memory(config, rows=settings.rows, context=settings.context).activations <= 6e9
    flops = 6 * count_parameters(config) * 20 * count_parameters(config)
    share = settings.rows * settings.context / best_batch(flops)
    assert settings.learning_rate == pytest.approx(best_rate(flops) * share**0.5, rel=0.05)
    assert SCALES[scale].spread is None


def test_the_rule_gives_what_its_paper_trained_with():
    """DeepSeek LLM 7B on 2e12 tokens: a batch of 2,304 rows of 4,096 and a rate of 4.2e-4 (table 2), within a fifth."""
    flops = 6 * 6.9e9 * 2e12
    assert best_batch(flops) == pytest.approx(2_304 * 4_096, rel=0.2)
    assert best_rate(flops) == pytest.approx(4.2e-4, rel=0.2)


@pytest.mark.parametrize(("scale", "published"), [("6b", 6_173_286_400), ("130b", 128_697_794_560)])
def test_large_scales_have_the_size_of_their_models_and_spread_over_machines(scale, published):
    """By hand: 18 bytes per weight over the devices; 6 N D FLOPs at two fifths of an A100's 312 TFLOP/s, with attention
    a little longer."""
    plan = plan_recipe(load_recipe("quickstart", [f"scale={scale}"]))
    config, settings = planned_shape(scale)
    count = count_parameters(config)
    assert count == pytest.approx(published, rel=0.005)
    spread = planned_spread(plan)
    assert spread is not None and spread.devices == 8 * spread.machines and settings.engine == "fsdp2"
    assert settings.rows == spread.devices * spread.rows * spread.accumulate
    tuning = next(one.settings for one in plan if one.name == "finetune")
    assert tuning.rows >= spread.devices and tuning.engine == "fsdp2" and tuning.recompute
    assert spread.needs.divided == pytest.approx(HELD * count / spread.devices, rel=1e-6)
    assert spread.needs.total < 0.9 * 80e9
    least = 6 * count * 20 * count / (0.4 * 312e12 * spread.devices)
    assert least < spread.seconds < 1.4 * least and spread.seconds <= 60 * 86_400
    fewer = spread.devices - 8
    assert not fewer or spread.seconds * spread.devices / fewer > 60 * 86_400, "no machine too many"
    with pytest.raises(AthanorError, match="here it has") as caught:
        require_room(plan)
    assert "A100" in caught.value.allowed and "athanor launch" in caught.value.fix


def test_a_device_holds_its_share_of_the_weights() -> None:
    """One device all of it, two devices half each."""
    config, _ = planned_shape("small")
    one, two = (device_needs(config, devices, 1).divided for devices in (1, 2))
    assert one == HELD * count_parameters(config) and two == pytest.approx(one / 2, abs=1)


def test_a_small_model_that_spreads_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is let through, and the room is what decides: the same plan on a device of 1 MB is refused."""
    plan = plan_recipe(load_recipe("quickstart", ["pretrain.engine=fsdp2", "pretrain.processes=2"]))
    require_room(plan)
    monkeypatch.setattr("athanor.recipes.spread.device_memory", lambda: 1e6)
    with pytest.raises(AthanorError, match="here it has"):
        require_room(plan)


def test_an_engine_that_is_not_built_is_refused_before_anything_starts() -> None:
    with pytest.raises(AthanorError, match="only AdamW can update"):
        plan_recipe(load_recipe("quickstart", ["pretrain.engine=deepspeed"]))


def test_nano_is_as_it_was_measured():
    chosen = {key: choice.value for key, choice in choose("nano", "pretrain").items() if key != "dtype"}
    assert chosen == {
        "layers": 4, "width": 128, "heads": 4, "hidden": 384, "context": 256, "rows": 16, "steps": 800,
        "learning_rate": 0.015, "schedule": "linear",
    }  # fmt: skip
    assert SCALES["nano"].spread is None


def test_the_dial_and_the_table_of_shapes_mean_the_same_nano() -> None:
    from athanor.models.shapes import SHAPES
    from athanor.training.pretrain import PretrainSettings, network

    values = {key: choice.value for key, choice in choose("nano", "pretrain").items()}
    vocabulary = choose("nano", "tokenizer")["vocabulary"].value
    assert network(PretrainSettings(**values), vocabulary).complete() == SHAPES["nano"].complete()
