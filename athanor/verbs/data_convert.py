"""athanor data convert: everything at a path into one file of documents."""

from pathlib import Path

import click

from athanor.base.words import say
from athanor.verbs.data_read import field_option, keep_option, limits_of, progress, summary
from athanor.verbs.options import json_option, print_json


@click.command(
    "convert",
    epilog="\b\nExample:  athanor data convert ~/books books.jsonl.zst --set-aside unread.jsonl\n"
    "          athanor data convert rows.jsonl.gz rows.parquet\n"
    "          athanor data convert posts.csv posts.jsonl.zst --text-field body --keep author --keep date",
)
@click.argument("path")
@click.argument("out", type=Path)
@field_option
@keep_option
@click.option("--set-aside", "aside", type=Path, metavar="FILE",
              help=say("write what cannot be read, with its reasons", "将无法读取的内容及原因写入文件"))  # fmt: skip
@json_option
def command(
    path: str, out: Path, text_field: str | None, keep: tuple[str, ...], aside: Path | None, as_json: bool
) -> None:
    """Write every document at PATH (a folder, a file, a pattern or an address) to OUT, whole or not at all.

    OUT ends in .jsonl, .jsonl.gz, .jsonl.zst or .parquet. Documents that this program wrote keep their names and
    facts; other rows are named by file and line.
    """
    from athanor.data.reading.survey import convert

    survey = convert(path, out, aside, limits_of(text_field, keep, whole_documents=True), progress())
    if as_json:
        print_json({"out": str(out), **survey.as_row()})
    else:
        click.echo(f"→ {out}\n  {summary(survey)}")
