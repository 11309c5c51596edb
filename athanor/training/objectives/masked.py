"""Masked token: what BERT is pretrained on (Devlin et al. 2019, section 3.1, task 1).

    loss = -sum over hidden t of log p(x_t | the text with its hidden tokens replaced)

15 % of the tokens of a row are to be guessed. Of these 80 % are replaced by [MASK], 10 % by a random token, and 10 %
stay as they are: the network cannot know which token is the true one, so it must keep a picture of every one
(appendix A.1). With whole words, all tokens of a word are guessed together (the authors' later code, May 2019).

Shapes: B rows, T positions, V token ids.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from athanor.data.packing.batches import IGNORED, Batch, Numbers
from athanor.models.language import score
from athanor.models.masked import TextEncoder
from athanor.tokens.wholeword import WordEdges
from athanor.training.objective import Loss
from athanor.training.objectives.draws import Flags, by_source, hideable, on_device

SHARE = 0.15
REPLACED, RANDOM = 0.8, 0.1  # of the hidden; the rest stays


class MaskedBatch(NamedTuple):
    """Rows with hidden tokens, (B, T) int64 each; targets are -100 where nothing is hidden.

    Attributes:
        sources_B: number of the source each row comes from; None: one source.
    """

    ids_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor
    sources_B: Tensor | None = None


def hide(
    batch: Batch,
    numbers: Sequence[np.random.Generator],
    device: torch.device,
    *,
    mask: int,
    ordinary: Numbers,
    special: Sequence[int],
    share: float = SHARE,
    words: WordEdges | None = None,
) -> MaskedBatch:
    """Hide tokens of each row.

    Args:
        numbers: random numbers for each row.
        mask: id of [MASK].
        ordinary: the ids that a random token is drawn from.
        special: ids that are never hidden.
        share: of a row's ordinary tokens, how many are hidden; one at least.
        words: where words begin, to hide whole ones; None: token by token.
    """
    ids_BT, targets_BT = batch.ids_BT.copy(), np.full_like(batch.ids_BT, IGNORED)
    free_BT = hideable(batch, special)
    for row, random in enumerate(numbers):
        if words is None:
            chosen = some_tokens(free_BT[row], share, random)
        else:
            begins_T = words.begins(batch.ids_BT[row], batch.documents_BT[row])
            chosen = some_words(free_BT[row], begins_T, share, random)
        targets_BT[row, chosen] = ids_BT[row, chosen]
        fate, other = random.random(len(chosen)), random.choice(ordinary, len(chosen))
        ids_BT[row, chosen] = np.where(
            fate < REPLACED, mask, np.where(fate < REPLACED + RANDOM, other, ids_BT[row, chosen])
        )
    return MaskedBatch(*on_device(device, ids_BT, targets_BT, batch.documents_BT))


def some_tokens(free_T: Flags, share: float, random: np.random.Generator) -> Numbers:
    """Positions to hide: `share` of the free ones, at least one where there is any."""
    free = np.flatnonzero(free_T)
    count = min(len(free), max(1, round(share * len(free))))
    return random.choice(free, count, replace=False)


def some_words(free_T: Flags, begins_T: Flags, share: float, random: np.random.Generator) -> Numbers:
    """Positions to hide, whole words at a time; a word that would make them too many is left, and the next tried."""
    free = np.flatnonzero(free_T)
    if not len(free):
        return free
    count = max(1, round(share * len(free)))
    broken = np.diff(free, prepend=free[0]) > 1  # what stands between two free tokens parts them
    groups = np.split(free, np.flatnonzero((begins_T[free] | broken)[1:]) + 1)
    chosen: list[int] = []
    for number in random.permutation(len(groups)).tolist():
        if len(chosen) + len(groups[number]) <= count:
            chosen += groups[number].tolist()
    return np.array(chosen, dtype=np.int64)


def masked_loss(
    z_loss: float = 0.0, sources: Mapping[int, str] | None = None
) -> Callable[[nn.Module, MaskedBatch], Loss]:
    """The loss of a `TextEncoder`.

    Args:
        z_loss: see `cross_entropy.linear_cross_entropy`.
        sources: names of the sources whose losses are told apart.
    """

    def loss(model: nn.Module, batch: MaskedBatch) -> Loss:
        assert isinstance(model, TextEncoder) and model.guess is not None
        hidden_BTD = model.hidden(batch.ids_BT, documents_BT=batch.documents_BT)
        rows_X = (batch.targets_BT.flatten() != IGNORED).nonzero().squeeze(1)  # the head reads what is hidden only
        guess_XD = model.guess(hidden_BTD.flatten(0, 1).index_select(0, rows_X))
        targets_X = batch.targets_BT.flatten().index_select(0, rows_X)
        scores = replace(score(guess_XD, model.tokens, targets_X, model.guess.bias, z_loss), rows_X=rows_X)
        total, count = scores.sums()
        return Loss(total, count, by_source(scores, batch.ids_BT.shape[1], batch.sources_B, sources))

    return loss
