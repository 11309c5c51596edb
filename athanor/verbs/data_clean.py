"""athanor data clean: everything at a path, repaired and judged, into one file of documents."""

from pathlib import Path

import click

from athanor.base.words import say
from athanor.base.workers import Engine, Workers, using
from athanor.verbs.data_read import field_option, keep_option, limits_of, progress
from athanor.verbs.options import json_option, new_folder_option, workers_options

RULES = ("published", "own")


@click.command(
    "clean",
    epilog="\b\nExample:  athanor data clean 'crawl/*.warc.gz' --out clean\n"
    "          athanor data clean rows.jsonl.zst --language zh --language en --drop-boilerplate --out clean\n"
    "          athanor data copies clean/documents.jsonl --out unique",
)
@click.argument("path")
@click.option(
    "--rules",
    type=click.Choice(RULES),
    default="published",
    show_default=True,
    help=say(
        "published: Gopher, C4 and FineWeb, and their own for Chinese; own: patient with files you chose",
        "published：Gopher、C4、FineWeb 及中文规则；own：对自选文件更宽松",
    ),
)
@click.option(
    "--language",
    "languages",
    multiple=True,
    metavar="CODE",
    help=say("keep this language only (en, zh, de …); may be repeated", "只保留该语言，可重复"),
)
@click.option(
    "--drop-boilerplate",
    is_flag=True,
    help=say("leave out lines of web sites, for text of the web without markup", "删去网站样板行（无标记的网页文本）"),
)
@click.option(
    "--keep-personal-data",
    is_flag=True,
    help=say("do not mask mail addresses, phone numbers and the like", "不遮盖邮箱、电话等个人信息"),
)
@field_option
@keep_option
@workers_options
@new_folder_option
@json_option
def command(
    path: str, rules: str, languages: tuple[str, ...], drop_boilerplate: bool, keep_personal_data: bool,
    text_field: str | None, keep: tuple[str, ...], workers: int | None, engine: Engine, out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Repair, judge and mask every document at PATH (a folder, a file, a pattern or an address).

    OUT gets documents.jsonl (what passed, with its language), funnel.json (why the others did not, with examples; see
    it with athanor data show OUT) and set_aside.jsonl (what could not be read).
    """
    from athanor.data.cleaning.files import clean_path
    from athanor.data.cleaning.settings import FEW, CleanSettings
    from athanor.data.funnel import describe_reasons
    from athanor.verbs.data import checked, filled, show

    tell = "few" if set(languages) <= set(FEW) else "many"
    settings = checked(
        CleanSettings, rules=rules, languages=languages, tell=tell, drop_boilerplate=drop_boilerplate,
        mask_personal_data=not keep_personal_data,
    )  # fmt: skip
    limits = limits_of(text_field, keep, whole_documents=True)
    with using(Workers(workers, engine)):
        done = filled(out, lambda folder: clean_path(path, folder, settings, limits, progress()))
    few = rules == "published" and done["kept"] * 2 < done["documents"]
    hint = (
        say("\n  --rules own is patient with files that a person chose", "\n  --rules own 对自选文件更宽松")
        if few
        else ""
    )
    reasons = describe_reasons(list(done["reasons"].items())) or say("none", "无")
    show(
        out,
        done,
        as_json,
        say(
            f"{done['documents']:,} documents, {done['kept']:,} stay; dropped: {reasons}; "
            f"{done['set_aside']:,} not read{hint}",
            f"{done['documents']:,} 篇，保留 {done['kept']:,} 篇；删除：{reasons}；未读 {done['set_aside']:,}{hint}",
        ),
    )
