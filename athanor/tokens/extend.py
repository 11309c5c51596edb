"""Adding tokens to a tokenizer whose model is already trained: old ids stay, and new rows begin where they make sense.

A new token's embedding begins as the mean of those of the pieces that wrote it before, so that the model reads it as
about the same; a new special token, which nothing wrote before, begins at the mean of all tokens (Hewitt 2021,
"Initializing New Word Embeddings for Pretrained Language Models": then it cannot take the probability of the others)
with a little noise, so that two of them differ. `athanor.models.extend` applies the plan to a model.
"""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import tokenizers
from tokenizers import AddedToken

from athanor.base.errors import AthanorError
from athanor.tokens.folder import BACKEND
from athanor.tokens.tokenizer import Tokenizer

MOST_WORDS = 300_000  # different words that merges are learnt from, the most frequent first
LEAST = 2  # a pair that occurs less often is no pair

Pair = tuple[str, str]


@dataclass(frozen=True)
class NewToken:
    """One new row: the old ids whose mean it begins with; none for a special token (the mean of all)."""

    id: int
    token: str
    pieces: tuple[int, ...]


@dataclass(frozen=True)
class ExtensionPlan:
    """How a model grows with its tokenizer.

    Attributes:
        before: token ids there were.
        after: token ids there are.
        rows: one for each new id, in order.
    """

    before: int
    after: int
    rows: tuple[NewToken, ...]

    def pieces(self) -> dict[int, tuple[int, ...]]:
        """New id to old ids, as `athanor.models.extend.extend_vocabulary` takes them."""
        return {row.id: row.pieces for row in self.rows}


def extend(
    tokenizer: Tokenizer,
    words: Sequence[str] = (),
    special: Sequence[str] = (),
    texts: Iterable[str] = (),
    count: int = 0,
) -> tuple[Tokenizer, ExtensionPlan]:
    """A tokenizer with more tokens, and how a model's rows for them begin. Text without new tokens keeps its ids.

    Args:
        words: new tokens that are matched wherever they stand in a text, before it is cut.
        special: new special tokens; text that spells one stays text.
        texts, count: learn up to `count` further merges from texts (byte-level BPE only). They come after all others,
            so they only ever join what the old tokenizer left apart.

    Raises:
        AthanorError: a word is there already or is empty, there is nothing to add, or merges are asked of another kind.
    """
    before = tokenizer.vocabulary
    known = tokenizer.core.get_vocab()
    if max(known.values()) + 1 != before:
        raise AthanorError(f"the tokenizer's ids have gaps: {before} tokens up to id {max(known.values())}")
    _check(words, special, known)
    merges, pieces = _learn(tokenizer, texts, count) if count else ([], {})
    core = _with_merges(tokenizer, merges)
    core.add_tokens([AddedToken(word, normalized=False) for word in words])
    core.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    for word in words:
        pieces[word] = tuple(tokenizer.encode(word))
    new = [*("".join(pair) for pair in merges), *words, *special]
    rows = tuple(NewToken(before + place, token, pieces.get(token, ())) for place, token in enumerate(new))
    wrong = [row for row in rows if core.token_to_id(row.token) != row.id]
    assert not wrong, f"{wrong[0]} got the id {core.token_to_id(wrong[0].token)}"
    if not rows:
        raise AthanorError("no token was added", allowed="words, special tokens, or texts in which pairs repeat")
    config = tokenizer.config | {"tokenizer_class": BACKEND}  # other classes number added tokens anew
    config.pop("added_tokens_decoder", None)
    wider = Tokenizer(core, config, tokenizer.chat_template, tokenizer.pieces, tokenizer.target)
    return wider, ExtensionPlan(before, before + len(rows), rows)


def _check(words: Sequence[str], special: Sequence[str], known: dict[str, int]) -> None:
    seen: set[str] = set()
    for token in (*words, *special):
        if not token or token.isspace():
            raise AthanorError(f"{token!r} cannot be a token", allowed="text with a visible character")
        if token in special and len(token) < 2:
            raise AthanorError(
                f"{token!r} cannot be special", allowed="two letters or more, so that text can be told apart"
            )
        if token in known or token in seen:
            raise AthanorError(f"the tokenizer has the token {token!r} already", fix="leave it out")
        seen.add(token)


