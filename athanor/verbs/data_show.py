"""athanor data show: what a corpus looks like, in the terminal or as one HTML file."""

from pathlib import Path
from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.verbs.options import find_artifact, json_option, print_json, store_option

BAR = 40  # columns
TERMINAL_LETTERS = 400  # of a sampled document
SIDE_LETTERS = 900  # of a side of two copies
PAGE_SAMPLE, TERMINAL_SAMPLE = 100, 3


@click.command(
    epilog="\b\nExample:  athanor data show clean --search lighthouse\n"
    "          athanor data show clean --html clean.html\n"
    "          athanor data show ~/notes --sample 5"
)
@click.argument("what")
@click.option("--sample", type=click.IntRange(0, 10_000),
              help=say("documents to show (3; in a page 100)", "显示的文档数（3；网页 100）"))  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help=say("another seed chooses others", "换一批样本"))
@click.option("--search", "query", help=say("a text to look for in all of it", "在全部文本中查找"))
@click.option("--clusters", type=click.IntRange(0, 1_000),
              help=say("clusters of copies to show (2; in a page 20)", "显示的重复簇数（2；网页 20）"))  # fmt: skip
@click.option("--threshold", type=click.FloatRange(0, 1, min_open=True), default=0.7, show_default=True,
              help=say("least Jaccard similarity, where no copies were removed",
                       "未去重时的最小 Jaccard 相似度"))  # fmt: skip
@click.option("--html", "page", type=Path, metavar="FILE",
              help=say("write one HTML file instead", "改为写成一个 HTML 文件"))  # fmt: skip
