"""What a recipe will cost, against what it cost: weights and FLOPs of every objective, examples and pairs."""

import json
from pathlib import Path

import pytest

from athanor.recipes.estimate import forecast
from athanor.recipes.recipe import load_recipe
from athanor.recipes.runner import plan_recipe
from athanor.training.corpus import row_flops
from athanor.training.networks import build
from tests.conftest import athanor
from tests.training.pretraining import OBJECTIVES

SHAPE = {"layers": 1, "width": 32, "heads": 2, "hidden": 48, "context": 64, "rows": 4, "steps": 6}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weights_and_flops_of_every_objective_are_those_of_its_network(name: str) -> None:
    told = [f"{name}.{key}={value}" for key, value in SHAPE.items()]
    plan = plan_recipe(load_recipe("objectives", ["data.max_bytes=100000", "tokenizer.vocabulary=500", *told]))
    found = forecast([one for one in plan if one.name in ("data", "clean", "tokenizer", "pack", name)]).steps[name]
    settings = next(one.settings for one in plan if one.name == name)
    model = build(settings, 500)
    assert found.parameters == sum(weight.numel() for weight in model.parameters())
    assert found.flops == pytest.approx(6 * 4 * row_flops(settings, model)) and found.tokens == 6 * 4 * 64


def test_examples_are_reckoned_by_their_length(tmp_path: Path) -> None:
    rows = [{"text": "abc" * 10, "second": "abc" * 5, "label": number % 2} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = [f"pretrain.{key}={value}" for key, value in SHAPE.items()]
    told += [f"examples.path={tmp_path}/rows.jsonl", "classify.steps=10", "classify.rows=8"]
    found = {}
    for form in ("classification", "similarity"):
        more = ["examples.second=second"] if form == "similarity" else []
        recipe = load_recipe("classify", [*told, f"examples.form={form}", *more, "tokenizer.vocabulary=500"])
        found[form] = forecast(plan_recipe(recipe)).steps["classify"]
    assert found["classification"].tokens == 10 * 8 * 10 and found["similarity"].tokens == 10 * 8 * 30
    assert found["similarity"].flops > 3 * found["classification"].flops > 0
    assert found["classification"].parameters > 10_000


def test_after_a_run_what_was_planned_stands_beside_what_it_took(tmp_path: Path) -> None:
    rows = [{"text": f"abc {number}", "label": number % 2} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = [f"pretrain.{key}={value}" for key, value in SHAPE.items()]
    told += [f"examples.path={tmp_path}/rows.jsonl", "classify.steps=3", "classify.rows=4", "tokenizer.vocabulary=300"]
    done = athanor("run", "classify", "data.max_bytes=60000", *told, store=tmp_path / "store")
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith(("pretrain", "classify"))]
    assert [line[0] for line in lines] == ["pretrain", "classify"] and "time planned" in done.stdout
    assert float(lines[0][-2]) == pytest.approx(float(lines[0][-1]), rel=0.01), "FLOPs as planned"
