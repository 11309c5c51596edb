"""Conversations one to a row, those of like length in one step: what packing is compared with.

Nothing is cut and nothing shares a row, at the price of padding: a step is as wide as its longest conversation.

Shapes: B rows of one rank at one step, T width of a step. Targets are -100 where nothing is to be learnt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from athanor.base.errors import AthanorError
from athanor.data.packing.batches import IGNORED, Batch, Numbers, Rows, bounds
from athanor.data.packing.conversations import IdsAndMask, TooLong, fit

WIDTHS = 8  # a step's width is a multiple of this: products of odd sizes are slower


@dataclass(frozen=True, slots=True)
class GroupedConversations:
    """Groups of conversations, sorted by length before they were cut; an epoch shuffles the groups.

    Attributes:
        pieces: (ids, mask) of every conversation, or of its parts where it was split.
        owners: number of the conversation that each piece is of.
        groups: numbers of the pieces of each step.
        conversations: how many there were.
    """

    pieces: Sequence[IdsAndMask]
    owners: Sequence[int]
    groups: Sequence[Sequence[int]]
    conversations: int

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
        mine = slice(*bounds(rows, rank, world))
        group = self._group(step, seed)
        shape = (rows, self._width(group))
        ids_BT, targets_BT = np.zeros(shape, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
        documents_BT = np.ones(shape, dtype=np.int64)
        for row, number in enumerate(group):
            ids, mask = (np.asarray(part) for part in self.pieces[number])
            ids_BT[row, : len(ids)] = ids
            documents_BT[row, : len(ids)] = 0
            targets_BT[row, : len(ids) - 1] = np.where(mask[1:], ids[1:], IGNORED)
        return Batch(ids_BT[mine], targets_BT[mine], documents_BT[mine])

    def members(self, step: int, rows: int, seed: int = 0) -> list[int]:
        """Numbers of the conversations that a step reads."""
        return list(dict.fromkeys(self.owners[number] for number in self._group(step, seed)))

    def steps_per_epoch(self, rows: int) -> int:
        """Steps after which every conversation was seen once."""
        return len(self.groups)

    def group_of_conversation(self) -> Numbers:
        """The group of each conversation; of one that was split, the first."""
        groups = np.zeros(self.conversations, dtype=np.int64)
        for number in reversed(range(len(self.groups))):
            groups[[self.owners[piece] for piece in self.groups[number]]] = number
        return groups

    def _group(self, step: int, seed: int) -> Sequence[int]:
        return self.groups[int(Rows(len(self.groups), 1, seed).at(step)[0])]

    def _width(self, group: Sequence[int]) -> int:
        longest = max(len(self.pieces[number][0]) for number in group)
        return -(-longest // WIDTHS) * WIDTHS


def group_conversations(
    rendered: Sequence[IdsAndMask], rows: int, context: int, too_long: TooLong = "refuse"
) -> GroupedConversations:
    """Sort by length and cut into groups of `rows`; equal lengths keep their order.

    Args:
        context, too_long: as in `pack_conversations`.

    Raises:
        AthanorError: there is nothing to learn from.
    """
    pieces, owners = fit(rendered, context, too_long)
    if not any(any(mask[1:]) for _, mask in pieces):
        raise AthanorError(f"none of {len(pieces)} conversations has an answer to learn from", fix="check the data")
    order = sorted(range(len(pieces)), key=lambda number: (-len(pieces[number][0]), number))
    groups = [order[first : first + rows] for first in range(0, len(order), rows)]
    return GroupedConversations(pieces, owners, groups, len(rendered))
