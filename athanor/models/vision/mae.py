"""Masked autoencoder (He et al. 2022, "Masked autoencoders are scalable vision learners").

Most patches of an image are hidden, the encoder reads the others, and a small decoder guesses the hidden pixels.

Shape letters as in `patches.py`; S the patches that are seen, E width of the decoder, P numbers of a patch.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from athanor.models.config import TransformerConfig
from athanor.models.transformer import Transformer
from athanor.models.vision.parts import check_counts
from athanor.models.vision.patches import Tower, TowerConfig, draw_weights, interpolated


@dataclass(frozen=True, kw_only=True)
class MaskedAutoencoderConfig:
    """A masked autoencoder: its encoder, and its decoder, which shares with it what is not named here.

    Raises:
        ValueError: when the numbers cannot form a network.
    """

    tower: TowerConfig
    decoder_width: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 16
    decoder_hidden: int = 2048
    hidden_share: float = 0.75  # of the patches
    normal_pixels: bool = False  # each patch is to be guessed with mean 0 and variance 1 (section 4.1, table 1d)

    def __post_init__(self) -> None:
        check_counts(self, "decoder_width", "decoder_layers", "decoder_heads", "decoder_hidden")
        if not isinstance(self.tower.image, int):
            raise ValueError(f"image={self.tower.image}: a masked autoencoder is made for square images, give one side")
        if not 0 < 1 - self.hidden_share < 1:
            raise ValueError(f"hidden_share={self.hidden_share}: must be above 0 and below 1")
        _ = self.decoder  # which checks its own numbers

    @property
    def decoder(self) -> TransformerConfig:
        """The layers of the decoder."""
        return replace(
            self.tower.trunk, width=self.decoder_width, layers=self.decoder_layers, heads=self.decoder_heads,
            hidden=self.decoder_hidden,
        )  # fmt: skip


@dataclass(frozen=True)
class Reconstruction:
    """What the decoder guessed."""

    patches_BTP: Tensor  # the pixels of every patch, those of the seen ones too
    hidden_BT: Tensor  # bool: which patches the encoder did not see


class MaskedAutoencoder(nn.Module):
    """Images in, guesses of their hidden patches out."""

    def __init__(self, config: MaskedAutoencoderConfig):
        super().__init__()
        self.config = config
        tower, width = config.tower, config.decoder_width
        self.tower = Tower(tower)
        self.embed = nn.Linear(tower.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        # Both tables hold sines and cosines, are stored with the weights, and are not learned (appendix A.1).
        self.tower.front.positions.requires_grad_(False)
        self.positions = nn.Parameter(torch.zeros(tower.places, width), requires_grad=False)
        self.decoder = Transformer(config.decoder)
        self.guess = nn.Linear(width, tower.patch**2 * tower.channels)

    def initialise(self, seed: int) -> "MaskedAutoencoder":
        """Draw every weight anew (see `draw_weights`), and compute the positions. Returns itself.

        Raises:
            ValueError: a width is no multiple of four.
        """
        generator = torch.Generator().manual_seed(seed)
        draw_weights(self, generator)
        with torch.no_grad():
            self.mask_token.copy_(torch.empty(self.mask_token.shape).normal_(0.0, 0.02, generator=generator))
            for table in (self.tower.front.positions, self.positions):
                table[:1] = 0.0
                table[1:] = waves(self.config.tower.grid, table.shape[1])
        return self

    def hide(self, patches_BTD: Tensor, noise_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The patches with the least noise, (B, S, D), and the place of every patch in that order, (B, T)."""
        seen = int(patches_BTD.shape[1] * (1 - self.config.hidden_share))
        order_BT = noise_BT.argsort(1)
        place_BT = order_BT.argsort(1)
        chosen_BSD = order_BT[:, :seen, None].expand(-1, -1, patches_BTD.shape[2])
        return patches_BTD.gather(1, chosen_BSD), place_BT

    def decode(self, seen_BSD: Tensor, place_BT: Tensor, *, interpolate: bool = False) -> Tensor:
        """Guesses for all patches, (B, T, P), from the encoder's vectors of the class token and the seen patches."""
        x_BSE = self.embed(seen_BSD)
        filler_BTE = self.mask_token.expand(len(x_BSE), place_BT.shape[1] - x_BSE.shape[1] + 1, -1)
        x_BTE = torch.cat((x_BSE[:, 1:], filler_BTE), 1)
        x_BTE = x_BTE.gather(1, place_BT[..., None].expand(-1, -1, x_BTE.shape[2]))
        x_BTE = torch.cat((x_BSE[:, :1], x_BTE), 1)
        return self.guess(self.decoder(x_BTE + self.decoder_positions(place_BT.shape[1], interpolate)))[:, 1:]

    def decoder_positions(self, patches: int, interpolate: bool) -> Tensor:
        """The decoder's table for so many patches; of another size as `transformers` has it: along the row of them."""
        if not interpolate:
            return self.positions
        own = len(self.positions) - 1
        return torch.cat((self.positions[:1], interpolated(self.positions[1:], (1, own), (1, patches))))

    def forward(
        self,
        image_BCHW: Tensor,
        noise_BT: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        interpolate: bool = False,
    ) -> Reconstruction:
        """Guess every patch of images of which most patches are hidden.

        Args:
            image_BCHW: pixels.
            noise_BT: the patches of least noise are seen; None: drawn, so that each patch is as likely as any other.
            generator: draws the noise; None: torch's own.
            interpolate: take images of other sizes than the config's.

        Raises:
            ValueError: noise of another shape, or what `PatchFront.patches` says.
        """
        patches_BTD = self.tower.front.patches(image_BCHW, interpolate=interpolate)
        if noise_BT is None:
            noise_BT = torch.rand(patches_BTD.shape[:2], generator=generator, device=patches_BTD.device)
        if noise_BT.shape != patches_BTD.shape[:2]:
            raise ValueError(f"noise of shape {tuple(noise_BT.shape)}: must be {tuple(patches_BTD.shape[:2])}")
        seen_BSD, place_BT = self.hide(patches_BTD, noise_BT)
        latent_BSD = self.tower.trunk(self.tower.front.begin(seen_BSD))
        guess_BTP = self.decode(latent_BSD, place_BT, interpolate=interpolate)
        return Reconstruction(guess_BTP, place_BT >= seen_BSD.shape[1])

    def loss(self, image_BCHW: Tensor, guessed: Reconstruction) -> Tensor:
        """Mean squared error of the hidden patches (section 3, "Reconstruction target"), a scalar."""
        target_BTP = cut(image_BCHW, self.config.tower.patch)
        if self.config.normal_pixels:
            variance_BT1, mean_BT1 = torch.var_mean(target_BTP, dim=-1, keepdim=True)
            target_BTP = (target_BTP - mean_BT1) / (variance_BT1 + 1e-6).sqrt()
        error_BT = (guessed.patches_BTP - target_BTP).square().mean(-1)
        return (error_BT * guessed.hidden_BT).sum() / guessed.hidden_BT.sum()


