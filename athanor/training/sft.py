"""Supervised fine-tuning: the loss counts only what the assistant says (Ouyang et al. 2022, section 3.5)."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.base.records import read_records
from athanor.data.instruct.names import TRAIN
from athanor.data.packing.batches import Batch
from athanor.data.packing.conversations import PackedConversations, TooLong, pack_conversations
from athanor.data.packing.mixture import open_batches
from athanor.models.convert import load_checkpoint
from athanor.models.shapes import flops_per_token
from athanor.store.artifact import RESUME, Artifact
from athanor.tokens.chat import Template, check_vocabulary, open_template, require_template, stored_ends
from athanor.tokens.conversation import Conversation
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.loop import train
from athanor.training.objective import Objective
from athanor.training.objectives.next_token import next_token_loss, to_tensors
from athanor.training.settings import LoopSettings
from athanor.training.setup import DTYPES, DtypeName, chat_generation, prepare, save_model, summary, write_metrics
from athanor.training.watching import looks

PACKING = "packing.npy"  # the packed row of every conversation: with settings and seed it tells the steps that saw it


class FinetuneSettings(LoopSettings):
    """How to fine-tune."""

    document_rows: int = pydantic.Field(default=0, ge=0)
    """Rows of plain documents in every step beside `rows` of conversations: they keep what pretraining taught."""
    too_long: TooLong = "refuse"
    """A conversation longer than the context: refuse, truncate, or split it."""
    dtype: DtypeName = "float32"


def finetune(
    settings: FinetuneSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Fine-tune the parent model on conversations and write the new checkpoint and metrics.jsonl.

    Conversations are written as the model's own chat template has them, ours or another's, which stays with it.

    Raises:
        AthanorError: the model has no chat template, or it does not say what the assistant says.
    """
    base, shards = parents["model"], parents["shards"]
    base.verify()
    shards.verify()
    tokenizer = Tokenizer.load(base.path)
    template = require_template(open_template(tokenizer, stored_ends(base.path)))
    model = prepare(load_checkpoint(base.path, dtype=DTYPES[settings.dtype]), settings.dtype, settings)
    check_vocabulary(tokenizer, model.config.vocabulary, base.path)
    context = model.config.max_positions
    packed = packed_conversations(parents["conversations"], template, context, settings.too_long, progress)
    batch = mixed_batches(settings, packed, shards.path, context)
    device = next(model.parameters()).device
    objective = Objective(
        batch=lambda step, rank, world: to_tensors(batch(step, rank, world), device),
        loss=next_token_loss(model.config, z_loss=settings.z_loss),
        tokens=(settings.rows + settings.document_rows) * context,
        flops=float((settings.rows + settings.document_rows) * context * flops_per_token(model.config, context)),
        **looks(settings, tokenizer, shards.path, context),
        sources=lambda step: [
            f"conversation {number}" for number in packed.members(step, settings.rows, settings.seed)
        ],
    )
    clock = time.monotonic()
    rows = train(model, objective, settings, folder / RESUME, progress, "fine-tuning")
    seconds = time.monotonic() - clock
    save_model(model, tokenizer, folder, chat_generation(base.path, tokenizer, template))
    write_metrics(folder, rows)
    np.save(folder / PACKING, row_of_conversation(packed))
    return {
        **summary(rows, objective, seconds), "conversations": packed.conversations, "filled": round(packed.filled, 4),
        "epochs": round(settings.steps / packed.steps_per_epoch(settings.rows), 4),
    }  # fmt: skip


def packed_conversations(
    conversations: Artifact, template: Template, context: int, too_long: TooLong, progress: Progress
) -> PackedConversations:
    """Render every training conversation and pack whole ones into rows of `context` tokens; says how many are cut."""
    rows = enumerate(read_records(conversations.file(TRAIN)), 1)
    rendered = template.render_all(Conversation.from_row(row, f"{TRAIN} row {number}") for number, row in rows)
    if not rendered:
        raise AthanorError(f"{conversations.id} holds no conversations", fix="make or import some first")
    long = sum(len(one.ids) > context for one in rendered)
    if long and too_long != "refuse":  # a refusal names the conversation itself
        done = {"truncate": "lose their end", "split": "are split"}[too_long]
        progress.note(f"  {long} of {len(rendered)} conversations are longer than {context} tokens: they {done}")
    return pack_conversations([(one.ids, one.mask) for one in rendered], context, too_long)


def row_of_conversation(packed: PackedConversations) -> np.ndarray:
    """The packed row that holds each conversation, int32; a conversation that was split has its first row."""
    rows = np.zeros(packed.conversations, dtype=np.int32)
    for row in range(len(packed.documents_RT) - 1, -1, -1):
        members = np.unique(packed.documents_RT[row])
        rows[members[members < packed.conversations]] = row
    return rows


def mixed_batches(
    settings: FinetuneSettings, packed: PackedConversations, shards: Path, context: int
) -> Callable[[int, int, int], Batch]:
    """(step, rank, world) to a share of `rows` packed conversations and `document_rows` windows of documents.

    Of a mixture with a curriculum, documents are read in the shares of its last stage.
    """
    count = settings.document_rows
    documents = open_batches(shards, context, count, settings.seed) if count else None

    def batch(step: int, rank: int, world: int) -> Batch:
        chats = packed.batch(step, settings.rows, settings.seed, rank, world)
        if documents is None:
            return chats
        texts = documents.batch(step, rank, world)
        pairs = zip(_arrays(chats), _arrays(texts), strict=True)
        return Batch(*(np.concatenate(pair) for pair in pairs))

    return batch


def _arrays(batch: Batch) -> tuple[Any, Any, Any]:
    return batch.ids_BT, batch.targets_BT, batch.documents_BT
