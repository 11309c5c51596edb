"""The steps `instruct`, `preferences` and `judgements`: files of instruction data, in any form we know, become
conversations to fine-tune on, answers to prefer, or answers judged good or bad."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from athanor.base.errors import AthanorError
from athanor.base.files import hash_bytes, hash_file, hash_json
from athanor.base.progress import Progress
from athanor.base.records import encode_record, open_text, write_records
from athanor.base.settings import Settings
from athanor.data.funnel import Funnel, Stage, describe_reasons
from athanor.data.instruct.exports import NAMES, judged
from athanor.data.instruct.formats import Format, Judgement, Lesson, Preference, read_lesson
from athanor.data.instruct.names import HELDOUT, TRAIN
from athanor.data.reading.decode import Unreadable
from athanor.data.reading.items import BROKEN
from athanor.data.reading.rows import json_file_rows, json_rows
from athanor.data.reading.sources import SourceFile
from athanor.store.artifact import Artifact
from athanor.tokens.conversation import Conversation

ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst")
LONGEST_ROW = 64_000_000  # bytes


class InstructSettings(Settings):
    """Which files are read, and what happens to rows that cannot be."""

    path: str
    """A file, or a folder of them: .json (a list), .jsonl, either compressed with .gz or .zst."""
    format: Format | None = None
    """The form of every row; unset: told by its keys."""
    on_error: Literal["skip", "refuse"] = "skip"
    """Set a row aside with its reason, or end with the first one."""
    heldout_share: float = Field(default=0.02, ge=0, lt=1)
    """Share of rows kept apart, chosen by the hash of their text."""


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
    """Name and content of every row; None where a line or an element is no JSON object, or too long.

    Raises:
        AthanorError: the file is no JSON, or ends too early.
    """
    in_lines = ".jsonl" in path.name
    file = SourceFile(path, path.name, None, 0)
    try:
        for number, row in (json_rows if in_lines else json_file_rows)(file, LONGEST_ROW):
            yield f"{path.name} {'line' if in_lines else 'row'} {number}", row if isinstance(row, dict) else None
    except Unreadable as problem:
        raise AthanorError(
            f"{path} cannot be read: {problem}{f': {problem.detail}' if problem.detail else ''}",
            allowed="a list of objects in .json, or one object a line",
        ) from problem
    except BROKEN as problem:
        raise AthanorError(f"{path} is broken or cut short: {problem}", fix="fetch or make it again") from problem


def read_instructions(
    settings: InstructSettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write conversations to train.jsonl.zst and heldout.jsonl.zst; refused.jsonl (place, reason) and funnel.json.

    Raises:
        AthanorError: a row cannot be read and `on_error` is 'refuse', or no conversation is left.
    """
    return _gather(settings, Conversation, folder, progress)


