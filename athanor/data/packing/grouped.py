"""Conversations one to a row, those of like length in one step: what packing is compared with.

Nothing is cut and nothing shares a row, at the price of padding: a step is as wide as its longest conversation.

Shapes: B rows of one rank at one step, T width of a step. Targets are -100 where nothing is to be learnt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from athanor.base.errors import AthanorError
from athanor.data.packing.batches import IGNORED, Batch, Numbers, Rows
from athanor.data.packing.conversations import IdsAndMask

WIDTHS = 8  # a step's width is a multiple of this: products of odd sizes are slower


@dataclass(frozen=True, slots=True)
class GroupedConversations:
    """Groups of conversations, sorted by length before they were cut; an epoch shuffles the groups.

    Attributes:
        pieces: (ids, mask) of every conversation.
        groups: numbers of the conversations of each step.
    """

    pieces: Sequence[IdsAndMask]
    groups: Sequence[Sequence[int]]

    @property
    def conversations(self) -> int:
        """How many there are."""
        return len(self.pieces)

    @property
    def width(self) -> float:
        """Mean width of a step, tokens."""
        return float(np.mean([self._width(group) for group in self.groups]))

    @property
    def filled(self) -> float:
        """Share of the positions that hold a conversation."""
        tokens = sum(len(ids) for ids, _ in self.pieces)
        return tokens / sum(len(group) * self._width(group) for group in self.groups)

    def batch(self, step: int, rows: int, seed: int = 0, rank: int = 0, world: int = 1) -> Batch:
        """The share of `rank` in the `rows` rows of `step`: a pure function of these numbers."""
        if rows % world:
            raise AthanorError(f"{rows} rows per step cannot be shared by {world} machines", allowed="a multiple")
        group = self._group(step, seed)
        shape = (rows, self._width(group))
        ids_BT, targets_BT = np.zeros(shape, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
        documents_BT = np.ones(shape, dtype=np.int64)
        for row, number in enumerate(group):
            ids, mask = (np.asarray(part) for part in self.pieces[number])
            ids_BT[row, : len(ids)] = ids
            documents_BT[row, : len(ids)] = 0
            targets_BT[row, : len(ids) - 1] = np.where(mask[1:], ids[1:], IGNORED)
        mine = slice(rank * rows // world, (rank + 1) * rows // world)
        return Batch(ids_BT[mine], targets_BT[mine], documents_BT[mine])

    def members(self, step: int, rows: int, seed: int = 0) -> list[int]:
        """Numbers of the conversations that a step reads."""
        return list(self._group(step, seed))

    def steps_per_epoch(self, rows: int) -> int:
        """Steps after which every conversation was seen once."""
        return len(self.groups)

    def group_of_conversation(self) -> Numbers:
        """The group of each conversation."""
        groups = np.zeros(len(self.pieces), dtype=np.int64)
        for number, group in enumerate(self.groups):
            groups[list(group)] = number
        return groups

    def _group(self, step: int, seed: int) -> Sequence[int]:
        return self.groups[int(Rows(len(self.groups), 1, seed).at(step)[0])]

    def _width(self, group: Sequence[int]) -> int:
        longest = max(len(self.pieces[number][0]) for number in group)
        return -(-longest // WIDTHS) * WIDTHS


def group_conversations(pieces: Sequence[IdsAndMask], rows: int) -> GroupedConversations:
    """Sort by length and cut into groups of `rows`; equal lengths keep their order.

    Raises:
        AthanorError: there is nothing to learn from.
    """
    if not any(any(mask[1:]) for _, mask in pieces):
        raise AthanorError(f"none of {len(pieces)} conversations has an answer to learn from", fix="check the data")
    order = sorted(range(len(pieces)), key=lambda number: (-len(pieces[number][0]), number))
    return GroupedConversations(pieces, [order[first : first + rows] for first in range(0, len(order), rows)])
