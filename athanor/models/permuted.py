"""XLNet: a language model over any order of the words, with two streams of vectors through the same layers.

The content stream knows a word and where it stands; the query stream knows only where it stands, and guesses the word
from what comes before it in the order (Yang et al. 2019, sections 2.2 to 2.5). Places enter by their distance
(Transformer-XL, Dai et al. 2019, section 3.3).

Shape letters as in `transformer.py`; M positions remembered from earlier texts, P positions to guess, S = M + T,
E distances from -(T - 1) to S - 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from athanor.models.attention import Norm
from athanor.models.config import TransformerConfig
from athanor.models.feedforward import FeedForward
from athanor.models.language import document_starts, draw, initialise, scored
from athanor.models.linear import Linear

Memories = tuple[Tensor, ...]  # what entered each layer for earlier texts, (B, M, D) each


@dataclass(frozen=True, kw_only=True)
class PermutedConfig:
    """XLNet's layers are described as those of the trunk; `causal` is the order from left to right when none is given.

    Raises:
        ValueError: the trunk describes other layers than XLNet has.
    """

    trunk: TransformerConfig

    def __post_init__(self) -> None:
        trunk = self.trunk
        plain = not (trunk.bias_qkv or trunk.bias_out or trunk.gated or trunk.norm_qk or trunk.cross or trunk.experts)
        if trunk.vocabulary is None or trunk.position != "none" or trunk.norm_place != "after" or not plain:
            raise ValueError("XLNet needs a vocabulary, position='none', norm_place='after', attention without biases")
        if trunk.key_heads != trunk.heads or trunk.width % 2:
            raise ValueError("XLNet has as many key heads as heads, and an even width")


class DistantAttention(nn.Module):
    """Attention whose scores are made of content, distance and whether two words are of the same segment."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        heads, size = config.heads, config.head_size
        self.heads, self.scale = heads, config.score_scale
        self.q = Linear(config.width, heads * size, bias=False)
        self.k = Linear(config.width, heads * size, bias=False)
        self.v = Linear(config.width, heads * size, bias=False)
        self.distance = Linear(config.width, heads * size, bias=False)
        self.out = Linear(heads * size, config.width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, size))
        self.distance_bias = nn.Parameter(torch.zeros(heads, size))
        self.segment_bias = nn.Parameter(torch.zeros(heads, size))
        self.segments = nn.Parameter(torch.zeros(2, heads, size))  # same segment, another segment

    def split(self, product: Linear, x: Tensor) -> Tensor:
        """(…, D) -> (…, N, H)."""
        return product(x).unflatten(-1, (self.heads, -1))

    def forward(
        self, x_BTD: Tensor, keys_BSD: Tensor, wave_ED: Tensor, other_BTS: Tensor | None, allowed_BTS: Tensor
    ) -> Tensor:
        """One stream's vectors attend to content.

        With q the query, k a key, r the wave of their distance and s the row for same or other segment, a score is
        ((q + content_bias) k + (q + distance_bias) r + (q + segment_bias) s) / sqrt(H) (Dai et al. 2019, section 3.3;
        Yang et al. 2019, section 2.5).

        Args:
            x_BTD: a stream.
            keys_BSD: the content stream, with what is remembered before it.
            wave_ED: sinusoids of all distances, the largest first.
            other_BTS: True where query and key are of different segments; None: segments are not told apart.
            allowed_BTS: who may attend to whom; a query that may attend to nobody gets zeros.
        """
        q_BTNH = self.split(self.q, x_BTD)
        k_BSNH, v_BSNH = self.split(self.k, keys_BSD), self.split(self.v, keys_BSD)
        score_BNTS = torch.einsum("btnh,bsnh->bnts", q_BTNH + self.content_bias, k_BSNH)
        far_BNTE = torch.einsum("btnh,enh->bnte", q_BTNH + self.distance_bias, self.split(self.distance, wave_ED))
        score_BNTS = score_BNTS + far_BNTE.gather(3, self.column(score_BNTS))
        if other_BTS is not None:
            segment_BNT2 = torch.einsum("btnh,gnh->bntg", q_BTNH + self.segment_bias, self.segments)
            score_BNTS = score_BNTS + torch.where(other_BTS[:, None], segment_BNT2[..., 1:], segment_BNT2[..., :1])
        score_BNTS = (score_BNTS * self.scale).masked_fill(~allowed_BTS[:, None], float("-inf"))
        weight_BNTS = score_BNTS.softmax(-1).masked_fill(~allowed_BTS.any(-1)[:, None, :, None], 0.0)
        return self.out(torch.einsum("bnts,bsnh->btnh", weight_BNTS, v_BSNH).flatten(2))

    def column(self, score_BNTS: Tensor) -> Tensor:
        """Where in the row of distances that of query t and key s stands, expanded to the shape of the scores."""
        length, keys = score_BNTS.shape[-2:]
        t_T1 = torch.arange(length, device=score_BNTS.device)[:, None]
        distance_TS = (keys - length) + t_T1 - torch.arange(keys, device=score_BNTS.device)
        return ((keys - 1) - distance_TS).expand(score_BNTS.shape)