def read_preferences(
    settings: InstructSettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """The same for preferences, as rows of messages, answers and ranks; a prompt is on one side of the split."""
    return _gather(settings, Preference, folder, progress)


def read_judgements(
    settings: InstructSettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """The same for judgements, as rows of messages and label; a preference becomes its best and its worst answer."""
    return _gather(settings, Judgement, folder, progress)


def _gather(settings: InstructSettings, wanted: type[Lesson], folder: Path, progress: Progress) -> dict[str, Any]:
    """Read the files and write the lessons of one kind, each once."""
    funnel, intake = Funnel("read", "copies"), Intake(settings.format, settings.on_error == "refuse", wanted)
    seen: set[str] = set()
    counts = Counter[str]()
    progress.start("reading instruction data", None, "rows")
    with open_text(folder / TRAIN, "w") as train, open_text(folder / HELDOUT, "w") as heldout:
        for where, lesson in intake.lessons(files_of(settings.path), funnel["read"]):
            for row in rows_of_kind(lesson, wanted, where):
                line, stage = encode_record(row), funnel["copies"]
                stage.enter(len(line))
                digest = hash_of(row, ("messages", "answers", "label"))
                if digest in seen:
                    stage.drop("the same again", len(line), where, line)
                    continue
                stage.leave(len(line))
                seen.add(digest)
                apart = int(hash_of_question(row, wanted), 16) < settings.heldout_share * 16 ** len(digest)
                (heldout if apart else train).write(line)
                counts["heldout" if apart else "train"] += 1
                counts["turns"] += len(row["messages"])
            progress.advance()
    progress.finish(refused=len(intake.refused))
    write_records(folder / "refused.jsonl", intake.refused)
    funnel.write(folder)
    name = MEASURED[wanted]
    if not counts["train"]:
        raise AthanorError(
            f"no {name[:-1]} of {settings.path} can be learned from: {describe_reasons(funnel.reasons())}",
            fix="look at the first rows; `athanor.data.instruct.formats` says which forms are read",
        )
    return {
        name: counts["train"], f"heldout_{name}": counts["heldout"], "turns": counts["turns"],
        "refused": len(intake.refused), "copies": funnel["copies"].documents_in - funnel["copies"].documents_out,
    }  # fmt: skip


MEASURED: Mapping[type[Lesson], str] = {
    Conversation: "conversations", Preference: "preferences", Judgement: "judgements",
}  # fmt: skip


def hash_of(row: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """Hash of some fields of a row."""
    return hash_bytes(encode_record({key: row[key] for key in keys if key in row}).encode())


def hash_of_question(row: Mapping[str, Any], wanted: type[Lesson]) -> str:
    """What decides whether a row is held out: the conversation; of a preference or judgement its prompt alone."""
    messages = row["messages"][:-1] if wanted is Judgement else row["messages"]
    return hash_of({"messages": messages}, ("messages",))


def rows_of_kind(lesson: Lesson, wanted: type[Lesson], where: str) -> list[dict[str, Any]]:
    """A lesson as the rows of an artifact, with where it came from."""
    lessons: list[Lesson] = [*judged(lesson)] if isinstance(lesson, Preference) and wanted is Judgement else [lesson]
    rows = [one.to_row() for one in lessons]
    return [{**row, "source": row.get("source") or where} for row in rows]


class Intake:
    """Rows of files as lessons; what cannot be read is set aside with its reason.

    Args:
        kind: the format of every row; None: told by its keys.
        strict: whether the first row that cannot be read ends it.
        wanted: the kind of lesson; None: all. A preference also serves where judgements are wanted.
    """

    def __init__(self, kind: Format | None, strict: bool, wanted: type[Lesson] | None = None):
        self.kind, self.strict, self.wanted = kind, strict, wanted
        self.refused: list[dict[str, str]] = []

    def lessons(self, files: Sequence[Path], stage: Stage) -> Iterator[tuple[str, Lesson]]:
        """(place, lesson) of every row that can be read; `stage` counts all.

        Raises:
            AthanorError: a row cannot be read, where that is to end it.
        """
        for path in files:
            for where, row in rows_of(path):
                text = json.dumps(row, ensure_ascii=False)
                stage.enter(len(text))
                try:
                    lesson = self._read(row, where)
                except AthanorError as problem:
                    if self.strict:
                        raise
                    self.set_aside(where, problem, stage, text)
                    continue
                stage.leave(len(text))
                yield where, lesson

    def set_aside(self, where: str, problem: AthanorError, stage: Stage, text: str) -> None:
        """Keep a row's place and reason."""
        reason = problem.what.removeprefix(where).lstrip(": ").strip()
        self.refused.append({"row": where, "reason": reason})
        stage.drop(kind_of(reason), len(text), where, text)

    def _read(self, row: dict[str, Any] | None, where: str) -> Lesson:
        if row is None:
            raise AthanorError(f"{where} is no JSON object")
        lesson = read_lesson(row, where, self.kind)
        serves = isinstance(lesson, Preference) and self.wanted is Judgement
        if self.wanted is not None and not isinstance(lesson, self.wanted) and not serves:
            raise AthanorError(f"{where} holds {NAMES[type(lesson)]}, not {NAMES[self.wanted]}")
        return lesson


def kind_of(reason: str) -> str:
    """A reason without the row's own figures and words, so that equal ones add up."""
    said = re.sub(r"'[^']*'|\"[^\"]*\"", "…", reason).split("'")[0].split('"')[0]
    words = ["…" if word.isdigit() else word for word in said.split()]
    return " ".join(words[:10])
