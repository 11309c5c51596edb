"""The tokenizer of a GGUF file: what llama.cpp computes exactly is written, everything else refused by name.

Keys as llama.cpp reads them (`src/llama-vocab.cpp`) and its converter writes them (`conversion/`).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from athanor.base.errors import AthanorError
from athanor.inference import gguf_pieces, gguf_unigram
from athanor.inference.gguf_pieces import KIND as PIECES_KIND
from athanor.inference.gguf_pieces import is_pieces, named_differences, pieces_values, read_pieces
from athanor.tokens.chat import check_vocabulary, completion_start, end_ids, jinja_of, open_template, stored_ends
from athanor.tokens.letters import BYTE_TO_LETTER
from athanor.tokens.pipelines import CL100K
from athanor.tokens.tokenizer import DOCUMENT, END, PIECES, Tokenizer

# llama.cpp cuts text before merging by the law that `tokenizer.ggml.pre` names. Our pattern and Qwen's, which it calls
# "qwen2", cut alike: \s*[\r\n] and \s*[\r\n]+ both end at the last line end of a run of white space. What is left are
# two differences, found by comparing every character of Unicode (docs/design/003-export.md); text without them has
# the same ids.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
GPT2, LLAMA3 = "gpt-2", "llama-bpe"  # GPT-2's pattern is within the ByteLevel of `tokenizers`
PRE = {PIECES: "qwen2", QWEN2: "qwen2", CL100K: LLAMA3}
# BLOOM's pattern and Cohere's digits one by one, each as its tokenizer.json writes it, and llama.cpp's names.
WORDS = " ?[^(\\s|[.,!?…。，、।۔،])]+"
BLOOM, COHERE = "bloom", "command-r"
NEW_LETTERS = (
    "letters and digits that Unicode 16 added (2024: 4,302 and 80, in scripts such as Garay and Todhri), which "
    "llama.cpp takes for signs"
)
OLD_S = "an apostrophe before the old letter ſ (U+017F)"
NOT_NFC = "text that is not in Unicode's form NFC, such as accents apart from their letters, which llama.cpp leaves so"
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # `enum llama_token_type`


def tokenizer_values(folder: Path, vocabulary: int | None) -> dict[str, Any]:
    """The `tokenizer.` keys for a folder's tokenizer files.

    Args:
        vocabulary: token ids of the model; where its embedding is padded, tokens that mean nothing fill the rest.

    Raises:
        AthanorError: the tokenizer does something that llama.cpp's byte-level BPE would not do, or is another model's.
    """
    tokenizer = Tokenizer.load(folder)
    check_vocabulary(tokenizer, vocabulary, folder)
    saved, jinja = json.loads(tokenizer.core.to_str()), jinja_of(tokenizer)
    roles = {
        **{f"tokenizer.ggml.{name}_token_id": index for name, index in special_ids(tokenizer, folder).items()},
        "tokenizer.ggml.add_bos_token": adds_beginning(tokenizer, folder), "tokenizer.ggml.add_eos_token": False,
        **({} if jinja is None else {"tokenizer.chat_template": jinja}),
    }  # fmt: skip
    if gguf_unigram.is_unigram(tokenizer):
        count = 1 + max(tokenizer.core.get_vocab().values())
        return gguf_unigram.unigram_values(tokenizer, max(vocabulary or 0, count)) | roles
    if is_pieces(saved):
        count = 1 + max(tokenizer.core.get_vocab().values())
        return pieces_values(tokenizer, saved, max(vocabulary or 0, count)) | roles
    refuse_others(saved, folder)
    core, pre = saved["model"], pre_name(saved.get("pre_tokenizer"), folder)
    if bool(core.get("ignore_merges")) != (pre == LLAMA3):  # llama.cpp looks whole words up for this law only
        refuse(folder, f"ignore_merges={core.get('ignore_merges')} with the pattern {pre}")
    tokens = [f"[PAD{index}]" for index in range(vocabulary or 0)]
    types = [UNUSED] * len(tokens)
    for token, index in core["vocab"].items():
        tokens[index], types[index] = token, NORMAL
    for added in saved.get("added_tokens", ()):
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else pair for pair in core["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in pairs],
        **roles,
    }  # fmt: skip


def refuse_others(saved: Mapping[str, Any], folder: Path) -> None:
    """Refuse what llama.cpp's byte-level BPE has no key for."""
    core, normalizer = saved["model"], saved.get("normalizer")
    if core.get("type") != "BPE":
        refuse(folder, str(core.get("type")))
    keys = ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"]
    if not set(BYTE_TO_LETTER.values()) <= set(core["vocab"]):
        keys.append("unk_token")  # with every byte in the vocabulary nothing is unknown
    wrong = next((f"{key}={core[key]!r}" for key in keys if core.get(key)), None)
    if wrong:
        refuse(folder, wrong)
    if normalizer is not None and normalizer != {"type": "NFC"}:
        refuse(folder, f"its normalizer {json.dumps(normalizer)[:80]}")
    for added in saved.get("added_tokens", ()):
        flag = next((name for name in ("lstrip", "rstrip", "single_word") if added.get(name)), None)
        if flag:
            refuse(folder, f"{flag} of its token {added['content']}")


def refuse(folder: Path, what: str) -> NoReturn:
    """Say what llama.cpp would do otherwise."""
    raise AthanorError(
        f"{folder}/tokenizer.json: llama.cpp has no tokenizer like this ({what})",
        allowed="byte-level BPE, without a normalizer or with NFC; or SentencePiece's BPE as LLaMA has it, "
        "or its unigrams as T5 has them",
        fix="athanor export --to hf",
    )  # fmt: skip


