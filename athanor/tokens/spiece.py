"""What a tokenizer class of other models does around a SentencePiece model: order of ids, spaces, cutting, decoding.

The file says how SentencePiece itself would run it (`as_written`); the classes of `transformers` below run it in ways
of their own, which are the ones their models are used with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from athanor.base.errors import AthanorError
from athanor.tokens.pipelines import token_name
from athanor.tokens.sentencepiece import BPE, SPACE, UNIGRAM, SentencePieceModel

SENTINELS = 100  # T5's <extra_id_0> … when the configuration names no other number
PEGASUS_UNKNOWN = 103  # ids of Pegasus that stand before its pieces, all of pretraining (Zhang et al. 2020)
T5 = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
LLAMA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
PARTS = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
XLNET = {**PARTS, "sep": "<sep>", "cls": "<cls>", "mask": "<mask>"}
ALBERT = {**PARTS, "bos": "[CLS]", "eos": "[SEP]", "sep": "[SEP]", "cls": "[CLS]", "mask": "[MASK]"}
PEGASUS = {**T5, "mask": "<mask_2>"}
GEMMA = {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
DEBERTA = {**ALBERT, "unk": "[UNK]", "pad": "[PAD]"}


# ----------------------------------------------------------------------------------------------------------- as written


def as_written(model: SentencePieceModel) -> tokenizers.Tokenizer:
    """Normalise and cut as the file's own NormalizerSpec says."""
    if model.kind == BPE:
        core = bpe_core(model, model.pieces[model.unknown_id].text, model.byte_fallback)
    else:
        core = unigram_core(model, byte_fallback=model.byte_fallback)
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(model.characters)] if model.characters else []
    if model.trim:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    core.normalizer = normalizers.Sequence(steps)
    inner = any(SPACE in piece.text[1:] for piece in model.pieces)
    core.pre_tokenizer = None if inner else pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=True)
    tail = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*tail, decoders.Strip(" ", 1, 0)] if model.dummy_prefix else tail)
    return core


def bpe_core(model: SentencePieceModel, unknown: str | None, byte_fallback: bool) -> tokenizers.Tokenizer:
    """A model of BPE whose ids are the places in the file."""
    vocabulary = {piece.text: index for index, piece in enumerate(model.pieces)}
    return tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=model.merges(), unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback
        )
    )


def unigram_core(
    model: SentencePieceModel, more: Sequence[str] = (), byte_fallback: bool = False
) -> tokenizers.Tokenizer:
    """A model of unigrams whose ids are the places in the file; `more` tokens stand behind them."""
    pieces = [(piece.text, piece.score) for piece in model.pieces] + [(text, 0.0) for text in more]
    return tokenizers.Tokenizer(models.Unigram(pieces, model.unknown_id, byte_fallback))


# ----------------------------------------------------------------------------------------------------- the classes, BPE


