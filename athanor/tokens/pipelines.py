"""What a tokenizer class of other models does around its vocabulary: normalise, cut, decode, and its special tokens.

vocab.json + merges.txt, vocab.txt and *.tiktoken hold a vocabulary only. How text is cut before it is a property of the
class that tokenizer_config.json or config.json names; these are the published ones. SentencePiece's: `spiece.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from athanor.base.errors import AthanorError
from athanor.tokens.sentencepiece import merges_by_rank

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

_BERT = (
    "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "ConvBertTokenizer",
    "SqueezeBertTokenizer", "LayoutLMTokenizer", "RetriBertTokenizer", "DPRQuestionEncoderTokenizer",
    "DPRContextEncoderTokenizer", "DPRReaderTokenizer", "bert", "bert-encoder", "distilbert", "electra", "ernie",
    "nezha", "chinese_clip", "convbert", "mobilebert", "megatron-bert", "nomic_bert", "layoutlm", "visual_bert", "vilt",
)  # fmt: skip
CLASSES = {  # a class that stands for another, or a model type without a tokenizer class
    "gpt2": "GPT2Tokenizer", "opt": "GPT2Tokenizer", "gptj": "GPT2Tokenizer", "gpt_neo": "GPT2Tokenizer",
    "openai-gpt": "OpenAIGPTTokenizer", "whisper": "WhisperTokenizer", "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "qwen3_moe": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer", "bart": "RobertaTokenizer", "BartTokenizer": "RobertaTokenizer",
    "longformer": "RobertaTokenizer", "LongformerTokenizer": "RobertaTokenizer", "LEDTokenizer": "RobertaTokenizer",
    "clip": "CLIPTokenizer", "clip_text_model": "CLIPTokenizer", "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer", "mixtral": "LlamaTokenizer",
    "chatglm": "ChatGLMTokenizer",
    "CodeLlamaTokenizer": "LlamaTokenizer", "t5": "T5Tokenizer", "mt5": "T5Tokenizer", "MT5Tokenizer": "T5Tokenizer",
    "umt5": "T5Tokenizer", "longt5": "T5Tokenizer", "switch_transformers": "T5Tokenizer", "gemma": "GemmaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer", "altclip": "XLMRobertaTokenizer", "albert": "AlbertTokenizer",
    "camembert": "CamembertTokenizer", "deberta-v2": "DebertaV2Tokenizer", "mbart": "MBartTokenizer",
    "pegasus": "PegasusTokenizer", "marian": "MarianTokenizer", "nllb-moe": "NllbTokenizer",
    "xlnet": "XLNetTokenizer", "m2m_100": "M2M100Tokenizer", **dict.fromkeys(_BERT, "BertTokenizer"),
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
    if name == "OpenAIGPTTokenizer":
        return _gpt1(vocabulary, merges)
    core = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    core.decoder = decoders.ByteLevel()
    prefix = bool(config.get("add_prefix_space") or False)
    if name in ("GPT2Tokenizer", "WhisperTokenizer"):
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
        allowed="GPT2Tokenizer, RobertaTokenizer, Qwen2Tokenizer, CLIPTokenizer, OpenAIGPTTokenizer or "
        "WhisperTokenizer; or a tokenizer.json",
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


def _gpt1(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Built:
    """GPT-1's BPE: lower case, cut as BERT cuts, the end of a word marked by </w> (Radford et al. 2018)."""
    core = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", end_of_word_suffix="</w>")
    )
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.BPEDecoder(suffix="</w>")
    return core, {"unk": "<unk>"}


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


def from_tiktoken(
    ranks: Mapping[bytes, int], letters: Mapping[int, str], pattern: str = CL100K, before: Sequence[str] = ()
) -> Built:
    """Files of byte ranks, as OpenAI and those after them write them: a word that is a token is taken whole.

    Args:
        ranks: bytes to id.
        letters: byte to GPT-2's printable letter.
        pattern: cuts text; that of cl100k_base (OpenAI, Llama 3, GLM-4) unless another is named.
        before: special tokens with the first ids, which move the ranks up (Mistral).
    """
    words = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
    vocabulary = {token: place for place, token in enumerate(before)}
    vocabulary |= {word: rank + len(before) for word, rank in words.items()}
    core = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges_by_rank(words), ignore_merges=True))
    core.pre_tokenizer = cut_by(pattern)
    core.decoder = decoders.ByteLevel()
    return core, {}


def add_frame(core: tokenizers.Tokenizer, name: str, config: Mapping[str, Any], special: Special) -> None:
    """What a class puts around a text for its model ([CLS] … [SEP]); our own `encode` never adds it."""
    before, after, between = [], [], None
    joined = name in ("NllbTokenizer", "MBartTokenizer", "MBart50Tokenizer", "PegasusTokenizer", "MarianTokenizer")
    if name in ("BertTokenizer", "AlbertTokenizer", "DebertaV2Tokenizer"):
        before, after = [special["cls"]], [special["sep"]]
    elif name in ("RobertaTokenizer", "XLMRobertaTokenizer", "CamembertTokenizer"):
        before, after = [special["cls"]], [special["sep"]]
        between = [*after, *after]
    elif name == "CLIPTokenizer":
        before, after = [special["bos"]], [special["eos"]]
        between = [*after, *after]
    elif name in ("T5Tokenizer", "PegasusTokenizer", "MarianTokenizer"):
        after = [special["eos"]]
    elif name == "XLNetTokenizer":
        after, between = [special["sep"], special["cls"]], [special["sep"]]
    elif name == "M2M100Tokenizer":
        before, after = [f"__{config.get('src_lang') or 'en'}__"], [special["eos"]]
    elif name == "MBart50Tokenizer" or (name == "NllbTokenizer" and not config.get("legacy_behaviour")):
        usual = "en_XX" if name == "MBart50Tokenizer" else "eng_Latn"
        before, after = [str(config.get("src_lang") or usual)], [special["eos"]]
    elif name in ("MBartTokenizer", "NllbTokenizer"):
        usual = "en_XX" if name == "MBartTokenizer" else "eng_Latn"
        after = [special["eos"], str(config.get("src_lang") or usual)]
    else:
        before = [special["bos"]] if config.get("add_bos_token") and "bos" in special else []
        after = [special["eos"]] if config.get("add_eos_token") and "eos" in special else []
        between = [*after, *before]
    if before or after:
        frame(core, before, after, [] if joined else between)


def frame(
    core: tokenizers.Tokenizer, before: list[str], after: list[str], between: Sequence[str] | None = None
) -> None:
    """Put tokens before and after a text.

    Args:
        between: what stands between the texts of a pair; None: those after a text.

    Raises:
        AthanorError: the vocabulary has none of these, such as a language that src_lang names.
    """
    inner = after if between is None else between
    missing = [token for token in (*before, *after, *inner) if core.token_to_id(token) is None]
    if missing:
        raise AthanorError(f"a text stands between {', '.join([*before, *after])}, but there is no token {missing[0]}",
                           fix="name another src_lang in tokenizer_config.json")  # fmt: skip
    core.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *inner, "$B:1", *[f"{token}:1" for token in after]],
        special_tokens=[(token, core.token_to_id(token)) for token in {*before, *after, *inner}],
    )


def token_name(config: Mapping[str, Any], name: str) -> str | None:
    """The spelling of a named special token ("bos", "eos", …) in a configuration, if it has one."""
    value = config.get(f"{name}_token")
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) and value else None
