"""athanor plan --model: room, speed and cost of one published model on named machines."""

from dataclasses import asdict
from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.machines import MACHINES, Machine, find_machine
from athanor.base.tables import duration, quantity, size, text_table
from athanor.base.words import say
from athanor.models.published import Published, find_model
from athanor.models.shapes import flops_per_token, forward_flops
from athanor.recipes.model_plan import Load, Needs, Training, Use, assumptions, memory_needs, train_on, use_on
from athanor.verbs.options import print_json

DEFAULT_CONTEXT = 2_048
NONE = "–"


def plan_model(name: str, given: dict[str, Any], as_json: bool) -> None:
    """Print one model's plan; `given` holds the options that were set: bits, context, batch, on, tokens."""
    model = find_model(name)
    context = given.get("context", min(DEFAULT_CONTEXT, model.context))
    if context > model.context:
        raise AthanorError(f"context={context:,} is more than {name} was made for", allowed=f"1 to {model.context:,}")
    tokens = given.get("tokens")
    if tokens is not None and not 1 <= tokens < float("inf"):
        raise AthanorError(f"tokens={tokens}", allowed="1 or more, such as 300e9")
    load = Load(bits=given.get("bits", 16), context=context, batch=given.get("batch", 1))
    machines = {given["on"]: find_machine(given["on"])} if "on" in given else dict(MACHINES)
    needs = memory_needs(model, load)
    uses = {place: use_on(model, load, machine) for place, machine in machines.items()}
    trained = (
        {place: train_on(model, tokens, context, machine) for place, machine in machines.items()} if tokens else {}
    )
    notes = assumptions(load, machines, tokens)
    if as_json:
        print_json(_as_row(name, model, load, needs, uses, trained, notes))
        return
    _show_model(name, model, load, needs)
    click.echo("\n" + _use_table(uses, machines))
    if trained:
        click.echo("\n" + _training_table(trained, tokens or 0))
    click.echo("\n" + say("assumed:", "假设："))
    for line in notes:
        click.echo(f"  {line}")


def _flops(model: Published, context: int) -> tuple[int, int]:
    forward = sum(forward_flops(part, context) for part in model.parts)
    return forward, sum(flops_per_token(part, context) for part in model.parts)


def _show_model(name: str, model: Published, load: Load, needs: Needs) -> None:
    rounded = say("rounded", "约数") if model.within else say("exactly so", "完全一致")
    forward, training = _flops(model, load.context)
    runs = (
        say("yes", "可以")
        if model.runs
        else say("no, it is only counted; missing: ", "不能，仅计数；缺少：") + model.lacks
    )
    rows = [
        (say("model", "模型"), name),
        (say("parameters", "参数量"), f"{model.parameters:,}"),
        (say("published as", "已发布的参数量"), f"{model.count:,} ({rounded}; {model.source})"),
        (say("our trunk builds it", "本框架能否构建"), runs),
        (say("bits, context, rows", "比特、上下文、行数"), f"{load.bits}, {load.context:,}, {load.batch}"),
        (say("weights", "权重"), size(needs.weights)),
        (say("keys and values", "键值缓存"), size(needs.cache) if model.decodes else NONE),
        (say("activations", "激活"), size(needs.activations)),
        (say("memory in all", "总内存"), size(needs.total)),
        (say("FLOPs per token, forward", "每词元算力（前向）"), f"{quantity(forward)}FLOP"),
        (say("FLOPs per token, training", "每词元算力（训练）"), f"{quantity(training)}FLOP"),
    ]
    for label, value in rows:
        click.echo(f"{label}: {value}")
    if model.note:
        click.echo(f"{say('note', '注')}: {model.note}")


def _use_table(uses: dict[str, Use], machines: dict[str, Machine]) -> str:
    header = [
        say("machine", "机器"), say("memory", "内存"), say("fits", "放得下"), say("tokens/s at most", "每秒词元上限"),
        say("by bandwidth", "按带宽"), say("by compute", "按算力"), say("reads its prompt in", "读完提示用时"),
        say("what would fit", "怎样放得下"),
    ]  # fmt: skip
    rows = [
        [
            name, size(machines[name].memory), say("yes", "是") if use.fits else say("no", "否"),
            *(f"{rate:,.1f}" if rate and use.fits else NONE for rate in (use.rate, use.bandwidth_rate,
                                                                          use.compute_rate)),
            _short(use.prefill_seconds) if use.prefill_seconds and use.fits else NONE,
            say(" or ", " 或 ").join(use.would_fit) or NONE,
        ]
        for name, use in uses.items()
    ]  # fmt: skip
    return text_table(header, rows)


def _training_table(trained: dict[str, Training], tokens: float) -> str:
    header = [
        say("machine", "机器"), say("at least", "至少台数"), say("time with these", "用时"),
        say("on one: years", "单台年数"), say("cost", "费用"), say("energy", "能耗"),
    ]  # fmt: skip
    rows = [
        [
            name, f"{one.machines:,}", duration(one.seconds), f"{one.years_on_one:,.3g}",
            NONE if one.dollars is None else f"${one.dollars:,.0f}",
            NONE if one.joules is None else f"{quantity(one.joules / 3_600)}Wh",
        ]
        for name, one in trained.items()
    ]  # fmt: skip
    first = next(iter(trained.values()))
    told = f"{say('training FLOPs', '训练算力')}: {first.flops:.3g} ({quantity(tokens)} {say('tokens', '词元')}; "
    return f"{told}6 N D: {first.rule_flops:.3g})\n\n{text_table(header, rows)}"


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else duration(seconds)


def _as_row(
    name: str, model: Published, load: Load, needs: Needs, uses: dict[str, Use], trained: dict[str, Training],
    notes: list[str],
) -> dict[str, Any]:  # fmt: skip
    forward, training = _flops(model, load.context)
    return {
        "model": name, "parameters": model.parameters, "published": model.count, "source": model.source,
        "runs": model.runs, "lacks": model.lacks, **asdict(load),
        "memory": {**asdict(needs), "total": needs.total},
        "flops_per_token": {"forward": forward, "training": training},
        "machines": {place: {**asdict(use), "rate": use.rate} for place, use in uses.items()},
        "training": {place: {**asdict(one), "years_on_one": one.years_on_one} for place, one in trained.items()},
        "assumptions": notes,
    }  # fmt: skip
