"""SentencePiece's BPE in a GGUF file: `tokenizer.ggml.model = "llama"`, pieces with scores, bytes to fall back on.

llama.cpp (`llm_tokenizer_spm` of `src/llama-vocab.cpp`) joins any two neighbours whose text is a token, the best score
first, and puts a space before what begins a text or follows a special token. Where a tokenizer's merges are all that
its vocabulary allows, in the order of what they make, both do the same.
"""

import json
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from athanor.base.errors import AthanorError
from athanor.tokens.sentencepiece import SPACE, SentencePieceModel, merges_by_rank
from athanor.tokens.tokenizer import Tokenizer

KIND = "llama"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # `enum llama_token_type`
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LEADING = "text that begins with a space, before which llama.cpp puts another"
BEHIND = "text right behind a special token, where llama.cpp puts a space"


def is_pieces(saved: Mapping[str, Any]) -> bool:
    """Whether a tokenizer merges letters and falls back on bytes, as LLaMA's does."""
    model = saved["model"]
    return model.get("type") == "BPE" and bool(model.get("byte_fallback"))


def pieces_values(tokenizer: Tokenizer, saved: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The keys for a vocabulary of pieces; ids that mean nothing fill the rest.

    Raises:
        AthanorError: llama.cpp would cut text otherwise.
    """
    model = saved["model"]
    if space_of(tokenizer) == "first" and tokenizer.chat_template is not None:
        refuse(f"its chat template has {BEHIND} and the tokenizer does not (`legacy: false`)")
    score = scores_of(saved)
    tokens, scores, types = [f"[PAD{index}]" for index in range(size)], [-1e6] * size, [UNUSED] * size
    for token, index in model["vocab"].items():
        kind = BYTE if token in BYTES else UNKNOWN if token == model.get("unk_token") else NORMAL
        tokens[index], scores[index], types[index] = token, score.get(token, 0.0), kind
    for added in saved["added_tokens"]:
        tokens[added["id"]] = added["content"]
        if types[added["id"]] != UNKNOWN:
            types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    unknown = next((index for index, kind in enumerate(types) if kind == UNKNOWN), None)
    unknown = tokenizer.special.get(tokenizer.unk or "", unknown)
    if unknown is not None:
        types[unknown] = UNKNOWN
    return {
        "tokenizer.ggml.model": KIND, "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores, "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_space_prefix": space_of(tokenizer) != "never",
        **({} if unknown is None else {"tokenizer.ggml.unknown_token_id": unknown}),
    }  # fmt: skip


def scores_of(saved: Mapping[str, Any]) -> dict[str, float]:
    """Scores under which llama.cpp merges in the tokenizer's order.

    Raises:
        AthanorError: the vocabulary lacks a byte, or allows merges that the tokenizer does not make.
    """
    model = saved["model"]
    missing = next((byte for byte in BYTES if byte not in model["vocab"]), None)
    if missing:
        refuse(f"it falls back on bytes, but has no token {missing}")
    merges = [tuple(row.split(" ", 1)) if isinstance(row, str) else (row[0], row[1]) for row in model["merges"]]
    made = [made for made, _ in groupby(left + right for left, right in merges)]
    if len(set(made)) != len(made):
        refuse("its merges are not in the order of what they make")
    rank = {token: place for place, token in enumerate(made)}
    words = dict.fromkeys(model["vocab"]) | dict.fromkeys(row["content"] for row in saved["added_tokens"])
    every = merges_by_rank({word: place for place, word in enumerate(words)})
    if set(every) != set(merges):
        left, right = min(set(every) ^ set(merges))
        refuse(f"llama.cpp joins {left!r} and {right!r} and it does not, or the reverse")
    return {token: -float(place) for token, place in rank.items()}


def space_of(tokenizer: Tokenizer) -> str:
    """Where a space is put: "every" segment, each that has "none" yet, the "first" one without, or "never".

    Raises:
        AthanorError: text is changed in another way too.
    """
    if tokenizer.pieces is not None:
        model = SentencePieceModel.parse(tokenizer.pieces.data, Path("tokenizer.model"))
        if model.characters or model.trim or tokenizer.pieces.dialect != "plain":
            refuse("SentencePiece changes characters or drops spaces before it cuts, and llama.cpp does not")
        return "every" if model.dummy_prefix else "never"
    saved = json.loads(tokenizer.core.to_str())
    normalizer, cut = saved.get("normalizer"), saved.get("pre_tokenizer")
    written = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    if cut is None or (cut["type"] == "Split" and cut["pattern"] == {"String": " "} and written in steps):
        if steps == [{"type": "Prepend", "prepend": SPACE}, written]:
            return "every"
        if steps == [written]:
            return "never"
    if not steps and cut and cut["type"] == "Metaspace" and not cut["split"] and cut["replacement"] == SPACE:
        return {"always": "none", "first": "first", "never": "never"}[cut["prepend_scheme"]]
    refuse("it changes or cuts text in another way before merging")


def refuse(what: str) -> NoReturn:
    """Say what llama.cpp would do otherwise."""
    raise AthanorError(
        f"llama.cpp has no tokenizer like this one: {what}", allowed="SentencePiece's BPE as LLaMA has it",
        fix="athanor export --to hf",
    )  # fmt: skip


def named_differences(tokenizer: Tokenizer) -> list[str]:
    """The text whose ids differ in llama.cpp."""
    return {"every": [], "never": [], "none": [LEADING], "first": [LEADING, f"and {BEHIND}"]}[space_of(tokenizer)]


def alike(tokenizer: Tokenizer) -> Callable[[str], bool]:
    """Tells the texts whose ids are promised to be the same."""
    return lambda text: not (text.startswith((" ", SPACE)) and LEADING in named_differences(tokenizer))


def read_pieces(values: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's values describe, as llama.cpp runs it."""
    rows = list(zip(values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"], strict=True))
    scores = values["tokenizer.ggml.scores"]
    vocabulary = {token: index for index, (token, kind) in enumerate(rows) if kind != UNUSED}
    ranked = sorted(vocabulary, key=lambda token: -scores[vocabulary[token]])
    core = tokenizers.Tokenizer(models.BPE(
        vocab=vocabulary, merges=merges_by_rank({token: rank for rank, token in enumerate(ranked)}), byte_fallback=True
    ))  # fmt: skip
    prefix = values["tokenizer.ggml.add_space_prefix"]
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(SPACE)] if prefix else []
    core.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    core.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=False)
    tail = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*tail, decoders.Strip(" ", 1, 0)] if prefix else tail)
    core.add_special_tokens([AddedToken(token, normalized=False) for token, kind in rows if kind in (CONTROL, UNKNOWN)])
    core.add_tokens([AddedToken(token, normalized=False) for token, kind in rows if kind == USER_DEFINED])
    return Tokenizer(core)
