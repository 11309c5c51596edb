"""ViTAE: vision transformer advanced by exploring intrinsic inductive bias (Xu et al. 2021, arXiv 2106.03348).

Reduction cells make the map smaller: convolutions of several dilations look at several scales at once (the pyramid
reduction module), attention relates all places, and beside both runs a stack of plain convolutions (the parallel
convolutional module). Normal cells do the same at one size. Shape letters as in `parts.py`; M random features,
T all places of a map. A map is (B, H, W, D) between cells.

As in the networks the authors published, the classes come from the mean of the last map: no class token, no table of
positions (convolutions know where they are).
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.models.vision.parts import (
    FeedForward,
    check_counts,
    check_image,
    check_stages,
    draw_first_weights,
    drop_path,
    drop_rates,
    pad_to_multiple,
)

Reduction = Literal["performer", "attention", "pyramid"]
NORM_EPS = 1e-6
LEAST_SUM = 1e-8  # added to the sums a performer divides by


@dataclass(frozen=True, kw_only=True)
class VitaeConfig:
    """The whole description of a ViTAE network, flat and frozen; one entry per stage where there are several.

    Raises:
        ValueError: when the numbers cannot form a network.
    """

    widths: tuple[int, ...]  # channels after each stage
    inner_widths: tuple[int, ...]  # channels of one dilation's convolution, and inside the reduction's convolutions
    depths: tuple[int, ...]  # normal cells after the reduction; 0: none
    heads: tuple[int, ...]  # of the normal cells
    mlp_ratio: float
    groups: tuple[int, ...]  # of the convolutions in normal cells
    ratios: tuple[int, ...] = (4, 2, 2)  # how many times smaller each reduction makes the map
    kernels: tuple[int, ...] = (7, 3, 3)
    dilations: tuple[tuple[int, ...], ...] = ((1, 2, 3, 4), (1, 2, 3), (1, 2))
    # How a reduction relates places: attention through random features, attention, or not at all (convolutions only)
    reductions: tuple[Reduction, ...] = ("performer", "performer", "pyramid")
    channels: int = 3
    drop_path: float = 0.0  # stochastic depth of the last normal cell; the first has none
    classes: int | None = None  # None: no head, a backbone only

    def __post_init__(self) -> None:
        check_counts(self, "widths", "inner_widths", "heads", "groups", "ratios", "kernels", "channels")
        check_stages(self, "widths", "inner_widths", "heads", "groups", "ratios", "kernels", "dilations", "reductions")
        if self.classes is not None and self.classes < 1:
            raise ValueError(f"classes={self.classes}: must be at least 1, or None for no head")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path}: must be at least 0 and below 1")
        for stage in range(len(self.depths)):
            self._check_stage(stage)

    def _check_stage(self, stage: int) -> None:
        width, dilations = self.widths[stage], self.dilations[stage]
        if self.depths[stage] < 0 or not dilations or min(dilations) < 1:
            raise ValueError(f"stage {stage}: depths at least 0, at least one dilation of at least 1")
        if self.reductions[stage] not in get_args(Reduction):
            raise ValueError(f"reductions={self.reductions}: each one of {', '.join(get_args(Reduction))}")
        if self.ratios[stage] not in (2, 4, 8):
            raise ValueError(f"ratios={self.ratios}: 2, 4 or 8, as three convolutions halve at most three times")
        if self.kernels[stage] < self.ratios[stage]:
            raise ValueError(f"kernels={self.kernels}: a kernel smaller than its ratio {self.ratios} skips pixels")
        if self.reductions[stage] == "pyramid" and len(dilations) * self.inner_widths[stage] != width:
            raise ValueError(
                f"stage {stage}: {len(dilations)} convolutions of {self.inner_widths[stage]} must be {width}"
            )
        if self.depths[stage] and (width % self.heads[stage] or width % self.groups[stage]):
            raise ValueError(f"stage {stage}: width {width} must be a multiple of heads and of groups")
        if self.depths[stage] and (self.hidden(stage) < 1 or self.hidden(stage) % self.groups[stage]):
            raise ValueError(f"mlp_ratio={self.mlp_ratio}: hidden width of stage {stage} must be a multiple of groups")

    def hidden(self, stage: int) -> int:
        """Width inside the feed-forward layer of a normal cell, and inside its convolutions."""
        return int(self.mlp_ratio * self.widths[stage])

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per place of each stage's map, in each direction."""
        return tuple(math.prod(self.ratios[: stage + 1]) for stage in range(len(self.depths)))


