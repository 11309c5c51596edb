"""A recipe after everything is decided, for people (`--dry-run`) and for machines."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from athanor.base.errors import AthanorError
from athanor.base.settings import nearest
from athanor.recipes.recipe import Recipe, nested
from athanor.recipes.runner import PlannedStep


def until_step(recipe: Recipe, last: str | None) -> Recipe:
    """The step `last` with all that it is made from; None: the whole recipe."""
    names = [step.name for step in recipe.steps]
    if last is None:
        return recipe
    if last not in names:
        raise AthanorError(f"--until {last}: no such step", allowed=", ".join(names), fix=nearest(last, names))
    needed = {last}
    for step in reversed(recipe.steps):  # parents stand before their children
        if step.name in needed:
            needed.update(step.parents.values())
    return replace(recipe, steps=tuple(step for step in recipe.steps if step.name in needed))


def describe_plan(recipe: Recipe, plan: Sequence[PlannedStep]) -> dict[str, Any]:
    """Every step with its settings, the reasons of the dial, and the artifact it will make."""
    return {
        "recipe": recipe.name, "scale": recipe.scale, "seed": recipe.seed,
        "steps": {
            planned.name: {
                "do": planned.do, "from": planned.parents, "artifact": planned.artifact,
                "settings": planned.settings.model_dump(mode="json"),
                "reasons": {key: choice.reason for key, choice in planned.chosen.items()},
            }
            for planned in plan
        },
    }  # fmt: skip


def resolved_yaml(recipe: Recipe, plan: Sequence[PlannedStep]) -> str:
    """The recipe with every value written out, valid YAML that runs the same; reasons as comments."""
    names = {planned.artifact: planned.name for planned in plan}
    head: dict[str, Any] = {"about": dict(recipe.about), "scale": recipe.scale, "seed": recipe.seed}
    text = yaml.safe_dump(head, allow_unicode=True, sort_keys=False) + "steps:\n"
    for planned in plan:
        row: dict[str, Any] = {"do": planned.do}
        if planned.parents:
            row["from"] = nested({role: names[parent] for role, parent in planned.parents.items()})
        row |= planned.settings.model_dump(mode="json")
        text += f"  {planned.name}:  # → {planned.artifact}\n"
        for line in yaml.safe_dump(row, allow_unicode=True, sort_keys=False).splitlines():
            choice = planned.chosen.get(line.partition(":")[0])
            text += f"    {line}" + (f"  # {choice.reason}" if choice else "") + "\n"
    return text
