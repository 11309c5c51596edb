"""Beam search: of all texts the likeliest, by going on with the best few beginnings. No network here: numbers go in.

A text's score is the sum of its tokens' log-probabilities over its length to the power of `length_penalty`, and what is
kept and when to stop are the rules of `transformers` (Wu et al. 2016, section 7, has another penalty).

Shape letters: B beginnings, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from athanor.base.errors import AthanorError


@dataclass(frozen=True, kw_only=True)
class Beams:
    """How to search.

    Attributes:
        count: beginnings that are kept; 1 is greedy but for a text's length.
        length_penalty: above 0 longer texts gain, below 0 they lose.
        early: stop as soon as `count` texts have ended; else when no beginning can become better than all of them.
    """

    count: int
    length_penalty: float = 1.0
    early: bool = False

    def __post_init__(self) -> None:
        if type(self.count) is not int or not 1 <= self.count <= 64:
            raise AthanorError(f"beams={self.count!r}", allowed="1 to 64")


@dataclass(frozen=True)
class Ended:
    """A text that has ended, its end token included if it has one, and its score."""

    ids: tuple[int, ...]
    score: float


class BeamSearch:
    """The search for one text.

    Args:
        ends: tokens that end a text.
        limit: most tokens of a text.
        before: tokens that count as its beginning, such as a forced one, when the score is divided by the length.

    Attributes:
        texts: the beginnings, best first; at first one, without a token.
        ended: the best texts that have ended, best first.
        done: nothing is left to be tried.
    """

    def __init__(self, beams: Beams, ends: Iterable[int], limit: int, before: int = 0):
        self.beams, self.ends, self.limit, self.before = beams, frozenset(ends), limit, before
        self.texts: list[tuple[int, ...]] = [()]
        self.scores_B = torch.zeros(1)
        self.ended: list[Ended] = []
        self.done = False

    def step(self, likelihood_BV: Tensor) -> list[int]:
        """Add a token to the best beginnings.

        Args:
            likelihood_BV: log-probability of every next token of each beginning, float32.

        Returns:
            which of the old beginnings each of the new ones continues.
        """
        count, vocabulary = self.beams.count, likelihood_BV.shape[1]
        sums_BV = likelihood_BV + self.scores_B[:, None].to(likelihood_BV.device)
        tried = min(max(2, 1 + len(self.ends)) * count, sums_BV.numel())  # so many that `count` of them have not ended
        best = sums_BV.flatten().topk(tried)
        length = len(self.texts[0]) + 1
        texts, scores, parents = [], [], []
        for rank, (score, index) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            parent, token = divmod(index, vocabulary)
            text = (*self.texts[parent], token)
            if token in self.ends or length == self.limit:
                if rank < count:
                    self.ended.append(Ended(text, self._per_length(score, length)))
            elif len(texts) < count:
                texts, scores, parents = [*texts, text], [*scores, score], [*parents, parent]
        self.ended = sorted(self.ended, key=lambda one: -one.score)[:count]
        self.texts, self.scores_B = texts, torch.tensor(scores)
        self.done = not texts or self._is_found(self._per_length(scores[0], length))
        return parents

    def _is_found(self, hoped: float) -> bool:
        """Whether no beginning is worth going on with; `hoped` is what the best may yet reach."""
        return len(self.ended) == self.beams.count and (self.beams.early or hoped <= self.ended[-1].score)

    def _per_length(self, score: float, length: int) -> float:
        return score / (length + self.before) ** self.beams.length_penalty
