"""athanor run: make everything a recipe names."""

import sys
from typing import Any

import click

from athanor.base.words import say
from athanor.base.workers import Engine, Workers, using
from athanor.verbs.options import json_option, print_json, store_option, workers_options


@click.command(
    epilog="\b\nExample:  athanor run quickstart\n          athanor run quickstart data.path=~/notes scale=nano\n"
    "          athanor run gpt3data --workers 8\n"
    "          athanor run quickstart pretrain.engine=fsdp2 pretrain.processes=2\n"
    "          torchrun --nproc-per-node 8 -m athanor run quickstart pretrain.engine=ddp"
)
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[STEP.KEY=VALUE]...")
@click.option("--scale", help=say("the one dial: how big everything is", "唯一的旋钮：整体规模"))
@click.option("--dry-run", is_flag=True, help=say("print the resolved recipe and stop", "只打印解析后的配方"))
@click.option(
    "--until", metavar="STEP", help=say("only this step and what it is made from", "只运行此步骤及其所需的步骤")
)
@workers_options
@store_option
@json_option
def command(
    recipe: str, overrides: tuple[str, ...], scale: str | None, dry_run: bool, until: str | None,
    workers: int | None, engine: Engine, store: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Make every artifact that RECIPE (a shipped name or a .yaml file) needs and the store does not have yet.

    A second run redoes only what changed; a stopped or killed run continues.
    """
    from pathlib import Path

    from athanor.base.progress import SilentProgress, make_progress
    from athanor.base.stopping import StopRequest
    from athanor.data.reading.removed import read_removed
    from athanor.recipes.processes import among_others, join_others
    from athanor.recipes.recipe import load_recipe
    from athanor.recipes.resolved import describe_plan, resolved_yaml, until_step
    from athanor.recipes.runner import follow_recipe, plan_recipe, run_recipe
    from athanor.recipes.spread import require_room
    from athanor.store.artifact import find_store

    stop = StopRequest().listen()
    chosen = [*overrides, *([f"scale={scale}"] if scale else [])]
    loaded = until_step(load_recipe(recipe, chosen), until)
    place = find_store(store, create_at=Path.cwd())
    plan = plan_recipe(loaded, removed=read_removed(place))
    if dry_run:
        print_json(describe_plan(loaded, plan)) if as_json else click.echo(resolved_yaml(loaded, plan), nl=False)
        return
    require_room(plan)
    if among_others() and not join_others(plan):
        follow_recipe(plan, place, SilentProgress(stop))
        return
    progress = make_progress(stop)
    with using(Workers(workers, engine)):
        made = run_recipe(loaded, plan, place, progress, _expect(plan, place, progress))
    if as_json:
        print_json({name: artifact.record for name, artifact in made.items()})
        return
    from athanor.recipes.finish import show_cost, show_end

    show_end(made, place, sys.stdout) if "report" in made else show_cost(made, sys.stdout)


def _expect(plan: list[Any], store: Any, progress: Any) -> dict[str, dict[str, Any]]:
    """Estimate what is still to be made, say it in one line, and return it by step."""
    from dataclasses import asdict

    from athanor.base.tables import duration, quantity, size
    from athanor.recipes.estimate import forecast

    if all(store.has(planned.artifact) for planned in plan):
        return {}
    cost = forecast(plan)
    left = sum(cost.steps[planned.name].seconds for planned in plan if not store.has(planned.artifact))
    trained = f"{quantity(cost.parameters)} parameters, {cost.flops:.3g} training FLOPs, " if cost.flops else ""
    progress.note(f"{say('plan', '计划')}: {trained}{size(cost.memory)} memory, about {duration(left)} on this machine")
    return {name: asdict(one) for name, one in cost.steps.items()}
