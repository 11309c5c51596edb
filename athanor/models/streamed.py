"""A language model run layer by layer from its files: what is in memory is one layer, whatever the model's size.

Slow, since everything is read for every call: for comparing two copies of a model that does not fit, not for answering.

Shape letters as in `transformer.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from athanor.models.config import TransformerConfig
from athanor.models.convert import Stored, check_shapes, fill_one, read_object, refuse_pickles, rows_of
from athanor.models.language import LanguageModel
from athanor.models.settings import read_config

Fill = Callable[[str, Tensor], None]  # puts the numbers of one of our tensors in their place


def filler_of(folder: Path) -> tuple[TransformerConfig, Fill]:
    """The network a Hugging Face folder describes, and what reads its tensors.

    Raises:
        AthanorError: what `load_checkpoint` refuses before it reads weights.
    """
    refuse_pickles(folder)
    family, config = read_config(read_object(folder / "config.json"), str(folder / "config.json"))
    stored = Stored(folder, family.other_names)
    with torch.device("meta"):
        model = LanguageModel(config)
        check_shapes(model, family, stored)
        rows = {name: (row, theirs) for name, row, theirs in rows_of(family, model.state_dict())}

    def fill(name: str, weight: Tensor) -> None:
        fill_one(weight, *rows[name], config, stored)

    return config, fill


@torch.inference_mode()
def streamed_logits(
    config: TransformerConfig, fill: Fill, prompts: Iterable[Mapping[str, Tensor]], dtype: torch.dtype
) -> list[Tensor]:
    """Logits of each prompt, (T, V) float32, with one layer or the embedding in memory at a time.

    Args:
        fill: reads a tensor of ours by its name.
        prompts: one row each, as arguments of `LanguageModel.hidden`: ids_BT, and perhaps positions_BT and allowed_BTS.
        dtype: number type to compute in.
    """
    with torch.device("meta"):
        model = LanguageModel(config).to(dtype)
    reader = Reader(model, fill)
    rows = []
    for part in (model.tokens, model.positions, model.span_positions, model.embedding_norm):
        reader.fill(part)
    for prompt in prompts:
        positions_BT = prompt.get("positions_BT")
        positions_BT = model.places(prompt["ids_BT"], None) if positions_BT is None else positions_BT
        x_BTD, allowed_BTS = model.embed(prompt["ids_BT"], positions_BT), prompt.get("allowed_BTS")
        rows.append((x_BTD, model.trunk.places(x_BTD, positions_BT=positions_BT, allowed_BTS=allowed_BTS)))
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

    def __init__(self, model: LanguageModel, fill: Fill):
        self.read = fill
        self.names = {id(module): name for name, module in model.named_modules()}
        self.filled: list[nn.Module] = []

    def fill(self, part: nn.Module | None) -> None:
        """Read the weights of a part (None: there is no such part)."""
        if part is None:
            return
        part.to_empty(device="cpu")
        self.filled.append(part)
        for name, weight in part.state_dict().items():
            self.read(f"{self.names[id(part)]}.{name}", weight)

    def empty(self) -> None:
        """Give the memory of every filled part back."""
        for part in self.filled:
            part.to("meta")
        self.filled.clear()
