"""athanor plan: what a recipe will cost, before anything starts."""

from dataclasses import asdict

import click

from athanor.base.words import say
from athanor.verbs.options import json_option, print_json


@click.command(
    epilog="\b\nExample:  athanor plan quickstart\n          athanor plan quickstart pretrain.steps=2000 --json"
)
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[STEP.KEY=VALUE]...")
@click.option("--scale", help=say("the one dial: how big everything is", "唯一的旋钮：整体规模"))
@json_option
def command(recipe: str, overrides: tuple[str, ...], scale: str | None, as_json: bool) -> None:
    """Print parameters, FLOPs, memory and time of RECIPE, and every number the dial chose with its reason."""
    from athanor.base.tables import duration, quantity, size, text_table
    from athanor.recipes.estimate import forecast
    from athanor.recipes.recipe import load_recipe
    from athanor.recipes.runner import plan_recipe

    plan = plan_recipe(load_recipe(recipe, [*overrides, *([f"scale={scale}"] if scale else [])]))
    cost = forecast(plan)
    if as_json:
        print_json(asdict(cost))
        return
    rows = [[name, duration(one.seconds), size(one.memory), f"{quantity(one.flops)}FLOP" if one.flops else "–"]
            for name, one in cost.steps.items()]  # fmt: skip
    header = [say("step", "步骤"), say("time", "时间"), say("memory", "内存"), say("training", "训练算力")]
    click.echo(text_table(header, rows))
    click.echo()
    for label, value in [
        (say("parameters", "参数量"), f"{cost.parameters:,}"),
        (say("training tokens", "训练词元"), f"{cost.tokens:,}"),
        (
            say("training FLOPs", "训练算力"),
            f"{cost.flops:.3g} ({cost.dtype}, {quantity(cost.peak_flops)}FLOP/s measured here)",
        ),
        (say("peak memory", "内存峰值"), size(cost.memory)),
        (say("time on this machine", "本机用时"), duration(cost.seconds)),
        (say("text to read", "待读文本"), size(cost.text_bytes)),
    ]:
        click.echo(f"{label}: {value}")
    chosen = [
        [f"{planned.name}.{key}", str(choice.value), choice.reason]
        for planned in plan
        for key, choice in planned.chosen.items()
    ]
    if chosen:
        click.echo(
            "\n" + text_table([say("the dial chose", "旋钮选定"), say("value", "值"), say("because", "理由")], chosen)
        )
    click.echo("\n" + say("assumed:", "假设："))
    for line in cost.assumptions:
        click.echo(f"  {line}")
