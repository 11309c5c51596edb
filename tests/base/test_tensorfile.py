"""The safetensors writer against the safetensors library."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.base.tensorfile import TensorWriter
from athanor.models.convert import NAMES, raw

TENSORS = {
    "z": torch.randn(3, 5),
    "a.weight": torch.randn(4, 2).bfloat16(),
    "a.bias": torch.randn(7).half(),
    "count": torch.tensor(12),
    "empty": torch.zeros(0, 3),
    "名": torch.randn(2, 2, 2).bfloat16(),
}


@pytest.mark.parametrize("names", [[], ["z"], list(TENSORS), list(TENSORS)[::-1]])
def test_the_bytes_are_those_of_the_library(tmp_path: Path, names: list[str]) -> None:
    tensors = {name: TENSORS[name] for name in names}
    entries = {name: (NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    TensorWriter(tmp_path / "ours.safetensors", entries).write(lambda name: raw(tensors[name]))
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    again = load_file(tmp_path / "ours.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_bytes_that_were_not_promised_are_refused(tmp_path: Path) -> None:
    writer = TensorWriter(tmp_path / "x.safetensors", {"a": ("F32", (3,))})
    with pytest.raises(ValueError, match="8 bytes given, 12 promised"):
        writer.write(lambda name: raw(torch.zeros(2)))
