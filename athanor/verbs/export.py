"""athanor export: a model as a Hugging Face folder, a GGUF file or ONNX graphs, an adapter as a PEFT folder."""

from pathlib import Path
from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.store.artifact import Artifact, Store, find_store
from athanor.verbs.options import find_artifact, find_model, json_option, latest, print_json, store_option

ORDER = ("merge", "finetune", "pretrain")  # the newest model that is not quantised
TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")

TO = (
    "hf: a folder for transformers; gguf: a file for llama.cpp; onnx: graphs for onnxruntime; peft: an adapter",
    "hf：transformers 目录；gguf：llama.cpp 文件；onnx：onnxruntime 计算图；peft：peft 适配器目录",
)
TYPE = (
    "number type (default: as stored); q8_0 and q4_0 for gguf only",
    "数值类型（默认与存储相同）；q8_0、q4_0 仅用于 gguf",
)
DEQUANTIZE = (
    "export an INT4 model as the numbers its codes stand for",
    "将 INT4 模型还原为数值后导出",
)


@click.command(
    epilog="\b\nExample:  athanor export --to gguf --type q8_0 && llama-cli -m model-*.gguf\n"
    "          athanor export model-1f2e3d4c --to hf --out ~/my-model --license apache-2.0\n"
    "          athanor export model-1f2e3d4c --to onnx --out ~/my-graphs\n"
    "          athanor export adapter-5a6b7c8d --to peft --out ~/my-adapter"
)
@click.argument("model", required=False)
@click.option("--to", type=click.Choice(["hf", "gguf", "onnx", "peft"]), required=True, help=say(*TO))
@click.option("--type", "kind", type=click.Choice(TYPES, case_sensitive=False), help=say(*TYPE))
@click.option("--out", metavar="PATH", help=say("where to (default: here, by its name)", "输出位置（默认：当前目录）"))
@click.option("--license", "licence", metavar="NAME", help=say("licence to state, such as apache-2.0", "声明的许可证"))
@click.option("--dequantize", is_flag=True, help=say(*DEQUANTIZE))
@store_option
@json_option
def command(
    model: str | None, to: str, kind: str | None, out: str | None, licence: str | None, dequantize: bool,
    store: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Write MODEL (an artifact's name, a checkpoint's folder, or the newest unquantised model of the store).

    What was written is read again and compared with the model; the receipt stands beside it. An adapter is folded into
    its base for --to hf, gguf and onnx.
    """
    from athanor.base.progress import make_progress
    from athanor.base.stopping import StopRequest
    from athanor.recipes.export import export, receipt_of

    folder, artifact = find_leaving(store, model, to)
    name = artifact.id if artifact else folder.resolve().name
    ending = f"-{kind or 'model'}.gguf" if to == "gguf" else f"-{to}"
    target = Path(out).expanduser() if out else Path(name + ending)
    progress = make_progress(StopRequest().listen())
    receipt = export(
        folder, artifact, target, to=to, kind=kind.upper() if kind else None, dequantize=dequantize, licence=licence,
        progress=progress,
    )  # fmt: skip
    if as_json:
        print_json({"out": str(target), **receipt})
        return
    show(receipt, target, receipt_of(target) if to == "gguf" else target / "receipt.json")


def find_leaving(store: str | None, name: str | None, to: str) -> tuple[Path, Artifact | None]:
    """What is to be exported: a model, or an artifact that is an adapter."""
    if name and (Path(name).expanduser() / "adapter_config.json").is_file():
        raise AthanorError(
            f"{name} is a folder that holds an adapter", fix=f"athanor import {name} --base MODEL, then export that"
        )
    if name is None and to == "peft":
        artifact = latest_adapter(find_store(store))
    elif name is None:
        artifact = latest(find_store(store), "model", ORDER, or_else="adapter")
    elif (Path(name).expanduser() / "config.json").is_file():
        return find_model(store, name, ORDER)
    else:
        artifact = find_artifact(find_store(store), name)
    if artifact.kind != "adapter":
        return find_model(store, artifact.id, ORDER)
    artifact.verify()
    return artifact.path, artifact


def latest_adapter(store: Store) -> Artifact:
    """The newest adapter of a store."""
    try:
        return latest(store, "adapter")
    except AthanorError as problem:
        raise AthanorError(problem.what, fix="athanor import ADAPTER_FOLDER --base MODEL makes one") from problem


def show(receipt: dict[str, Any], target: Path, place: Path) -> None:
    """The receipt in a few lines."""
    if receipt["format"] == "peft":
        show_adapter(receipt, target, place)
        return
    if "differences" in receipt:
        show_network(receipt, target, place)
        return
    logits, ids, chats = receipt["logits"], receipt["token_ids"], receipt["chat_template"]
    click.echo(f"→ {target} ({receipt['type']})")
    if "merged" in receipt:
        merged = receipt["merged"]
        lost = f"{merged['logits']['max_logit_difference']:.3g} · KL {merged['logits']['kl_mean']:.2g}"
        click.echo("  " + say(
            f"{merged['adapter']} folded into {merged['base']}: largest logit difference from the two apart {lost}",
            f"{merged['adapter']} 已并入 {merged['base']}：与未并入时的 logit 最大差 {lost}",
        ))  # fmt: skip
    if "types" in receipt and len(receipt["types"]) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in receipt["types"].items())
        click.echo("  " + say(f"tensors: {counts}", f"张量：{counts}"))
    click.echo("  " + say(
        f"same greedy answers {logits['greedy_answers_same']}/{logits['greedy_answers']} · largest logit difference "
        f"{logits['max_logit_difference']:.3g} · mean KL {logits['kl_mean']:.2g} · same token ids "
        f"{ids['same']}/{ids['texts']} texts, {chats['same']}/{chats['chats']} chats",
        f"贪心回答一致 {logits['greedy_answers_same']}/{logits['greedy_answers']} · logit 最大差 "
        f"{logits['max_logit_difference']:.3g} · 平均 KL {logits['kl_mean']:.2g} · 词元一致 "
        f"{ids['same']}/{ids['texts']} 段文字，{chats['same']}/{chats['chats']} 段对话",
    ))  # fmt: skip
    if "known_differences" in ids:
        click.echo("  " + say(f"token ids in llama.cpp differ for: {ids['known_differences']}",
                              f"llama.cpp 中词元不同的文字：{ids['known_differences']}"))  # fmt: skip
    click.echo("  " + say(f"receipt: {place}", f"回执：{place}"))


def show_network(receipt: dict[str, Any], target: Path, place: Path) -> None:
    """The receipt of graphs without text: a line for each."""
    click.echo(f"→ {target} ({receipt['type']})")
    for name, row in receipt["differences"].items():
        apart = f"{row['max_difference']:.3g}"
        click.echo("  " + say(f"{name}: largest difference in onnxruntime {apart}",
                              f"{name}：onnxruntime 中的最大差 {apart}"))  # fmt: skip
    click.echo("  " + say(f"receipt: {place}", f"回执：{place}"))


def show_adapter(receipt: dict[str, Any], target: Path, place: Path) -> None:
    """The receipt of a PEFT folder in two lines."""
    base, logits, adapted = receipt["source"]["base"], receipt["logits"], receipt["adapted"]
    click.echo(say(f"→ {target} (an adapter of {base})", f"→ {target}（{base} 的适配器）"))
    click.echo("  " + say(
        f"same greedy answers {logits['greedy_answers_same']}/{logits['greedy_answers']} · largest logit difference "
        f"{logits['max_logit_difference']:.3g} · it moves the base by up to {adapted['max_logit_difference']:.3g}",
        f"贪心回答一致 {logits['greedy_answers_same']}/{logits['greedy_answers']} · logit 最大差 "
        f"{logits['max_logit_difference']:.3g} · 它使基座的 logit 至多改变 {adapted['max_logit_difference']:.3g}",
    ))  # fmt: skip
    click.echo("  " + say(f"receipt: {place}", f"回执：{place}"))
