"""The step `examples`: rows of a task, as people keep them, become examples in one of five forms to learn and to judge.

The first four are GPT-1's (Radford et al. 2018, figure 1): a text and its class; a premise, a hypothesis and whether it
follows; two texts and how alike they are; a beginning and the right one of several endings. The fifth is a pair, a
source and what is to be written of it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from athanor.base.errors import AthanorError
from athanor.base.files import hash_file, hash_json, read_json, write_json
from athanor.base.progress import Progress
from athanor.base.records import read_records, write_records
from athanor.base.settings import Settings, nearest
from athanor.data.instruct.lessons import files_of, rows_of
from athanor.data.instruct.names import HELDOUT, TRAIN
from athanor.store.artifact import Artifact

Form = Literal["classification", "entailment", "similarity", "choice", "pair"]
TASK = "task.json"


@dataclass(frozen=True)
class Example:
    """One row of a task; which fields are set follows from the form.

    Attributes:
        id: file and line it comes from.
        text: the text; of `choice` what comes before the endings, of `pair` the source.
        second: the hypothesis, or the other text.
        choices: the endings.
        label: name of the class; of `choice` the number of the right ending; of `similarity` a class or a number.
        target: what is to be written.
    """

    id: str
    text: str
    second: str | None = None
    choices: tuple[str, ...] = ()
    label: str | int | float | None = None
    target: str | None = None


@dataclass(frozen=True)
class Task:
    """What an artifact of examples says about itself.

    Attributes:
        labels: names of the classes in order; empty where labels are numbers, endings, or texts.
        source, target: languages of a pair; None: not told.
    """

    form: Form
    labels: tuple[str, ...]
    source: str | None = None
    target: str | None = None


class ExampleSettings(Settings):
    """Which rows are read, and which of their fields is what."""

    path: str
    """A file, or a folder of them: .json (a list), .jsonl, either compressed with .gz or .zst."""
    form: Form
    text: str = "text"
    """Field of the text, the premise, the beginning, or the source."""
    second: str | None = None
    """Field of the hypothesis, or of the other text."""
    choices: str | None = None
    """Field of the list of endings."""
    label: str | None = None
    """Field of the class, the number, or the right ending."""
    target: str | None = None
    """Field of what is to be written."""
    names: dict[str, str] = Field(default_factory=dict)
    """What the classes are called, where rows have numbers: {0: negative, 1: positive}."""
    prefix: str = ""
    """Put before every source, so that one network knows several tasks apart: 'translate English to German: '."""
    source_language: str | None = None
    target_language: str | None = None
    """Languages of a pair, as codes: en, zh; they become language tokens."""
    where: dict[str, str] = Field(default_factory=dict)
    """Only rows whose fields have these values: {lang: en}."""
    split: str | None = None
    """Field that says which rows are held out; unset: a share of them, by the hash of their text."""
    heldout: tuple[str, ...] = ("dev", "valid", "validation", "val", "test")
    """Values of that field that mean so."""
    heldout_share: float = Field(default=0.1, gt=0, lt=1)
    max_rows: int | None = Field(default=None, ge=2)
    """Of each side; unset: all."""

    @field_validator("names", "where", mode="before")
    @classmethod
    def _as_text(cls, given: Any) -> Any:
        """YAML reads the 0 of {0: negative} as a number; a row's value is compared as it is written."""
        return {str(key): str(value) for key, value in given.items()} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _fields_of_the_form(self) -> "ExampleSettings":
        needed = NEEDED[self.form]
        for name in ("second", "choices", "label", "target"):
            if (getattr(self, name) is not None) != (name in needed):
                verb = "needs" if name in needed else "has no"
                raise ValueError(f"form: {self.form} {verb} `{name}`, the field of a row that holds it")
        if self.form != "pair" and (self.source_language or self.target_language):
            raise ValueError(f"form: {self.form} has no languages; they belong to form: pair")
        if (self.source_language is None) != (self.target_language is None):
            raise ValueError("source_language and target_language go together")
        return self


NEEDED: Mapping[Form, tuple[str, ...]] = {
    "classification": ("label",),
    "entailment": ("second", "label"),
    "similarity": ("second", "label"),
    "choice": ("choices", "label"),
    "pair": ("target",),
}


def fingerprint(settings: ExampleSettings) -> str:
    """A hash that changes whenever a file does."""
    return hash_json([hash_file(path) for path in files_of(settings.path)])


