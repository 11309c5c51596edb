"""Encoders of text: every token sees the whole of its document (BERT, ERNIE), and hidden tokens are guessed.

Shape letters as in `transformer.py`; X the positions of a batch that have a target, G segments.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.models.attention import Norm
from athanor.models.config import TransformerConfig
from athanor.models.feedforward import ACTIVATIONS
from athanor.models.language import document_starts, initialise, scored
from athanor.models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """An encoder of text: its trunk, and what its front and its head add.

    Attributes:
        trunk: the layers; `vocabulary` and `max_positions` are those of the front.
        segments: rows of the table that tells sentence A from sentence B.
        tasks: rows of ERNIE's table of tasks; None: there is none.
        first_position: row of the table of positions for the first token (RoBERTa: 2, after that of its padding).
        predicts: whether there is a head that scores the vocabulary for hidden tokens.
        pooled: whether there is a layer that makes one vector of the whole text from its first token.

    Raises:
        ValueError: the trunk has no vocabulary, or attends to the left only.
    """

    trunk: TransformerConfig
    segments: int = 2
    tasks: int | None = None
    first_position: int = 0
    predicts: bool = True
    pooled: bool = False

    def __post_init__(self) -> None:
        if self.trunk.vocabulary is None or self.trunk.causal or self.trunk.position != "learned":
            raise ValueError("an encoder of text needs a vocabulary, causal=False and position='learned'")
        if self.segments < 1 or (self.tasks is not None and self.tasks < 1):
            raise ValueError(f"segments={self.segments}, tasks={self.tasks}: at least 1, tasks may be None")
        if not 0 <= self.first_position < self.trunk.max_positions:
            raise ValueError(f"first_position={self.first_position}: 0 to {self.trunk.max_positions - 1}")


class TextEncoder(nn.Module):
    """Token ids in, vectors and scores out.

    Tokens, places and segments are added up and normalised (Devlin et al. 2019, section 3 and figure 2).
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        trunk = config.trunk
        self.tokens = nn.Embedding(trunk.vocabulary or 0, trunk.width)
        self.positions = nn.Embedding(trunk.max_positions, trunk.width)
        self.segments = nn.Embedding(config.segments, trunk.width)
        self.tasks = None if config.tasks is None else nn.Embedding(config.tasks, trunk.width)
        self.norm = Norm(trunk, trunk.width)
        self.trunk = Transformer(trunk)
        self.pooler = nn.Linear(trunk.width, trunk.width) if config.pooled else None
        self.guess = Guess(trunk) if config.predicts else None

    def initialise(self, seed: int) -> "TextEncoder":
        """Draw every weight anew, normal(0, 0.02) (Devlin et al. 2019, the published code). Returns itself."""
        initialise(self, {}, seed)
        return self

    def hidden(
        self,
        ids_BT: Tensor,
        *,
        segments_BT: Tensor | None = None,
        tasks_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """The trunk's output for token ids, (B, T, D).

        Args:
            ids_BT: token ids.
            segments_BT: which sentence each token is of; None: the first.
            tasks_BT: which task each token is for (ERNIE 2.0, Sun et al. 2020); None: the first.
            documents_BT: a number per token; attention never crosses a change of it, and places are counted from there.
                Padding is a document of its own. None: one document per row.

        Raises:
            ValueError: the row is longer than the table of positions, or tasks are named and there are none.
        """
        starts_BT = None if documents_BT is None else document_starts(documents_BT)
        longest = self.config.trunk.max_positions - self.config.first_position
        if ids_BT.shape[1] > longest:
            raise ValueError(f"{ids_BT.shape[1]} positions asked, but this encoder has {longest}")
        place_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) - (0 if starts_BT is None else starts_BT)
        x_BTD = self.tokens(ids_BT) + self.positions(place_BT + self.config.first_position)
        x_BTD = x_BTD + self.segments(torch.zeros_like(ids_BT) if segments_BT is None else segments_BT)
        if self.tasks is not None:
            x_BTD = x_BTD + self.tasks(torch.zeros_like(ids_BT) if tasks_BT is None else tasks_BT)
        elif tasks_BT is not None:
            raise ValueError("tasks_BT is given, but this encoder has no table of tasks")
        return self.trunk(self.norm(x_BTD), starts_BT=starts_BT)

    def pool(self, hidden_BTD: Tensor) -> Tensor:
        """One vector for each row, (B, D): tanh of a product of its first token's vector."""
        assert self.pooler is not None, "this encoder has no pooling layer"
        return torch.tanh(self.pooler(hidden_BTD[:, 0]))

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token id, float32 (..., V), for trunk outputs (..., D)."""
        assert self.guess is not None, "this encoder has no head"
        return F.linear(self.guess(hidden), self.tokens.weight, self.guess.bias).float()

    def forward(
        self,
        ids_BT: Tensor,
        *,
        segments_BT: Tensor | None = None,
        tasks_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits float32 (B, T, V); the arguments are those of `hidden`."""
        return self.logits(self.hidden(ids_BT, segments_BT=segments_BT, tasks_BT=tasks_BT, documents_BT=documents_BT))

    def loss(
        self,
        ids_BT: Tensor,
        targets_BT: Tensor,
        *,
        segments_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of the hidden tokens in nats, and how many there are (targets of -100 are not).

        Source: Devlin et al. 2019, section 3.1, task 1.
        """
        assert self.guess is not None, "this encoder has no head"
        hidden_BTD = self.hidden(ids_BT, segments_BT=segments_BT, documents_BT=documents_BT)
        return scored(self.guess(hidden_BTD), self.tokens, targets_BT, self.guess.bias)


class Guess(nn.Module):
    """What stands between the trunk and the scores: a product, its activation, a norm; and a number for each id."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.product = nn.Linear(config.width, config.width)
        self.activation = ACTIVATIONS[config.mlp]
        self.norm = Norm(config, config.width)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary or 0))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(self.activation(self.product(hidden)))
