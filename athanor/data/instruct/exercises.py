"""The step that writes conversations with checkable answers: training rows, and held-out problems."""

from pathlib import Path
from typing import Any, Literal

import pydantic

from athanor.base.progress import Progress
from athanor.base.records import write_records
from athanor.base.settings import Settings
from athanor.data.instruct.names import EXAM, TRAIN
from athanor.data.instruct.skills import SKILLS, examination, known_languages, known_skills, training_conversations
from athanor.store.artifact import Artifact


class SkillsSettings(Settings):
    """What to make."""

    conversations: int = pydantic.Field(ge=1)
    """Training conversations, over all skills and languages."""
    exam: int = pydantic.Field(default=50, ge=1)
    """Held-out problems per skill and language."""
    languages: tuple[Literal["en", "zh"], ...] = ("en", "zh")
    skills: tuple[str, ...] | None = None
    """Names of skills; unset: all of them."""
    seed: int = pydantic.Field(default=1, ge=0)


def make_skills(
    settings: SkillsSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write train.jsonl.zst and exam.jsonl.zst; no problem of the second is in the first, in any wording."""
    names, languages = known_skills(settings.skills), known_languages(settings.languages)
    progress.start("making conversations", settings.conversations, "conversations")

    def counted() -> Any:
        for row in training_conversations(settings.conversations, settings.seed, languages, names):
            yield row
            progress.advance()

    written = write_records(folder / TRAIN, counted())
    progress.finish()
    asked = write_records(folder / EXAM, examination(settings.exam, settings.seed, languages, names))
    problems = {name: SKILLS[name].problems for name in names}
    return {"conversations": written, "exam_problems": asked, "skills": len(names), "problem_space": problems}
