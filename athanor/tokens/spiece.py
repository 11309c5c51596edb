"""What a tokenizer class of other models does around a SentencePiece model: order of ids, spaces, cutting, decoding.

The file says how SentencePiece itself would run it (`as_written`); the classes of `transformers` below run it in ways
of their own, which are the ones their models are used with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from athanor.base.errors import AthanorError
from athanor.tokens.pipelines import Built, Special
from athanor.tokens.sentencepiece import BPE, CONTROL, SPACE, UNIGRAM, USER_DEFINED, SentencePieceModel

SENTINELS = 100  # T5's <extra_id_0> … when the configuration names no other number
PARTS = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
XLM_ROBERTA = {**PARTS, "sep": "</s>", "cls": "<s>", "mask": "<mask>"}
XLNET = {**PARTS, "sep": "<sep>", "cls": "<cls>", "mask": "<mask>"}
ALBERT = {**PARTS, "bos": "[CLS]", "eos": "[SEP]", "sep": "[SEP]", "cls": "[CLS]", "mask": "[MASK]"}
# What M2M-100 translates between (Fan et al. 2020), in the order of their ids behind the vocabulary; and WMT 2021's.
M2M100 = (
    "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht hu "
    "hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt "
    "ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu"
)
LANGUAGES = {"m2m100": M2M100.split(), "wmt21": "en ha is ja cs ru zh de".split()}
CLASSES = (
    "LlamaTokenizer", "T5Tokenizer", "GemmaTokenizer", "XLMRobertaTokenizer", "AlbertTokenizer", "XLNetTokenizer",
    "M2M100Tokenizer",
)  # fmt: skip


def from_sentencepiece(
    name: str, model: SentencePieceModel, config: Mapping[str, Any], vocabulary: Mapping[str, int] | None = None
) -> Built:
    """A SentencePiece model as the class that the folder names would run it; without a class, as its own file says.

    Args:
        vocabulary: ids of the pieces where a vocab.json beside the model gives others (M2M-100).

    Raises:
        AthanorError: the class is none that we know, or the model is none of the class.
    """
    special: Special
    marked = [(piece.text, piece.kind == CONTROL) for piece in model.pieces if piece.kind in (CONTROL, USER_DEFINED)]
    if name == "LlamaTokenizer":
        core, special = _llama(model, config), {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
    elif name == "T5Tokenizer":
        sentinels = [f"<extra_id_{number}>" for number in range(int(config.get("extra_ids", SENTINELS)))]
        core, special = _t5(model, sentinels), {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
        marked += [(token, True) for token in sentinels]
    elif name == "GemmaTokenizer":
        core, special = (
            _gemma(model),
            {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"},
        )
    elif name == "XLMRobertaTokenizer":
        core, special = _xlm_roberta(model), dict(XLM_ROBERTA)
    elif name in ("AlbertTokenizer", "XLNetTokenizer"):
        core, special = _cleaned(name, model, config), dict(ALBERT if name == "AlbertTokenizer" else XLNET)
    elif name == "M2M100Tokenizer":
        core, special = _m2m100(model, vocabulary or {}), {**PARTS, "sep": "</s>"}
        marked = [(f"__{code}__", True) for code in LANGUAGES[str(config.get("language_codes") or "m2m100")]]
    elif not name:
        core, special = as_written(model), dict(model.names)
    else:
        raise AthanorError(
            f"a SentencePiece model of the class {name}",
            allowed=", ".join(CLASSES) + ", or no class: as the file itself says",
            fix="save the tokenizer with `save_pretrained` of transformers, which writes tokenizer.json",
        )
    core.add_tokens([AddedToken(text, normalized=False, special=control) for text, control in marked])
    return core, special


# ----------------------------------------------------------------------------------------------------------- as written


def as_written(model: SentencePieceModel) -> tokenizers.Tokenizer:
    """Normalise and cut as the file's own NormalizerSpec says."""
    if model.kind == BPE:
        core = _bpe(model, model.pieces[model.unknown_id].text, model.byte_fallback)
    else:
        core = _unigram(model, byte_fallback=model.byte_fallback)
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


