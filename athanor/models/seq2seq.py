"""Encoder-decoders: one trunk reads a source, another writes while it attends to what the first made of it.

T5 and mT5 tell distances apart by classes of their own, M2M-100 adds sinusoids; Whisper's front is in `speech.py`.

Shape letters as in `transformer.py`; S positions of the source, T positions of what is written.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.models.attention import Cache, Memory
from athanor.models.config import TransformerConfig
from athanor.models.language import document_starts, initialise, scored
from athanor.models.transformer import Transformer

SLOWEST = 10_000.0  # the wavelengths of the sinusoids grow from 2 pi to 2 pi times this


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """Two trunks and the embedding they share; a number of the decoder that is None is the encoder's, and written out.

    Attributes:
        encoder: the trunk that reads. The one that writes is the same but for causality, cross-attention and what the
            fields named `decoder_` say.
        vocabulary: number of token ids, of the source and of what is written.
        tied: the head reuses the embedding.
        decoder_layers: how many layers write.
        decoder_heads: heads of those layers; if not the encoder's count, the width is divided among them.
        decoder_hidden: width in between in their feed-forward layers.
        decoder_positions: rows of a learned table of positions that only the decoder has (Whisper); None: no table.
        padding: id of padding; set, positions are sinusoids, counted from the number after it, and padding itself has
            no position (M2M-100).
        scale_embedding: embeddings are multiplied by sqrt(width) (Vaswani et al. 2017, section 3.4).
        scale_head: what the head reads is divided by sqrt(width); None: if it is tied (T5 does so, and T5 v1.1 does
            not).

    Raises:
        ValueError: when the numbers cannot form a network.
    """

    encoder: TransformerConfig
    vocabulary: int
    tied: bool = True
    decoder_layers: int | None = None
    decoder_heads: int | None = None
    decoder_hidden: int | None = None
    decoder_positions: int | None = None
    padding: int | None = None
    scale_embedding: bool = False
    scale_head: bool | None = None

    def __post_init__(self) -> None:
        e = self.encoder
        if e.causal or e.cross or e.position not in ("buckets", "none"):
            raise ValueError("the encoder needs causal=False, cross=False, and position 'buckets' or 'none'")
        if e.vocabulary is not None or e.embedding_norm or e.logit_scale != 1.0 or e.experts is not None:
            raise ValueError("the encoder takes no vocabulary, embedding_norm, logit_scale or experts of its own")
        if self.padding is not None and (e.position != "none" or self.decoder_positions is not None or e.width % 2):
            raise ValueError("padding is set for sinusoids: position='none', no decoder_positions, and an even width")
        if self.padding is not None and (not 0 <= self.padding < self.vocabulary or e.width < 4):
            raise ValueError(f"padding={self.padding}, width={e.width}: an id of the vocabulary, and a width from 4")
        if self.decoder_positions is not None and e.position != "none":
            raise ValueError(f"decoder_positions with position={e.position!r}: must be 'none'")
        said = {"layers": e.layers, "heads": e.heads, "hidden": e.hidden}
        for name, number in said.items():  # written out, so that one network has one description
            if getattr(self, "decoder_" + name) is None:
                object.__setattr__(self, "decoder_" + name, number)
        if self.scale_head is None:
            object.__setattr__(self, "scale_head", self.tied)
        _ = self.decoder  # refused here if its numbers form no network

    @property
    def decoder(self) -> TransformerConfig:
        """The trunk that writes."""
        e, learned = self.encoder, self.decoder_positions is not None
        own_heads = self.decoder_heads != e.heads
        return replace(
            e,
            causal=True,
            cross=True,
            vocabulary=self.vocabulary,
            tied=self.tied,
            layers=self.decoder_layers,
            heads=self.decoder_heads,
            kv_heads=None if own_heads else e.kv_heads,
            head_width=None if own_heads else e.head_width,
            hidden=self.decoder_hidden,
            position="learned" if learned else e.position,
            max_positions=self.decoder_positions if learned else e.max_positions,
        )


class EncoderDecoder(nn.Module):
    """A source in, logits over the vocabulary out for every token that is written (Vaswani et al. 2017, section 3)."""

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        self.config = config
        width, rows = config.encoder.width, config.decoder_positions
        self.tokens = nn.Embedding(config.vocabulary, width, padding_idx=config.padding)  # padding's is not trained
        self.positions = None if rows is None else nn.Embedding(rows, width)
        self.encoder = Transformer(config.encoder)
        self.decoder = Transformer(config.decoder)
        self.head = None if config.tied else nn.Linear(width, config.vocabulary, bias=False)

    def initialise(self, seed: int) -> "EncoderDecoder":
        """Draw every weight anew, by the law of `LanguageModel.initialise`. Returns itself."""
        initialise(self, {self.encoder: self.config.encoder.layers, self.decoder: self.config.decoder.layers}, seed)
        return self

    def read(self, source: Tensor, seen_BS: Tensor | None = None) -> Tensor:
        """What the encoder makes of a source, (B, S, D).

        Args:
            source: token ids (B, S), or vectors (B, S, D) that a front made.
            seen_BS: bool, False where the source is padding, on whichever side; None: all is seen.

        Raises:
            ValueError: the source is longer than the network allows, or one of which nothing is seen.
        """
        self.check_length(source.shape[1], self.encoder.config)
        if seen_BS is not None and not bool(seen_BS.any(1).all()):
            raise ValueError("a source is padding and nothing else: attention needs at least one position to attend to")
        x_BSD = source if source.is_floating_point() else self.embed(source, self.places(source, None))
        return self.encoder(x_BSD, allowed_BTS=None if seen_BS is None else seen_BS[:, None])

    def encode(self, source: Tensor, seen_BS: Tensor | None = None) -> Memory:
        """What the decoder remembers of a source, made once for all that is written; the arguments are `read`'s."""
        return self.decoder.remember(self.read(source, seen_BS), seen_BS)

    def decode(
        self,
        ids_BT: Tensor,
        memory: Memory,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The decoder's output for the tokens written so far, (B, T, D).

        Args:
            ids_BT: token ids, the first of them the one that starts every text.
            memory: what `encode` made of the source.
            positions_BT: place of each token in its document; None: counted from the start of the document.
            documents_BT: a number per token; attention never crosses a change of it. Padding before a text is a
                document of its own; behind it nothing is needed. None: one document per row.
            cache: keys and values of earlier calls; positions_BT must then be given.

        Raises:
            ValueError: when the arguments contradict each other or the row is longer than the network allows.
        """
        if cache is not None and (positions_BT is None or documents_BT is not None):
            raise ValueError("with a cache, give positions_BT and no documents_BT: the mask of the cache decides")
        self.check_length(ids_BT.shape[1], self.decoder.config)
        starts_BT = None if documents_BT is None else document_starts(documents_BT)
        if positions_BT is None:
            positions_BT = self.places(ids_BT, starts_BT)
        x_BTD = self.embed(ids_BT, positions_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(positions_BT)
        return self.decoder(x_BTD, starts_BT=starts_BT, cache=cache, memory=memory)

    def check_length(self, length: int, trunk: TransformerConfig) -> None:
        """Refuse rows beyond the positions a network was made for; classes of distance have no last one."""
        if trunk.position != "buckets" and length > trunk.max_positions:
            raise ValueError(f"{length} positions asked, but max_positions={trunk.max_positions}")

    def places(self, ids_BT: Tensor, starts_BT: Tensor | None) -> Tensor:
        """Positions counted from the start of each document, (B, T); where padding has none, it is not counted."""
        padding = self.config.padding
        counted_BT = torch.ones_like(ids_BT) if padding is None else (ids_BT != padding).long()
        count_BT = counted_BT.cumsum(1)
        if starts_BT is None:
            return count_BT - 1
        before_BT = (count_BT - counted_BT).gather(1, starts_BT)
        return count_BT - before_BT - 1

    def embed(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """What enters a trunk, (B, T, D), but for learned positions."""
        padding, width = self.config.padding, self.config.encoder.width
        x_BTD = self.tokens(ids_BT)
        if self.config.scale_embedding:
            x_BTD = x_BTD * math.sqrt(width)
        if padding is None:
            return x_BTD
        waves_BTD = sinusoids(positions_BT + padding + 1, width).to(x_BTD.dtype)
        return x_BTD + waves_BTD * (ids_BT != padding)[..., None]

    def scaled(self, hidden: Tensor) -> Tensor:
        """What the head reads of the decoder's output."""
        return hidden * self.config.encoder.width**-0.5 if self.config.scale_head else hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token id, float32 (..., V), for outputs of the decoder (..., D)."""
        hidden = self.scaled(hidden)
        return (F.linear(hidden, self.tokens.weight) if self.head is None else self.head(hidden)).float()

    def forward(
        self,
        source: Tensor,
        ids_BT: Tensor,
        *,
        seen_BS: Tensor | None = None,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits float32 (B, T, V); the arguments are those of `encode` and `decode`."""
        memory = self.encode(source, seen_BS)
        return self.logits(self.decode(ids_BT, memory, positions_BT=positions_BT, documents_BT=documents_BT))

    def loss(
        self,
        source: Tensor,
        ids_BT: Tensor,
        targets_BT: Tensor,
        *,
        seen_BS: Tensor | None = None,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies in nats, and how many positions were scored (targets of -100 are not).

        `ids_BT` is what the decoder has read when it is to write `targets_BT`: see `shifted`.
        """
        memory = self.encode(source, seen_BS)
        hidden_BTD = self.decode(ids_BT, memory, positions_BT=positions_BT, documents_BT=documents_BT)
        return scored(self.scaled(hidden_BTD), self.tokens if self.head is None else self.head, targets_BT)


def shifted(targets_BT: Tensor, start: int, padding: int) -> Tensor:
    """What a decoder reads so that it writes the targets: the starting id, then all but the last of them, (B, T).

    Targets that are not scored (below 0) are read as padding.
    """
    ids_BT = targets_BT.roll(1, 1)
    ids_BT[:, 0] = start
    return ids_BT.masked_fill(ids_BT < 0, padding)


def sinusoids(position: Tensor, width: int) -> Tensor:
    """Vectors (..., D), float32, that say a place (...,): first the sines of D/2 wavelengths, then their cosines.

    Wavelengths grow by equal ratios from 2 pi to 20,000 pi, and reach it, as in the authors' published code. In the
    paper (Vaswani et al. 2017, section 3.5) sines and cosines alternate, and the longest wavelength is not reached.
    """
    half = width // 2
    rate_R = torch.exp(torch.arange(half, device=position.device).float() * -(math.log(SLOWEST) / (half - 1)))
    angle = position.float()[..., None] * rate_R
    return torch.cat((angle.sin(), angle.cos()), -1)