def cut(image_BCHW: Tensor, patch: int) -> Tensor:
    """The pixels of every patch, (B, T, P): row by row, and the channels of a pixel side by side.

    Raises:
        ValueError: height or width is no multiple of the patch.
    """
    height, width = image_BCHW.shape[2:]
    if height % patch or width % patch:
        raise ValueError(f"images of size {(height, width)} cannot be cut into patches of {patch}")
    image = image_BCHW.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, Y, patch, X, patch)
    return image.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def join(patches_BTP: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """The image (B, C, H, W) whose patches these are, in a grid of so many rows and columns: `cut` undone."""
    patches = patches_BTP.unflatten(2, (patch, patch, -1)).unflatten(1, grid)  # (B, Y, X, patch, patch, C)
    return patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def waves(grid: tuple[int, int], width: int) -> Tensor:
    """Sines and cosines of each patch's column, then of its row, (T, D), as the authors' code has them.

    The frequencies are those of Vaswani et al. 2017, section 3.5: 10000^(-4 i / D) for i from 0 to D / 4 - 1.

    Raises:
        ValueError: the width is no multiple of four.
    """
    if width % 4:
        raise ValueError(f"width={width}: must be a multiple of four, for sines and cosines of two axes")
    frequency_D = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row_T, column_T = torch.cartesian_prod(*(torch.arange(side, dtype=torch.float64) for side in grid)).unbind(1)
    angles = [place_T[:, None] * frequency_D for place_T in (column_T, row_T)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1).float()
