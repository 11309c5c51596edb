"""The step that trains the tokenizer on the corpus and the conversations, and says how well it compresses them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

from athanor.base.progress import Progress
from athanor.base.records import read_records
from athanor.base.settings import Settings
from athanor.data.exercises import TRAIN
from athanor.data.shards import read_shards
from athanor.store.artifact import Artifact
from athanor.tokens.conversation import Conversation
from athanor.tokens.template import jinja_source
from athanor.tokens.tokenizer import SMALLEST_VOCABULARY, Tokenizer

SAMPLE_LETTERS = 200_000  # of held-out text, to measure compression on


class TokenizerSettings(Settings):
    """What to train."""

    vocabulary: int = pydantic.Field(ge=SMALLEST_VOCABULARY)
    """Token ids, special tokens included."""
    max_bytes: int = pydantic.Field(default=200_000_000, ge=1)
    """Bytes of corpus text to learn from; the rest is not read."""


def train_tokenizer(
    settings: TokenizerSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Measures bytes per token over the held-out documents and the conversations (fertility: fewer tokens are better).
    """
    progress.start("learning merges from text", None, "B")
    tokenizer = Tokenizer.train(_texts(settings, parents, progress), settings.vocabulary)
    progress.finish(vocabulary=tokenizer.vocabulary)
    tokenizer.save(folder, jinja_source())
    documents = [document.text for document in read_shards(parents["corpus"], "heldout")]
    chats = [turn.content for turn in _turns(parents["conversations"], most=4000)]
    measured: dict[str, Any] = {"vocabulary": tokenizer.vocabulary}
    for name, texts in (("documents", documents), ("conversations", chats)):
        measured[f"bytes_per_token_{name}"] = round(_bytes_per_token(tokenizer, texts), 4)
    return measured


def _texts(settings: TokenizerSettings, parents: dict[str, Artifact], progress: Progress) -> Iterator[str]:
    left = settings.max_bytes
    for document in read_shards(parents["corpus"], "train"):
        yield document.text
        left -= document.bytes
        progress.advance(document.bytes)
        if left <= 0:
            break
    for turn in _turns(parents["conversations"]):
        yield turn.content


def _turns(conversations: Artifact, most: int | None = None) -> Iterator[Any]:
    for number, row in enumerate(read_records(conversations.file(TRAIN))):
        if number == most:
            return
        yield from Conversation.from_row(row).turns


def _bytes_per_token(tokenizer: Tokenizer, texts: list[str]) -> float:
    sample, letters = [], 0
    for text in texts:
        sample.append(text[: SAMPLE_LETTERS - letters])
        letters += len(sample[-1])
        if letters >= SAMPLE_LETTERS:
            break
    count = sum(len(ids) for ids in tokenizer.encode_batch(sample))
    return sum(len(text.encode()) for text in sample) / max(1, count)
