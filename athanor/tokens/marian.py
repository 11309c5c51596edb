"""Marian's tokenizer (OPUS-MT): two SentencePiece models, one for each side, and one vocab.json that gives all ids.

What SentencePiece cuts is looked up by its letters: a piece of one side may be known to the other only, and a run of
characters that a model does not know may be a piece of the other's. A text may begin with the language to write in, as
in `>>fra<<`, which is a token of the vocabulary (Tiedemann and Thottingal 2020).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models

from athanor.base.errors import AthanorError
from athanor.tokens.sentencepiece import BPE, SentencePieceModel
from athanor.tokens.spiece import as_written

CLASS, SOURCE, TARGET = "MarianTokenizer", "source.spm", "target.spm"
NAMES = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
FARTHEST = -1000.0  # a score for pieces of the other side: `core` decodes, and is near only where it encodes


def from_source(
    model: SentencePieceModel, config: Mapping[str, Any], vocabulary: Mapping[str, int]
) -> tokenizers.Tokenizer:
    """The whole vocabulary; text is cut by `PieceEncoder`.

    Raises:
        AthanorError: each side has a vocabulary of its own, or the ids are not one for each number.
    """
    if config.get("separate_vocabs"):
        raise AthanorError(
            "a MarianTokenizer with separate_vocabs=true, in which an id means two things", allowed="one vocab.json"
        )
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    if [vocabulary[token] for token in tokens] != list(range(len(tokens))) or not set(NAMES.values()) <= set(tokens):
        raise AthanorError(
            f"vocab.json of a {CLASS} does not give each number from 0 to one token, </s>, <unk> and <pad> among them",
            fix=f"copy vocab.json, {SOURCE} and {TARGET} of one model",
        )
    core, scores = as_written(model), {piece.text: piece.score for piece in model.pieces}
    if model.kind == BPE:
        merges = [pair for pair in model.merges() if {*pair, "".join(pair)} <= set(tokens)]
        core.model = models.BPE(vocab=dict(vocabulary), merges=merges, unk_token=NAMES["unk"], fuse_unk=True)
    else:
        rows = [(token, scores.get(token, FARTHEST)) for token in tokens]
        core.model = models.Unigram(rows, vocabulary[NAMES["unk"]], False)
    return core


def language_of(text: str) -> tuple[str | None, str]:
    """The language code that a text begins with, and the rest."""
    end = text.find("<<") if text.startswith(">>") else -1
    return (text[: end + 2], text[end + 2 :]) if end >= 0 else (None, text)


def is_marian(folder: Path) -> bool:
    """Whether a folder has Marian's two models."""
    return (folder / SOURCE).is_file() and (folder / TARGET).is_file()
