"""Conversations whose answers can be checked, made by code in English and Chinese, with problems held out.

A skill is one function `(random, language) -> Exercise` and one row of SKILLS. What is held out for the examination is
decided by the problem (the exercise's key), never by the phrasing: a problem of the examination is not in the training
conversations in any wording or language, which a hash of the key guarantees without a list of problems being kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any, NamedTuple

from athanor.base.errors import AthanorError
from athanor.data.instruct.skills import dates, numbers, words
from athanor.data.instruct.skills.exercise import LANGUAGES, Exercise
from athanor.data.instruct.skills.identity import SYSTEM_TURNS, introduce

HELD_OUT_SHARE = 0.125
IDENTITY_SHARE = 0.04  # of the training conversations
SEVERAL_TURNS_SHARE = 0.1
SYSTEM_TURN_SHARE = 0.06
TRIES = 1000  # draws until a problem of the wanted split must have come; one in eight is held out

Row = dict[str, Any]


class Skill(NamedTuple):
    """One row of SKILLS: what makes an exercise, how many problems there are at least, its share of training."""

    exercise: Callable[[Random, str], Exercise]
    problems: int
    share: float
    about: str


SKILLS: dict[str, Skill] = {
    "addition": Skill(numbers.addition, 8_910, 3.0, "a number below 1000 plus one digit"),
    "subtraction": Skill(numbers.subtraction, 8_910, 3.0, "a number below 1000 minus one digit"),
    "comparison": Skill(numbers.comparison, 499_500, 1.5, "larger or smaller of two numbers below 1000"),
    "sorting_numbers": Skill(numbers.sorting_numbers, 2_600_000, 1.5, "three or four numbers, up or down"),
    "number_words": Skill(numbers.number_words, 10_000, 1.5, "numbers below 10,000 to words and back"),
    "unit_conversion": Skill(numbers.unit_conversion, 5_994, 1.0, "metric lengths, weights, volumes"),
    "next_day": Skill(dates.next_day, 18_262, 1.0, "the day after a date of 1990 to 2039"),
    "date_format": Skill(dates.date_format, 18_262, 1.0, "ISO date to long form and back"),
    "counting_words": Skill(words.counting_words, 10**6, 1.0, "the words of a list"),
    "counting_letters": Skill(words.counting_letters, 800_000, 1.0, "occurrences of a letter in a row of six"),
    "sorting_words": Skill(words.sorting_words, 750_000, 1.0, "three to five words alphabetically"),
    "reversing": Skill(words.reversing, 10**6, 1.0, "three to six words, last first"),
    "repeating": Skill(words.repeating, 7_800, 1.0, "two words, several times"),
    "picking": Skill(words.picking, 10**6, 1.0, "the word at a place of a list"),
    "upper_case": Skill(words.upper_case, 10**6, 1.0, "two to five words in capitals"),
    "bullet_list": Skill(words.bullet_list, 10**6, 1.0, "items as lines that begin with a dash"),
    "json_object": Skill(words.json_object, 21_600, 1.0, "a sentence about a person as JSON"),
}


def held_out(skill: str, key: str) -> bool:
    """Whether a problem belongs to the examination: a hash of skill and key alone, the same on every machine."""
    digest = hashlib.blake2b(f"{skill}\n{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**64


def check(given: str, expected: str) -> bool:
    """Whether an answer is the expected one exactly, spaces around it and at line ends aside."""
    return _normal(given) == _normal(expected)


def _normal(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def draw(skill: str, language: str, random: Random, *, examination: bool) -> Exercise:
    """An exercise of the wanted side of the split; the other side's are drawn again."""
    for _ in range(TRIES):
        exercise = SKILLS[skill].exercise(random, language)
        if held_out(skill, exercise.key) == examination:
            return exercise
    raise AthanorError(
        f"the skill {skill} made no {'held-out' if examination else 'training'} problem in {TRIES} draws",
        allowed="a skill with at least 1,000 problems whose key names the problem",
        fix="enlarge the space the skill draws from, or mend its key",
    )


def training_conversations(
    count: int, seed: int, languages: Iterable[str] = LANGUAGES, skills: Iterable[str] | None = None
) -> Iterator[Row]:
    """`count` conversation rows for fine-tuning, no problem of which is held out; the same for the same arguments.

    Most have one exercise; some have several turns, some begin with a system turn, a few are about the model itself.
    meta is that of `examination`, for the last exercise (absent for talk about the model).
    """
    random = Random(f"training {seed}")
    languages, chosen = known_languages(languages), known_skills(skills)
    shares = [SKILLS[name].share for name in chosen]
    for _ in range(count):
        language = random.choice(languages)
        messages: list[dict[str, str]] = []
        meta: Row = {"language": language}
        if random.random() < SYSTEM_TURN_SHARE:
            messages.append({"role": "system", "content": random.choice(SYSTEM_TURNS[language])})
        turns = random.randint(2, 3) if random.random() < SEVERAL_TURNS_SHARE else 1
        for _ in range(turns):
            if random.random() < IDENTITY_SHARE:
                messages += _turns(*introduce(random, language))
                continue
            skill = random.choices(chosen, shares)[0]
            exercise = draw(skill, language, random, examination=False)
            messages += _turns(exercise.question, exercise.answer)
            meta = _meta(skill, language, exercise)
        yield {"messages": messages, "source": "skills", "meta": meta}


def examination(
    count: int, seed: int, languages: Iterable[str] = LANGUAGES, skills: Iterable[str] | None = None
) -> Iterator[Row]:
    """`count` different held-out problems for each skill and language, as rows of one question and its answer.

    meta holds skill, language, key (the problem) and answer. The same rows for the same arguments, and a skill's rows
    do not depend on which other skills or languages are asked for.
    """
    for skill in known_skills(skills):
        for language in known_languages(languages):
            random, seen = Random(f"examination {seed} {skill} {language}"), set[str]()
            while len(seen) < count:
                exercise = _unseen(skill, language, random, seen)
                seen.add(exercise.key)
                yield {
                    "messages": _turns(exercise.question, exercise.answer),
                    "source": "skills",
                    "meta": _meta(skill, language, exercise),
                }


def _unseen(skill: str, language: str, random: Random, seen: set[str]) -> Exercise:
    for _ in range(TRIES):
        exercise = draw(skill, language, random, examination=True)
        if exercise.key not in seen:
            return exercise
    raise AthanorError(
        f"{len(seen)} different held-out problems of {skill} were found and no more in {TRIES} draws",
        allowed=f"about {int(SKILLS[skill].problems * HELD_OUT_SHARE)} held-out problems",
        fix="ask for fewer questions per skill",
    )


def known_skills(skills: Iterable[str] | None) -> list[str]:
    """The names of skills asked for (all for None), or an error naming the first unknown one."""
    chosen = list(SKILLS) if skills is None else list(skills)
    return _known(chosen, SKILLS, "skill")


def known_languages(languages: Iterable[str]) -> list[str]:
    """The languages asked for, or an error naming the first unknown one."""
    return _known(list(languages), LANGUAGES, "language")


def _known(chosen: list[str], allowed: Iterable[str], what: str) -> list[str]:
    unknown = [name for name in chosen if name not in allowed]
    if unknown or not chosen:
        given = f"unknown {what} {unknown[0]!r}" if unknown else f"no {what} was given"
        raise AthanorError(given, allowed=", ".join(allowed), fix=f"name at least one {what} of these")
    return chosen


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _meta(skill: str, language: str, exercise: Exercise) -> Row:
    return {"skill": skill, "language": language, "key": exercise.key, "answer": exercise.answer}
