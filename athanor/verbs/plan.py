"""athanor plan: what a recipe, or a published model, will cost before anything starts."""

from dataclasses import asdict
from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.verbs.options import json_option, print_json

MOST_EPOCHS = 4


@click.command(
    epilog="\b\nExample:  athanor plan quickstart\n          athanor plan quickstart pretrain.steps=2000 --json\n"
    "          athanor plan quickstart --scale small\n"
    "          athanor plan quickstart --scale 130b\n"
    "          athanor plan --model chatglm-6b --bits 4 --context 2048 --on 4090\n"
    "          athanor plan --model gpt3-175b --tokens 300e9 --on a100"
)
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[STEP.KEY=VALUE]...")
@click.option("--scale", help=say("the one dial: how big everything is", "唯一的旋钮：整体规模"))
@click.option("--model", help=say("a published model instead of a recipe", "用已发布的模型代替配方"))
@click.option("--bits", type=int, help=say("bits per weight: 4, 8, 16 or 32", "每个权重的比特数：4、8、16 或 32"))
@click.option("--context", type=int, help=say("tokens each row holds", "每行的词元数"))
@click.option("--batch", type=int, help=say("rows decoded together", "同时解码的行数"))
@click.option("--on", help=say("one machine of the table, or `here`", "表中的一台机器，或 here（本机）"))
@click.option("--tokens", type=float, help=say("train on so many tokens", "训练所用的词元数"))
@json_option
def command(
    recipe: str | None, overrides: tuple[str, ...], scale: str | None, model: str | None, bits: int | None,
    context: int | None, batch: int | None, on: str | None, tokens: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Print parameters, FLOPs, memory and time of RECIPE or of a published model (--model), before anything starts.

    Of a recipe also every number the dial chose, with its reason; of a model, whether it fits on each machine.
    """
    numbers = {"bits": bits, "context": context, "batch": batch, "on": on, "tokens": tokens}
    given = {name: value for name, value in numbers.items() if value is not None}
    if (recipe is None) == (model is None):
        raise AthanorError("give a recipe or --model, one of the two", fix="athanor plan quickstart")
    if model is not None:
        if scale:
            raise AthanorError(
                "--scale is a recipe's dial; --model has its own shape", fix=f"athanor plan --model {scale}"
            )
        from athanor.verbs.plan_model import plan_model

        plan_model(model, given, as_json)
        return
    if given:
        raise AthanorError(f"--{next(iter(given))} is for --model", fix="athanor plan --model chatglm-6b --bits 4")
    assert recipe is not None
    _plan_recipe(recipe, overrides, scale, as_json)


def _plan_recipe(recipe: str, overrides: tuple[str, ...], scale: str | None, as_json: bool) -> None:
    from athanor.base.tables import duration, quantity, size, text_table
    from athanor.recipes.estimate import forecast
    from athanor.recipes.recipe import load_recipe
    from athanor.recipes.runner import plan_recipe
    from athanor.recipes.spread import planned_spread

    plan = plan_recipe(load_recipe(recipe, [*overrides, *([f"scale={scale}"] if scale else [])]))
    cost, spread = forecast(plan), planned_spread(plan)
    if as_json:
        print_json(asdict(cost) | {"spread": None if spread is None else asdict(spread)})
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
        (say("pretraining reads it", "预训练通读次数"), _times(cost.epochs)),
    ]:
        click.echo(f"{label}: {value}")
    if spread is not None:
        _show_spread(spread)
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


def _show_spread(spread: Any) -> None:
    """Machines for a training that divides its model, and what each device holds, with the reason."""
    from athanor.base.tables import size, text_table

    rows = [[name, size(number), reason] for name, number, reason in spread.needs.lines()]
    rows.append([say("together", "合计"), size(spread.needs.total), spread.sentence()])
    header = [say("on each device", "每个设备"), say("memory", "内存"), say("because", "理由")]
    click.echo("\n" + text_table(header, rows))
    for line in spread.reasons():
        click.echo(f"  {line}")


def _times(epochs: float) -> str:
    """How often pretraining reads the text, and what is known of that."""
    if epochs <= MOST_EPOCHS:
        return say(f"{epochs:.2g} times", f"{epochs:.2g} 遍")
    return say(
        f"{epochs:,.0f} times: beyond {MOST_EPOCHS} repetitions teach less and less, give it more text "
        "(Muennighoff et al. 2023, section 5)",
        f"{epochs:,.0f} 遍：超过 {MOST_EPOCHS} 遍后收益递减，请提供更多文本（Muennighoff 等 2023，第 5 节）",
    )
