"""Span corruption: what T5 is pretrained on (Raffel et al. 2020, sections 3.1.4 and 3.3.4).

    loss = -sum over t of log p(y_t | y_<t, the text with its spans taken out)

15 % of a text's tokens are taken out in spans of 3 on average. Each span leaves a sentinel behind, another for each;
what is written is every sentinel with the span it stands for, in order, and an end. Number and total length of the
spans are fixed by the length of the text, and drawn is how the tokens are shared among them (the authors' published
code, `random_spans_noise_mask`).

Shapes: B rows, S positions of the source, T positions of what is written.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from athanor.data.packing.batches import IGNORED, Batch, Numbers
from athanor.models.language import score
from athanor.models.seq2seq import EncoderDecoder, shifted
from athanor.training.objective import Loss
from athanor.training.objectives.draws import Span, by_source, on_device, texts

DENSITY, MEAN = 0.15, 3.0


class SpanBatch(NamedTuple):
    """Texts with spans taken out, and what is to be written.

    Attributes:
        source_BS: what the encoder reads.
        seen_BS: bool, False where that is padding.
        ids_BT: what the decoder reads: the targets, one place later.
        targets_BT: sentinels and spans; -100 where nothing is to be written.
        sources_B: number of the source each row comes from; None: one source.
    """

    source_BS: Tensor
    seen_BS: Tensor
    ids_BT: Tensor
    targets_BT: Tensor
    sources_B: Tensor | None = None


def corrupt(
    batch: Batch,
    numbers: Sequence[np.random.Generator],
    device: torch.device,
    *,
    sentinels: Sequence[int],
    end: int,
    pad: int,
    density: float = DENSITY,
    mean: float = MEAN,
) -> SpanBatch:
    """Take spans out of each row.

    Args:
        numbers: random numbers for each row.
        sentinels: their ids, in order; as many as `most_spans` says.
        end: id that ends source and target.
        pad: id of padding, which a decoder begins with, too (T5).
        density: share of the tokens that is taken out.
        mean: length of a span.
    """
    pairs = []
    for ids_T, random in zip(texts(batch), numbers, strict=True):
        spans = noise_spans(len(ids_T), random, density, mean)
        source, target = taken_out(ids_T, spans, sentinels)
        pairs.append((np.append(source, end), np.append(target, end)))
    source_BS, targets_BT = (
        side_by_side([pair[side] for pair in pairs], filler) for side, filler in ((0, -1), (1, IGNORED))
    )
    seen_BS = source_BS >= 0
    source_BS, seen_BS, targets_BT = on_device(device, np.where(seen_BS, source_BS, pad), seen_BS, targets_BT)
    return SpanBatch(source_BS, seen_BS, shifted(targets_BT, start=pad, padding=pad), targets_BT)


def noise_counts(length: int, density: float, mean: float) -> tuple[int, int]:
    """How many tokens of a text are taken out, and in how many spans; at least one token stays before each."""
    tokens = min(max(round(length * density), 1), length - 1)
    return tokens, min(max(round(tokens / mean), 1), length - tokens, tokens)


def most_spans(length: int, density: float = DENSITY, mean: float = MEAN) -> int:
    """The most spans of any text of up to `length` tokens: so many sentinels are needed."""
    return max(noise_counts(one, density, mean)[1] for one in range(1, length + 1))


def noise_spans(length: int, random: np.random.Generator, density: float, mean: float) -> list[Span]:
    """The spans to take out: tokens that stay and tokens that go take turns, and the last ones go."""
    gone, count = noise_counts(length, density, mean)
    if not count:
        return []  # a text of one token
    stay_C, go_C = shares(length - gone, count, random), shares(gone, count, random)
    stops_C = np.cumsum(stay_C + go_C)
    return list(zip((stops_C - go_C).tolist(), stops_C.tolist(), strict=True))


def shares(total: int, count: int, random: np.random.Generator) -> Numbers:
    """`total` shared among `count`, each at least 1, every way as likely as any other."""
    cuts = np.sort(random.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def taken_out(ids_T: Numbers, spans: Sequence[Span], sentinels: Sequence[int]) -> tuple[Numbers, Numbers]:
    """The text with a sentinel for each span, and each sentinel with its span."""
    source: list[Numbers] = []
    target: list[Numbers] = []
    before = 0
    for (first, stop), sentinel in zip(spans, sentinels, strict=False):
        mark = np.array([sentinel], dtype=np.int64)
        source += [ids_T[before:first], mark]
        target += [mark, ids_T[first:stop]]
        before = stop
    nothing = np.zeros(0, dtype=np.int64)
    return np.concatenate([nothing, *source, ids_T[before:]]), np.concatenate([nothing, *target])


def side_by_side(rows: Sequence[Numbers], filler: int) -> Numbers:
    """Rows of any lengths as one array, filled up at the right."""
    filled = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
    for row, ids in zip(filled, rows, strict=True):
        row[: len(ids)] = ids
    return filled


def span_corruption_loss(
    z_loss: float = 0.0, sources: Mapping[int, str] | None = None
) -> Callable[[nn.Module, SpanBatch], Loss]:
    """The loss of an `EncoderDecoder`; the arguments are those of `masked.masked_loss`."""

    def loss(model: nn.Module, batch: SpanBatch) -> Loss:
        assert isinstance(model, EncoderDecoder)
        memory = model.encode(batch.source_BS, batch.seen_BS)
        hidden_BTD = model.scaled(model.decode(batch.ids_BT, memory))
        head = model.tokens if model.head is None else model.head
        scores = score(hidden_BTD, head, batch.targets_BT, z_loss=z_loss)
        total, count = scores.sums()
        return Loss(total, count, by_source(scores, batch.ids_BT.shape[1], batch.sources_B, sources))

    return loss
