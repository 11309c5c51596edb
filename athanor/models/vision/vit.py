"""Vision Transformer (Dosovitskiy et al. 2021, "An image is worth 16x16 words").

Shape letters as in `patches.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from athanor.models.vision.patches import Tower, TowerConfig, draw_weights


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """A Vision Transformer: its tower, and what stands behind it.

    Raises:
        ValueError: when the numbers cannot form a network.
    """

    tower: TowerConfig
    classes: int | None = None  # None: no head
    pooled: bool = False  # a layer that makes one vector of the whole image from that of the class token

    def __post_init__(self) -> None:
        if self.classes is not None and self.classes < 1:
            raise ValueError(f"classes={self.classes}: must be at least 1, or None for no head")


class ViT(nn.Module):
    """Images in; class scores, or vectors, out."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.tower = Tower(config.tower)
        self.pooler = nn.Linear(config.tower.width, config.tower.width) if config.pooled else None
        self.head = nn.Linear(config.tower.width, config.classes) if config.classes else None

    def initialise(self, seed: int) -> "ViT":
        """Draw every weight anew (see `draw_weights`); the same seed gives the same numbers. Returns itself."""
        draw_weights(self, torch.Generator().manual_seed(seed))
        return self

    def features(self, image_BCHW: Tensor, *, interpolate: bool = False) -> Tensor:
        """The vector of the class token, then one for each patch, (B, T + 1, D); see `PatchFront.patches`."""
        return self.tower(image_BCHW, interpolate=interpolate)

    def pool(self, features_BTD: Tensor) -> Tensor:
        """One vector for each image, (B, D): tanh of a product of the class token's.

        Raises:
            ValueError: the config has no such layer.
        """
        if self.pooler is None:
            raise ValueError("pooled is not set: this network has no layer that makes one vector of an image")
        return torch.tanh(self.pooler(features_BTD[:, 0]))

    def forward(self, image_BCHW: Tensor, *, interpolate: bool = False) -> Tensor:
        """Class scores (B, classes): a product of the class token's vector (equation 4).

        Raises:
            ValueError: the config has no classes, or what `PatchFront.patches` says.
        """
        if self.head is None:
            raise ValueError("classes is not set: this network has no head, ask for its features")
        return self.head(self.features(image_BCHW, interpolate=interpolate)[:, 0])
