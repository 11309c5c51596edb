"""Supervised fine-tuning: the loss counts only what the assistant says (Ouyang et al. 2022, section 3.5)."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.base.records import read_records
from athanor.data.instruct.names import HELDOUT, TRAIN
from athanor.data.packing.batches import Batch, bounds
from athanor.data.packing.conversations import IdsAndMask, PackedConversations, TooLong, pack_conversations
from athanor.data.packing.grouped import GroupedConversations, group_conversations
from athanor.data.packing.mixture import open_batches
from athanor.models.convert import load_checkpoint
from athanor.models.language import LanguageModel
from athanor.models.shapes import count_parameters, learning_flops
from athanor.store.artifact import RESUME, Artifact
from athanor.tokens.chat import Template, check_vocabulary, open_chat
from athanor.tokens.conversation import Conversation
from athanor.tokens.template import Rendered, learnt_alone
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.loop import train
from athanor.training.objective import Loss, Objective
from athanor.training.objectives.mixed import Task, mixed_batch, mixed_loss
from athanor.training.objectives.next_token import NextTokenSettings, next_token_loss, to_tensors
from athanor.training.setup import DTYPES, DtypeName, chat_generation, prepare, save_model, summary, write_metrics
from athanor.training.watching import answers_loss, looks, samples

PACKING = "packing.npy"  # the packed row of every conversation: with settings and seed it tells the steps that saw it


class ChatSettings(NextTokenSettings):
    """What learning from conversations sets, whichever weights learn."""

    document_rows: int = pydantic.Field(default=0, ge=0)
    """Rows of plain documents in every step beside `rows` of conversations: they keep what pretraining taught."""
    compare_every: int | None = pydantic.Field(default=None, ge=1)
    """Steps between two comparisons of the gradients of conversations and documents; unset: none."""
    too_long: TooLong = "refuse"
    """A conversation longer than the context: refuse, truncate, or split it."""
    context: int | None = pydantic.Field(default=None, ge=16)
    """Tokens per row; unset: as many as the model has positions."""
    dtype: DtypeName = "float32"
    group_by_length: bool = False
    """One conversation a row, those of like length in one step, instead of several packed into each row."""

    @pydantic.model_validator(mode="after")
    def _no_documents_beside_groups(self) -> "ChatSettings":
        if self.group_by_length and self.document_rows:
            raise ValueError("group_by_length has rows of many lengths: it goes with document_rows=0")
        if self.compare_every is not None and self.document_rows < self.pieces:
            raise ValueError(
                "compare_every compares conversations with documents in every piece of a step: "
                f"set document_rows to {self.pieces} at least"
            )
        return self


class FinetuneSettings(ChatSettings):
    """How to fine-tune a model's own weights."""

    last_layers: int | None = pydantic.Field(default=None, ge=1)
    """Only so many of the last layers learn, with the norm and the head behind them; unset: every weight."""


