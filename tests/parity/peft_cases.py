"""A reference's adapter as a test compares it: in PEFT's layout, with what it computes, beside our network."""

from pathlib import Path

import torch

from athanor.models.convert import load_checkpoint, read_object
from athanor.models.families import Family
from athanor.models.language import LanguageModel
from athanor.models.settings import read_config

Case = tuple[str, Path, torch.Tensor, torch.Tensor, Family, LanguageModel]


def opened(name: str, folder: Path, theirs: torch.nn.Module, base: torch.Tensor, ids_BT: torch.Tensor) -> Case:
    """The case's name, its folder, the reference's logits without and with the adapter, and our network."""
    with torch.no_grad():
        expected = theirs(ids_BT).logits
    assert (expected - base).abs().max() > 0.05, "the adapter must matter"
    family, _ = read_config(read_object(folder / "base" / "config.json"), "config.json")
    return name, folder, base, expected, family, load_checkpoint(folder / "base")
