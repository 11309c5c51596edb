"""Residual networks (He et al. 2016, "Deep residual learning for image recognition", section 3.3 and table 1).

Shape letters as in `parts.py`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.models.vision.parts import (
    Activation,
    activation,
    check_choices,
    check_counts,
    check_image,
    check_stages,
    draw_first_weights,
)


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """The whole description of a residual network, flat and frozen.

    Raises:
        ValueError: when the numbers cannot form a network.
    """

    widths: tuple[int, ...]  # channels after each stage
    depths: tuple[int, ...]  # blocks of each stage
    block: Literal["basic", "bottleneck"]  # two 3x3 convolutions, or 1x1, 3x3 and 1x1 with a quarter of the channels
    channels: int = 3  # of the image
    stem_width: int = 64
    activation: Activation = "relu"  # after the stem and after each sum; inside a block it is always relu
    first_stage_halves: bool = False  # else the map of the first stage is as large as the stem's
    halve_early: bool = False  # a bottleneck halves in its first 1x1 convolution (the paper), not in its 3x3 ("v1.5")
    classes: int | None = None  # None: no head, a backbone only

    def __post_init__(self) -> None:
        check_choices(self)
        check_counts(self, "widths", "depths", "channels", "stem_width", *(("classes",) if self.classes else ()))
        check_stages(self, "widths")
        if self.classes is not None and self.classes < 1:
            raise ValueError(f"classes={self.classes}: must be at least 1, or None for no head")
        if self.block == "bottleneck" and any(width % 4 for width in self.widths):
            raise ValueError(f"widths={self.widths}: a bottleneck has a quarter of the channels, give multiples of 4")
        if self.block == "basic" and self.halve_early:
            raise ValueError("halve_early=True has no meaning without block='bottleneck'")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per place of each stage's map, in each direction."""
        first = 8 if self.first_stage_halves else 4
        return tuple(first * 2**stage for stage in range(len(self.depths)))


class ConvNorm(nn.Module):
    """A convolution without bias and batch normalisation (Ioffe and Szegedy 2015)."""

    def __init__(self, before: int, after: int, size: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.norm(self.conv(x_BCHW))


class Block(nn.Module):
    """relu(convolutions(x) + x), equation 1; where the shape changes a 1x1 convolution leads x past, equation 2."""

    def __init__(self, config: ResNetConfig, before: int, after: int, stride: int):
        super().__init__()
        if config.block == "basic":
            self.convs = nn.ModuleList((ConvNorm(before, after, 3, stride), ConvNorm(after, after, 3)))
        else:
            inner = after // 4
            first, second = (stride, 1) if config.halve_early else (1, stride)
            self.convs = nn.ModuleList(
                (ConvNorm(before, inner, 1, first), ConvNorm(inner, inner, 3, second), ConvNorm(inner, after, 1))
            )
        self.shortcut = ConvNorm(before, after, 1, stride) if stride > 1 or before != after else None
        self.act = activation(config.activation, inplace=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = x_BCHW
        *inner, last = self.convs
        for conv in inner:
            y_BCHW = F.relu_(conv(y_BCHW))
        y_BCHW = last(y_BCHW)
        y_BCHW += x_BCHW if self.shortcut is None else self.shortcut(x_BCHW)
        return self.act(y_BCHW)


class ResNet(nn.Module):
    """Images in; class scores, or the maps of all stages, out."""

    def __init__(self, config: ResNetConfig):
        super().__init__()
        self.config = config
        self.stem = ConvNorm(config.channels, config.stem_width, 7, stride=2)
        self.act = activation(config.activation, inplace=True)
        self.stages = nn.ModuleList()
        before = config.stem_width
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            stride = 2 if stage or config.first_stage_halves else 1
            first = Block(config, before, width, stride)
            self.stages.append(nn.Sequential(first, *(Block(config, width, width, 1) for _ in range(depth - 1))))
            before = width
        self.head = nn.Linear(before, config.classes) if config.classes else None

    def initialise(self, seed: int) -> "ResNet":
        """Draw every weight anew (see `draw_first_weights`); the same seed gives the same numbers. Returns itself."""
        draw_first_weights(self, torch.Generator().manual_seed(seed))
        return self

    def features(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """The map of every stage, (B, widths[i], H / strides[i], W / strides[i]), sizes rounded up.

        Raises:
            ValueError: images of another number of channels.
        """
        check_image(image_BCHW, self.config.channels)
        x_BCHW = F.max_pool2d(self.act(self.stem(image_BCHW)), 3, 2, 1)
        maps = []
        for stage in self.stages:
            x_BCHW = stage(x_BCHW)
            maps.append(x_BCHW)
        return tuple(maps)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Class scores (B, classes): a product of the last map's mean.

        Raises:
            ValueError: the config has no classes.
        """
        if self.head is None:
            raise ValueError("classes is not set: this network has no head, ask for its features")
        return self.head(self.features(image_BCHW)[-1].mean((2, 3)))
