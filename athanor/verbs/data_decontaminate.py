"""athanor data decontaminate: documents without what tests will ask."""

from pathlib import Path

import click

from athanor.base.words import say
from athanor.verbs.data_read import field_option, limits_of, progress
from athanor.verbs.options import json_option, new_folder_option

ACTIONS = ("cut", "drop", "report")


@click.command(
    "decontaminate",
    epilog="\b\nExample:  athanor data decontaminate unique/documents.jsonl --tasks gsm8k.jsonl.gz --out tested\n"
    "          athanor data decontaminate ~/notes --tasks quiz.txt --tasks exam.json --action report --out found",
)
@click.argument("path")
@click.option(
    "--tasks",
    multiple=True,
    required=True,
    metavar="FILE",
    help=say("test items: .txt (one a line), .jsonl or .json; may be repeated", "测试题文件，可重复"),
)
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME",
    help=say("field of a test's row to look for (default: question, prompt, …)", "测试行中要查找的字段"),
)
@click.option(
    "--action",
    type=click.Choice(ACTIONS),
    default="cut",
    show_default=True,
    help=say(
        "cut the item and its surroundings out, drop the document, or only report", "切除题目及上下文、删除文档或只报告"
    ),
)
@click.option(
    "--share",
    type=float,
    default=0.7,
    show_default=True,
    help=say("share of an item's runs of words that must be in a document", "文档须含题目词串的比例"),
)
@field_option
@new_folder_option
@json_option
def command(
    path: str, tasks: tuple[str, ...], fields: tuple[str, ...], action: str, share: float, text_field: str | None,
    out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Take what tests ask out of the documents at PATH (a folder, a file, a pattern or an address).

    OUT gets documents.jsonl, contaminated.jsonl (which document holds which item, and what was done), items.jsonl (the
    verdict on each item), paraphrases.jsonl (what may say an item in other words; it stays) and funnel.json.
    """
    from athanor.data.copies.decontaminate import FIELDS, DecontaminateSettings
    from athanor.data.copies.tested import decontaminate_path
    from athanor.verbs.data import checked, filled, show

    settings = checked(
        DecontaminateSettings, tasks=tasks, fields=fields or FIELDS, action=action, least_share=share
    )  # fmt: skip
    limits = limits_of(text_field, (), whole_documents=True)
    done = filled(out, lambda folder: decontaminate_path(path, folder, settings, limits, progress()))
    show(
        out,
        done,
        as_json,
        say(
            f"{done['items_found']:,} of {done['items']:,} items stand in {done['touched']:,} of "
            f"{done['documents']:,} documents ({action}); {done['paraphrases']:,} may stand there in other words",
            f"{done['items']:,} 道题中 {done['items_found']:,} 道出现于 {done['touched']:,} 篇文档（共 "
            f"{done['documents']:,} 篇，{action}）；另有 {done['paraphrases']:,} 处疑似改写",
        ),
    )
