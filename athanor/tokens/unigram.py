"""Learning the pieces of a unigram model (Kudo 2018, "Subword Regularization", section 3.2), the same on every run.

The `tokenizers` library has a trainer too, but it walks through its words in an order that changes from run to run, and
with it the scores. Ours: all frequent substrings are candidates; expectation maximisation over every way to cut every
word gives each a probability; the quarter whose loss would cost the least is dropped, until few enough are left.

Letters: E edges (a candidate at a place of a word), N nodes (places between letters), P pieces, W words.
"""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

LONGEST_PIECE = 16  # letters
LONGEST_WORD = 64  # longer ones are learnt from in parts
MOST_LETTERS = 1_500_000  # of different words, the most frequent first: what a few hundred megabytes of text repeat
CANDIDATES = 8  # times as many as pieces are asked for
KEEP = 0.75  # of the candidates after each round
LEAST = 0.5  # expected count below which a candidate is dropped
RAREST = 0.01  # expected count that a letter has at least

Numbers = NDArray[np.float64]
Places = NDArray[np.int32]


@dataclass(frozen=True)
class Lattice:
    """Every way to cut every word: edges from place to place, sorted by how far inside the word they end.

    Attributes:
        depth_E: how many letters of the word stand before an edge's end.
        start_E, end_E, piece_E: where an edge begins and ends, and the candidate it stands for.
        first_W, last_W: each word's first and last place.
    """

    depth_E: Places
    start_E: Places
    end_E: Places
    piece_E: Places
    first_W: Places
    last_W: Places

    @classmethod
    def build(cls, words: list[str], pieces: list[str], whole: bool = True) -> "Lattice":
        """The lattice of words; `whole=False`: no edge spans a whole word of two or more letters."""
        numbers = {piece: number for number, piece in enumerate(pieces)}
        columns = [array("i") for _ in range(4)]
        first, place = [], 0
        for word in words:
            first.append(place)
            for end in range(1, len(word) + 1):
                for start in range(max(0, end - LONGEST_PIECE), end):
                    number = numbers.get(word[start:end])
                    if number is not None and (whole or end - start < len(word) or end == 1):
                        for column, value in zip(columns, (end, place + start, place + end, number), strict=True):
                            column.append(value)
            place += len(word) + 1
        depth_E, start_E, end_E, piece_E = (np.frombuffer(column, np.int32) for column in columns)
        order = np.argsort(depth_E, kind="stable")  # the ends stay sorted within a depth
        last = np.array([*first[1:], place], np.int32) - 1
        return cls(depth_E[order], start_E[order], end_E[order], piece_E[order], np.array(first, np.int32), last)

    def keep(self, chosen: Places, pieces: int) -> "Lattice":
        """The lattice of the chosen ones among so many pieces, numbered anew in their order."""
        number_P = np.full(pieces, -1, np.int32)
        number_P[chosen] = np.arange(len(chosen))
        stay = number_P[self.piece_E] >= 0
        return Lattice(
            self.depth_E[stay], self.start_E[stay], self.end_E[stay], number_P[self.piece_E[stay]],
            self.first_W, self.last_W,
        )  # fmt: skip

    def layers(self) -> list[slice]:
        """The edges that end after one letter, after two, …"""
        bounds = np.searchsorted(self.depth_E, np.arange(1, LONGEST_WORD + 2)).tolist()
        return [slice(begin, stop) for begin, stop in pairwise(bounds) if begin < stop]

    def forward(self, score_P: Numbers, best: bool = False) -> Numbers:
        """Log-probability of reaching each place by any path, or by the best one, (N,)."""
        reached_N = np.full(int(self.last_W[-1]) + 1, -np.inf)
        reached_N[self.first_W] = 0.0
        score_E = score_P[self.piece_E]
        for edges in self.layers():
            _gather(reached_N, self.end_E[edges], reached_N[self.start_E[edges]] + score_E[edges], best)
        return reached_N

    def backward(self, score_P: Numbers) -> Numbers:
        """Log-probability of coming from each place to the end of its word by any path, (N,)."""
        left_N = np.full(int(self.last_W[-1]) + 1, -np.inf)
        left_N[self.last_W] = 0.0
        score_E = score_P[self.piece_E]
        for edges in reversed(self.layers()):  # all that leave an edge's end are done before it
            order = np.argsort(self.start_E[edges], kind="stable")
            into = left_N[self.end_E[edges]] + score_E[edges]
            _gather(left_N, self.start_E[edges][order], into[order], False)
        return left_N

    def expect(self, score_P: Numbers, count_W: Numbers) -> Numbers:
        """How often each piece is expected in the words, (P,)."""
        before_N, after_N = self.forward(score_P), self.backward(score_P)
        word_E = np.searchsorted(self.first_W, self.start_E, side="right") - 1
        share_E = before_N[self.start_E] + score_P[self.piece_E] + after_N[self.end_E] - before_N[self.last_W][word_E]
        return np.bincount(self.piece_E, np.exp(share_E) * count_W[word_E], len(score_P)).astype(np.float64)