def _bpe(model: SentencePieceModel, unknown: str | None, byte_fallback: bool) -> tokenizers.Tokenizer:
    vocabulary = {piece.text: index for index, piece in enumerate(model.pieces)}
    return tokenizers.Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=model.merges(), unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback
        )
    )


def _unigram(model: SentencePieceModel, more: Sequence[str] = (), byte_fallback: bool = False) -> tokenizers.Tokenizer:
    pieces = [(piece.text, piece.score) for piece in model.pieces] + [(text, 0.0) for text in more]
    return tokenizers.Tokenizer(models.Unigram(pieces, model.unknown_id, byte_fallback))


# ----------------------------------------------------------------------------------------------------- the classes, BPE


def _llama(model: SentencePieceModel, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    core = _bpe(model, None, True)
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


def _gemma(model: SentencePieceModel) -> tokenizers.Tokenizer:
    core = _bpe(model, "<unk>", True)
    core.normalizer = normalizers.Replace(" ", SPACE)
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return core


def _m2m100(model: SentencePieceModel, vocabulary: Mapping[str, int]) -> tokenizers.Tokenizer:
    """M2M-100's: SentencePiece cuts, vocab.json gives the ids, and a token for each language stands behind them."""
    named = [piece.text for piece in model.pieces if piece.kind not in (CONTROL,)]
    missing = [text for text in named if text not in vocabulary] if vocabulary else named
    if missing or model.kind != BPE or set(PARTS.values()) - set(vocabulary):
        what = f"{missing[0]!r} has no id" if missing and vocabulary else "it gives no ids to pieces of BPE"
        raise AthanorError(f"vocab.json does not fit the SentencePiece model of M2M100Tokenizer: {what}",
                           fix="copy vocab.json and sentencepiece.bpe.model of one model")  # fmt: skip
    core = as_written(model)
    core.model = models.BPE(vocab=dict(vocabulary), merges=model.merges(), unk_token="<unk>", fuse_unk=True)
    return core


# ------------------------------------------------------------------------------------------------- the classes, unigram


def _words(core: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Cut at white space, with a space in front of each word."""
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True),
    ])  # fmt: skip
    core.decoder = decoders.Metaspace(SPACE, prepend_scheme="always", split=True)
    return core


def _check_unigram(name: str, model: SentencePieceModel) -> None:
    if model.kind != UNIGRAM:
        raise AthanorError(f"the SentencePiece model of {name} is one of BPE", allowed="a unigram model")


def _t5(model: SentencePieceModel, sentinels: Sequence[str]) -> tokenizers.Tokenizer:
    """T5's: the sentinels' ids run backwards behind the pieces (Raffel et al. 2020)."""
    _check_unigram("T5Tokenizer", model)
    core = _unigram(model, list(reversed(sentinels)))
    if model.characters:
        core.normalizer = normalizers.Precompiled(model.characters)
    return _words(core)


def _xlm_roberta(model: SentencePieceModel) -> tokenizers.Tokenizer:
    """XLM-R's: fairseq's four special tokens where the file has three, and <mask> last (Conneau et al. 2020)."""
    _check_unigram("XLMRobertaTokenizer", model)
    pieces = [(text, 0.0) for text in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces += [(piece.text, piece.score) for piece in model.pieces[3:]] + [("<mask>", 0.0)]
    core = tokenizers.Tokenizer(models.Unigram(pieces, 3, False))
    if model.characters:
        core.normalizer = normalizers.Precompiled(model.characters)
    return _words(core)


def _cleaned(name: str, model: SentencePieceModel, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """ALBERT's and XLNet's: quotes made plain, accents dropped, ALBERT's in lower case (Lan et al. 2020)."""
    _check_unigram(name, model)
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
    return _words(core)
