"""A language model: token embedding in front of the trunk, logits behind it.

Shape letters as in `transformer.py`; X the positions of a batch that have a target.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.models import cross_entropy
from athanor.models.attention import Attention, Cache, CrossAttention, Norm
from athanor.models.config import TransformerConfig
from athanor.models.feedforward import FeedForward, Routes
from athanor.models.outline import Drawn
from athanor.models.transformer import Transformer

IGNORED = -100  # a target with this value is not scored (the convention of torch and transformers)


class LanguageModel(nn.Module):
    """Token ids in, logits over the vocabulary out.

    Raises:
        ValueError: when the config has no vocabulary.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        if config.vocabulary is None:
            raise ValueError("a language model needs config.vocabulary, the number of token ids")
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        learned, places = config.position == "learned", config.max_positions + config.position_offset
        self.positions = nn.Embedding(places, config.width) if learned else None
        # The second axis of positions, where there are two: the place in a span that is being filled in.
        self.span_positions = nn.Embedding(places, config.width) if learned and config.position_axes == 2 else None
        self.embedding_norm = Norm(config, config.width) if config.embedding_norm else None
        self.trunk = Transformer(config)
        self.shift = 0  # positions that a prefix takes before every text (`adapters/prefix.py`)
        self.chosen: str | None = None  # the adapter that computes (`adapters/attach.py`)
        said = config.vocabulary - config.silent_ids
        self.head = None if config.tied else nn.Linear(config.width, said, bias=config.bias_head)

    @property
    def room(self) -> int:
        """Positions that a text and its answer may have: all but those of a prefix."""
        return self.config.max_positions - self.shift

    def initialise(self, seed: int) -> "LanguageModel":
        """Draw every weight anew: normal(0, 0.02), and 0.02 / sqrt(2 layers) where a layer adds to the stream.

        The same seed gives the same numbers on every device (GPT-2, Radford et al. 2019, section 2.3). Returns itself.
        """
        initialise(self, {self.trunk: self.config.layers}, seed)
        return self

    def hidden(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        allowed_BTS: Tensor | None = None,
        cache: Cache | None = None,
        routes: Routes | None = None,
    ) -> Tensor:
        """The trunk's output for token ids, (B, T, D).

        Args:
            ids_BT: token ids.
            positions_BT: place of each token in its document; None: counted from the start of the document. With two
                axes (B, T, 2): the place, and the place in a span that is being filled in (0 outside, or left out).
            documents_BT: a number per token; attention never crosses a change of it. None: one document per row.
            allowed_BTS: who may attend to whom (True), instead of what causality and documents say.
            cache: keys and values of earlier calls; positions_BT must then be given.
            routes: takes note of where layers with experts send each token; see `Routes.balance`.

        Raises:
            ValueError: when the arguments contradict each other or the row is longer than the model allows.
        """
        starts_BT = None if documents_BT is None else document_starts(documents_BT)
        if cache is not None and (positions_BT is None or documents_BT is not None or allowed_BTS is not None):
            raise ValueError("with a cache, give positions_BT and nothing else: the mask of the cache decides")
        if documents_BT is not None and allowed_BTS is not None:
            raise ValueError("give documents_BT or allowed_BTS: both say who attends to whom")
        if ids_BT.shape[1] > self.config.longest - self.shift:
            raise ValueError(f"{ids_BT.shape[1]} positions asked, but max_positions={self.config.longest - self.shift}")
        if positions_BT is None:
            positions_BT = self.places(ids_BT, starts_BT)
        if self.shift:
            positions_BT = positions_BT + self.shift
        x_BTD = self.embed(ids_BT, positions_BT)
        return self.trunk(
            x_BTD, positions_BT=positions_BT, starts_BT=starts_BT, allowed_BTS=allowed_BTS, cache=cache, routes=routes
        )

    def places(self, ids_BT: Tensor, starts_BT: Tensor | None) -> Tensor:
        """Positions counted from the start of each document, (B, T), or (B, T, 2) where there are two axes."""
        place_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        place_BT = place_T.expand(ids_BT.shape) if starts_BT is None else place_T - starts_BT
        return place_BT if self.config.position_axes == 1 else torch.stack((place_BT, torch.zeros_like(place_BT)), -1)

    def embed(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """What enters the trunk, (B, T, D)."""
        x_BTD = self.tokens(ids_BT)
        if self.positions is not None:
            tables = [self.positions] if self.span_positions is None else [self.positions, self.span_positions]
            axes = [positions_BT] if len(tables) == 1 else positions_BT.unbind(-1)
            for table, axis_BT in zip(tables, axes, strict=True):
                x_BTD = x_BTD + table(axis_BT + self.config.position_offset)
        return x_BTD if self.embedding_norm is None else self.embedding_norm(x_BTD)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token id, float32 (..., V), for trunk outputs (..., D)."""
        scores = F.linear(hidden, self.tokens.weight) if self.head is None else self.head(hidden)
        return scores.float() if self.config.logit_scale == 1.0 else scores.float() * self.config.logit_scale

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        allowed_BTS: Tensor | None = None,
        cache: Cache | None = None,
        routes: Routes | None = None,
    ) -> Tensor:
        """Logits float32 (B, T, V); the arguments are those of `hidden`."""
        return self.logits(
            self.hidden(
                ids_BT,
                positions_BT=positions_BT,
                documents_BT=documents_BT,
                allowed_BTS=allowed_BTS,
                cache=cache,
                routes=routes,
            )
        )

    def loss(
        self,
        ids_BT: Tensor,
        targets_BT: Tensor,
        documents_BT: Tensor | None = None,
        routes: Routes | None = None,
        *,
        positions_BT: Tensor | None = None,
        allowed_BTS: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies in nats, and how many positions were scored (targets of -100 are not).

        A network with experts is trained on this plus a small share of `routes.balance()`.
        """
        hidden_BTD = self.hidden(
            ids_BT, positions_BT=positions_BT, documents_BT=documents_BT, allowed_BTS=allowed_BTS, routes=routes
        )
        return self.score(hidden_BTD, targets_BT).sums()

    def score(self, hidden_BTD: Tensor, targets_BT: Tensor, z_loss: float = 0.0, fused: bool = True) -> "Scores":
        """How well the head's scores for the trunk's output foretell the targets."""
        if self.config.logit_scale != 1.0:
            hidden_BTD = hidden_BTD * self.config.logit_scale
        return score(
            hidden_BTD, self.tokens if self.head is None else self.head, targets_BT, z_loss=z_loss, fused=fused
        )


@dataclass(frozen=True)
class Scores:
    """Cross-entropies of one batch, in nats.

    Attributes:
        total: their sum, of which a gradient can be taken.
        loss_X: every scored position's, without gradient.
        rows_X: where these stand in the flattened batch; None: all of it was scored.
    """

    total: Tensor
    loss_X: Tensor
    rows_X: Tensor | None

    def sums(self) -> tuple[Tensor, Tensor]:
        """The sum, and how many positions were scored."""
        return self.total, torch.tensor(len(self.loss_X), device=self.total.device)


def scored(
    hidden_BTD: Tensor, head: nn.Embedding | nn.Linear, targets_BT: Tensor, bias_V: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies of a head's scores in nats, and how many positions had a target; see `score`."""
    return score(hidden_BTD, head, targets_BT, bias_V).sums()


def score(
    hidden_BTD: Tensor,
    head: nn.Embedding | nn.Linear,
    targets_BT: Tensor,
    bias_V: Tensor | None = None,
    z_loss: float = 0.0,
    fused: bool = True,
) -> Scores:
    """The cross-entropies of a head's scores.

    Args:
        head: a product of its own, or the embedding that it shares its weight with.
        bias_V: a number added to each id's score; None: the head's own, where it has one.
        z_loss, fused: see `cross_entropy.linear_cross_entropy`.
    """
    hidden_XD, targets_X = hidden_BTD.flatten(0, -2), targets_BT.flatten()
    scored_X, rows_X = targets_X != IGNORED, None
    if not bool(scored_X.all()):  # only what is scored goes through the largest product of the model
        rows_X = scored_X.nonzero().squeeze(1)
        hidden_XD, targets_X = hidden_XD.index_select(0, rows_X), targets_X.index_select(0, rows_X)
    weight_VD = head.weight.to(hidden_XD.dtype)  # of a quantised head made from its codes, for this product alone
    bias_V = getattr(head, "bias", None) if bias_V is None else bias_V
    if bias_V is not None:  # one more input that is always 1
        weight_VD = torch.cat((weight_VD, bias_V[:, None]), 1)
        hidden_XD = F.pad(hidden_XD, (0, 1), value=1.0)
    return Scores(*cross_entropy.linear_cross_entropy(hidden_XD, weight_VD, targets_X, z_loss, fused), rows_X)


def draw(weight: Tensor, deviation: float, generator: torch.Generator) -> None:
    """Fill a weight with normal numbers drawn on the CPU in float32, so that device and dtype do not change them.

    One that has no numbers yet (`outline.py`) notes where its own begin.
    """
    if weight.is_meta:
        weight.drawn = Drawn(generator.get_state(), deviation, weight.shape)  # type: ignore[attr-defined]
    numbers = torch.empty(weight.shape).normal_(0.0, deviation, generator=generator)
    with torch.no_grad():
        weight.copy_(numbers)


def initialise(network: nn.Module, layers: Mapping[Transformer, int], seed: int) -> None:
    """Draw every product and table: normal(0, 0.02), and 0.02 / sqrt(2 layers) where a layer adds to its stream.

    Args:
        layers: of each trunk whose layers add to a stream; those of one that is normalised after each sum do not need
            to be smaller, and BERT's are not (Devlin et al. 2019, the published code).
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d):
            draw(module.weight, 0.02, generator)
        if isinstance(module, nn.Linear | nn.Conv1d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for trunk, count in layers.items():
        for module in trunk.modules():
            added = module.out if isinstance(module, Attention | CrossAttention) else None
            added = module.down if isinstance(module, FeedForward) else added
            if added is not None:
                draw(added.weight, 0.02 / math.sqrt(2 * count), generator)


def document_starts(documents_BT: Tensor) -> Tensor:
    """Index of the first position of each position's document, (B, T)."""
    place_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    changed_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    changed_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    if torch.compiler.is_exporting():  # ONNX has no running maximum
        return ((place_T * changed_BT)[:, None] * (place_T <= place_T[:, None])).amax(-1)
    return (place_T * changed_BT).cummax(dim=1).values