def _gather(value_N: Numbers, node_E: Places, log_E: Numbers, best: bool) -> None:
    """Add log-probabilities to their nodes (edges of a node stand together), or keep the highest."""
    starts = np.flatnonzero(np.diff(node_E, prepend=-1))
    nodes = node_E[starts]
    high = np.maximum(np.maximum.reduceat(log_E, starts), value_N[nodes])
    if best:
        value_N[nodes] = high
        return
    safe = np.where(np.isfinite(high), high, 0.0)
    spread = np.repeat(safe, np.diff(starts, append=len(node_E)))
    total = np.add.reduceat(np.exp(log_E - spread), starts) + np.exp(value_N[nodes] - safe)
    with np.errstate(divide="ignore"):  # a place that nothing reaches stays at minus infinity
        value_N[nodes] = safe + np.log(total)


def learn_pieces(words: Counter[str], letters: Iterable[str], size: int) -> list[tuple[str, float]]:
    """The `size` pieces under which the words are likeliest, with the logarithms of their probabilities.

    Args:
        words: how often each word occurs.
        letters: pieces that stay whatever they cost, so that every word can be cut.
    """
    kept = sorted(set(letters))
    chosen, counts = _choose(words)
    pieces = _candidates(chosen, counts, kept, CANDIDATES * size)
    if not chosen:
        return [(piece, -1.0) for piece in kept]
    count_W = np.array(counts, np.float64)
    score_P = np.full(len(pieces), -np.log(len(pieces)))
    lattice = Lattice.build(chosen, pieces)
    while True:
        for _ in range(2):
            expected_P = lattice.expect(score_P, count_W)
            score_P = _log_shares(expected_P)
        if len(pieces) <= size:
            break
        stay = _worth(pieces, score_P, expected_P, len(kept), max(size, int(KEEP * len(pieces))))
        lattice = lattice.keep(stay, len(pieces))
        pieces, score_P = [pieces[number] for number in stay], score_P[stay]
    return [(piece, round(float(score), 6)) for piece, score in zip(pieces, score_P, strict=True)]


def _choose(words: Counter[str]) -> tuple[list[str], list[int]]:
    """The most frequent words, long ones in parts, up to MOST_LETTERS."""
    parts: Counter[str] = Counter()
    for word, count in words.items():
        for place in range(0, len(word), LONGEST_WORD):
            parts[word[place : place + LONGEST_WORD]] += count
    chosen: list[str] = []
    letters = 0
    for word in sorted(parts, key=lambda part: (-parts[part], part)):
        letters += len(word)
        if letters > MOST_LETTERS:
            break
        chosen.append(word)
    return chosen, [parts[word] for word in chosen]


def _candidates(words: list[str], counts: list[int], letters: list[str], most: int) -> list[str]:
    """The letters, then the substrings that cover the most text."""
    found: Counter[str] = Counter()
    for word, count in zip(words, counts, strict=True):
        for start in range(len(word)):
            for end in range(start + 2, min(start + LONGEST_PIECE, len(word)) + 1):
                found[word[start:end]] += count
    often = [piece for piece, count in found.items() if count > 1]
    often.sort(key=lambda piece: (-found[piece] * len(piece), piece))
    return letters + often[:most]


def _log_shares(expected_P: Numbers) -> Numbers:
    """Logarithms of the pieces' shares; what is next to never expected gets the smallest share that is told apart."""
    return np.log(np.maximum(expected_P, RAREST) / max(expected_P.sum(), 1.0))


def _worth(pieces: list[str], score_P: Numbers, expected_P: Numbers, letters: int, most: int) -> Places:
    """The letters and the pieces whose loss would cost the text the most (Kudo 2018, step 2 c)."""
    longer = pieces[letters:]
    lattice = Lattice.build(longer, pieces, whole=False)
    instead_P = lattice.forward(score_P, best=True)[lattice.last_W]
    loss_P = expected_P[letters:] * (score_P[letters:] - instead_P)
    loss_P[expected_P[letters:] < LEAST] = -np.inf
    order = np.lexsort((np.arange(len(longer)), -loss_P))[: max(0, most - letters)]
    order = np.sort(order[loss_P[order] > -np.inf])
    return np.concatenate([np.arange(letters), order + letters]).astype(np.int32)
