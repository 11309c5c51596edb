"""athanor data: what is done to files of documents by itself, without a recipe."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.base.workers import Engine, Workers, using
from athanor.verbs.groups import group_of
from athanor.verbs.options import json_option, new_folder_option, print_json, workers_options

COMMANDS = {  # command: (English, 中文); one that is not below stands in data_<command>.py
    "show": (
        "look at a corpus: sample, search, funnel, lengths, copies, mixture",
        "查看语料：样本、搜索、漏斗、长度、重复、混合",
    ),
    "read": ("show what a path or address holds, and what cannot be read", "查看路径或网址的内容与无法读取之处"),
    "convert": ("write everything at a path to one file, JSON lines or parquet", "写成一个 JSON 行或 parquet 文件"),
    "clean": ("repair and judge documents, and say why others were dropped", "修复并评判文档，说明删除原因"),
    "copies": ("remove documents that are copies or nearly so", "删除重复与近似重复的文档"),
    "repeats": ("cut out lines, paragraphs or stretches that stood before", "删去前文出现过的行、段落或片段"),
    "decontaminate": ("take out what tests will ask", "去除测试题的内容"),
    "pictures": ("list pictures that are copies of one another", "列出重复的图片"),
    "instruct": ("write instruction data in another form", "转换指令、偏好数据的格式"),
    "label": ("let a model label texts; what it is not sure of waits for a person", "用模型标注文本，没把握的留待人工"),
    "review": ("put a person's review back into the labels", "将人工复核结果并入标注"),
}
KEEP = ("first", "longest", "best")
UNITS = ("line", "paragraph", "words")


@click.group(
    cls=group_of(COMMANDS, __name__),
    epilog="\b\nExample:  athanor data read ~/notes\n"
    "          athanor data clean 'crawl/*.warc.gz' --out clean\n"
    "          athanor data copies clean/documents.jsonl --out unique\n"
    "          athanor data repeats unique/documents.jsonl --unit line --out final",
)
def command() -> None:
    """Read files of every kind, and work on documents: JSON lines with a field "text", plain or compressed."""


@command.command(
    "copies", epilog="\b\nExample:  athanor data copies raw/*.jsonl --threshold 0.8 --keep longest --out unique"
)
@click.argument("files", nargs=-1, required=True, type=Path)
@click.option(
    "--threshold",
    type=float,
    default=0.7,
    show_default=True,
    help=say("least Jaccard similarity of word runs", "词串的最小 Jaccard 相似度"),
)
@click.option(
    "--run",
    type=int,
    default=5,
    show_default=True,
    help=say("words (Chinese: characters) in a run", "每串的词数（中文为字数）"),
)
@click.option(
    "--keep",
    type=click.Choice(KEEP),
    default="first",
    show_default=True,
    help=say("which of similar documents stays", "保留哪一篇"),
)
@click.option(
    "--score",
    help=say("with --keep best: the number in a row that says how good it is", "与 --keep best 合用：表示质量的字段"),
)
@workers_options
@new_folder_option
@json_option
def copies(
    files: tuple[Path, ...], threshold: float, run: int, keep: str, score: str | None, workers: int | None,
    engine: Engine, out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Remove exact and near copies: every removal is verified, none is below the threshold.

    OUT gets documents.jsonl (the lines that stay, byte for byte), duplicates.jsonl (what was removed, for what, and how
    similar) and funnel.json.
    """
    from athanor.data.copies.files import CopySettings, remove_copies

    settings = checked(CopySettings, threshold=threshold, run=run, keep=keep, score=score)
    with using(Workers(workers, engine)):
        done = filled(out, lambda folder: _not_of_nothing(remove_copies(readable(files), folder, settings), files))
    show(
        out,
        done,
        as_json,
        say(
            f"{done['documents']:,} documents, {done['kept']:,} stay: {done['exact_copies']:,} exact and "
            f"{done['near_copies']:,} near copies removed",
            f"{done['documents']:,} 篇文档，保留 {done['kept']:,} 篇：删除完全重复 {done['exact_copies']:,} 篇、"
            f"近似重复 {done['near_copies']:,} 篇",
        ),
    )


def _not_of_nothing(done: dict[str, Any], files: tuple[Path, ...]) -> dict[str, Any]:
    if not done["documents"]:
        raise AthanorError(f"no document in {', '.join(map(str, files))}", fix="name files that hold some")
    return done


@command.command(
    "repeats", epilog="\b\nExample:  athanor data repeats unique/documents.jsonl --unit words --shortest 50 --out clean"
)
@click.argument("files", nargs=-1, required=True, type=Path)
@click.option(
    "--unit",
    type=click.Choice(UNITS),
    default="words",
    show_default=True,
    help=say("whole lines, whole paragraphs, or any stretch of words", "整行、整段或任意词串"),
)
@click.option(
    "--shortest",
    type=int,
    default=50,
    show_default=True,
    help=say(
        "least words of a stretch; for lines and paragraphs the least letters", "词串的最少词数；行与段落为最少字符数"
    ),
)
@new_folder_option
@json_option
def repeats(files: tuple[Path, ...], unit: str, shortest: int, out: Path, as_json: bool) -> None:
    """Cut out what stood in an earlier document or earlier in the same one; the first occurrence stays.

    OUT gets documents.jsonl and funnel.json, with examples of what was cut.
    """
    from athanor.data.copies.repeats import RepeatSettings, remove_repeats

    settings = checked(RepeatSettings, unit=unit, shortest=shortest)
    done = filled(out, lambda folder: remove_repeats(readable(files), folder, settings))
    show(
        out,
        done,
        as_json,
        say(
            f"{done['documents']:,} documents, {done['kept']:,} stay, {done['changed']:,} of them shorter: "
            f"{done['bytes_cut']:,} bytes cut",
            f"{done['documents']:,} 篇文档，保留 {done['kept']:,} 篇，其中 {done['changed']:,} 篇变短：删去 "
            f"{done['bytes_cut']:,} 字节",
        ),
    )


def checked(settings: Any, **values: object) -> Any:
    """Settings from options.

    Raises:
        AthanorError: names the option and what it may be.
    """
    from athanor.base.settings import parse_settings

    return parse_settings(settings, values, "athanor data")


def readable(files: tuple[Path, ...]) -> list[Path]:
    """The files, if all are there."""
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise AthanorError(f"there is no file {missing[0]}", fix="name files of JSON lines with a field text")
    return list(files)


def filled(out: Path, fill: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Let `fill` write into a hidden folder that gets its name when all is done; nothing is left when it fails."""
    from athanor.base.files import sync_file, sync_folder

    if out.exists() or out.is_symlink():
        raise AthanorError(f"{out} exists already", fix="choose another --out, or delete it first")
    if not out.parent.is_dir():
        raise AthanorError(f"there is no folder {out.parent}", fix=f"mkdir -p {out.parent}")
    work = out.parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        done = fill(work)
        for path in work.iterdir():
            sync_file(path)
        sync_folder(work)
        os.rename(work, out)
        sync_folder(out.parent)
        return done
    finally:
        shutil.rmtree(work, ignore_errors=True)


def show(out: Path, done: dict[str, Any], as_json: bool, told: str) -> None:
    """What was done, for people or programs."""
    if as_json:
        print_json({"out": str(out), **done})
    else:
        click.echo(f"→ {out}\n  {told}")
