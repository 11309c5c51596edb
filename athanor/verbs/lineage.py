"""athanor lineage: draw what an artifact was made from."""

from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.verbs.options import find_artifact, json_option, print_json, store_option


@click.command(
    epilog="\b\nExample:  athanor lineage\n          athanor lineage quantize --json\n"
    "          athanor lineage --document 1f2e3d4c5b6a7980"
)
@click.argument("name", required=False)
@click.option("--document", metavar="ID", help=say("the way of one document instead", "改为显示一篇文档的去向"))
@store_option
@json_option
def command(name: str | None, document: str | None, store: str | None, as_json: bool) -> None:
    """Draw the ancestry of NAME: an artifact, a unique beginning of it, or a step; without NAME, list what there is.

    With --document ID (`athanor why` tells it): what became of this document in every artifact on its way.
    """
    from athanor.store.artifact import find_store
    from athanor.store.lineage import ancestry, draw, summary

    place = find_store(store)
    if document is not None:
        if name is not None:
            raise AthanorError(f"{name} and --document {document}", allowed="one of them")
        _follow(place, document, as_json)
        return
    if name is None:
        rows = [summary(artifact) for artifact in place.all()]
        if as_json:
            print_json(rows)
            return
        from athanor.base.tables import text_table

        header = ["artifact", say("step", "步骤"), say("size", "大小"), say("took", "用时"), say("result", "结果")]
        cells = [[row["artifact"], row["step"], row["size"], row["took"], row["result"]] for row in rows]
        click.echo(text_table(header, cells))
        click.echo(
            say(
                "\nathanor lineage NAME draws one of them back to the raw documents",
                "\nathanor lineage 名称：一直画到原始文档",
            )
        )
        return
    artifact = find_artifact(place, name)
    tree: dict[str, Any] = ancestry(place, artifact)
    print_json(tree) if as_json else click.echo(draw(tree))


def _follow(place: Any, document: str, as_json: bool) -> None:
    """The way of one document through the store."""
    from athanor.base.tables import text_table
    from athanor.data.trace import trace

    rows = trace(place, document)
    if as_json:
        print_json(rows)
        return
    header = ["artifact", say("step", "步骤"), say("what became of the document", "文档的去向")]
    click.echo(text_table(header, [[row["artifact"], row["name"], _fate(row)] for row in rows]))


def _fate(row: dict[str, Any]) -> str:
    """What became of a document in one artifact, for people."""
    fate = row["fate"]
    if fate == "copy":
        told = f"{row['of']} ({row['id']}), {row['similarity']:.2f}"
        return say(f"removed as a copy of {told}", f"作为重复被删除：{told}")
    if fate == "dropped":
        reason = row["reason"] or say("see its funnel", "见其漏斗")
        return say(f"dropped: {reason}", f"被丢弃：{reason}")
    if fate == "packed":
        first, last = row["tokens"]
        return say(f"{row['part']}, tokens {first:,} to {last - 1:,}", f"{row['part']}，词元 {first:,} 至 {last - 1:,}")
    if fate == "learnt":
        steps = row["steps"]
        shown = ", ".join(map(str, steps[:5])) + (" …" if len(steps) > 5 else "")
        if not steps:
            return say("not reached: training ended before it", "未读到：训练先结束了")
        return say(f"read at {len(steps)} steps: {shown}", f"在 {len(steps)} 步读到：{shown}")
    return {
        "read": say("read", "读入"), "kept": say("kept, to train on", "保留，用于训练"),
        "held out": say("kept, held out", "保留，留出评测"), "used": say("made from it", "由它产生"),
    }[fate]  # fmt: skip