def finetune(
    settings: FinetuneSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Fine-tune the parent model on conversations and write the new checkpoint and metrics.jsonl.

    Conversations are written as the model's own chat template has them, ours or another's, which stays with it.

    Raises:
        AthanorError: the model has no chat template, or it does not say what the assistant says.
    """
    base = parents["model"]
    model, tokenizer, template = prepared(settings, parents)
    measured = learn(lesson(model, tokenizer, template, settings, parents, progress), settings, folder, progress)
    save_model(model, tokenizer, folder, chat_generation(base.path, tokenizer, template))
    return measured


def prepared(
    settings: FinetuneSettings, parents: Mapping[str, Artifact]
) -> tuple[LanguageModel, Tokenizer, Template]:  # fmt: skip
    """The parent model, of which the weights that are to learn require a gradient, its tokenizer and its template."""
    base = parents["model"]
    base.verify()
    tokenizer, template = open_chat(base.path)
    model = prepare(load_checkpoint(base.path, dtype=DTYPES[settings.dtype]), settings.dtype, settings)
    if settings.last_layers is not None:
        keep_last(model, settings.last_layers)
    return model, tokenizer, template


def keep_last(model: LanguageModel, layers: int) -> None:
    """Freeze all but the last layers, the norm and the head behind them; a tied head is the embedding, and stays."""
    if layers > model.config.layers:
        raise AthanorError(f"last_layers={layers}", allowed=f"1 to {model.config.layers}, the layers of the model")
    model.requires_grad_(False)
    for module in (*model.trunk.blocks[-layers:], model.trunk.norm, model.head):
        if module is not None:
            module.requires_grad_(True)


@dataclass(frozen=True)
class Lesson:
    """A model and what it is to learn from."""

    model: LanguageModel
    objective: Objective
    rows: PackedConversations | GroupedConversations


def lesson(
    model: LanguageModel, tokenizer: Tokenizer, template: Template, settings: ChatSettings,
    parents: Mapping[str, Artifact], progress: Progress,
) -> Lesson:  # fmt: skip
    """The conversations as rows for a prepared model, and the loss on them.

    Raises:
        AthanorError: the tokenizer is another model's, the context has no room, or the data cannot be learnt from.
    """
    conversations, shards = parents["conversations"], parents.get("shards")
    check_vocabulary(tokenizer, model.config.vocabulary, "the model to be fine-tuned")
    context = context_of(settings, model.room)
    if settings.document_rows and shards is None:
        raise AthanorError(f"document_rows={settings.document_rows} without shards", fix="name shards, or leave it out")
    pieces = to_learn(conversations, template, context, settings.too_long, progress)
    rows: PackedConversations | GroupedConversations
    if settings.group_by_length:
        rows = group_conversations(pieces, settings.rows, context, settings.too_long)
    else:
        rows = pack_conversations(pieces, context, settings.too_long)
    device = next(model.parameters()).device
    if shards is not None:
        shards.verify()
    batch, loss = told_apart(settings, model, rows, shards and shards.path, context, device)
    width = rows.width if isinstance(rows, GroupedConversations) else context
    tokens = round(settings.rows * width + settings.document_rows * context)
    learnt = sum(sum(mask[1:]) for _, mask in pieces) / rows.steps_per_epoch(settings.rows)
    scored = min(1.0, (learnt + settings.document_rows * context) / tokens)
    objective = Objective(
        batch=batch, loss=loss, tokens=tokens,
        flops=tokens * flops_of(model, context, scored),
        **looks_of(settings, tokenizer, template, conversations, shards, context),
        sources=lambda step: [f"conversation {number}" for number in rows.members(step, settings.rows, settings.seed)],
    )  # fmt: skip
    return Lesson(model, objective, rows)


def flops_of(model: LanguageModel, context: int, scored: float) -> float:
    """FLOPs to learn from one token with the weights that require a gradient.

    Args:
        scored: share of the tokens that are.
    """
    learning = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    frozen = max(0.0, 1 - learning / count_parameters(model.config))
    blocks = [any(weight.requires_grad for weight in block.parameters()) for block in model.trunk.blocks]
    outside = any(weight.requires_grad for weight in model.tokens.parameters()) or hasattr(model, "prefixes")
    below = 0.0 if outside else [*blocks, True].index(True) / len(blocks)
    return learning_flops(model.config, context, scored, frozen, below)


def learn(lesson: Lesson, settings: ChatSettings, folder: Path, progress: Progress) -> dict[str, Any]:
    """Train the weights that require a gradient; write metrics.jsonl and packing.npy."""
    note_strangeness(lesson, progress)
    count = sum(weight.numel() for weight in lesson.model.parameters() if weight.requires_grad)
    clock = time.monotonic()
    rows = train(lesson.model, lesson.objective, settings, folder / RESUME, progress, "fine-tuning")
    seconds = time.monotonic() - clock
    write_metrics(folder, rows)
    read = lesson.rows
    where = read.group_of_conversation() if isinstance(read, GroupedConversations) else row_of_conversation(read)
    np.save(folder / PACKING, where)
    return {
        "learning_parameters": count, **summary(rows, lesson.objective, seconds), "conversations": read.conversations,
        "filled": round(read.filled, 4), "epochs": round(settings.steps / read.steps_per_epoch(settings.rows), 4),
    }  # fmt: skip


@torch.no_grad()
def note_strangeness(lesson: Lesson, progress: Progress) -> None:
    """Say so when the model finds the first batch much less likely than chance: its tokenizer may be another's."""
    loss = lesson.objective.loss(lesson.model, lesson.objective.batch(0, 0, 1))
    found, chance = float(loss.total) / max(1, int(loss.count)), math.log(lesson.model.config.vocabulary or 1)
    if found > chance + 1:
        progress.note(
            f"  the model finds these answers less likely than chance ({found:.1f} nats per token, chance is "
            f"{chance:.1f}): is the tokenizer its own?"
        )


def context_of(settings: ChatSettings, room: int) -> int:
    """Tokens per row: as set, at most those the model has positions for."""
    if settings.context is not None and settings.context > room:
        raise AthanorError(f"context={settings.context:,}", allowed=f"16 to {room:,}: the positions of the model")
    return settings.context or room


def looks_of(
    settings: ChatSettings, tokenizer: Tokenizer, template: Template, conversations: Artifact,
    shards: Artifact | None, context: int,
) -> dict[str, Any]:  # fmt: skip
    """What is looked at on the way: held-out documents where there are shards, else held-out conversations."""
    if settings.watch_every is None or shards is not None:
        return looks(settings, tokenizer, shards.path, context) if shards is not None else {}
    rendered = rendered_conversations(conversations, HELDOUT, template)
    if not rendered:
        raise AthanorError("watch_every is set, and no conversation is held out", fix="leave it out")
    packed = pack_conversations([(one.ids, one.mask) for one in rendered], context, "truncate")
    return {"watch": answers_loss(packed), "samples": samples(settings.prompts, tokenizer)}


def packed_conversations(
    conversations: Artifact, template: Template, context: int, too_long: TooLong, progress: Progress
) -> PackedConversations:
    """Render every training conversation and pack whole ones into rows of `context` tokens; says how many are cut."""
    return pack_conversations(to_learn(conversations, template, context, too_long, progress), context, too_long)


def to_learn(
    conversations: Artifact, template: Template, context: int, too_long: TooLong, progress: Progress
) -> list[IdsAndMask]:
    """Every training conversation as ids and mask; says how many will be cut."""
    rendered = rendered_conversations(conversations, TRAIN, template)
    if not rendered:
        raise AthanorError(f"{conversations.id} holds no conversations", fix="make or import some first")
    long = sum(len(one.ids) > context for one in rendered)
    if long and too_long != "refuse":  # a refusal names the conversation itself
        done = {"truncate": "lose their end", "split": "are split"}[too_long]
        progress.note(f"  {long} of {len(rendered)} conversations are longer than {context} tokens: they {done}")
    return [(one.ids, one.mask) for one in rendered]


def rendered_conversations(conversations: Artifact, name: str, template: Template) -> list[Rendered]:
    """The conversations of one file as the template writes them."""
    rows = enumerate(read_records(conversations.file(name)), 1)
    chats = [Conversation.from_row(row, f"{name} row {number}") for number, row in rows]
    return [learnt_alone(one, chat) for one, chat in zip(template.render_all(chats), chats, strict=True)]


def row_of_conversation(packed: PackedConversations) -> np.ndarray:
    """The packed row that holds each conversation, int32; a conversation that was split has its first row."""
    rows = np.zeros(packed.conversations, dtype=np.int32)
    for row in range(len(packed.documents_RT) - 1, -1, -1):
        members = np.unique(packed.documents_RT[row])
        rows[members[members < packed.conversations]] = row
    return rows


def told_apart(
    settings: ChatSettings, model: LanguageModel, rows: PackedConversations | GroupedConversations,
    shards: Path | None, context: int, device: torch.device,
) -> tuple[Callable[[int, int, int], Any], Callable[..., Loss]]:  # fmt: skip
    """Batches and their loss: conversations and documents in one, or apart where their gradients are compared."""
    loss = next_token_loss(
        model.config, z_loss=settings.z_loss, fused=settings.fused_loss, document_mask=settings.document_mask
    )
    if settings.compare_every is None:
        batch = mixed_batches(settings, rows, shards, context)
        return lambda step, rank, world: to_tensors(batch(step, rank, world), device), loss
    chats = mixed_batches(settings.model_copy(update={"document_rows": 0}), rows, None, context)
    assert shards is not None, "document_rows need shards"
    documents = open_batches(shards, context, settings.document_rows, settings.seed)
    tasks = {
        "conversations": Task(lambda step, rank, world: to_tensors(chats(step, rank, world), device), loss),
        "documents": Task(lambda step, rank, world: to_tensors(documents.batch(step, rank, world), device), loss),
    }
    return mixed_batch(tasks, settings.compare_every), mixed_loss(tasks, by_positions=True)


def mixed_batches(
    settings: ChatSettings, rows: PackedConversations | GroupedConversations, shards: Path | None, context: int
) -> Callable[[int, int, int], Batch]:
    """(step, rank, world) to a share of `rows` packed conversations and `document_rows` windows of documents.

    Of a mixture with a curriculum, documents are read in the shares of its last stage.
    """
    count = settings.document_rows
    documents = open_batches(shards, context, count, settings.seed) if count and shards is not None else None

    def batch(step: int, rank: int, world: int) -> Batch:
        chats = rows.batch(step, settings.rows, settings.seed, rank, world)
        if documents is None:
            return chats
        first, after = bounds(count, rank, world)
        if first == after:  # fewer rows of documents than pieces of a step
            return chats
        texts = documents.batch(step, rank, world)
        pairs = zip(_arrays(chats), _arrays(texts), strict=True)
        return Batch(*(np.concatenate(pair) for pair in pairs))

    return batch


def _arrays(batch: Batch) -> tuple[Any, Any, Any]:
    return batch.ids_BT, batch.targets_BT, batch.documents_BT
