"""Next token: what GPT, LLaMA and their kin are pretrained on, and with other targets fine-tuned on.

    loss = -sum over t of log p(x_t | x_<t of the same document)        GPT-1 (Radford et al. 2018), equation 1

A network with experts also pays a small share of its balance loss; z-loss keeps the scores from drifting.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.data.packing.batches import Batch
from athanor.models.config import TransformerConfig
from athanor.models.feedforward import Routes
from athanor.models.language import LanguageModel
from athanor.training.objective import Loss
from athanor.training.settings import LoopSettings

BALANCE = 0.01  # Fedus et al. 2021, section 2.2: large enough to balance, small enough not to drown the task


class NextTokenSettings(LoopSettings):
    """What next-token training can do with and without."""

    fused_loss: bool = True
    """Logits of a few rows at a time, their gradient made in the same pass: the memory of all logits is saved; false:
    all at once, by torch's own functions."""
    document_mask: bool = True
    """Attention stays within a document; false: within a row, across what happens to be packed into it."""


class TokenBatch(NamedTuple):
    """Rows of tokens, (B, T) int64 each; targets of -100 are not learnt, attention stays within a document.

    Attributes:
        sources_BT: number of the source that each position comes from; None: one source.
    """

    ids_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor | None
    sources_BT: Tensor | None = None


def to_tensors(batch: Batch, device: torch.device) -> TokenBatch:
    """The arrays of a batch on a device."""
    arrays = (batch.ids_BT, batch.targets_BT, batch.documents_BT)
    return TokenBatch(*(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays))


def next_token_loss(
    config: TransformerConfig,
    balance: float | None = None,
    z_loss: float = 0.0,
    sources: Mapping[int, str] | None = None,
    fused: bool = True,
    document_mask: bool = True,
) -> Callable[[nn.Module, TokenBatch], Loss]:
    """The loss of a `LanguageModel` with this config.

    Args:
        balance: share of the loss that keeps experts evenly used; None: 0.01 where there are experts.
        z_loss: see `cross_entropy.linear_cross_entropy`.
        sources: names of the sources whose losses are told apart.
        fused, document_mask: see `NextTokenSettings`.

    Raises:
        AthanorError: a share is given and the network has no experts to balance.
    """
    if config.experts is None and balance is not None:
        raise AthanorError(f"balance={balance}: the network has no experts", fix="leave balance out")
    share = BALANCE if balance is None else balance

    def loss(model: nn.Module, batch: TokenBatch) -> Loss:
        assert isinstance(model, LanguageModel)
        routes = None if config.experts is None else Routes()
        documents_BT = batch.documents_BT if document_mask else None
        hidden_BTD = model.hidden(batch.ids_BT, documents_BT=documents_BT, routes=routes)
        scores = model.score(hidden_BTD, batch.targets_BT, z_loss, fused)
        total, count = scores.sums()
        if routes is not None:
            total = total + share * count * routes.balance()  # the loop divides both by the count
        parts = {}
        if sources is not None and batch.sources_BT is not None:
            source_X = batch.sources_BT.flatten()
            source_X = source_X if scores.rows_X is None else source_X[scores.rows_X]
            parts = {name: by_part(scores.loss_X, source_X == number) for number, name in sources.items()}
        return Loss(total, count, parts)

    return loss


def by_part(loss_X: Tensor, member_X: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count of the losses of one part."""
    return (loss_X * member_X).sum(), member_X.sum()
