"""What a tokenizer class of other models does around its vocabulary: normalise, cut, decode, and its special tokens.

vocab.json + merges.txt, vocab.txt, spiece.model and *.tiktoken hold a vocabulary only. How text is cut before it is a
property of the class that tokenizer_config.json or config.json names; these are the published ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from athanor.base.errors import AthanorError
from athanor.tokens.sentencepiece import BPE, CONTROL, SPACE, USER_DEFINED, SentencePieceModel, merges_by_rank

Special = dict[str, str]  # "bos", "eos", … to the token's spelling
Built = tuple[tokenizers.Tokenizer, Special]

# How our own tokenizers cut text before merging, after GPT-4's pattern ("cl100k_base"), with digits one by one so that
# arithmetic is learnable, runs of spaces kept whole for code, and Chinese characters cut into runs by the letter class.
PIECES = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = _WORDS + r"\p{N}{1,3}" + _REST  # OpenAI's cl100k_base as Llama 3 writes it
QWEN2 = _WORDS + r"\p{N}" + _REST
CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
SENTINELS = 100  # T5's <extra_id_0> … when the configuration names no other number

CLASSES = {  # a class that stands for another, or a model type without a tokenizer class
    "gpt2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "roberta": "RobertaTokenizer",
    "bart": "RobertaTokenizer", "BartTokenizer": "RobertaTokenizer", "clip": "CLIPTokenizer",
    "clip_text_model": "CLIPTokenizer", "bert": "BertTokenizer", "DistilBertTokenizer": "BertTokenizer",
    "ElectraTokenizer": "BertTokenizer", "distilbert": "BertTokenizer", "electra": "BertTokenizer",
    "llama": "LlamaTokenizer", "CodeLlamaTokenizer": "LlamaTokenizer", "t5": "T5Tokenizer", "gemma": "GemmaTokenizer",
}  # fmt: skip


def cut_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Cut text by a pattern, then write its bytes as GPT-2's letters."""
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip


def from_merges(
    name: str, vocabulary: dict[str, int], merges: list[tuple[str, str]], config: Mapping[str, Any]
) -> Built:
    """A byte-level BPE of a published class, from vocab.json and merges.txt.

    Raises:
        AthanorError: the class is none that we know; guessing how it cuts text would give wrong ids.
    """
    if name == "CLIPTokenizer":
        return _clip(vocabulary, merges)
    core = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    core.decoder = decoders.ByteLevel()
    prefix = bool(config.get("add_prefix_space") or False)
    if name == "GPT2Tokenizer":
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        return core, {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}
    if name == "RobertaTokenizer":
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
        special = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"}
        return core, special | {"mask": "<mask>"}
    if name == "Qwen2Tokenizer":
        core.normalizer = normalizers.NFC()
        core.pre_tokenizer = cut_by(QWEN2)
        return core, {"eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"}
    raise AthanorError(
        f"vocab.json and merges.txt do not say how text is cut, and the tokenizer class is {name or 'not named'}",
        allowed="GPT2Tokenizer, RobertaTokenizer, Qwen2Tokenizer or CLIPTokenizer; or a tokenizer.json",
        fix="save the tokenizer with `save_pretrained` of transformers, which writes tokenizer.json",
    )


def _clip(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Built:
    """CLIP's BPE: lower case, spaces dropped, the end of a word marked by </w> (Radford et al. 2021, section 2.4)."""
    end = "<|endoftext|>"
    model = models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token=end)
    core = tokenizers.Tokenizer(model)
    core.normalizer = normalizers.Sequence([
        normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase(),
    ])  # fmt: skip
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(CLIP), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    core.decoder = decoders.ByteLevel()
    return core, {"bos": "<|startoftext|>", "eos": end, "unk": end, "pad": end}


def from_words(name: str, words: Sequence[str], config: Mapping[str, Any]) -> Built:
    """BERT's WordPiece from vocab.txt (Devlin et al. 2019)."""
    if name not in ("", "BertTokenizer"):
        raise AthanorError(
            f"vocab.txt belongs to BERT's tokenizer, but the tokenizer class is {name}",
            fix="save the tokenizer with `save_pretrained` of transformers, which writes tokenizer.json",
        )
    special = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    vocabulary = {word: index for index, word in enumerate(words)}
    unknown = token_name(config, "unk") or special["unk"]
    if unknown not in vocabulary:
        raise AthanorError(f"vocab.txt has no word {unknown}, which stands for unknown ones", fix="copy it again")
    core = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    core.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"), lowercase=config.get("do_lower_case", True),
    )  # fmt: skip
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##")
    return core, special


