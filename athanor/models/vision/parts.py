"""What the vision networks share: checks of a config, activations, stochastic depth, first weights.

Shape letters of this folder: B batch, C channels, H height, W width of an image or map, D width of the vector at one
place of a map, N heads, K numbers of a head, G windows, S places of a window.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]


def check_choices(config: Any) -> None:
    """Every field that is one of several words must hold one of them.

    Raises:
        ValueError: the field, what it holds and what it may hold.
    """
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(f"{name}={value!r}: must be one of {', '.join(get_args(hint))}")


def check_counts(config: Any, *names: str) -> None:
    """The named numbers, or all numbers of the named tuples, must be at least 1; a tuple must not be empty.

    Raises:
        ValueError: the field and what it holds.
    """
    for name in names:
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if not numbers or min(numbers) < 1:
            raise ValueError(f"{name}={value}: must be at least 1")


def check_stages(config: Any, *names: str) -> None:
    """The named tuples must be as long as `depths`, the number of stages.

    Raises:
        ValueError: the field and both lengths.
    """
    for name in names:
        if len(getattr(config, name)) != len(config.depths):
            raise ValueError(f"{name}={getattr(config, name)} must have one entry per stage, as depths={config.depths}")


def check_image(image_BCHW: Tensor, channels: int) -> None:
    """An image batch must have four axes and the channels of the config.

    Raises:
        ValueError: the shape that was given and the one that is wanted.
    """
    if image_BCHW.ndim != 4 or image_BCHW.shape[1] != channels:
        raise ValueError(f"images of shape {tuple(image_BCHW.shape)}: must be (batch, {channels}, height, width)")


def activation(name: str, inplace: bool = False) -> Callable[[Tensor], Tensor]:
    """The function of that name; those that can, write over their input when `inplace` is set."""
    if name == "relu":
        return nn.ReLU(inplace)
    if name == "silu":
        return nn.SiLU(inplace)
    return nn.GELU("tanh" if name == "gelu_tanh" else "none")


def drop_path(x_B: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth (Huang et al. 2016, section 3): a branch is left out for each image with probability `rate`.

    What stays is divided by 1 - rate, so that the mean is that of the whole network.
    """
    if not rate or not training:
        return x_B
    drawn_B = torch.rand((len(x_B), *(1 for _ in x_B.shape[1:])), dtype=x_B.dtype, device=x_B.device)
    return x_B / (1 - rate) * (drawn_B >= rate)


def drop_rates(most: float, depths: tuple[int, ...]) -> list[list[float]]:
    """The rate of every block, stage by stage: from 0 at the first to `most` at the last, in equal steps."""
    rates = [most * block / max(sum(depths) - 1, 1) for block in range(sum(depths))]
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return [rates[start : start + depth] for start, depth in zip(starts, depths, strict=True)]


class FeedForward(nn.Module):
    """Two products with an activation between (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, width: int, hidden: int, act: str):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, hidden), activation(act), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


def pad_to_multiple(x_BHWD: Tensor, size: int) -> Tensor:
    """Zeros below and to the right until height and width are multiples of `size`."""
    below, right = -x_BHWD.shape[1] % size, -x_BHWD.shape[2] % size
    return F.pad(x_BHWD, (0, 0, 0, right, 0, below)) if below or right else x_BHWD


def draw_first_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every product, convolution and norm anew, on the CPU in float32, the same on every device.

    Convolutions: normal with variance 2 / (outputs a weight feeds), He et al. 2015, section 2.2. Products: normal with
    deviation 0.02, cut off at two (ViT and Swin). Norms start as the identity.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fed = module.out_channels // module.groups * math.prod(module.kernel_size)
            draw(module.weight, math.sqrt(2 / fed), generator)
        elif isinstance(module, nn.Linear):
            draw(module.weight, 0.02, generator)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.LayerNorm | nn.BatchNorm2d) and module.bias is not None:
            nn.init.zeros_(module.bias)


def draw(weight: Tensor, deviation: float, generator: torch.Generator) -> None:
    """Fill a weight with normal numbers, none further from 0 than two deviations."""
    numbers = torch.empty(weight.shape)
    nn.init.trunc_normal_(numbers, 0.0, deviation, -2 * deviation, 2 * deviation, generator=generator)
    with torch.no_grad():
        weight.copy_(numbers)