def special_ids(tokenizer: Tokenizer, folder: Path) -> dict[str, int]:
    """What llama.cpp must know by role; what is not said, it takes from GPT-2, where other tokens have those ids."""
    special = tokenizer.special
    if tokenizer.native:
        return {"bos": special[DOCUMENT], "eos": special[END], "eot": special[END], "padding": special[END]}
    stored = stored_ends(folder)
    ends = end_ids(tokenizer, open_template(tokenizer, stored), stored)
    if not ends:
        refuse(folder, "no token that ends a text: tokenizer_config.json names no eos_token")
    end = ends[0] if tokenizer.eos is None else special[tokenizer.eos]
    beginning = end if tokenizer.bos is None else special[tokenizer.bos]
    return {
        "bos": beginning, "eos": end, "eot": ends[0],
        **({} if tokenizer.pad is None else {"padding": special[tokenizer.pad]}),
    }  # fmt: skip


def adds_beginning(tokenizer: Tokenizer, folder: Path) -> bool:
    """Whether the token that begins a text is put before every text."""
    if tokenizer.native:
        return False
    start = completion_start(tokenizer)
    if (
        len(start) > 1 and tokenizer.bos not in start
    ):  # GLM's [gMASK] sop: `differences` says that they are not put there
        return False
    framed = tokenizer.core.encode("a").ids != [*start, *tokenizer.encode("a")]
    if framed or (start and (tokenizer.bos is None or start != [tokenizer.special[tokenizer.bos]])):
        refuse(folder, "it adds other tokens than one that begins the text")
    return bool(start)


def pre_name(told: Any, folder: Path) -> str:
    """What llama.cpp calls the way this tokenizer cuts text."""
    if _plain(told) == _plain(json.loads(pre_tokenizers.ByteLevel(add_prefix_space=False).__getstate__())):
        return GPT2
    for pattern, name in PRE.items():
        if _plain(told) == _plain(json.loads(pre_tokenizer(pattern).__getstate__())):
            return name
    for name, known in {BLOOM: pre_tokenizer(WORDS), COHERE: cohere_digits()}.items():
        if _plain(told) == _plain(json.loads(known.__getstate__())):
            return name
    raise AthanorError(
        f"{folder}/tokenizer.json cuts text in a way that no pre-tokenizer of llama.cpp is known to equal: "
        "its token ids would differ, and so would every answer",
        allowed="the pattern of `athanor run`, of GPT-2, Qwen2, Llama 3, BLOOM or Cohere", fix="athanor export --to hf",
    )  # fmt: skip


def _plain(told: Any) -> Any:
    """A pre-tokenizer's settings without the one that concerns offsets only."""
    if isinstance(told, dict):
        return {key: _plain(value) for key, value in told.items() if key != "trim_offsets"}
    return [_plain(one) for one in told] if isinstance(told, list) else told


def pre_tokenizer(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Text cut by a pattern, then spelled in GPT-2's letters for bytes."""
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip


def cohere_digits() -> pre_tokenizers.PreTokenizer:
    """Digits one by one, then GPT-2's pattern."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def differences(tokenizer: Tokenizer, values: Mapping[str, Any]) -> str:
    """The text whose token ids are known to differ in llama.cpp."""
    start = completion_start(tokenizer)
    unput = [f"a text without {''.join(spelled(tokenizer, start))} before it, which llama.cpp does not put there"]
    unput = unput if len(start) > 1 else []
    if values["tokenizer.ggml.model"] == gguf_unigram.KIND:
        return "; ".join([gguf_unigram.ENDING, *unput, "no other text"])
    if values["tokenizer.ggml.model"] == PIECES_KIND:
        return "; ".join([*named_differences(tokenizer), *unput, "no other text"])
    named = unput if values["tokenizer.ggml.pre"] == BLOOM else [*unput, NEW_LETTERS]  # BLOOM's asks for no letters
    if values["tokenizer.ggml.pre"] not in (GPT2, BLOOM, COHERE):
        named.append(f"and {OLD_S}")
    if tokenizer.core.normalizer is not None:
        named.append(f"and {NOT_NFC}")
    return "; ".join([*named, "no other text"])


def spelled(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """Tokens by name."""
    return [str(tokenizer.core.id_to_token(index)) for index in ids]


def alike(tokenizer: Tokenizer, values: Mapping[str, Any]) -> Callable[[str], bool]:
    """Tells the fixed texts whose ids are promised to be the same."""
    if values["tokenizer.ggml.model"] == gguf_unigram.KIND:
        return gguf_unigram.alike
    if values["tokenizer.ggml.model"] == PIECES_KIND:
        return gguf_pieces.alike(tokenizer)
    normalizer = tokenizer.core.normalizer
    return lambda text: normalizer is None or normalizer.normalize_str(text) == text


def read_tokenizer(values: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's values describe, cutting text by llama.cpp's own pattern."""
    if values["tokenizer.ggml.model"] == gguf_unigram.KIND:
        return gguf_unigram.read_unigram(values)
    if values["tokenizer.ggml.model"] == PIECES_KIND:
        return read_pieces(values)
    rows = list(zip(values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"], strict=True))
    merges = [tuple(pair.split(" ")) for pair in values["tokenizer.ggml.merges"]]
    pre = values["tokenizer.ggml.pre"]
    vocabulary = {token: index for index, (token, kind) in enumerate(rows) if kind != UNUSED}
    core = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre == LLAMA3))
    pattern = {"qwen2": QWEN2, LLAMA3: CL100K, BLOOM: WORDS}.get(pre)
    core.pre_tokenizer = pre_tokenizer(pattern) if pattern else pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre == COHERE:
        core.pre_tokenizer = cohere_digits()
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([token for token, kind in rows if kind == CONTROL])
    core.add_tokens([AddedToken(token, normalized=False) for token, kind in rows if kind == USER_DEFINED])
    return Tokenizer(core)
