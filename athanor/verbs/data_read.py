"""athanor data read: what a path holds, and what of it cannot be read."""

from typing import Any

import click

from athanor.base.words import say
from athanor.verbs.options import json_option, print_json

field_option = click.option(
    "--text-field",
    help=say("the field of a row that holds the text (default: text, content, body)", "行中存放正文的字段"),
)
keep_option = click.option(
    "--keep",
    multiple=True,
    metavar="FIELD",
    help=say("another field to keep; may be repeated", "另外保留的字段，可重复"),
)


@click.command(
    "read",
    epilog="\b\nExample:  athanor data read ~/notes\n"
    "          athanor data read 'crawl/*.warc.gz' --show 3 --json\n"
    "          athanor data read s3://bucket/shards/ --text-field body",
)
@click.argument("path")
@click.option("--show", "shown", type=click.IntRange(0), default=5, show_default=True,
              help=say("documents to show", "展示的文档数"))  # fmt: skip
@field_option
@json_option
def command(path: str, shown: int, text_field: str | None, as_json: bool) -> None:
    """Read everything at PATH (a folder, a file, a pattern or an address) and say what it holds.

    txt, md, html, jsonl, json, csv, tsv, parquet, arrow, warc, pdf, epub, docx, tar, zip, and pictures and sounds with
    their words. Nothing is written.
    """
    from athanor.data.document import Document
    from athanor.data.reading.survey import Survey, read_path

    survey, first = Survey(), []
    for item in read_path(path, limits_of(text_field, ()), survey, progress()):
        if isinstance(item, Document) and len(first) < shown:
            first.append(item)
    if not survey.documents:
        raise survey.explain(path)
    if as_json:
        print_json({**survey.as_row(), "shown": [document.to_row() for document in first]})
        return
    for number, document in enumerate(first, 1):
        click.echo(describe(number, document))
    click.echo(summary(survey))


def limits_of(text_field: str | None, keep: tuple[str, ...], whole_documents: bool = False) -> Any:
    """The usual limits of the step `read`; a document is as long as a row may be."""
    from athanor.base.settings import parse_settings
    from athanor.data.reading.items import ReadLimits
    from athanor.data.reading.read import ReadSettings

    most = parse_settings(ReadSettings, {"keep_fields": keep}, "athanor data").max_line_bytes
    return ReadLimits(
        max_document_bytes=most, max_line_bytes=most, text_field=text_field, keep_fields=keep,
        whole_documents=whole_documents,
    )  # fmt: skip


def progress() -> Any:
    """A bar that can be stopped."""
    from athanor.base.progress import make_progress
    from athanor.base.stopping import StopRequest

    return make_progress(StopRequest().listen())


def describe(number: int, document: Any) -> str:
    """A document in a few lines: its name, kind, size, what belongs to it, and how it begins."""
    from athanor.base.tables import size
    from athanor.data.funnel import shorten

    media = "".join(f" · {item['kind']} {_extent(item)}" for item in document.media)
    return f"{number}. {document.source} · {document.kind} · {size(document.bytes)}{media}\n   {shorten(document.text)}"


def _extent(item: Any) -> str:
    return f"{item['width']}×{item['height']}" if "width" in item else f"{item['seconds']} s"


def _example(shown: Any) -> str:
    """A file or row that was set aside: its name, and what stands in it instead."""
    detail = shown["text"]
    return f"{shown['source']} {detail[detail.index('has ') :]}" if "has " in detail else shown["source"]


def summary(survey: Any) -> str:
    """The counts, and a table of what was set aside."""
    from athanor.base.tables import size, text_table

    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(survey.kinds.items()))
    aside = survey.as_row()["set_aside"]
    count = sum(row["count"] for row in aside)
    said = say(
        f"{survey.documents:,} documents ({kinds}), {size(survey.text_bytes)} of text, from {survey.files:,} files; "
        f"{count:,} set aside",
        f"{survey.files:,} 个文件，{survey.documents:,} 篇文档（{kinds}），正文 {size(survey.text_bytes)}；"
        f"搁置 {count:,} 项",
    )
    if not aside:
        return said
    rows = [(row["reason"], f"{row['count']:,}", _example(row["examples"][0])) for row in aside]
    return f"{said}\n\n{text_table(say(('set aside', 'count', 'example'), ('搁置原因', '数量', '例')), rows)}"
