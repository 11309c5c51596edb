"""athanor data review: what a person made of the queue goes back into the labels."""

from pathlib import Path
from typing import Any

import click

from athanor.base.words import say
from athanor.verbs.data import filled, show
from athanor.verbs.options import json_option, print_json


@click.command(
    "review",
    epilog="\b\nExample:  athanor data review labelled/review.jsonl\n"
    "          athanor data review labelled/review.jsonl --out reviewed",
)
@click.argument("queue", type=Path)
@click.option("--out", type=Path, help=say("a folder to be made with the merged labels", "合并结果的新文件夹"))
@json_option
def command(queue: Path, out: Path | None, as_json: bool) -> None:
    """Read QUEUE (review.jsonl) after a person edited it: how far it is, and how far machine and person agree.

    In each row set "accept": true, or "label" to another label, or "accept": false where none fits. OUT gets
    labelled.jsonl with the person's word, review.jsonl with what is still open, labels.json and agreement.json.
    """
    from athanor.data.labelling.review import merge, read_queue

    if out is not None:
        done = filled(out, lambda folder: merge(queue, folder))
        told = say(
            f"{done['labelled']:,} rows labelled, {done['by_person']:,} of them by a person",
            f"已标注 {done['labelled']:,} 行，其中人工 {done['by_person']:,} 行",
        )
        show(out, done, as_json, f"{told}\n{_figures(done)}")
        return
    figures = read_queue(queue).figures()
    if as_json:
        print_json(figures)
    else:
        click.echo(_figures(figures))


def _figures(done: dict[str, Any]) -> str:
    """Progress, agreement with its interval, kappa, and what to do about confidences that are off."""
    from athanor.base.tables import text_table
    from athanor.evaluation.statistics import share

    total = done["decided"] + done["open"]
    lines = [say(f"  {done['decided']:,} of {total:,} decided, {done['open']:,} open",
                 f"  已复核 {done['decided']:,} / {total:,}，未复核 {done['open']:,}")]  # fmt: skip
    if not done["decided"]:
        return lines[0]
    rows = []
    for kind, one in done["agreement"].items():
        agree = share(one["agree"], one["rows"])
        value = "–" if one["kappa"] is None else f"{one['kappa']:.3f}"
        interval = f"{100 * agree.value:.1f} % [{100 * agree.low:.1f}, {100 * agree.high:.1f}]"
        rows.append([kind, one["rows"], interval, value])
    lines.append(text_table(["", say("rows", "行"), say("machine and person agree", "人机一致"), "κ"], rows))
    lines.append(say(f"confidence is off by {100 * done['calibration_error']:.1f} points on average",
                     f"置信度平均偏差 {100 * done['calibration_error']:.1f} 个百分点"))  # fmt: skip
    if done["temperature"] is not None:
        lines.append(say(f"athanor data label … --temperature {done['temperature']} corrects it",
                         f"可用 athanor data label … --temperature {done['temperature']} 校正"))  # fmt: skip
    return "\n".join(lines)
