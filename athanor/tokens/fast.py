"""Byte-level BPE by the C library (`compiled.py`), or else through tiktoken's core, where that provably gives the ids
of the `tokenizers` library.

`tokenizers` (the reference) merges the pair that stands first in the list of merges; tiktoken merges the pair whose
bytes are the token of the lowest rank, from a list of pairs or not. They do the same when

1. every token that merges can make is made from its own bytes in one way: the earlier merges leave exactly the two
   parts of its own merge, and those merges have lower ranks. A pair of neighbours whose bytes are a token can then be
   no other than the listed one: had its borders not been crossed, it would have been merged before;
2. tokens that no merge makes are never looked up (or there are none);
3. text is cut by the same pattern, and both regular-expression libraries agree on every character of the classes in it.

All three are checked here for the tokenizer at hand; where one fails there is no fast path, and nothing else changes.
Texts that the two treat differently for other reasons go to the reference one by one: those that hold an added token,
that Unicode would normalise, or with endless runs of spaces, on which tiktoken's regular expressions run out of stack.
"""

import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, normalizers

from athanor.base.textblock import TextBlock
from athanor.tokens.compiled import CompiledEncoder, Ids, compiled_encoder
from athanor.tokens.letters import bytes_of
from athanor.tokens.pipelines import CL100K, GPT2, PIECES, QWEN2

PATTERNS = (PIECES, GPT2, CL100K, QWEN2)  # every construct in them means the same in both libraries
CLASSES = (r"\p{L}", r"\p{N}", r"\s", r"(?i:[sdmtlver])")  # which characters these are is compared, character by one
STRIDE, RUN = 1024, 64  # a run of STRIDE * (RUN + 1) spaces is found by looking at every STRIDE-th character
_ENDLESS = re.compile(rf"\s{{{RUN}}}")
Places = NDArray[np.int64]
_NEVER = "<|\x00 no text \x00|>"  # tiktoken searches slowly when it knows no special token at all


class FastEncoder(ABC):
    """Ids of ordinary text, as the reference gives them, many times as fast."""

    def __init__(self, apart: list[str], compose: bool):
        self._apart = apart
        self._compose = compose

    def takes(self, text: str) -> bool:
        """Whether a text is one on which both are the same; otherwise it goes to the reference."""
        if self._compose and not text.isascii() and not _is_composed(text):
            return False
        return not any(token in text for token in self._apart)

    @property
    def takes_all(self) -> bool:
        """Whether it takes any text."""
        return not self._apart and not self._compose

    @abstractmethod
    def encode_block(self, texts: Sequence[str], mark: int | None = None) -> tuple[Ids, Places]:
        """(ids of the texts one behind the other, where those of each text end) of texts that `takes` accepts.

        Args:
            mark: an id to put before each text.

        Raises:
            UnicodeEncodeError: a text holds half a surrogate pair, which is no character.
        """


class CompiledFast(FastEncoder):
    """By the C library."""

    def __init__(self, encoder: CompiledEncoder, apart: list[str], compose: bool):
        super().__init__(apart, compose)
        self.encoder = encoder

    def encode_block(self, texts: Sequence[str], mark: int | None = None) -> tuple[Ids, Places]:
        return self.encoder.encode_block(TextBlock.of(texts), mark)


class TiktokenFast(FastEncoder):
    """By tiktoken's core.

    Attributes:
        ids: from tiktoken's rank to the tokenizer's id; None: they are the same.
    """

    def __init__(self, encoding: tiktoken.Encoding, ids: Ids | None, apart: list[str], compose: bool):
        super().__init__(apart, compose)
        self.encoding, self.ids = encoding, ids

    def takes(self, text: str) -> bool:
        if len(text) > STRIDE * RUN and _ENDLESS.search(text[::STRIDE]):
            return False
        return super().takes(text)

    def encode_block(self, texts: Sequence[str], mark: int | None = None) -> tuple[Ids, Places]:
        return join_ids([self._encode(text) for text in texts], mark)

    def _encode(self, text: str) -> Ids:
        found = self.encoding.encode_to_numpy(text, disallowed_special=())
        return found if self.ids is None else self.ids[found]


def join_ids(rows: Sequence[Ids], mark: int | None) -> tuple[Ids, Places]:
    """Ids of some texts one behind the other, a mark before each, and where those of each text end."""
    ends_D = np.cumsum([len(row) + (mark is not None) for row in rows], dtype=np.int64)
    before = [] if mark is None else [np.array([mark], dtype=np.uint32)]
    parts = [part for row in rows for part in (*before, row)]
    return np.concatenate([np.zeros(0, dtype=np.uint32), *parts]), ends_D


def fast_encoder(core: tokenizers.Tokenizer) -> FastEncoder | None:
    """A fast encoder for a tokenizer, or None where it cannot be proven to be exact."""
    told = json.loads(core.to_str())
    pattern = _pattern(told["pre_tokenizer"])
    normalizer = told["normalizer"]
    if pattern is None or (normalizer is not None and normalizer != {"type": "NFC"}):
        return None
    if _has_more_than_merges(told["model"]):
        return None
    added, model = {row["content"] for row in told["added_tokens"]}, told["model"]
    apart, compose = [row["content"] for row in told["added_tokens"] if not row["special"]], normalizer is not None
    if not model.get("ignore_merges") or _ranks(model, added) is not None:
        compiled = compiled_encoder(pattern, model["vocab"], _pairs(model["merges"]))
        if compiled is not None:
            return CompiledFast(compiled, apart, compose)
    ranked = _ranks(model, added)
    if ranked is None or not _same_classes():
        return None
    ranks, ids = ranked
    encoding = tiktoken.Encoding(
        "athanor", pat_str=pattern, mergeable_ranks=ranks, special_tokens={_NEVER: max(ranks.values()) + 1}
    )
    return TiktokenFast(encoding, ids, apart, compose)


