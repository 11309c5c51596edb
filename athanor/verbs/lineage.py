"""athanor lineage: draw what an artifact was made from."""

from typing import Any

import click

from athanor.base.words import say
from athanor.verbs.options import find_artifact, json_option, print_json, store_option


@click.command(epilog="\b\nExample:  athanor lineage\n          athanor lineage quantize --json")
@click.argument("name", required=False)
@store_option
@json_option
def command(name: str | None, store: str | None, as_json: bool) -> None:
    """Draw the ancestry of NAME: an artifact, a unique beginning of it, or a step; without NAME, list what there is."""
    from athanor.store.artifact import find_store
    from athanor.store.lineage import ancestry, draw, summary

    place = find_store(store)
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
