"""Scores on the items that stood in the training text, and on those that did not.

A model that has seen a question may know its answer by heart (Brown et al. 2020, section 4): its score on the clean
part is what it can do, and the difference between the parts, with its interval, says how much the whole score owes to
memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from athanor.data.copies.verdicts import Verdict, has_verdicts, read_verdicts, split_by_verdict
from athanor.evaluation.exam import Answer, accuracy
from athanor.evaluation.statistics import difference
from athanor.store.artifact import Artifact

PARTS = ("clean", "dirty", "unjudged")


def verdicts_on_items(parents: Mapping[str, Artifact]) -> dict[str, Verdict] | None:
    """What the search for test items found: that of the parent `contamination`, else of the corpus; None: no search."""
    if "contamination" in parents:
        return read_verdicts(parents["contamination"])
    return read_verdicts(parents["corpus"]) if has_verdicts(parents["corpus"]) else None


def split_by_contamination(
    items: Iterable[Iterable[str]], report: Mapping[str, Verdict] | Artifact
) -> dict[str, list[int]]:
    """Numbers of the items that are clean, dirty (they, or the same in other words, stood in the training text), or
    unjudged (too short to be told from chance, or not looked for).

    Args:
        items: the texts of each item, such as its question.
        report: the artifact of a `decontaminate` step, or its verdicts.
    """
    return split_by_verdict(items, read_verdicts(report) if isinstance(report, Artifact) else report)


def clean_and_dirty(
    items: Iterable[Iterable[str]], report: Mapping[str, Verdict] | Artifact, answered: Mapping[str, Sequence[Answer]]
) -> dict[str, Any]:
    """How many items each part has, and `scores_by_part` of each model's answers to them."""
    parts = split_by_contamination(items, report)
    counts = {part: len(numbers) for part, numbers in parts.items()}
    return {"items": counts, **{model: scores_by_part(answers, parts) for model, answers in answered.items()}}


def scores_by_part(answers: Sequence[Answer], parts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Share of right answers by part, language and skill ('all': of all), and dirty minus clean by language.

    Parts without an item, and differences where one part is empty, are left out.
    """
    tables = {part: accuracy([answers[number] for number in parts[part]]) for part in PARTS if parts[part]}
    rows: dict[str, Any] = {
        part: {language: {skill: one.as_row() for skill, one in skills.items()} for language, skills in table.items()}
        for part, table in tables.items()
    }
    clean, dirty = tables.get("clean", {}), tables.get("dirty", {})
    both = [language for language in clean if language in dirty]
    gaps = {language: difference(dirty[language]["all"], clean[language]["all"]).as_row() for language in both}
    return {**rows, "dirty_minus_clean": gaps}
