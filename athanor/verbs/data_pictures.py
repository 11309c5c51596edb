"""athanor data pictures: which pictures of a folder are copies of one another."""

from pathlib import Path
from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.verbs.data import checked
from athanor.verbs.options import json_option, print_json


@click.command(
    epilog="\b\nExample:  athanor data pictures ~/photos\n          athanor data pictures ~/photos --mirrored --json"
)
@click.argument("folder", type=Path)
@click.option(
    "--distance",
    type=int,
    default=12,
    show_default=True,
    help=say("most bits of 64 in which the hashes of copies differ", "重复图片哈希的最大差异位数（共 64 位）"),
)
@click.option(
    "--correlation",
    type=float,
    default=0.9,
    show_default=True,
    help=say("least correlation of 8 x 8 fields", "8×8 区块灰度的最小相关系数"),
)
@click.option("--mirrored", is_flag=True, help=say("a mirror image is a copy, too", "镜像也算重复"))
@json_option  # fmt: skip
def command(folder: Path, distance: int, correlation: float, mirrored: bool, as_json: bool) -> None:
    """List the pictures below FOLDER that are copies: other sizes, qualities, colours, brightness, small crops.

    Nothing is deleted. Of each cluster the picture with the most pixels stays.
    """
    from athanor.base.progress import make_progress
    from athanor.base.stopping import StopRequest
    from athanor.data.copies import pictures

    settings = checked(pictures.PictureSettings, distance=distance, correlation=correlation, mirrored=mirrored)
    if not folder.is_dir():
        raise AthanorError(f"there is no folder {folder}", fix="name a folder with pictures in it or below it")
    read = list(pictures.read_folder(folder, make_progress(StopRequest().listen())))
    good = [one for one in read if isinstance(one, pictures.Picture)]
    bad = [one for one in read if isinstance(one, pictures.Unreadable)]
    rows = pictures.duplicate_rows(good, pictures.find_picture_copies(good, settings))
    if as_json:
        aside = [{"name": one.name, "reason": one.reason} for one in bad]
        print_json({"pictures": len(good), "copies": rows, "set_aside": aside})
        return
    _show(rows)
    for one in bad:
        click.echo(say(f"not read: {one.name}: {one.reason}", f"未读取：{one.name}：{one.reason}"))
    clusters = len({row["kept"] for row in rows})
    click.echo(say(f"{len(good):,} pictures, {len(rows):,} copies in {clusters:,} clusters",
                   f"{len(good):,} 张图片，{clusters:,} 簇中有 {len(rows):,} 张重复"))  # fmt: skip


def _show(rows: list[dict[str, Any]]) -> None:
    by_kept: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_kept.setdefault(row["kept"], []).append(row)
    for kept, members in by_kept.items():
        click.echo(click.style(kept, bold=True) + "  " + _size(members[0]["kept_size"]))
        for row in members:
            click.echo(f"   {row['removed']}  {_size(row['removed_size'])}  {row['similarity']:.3f}")


def _size(size: list[int]) -> str:
    from athanor.base.tables import size as told

    return f"{size[0]} × {size[1]}, {told(size[2])}"
