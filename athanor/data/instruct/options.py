"""The step `instructions`: labelled examples of many tasks become instructions in FLAN's option form.

Wei et al. 2022, "Finetuned Language Models Are Zero-Shot Learners": every task is told in several templates of natural
words, so that the network learns to follow what is asked rather than one wording (section 2.1). Behind a question with
few answers stands the word OPTIONS and all of them, so that the network knows which are wanted (section 2.3). Some
templates turn a task around: an answer is given, and its text is to be written. Tasks are mixed in proportion to their
examples, a large one as if it had no more than 3,000 (section 2.4: "examples-proportional mixing").

Each becomes a conversation, so that every way to learn from conversations learns from these; the step `rank` judges
those that are held out by which option a model finds likeliest.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.base.records import write_records
from athanor.base.settings import Settings, nearest
from athanor.data.examples import Example, Form, Task, open_examples
from athanor.data.instruct.names import HELDOUT, TRAIN
from athanor.store.artifact import Artifact, several
from athanor.tokens.conversation import Conversation

PLACE = re.compile(r"\{(\w+)\}")


class Template(Settings):
    """One wording of a task."""

    prompt: str
    """What the user says; {text}, {second}, {options}, {answer} and {target} stand for parts of an example."""
    answer: str = "{answer}"
    """What the assistant says; something else where the task is turned around."""


def _asked(*prompts: str) -> tuple[Template, ...]:
    return tuple(Template(prompt=prompt) for prompt in prompts)


TEMPLATES: Mapping[str, Mapping[Form, tuple[Template, ...]]] = {
    "en": {
        "classification": (
            *_asked(
                "{text}\n\nWhich of these describes the text?\n\n{options}",
                "Read this: {text}\n\nHow would you label it?\n\n{options}",
                "Choose the label that fits best.\n\n{text}\n\n{options}",
                "{options}\n\nWhich of them is right for the following text?\n\n{text}",
                'Is "{text}" one of these? Say which.\n\n{options}',
            ),
            Template(prompt="Write a short text whose label is {answer}.", answer="{text}"),
        ),
        "entailment": (
            *_asked(
                "{text}\n\nGiven that, what holds for the sentence: {second}\n\n{options}",
                "Premise: {text}\n\nHypothesis: {second}\n\nHow does the hypothesis follow?\n\n{options}",
                '{text}\n\nWhat may be concluded about "{second}"?\n\n{options}',
                "Does the second follow from the first?\n\n1. {text}\n2. {second}\n\n{options}",
                "{options}\n\nWhich of them says how the two are related?\n\n{text}\n\n{second}",
            ),
        ),
        "similarity": (
            *_asked(
                "{text}\n\n{second}\n\nHow are the two related?\n\n{options}",
                "First: {text}\nSecond: {second}\n\nCompare what they mean.\n\n{options}",
                'Think of "{text}" and "{second}". Which fits them?\n\n{options}',
                "{options}\n\nWhich of them is right for these two?\n\n1. {text}\n2. {second}",
                "Say how alike these are in meaning.\n\n{text}\n\n{second}\n\n{options}",
            ),
        ),
        "choice": (
            *_asked(
                "{text}\n\n{options}",
                "{text}\n\nWhich of these goes best with it?\n\n{options}",
                "Pick what belongs here: {text}\n\n{options}",
                "{options}\n\nWhich of them follows this?\n\n{text}",
                "What comes next, or answers this?\n\n{text}\n\n{options}",
            ),
            Template(prompt="Write something that this could follow: {answer}", answer="{text}"),
        ),
        "pair": (Template(prompt="{text}", answer="{target}"),),
    },
    "zh": {
        "classification": (
            *_asked(
                "{text}\n\n上面这段文字属于哪一类？\n\n{options}",
                "请读：{text}\n\n该给它什么标签？\n\n{options}",
                "选出最合适的标签。\n\n{text}\n\n{options}",
                "{options}\n\n下面这段文字属于其中哪一个？\n\n{text}",
            ),
            Template(prompt="写一段标签为{answer}的短文。", answer="{text}"),
        ),
        "entailment": (
            *_asked(
                "{text}\n\n由此看，下面这句话怎么样：{second}\n\n{options}",
                "前提：{text}\n\n假设：{second}\n\n假设成立吗？\n\n{options}",
                "{text}\n\n关于“{second}”可以得出什么结论？\n\n{options}",
                "{options}\n\n哪一个说明了两句话的关系？\n\n{text}\n\n{second}",
            ),
        ),
        "similarity": (
            *_asked(
                "{text}\n\n{second}\n\n这两句话是什么关系？\n\n{options}",
                "第一句：{text}\n第二句：{second}\n\n比较它们的意思。\n\n{options}",
                "{options}\n\n哪一个适合这两句话？\n\n1. {text}\n2. {second}",
            ),
        ),
        "choice": (
            *_asked(
                "{text}\n\n{options}",
                "{text}\n\n下面哪一个最合适？\n\n{options}",
                "{options}\n\n哪一个可以接在下面的话后面？\n\n{text}",
            ),
            Template(prompt="写一段话，使它后面可以接：{answer}", answer="{text}"),
        ),
        "pair": (Template(prompt="{text}", answer="{target}"),),
    },
}  # fmt: skip
HEADINGS = {"en": "OPTIONS:", "zh": "选项："}


class InstructionSettings(Settings):
    """How tasks are told, and how they are mixed."""

    templates: dict[str, tuple[str | Template, ...]] = Field(default_factory=dict)
    """Wordings of a task, by its name: a prompt, or {prompt: …, answer: …}; unset: five or so for its form."""
    language: Literal["en", "zh"] = "en"
    """Of the wordings that come with the form, and of the word OPTIONS."""
    most: int = Field(default=3000, ge=1)
    """A larger task counts as if it had so many examples."""
    rounds: int = Field(default=1, ge=1)
    """Each is a draw of at most `most` examples of every task; a large task gives others every time (FLAN: 10)."""
    judged: int = Field(default=100, ge=1)
    """Held-out examples of each task, each told in every wording that has options."""
    seed: int = Field(default=1, ge=0)


class Told(NamedTuple):
    """A task with its wordings."""

    task: Task
    learnt: Sequence[Example]
    heldout: Sequence[Example]
    templates: Sequence[Template]


def write_instructions(
    settings: InstructionSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write conversations to train.jsonl.zst and heldout.jsonl.zst; tasks of the role `unseen` are held out whole.

    Raises:
        AthanorError: a template asks for what its task does not have, or a task has no options to choose from.
    """
    seen = {name: _told(settings, name, artifact) for name, artifact in several(parents, "tasks").items()}
    unseen = {name: _told(settings, name, artifact) for name, artifact in several(parents, "unseen").items()}
    if both := sorted(seen.keys() & unseen.keys()):
        raise AthanorError(f"the task {both[0]!r} is both learnt and unseen", fix="give them names of their own")
    if unknown := sorted(settings.templates.keys() - seen.keys() - unseen.keys()):
        known = [*seen, *unseen]
        raise AthanorError(f"templates of {unknown[0]!r}", allowed=", ".join(known), fix=nearest(unknown[0], known))
    progress.start("telling tasks in words", None, "conversations")
    written = write_records(folder / TRAIN, (one.to_row() for one in mixed(settings, seen)))
    judged = [
        *judged_instructions(settings, seen, "learnt"), *judged_instructions(settings, unseen, "unseen"),
    ]  # fmt: skip
    write_records(folder / HELDOUT, (one.to_row() for one in judged))
    progress.finish()
    return {
        "conversations": written, "heldout_conversations": len(judged), "tasks": len(seen), "unseen": len(unseen),
        "templates": sum(len(told.templates) for told in (*seen.values(), *unseen.values())),
    }  # fmt: skip


