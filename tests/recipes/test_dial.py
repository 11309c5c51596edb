"""The scales that follow from their shape: each rule worked out again."""

import pytest

from athanor.base.errors import AthanorError
from athanor.models.shapes import SHAPES, count_parameters, training_memory
from athanor.recipes.dial import SCALES, best_batch, best_rate, choose, require_runnable
from athanor.recipes.recipe import load_recipe
from athanor.recipes.runner import plan_recipe
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
    require_runnable(scale)


def test_the_rule_gives_what_its_paper_trained_with():
    """DeepSeek LLM 7B on 2e12 tokens: a batch of 2,304 rows of 4,096 and a rate of 4.2e-4 (table 2), within a fifth."""
    flops = 6 * 6.9e9 * 2e12
    assert best_batch(flops) == pytest.approx(2_304 * 4_096, rel=0.2)
    assert best_rate(flops) == pytest.approx(4.2e-4, rel=0.2)


@pytest.mark.parametrize(("scale", "published"), [("6b", 6_173_286_400), ("130b", 128_697_794_560)])
def test_large_scales_have_the_size_of_their_models_and_are_planned_only(scale, published):
    config, _ = planned_shape(scale)
    assert count_parameters(config) == pytest.approx(published, rel=0.005)
    with pytest.raises(AthanorError) as caught:
        require_runnable(scale)
    assert "R3" in str(caught.value) and "A100" in str(caught.value)


def test_nano_is_as_it_was_measured():
    chosen = {key: choice.value for key, choice in choose("nano", "pretrain").items() if key != "dtype"}
    assert chosen == {
        "layers": 4, "width": 128, "heads": 4, "hidden": 384, "context": 256, "rows": 16, "steps": 800,
        "learning_rate": 0.015, "schedule": "linear",
    }  # fmt: skip
    assert not SCALES["nano"].needs


def test_the_dial_and_the_table_of_shapes_mean_the_same_nano() -> None:
    from athanor.models.shapes import SHAPES
    from athanor.training.pretrain import PretrainSettings, network

    values = {key: choice.value for key, choice in choose("nano", "pretrain").items()}
    vocabulary = choose("nano", "tokenizer")["vocabulary"].value
    assert network(PretrainSettings(**values), vocabulary).complete() == SHAPES["nano"].complete()
