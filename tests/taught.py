"""Tiny language models that learn conversations in seconds: what several tests ask questions of."""

from collections.abc import Sequence
from pathlib import Path

import torch

from athanor.base.progress import SilentProgress
from athanor.data.packing.conversations import pack_conversations
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.tokens.chat import open_template, require_template
from athanor.tokens.conversation import Conversation
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.loop import train
from athanor.training.objective import Objective
from athanor.training.objectives.next_token import next_token_loss, to_tensors
from athanor.training.settings import LoopSettings
from athanor.training.setup import save_model

ROWS, CPU = 8, torch.device("cpu")


def teach(
    told: Sequence[Conversation], folder: Path, steps: int, context: int = 64, vocabulary: int = 420, rate: float = 0.02
) -> None:
    """Write the checkpoint of a network of 64 numbers and two layers that read these conversations."""
    tokenizer = Tokenizer.train([turn.content for one in told for turn in one.turns], vocabulary)
    template = require_template(open_template(tokenizer))
    packed = pack_conversations([(one.ids, one.mask) for one in template.render_all(told)], context, "truncate")
    config = TransformerConfig(
        width=64, layers=2, heads=2, hidden=96, max_positions=context, vocabulary=tokenizer.vocabulary, tied=True,
        norm_qk=True,
    )  # fmt: skip
    model = LanguageModel(config).initialise(1)
    settings = LoopSettings(steps=steps, rows=ROWS, learning_rate=rate, schedule="linear")
    objective = Objective(
        lambda step, rank, world: to_tensors(packed.batch(step, ROWS, 1, rank, world), CPU),
        next_token_loss(config), ROWS * context,
    )  # fmt: skip
    train(model, objective, settings, folder / ".work", SilentProgress(), "")
    save_model(model, tokenizer, folder)