def mixed(settings: InstructionSettings, tasks: Mapping[str, Told]) -> Iterator[Conversation]:
    """What is learnt: every round's share of every task, each example in one wording by chance, all shuffled."""
    numbers = random.Random(settings.seed)
    for turn in range(settings.rounds):
        chosen = []
        for name, told in tasks.items():
            count = min(settings.most, len(told.learnt))
            order = random.Random(f"{settings.seed} {name}").sample(range(len(told.learnt)), len(told.learnt))
            places = [order[(turn * count + place) % len(order)] for place in range(count)]
            chosen += [(name, told, told.learnt[place]) for place in places]
        numbers.shuffle(chosen)
        for name, told, example in chosen:
            number = numbers.randrange(len(told.templates))
            yield conversation(settings.language, name, told, example, number)


def judged_instructions(
    settings: InstructionSettings, tasks: Mapping[str, Told], side: str
) -> Iterator[Conversation]:  # fmt: skip
    """What is held out: the first examples of every task that has options, in every wording that shows them."""
    for name, told in tasks.items():
        if told.task.form == "pair":
            continue
        for example in told.heldout[: settings.judged]:
            for number, template in enumerate(told.templates):
                if template.answer == "{answer}":
                    yield conversation(settings.language, name, told, example, number, side)


