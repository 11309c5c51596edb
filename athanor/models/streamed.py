"""A language model run layer by layer from its files: what is in memory is one layer, whatever the model's size.

Slow, since everything is read for every call: for comparing two copies of a model that does not fit, not for answering.

Shape letters as in `transformer.py`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from athanor.models.convert import Stored, fill_one, rows_of
from athanor.models.families import Family
from athanor.models.language import LanguageModel


@torch.inference_mode()
def streamed_logits(
    family: Family, config: object, stored: Stored, prompts: Iterable[list[int]], dtype: torch.dtype
) -> list[Tensor]:
    """Logits of each prompt, (T, V) float32, with one layer or the embedding in memory at a time.

    Args:
        stored: where tensors are read from by name, as `load_network` does.
        dtype: number type to compute in.
    """
    with torch.device("meta"):
        model = LanguageModel(config).to(dtype)
    reader = Reader(model, family, stored)
    rows = []
    for part in (model.tokens, model.positions, model.span_positions, model.embedding_norm):
        reader.fill(part)
    for ids in prompts:
        ids_BT = torch.tensor([ids])
        positions_BT = model.places(ids_BT, None)
        x_BTD = model.embed(ids_BT, positions_BT)
        rows.append((x_BTD, model.trunk.places(x_BTD, positions_BT=positions_BT)))
    reader.empty()
    for block in model.trunk.blocks:
        reader.fill(block)
        rows = [(block(x_BTD, places, None), places) for x_BTD, places in rows]
        reader.empty()
    for part in (model.trunk.norm, model.tokens if model.head is None else model.head):
        reader.fill(part)
    return [model.logits(x_BTD if model.trunk.norm is None else model.trunk.norm(x_BTD))[0] for x_BTD, _ in rows]


class Reader:
    """Fills parts of a network that is on the meta device, and empties them again."""

    def __init__(self, model: LanguageModel, family: Family, stored: Stored):
        self.model, self.stored = model, stored
        self.rows = {name: (row, theirs) for name, row, theirs in rows_of(family, model.state_dict())}
        self.names = {id(module): name for name, module in model.named_modules()}
        self.filled: list[nn.Module] = []

    def fill(self, part: nn.Module | None) -> None:
        """Read the weights of a part (None: there is no such part)."""
        if part is None:
            return
        part.to_empty(device="cpu")
        self.filled.append(part)
        for name, weight in part.state_dict().items():
            row, theirs = self.rows[f"{self.names[id(part)]}.{name}"]
            fill_one(weight, row, theirs, self.model.config, self.stored)

    def empty(self) -> None:
        """Give the memory of every filled part back."""
        for part in self.filled:
            part.to("meta")
        self.filled.clear()