def llama(model: SentencePieceModel, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """LLaMA's: BPE with bytes for what is unknown."""
    core = bpe_core(model, None, True)
    llama_spaces(core, config)
    return core


def llama_spaces(core: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Give a tokenizer LlamaTokenizer's treatment of spaces, as transformers 5 does whatever tokenizer.json says.

    A space is put in front of the text unless one is there; after a special token only if the configuration has
    `legacy: true`. (SentencePiece itself would put it in front of a leading space too.)
    """
    prefix = config.get("add_prefix_space")
    prefix = True if prefix is None else bool(prefix)
    scheme = ("always" if config.get("legacy") else "first") if prefix else "never"
    core.normalizer = None
    core.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)


def gemma(model: SentencePieceModel) -> tokenizers.Tokenizer:
    """Gemma's: BPE with bytes for what is unknown, no space in front."""
    core = bpe_core(model, "<unk>", True)
    core.normalizer = normalizers.Replace(" ", SPACE)
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return core


# ------------------------------------------------------------------------------------------------- the classes, unigram


def by_words(core: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Cut at white space, with a space in front of each word."""
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True),
    ])  # fmt: skip
    core.decoder = decoders.Metaspace(SPACE, prepend_scheme="always", split=True)
    return core


def check_unigram(name: str, model: SentencePieceModel) -> None:
    """Refuse a model of BPE under a class that runs unigrams."""
    if model.kind != UNIGRAM:
        raise AthanorError(f"the SentencePiece model of {name} is one of BPE", allowed="a unigram model")


def t5(model: SentencePieceModel, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """T5's: the sentinels' ids run backwards behind the pieces (Raffel et al. 2020)."""
    check_unigram("T5Tokenizer", model)
    sentinels = [f"<extra_id_{number}>" for number in range(int(config.get("extra_ids", SENTINELS)))]
    core = unigram_core(model, list(reversed(sentinels)))
    if model.characters:
        core.normalizer = normalizers.Precompiled(model.characters)
    core.add_special_tokens([AddedToken(token, normalized=False) for token in sentinels])
    return by_words(core)


def cleaned(name: str, model: SentencePieceModel, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """ALBERT's and XLNet's: quotes made plain, accents dropped, ALBERT's in lower case (Lan et al. 2020)."""
    check_unigram(name, model)
    albert = name == "AlbertTokenizer"
    core = tokenizers.Tokenizer(models.Unigram(
        [(piece.text, piece.score) for piece in model.pieces], 1 if albert else model.unknown_id, False
    ))  # fmt: skip
    steps: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not (albert and config.get("keep_accents", False)):  # XLNet's of transformers 5 drops them always
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if config.get("do_lower_case", albert):
        steps.append(normalizers.Lowercase())
    if model.characters:
        steps.append(normalizers.Precompiled(model.characters))
    core.normalizer = normalizers.Sequence(steps)
    return by_words(core)


def deberta(model: SentencePieceModel, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """DeBERTa-v2's and -v3's (He et al. 2021): its table of characters is not used, as transformers 5 does."""
    check_unigram("DebertaV2Tokenizer", model)
    core = unigram_core(model)
    steps: list[normalizers.Normalizer] = [
        normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(), normalizers.Strip(False, True)
    ]  # fmt: skip
    core.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps] if config.get("do_lower_case") else steps)
    core.decoder = spaced_words(core, apart=bool(config.get("split_by_punct")))
    return core


def pegasus(model: SentencePieceModel, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Pegasus's: two masks and 101 unused ids stand between the file's first two pieces and the others.

    As published, <mask_1> (of sentences) stands before <mask_2> (of words); transformers 5 turns them round where the
    configuration names them.
    """
    check_unigram("PegasusTokenizer", model)
    masks = [str(config.get("mask_token_sent") or "<mask_1>"), token_name(config, "mask") or "<mask_2>"]
    unknown = [f"<unk_{number}>" for number in range(2, int(config.get("offset", PEGASUS_UNKNOWN)))]
    pieces = [(piece.text, piece.score) for piece in model.pieces]
    rows = [*pieces[:2], *((text, 0.0) for text in masks), *((text, -100.0) for text in unknown), *pieces[2:]]
    place = next((place for place, (text, _) in enumerate(rows) if text == "<unk>"), None)
    core = tokenizers.Tokenizer(models.Unigram(rows, place, False))
    core.normalizer = characters(model)
    core.decoder = spaced_words(core)
    core.add_special_tokens([AddedToken(text, normalized=False) for text in (*masks, *unknown)])
    return core


def characters(model: SentencePieceModel) -> normalizers.Normalizer:
    """The file's table of characters, then runs of spaces made one."""
    steps = [normalizers.Precompiled(model.characters)] if model.characters else [normalizers.Replace("\n", " ")]
    return normalizers.Sequence([*steps, normalizers.Replace(Regex(" {2,}"), " ")])


def spaced_words(core: tokenizers.Tokenizer, apart: bool = False) -> decoders.Decoder:
    """Cut at spaces, one put in front (`apart`: at punctuation too); what turns the pieces into text again."""
    cut = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True)
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Punctuation("isolated"), cut]) if apart else cut
    return decoders.Metaspace(SPACE, prepend_scheme="always", split=True)