def _has_more_than_merges(model: dict[str, Any]) -> bool:
    """Whether a model is no BPE by merges alone."""
    if model["type"] != "BPE" or model["dropout"] or model["byte_fallback"]:
        return True
    return bool(model["continuing_subword_prefix"] or model["end_of_word_suffix"])


def _pattern(told: dict[str, Any] | None) -> str | None:
    """The pattern by which a tokenizer cuts text, if it is one that we know and only bytes follow."""
    if told is None:
        return None
    steps = told["pretokenizers"] if told["type"] == "Sequence" else [told]
    last = steps[-1]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if len(steps) == 1:
        return GPT2 if last["use_regex"] else None
    first = steps[0]
    if len(steps) != 2 or last["use_regex"] or first["type"] != "Split":
        return None
    pattern = first["pattern"].get("Regex")
    plain = first["behavior"] == "Isolated" and not first["invert"]
    return pattern if plain and pattern in PATTERNS else None


def _ranks(model: dict[str, Any], added: set[str]) -> tuple[dict[bytes, int], NDArray[np.uint32] | None] | None:
    """tiktoken's table of ranks, and the ids that the ranks stand for; None where the conditions above fail."""
    ids: dict[bytes, int] = {}
    for token, index in model["vocab"].items():
        data = bytes_of(token)
        if data is not None and token not in added:
            ids[data] = index
        elif token not in added:
            return None
    merges: dict[tuple[bytes, bytes], int] = {}
    for rank, (left, right) in enumerate(_pairs(model["merges"])):
        pair = bytes_of(left), bytes_of(right)
        if pair[0] is None or pair[1] is None or pair in merges:
            return None
        merges[pair[0], pair[1]] = rank
    made = {left + right for left, right in merges}
    if any(bytes([byte]) not in ids for byte in range(256)) or not made <= ids.keys():
        return None
    if model.get("ignore_merges") and any(len(token) > 1 and token not in made for token in ids):
        return None  # a word of its own that no merge makes
    order = _order(made, merges)
    return None if order is None else _table(ids, order)


def _pairs(rows: list[Any]) -> list[tuple[str, str]]:
    """Merges as pairs; older files write them with a space between."""
    return [tuple(row.split(" ", 1)) if isinstance(row, str) else (row[0], row[1]) for row in rows]  # type: ignore[misc]


def _order(made: set[bytes], merges: dict[tuple[bytes, bytes], int]) -> list[bytes] | None:
    """The tokens in order of the merge that makes each from its bytes; None when one is not made by rising ranks."""
    last: dict[bytes, int] = {}
    for token in made:
        rank = _last_merge(token, merges)
        if rank is None:
            return None
        last[token] = rank
    return sorted(made, key=lambda token: last[token])


def _last_merge(token: bytes, merges: dict[tuple[bytes, bytes], int]) -> int | None:
    """Merge a token's bytes by rank, leftmost first; the rank of the last merge, if all came in rising order."""
    parts = [token[place : place + 1] for place in range(len(token))]
    none = len(merges)
    ranks = [merges.get(pair, none) for pair in pairwise(parts)]
    before = -1
    while len(parts) > 1:
        rank = min(ranks)
        if rank == none or rank < before:
            return None
        before = rank
        place = ranks.index(rank)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
        del ranks[place]
        if place:
            ranks[place - 1] = merges.get((parts[place - 1], parts[place]), none)
        if place < len(ranks):
            ranks[place] = merges.get((parts[place], parts[place + 1]), none)
    return before


def _table(ids: dict[bytes, int], order: list[bytes]) -> tuple[dict[bytes, int], NDArray[np.uint32] | None]:
    """Ranks in order of merging: the ids themselves where they rise in that order, else a table leads back to them."""
    single = [bytes([byte]) for byte in range(256)]
    tokens = single + order
    rising = [ids[token] for token in order]
    if all(one < other for one, other in pairwise(rising)):
        return {token: ids[token] for token in tokens}, None
    return {token: rank for rank, token in enumerate(tokens)}, np.array([ids[token] for token in tokens], np.uint32)


@cache
def _same_classes() -> bool:
    """Whether both regular-expression libraries put every character of Unicode into the same classes."""
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))
    ranks = {bytes([byte]): byte for byte in range(256)}
    for kind in CLASSES:
        encoding = tiktoken.Encoding("class", pat_str=f"{kind}+", mergeable_ranks=ranks, special_tokens={})
        within = bytes(encoding.encode_ordinary(every)).decode()
        outside = normalizers.Replace(Regex(f"{kind}+"), "").normalize_str(every)
        if outside != every.translate(dict.fromkeys(map(ord, within))):
            return False
    return True


@cache
def _unassigned() -> re.Pattern[str]:
    """Code points that Python's tables do not know yet: only there may a newer table normalise differently."""
    codes = [code for code in range(0x110000) if unicodedata.category(chr(code)) == "Cn"]
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges) + "]")


def _is_composed(text: str) -> bool:
    """Whether NFC leaves a text as it is, in every version of Unicode (UAX #15, section 3: it is stable)."""
    return unicodedata.is_normalized("NFC", text) and not _unassigned().search(text)
