"""athanor data label: a model labels texts, and what it is not sure of waits for a person."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from athanor.base.words import say
from athanor.verbs.data import checked, filled, readable, show
from athanor.verbs.options import find_model, json_option, new_folder_option, store_option

if TYPE_CHECKING:
    from athanor.inference.endpoint import Endpoint


@click.command(
    "label",
    epilog="\b\nExample:  athanor data label reviews.jsonl --labels good,bad --model finetune --votes 3 --out labelled",
)
@click.argument("files", nargs=-1, required=True, type=Path)
@click.option("--labels", required=True, metavar="A,B,…", help=say("the labels to choose from", "可选标签"))
@click.option(
    "--model",
    help=say(
        "artifact, step or checkpoint (default: the newest); with --endpoint its name there",
        "模型（默认最新）；使用 --endpoint 时为其名称",
    ),
)
@click.option(
    "--endpoint",
    metavar="URL",
    help=say("an OpenAI-compatible address, up to /v1, instead of a model here", "OpenAI 兼容接口地址（到 /v1）"),
)
@click.option(
    "--asked",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    help=say(
        "answers of the endpoint for each vote: their agreement is the confidence",
        "接口每次投票的回答数（一致程度即置信度）",
    ),
)
@click.option(
    "--key-variable",
    default="OPENAI_API_KEY",
    show_default=True,
    help=say("environment variable with the endpoint's key", "存放接口密钥的环境变量"),
)
@click.option(
    "--question", help=say("how it is asked: a text with {text} and {labels}", "提问方式：含 {text} 与 {labels}")
)
@click.option(
    "--votes",
    type=click.IntRange(1, 9),
    default=1,
    show_default=True,
    help=say("how often each text is asked about, the labels in another order", "每条文本的投票数（标签顺序轮换）"),
)
@click.option("--threshold", type=float, default=0.9, show_default=True,
              help=say("less confidence goes to the queue", "低于此置信度进入复核队列"))  # fmt: skip
@click.option("--spot-checks", type=float, default=0.02, show_default=True,
              help=say("share of the sure rows that a person sees too", "高置信度样本的抽查比例"))  # fmt: skip
@click.option("--temperature", type=float, default=1.0, show_default=True,
              help=say("of the confidences, as data review measured it", "置信度温度（由 review 测得）"))  # fmt: skip
@new_folder_option
@store_option
@json_option
def command(
    files: tuple[Path, ...], labels: str, model: str | None, endpoint: str | None, asked: int, key_variable: str,
    question: str | None, votes: int, threshold: float, spot_checks: float, temperature: float, out: Path,
    store: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Label the rows of FILES (JSON lines with a field "text").

    OUT gets labelled.jsonl (label, confidence, votes), review.jsonl (the queue: too little confidence, and spot checks)
    and labels.json. A person sets label or accept in review.jsonl, and athanor data review puts it back. A stopped run
    goes on where it was.
    """
    from athanor.data.labelling.labels import LabelSettings

    settings = checked(
        LabelSettings, labels=tuple(label.strip() for label in labels.split(",")), threshold=threshold,
        spot_checks=spot_checks, temperature=temperature,
    )  # fmt: skip
    about: dict[str, Any] = {"question": question, "votes": votes}
    if endpoint is None:
        place, artifact = find_model(store, model)
        about |= {"model": artifact.id if artifact else str(place)}
    else:
        place = behind(endpoint, model, key_variable)
        about |= {"model": model, "endpoint": endpoint, "asked": asked}
    paths = readable(files)
    done = filled(out, lambda folder: label(paths, folder, out, place, about, settings))
    queued, queue = done["queued"], out / "review.jsonl"
    show(
        out,
        done,
        as_json,
        say(
            f"{done['rows']:,} rows, {done['labelled']:,} labelled; {queued:,} wait for a person, "
            f"{done['spot_checks']:,} of them spot checks\n  next: edit {queue}, then athanor data review {queue}",
            f"{done['rows']:,} 行，已标注 {done['labelled']:,}；待人工复核 {queued:,}（抽查 {done['spot_checks']:,}）"
            f"\n  下一步：编辑 {queue}，然后 athanor data review {queue}",
        ),
    )


def behind(address: str, model: str | None, key_variable: str) -> "Endpoint":
    """A model behind an interface.

    Raises:
        AthanorError: its name was not given.
    """
    from athanor.base.errors import AthanorError
    from athanor.inference.endpoint import Endpoint

    if model is None:
        raise AthanorError("--endpoint without a model", fix="say --model with its name there")
    return Endpoint(address, model, key_variable)


def label(
    paths: list[Path], folder: Path, out: Path, model: "Path | Endpoint", about: dict[str, Any], settings: Any
) -> dict[str, Any]:
    """Label with a model, one vote for each order of the labels."""
    from athanor.base.progress import make_progress
    from athanor.base.stopping import StopRequest
    from athanor.data.labelling.labels import label_files
    from athanor.inference.labeller import QUESTION, ModelLabeller
    from athanor.inference.runtime import open_model

    progress, question = make_progress(StopRequest().listen()), about["question"] or QUESTION
    orders = [settings.labels[turn:] + settings.labels[:turn] for turn in range(len(settings.labels))]
    votes = [orders[vote % len(orders)] for vote in range(about["votes"])]
    journal = out.parent / f".{out.name}.votes"
    if not isinstance(model, Path):
        from athanor.inference.endpoint import EndpointLabeller

        asked = about["asked"]
        askers = [EndpointLabeller(model, order, question, asked, asked * turn) for turn, order in enumerate(votes)]
        done = label_files(paths, askers, about, folder, journal, settings, progress)
        if unclear := sum(one.unclear for one in askers):
            progress.note(say(f"  {unclear} answers named no label, or several", f"  {unclear} 个回答没有给出唯一标签"))
        return done
    runtime = open_model(model)
    labellers = [ModelLabeller(runtime, order, question) for order in votes]
    done = label_files(paths, labellers, about, folder, journal, settings, progress)
    if labellers[0].cut:
        progress.note(say(f"  {labellers[0].cut} texts are longer than the model's context: read to its end",
                          f"  {labellers[0].cut} 条文本超出模型上下文，只读到上下文末尾"))  # fmt: skip
    return done
