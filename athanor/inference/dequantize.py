"""A quantised checkpoint as an ordinary one: the numbers that its codes stand for, in float32."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from athanor.inference.int4 import dequantize_int4
from athanor.inference.quantize import load_model
from athanor.models.convert import read_object, save_checkpoint
from athanor.models.language import LanguageModel


def is_quantized(folder: Path) -> bool:
    """Whether the folder's config.json says that its weights are codes."""
    return "quantization_config" in read_object(folder / "config.json")


def dequantize_checkpoint(source: Path, target: Path, generation: Mapping[str, Any]) -> None:
    """Write the weights of an INT4 checkpoint as float32, with config.json and generation_config.json."""
    quantized = load_model(source, dtype=torch.float32, kernel="plain")
    stored, config = quantized.state_dict(), quantized.config
    dense = {}
    for name, tensor in stored.items():
        stem, _, last = name.rpartition(".")
        if config.tied and stem == "head":  # the embedding's codes, a second time
            continue
        if last == "codes" and f"{stem}.zero" in stored:
            parts = {part: stored[f"{stem}.{part}"] for part in ("codes", "scale", "zero")}
            dense[f"{stem}.weight"] = dequantize_int4(**parts, dtype=torch.float32)
        elif last == "codes":
            dense[f"{stem}.weight"] = tensor.float() * stored[f"{stem}.scale"].float()[:, None]
        elif f"{stem}.codes" not in stored or last == "bias":
            dense[name] = tensor.float()
    with torch.device("meta"):
        model = LanguageModel(config)
    model.load_state_dict(dense, assign=True)
    save_checkpoint(model, target, generation=generation)
