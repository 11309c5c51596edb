"""athanor remove: take documents out of the store, and make again what was made from them."""

from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.verbs.options import json_option, print_json, store_option

SHOWN = 20  # documents


@click.command(
    epilog="\b\nExample:  athanor remove notes/today.md\n"
    '          athanor remove "call me at this number" --rebuild --delete'
)
@click.argument("documents", nargs=-1, metavar="[DOCUMENT]...")
@click.option("--copies/--no-copies", default=True, show_default=True,
              help=say("also what was taken for a copy of them: it would stand in for them",
                       "同时移除其重复文档（否则它们会顶替）"))  # fmt: skip
@click.option("--rebuild", is_flag=True, help=say("do it: make every stale artifact again", "执行：重做所有过期产物"))
@click.option("--delete", is_flag=True,
              help=say("with --rebuild: delete the old artifacts", "与 --rebuild 合用：删除旧产物"))  # fmt: skip
@store_option
@json_option
def command(
    documents: tuple[str, ...], copies: bool, rebuild: bool, delete: bool, store: str | None, as_json: bool
) -> None:
    """List every artifact that knows DOCUMENTs, each an id, a source, a file, or a text in them; --rebuild makes these
    artifacts again without.

    Without DOCUMENT: what was removed before, should a rebuild have been stopped. What is removed stays out of every
    later run that reads it again.
    """
    from athanor.base.progress import make_progress
    from athanor.base.stopping import StopRequest
    from athanor.recipes import removal
    from athanor.store.artifact import find_store

    if delete and not rebuild:
        raise AthanorError("--delete without --rebuild", fix="give both: the old is deleted when the new is there")
    place = find_store(store)
    progress = make_progress(StopRequest().listen())
    found = removal.find_removal(place, documents, copies, progress)
    names: dict[str, str] = {}
    deleted: list[str] = []
    if not as_json:
        _show(found)
    if rebuild:
        names = removal.rebuild(place, found, progress)
        deleted = removal.delete_stale(place, found, names) if delete else []
    if as_json:
        print_json({"documents": found.documents, "stale": [_row(one) for one in found.stale], "rebuilt": names,
                    "deleted": deleted})  # fmt: skip
    elif rebuild:
        kept = say("the old ones are deleted", "旧产物已删除") if delete else say(
            "the old ones stay: athanor remove --rebuild --delete deletes them",
            "旧产物仍在：athanor remove --rebuild --delete 将其删除",
        )  # fmt: skip
        click.echo(say(f"✓ {len(names)} artifacts made again; {kept}", f"✓ 已重做 {len(names)} 个产物；{kept}"))
    elif found.stale:
        click.echo(say("nothing was changed; --rebuild makes them again", "未作任何改动；--rebuild 将重做"))


def _row(one: Any) -> dict[str, Any]:
    return {"artifact": one.artifact.id, "step": one.artifact.record["name"], "holds": one.holds,
            "recipes": list(one.recipes)}  # fmt: skip


def _show(found: Any) -> None:
    from athanor.base.tables import duration, size, text_table

    if not found.documents:
        click.echo(say("no artifact holds what was removed", "没有产物包含已移除的文档"))
        return
    rows = [[row["source"], row["id"], size(row["bytes"]), row["why"]] for row in found.documents[:SHOWN]]
    header = [say("document", "文档"), "id", say("size", "大小"), say("why", "原因")]
    click.echo(text_table(header, rows))
    if len(found.documents) > SHOWN:
        more = len(found.documents) - SHOWN
        click.echo(say(f"… and {more:,} more", f"…另有 {more:,} 篇"))
    told = {"text": say("holds the text", "包含原文"), "learnt": say("made from it", "由它产生"),
            "": say("dropped it; stale in name", "已丢弃，仅名称过期")}  # fmt: skip
    header = [
        say("stale artifact", "过期产物"),
        say("step", "步骤"),
        say("it", "状态"),
        say("recipe", "配方"),
        say("took", "用时"),
    ]
    cells = [
        [one.artifact.id, one.artifact.record["name"], told[one.holds],
         ", ".join(one.recipes) or say("superseded: not made again", "已被取代，不重做"),
         duration(one.artifact.measurements.get("seconds", 0.0))]
        for one in found.stale
    ]  # fmt: skip
    click.echo("\n" + text_table(header, cells))