@store_option
@json_option
def command(
    what: str, sample: int | None, seed: int, query: str | None, clusters: int | None, threshold: float,
    page: Path | None, store: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Show WHAT: an artifact (or a step's name) made of documents, a mixture, files, or a folder.

    Sample, search, funnel with reasons and examples, lengths, languages, near copies side by side, mixture.
    """
    from dataclasses import asdict

    from athanor.base.files import write_atomic
    from athanor.base.progress import make_progress
    from athanor.base.stopping import StopRequest
    from athanor.data.show.clusters import find_clusters
    from athanor.data.show.survey import survey

    progress = make_progress(StopRequest().listen())
    collection = _collection(what, store)
    shown = (PAGE_SAMPLE, 20) if page else (TERMINAL_SAMPLE, 2)
    seen = survey(collection, shown[0] if sample is None else sample, seed, query, progress)
    if not seen.documents:
        raise AthanorError(f"{what} holds no document that can be read", fix="athanor run quickstart --until data")
    count, found = find_clusters(collection, shown[1] if clusters is None else clusters, threshold, progress)
    progress.close()
    whole = {"name": what, "survey": asdict(seen), "funnels": collection.funnels, "mixture": collection.mixture,
             "cluster_count": count, "clusters": found, "removed_before": bool(collection.copies)}  # fmt: skip
    if page is not None:
        from athanor.base.page import render_page
        from athanor.data import show

        write_atomic(page, render_page(Path(show.__file__).with_name("show.html"), **whole))
        click.echo(f"→ {page}")
    elif as_json:
        print_json(whole)
    else:
        _print(whole)


def _collection(what: str, store: str | None) -> Any:
    """What the user named: files where there are some of this name, else an artifact."""
    from athanor.data.show.collection import of_artifact, of_path
    from athanor.store.artifact import find_store

    path = Path(what).expanduser()
    if path.exists() or any(sign in what for sign in "*?["):
        return of_path(what)
    try:
        return of_artifact(find_artifact(find_store(store), what))
    except AthanorError as problem:
        if "not made of documents" in problem.what:
            raise
        raise AthanorError(f"{problem.what}, and there is no file of this name", allowed=problem.allowed,
                           fix="athanor data show FOLDER, or athanor data show clean") from None  # fmt: skip


def _print(whole: dict[str, Any]) -> None:
    from rich.console import Console

    from athanor.base.tables import quantity, size

    console = Console(highlight=False)
    seen = whole["survey"]
    console.print(f"[bold]{_plain(whole['name'])}[/bold] · " + say(
        f"{seen['documents']:,} documents, {size(seen['bytes'])}, {quantity(seen['characters'])} characters",
        f"{seen['documents']:,} 篇文档，{size(seen['bytes'])}，{quantity(seen['characters'])} 字符",
    ), soft_wrap=True)  # fmt: skip
    _print_funnels(console, whole["funnels"])
    _print_bars(console, say("length in characters", "长度（字符）"),
                [(f"{first:,}–{last - 1:,}", count) for first, last, count in seen["lengths"]])  # fmt: skip
    _print_bars(console, say("language, by bytes", "语言（按字节）"),
                [(code, row["bytes"]) for code, row in seen["languages"].items()], size)  # fmt: skip
    _print_mixture(console, whole["mixture"])
    _print_clusters(console, whole)
    _print_found(console, seen)
    for row in seen["sample"]:
        head = f"{row['part']} {row['source']} · {row['language']} · {row['characters']:,} · {row['id']}"
        console.rule(_plain(head.strip()), align="left", style="dim")
        console.print(
            row["text"][:TERMINAL_LETTERS] + ("…" if row["characters"] > TERMINAL_LETTERS else ""), markup=False
        )


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _print_funnels(console: Any, funnels: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from athanor.base.tables import size

    if not funnels:
        return
    table = Table(title=say("funnel", "漏斗"), title_justify="left", box=None, pad_edge=False)
    for name in (say("step", "步骤"), say("stage", "阶段")):
        table.add_column(name)
    for name in (say("in", "进"), say("out", "出"), say("bytes out", "出（字节）")):
        table.add_column(name, justify="right")
    table.add_column(say("why not: count, an example", "丢弃原因：数量与示例"), ratio=1)
    for step in funnels:
        for row in step["stages"]:
            why = [_reason(name, entry) for name, entry in list(row["reasons"].items())[:4]]
            table.add_row(step["step"], row["stage"], f"{row['in']:,}", f"{row['out']:,}", size(row["bytes_out"]),
                          "\n".join(why) or "–")  # fmt: skip
    console.print()
    console.print(table)


def _reason(name: str, entry: dict[str, Any]) -> str:
    example = entry["examples"][0]["source"] if entry["examples"] else ""
    return f"{_plain(name)} {entry['count']:,}  [dim]{_plain(example)}[/dim]"


def _print_bars(console: Any, title: str, rows: list[tuple[str, int]], told: Any = "{:,}".format) -> None:
    """A histogram of lines."""
    most = max((count for _, count in rows), default=0)
    width = max((len(name) for name, _ in rows), default=0)
    console.print(f"\n[italic]{title}[/italic]")
    for name, count in rows:
        bar = "█" * round(BAR * count / most) or ("▏" if count else "")
        console.print(f"{name:>{width}} [blue]{bar}[/blue] {told(count)}", soft_wrap=True)


def _print_mixture(console: Any, mixture: list[dict[str, Any]]) -> None:
    from athanor.base.tables import quantity, text_table

    if not mixture:
        return
    header = [say("source", "来源"), say("tokens", "词元"), say("weight", "权重"), say("epochs planned", "计划轮数"),
              say("as it was read", "实际读取")]  # fmt: skip
    rows = [
        [row["name"], quantity(row["size"]), f"{100 * row['share']:.2f} %", f"{row['epochs']:.2f}",
         "; ".join(f"{one['model']}: {100 * one['share']:.2f} %, {one['epochs']:.3f}" for one in row["read"]) or "–"]
        for row in mixture
    ]  # fmt: skip
    console.print("\n" + text_table(header, rows), markup=False, soft_wrap=True)


def _print_clusters(console: Any, whole: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    count = whole["cluster_count"]
    told = say("removed on the way here", "处理中已删除") if whole["removed_before"] else say("in it", "其中")
    console.print(
        f"\n[italic]{say(f'{count:,} clusters of copies', f'{count:,} 个重复簇')}[/italic] ({told})", soft_wrap=True
    )
    for cluster in whole["clusters"]:
        for one in cluster["members"]:
            if one["kept_pieces"] is None or one["similarity"] == 1:
                console.print(
                    f"{cluster['source']} = {one['source']} ({one['kind']}, {one['similarity']:.3f})", markup=False
                )
                continue
            table = Table(show_lines=False, expand=True)
            table.add_column(_plain(cluster["source"]), ratio=1)
            table.add_column(f"{_plain(one['source'])} ({one['similarity']:.3f})", ratio=1)
            sides = []
            for pieces, style in ((one["kept_pieces"], "red"), (one["removed_pieces"], "green")):
                text = Text()
                for what, piece in pieces:
                    if len(text) > SIDE_LETTERS:
                        text.append(" …", "dim")
                        break
                    shown = f" … {piece} … " if what in ("gap", "rest") else piece
                    text.append(shown, {"same": "", "only": f"bold {style}"}.get(what, "dim italic"))
                sides.append(text)
            table.add_row(*sides)
            console.print(table)
            break


def _print_found(console: Any, seen: dict[str, Any]) -> None:
    if seen["query"] is None:
        return
    told = f"“{seen['query']}”: " + say(f"{seen['found']:,} places in {seen['found_in']:,} documents",
                                          f"{seen['found']:,} 处，在 {seen['found_in']:,} 篇文档中")  # fmt: skip
    console.print("\n" + told, style="italic", markup=False, soft_wrap=True)
    for place in seen["places"][:10]:
        before, after = (place[key].replace("\n", "⏎") for key in ("before", "after"))
        console.print(f"  {place['source']} · {place['id']}", style="dim", markup=False, soft_wrap=True)
        console.print(
            f"    …{_plain(before)}[reverse]{_plain(place['match'])}[/reverse]{_plain(after)}…", soft_wrap=True
        )
