"""The step `rank`: of several options, which one does a model find likeliest as the answer? Before and after.

Rank classification (Brown et al. 2020, section 2.4; Wei et al. 2022, section 2.3): the answer is the option with the
highest probability given the question, log p(its tokens and the end of the turn), and accuracy is how often that is the
right one. What a task is told in changes the figure, so every wording is judged, and the mean stands beside the worst
and the best of them (Wei et al. 2022, table 1 and section 4.3).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pydantic

from athanor.base.errors import AthanorError
from athanor.base.files import write_json
from athanor.base.progress import Progress
from athanor.base.records import read_records, write_records
from athanor.base.settings import Settings
from athanor.data.instruct.names import HELDOUT
from athanor.evaluation.answers import open_subject
from athanor.evaluation.statistics import ratio
from athanor.evaluation.subject import LocalSubject
from athanor.inference.score import score
from athanor.store.artifact import Artifact
from athanor.tokens.chat import require_template
from athanor.tokens.conversation import Conversation, Turn


class RankSettings(Settings):
    """How much to judge."""

    conversations: int | None = pydantic.Field(default=None, ge=1)
    """Held-out instructions, the first ones; unset: all."""
    too_long: Literal["leave_out", "refuse"] = "leave_out"
    """A question that does not fit into the model's context with its options: left out and counted, or refused."""


class Asked(NamedTuple):
    """One instruction with its options."""

    task: str
    side: str
    template: int
    source: str
    turns: tuple[Turn, ...]
    options: tuple[str, ...]
    right: int


def rank_options(
    settings: RankSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write results.json (accuracy of every task, with intervals, and of its wordings) and ranked.jsonl.

    `parents["after"]` is a model, or an adapter of `parents["before"]`.

    Raises:
        AthanorError: no instruction with options was held out or fits into the context, or (`refuse`) one does not.
    """
    asked = read_asked(parents["conversations"])[: settings.conversations]
    if not asked:
        raise AthanorError(
            f"{parents['conversations'].id} holds out no question with options",
            fix="the step `instructions` writes them: tasks of any form but pair",
        )
    found: dict[str, list[list[float]]] = {}
    held_out = len(asked)
    for role in ("before", "after"):
        subject = open_subject(parents, role)
        asked = asked if settings.too_long == "refuse" else fitting(subject, asked)
        progress.start(f"ranking options · {role}", None, "tok")
        found[role] = likelihoods(subject, asked, progress)
        progress.finish()
    results: dict[str, Any] = {}
    for name in dict.fromkeys(one.task for one in asked):
        places = [place for place, one in enumerate(asked) if one.task == name]
        some = [asked[place] for place in places]
        results[name] = {
            "side": some[0].side, "chance": round(float(np.mean([1 / len(one.options) for one in some])), 5),
            **{role: accuracy(some, [found[role][place] for place in places]) for role in found},
        }  # fmt: skip
    write_json(folder / "results.json", results)
    write_records(folder / "ranked.jsonl", (
        {"task": one.task, "template": one.template, "source": one.source, "options": one.options, "right": one.right,
         "before": before, "after": after}
        for one, before, after in zip(asked, found["before"], found["after"], strict=True)
    ))  # fmt: skip
    progress.note(table_of(results))
    if held_out > len(asked):
        progress.note(f"  {held_out - len(asked)} of {held_out} questions are longer than the context: left out")
    return {"left_out": held_out - len(asked)} | {
        f"{name}_{role}": row["chance"] if role == "chance" else row[role]["value"]
        for name, row in results.items() for role in ("before", "after", "chance")
    }  # fmt: skip


def read_asked(conversations: Artifact) -> list[Asked]:
    """The held-out conversations that have options."""
    found = []
    for number, row in enumerate(read_records(conversations.file(HELDOUT)), 1):
        chat = Conversation.from_row(row, f"{HELDOUT} row {number}")
        if options := chat.meta.get("options"):
            meta = chat.meta
            found.append(
                Asked(meta["task"], meta["side"], meta["template"], chat.source, chat.turns[:-1], tuple(options),
                      meta["right"])
            )  # fmt: skip
    return found


def fitting(subject: LocalSubject, asked: Sequence[Asked]) -> list[Asked]:
    """The questions that fit into the context with each of their options.

    Raises:
        AthanorError: none does.
    """
    template, kept = require_template(subject.template), []
    for one in asked:
        told = (Conversation((*one.turns, Turn("assistant", option))) for option in one.options)
        if max(len(rendered.ids) for rendered in template.render_all(told)) <= subject.context:
            kept.append(one)
    if not kept:
        raise AthanorError(
            f"all {len(asked)} questions are longer than the model's context of {subject.context} tokens",
            fix="shorter examples (`where`), or a model with more room",
        )
    return kept


def likelihoods(subject: LocalSubject, asked: Sequence[Asked], progress: Progress) -> list[list[float]]:
    """log p of every option of every question in nats, the end of the turn included."""
    template, items, counts = require_template(subject.template), [], []
    for one in asked:
        chats = (Conversation((*one.turns, Turn("assistant", option))) for option in one.options)
        for rendered in template.render_all(chats):
            first = rendered.mask.index(True)
            last = len(rendered.mask) - rendered.mask[::-1].index(True)
            if last > subject.context:
                raise AthanorError(
                    f"{one.source}: the question and an option are {last} tokens long", allowed=f"{subject.context}, "
                    "the context of the model", fix="shorter examples (`where`, `max_rows`), or a model with more room",
                )  # fmt: skip
            items.append((rendered.ids[:last], first))
        counts.append(len(one.options))
    scores = iter(score(subject.model, items, blanks=subject.engine.blanks, progress=progress))
    return [[next(scores).total for _ in range(count)] for count in counts]


def accuracy(asked: Sequence[Asked], found: Sequence[Sequence[float]]) -> dict[str, Any]:
    """How often the likeliest option is the right one: the mean, and each wording's; intervals by example."""
    right = [int(max(range(len(one)), key=one.__getitem__) == each.right)
             for each, one in zip(asked, found, strict=True)]  # fmt: skip
    by_example: dict[str, list[int]] = {}
    by_template: dict[int, list[int]] = {}
    for each, one in zip(asked, right, strict=True):
        by_example.setdefault(each.source, []).append(one)
        by_template.setdefault(each.template, []).append(one)
    mean = ratio([sum(rows) for rows in by_example.values()], [len(rows) for rows in by_example.values()])
    return {**mean.as_row(), "templates": {str(number): round(float(np.mean(rows)), 5)
                                           for number, rows in sorted(by_template.items())}}  # fmt: skip


def table_of(results: dict[str, Any]) -> str:
    """One line for every task."""
    lines = []
    for name, row in results.items():
        wordings = row["after"]["templates"].values()
        lines.append(
            f"  {name}{' (never learnt)' if row['side'] == 'unseen' else ''}: {row['before']['value']:.3f} → "
            f"{row['after']['value']:.3f} right, chance {row['chance']:.3f}; its wordings "
            f"{min(wordings):.3f} to {max(wordings):.3f}"
        )
    return "\n".join(lines)