class PyramidReduction(nn.Module):
    """The same map seen at several scales: strided convolutions of several dilations, side by side (section 3.3)."""

    def __init__(self, before: int, inner: int, kernel: int, ratio: int, dilations: tuple[int, ...]):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(before, inner, kernel, ratio, centred(kernel, ratio, dilation), dilation)
            for dilation in dilations
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return torch.cat([F.gelu(conv(x_BCHW)) for conv in self.convs], 1)


def centred(kernel: int, ratio: int, dilation: int) -> int:
    """Padding with which a map whose size is a multiple of `ratio` becomes exactly `ratio` times smaller."""
    return math.ceil(((kernel - 1) * dilation + 1 - ratio) / 2)


def parallel_convolutions(before: int, inner: int, after: int, ratio: int) -> nn.Sequential:
    """The parallel convolutional module of a reduction: three convolutions that halve until the ratio is reached."""
    first, second, third = (2 if ratio >= 2**halving else 1 for halving in (1, 2, 3))
    return nn.Sequential(
        nn.Conv2d(before, inner, 3, first, 1),
        nn.SiLU(inplace=True),
        nn.Conv2d(inner, inner, 3, second, 1),
        nn.BatchNorm2d(inner),
        nn.SiLU(inplace=True),
        nn.Conv2d(inner, after, 3, third, 1),
        nn.SiLU(inplace=True),
    )


def grouped_convolutions(width: int, hidden: int, groups: int) -> nn.Sequential:
    """The parallel convolutional module of a normal cell: wider, back, and once more."""
    return nn.Sequential(
        nn.Conv2d(width, hidden, 3, 1, 1, groups=groups),
        nn.BatchNorm2d(hidden),
        nn.SiLU(inplace=True),
        nn.Conv2d(hidden, width, 3, 1, 1, groups=groups),
        nn.BatchNorm2d(width),
        nn.SiLU(inplace=True),
        nn.Conv2d(width, width, 3, 1, 1, groups=groups),
        nn.SiLU(inplace=True),
    )


