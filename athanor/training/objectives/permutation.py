"""Permutation: what XLNet is pretrained on (Yang et al. 2019, equations 3 and 5).

    loss = -sum over guessed z_t of log p(x_{z_t} | x_{z_<t}, z_t)        z an order of the words, another for each row

Only the last words of an order are guessed, one in K of all (section 2.3, partial prediction): the first ones have too
little before them. The words to be guessed are runs: a length L from 1 to 5 is drawn, then a place for it within K L
words (section 3.1). All words that are not guessed are seen by everyone; of the guessed ones, each sees those before it
in the order. The query stream does the guessing, and the content stream is what it looks at (section 2.3, two streams).

Shapes: B rows, T positions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from athanor.data.packing.batches import IGNORED, Batch
from athanor.models.language import score
from athanor.models.permuted import PermutedLanguageModel
from athanor.training.objective import Loss
from athanor.training.objectives.draws import Flags, by_source, hideable, on_device

ONE_IN = 6  # K
LONGEST = 5  # words of a run


class PermutedBatch(NamedTuple):
    """Rows with an order, (B, T) int64 each; targets are -100 where nothing is guessed.

    Attributes:
        order_BT: 0 for words that are given, else the place in the order of guessing, from 1.
        sources_B: number of the source each row comes from; None: one source.
    """

    ids_BT: Tensor
    order_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor
    sources_B: Tensor | None = None


def permute(
    batch: Batch,
    numbers: Sequence[np.random.Generator],
    device: torch.device,
    *,
    special: Sequence[int],
    one_in: int = ONE_IN,
    longest: int = LONGEST,
) -> PermutedBatch:
    """Choose the words to guess in each row, and their order.

    Args:
        numbers: random numbers for each row.
        special: ids that are never guessed.
        one_in: K: one word in so many is guessed.
        longest: words of a run at most.
    """
    order_BT, free_BT = np.zeros_like(batch.ids_BT), hideable(batch, special)
    for row, random in enumerate(numbers):
        guessed = np.flatnonzero(some_runs(len(free_BT[row]), random, one_in, longest) & free_BT[row])
        order_BT[row, guessed] = 1 + random.permutation(len(guessed))
    targets_BT = np.where(order_BT > 0, batch.ids_BT, IGNORED)
    return PermutedBatch(*on_device(device, batch.ids_BT, order_BT, targets_BT, batch.documents_BT))


def some_runs(length: int, random: np.random.Generator, one_in: int, longest: int) -> Flags:
    """Which of `length` positions are guessed: runs of 1 to `longest`, each within `one_in` times as many."""
    guessed_T = np.zeros(length, dtype=bool)
    place = 0
    while place < length:
        run = int(random.integers(1, longest + 1))
        first = place + int(random.integers(run * one_in - run + 1))
        guessed_T[first : first + run] = True
        place += run * one_in
    return guessed_T


def permutation_loss(
    z_loss: float = 0.0, sources: Mapping[int, str] | None = None
) -> Callable[[nn.Module, PermutedBatch], Loss]:
    """The loss of a `PermutedLanguageModel`; the arguments are those of `masked.masked_loss`."""

    def loss(model: nn.Module, batch: PermutedBatch) -> Loss:
        assert isinstance(model, PermutedLanguageModel)
        _, query_BTD, _ = model.streams(batch.ids_BT, order_BT=batch.order_BT, documents_BT=batch.documents_BT)
        assert query_BTD is not None
        scores = score(query_BTD, model.tokens, batch.targets_BT, model.bias, z_loss)
        total, count = scores.sums()
        return Loss(total, count, by_source(scores, batch.ids_BT.shape[1], batch.sources_B, sources))

    return loss