def from_tiktoken(ranks: Mapping[bytes, int], letters: Mapping[int, str]) -> Built:
    """OpenAI's and Llama 3's files of byte ranks, cut by the pattern of cl100k_base.

    Args:
        ranks: bytes to id.
        letters: byte to GPT-2's printable letter.
    """
    vocabulary = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
    core = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges_by_rank(vocabulary), ignore_merges=True))
    core.pre_tokenizer = cut_by(CL100K)
    core.decoder = decoders.ByteLevel()
    return core, {}


def from_sentencepiece(name: str, model: SentencePieceModel, config: Mapping[str, Any]) -> Built:
    """A SentencePiece model as the class that the folder names would run it; without a class, as its own file says.

    Raises:
        AthanorError: the class rearranges the ids in a way we do not know.
    """
    marked = [(piece.text, piece.kind) for piece in model.pieces if piece.kind in (CONTROL, USER_DEFINED)]
    if name == "LlamaTokenizer":
        core = _llama(model, config)
        special = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
    elif name == "T5Tokenizer":
        sentinels = [f"<extra_id_{number}>" for number in range(int(config.get("extra_ids", SENTINELS)))]
        core = _t5(model, sentinels)
        marked += [(token, CONTROL) for token in sentinels]
        special = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
    elif name == "GemmaTokenizer":
        core = _gemma(model)
        special = {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    elif not name:
        core, special = _as_written(model), dict(model.names)
    else:
        raise AthanorError(
            f"a SentencePiece model of the class {name}",
            allowed="LlamaTokenizer, T5Tokenizer, GemmaTokenizer, or no class: as the file itself says",
            fix="save the tokenizer with `save_pretrained` of transformers, which writes tokenizer.json",
        )
    core.add_tokens([
        tokenizers.AddedToken(text, normalized=False, special=kind == CONTROL) for text, kind in marked
    ])  # fmt: skip
    return core, special


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


def _t5(model: SentencePieceModel, sentinels: Sequence[str]) -> tokenizers.Tokenizer:
    """T5's: the sentinels' ids run backwards behind the pieces (Raffel et al. 2020)."""
    core = _unigram(model, list(reversed(sentinels)))
    if model.characters:
        core.normalizer = normalizers.Precompiled(model.characters)
    core.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True),
    ])  # fmt: skip
    core.decoder = decoders.Metaspace(SPACE, prepend_scheme="always", split=True)
    return core


def _gemma(model: SentencePieceModel) -> tokenizers.Tokenizer:
    core = _bpe(model, "<unk>", True)
    core.normalizer = normalizers.Replace(" ", SPACE)
    core.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return core


def _as_written(model: SentencePieceModel) -> tokenizers.Tokenizer:
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


def add_frame(core: tokenizers.Tokenizer, name: str, config: Mapping[str, Any], special: Special) -> None:
    """What a class puts around a text for its model ([CLS] … [SEP]); our own `encode` never adds it."""
    before, after = [], []
    if name in ("BertTokenizer", "RobertaTokenizer"):
        before, after = [special["cls"]], [special["sep"]]
    elif name == "CLIPTokenizer":
        before, after = [special["bos"]], [special["eos"]]
    elif name == "T5Tokenizer":
        after = [special["eos"]]
    else:
        before = [special["bos"]] if config.get("add_bos_token") and "bos" in special else []
        after = [special["eos"]] if config.get("add_eos_token") and "eos" in special else []
    if before or after:
        core.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after], pair=[*before, "$A", *after, "$B:1", *[f"{token}:1" for token in after]],
            special_tokens=[(token, core.token_to_id(token)) for token in {*before, *after}],
        )  # fmt: skip


def token_name(config: Mapping[str, Any], name: str) -> str | None:
    """The spelling of a named special token ("bos", "eos", …) in a configuration, if it has one."""
    value = config.get(f"{name}_token")
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) and value else None
