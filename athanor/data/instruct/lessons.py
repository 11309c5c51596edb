"""The step `instruct`: files of instruction data, in any form we know, become conversations to fine-tune on."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from athanor.base.errors import AthanorError
from athanor.base.files import hash_bytes, hash_file, hash_json
from athanor.base.progress import Progress
from athanor.base.records import encode_record, open_text, write_records
from athanor.base.settings import Settings
from athanor.data.funnel import Funnel, describe_reasons
from athanor.data.instruct.exercises import TRAIN
from athanor.data.instruct.formats import Format, read_lesson
from athanor.store.artifact import Artifact
from athanor.tokens.conversation import Conversation

HELDOUT = "heldout.jsonl.zst"
ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst")


class InstructSettings(Settings):
    """Which files are read, and what happens to rows that cannot be."""

    path: str
    """A file, or a folder of them: .json (a list), .jsonl, either compressed with .gz or .zst."""
    format: Format | None = None
    """openai, sharegpt, alpaca or gsm8k; unset: told by the keys of each row."""
    on_error: Literal["skip", "refuse"] = "skip"
    """Set a row aside with its reason, or end with the first one."""
    heldout_share: float = Field(default=0.02, ge=0, lt=1)
    """Share of conversations kept apart, chosen by the hash of their text."""


def fingerprint(settings: InstructSettings) -> str:
    """A hash that changes whenever a file does."""
    return hash_json([hash_file(path) for path in files_of(settings.path)])


def files_of(path: str) -> list[Path]:
    """The files that are meant.

    Raises:
        AthanorError: there are none.
    """
    place = Path(path).expanduser()
    files = sorted(one for one in place.rglob("*") if one.name.endswith(ENDINGS)) if place.is_dir() else [place]
    if not files or not all(one.is_file() and one.name.endswith(ENDINGS) for one in files):
        raise AthanorError(f"{place} holds no instruction data", allowed=f"files that end in {', '.join(ENDINGS)}")
    return files


def rows_of(path: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Name and content of every row; None where a line is no JSON object."""
    with open_text(path) as file:
        if ".jsonl" in path.name:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path.name} line {number}", parsed(line)
            return
        try:
            rows = json.load(file)
        except ValueError as problem:
            raise AthanorError(f"{path} is not JSON: {problem}", fix="JSON lines end in .jsonl") from problem
    if not isinstance(rows, list):
        raise AthanorError(
            f"{path} holds no list", allowed="a list of objects in .json, or one object a line in .jsonl"
        )
    for number, row in enumerate(rows, 1):
        yield f"{path.name} row {number}", row if isinstance(row, dict) else None


def parsed(line: str) -> dict[str, Any] | None:
    """The object on a line, if it is one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def read_instructions(
    settings: InstructSettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write train.jsonl.zst and heldout.jsonl.zst, refused.jsonl (place, reason) and funnel.json.

    Raises:
        AthanorError: a row cannot be read and `on_error` is 'refuse', or no conversation is left.
    """
    funnel = Funnel("read", "copies")
    refused: list[dict[str, str]] = []
    seen: set[str] = set()
    counts = Counter[str]()
    progress.start("reading conversations", None, "conversations")
    with open_text(folder / TRAIN, "w") as train, open_text(folder / HELDOUT, "w") as heldout:
        for path in files_of(settings.path):
            for where, row in rows_of(path):
                conversation = one_of(row, where, settings, funnel, refused)
                if conversation is None:
                    continue
                line = encode_record(conversation.to_row())
                digest = hash_bytes(encode_record({"messages": conversation.to_row()["messages"]}).encode())
                stage = funnel["copies"]
                stage.enter(len(line))
                if digest in seen:
                    stage.drop("the same conversation again", len(line), where, conversation.turns[-1].content)
                    continue
                stage.leave(len(line))
                seen.add(digest)
                apart = int(digest, 16) < settings.heldout_share * 16 ** len(digest)
                (heldout if apart else train).write(line)
                counts["heldout" if apart else "train"] += 1
                counts["turns"] += len(conversation.turns)
                progress.advance()
    progress.finish(refused=len(refused))
    write_records(folder / "refused.jsonl", refused)
    funnel.write(folder)
    if not counts["train"]:
        raise AthanorError(
            f"no conversation of {settings.path} can be learned from: {describe_reasons(funnel.reasons())}",
            fix="look at the first rows; `athanor.data.instruct.formats` says which forms are read",
        )
    return {
        "conversations": counts["train"], "heldout_conversations": counts["heldout"], "turns": counts["turns"],
        "refused": len(refused), "copies": funnel["copies"].documents_in - funnel["copies"].documents_out,
    }  # fmt: skip


def one_of(
    row: dict[str, Any] | None, where: str, settings: InstructSettings, funnel: Funnel, refused: list[dict[str, str]]
) -> Conversation | None:
    """The conversation of a row; None when it is set aside."""
    stage = funnel["read"]
    text = json.dumps(row, ensure_ascii=False)
    stage.enter(len(text))
    try:
        if row is None:
            raise AthanorError(f"{where} is no JSON object")
        lesson = read_lesson(row, where, settings.format)
        if not isinstance(lesson, Conversation):
            raise AthanorError(f"{where} holds preferences or judgements, not a conversation to learn by heart")
    except AthanorError as problem:
        if settings.on_error == "refuse":
            raise
        reason = problem.what.removeprefix(where).lstrip(": ").strip()
        refused.append({"row": where, "reason": reason})
        stage.drop(kind_of(reason), len(text), where, text)
        return None
    stage.leave(len(text))
    named = {} if lesson.source else {"source": where}
    return Conversation(lesson.turns, lesson.source or named["source"], lesson.meta, lesson.tools)


def kind_of(reason: str) -> str:
    """A reason without the row's own figures and words, so that equal ones add up."""
    words = ["…" if word.isdigit() else word for word in reason.split("'")[0].split('"')[0].split()]
    return " ".join(words[:10])
