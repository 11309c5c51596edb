"""The step that evaluates a model before and after fine-tuning: held-out text, held-out problems, samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic

from athanor.base.files import write_json
from athanor.base.progress import Progress
from athanor.base.records import read_records, write_records
from athanor.base.settings import Settings
from athanor.data.instruct.names import EXAM
from athanor.data.shards import read_shards
from athanor.evaluation.bits import bits_per_byte, lzma_bits_per_byte
from athanor.evaluation.contamination import clean_and_dirty, verdicts_on_items
from athanor.evaluation.exam import Answer, accuracy, examine, passed
from athanor.evaluation.statistics import Estimate
from athanor.evaluation.subject import LocalSubject
from athanor.inference.sampling import Sampling
from athanor.store.artifact import Artifact

PROMPT_LETTERS = 60
CONTINUATIONS = 3
PASS = 0.9


class EvaluateSettings(Settings):
    """How much to examine."""

    heldout_bytes: int = pydantic.Field(default=600_000, ge=1000)
    """Bytes of held-out documents to score, whole documents in their order."""
    exam: int = pydantic.Field(default=50, ge=1)
    """Problems per skill and language, as many as the conversations hold at most."""


def evaluate(
    settings: EvaluateSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write results.json (every figure with its interval) and answers.jsonl (every answer of both models).

    Where the corpus was searched for the problems, or `parents["contamination"]` was, the scores of clean and dirty
    problems stand apart in `contamination`.
    """
    texts = heldout_texts(parents["corpus"], settings.heldout_bytes)
    rows = exam_rows(parents["conversations"], settings.exam)
    bits: dict[str, Any] = {"lzma": lzma_bits_per_byte(texts), "bytes": sum(len(text.encode()) for text in texts)}
    skills: dict[str, Any] = {}
    answers: list[dict[str, Any]] = []
    measured: dict[str, Any] = {"lzma_bits_per_byte": round(bits["lzma"], 4)}
    answered: dict[str, list[Answer]] = {}
    for role in ("before", "after"):
        subject = LocalSubject(parents[role].path)
        bits[role] = _score(subject, texts, progress, role).as_row()
        given = answered[role] = _examine(subject, rows, progress, role)
        table = accuracy(given)
        skills[role] = {lang: {name: e.as_row() for name, e in part.items()} for lang, part in table.items()}
        answers += [{"model": role, **answer.as_row()} for answer in given]
        measured[f"bits_per_byte_{role}"] = bits[role]["value"]
        for language in table:
            measured[f"accuracy_{language}_{role}"] = round(table[language]["all"].value, 4)
            measured[f"skills_passed_{language}_{role}"] = passed(table, language, PASS)
        if role == "before":
            continuations = continue_texts(subject, texts)
    write_records(folder / "answers.jsonl", answers)
    results = {"bits_per_byte": bits, "skills": skills, "continuations": continuations}
    verdicts = verdicts_on_items(parents)
    if verdicts is not None:
        results["contamination"] = clean_and_dirty(asked(rows), verdicts, answered)
        measured |= {f"items_{part}": count for part, count in results["contamination"]["items"].items()}
    write_json(folder / "results.json", results)
    return measured


def asked(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """What each problem asks, as it is looked for in a corpus."""
    return [[turn["content"] for turn in row["messages"] if turn["role"] == "user"] for row in rows]


def heldout_texts(corpus: Artifact, most_bytes: int) -> list[str]:
    """Held-out documents up to `most_bytes`, at least one."""
    texts: list[str] = []
    left = most_bytes
    for document in read_shards(corpus, "heldout"):
        texts.append(document.text)
        left -= document.bytes
        if left <= 0:
            break
    return texts


def exam_rows(conversations: Artifact, most: int) -> list[dict[str, Any]]:
    """The first `most` problems of every skill and language."""
    counts: dict[tuple[str, str], int] = {}
    kept = []
    for row in read_records(conversations.file(EXAM)):
        place = row["meta"]["skill"], row["meta"]["language"]
        counts[place] = counts.get(place, 0) + 1
        if counts[place] <= most:
            kept.append(row)
    return kept


def continue_texts(subject: LocalSubject, texts: Sequence[str]) -> list[dict[str, str]]:
    """What the model writes after the first words of a few held-out documents."""
    prompts = [text[:PROMPT_LETTERS] for text in texts[:CONTINUATIONS]]
    sampling = Sampling(temperature=0.7, top_p=0.95, max_tokens=80, seed=1)
    written = subject.generate([subject.text_prompt(prompt) for prompt in prompts], sampling)
    return [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, written, strict=True)]


def _score(subject: LocalSubject, texts: Sequence[str], progress: Progress, role: str) -> Estimate:
    progress.start(f"reading held-out text · {role}", None, "tok")
    estimate = bits_per_byte(subject, texts, progress)
    progress.finish(bits_per_byte=estimate.value)
    return estimate


def _examine(subject: LocalSubject, rows: Sequence[dict[str, Any]], progress: Progress, role: str) -> list[Answer]:
    progress.start(f"answering held-out problems · {role}", len(rows), "answers")
    answers = examine(subject, rows, progress)
    progress.finish(right=sum(answer.right for answer in answers))
    return answers
