"""Images and texts in one space: two towers that are trained so that what belongs together is close (CLIP).

Shape letters: B rows of a batch, T tokens, C H W of an image as in `vision/patches.py`, D width, J width of the joint
space, I images and Q texts that are compared.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.models.attention import Norm
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.models.masked import EncoderConfig, TextEncoder
from athanor.models.vision.patches import Tower, TowerConfig, draw_weights

HIGHEST = 2  # an `end_id` of this value says: where the highest id of a text stands (the first published CLIPs)


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig:
    """A tower that makes one vector of a text.

    Attributes:
        trunk: the layers; `vocabulary` and `max_positions` are those of the front.
        end_id: the text's vector is that of its first token with this id; 2 stands for the highest id of the text, as
            in checkpoints whose config.json was written before the rule. None: that of its first token.
        segments: rows of the table of segments, for a text tower as BERT has it; None: as a language model has it.
        first_position: row of the table of positions for the first token, with segments.
        last: width of one more norm and product behind the trunk (AltCLIP); None: there are none.

    Raises:
        ValueError: when this is no tower we know.
    """

    trunk: TransformerConfig
    end_id: int | None = None
    segments: int | None = None
    first_position: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        if self.last is not None and self.last < 1:
            raise ValueError(f"last={self.last}: must be at least 1, or None")
        if self.segments is not None:
            _ = self.encoder  # which checks its own numbers
        elif not (self.trunk.tied and self.trunk.position == "learned") or self.first_position or self.end_id is None:
            raise ValueError("without segments: tied=True, position='learned', an end_id, and first_position=0")

    @property
    def encoder(self) -> EncoderConfig:
        """The tower as BERT has it."""
        assert self.segments is not None
        return EncoderConfig(
            trunk=self.trunk, segments=self.segments, first_position=self.first_position, predicts=False
        )

    @property
    def width(self) -> int:
        """Width of a text's vector."""
        return self.trunk.width if self.last is None else self.last


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """A tower for images, one for texts, and the width of the space where they meet.

    Raises:
        ValueError: the joint space has no width.
    """

    vision: TowerConfig
    text: TextTowerConfig
    joint: int = 512

    def __post_init__(self) -> None:
        if self.joint < 1:
            raise ValueError(f"joint={self.joint}: must be at least 1")


class TextTower(nn.Module):
    """Token ids in, one vector for each text out."""

    def __init__(self, config: TextTowerConfig):
        super().__init__()
        self.config = config
        trunk = config.trunk
        self.words = LanguageModel(trunk) if config.segments is None else TextEncoder(config.encoder)
        self.norm = None if config.last is None else Norm(trunk, trunk.width)
        self.product = None if config.last is None else nn.Linear(trunk.width, config.last)

    def forward(self, ids_BT: Tensor, seen_BT: Tensor | None = None, segments_BT: Tensor | None = None) -> Tensor:
        """One vector for each text, (B, D).

        Args:
            ids_BT: token ids.
            seen_BT: bool, False where a row is padding, before or after its text; None: there is none.
            segments_BT: which sentence each token is of, for a tower that has segments; None: the first.

        Raises:
            ValueError: a text without its end, or segments for a tower that has none.
        """
        documents_BT = None if seen_BT is None else seen_BT.long()
        if isinstance(self.words, TextEncoder):
            hidden_BTD = self.words.hidden(ids_BT, segments_BT=segments_BT, documents_BT=documents_BT)
        elif segments_BT is not None:
            raise ValueError("segments_BT is given, but this text tower has no table of segments")
        else:
            hidden_BTD = self.words.hidden(ids_BT, documents_BT=documents_BT)
        place_B = self.token(ids_BT, seen_BT)
        text_BD = hidden_BTD[torch.arange(len(ids_BT), device=ids_BT.device), place_B]
        return text_BD if self.norm is None or self.product is None else self.product(self.norm(text_BD))

    def token(self, ids_BT: Tensor, seen_BT: Tensor | None) -> Tensor:
        """The place of the token whose vector stands for the text, (B,)."""
        seen_BT = torch.ones_like(ids_BT, dtype=torch.bool) if seen_BT is None else seen_BT.bool()
        if self.config.end_id is None:
            return seen_BT.int().argmax(1)
        if self.config.end_id == HIGHEST:
            return ids_BT.masked_fill(~seen_BT, -1).argmax(1)
        end_BT = (ids_BT == self.config.end_id) & seen_BT
        if not torch.compiler.is_exporting() and not bool(end_BT.any(1).all()):
            row = int((~end_BT.any(1)).nonzero()[0, 0])
            raise ValueError(f"text {row} has no token {self.config.end_id}, which ends every text of this network")
        return end_BT.int().argmax(1)


class ContrastiveModel(nn.Module):
    """Images and texts in, how well each image fits each text out (CLIP, Radford et al. 2021, section 2.3)."""

    def __init__(self, config: ContrastiveConfig):
        super().__init__()
        self.config = config
        self.vision, self.text = Tower(config.vision), TextTower(config.text)
        self.image_out = nn.Linear(config.vision.width, config.joint, bias=False)
        self.text_out = nn.Linear(config.text.width, config.joint, bias=False)
        self.scale = nn.Parameter(torch.zeros(1))  # the logarithm of what cosines are multiplied by

    def initialise(self, seed: int) -> "ContrastiveModel":
        """Draw every weight anew (see `draw_weights`); cosines are multiplied by 1 / 0.07 (section 2.5)."""
        draw_weights(self, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            self.scale.fill_(math.log(1 / 0.07))
        return self

    def image_vectors(self, image_BCHW: Tensor, *, interpolate: bool = False) -> Tensor:
        """The place of each image in the joint space, (B, J), of length 1; see `PatchFront.patches`."""
        hidden_BTD = self.vision(image_BCHW, interpolate=interpolate)
        return unit(self.image_out(hidden_BTD[:, 0]))

    def text_vectors(self, ids_BT: Tensor, seen_BT: Tensor | None = None, segments_BT: Tensor | None = None) -> Tensor:
        """The place of each text in the joint space, (B, J), of length 1; see `TextTower.forward`."""
        return unit(self.text_out(self.text(ids_BT, seen_BT, segments_BT)))

    def scores(self, image_IJ: Tensor, text_QJ: Tensor) -> Tensor:
        """How well each image fits each text, (I, Q): the cosine, times the learned scale."""
        return self.scale.exp() * (image_IJ @ text_QJ.t())

    def forward(
        self,
        image_BCHW: Tensor,
        ids_BT: Tensor,
        seen_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        *,
        interpolate: bool = False,
    ) -> Tensor:
        """How well each image fits each text, (I, Q); the arguments are those of the towers."""
        return self.scores(
            self.image_vectors(image_BCHW, interpolate=interpolate), self.text_vectors(ids_BT, seen_BT, segments_BT)
        )


def contrastive_loss(scores_BB: Tensor) -> Tensor:
    """Mean of two cross-entropies in nats: which text is this image's, and which image is this text's.

    Row and column of the same number belong together (Radford et al. 2021, section 2.3 and figure 3).
    """
    own_B = torch.arange(len(scores_BB), device=scores_BB.device)
    scores_BB = scores_BB.float()
    return (F.cross_entropy(scores_BB, own_B) + F.cross_entropy(scores_BB.t(), own_B)) / 2


def unit(x: Tensor) -> Tensor:
    """The same direction with length 1."""
    return x / x.norm(dim=-1, keepdim=True)
