"""What fine-tuning will read, looked at before anything starts: how many conversations, how long, how many apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from athanor.base.errors import AthanorError
from athanor.data.funnel import Funnel, describe_reasons
from athanor.data.instruct.lessons import Intake, files_of, hash_of, hash_of_question, rows_of_kind
from athanor.tokens.chat import Template
from athanor.tokens.conversation import Conversation
from athanor.tokens.template import learnt_alone

MOST_RENDERED = 5000  # conversations whose tokens are counted; of more, these are spread evenly over the files
FEWEST = 2  # one to learn from, one to be kept apart


@dataclass(frozen=True)
class Survey:
    """A data set in numbers.

    Attributes:
        rows: conversations, each counted once.
        refused: rows that cannot be read.
        reasons: why, with the number of each.
        lengths: tokens of each conversation that was rendered, sorted.
        answers: tokens of the assistant in all conversations, estimated where only some were rendered.
        places: of each conversation, where its hash stands between 0 and 1, sorted: what decides who is kept apart.
    """

    rows: int
    refused: int
    lengths: Sequence[int]
    answers: int
    places: Sequence[float]
    reasons: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of all conversations together."""
        return round(self.rows * float(np.mean(self.lengths)))

    def longest(self, share: float = 1.0) -> int:
        """Tokens within which that share of the conversations fits."""
        return int(self.lengths[min(len(self.lengths) - 1, int(share * len(self.lengths)))])

    def share_apart(self, rows: int) -> float:
        """The `heldout_share` that keeps exactly so many conversations apart."""
        return float((self.places[rows - 1] + self.places[rows]) / 2)


def look_at(path: str, template: Template) -> Survey:
    """Read every row once.

    Raises:
        AthanorError: there are fewer than two conversations to learn from, or the template refuses one.
    """
    funnel, intake = Funnel("read"), Intake(None, strict=False, wanted=Conversation)
    chats: dict[str, Conversation] = {}
    places: list[float] = []
    for where, lesson in intake.lessons(files_of(path), funnel["read"]):
        for row in rows_of_kind(lesson, Conversation, where):
            digest = hash_of(row, ("messages", "answers", "label"))
            if digest not in chats:
                chats[digest] = Conversation.from_row(row, where)
                places.append(int(hash_of_question(row, Conversation), 16) / 16 ** len(digest))
    if len(chats) < FEWEST:
        reasons = f": {describe_reasons(funnel.reasons())}" if intake.refused else ""
        raise AthanorError(
            f"{path} holds {len(chats)} conversation{'' if len(chats) == 1 else 's'} to learn from{reasons}",
            allowed=f"{FEWEST} or more different ones: some to learn from, one to be kept apart",
            fix="add rows; `athanor data instruct --help` names the forms that are read",
        )
    step = max(1, len(chats) // MOST_RENDERED)
    some = list(chats.values())[::step]
    rendered = [learnt_alone(one, chat) for one, chat in zip(template.render_all(some), some, strict=True)]
    answers = sum(sum(one.mask) for one in rendered) * len(chats) / len(rendered)
    if not answers:
        raise AthanorError(
            f"{path}: nobody answers in any conversation", fix="the assistant's turns are what is learnt"
        )
    return Survey(
        len(chats),
        len(intake.refused),
        sorted(len(one.ids) for one in rendered),
        round(answers),
        sorted(places),
        describe_reasons(funnel.reasons()),
    )
