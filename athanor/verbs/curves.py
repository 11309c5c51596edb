"""athanor curves: how models learnt, and how the one that is training does."""

import time
from pathlib import Path
from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.verbs.options import find_artifact, json_option, print_json, store_option

WATCH_SECONDS = 2.0


@click.command(
    epilog="\b\nExample:  athanor curves pretrain finetune\n"
    "          athanor curves --live\n"
    "          athanor curves model-1a2b model-3c4d --html curves.html"
)
@click.argument("names", nargs=-1)
@click.option("--live", is_flag=True, help=say("follow the run that is training now", "跟随正在训练的运行"))
@click.option("--html", type=Path, help=say("write one HTML file", "写成一个 HTML 文件"))
@store_option
@json_option
def command(names: tuple[str, ...], live: bool, html: Path | None, store: str | None, as_json: bool) -> None:
    """Draw the learning curves of NAMES: trained models, or steps of a recipe; without NAMES, of the newest run."""
    from athanor.evaluation.curves import draw_in_terminal, draw_page, read_rows
    from athanor.store.artifact import find_store

    place = find_store(store)
    if live:
        follow(place)
        return
    runs = {name: read_rows(path) for name, path in files_of(place, names).items()}
    if html is not None:
        from athanor.base.files import write_atomic

        write_atomic(html, draw_page(runs))
        click.echo(f"→ {html}")
    elif as_json:
        print_json(runs)
    else:
        click.echo(draw_in_terminal(runs))


def files_of(place: Any, names: tuple[str, ...]) -> dict[str, Path]:
    """The metrics of every named model, or of what the newest run trained or is training."""
    from athanor.evaluation.curves import METRICS

    if not names:
        recipe = place.recipes()[-1:] or [None]
        trained = (
            [place.get(name) for name in place.remembered(recipe[0]).values() if place.has(name)] if recipe[0] else []
        )
        found = {str(one.record["name"]): one.file(METRICS) for one in trained if METRICS in one.record["files"]}
        found |= training_now(place)
        if not found:
            raise AthanorError(f"nothing was trained in {place.root} yet", fix="athanor run quickstart")
        return found
    found = {}
    for name in names:
        artifact = find_artifact(place, name)
        if METRICS not in artifact.record["files"]:
            raise AthanorError(f"{artifact.id} was not trained: it has no curves", allowed="a model or an adapter")
        found[name] = artifact.file(METRICS)
    return found


def training_now(place: Any) -> dict[str, Path]:
    """Metrics of the steps that are being made, the newest last."""
    from athanor.evaluation.curves import METRICS
    from athanor.store.artifact import RESUME

    paths = sorted(place.work.glob(f"*/{RESUME}/{METRICS}"), key=lambda path: path.stat().st_mtime)
    return {path.parents[1].name: path for path in paths if path.stat().st_size}


def follow(place: Any) -> None:
    """Redraw the newest curve until the run is over or Ctrl-C."""
    from athanor.evaluation.curves import draw_in_terminal, read_rows

    running = training_now(place)
    if not running:
        raise AthanorError("nothing is training in this store now", fix="athanor curves draws what was trained")
    name, path = list(running.items())[-1]
    last = ""
    try:
        while path.is_file():
            drawn = draw_in_terminal({name: read_rows(path)})
            if drawn != last:
                click.clear()
                click.echo(drawn)
                last = drawn
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return
