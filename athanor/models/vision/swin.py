"""Swin Transformer (Liu et al. 2021, arXiv 2103.14030) and Swin Transformer V2 (Liu et al. 2022, arXiv 2111.09883).

Attention inside windows of a map; every second block moves the windows by half their size, so that neighbours meet.
Shape letters as in `parts.py`; the map stays (B, H, W, D) all the way.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.models.vision.parts import (
    Activation,
    FeedForward,
    check_choices,
    check_counts,
    check_image,
    check_stages,
    draw,
    draw_first_weights,
    drop_path,
    drop_rates,
    pad_to_multiple,
)

BIAS_HIDDEN = 512  # hidden width of V2's network for position biases (its section 3.3 and the authors' networks)
MOST_SCALE = 100.0  # V2 never divides cosines by less than 0.01 (section 3.2)


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """The whole description of a Swin network of either version, flat and frozen.

    Raises:
        ValueError: when the numbers cannot form a network.
    """

    version: Literal["v1", "v2"]
    stem_width: int  # of the patches and the first stage; each next stage doubles it
    depths: tuple[int, ...]  # blocks of each stage
    heads: tuple[int, ...]  # of each stage
    window: int  # places along each side
    image_size: int = 224  # V2 makes windows no larger than a stage's map of such an image; V1 takes any size as it is
    patch: int = 4
    channels: int = 3
    mlp_ratio: float = 4.0
    bias_qkv: bool = True  # in V2 the keys never have one
    pretrained_windows: tuple[int, ...] = (0, 0, 0, 0)  # V2, of each stage: distances are measured by it; 0: `window`
    activation: Activation = "gelu"
    norm_eps: float = 1e-5
    drop_path: float = 0.0  # stochastic depth of the last block; the first has none
    classes: int | None = None  # None: no head, a backbone only

    def __post_init__(self) -> None:
        check_choices(self)
        check_counts(self, "stem_width", "depths", "heads", "window", "image_size", "patch", "channels")
        check_stages(self, "heads")
        if self.classes is not None and self.classes < 1:
            raise ValueError(f"classes={self.classes}: must be at least 1, or None for no head")
        if any(width % heads for width, heads in zip(self.widths, self.heads, strict=True)):
            raise ValueError(f"widths {self.widths} must be multiples of heads={self.heads}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path={self.drop_path}: must be at least 0 and below 1")
        if self.mlp_ratio * self.stem_width < 1:
            raise ValueError(f"mlp_ratio={self.mlp_ratio}: the hidden layer must be at least 1 wide")
        self._check_pretrained_windows()

    def _check_pretrained_windows(self) -> None:
        if self.version == "v1":
            if any(self.pretrained_windows):
                raise ValueError("pretrained_windows has no meaning without version='v2'")
            return
        if len(self.pretrained_windows) < len(self.depths):
            raise ValueError(f"pretrained_windows={self.pretrained_windows} must have a number for each stage")
        if any(size < 0 or size == 1 for size in self.pretrained_windows):
            raise ValueError(f"pretrained_windows={self.pretrained_windows}: 0 for not set, or at least 2")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage's map."""
        return tuple(self.stem_width * 2**stage for stage in range(len(self.depths)))

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per place of each stage's map, in each direction."""
        return tuple(self.patch * 2**stage for stage in range(len(self.depths)))

    def stage_window(self, stage: int) -> tuple[int, bool]:
        """Side of a stage's windows, and whether every second block moves them.

        V2 decides it here, by `image_size`; V1 when it sees the map (`windows_of`).
        """
        side = self.image_size // self.patch // 2**stage
        if self.version == "v1" or side > self.window:
            return self.window, True
        return max(side, 1), False


@dataclass(frozen=True)
class Windows:
    """How a map is cut: the same for all blocks of a stage."""

    side: int
    moved: int  # places by which every second block moves the windows; 0: none
    index_S2: Tensor  # row of the bias table for each pair of places, (S S)
    mask_GSS: Tensor | None  # moved windows: 0, or minus infinity where two places are no neighbours in the map


