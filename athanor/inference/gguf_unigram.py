"""SentencePiece's unigrams in a GGUF file: `tokenizer.ggml.model = "t5"`, pieces with scores, a table of characters.

llama.cpp (`llm_tokenizer_ugm` of `src/llama-vocab.cpp`) does as SentencePiece does: the same table, sums rounded to 32
bits, of equal ones the first. It knows no bytes to fall back on, and weighs symbols of the model's own otherwise.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from tokenizers import AddedToken

from athanor.base.errors import AthanorError
from athanor.tokens.pieces import FILE, PieceEncoder
from athanor.tokens.sentencepiece import (
    CONTROL,
    SPACE,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Piece,
    SentencePieceModel,
    unigram_file,
)  # fmt: skip
from athanor.tokens.spiece import as_written
from athanor.tokens.tokenizer import Tokenizer

KIND = "t5"
ENDING = f"text that ends with a literal {SPACE} (U+2581), which SentencePiece drops and llama.cpp keeps"


def is_unigram(tokenizer: Tokenizer) -> bool:
    """Whether SentencePiece's unigrams cut the text."""
    return tokenizer.pieces is not None and model_of(tokenizer.pieces).kind == UNIGRAM


def model_of(pieces: PieceEncoder) -> SentencePieceModel:
    """The model file behind an encoder."""
    return SentencePieceModel.parse(pieces.data, Path(FILE))


def unigram_values(tokenizer: Tokenizer, size: int) -> dict[str, Any]:
    """The keys for a vocabulary of unigrams; ids that mean nothing fill the rest.

    Raises:
        AthanorError: llama.cpp would cut text otherwise.
    """
    assert tokenizer.pieces is not None
    model = model_of(tokenizer.pieces)
    if model.byte_fallback:
        refuse("no bytes to fall back on where it cuts into unigrams")
    if any(piece.kind == USER_DEFINED for piece in model.pieces):
        refuse("no symbols of the model's own with SentencePiece's weights")
    if tokenizer.pieces.dialect != "plain" or not (model.trim and model.dummy_prefix):
        refuse("no unigrams that keep runs of spaces, or put no space before the first word")
    tokens, scores, types = [f"[PAD{index}]" for index in range(size)], [-1e6] * size, [UNUSED] * size
    for piece in model.pieces:
        index = tokenizer.core.token_to_id(piece.text)
        assert index is not None  # `PieceEncoder` has looked
        tokens[index], scores[index], types[index] = piece.text, piece.score, piece.kind
    for index, added in tokenizer.core.get_added_tokens_decoder().items():
        if types[index] != UNKNOWN:
            tokens[index], types[index] = added.content, CONTROL if added.special else USER_DEFINED
    if USER_DEFINED in types:
        refuse("no words beside the unigrams with SentencePiece's weights")
    return {
        "tokenizer.ggml.model": KIND, "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores, "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_space_prefix": True, "tokenizer.ggml.remove_extra_whitespaces": True,
        "tokenizer.ggml.unknown_token_id": types.index(UNKNOWN),
        **({"tokenizer.ggml.precompiled_charsmap": model.characters} if model.characters else {}),
    }  # fmt: skip


def refuse(what: str) -> NoReturn:
    """Say what llama.cpp cannot do."""
    raise AthanorError(
        f"llama.cpp has {what}", allowed="SentencePiece's unigrams with a space before each word, spaces made one",
        fix="athanor export --to hf",
    )  # fmt: skip


def alike(text: str) -> bool:
    """Whether the ids of a text are promised to be the same."""
    return not text.rstrip(" ").endswith(SPACE)


def read_unigram(values: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's values describe, as llama.cpp runs it."""
    names = ("tokens", "scores", "token_type")
    rows = [Piece(*row) for row in zip(*(values[f"tokenizer.ggml.{name}"] for name in names), strict=True)]
    table = bytes(values.get("tokenizer.ggml.precompiled_charsmap", b""))
    filled = [Piece(row.text, row.score, CONTROL if row.kind == UNUSED else row.kind) for row in rows]
    data = unigram_file(filled, values["tokenizer.ggml.unknown_token_id"], table)
    core = as_written(SentencePieceModel.parse(data, Path(FILE)))
    special = [row.text for row in rows if row.kind in (CONTROL, UNKNOWN)]
    core.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return Tokenizer(core, pieces=PieceEncoder(data))
