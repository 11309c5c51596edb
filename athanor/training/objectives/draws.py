"""What objectives that hide parts of a text share: each row's own random numbers, and which positions may be hidden.

A row's numbers depend on the seed, the step and its place in the step alone, so that shares in order are the batch of
a world of one, whoever computes them.

Shapes: B rows of one rank, T positions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from athanor.data.packing.batches import IGNORED, Batch, Numbers
from athanor.models.language import Scores

Span = tuple[int, int]  # first position, and the position after the last
Flags = NDArray[np.bool_]


def row_numbers(seed: int, step: int, first: int, rows: int) -> list[np.random.Generator]:
    """Random numbers for each of `rows` rows of a step, from its row `first` on."""
    return [np.random.default_rng((seed, step, first + row)) for row in range(rows)]


def padding(batch: Batch) -> Flags:
    """(B, T): the positions behind the end of a corpus.

    They are a document of their own at the end of a row in which nothing follows anything; the only other one like it
    is a document of a single token, its mark.
    """
    last_BT = batch.documents_BT == batch.documents_BT[:, -1:]
    follows_BT = last_BT & (batch.targets_BT != IGNORED)
    return last_BT & ~follows_BT.any(1, keepdims=True)


def hideable(batch: Batch, special: Sequence[int]) -> Flags:
    """(B, T): ordinary tokens of a text; no special tokens, no padding."""
    return ~padding(batch) & ~np.isin(batch.ids_BT, np.array(special, dtype=np.int64))


def texts(batch: Batch) -> list[Numbers]:
    """Each row's tokens without padding; a row that is padding alone keeps one."""
    lengths_B = np.maximum(1, (~padding(batch)).sum(1))
    return [ids_T[:length] for ids_T, length in zip(batch.ids_BT, lengths_B.tolist(), strict=True)]


def on_device(device: torch.device, *arrays: Numbers | Flags) -> list[Tensor]:
    """Arrays as tensors on a device."""
    return [torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True) for array in arrays]


def by_source(
    scores: Scores, length: int, sources_B: Tensor | None, names: Mapping[int, str] | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Sum and count of the losses of each source, for rows of `length` positions that are each of one source."""
    if sources_B is None or names is None:
        return {}
    place_X = torch.arange(len(scores.loss_X), device=sources_B.device) if scores.rows_X is None else scores.rows_X
    source_X = sources_B[place_X // length]
    return {name: ((scores.loss_X * (source_X == number)).sum(), (source_X == number).sum())
            for number, name in names.items()}  # fmt: skip
