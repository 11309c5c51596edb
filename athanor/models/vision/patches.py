"""Images as rows of patches: the front that makes them, and the tower of front and trunk that ViT, MAE and CLIP share.

Shape letters: B batch, C channels, H height and W width of an image in pixels, T patches of an image, D width of the
trunk, Y and X the rows and columns of patches.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.models.attention import Norm
from athanor.models.config import TransformerConfig
from athanor.models.language import draw
from athanor.models.transformer import Transformer
from athanor.models.vision.parts import check_counts, check_image


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """A Transformer that reads an image as square patches with a class token before them, flat and frozen.

    Raises:
        ValueError: when the numbers cannot form a network.
    """

    image: int | tuple[int, int]  # height and width in pixels; one number: both
    patch: int  # side of a patch in pixels
    width: int
    layers: int
    heads: int
    hidden: int
    channels: int = 3  # of the image
    mlp: Literal["gelu", "gelu_tanh", "quick_gelu", "relu"] = "gelu"
    norm_eps: float = 1e-12
    norm_before: bool = False  # what enters the trunk is normalised (CLIP)
    bias_patch: bool = True  # CLIP's product of a patch has none
    bias_qkv: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.image, tuple) and len(self.image) != 2:
            raise ValueError(f"image={self.image}: must be one number, or height and width")
        check_counts(self, "image", "patch", "channels")
        if min(self.grid) < 1:
            raise ValueError(f"image={self.image} has no room for a patch={self.patch}")
        _ = self.trunk  # which checks its own numbers

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; what is left at the edges is cut off."""
        height, width = (self.image, self.image) if isinstance(self.image, int) else self.image
        return height // self.patch, width // self.patch

    @property
    def places(self) -> int:
        """Rows of the table of positions: one for the class token, one for each patch."""
        return 1 + self.grid[0] * self.grid[1]

    @property
    def trunk(self) -> TransformerConfig:
        """The layers behind the front."""
        return TransformerConfig(
            width=self.width, layers=self.layers, heads=self.heads, hidden=self.hidden, max_positions=self.places,
            causal=False, position="learned", norm="layer", norm_eps=self.norm_eps, mlp=self.mlp,
            bias_qkv=self.bias_qkv, bias_out=True, bias_mlp=True,
        )  # fmt: skip


class PatchFront(nn.Module):
    """Pixels in, what enters the trunk out (ViT, Dosovitskiy et al. 2021, equation 1).

    Each patch becomes a vector by one product; a learned class token stands before them, and every place has a learned
    vector that is added.
    """

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.config = config
        self.project = nn.Conv2d(config.channels, config.width, config.patch, config.patch, bias=config.bias_patch)
        self.class_token = nn.Parameter(torch.zeros(config.width))
        self.positions = nn.Parameter(torch.zeros(config.places, config.width))
        self.norm = Norm(config.trunk, config.width) if config.norm_before else None

    def patches(self, image_BCHW: Tensor, *, interpolate: bool = False) -> Tensor:
        """One vector for each patch with its position, row by row from the upper left, (B, T, D).

        Args:
            image_BCHW: pixels; of a size that is no multiple of the patch the rest below and to the right is cut off.
            interpolate: take images of other sizes than the config's, with positions between those of the table.

        Raises:
            ValueError: another number of channels; or another size, and `interpolate` is False.
        """
        check_image(image_BCHW, self.config.channels)
        size, grid = tuple(image_BCHW.shape[2:]), tuple(side // self.config.patch for side in image_BCHW.shape[2:])
        own = self.config.image
        if not interpolate and size != ((own, own) if isinstance(own, int) else own):
            raise ValueError(f"images of size {size}, but the table of positions is for {own}: set interpolate=True")
        if min(grid) < 1:
            raise ValueError(f"images of size {size} have no room for a patch of {self.config.patch}")
        patches_BTD = self.project(image_BCHW).flatten(2).transpose(1, 2)
        return patches_BTD + interpolated(self.positions[1:], self.config.grid, grid)

    def begin(self, patches_BTD: Tensor) -> Tensor:
        """The class token, with its position, before the patches; normalised where the config says so."""
        first_BTD = (self.class_token + self.positions[0]).expand(len(patches_BTD), 1, -1)
        x_BTD = torch.cat((first_BTD, patches_BTD), 1)
        return x_BTD if self.norm is None else self.norm(x_BTD)

    def forward(self, image_BCHW: Tensor, *, interpolate: bool = False) -> Tensor:
        """What enters the trunk, (B, T + 1, D); the arguments are those of `patches`."""
        return self.begin(self.patches(image_BCHW, interpolate=interpolate))


def interpolated(table_TD: Tensor, old: tuple[int, int], new: tuple[int, ...]) -> Tensor:
    """A table of positions, old rows by columns, for a grid of new ones: bicubic between the old (ViT, section 3.2)."""
    if tuple(new) == tuple(old):
        return table_TD
    map_1DYX = table_TD.t().unflatten(1, old)[None]
    map_1DYX = F.interpolate(map_1DYX, size=new, mode="bicubic", align_corners=False)
    return map_1DYX[0].flatten(1).t()


class Tower(nn.Module):
    """Images in, vectors out: first that of the class token, then one for each patch."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.config = config
        self.front = PatchFront(config)
        self.trunk = Transformer(config.trunk)

    def forward(self, image_BCHW: Tensor, *, interpolate: bool = False) -> Tensor:
        """The trunk's normalised output, (B, T + 1, D); the arguments are those of `PatchFront.patches`."""
        return self.trunk(self.front(image_BCHW, interpolate=interpolate))


def draw_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight anew: normal(0, 0.02), the same on every device; biases 0, norms the identity."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            draw(module.weight, 0.02, generator)
        elif isinstance(module, Norm):
            nn.init.ones_(module.weight)
        elif isinstance(module, PatchFront):
            draw(module.class_token, 0.02, generator)
            draw(module.positions, 0.02, generator)
        if isinstance(module, nn.Linear | nn.Conv2d | Norm) and module.bias is not None:
            nn.init.zeros_(module.bias)
