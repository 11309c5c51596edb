"""A SentencePiece model as the class runs it that a folder names: the table from classes to what they do."""

from collections.abc import Callable, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken

from athanor.base.errors import AthanorError
from athanor.tokens import fairseq, marian, spiece
from athanor.tokens.pipelines import Built, Special
from athanor.tokens.sentencepiece import CONTROL, USER_DEFINED, SentencePieceModel

Ids = Mapping[str, int]
Builder = Callable[[SentencePieceModel, Mapping[str, Any], Ids], tokenizers.Tokenizer]

CLASSES: dict[str, tuple[Builder, Special]] = {
    "LlamaTokenizer": (lambda model, config, _: spiece.llama(model, config), spiece.LLAMA),
    "T5Tokenizer": (lambda model, config, _: spiece.t5(model, config), spiece.T5),
    "GemmaTokenizer": (lambda model, *_: spiece.gemma(model), spiece.GEMMA),
    "AlbertTokenizer": (lambda model, config, _: spiece.cleaned("AlbertTokenizer", model, config), spiece.ALBERT),
    "XLNetTokenizer": (lambda model, config, _: spiece.cleaned("XLNetTokenizer", model, config), spiece.XLNET),
    "DebertaV2Tokenizer": (lambda model, config, _: spiece.deberta(model, config), spiece.DEBERTA),
    "PegasusTokenizer": (lambda model, config, _: spiece.pegasus(model, config), spiece.PEGASUS),
    "XLMRobertaTokenizer": (lambda model, *_: fairseq.xlm_roberta(model), fairseq.XLM_ROBERTA),
    "CamembertTokenizer": (lambda model, *_: fairseq.camembert(model), fairseq.XLM_ROBERTA),
    "MBartTokenizer": (lambda model, *_: fairseq.mbart(model), fairseq.XLM_ROBERTA),
    "MBart50Tokenizer": (lambda model, *_: fairseq.mbart50(model), fairseq.MBART50),
    "NllbTokenizer": (lambda model, config, _: fairseq.nllb(model, config), fairseq.XLM_ROBERTA),
    "M2M100Tokenizer": (fairseq.m2m100, fairseq.M2M100_NAMES),
    "MarianTokenizer": (marian.from_source, marian.NAMES),
}


def from_sentencepiece(
    name: str, model: SentencePieceModel, config: Mapping[str, Any], ids: Ids | None = None
) -> Built:
    """A SentencePiece model as the class that the folder names would run it; without a class, as its own file says.

    Args:
        ids: of the pieces where a vocab.json beside the model gives others (M2M-100, Marian).

    Raises:
        AthanorError: the class is none that we know, or the model is none of the class.
    """
    if name and name not in CLASSES:
        raise AthanorError(
            f"a SentencePiece model of the class {name}",
            allowed=", ".join(CLASSES) + ", or no class: as the file itself says",
            fix="save the tokenizer with `save_pretrained` of transformers, which writes tokenizer.json",
        )
    if name:
        build, special = CLASSES[name]
        core = build(model, config, ids or {})
    else:
        core, special = spiece.as_written(model), dict(model.names)
    core.add_tokens([
        AddedToken(piece.text, normalized=False, special=piece.kind == CONTROL) for piece in model.pieces
        if piece.kind in (CONTROL, USER_DEFINED) and core.token_to_id(piece.text) is not None
    ])  # fmt: skip
    return core, dict(special)