def read_examples(
    settings: ExampleSettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write train.jsonl.zst, heldout.jsonl.zst and task.json; a text that is in both is taken out of the first.

    Raises:
        AthanorError: a row lacks a field or cannot be used, or one side is empty.
    """
    sides: tuple[list[Example], list[Example]] = ([], [])
    for row, example in _read(settings):
        side = sides[_is_heldout(settings, row, example)]
        if settings.max_rows is None or len(side) < settings.max_rows:
            side.append(example)
    train, heldout = sides
    known = {_content(example) for example in heldout}
    kept = [example for example in train if _content(example) not in known]
    for name, side in (("train", kept), ("heldout", heldout)):
        if not side:
            raise AthanorError(
                f"{settings.path}: no example is left to {'learn from' if name == 'train' else 'judge by'}",
                fix="look at where, split and heldout, or leave `split` out to hold out a share",
            )
    task = Task(settings.form, _labels(settings, kept, heldout), settings.source_language, settings.target_language)
    write_records(folder / TRAIN, (asdict(example) for example in kept))
    write_records(folder / HELDOUT, (asdict(example) for example in heldout))
    write_json(folder / TASK, asdict(task))
    counts = Counter(str(example.label) for example in kept) if task.labels else {}
    return {"examples": len(kept), "heldout": len(heldout), "in_both": len(train) - len(kept), "classes": dict(counts)}


def open_examples(artifact: Artifact) -> tuple[Task, list[Example], list[Example]]:
    """The task, what is learnt from, and what is held out."""
    told = read_json(artifact.file(TASK))
    task = Task(told["form"], tuple(told["labels"]), told["source"], told["target"])
    sides = [
        [Example(**{**row, "choices": tuple(row["choices"])}) for row in read_records(artifact.file(name))]
        for name in (TRAIN, HELDOUT)
    ]
    return task, sides[0], sides[1]


def _read(settings: ExampleSettings) -> Iterator[tuple[Mapping[str, Any], Example]]:
    for path in files_of(settings.path):
        for place, row in rows_of(path):
            if row is None:
                raise AthanorError(f"{place} is no JSON object")
            if all(str(row.get(name)) == value for name, value in settings.where.items()):
                yield row, _example(settings, row, place)


def _example(settings: ExampleSettings, row: Mapping[str, Any], place: str) -> Example:
    def field(name: str | None) -> Any:
        if name is None:
            return None
        if row.get(name) is None:
            raise AthanorError(f"{place} has no {name!r}", allowed=", ".join(row), fix=nearest(name, row))
        return row[name]

    def text(name: str | None) -> str | None:
        value = field(name)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise AthanorError(f"{place}: {name}={value!r}", allowed="a text that is not empty")
        return value

    first, choices = text(settings.text), field(settings.choices) or ()
    if not isinstance(choices, list | tuple) or any(not isinstance(one, str) or not one.strip() for one in choices):
        raise AthanorError(f"{place}: {settings.choices} is no list of texts")
    assert first is not None
    label = _label(settings, field(settings.label), choices, place)
    return Example(place, settings.prefix + first, text(settings.second), tuple(choices), label, text(settings.target))


def _label(settings: ExampleSettings, value: Any, choices: Any, place: str) -> str | int | float | None:
    if value is None:
        return None
    if settings.form == "choice":
        number = choices.index(value) if value in choices else value
        if type(number) is not int or not 0 <= number < len(choices) or len(choices) < 2:
            raise AthanorError(
                f"{place}: {settings.label}={value!r} of {len(choices)} endings",
                allowed="the number of the right one, counted from 0, or its text; two endings or more",
            )
        return number
    if settings.names:
        if str(value) not in settings.names:
            raise AthanorError(f"{place}: {settings.label}={value!r} has no name", allowed=", ".join(settings.names))
        return settings.names[str(value)]
    if settings.form == "similarity" and type(value) is float:
        return value
    return str(value)


def _labels(settings: ExampleSettings, *sides: list[Example]) -> tuple[str, ...]:
    """Names of the classes: those that were seen in training, and none besides in what is held out."""
    if settings.form in ("choice", "pair"):
        return ()
    numbers = [sum(isinstance(example.label, float) for example in side) for side in sides]
    if sum(numbers):
        if sum(numbers) != sum(map(len, sides)):
            raise AthanorError(f"{settings.label} holds numbers and names", fix="use one of them")
        return ()
    seen, judged = ({str(example.label) for example in side} for side in sides)
    if len(seen) < 2:
        raise AthanorError(f"all examples are of the class {seen}", allowed="two classes or more")
    if judged - seen:
        raise AthanorError(
            f"the class {min(judged - seen)!r} is held out and nowhere learnt", fix="more rows, or `where`"
        )
    return tuple(sorted(seen))


def _content(example: Example) -> tuple[Any, ...]:
    return example.text, example.second, example.choices


def _is_heldout(settings: ExampleSettings, row: Mapping[str, Any], example: Example) -> bool:
    if settings.split is not None:
        return str(row.get(settings.split)) in settings.heldout
    digest = hashlib.blake2b(repr(_content(example)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) < settings.heldout_share * 2**64
