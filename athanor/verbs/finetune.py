"""athanor finetune: a model, and conversations it should learn from."""

import sys
from pathlib import Path
from typing import Any

import click

from athanor.base.words import say
from athanor.verbs.options import find_model, json_option, print_json, store_option

METHODS = ("lora", "qlora", "rslora", "dora", "full", "freeze", "ia3", "prefix", "ptuning")


@click.command(
    epilog="\b\nExample:  athanor finetune ~/my-model chats.jsonl && athanor chat\n"
    "          athanor finetune model-1f2e3d4c alpaca.json --method qlora --epochs 2 --merge\n"
    "          athanor finetune ~/my-model chats.jsonl --set neftune=5 --set tracker=tensorboard --plan"
)
@click.argument("model")
@click.argument("data")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help=say("what learns (default: chosen by memory)", "学习方式（默认按内存选择）"),
)
@click.option("--rank", type=int, help=say("of LoRA's matrices", "LoRA 矩阵的秩"))
@click.option("--alpha", type=float, help=say("LoRA's strength", "LoRA 的强度"))
@click.option(
    "--targets", help=say("layers, such as q_proj,v_proj (default: all)", "作用的层，如 q_proj,v_proj（默认全部）")
)
@click.option("--prefix-tokens", type=int, help=say("positions of a prefix", "前缀的长度"))
@click.option("--last-layers", type=int, help=say("layers that learn with freeze", "freeze 时学习的层数"))
@click.option("--learning-rate", type=float, help=say("peak learning rate", "最高学习率"))
@click.option("--epochs", type=float, help=say("how often each row is seen", "每行数据的遍数"))
@click.option("--rows", type=int, help=say("rows per step", "每步的行数"))
@click.option("--context", type=int, help=say("tokens per row", "每行的词元数"))
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help=say("number type", "数值类型"))
@click.option("--long-rows", type=click.Choice(["refuse", "truncate", "split"]), default="refuse", show_default=True,
              help=say("conversations longer than a row", "超出一行的对话的做法"))  # fmt: skip
@click.option("--set", "more", multiple=True, metavar="KEY=VALUE",
              help=say("any other setting of the training step", "训练步骤的其他设置"))  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--merge", is_flag=True, help=say("fold the adapter into the weights as well", "另外将适配器并入权重"))
@click.option(
    "--find-lr",
    is_flag=True,
    help=say("look for the learning rate, draw it, and stop", "搜索学习率并画出曲线，然后停止"),
)
@click.option("--plan", "plan_only", is_flag=True, help=say("print what would be done, and stop", "只打印计划"))
@store_option
@json_option
def command(
    model: str, data: str, targets: str | None, more: tuple[str, ...], find_lr: bool, plan_only: bool,
    store: str | None, as_json: bool, **wishes: Any,
) -> None:  # fmt: skip
    """Teach MODEL (an artifact's name or a checkpoint's folder) the conversations in DATA.

    DATA is a file or a folder of .json, .jsonl, .gz or .zst in any form that is known by its keys: OpenAI messages,
    ShareGPT, Alpaca, GSM8K, prompt and completion. Only what the assistant says is learnt, but for turns of weight 0.
    Whatever is not given is chosen, with its reason.
    The model itself stays as it is: what was learnt is an adapter beside it (--method full and freeze: a new model).
    """
    from athanor.base.progress import make_progress
    from athanor.base.stopping import StopRequest
    from athanor.recipes.finetune import NAME, Wish, decide
    from athanor.recipes.runner import run_recipe
    from athanor.store.artifact import find_store

    folder, artifact = find_model(store, model)
    names = None if targets is None else tuple(targets.split(","))
    decided = decide(folder, artifact, data, Wish(**wishes, targets=names, more=parsed(more)))
    if plan_only and as_json:
        from athanor.recipes.resolved import describe_plan

        print_json(describe_plan(decided.recipe, decided.plan))
        return
    if not as_json:
        show_choices(decided)
    if plan_only:
        return
    place = find_store(store, create_at=Path.cwd())
    progress = make_progress(StopRequest().listen())
    if find_lr:
        search(decided, place, progress, as_json)
        return
    made = run_recipe(decided.recipe, decided.plan, place, progress, {NAME: decided.cost})
    if as_json:
        print_json({name: one.record for name, one in made.items()})
        return
    show_end(made)


