"""athanor data instruct: instruction data, preferences and judgements from any form into another."""

from pathlib import Path
from typing import Any, get_args

import click

from athanor.base.words import say
from athanor.verbs.data import filled, readable, show
from athanor.verbs.options import json_option, new_folder_option

TARGETS = ("openai", "sharegpt", "alpaca", "gsm8k", "preference", "ranked", "hh", "kto")
FORMATS = (
    "openai",
    "sharegpt",
    "alpaca",
    "gsm8k",
    "moss",
    "tasks",
    "completion",
    "preference",
    "hh",
    "pairs",
    "judgement",
)


@click.command(
    "instruct",
    epilog="\b\nExample:  athanor data instruct alpaca.json chats.jsonl.gz --to openai --out messages\n"
    "          athanor data instruct hh.jsonl.gz --to preference --out pairs",
)
@click.argument("files", nargs=-1, required=True, type=Path)
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help=say("the form to write", "目标格式"))
@click.option(
    "--from",
    "source",
    type=click.Choice(FORMATS),
    help=say("the form of every row (default: told by its keys)", "每行的格式（默认按字段判断）"),
)
@click.option("--strict", is_flag=True, help=say("end with the first row that cannot be read", "遇到不可读的行即停止"))
@new_folder_option
@json_option
def command(files: tuple[Path, ...], target: str, source: str | None, strict: bool, out: Path, as_json: bool) -> None:
    """Read FILES (.json, .jsonl, .gz, .zst) in any form and write them in one.

    OUT gets lessons.jsonl, refused.jsonl (the rows that cannot be read or said in that form, each with its reason) and
    funnel.json. Roles out of order are refused with row and turn. Of K ranked answers each pair is written.
    """
    done = filled(out, lambda folder: convert(readable(files), folder, target, source, strict))
    show(
        out,
        done,
        as_json,
        say(
            f"{done['read']:,} rows read, {done['written']:,} written as {target}, {done['refused']:,} refused",
            f"读入 {done['read']:,} 行，写出 {target} {done['written']:,} 行，拒绝 {done['refused']:,} 行",
        ),
    )


def convert(files: list[Path], folder: Path, target: Any, source: Any, strict: bool) -> dict[str, Any]:
    """Write the rows of files in another form.

    Raises:
        AthanorError: nothing can be written, or (strict) a row cannot.
    """
    from athanor.base.errors import AthanorError
    from athanor.base.progress import make_progress
    from athanor.base.records import encode_record, open_text, write_records
    from athanor.base.stopping import StopRequest
    from athanor.data.funnel import Funnel, describe_reasons
    from athanor.data.instruct.exports import Target, export
    from athanor.data.instruct.formats import Format
    from athanor.data.instruct.lessons import Intake

    assert get_args(Target) == TARGETS and get_args(Format) == FORMATS, "the options are what the functions take"
    progress = make_progress(StopRequest().listen())
    progress.start("converting", None, "rows")
    funnel, intake, written = Funnel("read", "said"), Intake(source, strict), 0
    folder.mkdir()
    with open_text(folder / "lessons.jsonl", "w") as file:
        for where, lesson in intake.lessons(files, funnel["read"]):
            funnel["said"].enter(1)
            try:
                rows = export(lesson, target, where)
            except AthanorError as problem:
                if strict:
                    raise
                intake.set_aside(where, problem, funnel["said"], "")
                continue
            funnel["said"].leave(1)
            file.writelines(map(encode_record, rows))
            written += len(rows)
            progress.advance()
    progress.finish(refused=len(intake.refused))
    if not written:
        reasons = describe_reasons(funnel.reasons()) or "the files hold no row"
        raise AthanorError(f"nothing can be written as {target}: {reasons}")
    write_records(folder / "refused.jsonl", intake.refused)
    funnel.write(folder)
    return {"read": funnel["read"].documents_in, "written": written, "refused": len(intake.refused)}
