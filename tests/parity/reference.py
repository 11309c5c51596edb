"""What the parity tests share: disturbed reference networks, differences, and gradients under stored names."""

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from athanor.models.convert import load_network, save_checkpoint
from athanor.models.settings import named_family

TOLERANCE = 1e-5


def disturb(network: nn.Module, seed: int = 0, amount: float = 0.1) -> nn.Module:
    """Add noise to every weight, so that a norm weight of one or a bias of zero cannot hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * amount)
    return network.float().eval()


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative where the second is larger than 1."""
    assert a.shape == b.shape
    return float(((a - b).detach().abs() / b.detach().abs().clamp_min(1.0)).max())


def with_gradients(network: nn.Module) -> nn.Module:
    """A copy whose weights are the gradients; zero where nothing arrived."""
    gradients = copy.deepcopy(network)
    with torch.no_grad():
        for place, parameter in zip(gradients.parameters(), network.parameters(), strict=True):
            place.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    return gradients


def stored(folder: Path) -> dict[str, Tensor]:
    """The tensors of a saved network by name."""
    return load_file(folder / "model.safetensors")


def assert_gradients_equal(theirs: nn.Module, ours: nn.Module, folder: Path, floor: float | None = None) -> None:
    """Put gradients in place of weights on both sides, save both, and compare what is stored, each by its largest.

    Args:
        floor: what a smaller largest counts as; None: a thousandth of the largest of all, for a network with a bias of
            keys, which has no gradient but rounding.
    """
    with_gradients(theirs).save_pretrained(folder / "theirs")
    save_checkpoint(with_gradients(ours), folder / "ours", family=family_name(theirs))
    expected, actual = stored(folder / "theirs"), stored(folder / "ours")
    assert set(actual) == set(expected)
    if floor is None:
        floor = max(float(gradient.abs().max()) for gradient in expected.values()) / 1_000
    for name, gradient in expected.items():
        scale = max(float(gradient.abs().max()), floor)
        assert float((actual[name] - gradient).abs().max()) / scale < TOLERANCE, name


def family_name(theirs: nn.Module) -> str:
    """What we call the family of a reference network."""
    return named_family(theirs.config.to_dict() | {"architectures": [type(theirs).__name__]}, "reference").name


def loaded(theirs: nn.Module, folder: Path) -> nn.Module:
    """Our network, from what the reference saved."""
    theirs.save_pretrained(folder)
    return load_network(folder)


def assert_loads_there(ours: nn.Module, theirs: nn.Module, folder: Path) -> nn.Module:
    """Save ours and load it as the reference's class: nothing missing, left over, misshaped or changed."""
    save_checkpoint(ours, folder, family=family_name(theirs))
    back, report = type(theirs).from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    for (name, weight), again in zip(theirs.state_dict().items(), back.state_dict().values(), strict=True):
        assert torch.equal(weight, again), name
    return back.eval()


class GrowingCache:
    """The simplest cache: grows by joining."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.mask_BTS = torch.empty(0)

    def begin(self, rows: int, first: int, last: int) -> Tensor:
        """The next call reads the positions `first` to `last` of every row; returns them, (B, T)."""
        place = torch.arange(last)
        self.mask_BTS = (place[first:, None] >= place)[None].expand(rows, -1, -1)
        return place[first:].expand(rows, -1)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.kept:
            k, v = torch.cat((self.kept[layer][0], k), 2), torch.cat((self.kept[layer][1], v), 2)
        self.kept[layer] = (k, v)
        return k, v
