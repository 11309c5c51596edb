"""The dial for other objectives and for examples: every scale plans, with nothing that a network refuses."""

import pytest

from athanor.recipes.dial import SCALES, choose
from athanor.recipes.recipe import load_recipe
from athanor.recipes.runner import plan_recipe
from athanor.training.networks import build
from tests.training.pretraining import HIDING


@pytest.mark.parametrize("scale", SCALES)
def test_the_recipe_of_objectives_plans_at_every_scale(scale: str) -> None:
    plan = {one.name: one for one in plan_recipe(load_recipe("objectives", [f"scale={scale}"]))}
    for name in HIDING:
        assert plan[name].settings.objective == name and plan[name].settings.kv_heads is None
    assert not plan["permutation"].settings.recompute and plan["masked"].settings.recompute == (scale in ("6b", "130b"))
    assert plan["masked"].settings.hidden * 2 == plan["next_token"].settings.hidden * 3
    for name in ("span_corruption", "blank_infilling"):
        assert plan[name].settings.learning_rate == plan["next_token"].settings.learning_rate


@pytest.mark.parametrize("name", HIDING)
def test_the_networks_of_nano_have_about_as_many_weights(name: str) -> None:
    plan = {one.name: one for one in plan_recipe(load_recipe("objectives"))}
    counts = {
        one: sum(weight.numel() for weight in build(plan[one].settings, 4200).parameters())
        for one in ("next_token", name)
    }
    most = 2.0 if name == "span_corruption" else 1.25  # two trunks
    assert 0.9 < counts[name] / counts["next_token"] < most


def test_steps_that_learn_examples_have_all_they_need() -> None:
    for do in ("classify", "seq2seq"):
        assert {"rows", "steps", "learning_rate", "schedule", "dtype"} == set(choose("nano", do))