def conversation(
    language: str, name: str, told: Told, example: Example, number: int, side: str = "learnt"
) -> Conversation:
    """An example in one wording; `meta` holds its options and which of them is right."""
    options, right = options_of(told.task, example)
    parts = {"text": example.text, "second": example.second, "target": example.target}
    if options:
        parts |= {
            "options": "\n".join([HEADINGS[language], *(f"- {one}" for one in options)]),
            "answer": options[right],
        }
    wording = told.templates[number]
    asked, said = (PLACE.sub(lambda place: str(parts[place[1]]), one) for one in (wording.prompt, wording.answer))
    meta: dict[str, Any] = {"task": name, "template": number, "side": side}
    if wording.answer == "{answer}" and options:
        meta |= {"options": list(options), "right": right}
    return Conversation.of(("user", asked), ("assistant", said), source=example.id, **meta)


def options_of(task: Task, example: Example) -> tuple[tuple[str, ...], int]:
    """The answers that may be given and the place of the right one; none of a pair."""
    if task.form == "pair":
        return (), 0
    if task.form == "choice":
        assert isinstance(example.label, int)
        return example.choices, example.label
    return task.labels, task.labels.index(str(example.label))


def _told(settings: InstructionSettings, name: str, artifact: Artifact) -> Told:
    task, learnt, heldout = open_examples(artifact)
    if task.form not in ("choice", "pair") and not task.labels:
        raise AthanorError(f"the labels of {name!r} are numbers: there are no options to choose from",
                           fix="round them to a few classes, and give these `names`")  # fmt: skip
    given = settings.templates.get(name)
    known = TEMPLATES[settings.language][task.form]
    templates = known if given is None else [Template(prompt=one) if isinstance(one, str) else one for one in given]
    if given is not None and task.form == "pair":  # a prompt alone asks for the target
        templates = [
            one if one.answer != "{answer}" else Template(prompt=one.prompt, answer="{target}") for one in templates
        ]
    for template in templates:
        _check(name, task.form, template)
    if not templates:
        raise AthanorError(f"no templates of {name!r}", fix="write one, or leave the name out")
    return Told(task, learnt, heldout, tuple(templates))


PARTS: Mapping[Form, tuple[str, ...]] = {
    "classification": ("text", "options", "answer"),
    "entailment": ("text", "second", "options", "answer"),
    "similarity": ("text", "second", "options", "answer"),
    "choice": ("text", "options", "answer"),
    "pair": ("text", "target"),
}


def _check(name: str, form: Form, template: Template) -> None:
    """Refuse a wording that asks for a part its task does not have, tells the answer, or shows no options."""
    used = [set(PLACE.findall(text)) for text in (template.prompt, template.answer)]
    allowed = ", ".join(f"{{{part}}}" for part in PARTS[form])
    for unknown in sorted((used[0] | used[1]) - set(PARTS[form])):
        raise AthanorError(f"a template of {name!r} has {{{unknown}}}", allowed=f"{allowed} (form: {form})")
    if not used[0] or not used[1]:
        raise AthanorError(
            f"a template of {name!r} is the same for every example: {template.prompt!r}", allowed=allowed
        )
    if template.answer == "{answer}" and ("options" not in used[0] or "answer" in used[0]):
        raise AthanorError(
            f"the template {template.prompt!r} of {name!r} {'tells' if 'answer' in used[0] else 'shows no'} "
            f"{'its answer' if 'answer' in used[0] else 'options'}",
            allowed="{options} in a prompt that asks; another `answer` in one that turns the task around",
        )