def search(decided: Any, place: Any, progress: Any, as_json: bool) -> None:
    """Make what the training would read, then look for its learning rate."""
    from uniplot import plot_to_string

    from athanor.recipes.finetune import NAME
    from athanor.recipes.runner import run_recipe
    from athanor.training.find_rate import find_finetuning_rate

    number = next(number for number, one in enumerate(decided.plan) if one.name == NAME)
    run_recipe(decided.recipe, decided.plan[:number], place, progress)
    training = decided.plan[number]
    parents = {role: place.get(name) for role, name in training.parents.items()}
    curve = find_finetuning_rate(training.settings, parents, progress)
    progress.close()
    if as_json:
        print_json({"rates": curve.rates, "losses": curve.losses, "suggested": curve.suggested})
        return
    title = say("smoothed loss (nats per token) by learning rate", "平滑后的损失（每词元 nat）随学习率")
    click.echo("\n" + plot_to_string(
        curve.losses, curve.rates, x_as_log=True, title=title, lines=True, character_set="braille", width=64, height=10
    ))  # fmt: skip
    chosen = decided.chosen["learning_rate"].value
    click.echo(say(f"suggested: --learning-rate {curve.suggested:g} (without it {chosen:g} is taken)",
                   f"建议：--learning-rate {curve.suggested:g}（不给则取 {chosen:g}）"))  # fmt: skip


def parsed(pairs: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE as settings; values as in YAML."""
    from athanor.base.errors import AthanorError
    from athanor.recipes.recipe import value_of

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise AthanorError(f"--set {pair}", allowed="KEY=VALUE, such as --set neftune=5")
        found[key] = value_of(text)
    return found


def show_choices(decided: Any) -> None:
    """What will be learnt from, and every value with its reason."""
    from athanor.base.tables import duration, text_table

    survey = decided.survey
    count, why = f"{survey.refused:,}", survey.reasons
    refused = say(f", {count} refused ({why})", f"，{count} 行不可读（{why}）") if survey.refused else ""
    click.echo(say(
        f"{survey.rows:,} conversations{refused} · {survey.tokens:,} tokens, {survey.answers:,} of them answers · "
        f"longest {survey.longest():,} · {decided.steps:,} steps, about {duration(decided.cost['seconds'])}",
        f"{survey.rows:,} 段对话{refused} · {survey.tokens:,} 词元，其中回答 {survey.answers:,} · "
        f"最长 {survey.longest():,} · {decided.steps:,} 步，约 {duration(decided.cost['seconds'])}",
    ))  # fmt: skip
    rows = [[name, written(one.value), one.reason] for name, one in decided.chosen.items()]
    click.echo(text_table([say("setting", "设置"), say("value", "值"), say("because", "理由")], rows))


def written(value: Any) -> str:
    """A value in the table."""
    return say("all", "全部") if value is None else ",".join(value) if isinstance(value, tuple) else str(value)


def show_end(made: Any) -> None:
    """The curve, the held-out loss before and after, both models' answers, and how to go on."""
    from athanor.base.records import read_records
    from athanor.recipes.finish import draw_curve, show_cost

    tuned, judged = made["finetune"], made["answers"]
    click.echo(draw_curve("finetune", tuned))
    found = judged.measurements
    before, after = found["heldout_loss_before"], found["heldout_loss_after"]
    span = f"{found['change']:+.3f} " + (
        f"({found['change_low']:+.3f} … {found['change_high']:+.3f})" if found["change_low"] is not None
        else say("(one conversation tells no interval)", "（只有一段对话，无置信区间）")
    )  # fmt: skip
    count = f"{found['conversations']} conversation{'' if found['conversations'] == 1 else 's'}"
    click.echo("\n" + say(
        f"held-out answers, {count}: {before:.3f} → {after:.3f} nats per token, {span}",
        f"留出的 {found['conversations']} 段对话：每词元 {before:.3f} → {after:.3f} nat，{span}",
    ))  # fmt: skip
    for row in read_records(judged.file("answers.jsonl")):
        asked = next((turn["content"] for turn in reversed(row["messages"]) if turn["role"] == "user"), "")
        click.echo(f"  » {short(asked)}\n    {say('before', '之前')}: {short(row['before'])}\n"
                   f"    {say('after', '之后')}: {short(row['after'])}")  # fmt: skip
    show_cost(made, sys.stdout)
    click.echo("\n" + say("go on:", "接下来："))
    name = made["merge"].id if "merge" in made else tuned.id
    for words, meaning in (
        (f"athanor chat {name}", say("talk to it", "与它对话")),
        (f"athanor serve {name}", say("OpenAI's interface and a chat page", "OpenAI 接口与聊天网页")),
        (f"athanor export {tuned.id} --to {'hf' if tuned.kind == 'model' else 'peft'}",
         say("a folder for transformers or peft", "transformers 或 peft 的目录")),
        (f"athanor export {name} --to gguf", say("a file for llama.cpp", "llama.cpp 文件")),
    ):  # fmt: skip
        click.echo(f"  {words:<48} {meaning}")
    sys.stdout.flush()


def short(text: str) -> str:
    """One line of a text."""
    line = " ".join(text.split())
    return line if len(line) <= 160 else line[:159] + "…"
