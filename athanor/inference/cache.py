"""Keys and values of the tokens computed so far, one row per answer.

Shape letters: B rows, T new positions, S positions so far, K key/value heads, H width of a head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from athanor.models.config import TransformerConfig

SMALLEST_CAPACITY = 64


class KeyValueCache:
    """Rows of keys and values; row b's token at position p stands at index p.

    A call of the model is announced by `begin_chunk` (prompts: all rows, the same positions) or `begin_decode`
    (answers: one token per row, each at its own position). Memory is zeroed: a masked NaN would still poison a sum.
    """

    def __init__(self, config: TransformerConfig, rows: int, capacity: int, dtype: torch.dtype, device: torch.device):
        self.rows, self.capacity = rows, 0
        self.shape = (config.key_heads, config.head_size)
        self.kv = [torch.zeros((2, rows, self.shape[0], 0, self.shape[1]), dtype=dtype, device=device)] * config.layers
        self.device, self.mask_BTS = device, torch.empty(0)
        self.reserve(capacity)

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` positions per row."""
        if capacity <= self.capacity:
            return
        self.capacity = max(capacity, 2 * self.capacity, SMALLEST_CAPACITY)
        for layer, old in enumerate(self.kv):
            heads, width = self.shape
            new = torch.zeros((2, self.rows, heads, self.capacity, width), dtype=old.dtype, device=self.device)
            new[:, :, :, : old.shape[3]] = old
            self.kv[layer] = new

    def begin_chunk(self, start: int, count: int, contexts: list[int] | None = None) -> Tensor:
        """Every row adds the positions `start` to `start + count`; returns them, (B, T).

        Args:
            contexts: how many tokens of each row are seen by all of its others; None: none.
        """
        assert contexts is None or start == 0, "a context is computed whole"
        self.reserve(start + count)
        self.used, self.place = self.rows, slice(start, start + count)
        self.length = start + count
        query_T = torch.arange(start, start + count, device=self.device)
        key_S = torch.arange(self.length, device=self.device)
        self.mask_BTS = (key_S <= query_T[:, None]).expand(self.rows, -1, -1)
        if contexts is not None:
            self.mask_BTS = self.mask_BTS | (key_S < torch.tensor(contexts, device=self.device)[:, None, None])
        return query_T.expand(self.rows, -1)

    def begin_decode(self, positions: list[int]) -> Tensor:
        """The first rows add one token each, at these positions; returns them, (B, 1)."""
        self.length = max(positions) + 1
        self.reserve(self.length)
        self.used = len(positions)
        positions_B1 = torch.tensor(positions, device=self.device)[:, None]
        self.place = positions_B1[:, 0]
        self.row_B = torch.arange(self.used, device=self.device)
        self.mask_BTS = (torch.arange(self.length, device=self.device) <= positions_B1)[:, None]
        return positions_B1

    def append(self, layer: int, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values; all of the layer's so far, (B, K, S, H) each, as views."""
        keys, values = self.kv[layer][:, : self.used]
        if isinstance(self.place, slice):
            keys[:, :, self.place] = k_BKTH
            values[:, :, self.place] = v_BKTH
        else:
            keys[self.row_B, :, self.place] = k_BKTH[:, :, 0]
            values[self.row_B, :, self.place] = v_BKTH[:, :, 0]
        return keys[:, :, : self.length], values[:, :, : self.length]

    def adopt(self, row: int, other: "KeyValueCache", source: int, count: int) -> None:
        """Copy the first `count` positions of another cache's row into a row of this one."""
        self.reserve(count)
        for mine, theirs in zip(self.kv, other.kv, strict=True):
            mine[:, row, :, :count] = theirs[:, source, :, :count]

    def rearrange(self, order: Sequence[int]) -> None:
        """From now on the rows are these of the old ones, any of them again or not at all."""
        rows = torch.tensor(order, device=self.device)
        self.kv = [old[:, rows] for old in self.kv]
        self.rows = len(order)