class PermutedBlock(nn.Module):
    """A layer, for either stream."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.attention = DistantAttention(config)
        self.attention_norm = Norm(config, config.width)
        self.mlp = FeedForward(config)
        self.mlp_norm = Norm(config, config.width)

    def forward(
        self, x_BTD: Tensor, keys_BSD: Tensor, wave_ED: Tensor, other_BTS: Tensor | None, allowed_BTS: Tensor
    ) -> Tensor:
        x_BTD = self.attention_norm(x_BTD + self.attention(x_BTD, keys_BSD, wave_ED, other_BTS, allowed_BTS))
        return self.mlp_norm(x_BTD + self.mlp(x_BTD))


class PermutedLanguageModel(nn.Module):
    """Token ids and an order in, scores out."""

    def __init__(self, config: PermutedConfig):
        super().__init__()
        self.config = config
        trunk = config.trunk
        vocabulary = trunk.vocabulary or 0
        self.tokens = nn.Embedding(vocabulary, trunk.width)
        self.query = nn.Parameter(torch.zeros(1, 1, trunk.width))  # how every vector of the query stream begins
        self.blocks = nn.ModuleList(PermutedBlock(trunk) for _ in range(trunk.layers))
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def initialise(self, seed: int) -> "PermutedLanguageModel":
        """Draw every weight anew, normal(0, 0.02), what is added to queries too (published code). Returns itself."""
        initialise(self, {}, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        draw(self.query, 0.02, generator)
        for block in self.blocks:
            attention = block.attention
            for added in (attention.content_bias, attention.distance_bias, attention.segment_bias, attention.segments):
                draw(added, 0.02, generator)
        return self

    def streams(
        self,
        ids_BT: Tensor,
        *,
        order_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        memories: Memories | None = None,
    ) -> tuple[Tensor, Tensor | None, Memories]:
        """Both streams after the last layer, (B, T, D) each, and what entered each layer.

        Args:
            ids_BT: token ids.
            order_BT: place of each word in the order of guessing: a word sees those of a lower place, and its content
                those of the same place too, itself always. Words that are given and not guessed share the lowest place.
                None: from left to right, or all at once, as `causal` says; there is no query stream then.
            segments_BT: which segment each word is of; None: segments are not told apart.
            documents_BT: a number per token; attention never crosses a change of it. Padding is one of its own.
            memories: what entered each layer for the text before (the third result), seen by everybody.
        """
        past = 0 if memories is None else memories[0].shape[1]
        content_BTS, query_BTS = self.masks(ids_BT, order_BT, documents_BT, past)
        other_BTS = None
        if segments_BT is not None:
            every_BS = torch.nn.functional.pad(segments_BT, (past, 0))  # the past counts as segment 0, as published
            other_BTS = segments_BT[:, :, None] != every_BS[:, None]
        h_BTD = self.tokens(ids_BT)
        g_BTD = None if order_BT is None else self.query.expand(h_BTD.shape)
        wave_ED = waves(ids_BT.shape[1], past, h_BTD)
        entered = []
        for layer, block in enumerate(self.blocks):
            entered.append(h_BTD)
            keys_BSD = h_BTD if memories is None else torch.cat((memories[layer], h_BTD), 1)
            if g_BTD is not None:
                g_BTD = block(g_BTD, keys_BSD, wave_ED, other_BTS, query_BTS)
            h_BTD = block(h_BTD, keys_BSD, wave_ED, other_BTS, content_BTS)
        return h_BTD, g_BTD, tuple(entered)

    def masks(
        self, ids_BT: Tensor, order_BT: Tensor | None, documents_BT: Tensor | None, past: int
    ) -> tuple[Tensor, Tensor]:
        """Who may attend to whom, (B, T, S) each: for content, and for queries."""
        length = ids_BT.shape[1]
        place_T = torch.arange(length, device=ids_BT.device)
        content_BTT = torch.ones((len(ids_BT), length, length), dtype=torch.bool, device=ids_BT.device)
        if order_BT is not None:
            content_BTT = order_BT[:, None] <= order_BT[:, :, None]
        if self.config.trunk.causal:
            content_BTT = content_BTT & (place_T <= place_T[:, None])
        if documents_BT is not None:
            starts_BT = document_starts(documents_BT)
            content_BTT = content_BTT & (starts_BT[:, None] == starts_BT[:, :, None])
        query_BTT = content_BTT if order_BT is None else content_BTT & (order_BT[:, None] < order_BT[:, :, None])
        pad = torch.nn.functional.pad
        return pad(content_BTT, (past, 0), value=True), pad(query_BTT, (past, 0), value=True)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token id, float32 (..., V)."""
        return torch.nn.functional.linear(hidden, self.tokens.weight, self.bias).float()

    def forward(
        self,
        ids_BT: Tensor,
        *,
        order_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        memories: Memories | None = None,
    ) -> Tensor:
        """Scores (B, T, V): of the word at each place where an order is given, of the next word otherwise."""
        h_BTD, g_BTD, _ = self.streams(
            ids_BT, order_BT=order_BT, segments_BT=segments_BT, documents_BT=documents_BT, memories=memories
        )
        return self.logits(h_BTD if g_BTD is None else g_BTD)

    def loss(
        self, ids_BT: Tensor, order_BT: Tensor, targets_BT: Tensor, segments_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross-entropies of guessed words in nats, and how many they are (targets of -100 are not).

        The paper's objective for one order of each row (Yang et al. 2019, equations 3 and 5).
        """
        _, g_BTD, _ = self.streams(ids_BT, order_BT=order_BT, segments_BT=segments_BT)
        assert g_BTD is not None
        return scored(g_BTD, self.tokens, targets_BT, self.bias)


def waves(length: int, past: int, like: Tensor) -> Tensor:
    """Sinusoids of the distances from past + T - 1 down to -(T - 1), (E, D): sines, then cosines.

    Frequencies are 10000^(-2i / D) (Vaswani et al. 2017, section 3.5).
    """
    width = like.shape[-1]
    distance_E = torch.arange(past + length - 1, -length, -1, device=like.device, dtype=torch.float32)
    frequency = 1 / 10_000 ** (torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width)
    angle_EF = distance_E[:, None] * frequency
    return torch.cat((angle_EF.sin(), angle_EF.cos()), -1).to(like.dtype)
