"""Tokenizers that are published as Python code, known by the name of their class and built from their data.

Nothing of the code is run. What each class does is written here after its published source; what it reads are the
vocabulary file beside it and tokenizer_config.json. Classes that are not here are refused by `folder`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from athanor.base.errors import AthanorError
from athanor.tokens.letters import BYTE_TO_LETTER
from athanor.tokens.pieces import MOST_BLANKS, NEWLINE, TAB
from athanor.tokens.pipelines import CL100K, QWEN2, Built, Special, frame, from_tiktoken
from athanor.tokens.sentencepiece import (
    BYTE,
    CONTROL,
    UNIGRAM,
    UNKNOWN,
    USER_DEFINED,
    Piece,
    SentencePieceModel,
    appended,
)  # fmt: skip
from athanor.tokens.spiece import as_written

GLM_MARKS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")  # ChatGLM2: ids behind the SentencePiece model's
GLM3_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
QWEN_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))
IMAGES, FARTHEST = 20_000, -1000.0  # ChatGLM-6B's ids of pictures, of which no text is ever made
GLM_PIECES = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
SENTENCEPIECE = ("ChatGLMTokenizer", "BaichuanTokenizer", "InternLMTokenizer", "InternLM2Tokenizer", "YiTokenizer")
RANKS = {"QWenTokenizer": QWEN2, "ChatGLM4Tokenizer": CL100K}  # files of byte ranks, and how text is cut
CODED = (*SENTENCEPIECE, *RANKS)


def is_coded(name: str) -> bool:
    """Whether we know what a class does that is published as Python code."""
    return name in CODED


def spells_spaces(model: SentencePieceModel) -> bool:
    """Whether a model has pieces for white space that ChatGLM-6B's code puts into the text."""
    return any(piece.text == NEWLINE for piece in model.pieces)


def from_model(name: str, model: SentencePieceModel, config: Mapping[str, Any], source: str) -> Built:
    """A coded class over its SentencePiece model.

    Args:
        source: the text of its Python file, in which names are looked for; empty: there is none.

    Raises:
        AthanorError: a setting of the class that is not read.
    """
    if name == "ChatGLMTokenizer" and spells_spaces(model):
        return _chatglm(model, config)
    core = as_written(model)
    core.add_tokens(_marked(model))
    if name != "ChatGLMTokenizer":
        return core, {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
    roles = GLM3_ROLES if not source or any(role in source for role in GLM3_ROLES) else ()
    core.add_special_tokens([AddedToken(token, normalized=False) for token in (*GLM_MARKS, *roles)])
    frame(core, ["[gMASK]", "sop"], [])
    return core, {"eos": "</s>", "unk": "<unk>", "pad": "<unk>"}


def from_ranks(name: str, ranks: Mapping[bytes, int]) -> Built:
    """A file of byte ranks, of a coded class or of none."""
    core, special = from_tiktoken(ranks, BYTE_TO_LETTER, RANKS.get(name, CL100K))
    if name == "QWenTokenizer":  # Qwen-7B, the first generation
        core.normalizer = normalizers.NFC()
        core.add_special_tokens([AddedToken(token, normalized=False) for token in QWEN_MARKS])
        special = {"eos": QWEN_MARKS[0], "pad": QWEN_MARKS[0]}
    return core, special


def _marked(model: SentencePieceModel) -> list[tokenizers.AddedToken]:
    """The control tokens of a model and its own symbols."""
    return [
        AddedToken(piece.text, normalized=False, special=piece.kind != USER_DEFINED)
        for piece in model.pieces if piece.kind in (CONTROL, USER_DEFINED, UNKNOWN)
    ]  # fmt: skip


def _chatglm(model: SentencePieceModel, config: Mapping[str, Any]) -> Built:
    """ChatGLM-6B's: line ends, tabs and runs of spaces are pieces of their own.

    In its first version 20,000 ids of pictures stood before those of text, and do where no `num_image_tokens` says
    otherwise; since version 1.1 it is 0.
    """
    images = int(config.get("num_image_tokens", IMAGES))
    if not 0 <= images <= IMAGES or model.kind != UNIGRAM:
        raise AthanorError(
            f"ChatGLMTokenizer with num_image_tokens={images} over a model of type {model.kind}",
            allowed=f"num_image_tokens: 0 to {IMAGES}, and its ice_text.model of unigrams",
        )
    special: Special = {
        role: str(config.get(f"{role}_token") or usual)
        for role, usual in {"bos": "<sop>", "eos": "<eop>", "mask": "[MASK]", "pad": "<pad>", "unk": "<unk>"}.items()
    }
    mask = str(config.get("gmask_token") or "[gMASK]")
    named = {*special.values(), mask, "[sMASK]"}
    core = as_written(model)
    if images:
        rows = [(f"<image_{number}>", FARTHEST) for number in range(images)]
        rows += [(piece.text, piece.score) for piece in model.pieces]
        core.model = models.Unigram(rows, images + model.unknown_id, model.byte_fallback)
    blanks = range(MOST_BLANKS, 1, -1)
    spelled = {"\n": NEWLINE, "\t": TAB, **{" " * count: f"<|blank_{count}|>" for count in blanks}}
    core.normalizer = normalizers.Sequence(
        [*(normalizers.Replace(text, piece) for text, piece in spelled.items()), core.normalizer]
    )
    symbols = [p.text for p in model.pieces if p.kind == USER_DEFINED and p.text not in named]
    apart = "|".join(map(re.escape, sorted({*symbols, *spelled.values()}, key=len, reverse=True)))
    steps = [pre_tokenizers.Split(Regex(apart), "isolated"), core.pre_tokenizer]
    core.pre_tokenizer = pre_tokenizers.Sequence([step for step in steps if step is not None])
    core.decoder = decoders.Sequence(
        [*(decoders.Replace(piece, text) for text, piece in spelled.items()), core.decoder]
    )
    core.add_tokens([
        AddedToken(piece.text, normalized=False, special=True)
        for piece in model.pieces if piece.kind in (CONTROL, UNKNOWN) or piece.text in named
    ])  # fmt: skip
    frame(core, [], [mask, special["bos"]])
    return core, special


def completed(data: bytes, path: Path) -> bytes:
    """ChatGLM's model file with the pieces that the code of its first version adds to it, if it has them not yet:
    marks of blanks, pieces for white space, and bytes for what is unknown."""
    model = SentencePieceModel.parse(data, path)
    if not spells_spaces(model) or any(piece.text == TAB for piece in model.pieces):
        return data
    spaces = (TAB, *(f"<|blank_{count}|>" for count in range(2, MOST_BLANKS + 1)))
    more = [Piece(text, 0.0, CONTROL) for text in GLM_PIECES] + [Piece(text, 0.0, USER_DEFINED) for text in spaces]
    return appended(data, [*more, *(Piece(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256))])


def python_source(folder: Path) -> str:
    """The Python files of a tokenizer as text, to look names up in; never run."""
    return "\n".join(path.read_text("utf-8", "replace") for path in sorted(folder.glob("tokenization_*.py")))
