"""Filling in blanks: what GLM reads, and where each token stands (Du et al. 2022, section 2.1).

A text loses spans of tokens, and each leaves one mask token behind. Part A is what is left: its tokens see each other
in both directions. Part B holds the spans, one after another in any order: a start token, then the span, written from
left to right; its tokens see part A and what of part B stands before them.

A token has two positions. Its place is its index in part A, and for a token of part B that of the mask it stands for.
Its step is 0 in part A and counts from 1, the start token, in each span. GLM and ChatGLM-6B use both
(`position_axes=2`); GLM-130B uses places only, and after [gMASK], which asks for an open ending, its places count on.

Token ids go in and come out: which ids the special tokens have is the tokenizer's business.

Shape letters: B rows, T and S positions, A axes of a position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from athanor.models.language import IGNORED

Span = tuple[int, int]  # first index, and the index after the last


@dataclass(frozen=True)
class Row:
    """One text as the network reads it; a number per token in each list.

    Attributes:
        ids: part A, then part B.
        places: the first axis of positions.
        steps: the second axis.
        targets: what each token is to predict; -100: nothing.
        context: tokens of part A.
        counts_on: whether places of part B go on counting after part A.
    """

    ids: tuple[int, ...]
    places: tuple[int, ...]
    steps: tuple[int, ...]
    targets: tuple[int, ...]
    context: int
    counts_on: bool = False

    def position(self, step: int) -> tuple[int, int]:
        """Place and step of the answer's token number `step` (the start token is 1), written or still to be written.

        For rows with one span, which is what answers are.
        """
        first = self.places[self.context]
        return first + (step - 1 if self.counts_on else 0), step


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, as `LanguageModel.hidden` and `.loss` take them.

    Attributes:
        ids_BT: token ids, padded at the right.
        positions_BT: places, (B, T); or with two axes places and steps, (B, T, 2).
        allowed_BTS: who may attend to whom (bool); a padding is seen by nobody but itself.
        targets_BT: what each position is to predict; -100: nothing.
    """

    ids_BT: Tensor
    positions_BT: Tensor
    allowed_BTS: Tensor
    targets_BT: Tensor


def training_row(ids: Sequence[int], spans: Sequence[Span], *, mask: int, start: int, end: int) -> Row:
    """A text with its spans taken out and put behind it (section 2.1, figure 2).

    Args:
        ids: the text.
        spans: what to take out, in the order in which it is filled in again; the paper shuffles them.
        mask: id of the token left in place of a span.
        start: id of the token each span begins with, [sop].
        end: id of what is predicted after a span, [eop].

    Raises:
        ValueError: a span is empty, outside of the text, or overlaps another; or there is none.
    """
    ordered = sorted(spans)
    before = [0, *(stop for _, stop in ordered)]
    if not spans or any(first < last or stop <= first for last, (first, stop) in zip(before, ordered, strict=False)):
        raise ValueError(f"spans {list(spans)}: one or more that are not empty and do not overlap")
    if ordered[-1][1] > len(ids):
        raise ValueError(f"span {ordered[-1]} is outside of a text of {len(ids)} tokens")
    part_a: list[int] = []
    place_of: dict[Span, int] = {}
    for last, span in zip(before, ordered, strict=False):
        part_a += ids[last : span[0]]
        place_of[span] = len(part_a)
        part_a.append(mask)
    part_a += ids[before[-1] :]
    part_b, places, steps, targets = [], list(range(len(part_a))), [0] * len(part_a), [IGNORED] * len(part_a)
    for span in spans:
        words = list(ids[span[0] : span[1]])
        part_b += [start, *words]
        targets += [*words, end]
        places += [place_of[span]] * (len(words) + 1)
        steps += range(1, len(words) + 2)
    return Row((*part_a, *part_b), tuple(places), tuple(steps), tuple(targets), len(part_a))