class Attention(nn.Module):
    """softmax(q k / sqrt(K)) v over all places of the map (Vaswani et al. 2017, equation 1)."""

    def __init__(self, before: int, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(before, 3 * width), nn.Linear(width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        q_BNTK, k_BNTK, v_BNTK = self.qkv(x_BTD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y_BNTK = F.scaled_dot_product_attention(q_BNTK, k_BNTK, v_BNTK)
        return self.out(y_BNTK.transpose(1, 2).flatten(2))


class Performer(nn.Module):
    """Attention in linear time: softmax weights as products of positive random features (Choromanski et al. 2021).

    f(x) = exp(r x - |x|^2 / 2) / sqrt(M) for each random direction r (their lemma 1); as in T2T-ViT (Yuan et al. 2021)
    there is one head, and half as many directions as its width, which are never trained.
    """

    def __init__(self, before: int, width: int):
        super().__init__()
        self.qkv, self.out = nn.Linear(before, 3 * width), nn.Linear(width, width)
        self.directions_MK: Tensor
        self.register_buffer("directions_MK", torch.zeros(max(width // 2, 1), width))
        self.draw_directions(torch.Generator().manual_seed(0))

    def draw_directions(self, generator: torch.Generator) -> None:
        """Directions at right angles, of length sqrt(M): few of them suffice (their orthogonal random features)."""
        count, width = self.directions_MK.shape
        basis, _ = torch.linalg.qr(torch.empty(width, count).normal_(generator=generator))
        self.directions_MK.copy_(basis.t() * math.sqrt(count))

    def features(self, x_BTK: Tensor) -> Tensor:
        """Positive numbers whose product for two places is near the exponential of their product, (B, T, M)."""
        along_BTM = x_BTK @ self.directions_MK.t()
        half_length = x_BTK.square().sum(-1, keepdim=True) / 2
        return (along_BTM - half_length).exp() / math.sqrt(len(self.directions_MK))

    def forward(self, x_BTD: Tensor) -> Tensor:
        q_BTK, k_BTK, v_BTK = self.qkv(x_BTD).chunk(3, -1)
        q_BTM, k_BTM = self.features(q_BTK), self.features(k_BTK)
        sum_BTK = q_BTM @ (k_BTM.mT @ v_BTK)
        weight_BT1 = q_BTM @ k_BTM.sum(1, keepdim=True).mT
        return self.out(sum_BTK / (weight_BT1 + LEAST_SUM))


class ReductionCell(nn.Module):
    """attention(pyramid(x)) + convolutions(x), then feed-forward (section 3.3); or the pyramid alone."""

    def __init__(self, config: VitaeConfig, stage: int, before: int):
        super().__init__()
        inner, width, ratio = config.inner_widths[stage], config.widths[stage], config.ratios[stage]
        dilations, kind = config.dilations[stage], config.reductions[stage]
        self.ratio, self.plain = ratio, kind == "pyramid"
        self.pyramid = PyramidReduction(before, inner, config.kernels[stage], ratio, dilations)
        if self.plain:
            return
        seen = inner * len(dilations)
        self.convolutions = parallel_convolutions(before, inner, width, ratio)
        self.attention_norm = nn.LayerNorm(seen)
        self.attention = Performer(seen, width) if kind == "performer" else Attention(seen, width, 1)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, width, "gelu")

    def forward(self, x_BHWD: Tensor) -> Tensor:
        x_BCHW = pad_to_multiple(x_BHWD, self.ratio).permute(0, 3, 1, 2)
        seen_BHWD = self.pyramid(x_BCHW).permute(0, 2, 3, 1)
        if self.plain:
            return seen_BHWD
        y_BTD = self.attention(self.attention_norm(seen_BHWD).flatten(1, 2))
        y_BHWD = y_BTD.unflatten(1, seen_BHWD.shape[1:3]) + self.convolutions(x_BCHW).permute(0, 2, 3, 1)
        return y_BHWD + self.mlp(self.mlp_norm(y_BHWD))


class NormalCell(nn.Module):
    """x + attention(x) + convolutions(x), then feed-forward (section 3.4)."""

    def __init__(self, config: VitaeConfig, stage: int, rate: float):
        super().__init__()
        width, hidden = config.widths[stage], config.hidden(stage)
        self.rate = rate
        self.convolutions = grouped_convolutions(width, hidden, config.groups[stage])
        self.attention_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, width, config.heads[stage])
        self.mlp_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = FeedForward(width, hidden, "gelu")

    def forward(self, x_BHWD: Tensor) -> Tensor:
        near_BHWD = self.convolutions(x_BHWD.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        far_BTD = self.attention(self.attention_norm(x_BHWD).flatten(1, 2))
        far_BHWD = far_BTD.unflatten(1, x_BHWD.shape[1:3])
        for branch in (far_BHWD, near_BHWD):
            x_BHWD = x_BHWD + drop_path(branch, self.rate, self.training)
        return x_BHWD + drop_path(self.mlp(self.mlp_norm(x_BHWD)), self.rate, self.training)


class Vitae(nn.Module):
    """Images in; class scores, or the maps of all stages, out."""

    def __init__(self, config: VitaeConfig):
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList()
        before, rates = config.channels, drop_rates(config.drop_path, config.depths)
        for stage, width in enumerate(config.widths):
            cells = (NormalCell(config, stage, rate) for rate in rates[stage])
            self.stages.append(nn.Sequential(ReductionCell(config, stage, before), *cells))
            before = width
        self.head = nn.Linear(before, config.classes) if config.classes else None

    def initialise(self, seed: int) -> "Vitae":
        """Draw every weight anew (see `draw_first_weights`); the same seed gives the same numbers. Returns itself."""
        generator = torch.Generator().manual_seed(seed)
        draw_first_weights(self, generator)
        for module in self.modules():
            if isinstance(module, Performer):
                module.draw_directions(generator)
        return self

    def features(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """The map of every stage, (B, widths[i], H / strides[i], W / strides[i]), sizes rounded up.

        Raises:
            ValueError: images of another number of channels.
        """
        check_image(image_BCHW, self.config.channels)
        x_BHWD = image_BCHW.permute(0, 2, 3, 1)
        maps = []
        for stage in self.stages:
            x_BHWD = stage(x_BHWD)
            maps.append(x_BHWD.permute(0, 3, 1, 2))
        return tuple(maps)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Class scores (B, classes): a product of the last map's mean.

        Raises:
            ValueError: the config has no classes.
        """
        if self.head is None:
            raise ValueError("classes is not set: this network has no head, ask for its features")
        return self.head(self.features(image_BCHW)[-1].mean((2, 3)))
