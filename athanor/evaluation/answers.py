"""The step that judges fine-tuning on conversations that were held out: how well each answer is foretold, before and
after, and what both models say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import torch

from athanor.base.errors import AthanorError
from athanor.base.files import write_json
from athanor.base.progress import Progress
from athanor.base.records import read_records, write_records
from athanor.base.settings import Settings
from athanor.data.instruct.names import HELDOUT
from athanor.evaluation.statistics import Estimate, ratio
from athanor.evaluation.subject import LocalSubject
from athanor.inference.sampling import Sampling
from athanor.store.artifact import Artifact
from athanor.tokens.chat import require_template
from athanor.tokens.conversation import Conversation
from athanor.tokens.template import learnt_alone

IGNORED = -100


class AnswersSettings(Settings):
    """How much to judge."""

    conversations: int = pydantic.Field(default=200, ge=1)
    """Held-out conversations, the first ones."""
    samples: int = pydantic.Field(default=3, ge=0)
    """Held-out questions that both models answer."""
    sample_tokens: int = pydantic.Field(default=96, ge=1)
    """Longest of these answers."""


def judge_answers(
    settings: AnswersSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write results.json (nats per token of the held-out answers, with intervals) and answers.jsonl.

    `parents["after"]` is a model, or an adapter of `parents["before"]`.

    Raises:
        AthanorError: no conversation was held out.
    """
    rows = list(read_records(parents["conversations"].file(HELDOUT)))[: settings.conversations]
    if not rows:
        raise AthanorError(f"{parents['conversations'].id} holds out no conversation", fix="raise heldout_share")
    chats = [Conversation.from_row(row, f"{HELDOUT} row {number}") for number, row in enumerate(rows, 1)]
    asked = chats[: settings.samples]
    losses: dict[str, list[tuple[float, int]]] = {}
    said: dict[str, list[str]] = {}
    room: int | None = None
    for role in ("after", "before"):  # a prefix leaves less room: the model before it is judged on as much
        subject = open_subject(parents, role)
        room = subject.context if room is None else room
        assert room <= subject.context, "fine-tuning adds no positions"
        progress.start(f"reading held-out answers · {role}", len(chats), "chats")
        losses[role] = [answer_loss(subject, chat, room, progress) for chat in chats]
        progress.finish()
        said[role] = answer(subject, asked, settings.sample_tokens)
    results: dict[str, Any] = {role: estimate(found).as_row() for role, found in losses.items()}
    pairs = list(zip(losses["before"], losses["after"], strict=True))
    change = ratio([after[0] - before[0] for before, after in pairs], [before[1] for before, _ in pairs])
    results["change"] = change.as_row()
    write_json(folder / "results.json", results)
    answers = zip(asked, said["before"], said["after"], strict=True)
    write_records(
        folder / "answers.jsonl",
        ({**chat.to_row(), "before": before, "after": after} for chat, before, after in answers),
    )
    return {
        "heldout_loss_before": results["before"]["value"], "heldout_loss_after": results["after"]["value"],
        "change": results["change"]["value"],
        # one conversation drawn again and again is always itself: it tells no interval
        "change_low": results["change"]["low"] if len(chats) > 1 else None,
        "change_high": results["change"]["high"] if len(chats) > 1 else None, "conversations": len(chats),
    }  # fmt: skip


def open_subject(parents: dict[str, Artifact], role: str) -> LocalSubject:
    """The model before, the model after, or the model before with the adapter."""
    artifact = parents[role]
    artifact.verify()
    if artifact.kind != "adapter":
        return LocalSubject(artifact.path)
    if artifact.record["parents"]["base"] != parents["before"].id:
        raise AthanorError(f"{artifact.id} is no adapter of {parents['before'].id}")
    return LocalSubject(parents["before"].path, adapter=artifact.path)


@torch.inference_mode()
def answer_loss(subject: LocalSubject, chat: Conversation, room: int, progress: Progress) -> tuple[float, int]:
    """Summed loss of what the assistant says in nats, and its tokens; of the conversation's first `room` tokens."""
    rendered = learnt_alone(require_template(subject.template).render_all([chat])[0], chat)
    ids, mask = rendered.ids[:room], rendered.mask[:room]
    targets = [token if learnt else IGNORED for token, learnt in zip(ids[1:], mask[1:], strict=True)] + [IGNORED]
    device = next(subject.model.parameters()).device
    if all(target == IGNORED for target in targets):
        return 0.0, 0
    total, count = subject.model.loss(torch.tensor([ids], device=device), torch.tensor([targets], device=device))
    progress.advance()
    return float(total), int(count)


def estimate(found: Sequence[tuple[float, int]]) -> Estimate:
    """Nats per token, with the bootstrap over conversations."""
    return ratio([total for total, _ in found], [count for _, count in found])


def answer(subject: LocalSubject, chats: Sequence[Conversation], most: int) -> list[str]:
    """What the model says where the last answer of each conversation stands, the likeliest tokens."""
    prompts = [subject.chat_prompt(chat.turns[:-1], chat.tools) for chat in chats]
    room = [subject.context - len(prompt) for prompt in prompts]
    samplings = [Sampling(max_tokens=max(1, min(most, left))) for left in room]
    fitting = [place for place, left in enumerate(room) if left > 0]
    given = subject.generate([prompts[place] for place in fitting], [samplings[place] for place in fitting])
    texts = dict(zip(fitting, given, strict=True))
    return [texts.get(place, "(the question fills the context)") for place in range(len(chats))]
