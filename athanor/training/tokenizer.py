"""The step that trains the tokenizer on the corpus and the conversations, and says how well it compresses them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pydantic

from athanor.base.files import write_json
from athanor.base.progress import Progress
from athanor.base.records import read_records
from athanor.base.settings import Settings
from athanor.data.instruct.names import TRAIN
from athanor.data.shards import read_shards
from athanor.store.artifact import Artifact, several
from athanor.tokens.conversation import Conversation
from athanor.tokens.fertility import report
from athanor.tokens.learn import Kind
from athanor.tokens.template import jinja_source
from athanor.tokens.tokenizer import SMALLEST_VOCABULARY, Tokenizer

SAMPLE_LETTERS = 200_000  # of held-out text, to measure compression on
CHATS = 4000  # turns of conversations, for the same


class TokenizerSettings(Settings):
    """What to train."""

    vocabulary: int = pydantic.Field(ge=SMALLEST_VOCABULARY)
    """Token ids, special tokens included."""
    kind: Kind = "bpe"
    """bpe (bytes merged by frequency) or unigram (likeliest pieces), both exact; wordpiece (BERT's), which loses how
    words are spaced and writes words with unknown letters as [UNK]."""
    max_bytes: int = pydantic.Field(default=200_000_000, ge=1)
    """Bytes of corpus text to learn from, over all corpora; the rest is not read."""


def train_tokenizer(
    settings: TokenizerSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write tokenizer.json, tokenizer_config.json, chat_template.jinja and fertility.json.

    Learns from `parents["corpus"]` and those of `parents["also.…"]`, at most the same number of bytes from each, and
    from the conversations, if there are any. Measures bytes per token over the held-out documents and conversations;
    fertility.json says for each language of the held-out documents what a word costs in tokens, and what is lost.
    """
    progress.start("learning the vocabulary from text", None, "B")
    tokenizer = Tokenizer.train(_texts(settings, parents, progress), settings.vocabulary, settings.kind)
    progress.finish(vocabulary=tokenizer.vocabulary)
    tokenizer.save(folder, jinja_source())
    heldout = read_shards(parents["corpus"], "heldout")
    languages: defaultdict[str, list[str]] = defaultdict(list)
    for language, text in _sample((row.language or "unknown", row.text) for row in heldout):
        languages[language].append(text)
    documents = [text for texts in languages.values() for text in texts]
    measured: dict[str, Any] = {"vocabulary": tokenizer.vocabulary}
    samples = {"documents": documents}
    if "conversations" in parents:
        turns = _turns(parents["conversations"], CHATS)
        samples["conversations"] = [text for _, text in _sample(("", turn.content) for turn in turns)]
    for name, texts in samples.items():
        measured[f"bytes_per_token_{name}"] = round(_bytes_per_token(tokenizer, texts), 4)
    if documents:
        write_json(folder / "fertility.json", [row.as_row() for row in report(tokenizer, languages)])
    return measured


def _texts(settings: TokenizerSettings, parents: dict[str, Artifact], progress: Progress) -> Iterator[str]:
    corpora = [parents["corpus"], *several(parents, "also").values()]
    for corpus in corpora:
        left = settings.max_bytes // len(corpora)
        for document in read_shards(corpus, "train"):
            yield document.text
            left -= document.bytes
            progress.advance(document.bytes)
            if left <= 0:
                break
    for turn in _turns(parents["conversations"]) if "conversations" in parents else ():
        yield turn.content


def _turns(conversations: Artifact, most: int | None = None) -> Iterator[Any]:
    for number, row in enumerate(read_records(conversations.file(TRAIN))):
        if number == most:
            return
        yield from Conversation.from_row(row).turns


def _sample(rows: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """(language, text) up to SAMPLE_LETTERS, the last text cut."""
    left = SAMPLE_LETTERS
    for language, text in rows:
        yield language, text[:left]
        left -= len(text)
        if left <= 0:
            break


def _bytes_per_token(tokenizer: Tokenizer, texts: list[str]) -> float:
    count = sum(len(ids) for ids in tokenizer.encode_corpus(texts))
    return sum(len(text.encode()) for text in texts) / max(1, count)
