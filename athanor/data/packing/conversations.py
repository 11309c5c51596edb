"""Packing conversations into rows of one length: several whole conversations per row, never a piece of one.

Shapes: R rows, B rows of one rank at one step, T = context. Targets are -100 where nothing is to be learnt.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from athanor.base.errors import AthanorError
from athanor.data.packing.batches import IGNORED, Batch, Numbers, Rows

TooLong = Literal["refuse", "truncate", "split"]
IdsAndMask = tuple[Sequence[int], Sequence[bool]]


@dataclass(frozen=True, slots=True)
class PackedConversations:
    """Rows of whole conversations, with the same `batch` as token windows.

    Attributes:
        ids_RT, targets_RT, documents_RT: int64; padding has id 0, target -100 and a document number of its own.
        conversations: how many there were.
        learnt: number of positions with a target.
        filled: share of the positions that hold a conversation.
    """

    ids_RT: Numbers
    targets_RT: Numbers
    documents_RT: Numbers
    conversations: int
    learnt: int
    filled: float

    def batch(self, step: int, rows: int, seed: int = 0, rank: int = 0, world: int = 1) -> Batch:
        """The share of `rank` in the `rows` rows of `step`: a pure function of these numbers."""
        chosen = Rows(len(self.ids_RT), rows, seed).at(step, rank, world)
        return Batch(self.ids_RT[chosen], self.targets_RT[chosen], self.documents_RT[chosen])

    def members(self, step: int, rows: int, seed: int = 0) -> list[int]:
        """Numbers of the conversations that a step reads, in the order of its rows."""
        read_BT = self.documents_RT[Rows(len(self.ids_RT), rows, seed).at(step)]
        numbers = dict.fromkeys(read_BT[read_BT < self.conversations].tolist())
        return list(numbers)

    def steps_per_epoch(self, rows: int) -> int:
        """Steps after which every conversation was seen once."""
        return -(-len(self.ids_RT) // rows)


def pack_conversations(
    rendered: Iterable[IdsAndMask], context: int, too_long: TooLong = "refuse"
) -> PackedConversations:
    """Pack rendered conversations (ids, mask) into rows of `context` tokens, best fit first.

    The longest are placed first, each into the row it fills best; equal lengths keep their order, so the result is the
    same every time. The mask says which tokens are learnt; the first token of a conversation is never a target.

    Args:
        too_long: what to do with a conversation longer than `context`: refuse it, truncate its end, or split it.

    Raises:
        AthanorError: a conversation is longer than a row and `too_long` is "refuse"; nothing is left to learn.
    """
    given = list(rendered)
    pieces, owners = fit(given, context, too_long)
    if not any(any(mask[1:]) for _, mask in pieces):
        raise AthanorError(f"none of {len(pieces)} conversations has an answer to learn from", fix="check the data")
    rows = _best_fit([len(ids) for ids, _ in pieces], context)
    ids_RT = np.zeros((len(rows), context), dtype=np.int64)
    targets_RT = np.full((len(rows), context), IGNORED, dtype=np.int64)
    documents_RT = np.full((len(rows), context), len(given), dtype=np.int64)
    for row, members in enumerate(rows):
        place = 0
        for number in members:
            ids, mask = (np.asarray(part) for part in pieces[number])
            end = place + len(ids)
            ids_RT[row, place:end] = ids
            # Two pieces of one conversation never share a row: all but its last fill one.
            documents_RT[row, place:end] = owners[number]
            targets_RT[row, place : end - 1] = np.where(mask[1:], ids[1:], IGNORED)
            place = end
    tokens = sum(len(ids) for ids, _ in pieces)
    learnt = int(np.count_nonzero(targets_RT != IGNORED))
    return PackedConversations(ids_RT, targets_RT, documents_RT, len(given), learnt, tokens / ids_RT.size)


def fit(rendered: Sequence[IdsAndMask], context: int, too_long: TooLong) -> tuple[list[IdsAndMask], list[int]]:
    """Pieces of at most `context` tokens, and the number of the conversation that each is of; empty ones have none."""
    pieces: list[IdsAndMask] = []
    owners: list[int] = []
    for number, (ids, mask) in enumerate(rendered):
        if len(ids) != len(mask):
            raise AthanorError(f"conversation {number} has {len(ids)} ids and {len(mask)} mask entries")
        if len(ids) > context and too_long == "refuse":
            raise AthanorError(
                f"conversation {number} has {len(ids)} tokens, a row holds {context}",
                allowed="too_long: refuse, truncate, split",
                fix="raise the context, leave the conversation out, or set too_long",
            )
        end = context if too_long == "truncate" else len(ids)
        for at in range(0, min(end, len(ids)), context):
            pieces.append((ids[at : at + context], mask[at : at + context]))
            owners.append(number)
    return pieces, owners


def _best_fit(lengths: list[int], context: int) -> list[list[int]]:
    """Best-fit decreasing: which pieces share a row."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for number in sorted(range(len(lengths)), key=lambda item: (-lengths[item], item)):
        place = bisect_left(room, (lengths[number], -1))
        if place < len(room):
            free, row = room.pop(place)
        else:
            free, row = context, len(rows)
            rows.append([])
        rows[row].append(number)
        if free > lengths[number]:
            insort(room, (free - lengths[number], row))
    return rows
