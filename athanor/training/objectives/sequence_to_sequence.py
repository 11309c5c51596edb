"""Sequence to sequence: read a source, write a target (Sutskever et al. 2014; Raffel et al. 2020, section 2.4).

    loss = -sum over t of log p(y_t | y_<t, x)

With label smoothing e, each target shares e of its probability evenly among all V tokens (Szegedy et al. 2016, section
7; Vaswani et al. 2017, section 5.4):

    loss = (1 - e) nll + e mean over v of -log p(v)  =  nll + e (score of the target - mean of all scores)

since -log p(v) = log sum exp(scores) - score(v). T5 begins with padding, and a text before the source says what to do;
M2M-100 (Fan et al. 2020, section 2.1) puts a token of its language before the source, and another before the target.

Shapes: B rows, S positions of the source, T positions of what is written, X of those with a target, D width, V ids.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from athanor.data.packing.batches import IGNORED, Numbers
from athanor.models.language import score
from athanor.models.seq2seq import EncoderDecoder, shifted
from athanor.training.objective import Loss
from athanor.training.objectives.draws import on_device
from athanor.training.objectives.span_corruption import side_by_side


class PairSigns(NamedTuple):
    """Ids of the tokens that stand around source and target.

    Attributes:
        start: what a decoder reads first: padding for T5, the end of a text for M2M-100.
        source, target: tokens of the languages; None: none are written (T5).
    """

    start: int
    end: int
    pad: int
    source: int | None = None
    target: int | None = None


class PairBatch(NamedTuple):
    """Sources, and what is to be written of them.

    Attributes:
        source_BS: padded at the right.
        seen_BS: bool, False where that is padding.
        ids_BT: what the decoder reads: the targets, one place later.
        targets_BT: -100 where nothing is to be written.
    """

    source_BS: Tensor
    seen_BS: Tensor
    ids_BT: Tensor
    targets_BT: Tensor


def pair_of(source: Sequence[int], target: Sequence[int], signs: PairSigns) -> tuple[Numbers, Numbers]:
    """A source and a target with what stands around them."""
    before = ([] if sign is None else [sign] for sign in (signs.source, signs.target))
    rows = ([*sign, *ids, signs.end] for sign, ids in zip(before, (source, target), strict=True))
    source_S, target_T = (np.array(row, dtype=np.int64) for row in rows)
    return source_S, target_T


def pair_batch(pairs: Sequence[tuple[Numbers, Numbers]], signs: PairSigns, device: torch.device) -> PairBatch:
    """Pairs side by side."""
    source_BS = side_by_side([source for source, _ in pairs], -1)
    seen_BS = source_BS >= 0
    targets_BT = side_by_side([target for _, target in pairs], IGNORED)
    source, seen, targets = on_device(device, np.where(seen_BS, source_BS, signs.pad), seen_BS, targets_BT)
    return PairBatch(source, seen, shifted(targets, start=signs.start, padding=signs.pad), targets)


def sequence_loss(smoothing: float = 0.0, z_loss: float = 0.0) -> Callable[[nn.Module, PairBatch], Loss]:
    """The loss of an `EncoderDecoder`.

    Args:
        smoothing: e; the part reported as `plain` is without it.
        z_loss: see `cross_entropy.linear_cross_entropy`.
    """

    def loss(model: nn.Module, batch: PairBatch) -> Loss:
        assert isinstance(model, EncoderDecoder)
        memory = model.encode(batch.source_BS, batch.seen_BS)
        hidden_BTD = model.scaled(model.decode(batch.ids_BT, memory))
        head = model.tokens if model.head is None else model.head
        scores = score(hidden_BTD, head, batch.targets_BT, z_loss=z_loss)
        total, count = scores.sums()
        if not smoothing:
            return Loss(total, count)
        written_BT = batch.targets_BT != IGNORED
        hidden_XD, targets_X = hidden_BTD[written_BT], batch.targets_BT[written_BT]
        above_X = (hidden_XD * (head.weight[targets_X] - head.weight.mean(0))).float().sum(-1)
        return Loss(total + smoothing * above_X.sum(), count, {"plain": (scores.loss_X.sum(), count)})

    return loss


@torch.no_grad()
def written(model: EncoderDecoder, batch: PairBatch, signs: PairSigns, longest: int) -> list[list[int]]:
    """What the network writes of each source, always the likeliest token, up to the end or `longest` tokens."""
    memory = model.encode(batch.source_BS, batch.seen_BS)
    first = [signs.start, *([] if signs.target is None else [signs.target])]
    ids_BT = torch.tensor([first], device=batch.source_BS.device).expand(len(batch.source_BS), -1)
    for _ in range(longest):
        next_B1 = model.logits(model.decode(ids_BT, memory)[:, -1:]).argmax(-1)
        ids_BT = torch.cat((ids_BT, next_B1), 1)
        if bool((ids_BT[:, len(first) :] == signs.end).any(1).all()):
            break
    rows = ids_BT[:, len(first) :].tolist()
    return [row[: row.index(signs.end)] if signs.end in row else row for row in rows]