def answer_row(
    context: Sequence[int],
    answer: Sequence[int] = (),
    *,
    mask: int,
    start: int,
    end: int | None = None,
    counts_on: bool = False,
) -> Row:
    """A context with one mask token, then what stands for it: a prompt, or a prompt with its answer.

    Args:
        context: part A; where the mask token is there several times, the first is meant.
        answer: what has been written so far, or what is to be learned.
        mask: id of [MASK] (a blank) or [gMASK] (an open ending).
        start: id of the token an answer begins with.
        end: id of what is to be predicted after the answer; None: nothing is scored.
        counts_on: GLM-130B with [gMASK]: places go on counting after part A.

    Raises:
        ValueError: the context has no such mask token.
    """
    if mask not in context:
        raise ValueError(f"the context has no mask token {mask}")
    count = len(answer) + 1
    place = list(context).index(mask)
    written = range(len(context), len(context) + count) if counts_on else [place] * count
    targets = [IGNORED] * count if end is None else [*answer, end]
    return Row(
        ids=(*context, start, *answer),
        places=(*range(len(context)), *written),
        steps=(*[0] * len(context), *range(1, count + 1)),
        targets=(*[IGNORED] * len(context), *targets),
        context=len(context),
        counts_on=counts_on,
    )


def batch_rows(rows: Sequence[Row], *, pad: int, axes: int) -> Batch:
    """Rows side by side, the shorter ones padded at the right.

    Args:
        rows: of any lengths.
        pad: id the padding has.
        axes: `position_axes` of the network: 1, places only, or 2.
    """
    length = max(len(row.ids) for row in rows)
    ids_BT = padded([row.ids for row in rows], length, pad)
    places_BT, steps_BT = (
        padded([row.places for row in rows], length, 0),
        padded([row.steps for row in rows], length, 0),
    )
    place_T = torch.arange(length)
    lengths_B11 = torch.tensor([len(row.ids) for row in rows])[:, None, None]
    contexts_B11 = torch.tensor([row.context for row in rows])[:, None, None]
    allowed_BTS = ((place_T <= place_T[:, None]) | (place_T < contexts_B11)) & (place_T < lengths_B11)
    return Batch(
        ids_BT=ids_BT,
        positions_BT=places_BT if axes == 1 else torch.stack((places_BT, steps_BT), -1),
        allowed_BTS=allowed_BTS | torch.eye(length, dtype=torch.bool),
        targets_BT=padded([row.targets for row in rows], length, IGNORED),
    )


def padded(rows: Sequence[Sequence[int]], length: int, filler: int) -> Tensor:
    """Rows of numbers as one tensor (B, T)."""
    return torch.tensor([[*row, *[filler] * (length - len(row))] for row in rows])


def draw_blanks(length: int, generator: torch.Generator, *, share: float = 0.15, mean: float = 3.0) -> list[Span]:
    """Short spans of a text, in random order, that together hold at least `share` of its tokens (section 2.1).

    Lengths follow a Poisson distribution (a span of no token is drawn again), places are uniform, and between two spans
    at least one token stays, so that two blanks never touch.

    Args:
        length: tokens of the text, at least 1.
        generator: on the CPU; the same one gives the same spans.
        share: of all tokens, what is taken out at least.
        mean: of the lengths.
    """
    sizes: list[int] = []
    while sum(sizes) < share * length:
        room = length - sum(sizes) - len(sizes)  # a token stays after each span
        size = int(torch.poisson(torch.tensor(mean), generator=generator))
        if room < 1:
            break
        if size:
            sizes.append(min(size, room))
    count = len(sizes)
    free = length - sum(sizes) - (count - 1)  # tokens that may stand anywhere between the spans
    bars = sorted(torch.randperm(free + count, generator=generator)[:count].tolist())
    spans, taken = [], 0
    for bar, size in zip(bars, sizes, strict=True):
        spans.append((bar + taken, bar + taken + size))
        taken += size
    return [spans[number] for number in torch.randperm(count, generator=generator).tolist()]


def draw_ending(length: int, generator: torch.Generator, *, least: float = 0.5) -> Span:
    """One long span up to the end of a text, for [gMASK]: `least` to all of its tokens (section 2.1, document-level).

    Args:
        length: tokens of the text, at least 1.
        generator: on the CPU.
        least: the smallest share of all tokens.
    """
    shortest = max(1, round(least * length))
    size = int(torch.randint(shortest, length + 1, (), generator=generator))
    return length - size, length
