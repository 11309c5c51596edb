"""Blank infilling: what GLM is pretrained on (Du et al. 2022, equation 1).

    loss = -sum over spans s_i in an order, sum over its tokens j of log p(s_ij | the text with blanks, s_<i, s_i<j)

Two kinds of blanks, one for each row by chance. [MASK]: short spans, of lengths from Poisson(3), that together hold
15 % of the text (section 2.1). [gMASK]: one long span to the end of the text, half of it or more (section 2.2,
document level), by which the network learns to write. GLM-130B (Zeng et al. 2022, section 2.2) takes 30 % of the first
and 70 % of the second. How rows are laid out, with two positions for each token, is in `models/glm.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from athanor.data.packing.batches import Batch
from athanor.models.glm import Row, batch_rows, draw_blanks, draw_ending, training_row
from athanor.models.language import LanguageModel
from athanor.training.objective import Loss
from athanor.training.objectives.draws import by_source, texts

SHARE, MEAN = 0.15, 3.0
LONG = 0.5


class BlankBatch(NamedTuple):
    """Rows as `LanguageModel.hidden` takes them; see `models.glm.Batch`.

    Attributes:
        sources_B: number of the source each row comes from; None: one source.
    """

    ids_BT: Tensor
    positions_BT: Tensor
    allowed_BTS: Tensor
    targets_BT: Tensor
    sources_B: Tensor | None = None


class Marks(NamedTuple):
    """Ids of GLM's special tokens: a short blank, a long one, the start and the end of what fills it."""

    mask: int
    gmask: int
    start: int
    end: int


def blank(
    batch: Batch,
    numbers: Sequence[np.random.Generator],
    device: torch.device,
    *,
    marks: Marks,
    pad: int,
    axes: int,
    long: float = LONG,
    share: float = SHARE,
    mean: float = MEAN,
) -> BlankBatch:
    """Take spans out of each row, and put them behind it.

    Args:
        numbers: random numbers for each row.
        pad: id of padding.
        axes: `position_axes` of the network.
        long: share of the rows that lose their end, not short spans.
        share, mean: of the short spans, see `models.glm.draw_blanks`.
    """
    rows = [
        blanked(ids_T.tolist(), random, marks, long, share, mean)
        for ids_T, random in zip(texts(batch), numbers, strict=True)
    ]
    made = batch_rows(rows, pad=pad, axes=axes)
    return BlankBatch(
        *(part.to(device) for part in (made.ids_BT, made.positions_BT, made.allowed_BTS, made.targets_BT))
    )


def blanked(ids: list[int], random: np.random.Generator, marks: Marks, long: float, share: float, mean: float) -> Row:
    """One text with a long blank or short ones."""
    generator = torch.Generator().manual_seed(int(random.integers(2**62)))
    if random.random() < long:
        return training_row(ids, [draw_ending(len(ids), generator)], mask=marks.gmask, start=marks.start, end=marks.end)
    spans = draw_blanks(len(ids), generator, share=share, mean=mean)
    return training_row(ids, spans, mask=marks.mask, start=marks.start, end=marks.end)


def longest_row(length: int, share: float = SHARE) -> int:
    """Positions of the longest row that a text of `length` tokens can become: two more for each span."""
    return length + 2 * max(1, int(np.ceil(share * length)))


def blank_infilling_loss(
    z_loss: float = 0.0, sources: Mapping[int, str] | None = None
) -> Callable[[nn.Module, BlankBatch], Loss]:
    """The loss of a `LanguageModel`; the arguments are those of `masked.masked_loss`."""

    def loss(model: nn.Module, batch: BlankBatch) -> Loss:
        assert isinstance(model, LanguageModel)
        hidden_BTD = model.hidden(batch.ids_BT, positions_BT=batch.positions_BT, allowed_BTS=batch.allowed_BTS)
        scores = model.score(hidden_BTD, batch.targets_BT, z_loss)
        total, count = scores.sums()
        return Loss(total, count, by_source(scores, batch.ids_BT.shape[1], batch.sources_B, sources))

    return loss