def _with_merges(tokenizer: Tokenizer, merges: Sequence[Pair]) -> tokenizers.Tokenizer:
    """A copy of the reference with more merges, every id written down so that none is given anew."""
    told = json.loads(tokenizer.core.to_str())
    if merges:
        model = told["model"]
        for row in told["added_tokens"]:
            model["vocab"].setdefault(row["content"], row["id"])
        for pair in merges:
            model["vocab"]["".join(pair)] = len(model["vocab"])
            model["merges"].append(list(pair))
    return tokenizers.Tokenizer.from_str(json.dumps(told))


# ------------------------------------------------------------------------------------------------- learning merges


def _learn(tokenizer: Tokenizer, texts: Iterable[str], count: int) -> tuple[list[Pair], dict[str, tuple[int, ...]]]:
    """Go on with BPE (Sennrich et al. 2016, algorithm 1) where the old merges ended.

    Returns the merges, and for each new token the old ids that write it.
    """
    told = json.loads(tokenizer.core.to_str())["model"]
    if told["type"] != "BPE" or "ByteLevel" not in repr(tokenizer.core.pre_tokenizer) or told["end_of_word_suffix"]:
        raise AthanorError(
            "further merges can be learnt for byte-level BPE only", allowed="new words and special tokens",
            fix="give the new tokens as words",
        )  # fmt: skip
    words = _Words(_cut(tokenizer, texts))
    vocabulary: dict[str, int] = dict(told["vocab"])
    old: dict[str, tuple[int, ...]] = {token: (index,) for token, index in vocabulary.items()}
    pieces: dict[str, tuple[int, ...]] = {}
    merges: list[Pair] = []
    while len(merges) < count and (pair := words.most_frequent()) is not None:
        token = "".join(pair)
        if token in vocabulary:  # another way to write a token that is there: it must stay apart
            words.forget(pair)
            continue
        merges.append(pair)
        vocabulary[token] = -1
        pieces[token] = old[token] = old[pair[0]] + old[pair[1]]
        words.merge(pair)
    return merges, pieces


def _cut(tokenizer: Tokenizer, texts: Iterable[str]) -> list[tuple[list[str], int]]:
    """Different words of the texts as the old merges leave them, and how often each occurs."""
    core = tokenizer.core
    counts: Counter[str] = Counter()
    for text in texts:
        text = core.normalizer.normalize_str(text) if core.normalizer is not None else text
        counts.update(word for word, _ in core.pre_tokenizer.pre_tokenize_str(text))
    often = sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WORDS]
    return [([token.value for token in core.model.tokenize(word)], counts[word]) for word in often]


class _Words:
    """Words in pieces, with how often each pair of neighbours occurs in them."""

    def __init__(self, words: list[tuple[list[str], int]]):
        self.words = words
        self.counts: Counter[Pair] = Counter()
        self.where: defaultdict[Pair, set[int]] = defaultdict(set)
        for number, (word, count) in enumerate(words):
            for pair in pairwise(word):
                self.counts[pair] += count
                self.where[pair].add(number)
        self.heap = [(-count, pair) for pair, count in self.counts.items()]
        heapq.heapify(self.heap)

    def most_frequent(self) -> Pair | None:
        """The pair that occurs most often, the first in order of letters among equals."""
        while self.heap:
            count, pair = self.heap[0]
            if -count == self.counts[pair]:
                return pair if -count >= LEAST else None
            heapq.heappop(self.heap)
            if self.counts[pair] > 0:
                heapq.heappush(self.heap, (-self.counts[pair], pair))
        return None

    def forget(self, pair: Pair) -> None:
        """Never offer a pair."""
        self.counts[pair] = 0

    def merge(self, pair: Pair) -> None:
        """Join a pair everywhere, from the left."""
        changed: set[Pair] = set()
        for number in sorted(self.where.pop(pair)):
            word, count = self.words[number]
            joined = list(_joined(word, pair))
            for old in pairwise(word):
                self.counts[old] -= count
                changed.add(old)
            for new in pairwise(joined):
                self.counts[new] += count
                self.where[new].add(number)
                changed.add(new)
            self.words[number] = (joined, count)
        self.counts[pair] = 0
        for one in sorted(changed):
            if self.counts[one] > 0:
                heapq.heappush(self.heap, (-self.counts[one], one))


def _joined(word: list[str], pair: Pair) -> Iterator[str]:
    place = 0
    while place < len(word):
        if tuple(word[place : place + 2]) == pair:
            yield "".join(pair)
            place += 2
        else:
            yield word[place]
            place += 1


def as_rows(plan: ExtensionPlan) -> list[dict[str, Any]]:
    """The plan for a file beside the model."""
    return [{"id": row.id, "token": row.token, "pieces": list(row.pieces)} for row in plan.rows]