def windows_of(height: int, width: int, side: int, moves: bool, shrinks: bool, device: torch.device) -> Windows:
    """Cut a map of that size.

    Args:
        height: of the map.
        width: of the map.
        side: of the windows, and of the bias table.
        moves: whether every second block may move them.
        shrinks: a map that is no larger than a window is cut into windows of its own size, and not moved (V1).
        device: where the map lies.
    """
    table = side
    if shrinks and min(height, width) <= side:
        side, moves = min(height, width), False
    moved = side // 2 if moves else 0
    mask_GSS = move_mask(height + -height % side, width + -width % side, side, moved, device) if moved else None
    return Windows(side, moved, pair_index(side, table, device), mask_GSS)


def pair_index(side: int, table: int, device: torch.device) -> Tensor:
    """Row of a table of (2 table - 1)^2 distances for every pair of places in a window, (S S) (V1, equation 4)."""
    place = torch.arange(side, device=device)
    apart = place[:, None] - place + table - 1
    down, across = apart[:, None, :, None], apart[None, :, None, :]
    return (down * (2 * table - 1) + across).flatten()


def move_mask(height: int, width: int, side: int, moved: int, device: torch.device) -> Tensor:
    """Rolling joins opposite edges in one window: those places must not see each other (V1, figure 4), (G, S, S)."""
    down, across = (bands(length, side, moved, device) for length in (height, width))
    band_HW = down[:, None] * 3 + across
    band_GS = band_HW.unflatten(0, (-1, side)).unflatten(2, (-1, side)).transpose(1, 2).reshape(-1, side * side)
    apart_GSS = band_GS[:, :, None] != band_GS[:, None, :]
    return torch.zeros(apart_GSS.shape, device=device).masked_fill_(apart_GSS, float("-inf"))


def bands(length: int, side: int, moved: int, device: torch.device) -> Tensor:
    """After rolling: 0 for places whose window is whole, then 1 and 2 for the two parts of the last window."""
    place = torch.arange(length, device=device)
    return (place >= length - side).long() + (place >= length - moved)


class TableBias(nn.Module):
    """V1: one learned number per head and distance."""

    def __init__(self, side: int, heads: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))

    def forward(self, windows: Windows) -> Tensor:
        """Added to the scores of each head, (N, S, S)."""
        places = windows.side**2
        return self.table.index_select(0, windows.index_S2).t().reshape(-1, places, places)


class ContinuousBias(nn.Module):
    """V2: a small network gives the numbers from distances on a logarithmic scale (section 3.3, equations 3 and 4).

    The factors 8 and 16 and the bound by a sigmoid are those of its authors' networks.
    """

    def __init__(self, side: int, pretrained: int, heads: int):
        super().__init__()
        self.side, self.pretrained = side, pretrained
        self.up, self.down = nn.Linear(2, BIAS_HIDDEN), nn.Linear(BIAS_HIDDEN, heads, bias=False)

    def distances(self) -> Tensor:
        """sign(d) log2(1 + 8 |d|) / log2(8), d the distance in windows of pretraining, down and across."""
        place = torch.arange(1 - self.side, self.side, device=self.up.weight.device, dtype=torch.float32)
        place = place / max((self.pretrained or self.side) - 1, 1) * 8
        place = place.sign() * torch.log2(place.abs() + 1) / math.log2(8)
        return torch.cartesian_prod(place, place).to(self.up.weight)

    def forward(self, windows: Windows) -> Tensor:
        """Added to the scores of each head, (N, S, S), between 0 and 16."""
        table = self.down(F.relu(self.up(self.distances())))
        places = windows.side**2
        return (16 * table.sigmoid()).index_select(0, windows.index_S2).t().reshape(-1, places, places)


