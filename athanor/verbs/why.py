"""athanor why: the training documents that contain a text."""

import sys
from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.verbs.options import find_artifact, json_option, latest, print_json, store_option


@click.command(epilog='\b\nExample:  athanor why "Return a list of the words in the string"')
@click.argument("text")
@click.option(
    "--index", "name", metavar="ARTIFACT", help=say("which index (default: the newest)", "使用哪个索引（默认最新）")
)
@click.option("--minimum", type=int, help=say("shortest span in bytes (default 16)", "最短片段（字节，默认 16）"))
@click.option("--limit", default=5, show_default=True, help=say("how many spans", "片段数量"))
@store_option
@json_option
def command(text: str, name: str | None, minimum: int | None, limit: int, store: str | None, as_json: bool) -> None:
    """Find the longest spans of TEXT ("-": standard input) that stand word for word in the training documents.

    For each: how often it occurs, in which documents and lines, and at which training steps the model saw it.
    """
    from athanor.data.packing.explain import Explainer
    from athanor.store.artifact import find_store

    place = find_store(store)
    index = find_artifact(place, name) if name else latest(place, "index")
    if index.kind != "index":
        raise AthanorError(f"{index.id} is not an index", fix="athanor lineage lists the artifacts")
    text = sys.stdin.read() if text == "-" else text
    spans = Explainer(index).spans(text, minimum, limit)
    if as_json:
        print_json(spans)
        return
    if not spans:
        click.echo(say("no part of it stands in the training documents", "训练文档中没有相同的片段"))
        return
    for span in spans:
        _show(span)


def _show(span: dict[str, Any]) -> None:
    times = say(f"{span['count']} time(s)", f"{span['count']} 次")
    click.echo(click.style(f"“{span['text'].strip()}”", bold=True) + f"  · {times}")
    told_before: list[str] = []
    for match in span["matches"]:
        click.echo(f"   {_where(match)} · {_when(match)}")
        click.echo(click.style(f"      …{_line(match['before'][-60:])}", dim=True)
                   + click.style(_line(span["text"]), underline=True)
                   + click.style(f"{_line(match['after'][:60])}…", dim=True))  # fmt: skip
        passed = [f"{row['step']}: {'; '.join(row['filters'])}" for row in match["filters"] if row["filters"]]
        for told in passed if passed != told_before else []:
            click.echo(click.style(f"      {say('passed ', '通过 ')}{told}", dim=True))
        told_before = passed
        if match["copies"]:
            told = say(f"stands for {match['copies']} removed copies", f"代表 {match['copies']} 篇已删除的重复文档")
            click.echo(click.style(f"      {told}", dim=True))


def _where(match: dict[str, Any]) -> str:
    """The place in the document, its id, and its source in a mixture."""
    named = f"[{match['source']}] " if match["source"] else ""
    return f"{named}{match['document']}:{match['line']}" + (f" · {match['id']}" if match["id"] else "")


def _when(match: dict[str, Any]) -> str:
    """At which optimiser steps the model read these very tokens."""
    stages = {"pretrained": say("pretraining", "预训练"), "finetuned": say("fine-tuning", "微调")}
    told = []
    for name, steps in match["read"].items():
        if steps:
            more = match["times"][name] - len(steps[:5])
            shown = ", ".join(map(str, steps[:5])) + (say(f" and {more} more", f" 等共 {more + 5} 步") if more else "")
            told.append(say(f"read at {stages[name]} step {shown}", f"{stages[name]}第 {shown} 步读到"))
    return say("; ", "；").join(told) or say("not reached: training ended before it", "未读到：训练先结束了")


def _line(text: str) -> str:
    return text.replace("\n", "⏎")
