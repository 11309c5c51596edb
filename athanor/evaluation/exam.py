"""The examination: held-out problems with one right answer each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from athanor.base.progress import Progress
from athanor.data.instruct.skills import check
from athanor.evaluation.statistics import Estimate, share
from athanor.evaluation.subject import LocalSubject
from athanor.inference.sampling import Sampling
from athanor.tokens.conversation import Conversation

SPARE_TOKENS = (
    8  # beyond twice the right answer's length: whoever is not done by then is wrong, and need not be heard out
)


@dataclass(frozen=True)
class Answer:
    """One question as it was answered."""

    skill: str
    language: str
    question: str
    expected: str
    given: str
    right: bool

    def as_row(self) -> dict[str, Any]:
        """For answers.jsonl."""
        return dict(vars(self))


def examine(subject: LocalSubject, rows: Sequence[dict[str, Any]], progress: Progress | None = None) -> list[Answer]:
    """Answer every problem with the likeliest tokens and compare exactly.

    Args:
        rows: conversations of one question and its answer, with meta skill, language and answer.
    """
    conversations = [Conversation.from_row(row) for row in rows]
    prompts = [subject.chat_prompt(conversation.turns[:-1], conversation.tools) for conversation in conversations]
    samplings = [_enough(subject, conversation.turns[-1].content) for conversation in conversations]
    answers = []
    for conversation, given in zip(conversations, subject.generate(prompts, samplings, progress), strict=True):
        meta = conversation.meta
        question, expected = conversation.turns[-2].content, str(meta["answer"])
        right = check(given, expected)
        answers.append(Answer(meta["skill"], meta["language"], question, expected, given, right))
    return answers


def _enough(subject: LocalSubject, expected: str) -> Sampling:
    """The likeliest tokens, as many as any spelling of the right answer can need."""
    return Sampling(temperature=0.0, max_tokens=2 * len(subject.tokenizer.encode(expected)) + SPARE_TOKENS)


def accuracy(answers: Sequence[Answer]) -> dict[str, dict[str, Estimate]]:
    """Share of right answers by language and skill; the row 'all' is the mean over all problems."""
    table: dict[str, dict[str, Estimate]] = {}
    for language in sorted({answer.language for answer in answers}):
        of_language = [answer for answer in answers if answer.language == language]
        skills = {answer.skill: None for answer in of_language}
        table[language] = {skill: _share([a for a in of_language if a.skill == skill]) for skill in skills}
        table[language]["all"] = _share(of_language)
    return table


def passed(table: dict[str, dict[str, Estimate]], language: str, threshold: float = 0.9) -> int:
    """How many skills of a language reach the threshold."""
    rows = table.get(language, {})
    return sum(estimate.value >= threshold for skill, estimate in rows.items() if skill != "all")


def _share(answers: Sequence[Answer]) -> Estimate:
    return share(sum(answer.right for answer in answers), len(answers))