class WindowAttention(nn.Module):
    """Attention inside each window: softmax(q k + position bias) v.

    V1: q k / sqrt(K) (equation 4). V2: the cosine of q and k over a learned number (section 3.2, equation 2).
    """

    def __init__(self, config: SwinConfig, stage: int):
        super().__init__()
        width, self.heads = config.widths[stage], config.heads[stage]
        side, _ = config.stage_window(stage)
        self.cosine = config.version == "v2"
        self.qkv = nn.Linear(width, 3 * width, bias=config.bias_qkv and not self.cosine)
        self.out = nn.Linear(width, width)
        if self.cosine:
            self.bias = ContinuousBias(side, config.pretrained_windows[stage], self.heads)
            self.scale = nn.Parameter(torch.full((self.heads, 1, 1), math.log(10)))
            biased = config.bias_qkv
            self.q_bias = nn.Parameter(torch.zeros(width)) if biased else None
            self.v_bias = nn.Parameter(torch.zeros(width)) if biased else None
        else:
            self.bias = TableBias(side, self.heads)

    def project(self, x_BHWD: Tensor) -> Tensor:
        """q, k and v of every place, (B, H, W, 3 D)."""
        if not self.cosine or self.q_bias is None or self.v_bias is None:
            return self.qkv(x_BHWD)
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        return F.linear(x_BHWD, self.qkv.weight, bias)

    def forward(self, x_BHWD: Tensor, windows: Windows, moved: bool) -> Tensor:
        """The same shape; height and width are multiples of the window's side."""
        batch, height, width, _ = x_BHWD.shape
        side, heads = windows.side, self.heads
        cut = (batch, height // side, side, width // side, side, 3, heads, x_BHWD.shape[-1] // heads)
        # One copy puts windows and heads in front: rows of blocks, blocks of a row, heads, places, numbers.
        qkv = self.project(x_BHWD).view(cut).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q_GNSK, k_GNSK, v_GNSK = qkv.reshape(3, -1, heads, side * side, cut[-1])
        if self.cosine:
            scale = self.scale.clamp(max=math.log(MOST_SCALE)).exp()
            q_GNSK, k_GNSK = F.normalize(q_GNSK, dim=-1) * scale, F.normalize(k_GNSK, dim=-1)
        else:
            q_GNSK = q_GNSK * cut[-1] ** -0.5
        score = q_GNSK @ k_GNSK.mT
        score += self.bias(windows)
        if moved and windows.mask_GSS is not None:
            score.unflatten(0, (batch, -1)).add_(windows.mask_GSS[:, None].to(score.dtype))
        y_GNSK = score.softmax(-1) @ v_GNSK
        y = y_GNSK.view(batch, cut[1], cut[3], heads, side, side, cut[-1]).permute(0, 1, 4, 2, 5, 3, 6)
        return self.out(y.reshape(x_BHWD.shape))


class Block(nn.Module):
    """Attention in windows, then feed-forward, each added to the map.

    V1 normalises what each reads (equation 3), V2 what each gives (section 3.2, res-post-norm).
    """

    def __init__(self, config: SwinConfig, stage: int, moved: bool, rate: float):
        super().__init__()
        width = config.widths[stage]
        self.after, self.moved, self.rate = config.version == "v2", moved, rate
        self.attention_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.attention = WindowAttention(config, stage)
        self.mlp_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.mlp = FeedForward(width, int(config.mlp_ratio * width), config.activation)

    def attend(self, x_BHWD: Tensor, windows: Windows) -> Tensor:
        """Attention on a map of any size: filled up with zeros, rolled so that windows lie on the grid, and back."""
        height, width = x_BHWD.shape[1:3]
        x_BHWD = pad_to_multiple(x_BHWD, windows.side)
        moved = windows.moved if self.moved else 0
        if moved:
            x_BHWD = x_BHWD.roll((-moved, -moved), (1, 2))
        y_BHWD = self.attention(x_BHWD, windows, bool(moved))
        if moved:
            y_BHWD = y_BHWD.roll((moved, moved), (1, 2))
        return y_BHWD[:, :height, :width]

    def forward(self, x_BHWD: Tensor, windows: Windows) -> Tensor:
        if self.after:
            y_BHWD = self.attention_norm(self.attend(x_BHWD, windows))
            x_BHWD = x_BHWD + drop_path(y_BHWD, self.rate, self.training)
            return x_BHWD + drop_path(self.mlp_norm(self.mlp(x_BHWD)), self.rate, self.training)
        x_BHWD = x_BHWD + drop_path(self.attend(self.attention_norm(x_BHWD), windows), self.rate, self.training)
        return x_BHWD + drop_path(self.mlp(self.mlp_norm(x_BHWD)), self.rate, self.training)


class Merge(nn.Module):
    """Four neighbours become one place of twice the width (V1, section 3.1); V2 normalises afterwards."""

    def __init__(self, width: int, after: bool):
        super().__init__()
        self.after = after
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm((2 if after else 4) * width)

    def forward(self, x_BHWD: Tensor) -> Tensor:
        x_BHWD = pad_to_multiple(x_BHWD, 2)
        batch, height, width, channels = x_BHWD.shape
        pairs = x_BHWD.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5)
        four_BHWD = pairs.reshape(batch, height // 2, width // 2, 4 * channels)
        return self.norm(self.reduce(four_BHWD)) if self.after else self.reduce(self.norm(four_BHWD))


class Stage(nn.Module):
    """Blocks on a map of one size; after all stages but the last, neighbours are merged for the next."""

    def __init__(self, config: SwinConfig, stage: int, rates: list[float]):
        super().__init__()
        self.shrinks = config.version == "v1"
        self.side, self.moves = config.stage_window(stage)
        self.blocks = nn.ModuleList(Block(config, stage, place % 2 == 1, rate) for place, rate in enumerate(rates))
        last = stage == len(config.depths) - 1
        self.merge = None if last else Merge(config.widths[stage], config.version == "v2")

    def forward(self, x_BHWD: Tensor) -> Tensor:
        height, width = x_BHWD.shape[1:3]
        windows = windows_of(height, width, self.side, self.moves, self.shrinks, x_BHWD.device)
        for block in self.blocks:
            x_BHWD = block(x_BHWD, windows)
        return x_BHWD


class Swin(nn.Module):
    """Images in; class scores, or the maps of all stages, out."""

    def __init__(self, config: SwinConfig):
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(config.channels, config.stem_width, config.patch, config.patch)
        self.patch_norm = nn.LayerNorm(config.stem_width)
        rates = drop_rates(config.drop_path, config.depths)
        self.stages = nn.ModuleList(Stage(config, stage, rates[stage]) for stage in range(len(config.depths)))
        self.norm = nn.LayerNorm(config.widths[-1], eps=config.norm_eps)
        self.head = nn.Linear(config.widths[-1], config.classes) if config.classes else None

    def initialise(self, seed: int) -> "Swin":
        """Draw every weight anew (see `draw_first_weights`); the same seed gives the same numbers. Returns itself.

        The norms of V2 that end a branch start at 0, as in its authors' networks: every block begins as the identity.
        """
        generator = torch.Generator().manual_seed(seed)
        draw_first_weights(self, generator)
        for module in self.modules():
            if isinstance(module, TableBias):
                draw(module.table, 0.02, generator)
            elif isinstance(module, WindowAttention) and module.cosine:
                nn.init.constant_(module.scale, math.log(10))
                for bias in (module.q_bias, module.v_bias):
                    if bias is not None:
                        nn.init.zeros_(bias)
            elif isinstance(module, Block) and module.after:
                nn.init.zeros_(module.attention_norm.weight)
                nn.init.zeros_(module.mlp_norm.weight)
        return self

    def features(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """The map of every stage, (B, widths[i], H / strides[i], W / strides[i]), sizes rounded up, not normalised.

        Raises:
            ValueError: images of another number of channels.
        """
        check_image(image_BCHW, self.config.channels)
        patch = self.config.patch
        below, right = -image_BCHW.shape[2] % patch, -image_BCHW.shape[3] % patch
        x_BHWD = self.patches(F.pad(image_BCHW, (0, right, 0, below))).permute(0, 2, 3, 1)
        x_BHWD = self.patch_norm(x_BHWD)
        maps = []
        for stage in self.stages:
            x_BHWD = stage(x_BHWD)
            maps.append(x_BHWD.permute(0, 3, 1, 2))
            if stage.merge is not None:
                x_BHWD = stage.merge(x_BHWD)
        return tuple(maps)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Class scores (B, classes): a product of the mean of the last map, normalised.

        Raises:
            ValueError: the config has no classes.
        """
        if self.head is None:
            raise ValueError("classes is not set: this network has no head, ask for its features")
        last_BHWD = self.features(image_BCHW)[-1].permute(0, 2, 3, 1)
        return self.head(self.norm(last_BHWD).mean((1, 2)))
