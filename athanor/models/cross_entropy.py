"""The loss of a head over a vocabulary: logits of some rows at a time, and the gradient in the same pass.

The plain formula is the reference; the faster path is compared with it in `tests/models/test_kernels.py`.

Shape letters as in `transformer.py`; X rows.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from athanor.models import native_kernels
from athanor.models.kernels import on_cpu

CHUNK_ROWS = 512  # rows of logits at a time: few enough to stay in a cache, enough for fast products


def linear_cross_entropy(
    hidden_XD: Tensor, weight_VD: Tensor, targets_X: Tensor, z_loss: float = 0.0, fused: bool = True
) -> tuple[Tensor, Tensor]:
    """-log softmax(hidden weight)[target], in nats, float32: the sum, and every row's without gradient.

    Logits exist for CHUNK_ROWS rows at a time only, and the gradient is made in the same pass: with p the
    probabilities, dlogits = p - onehot(target) (the idea of Liger Kernel, Hsu et al. 2024).

    Args:
        z_loss: the sum holds this times log(sum exp(logits))^2 as well (PaLM, Chowdhery et al. 2022, section 5).
        fused: as said; else all logits at once, as the plain formula has them.
    """
    if not fused:
        return plain_linear_cross_entropy(hidden_XD, weight_VD, targets_X, z_loss)
    if torch.is_grad_enabled() and (hidden_XD.requires_grad or weight_VD.requires_grad):
        return LinearCrossEntropy.apply(hidden_XD, weight_VD, targets_X, z_loss)
    pieces = [
        plain_linear_cross_entropy(hidden_XD[rows], weight_VD, targets_X[rows], z_loss)
        for rows in chunks(len(hidden_XD))
    ]
    if not pieces:
        return torch.zeros((), device=hidden_XD.device), torch.zeros(0, device=hidden_XD.device)
    return torch.stack([total for total, _ in pieces]).sum(), torch.cat([loss_X for _, loss_X in pieces])


def plain_linear_cross_entropy(
    hidden_XD: Tensor, weight_VD: Tensor, targets_X: Tensor, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The reference, all logits at once."""
    logits_XV = F.linear(hidden_XD, weight_VD).float()
    loss_X = F.cross_entropy(logits_XV, targets_X, reduction="none")
    total = loss_X.sum()
    if z_loss:
        total = total + z_loss * logits_XV.logsumexp(-1).square().sum()
    return total, loss_X.detach()


def chunks(rows: int) -> Iterator[slice]:
    """Slices of CHUNK_ROWS rows; the last may be shorter."""
    for first in range(0, rows, CHUNK_ROWS):
        yield slice(first, min(first + CHUNK_ROWS, rows))


class LinearCrossEntropy(Function):
    """Loss and both gradients, chunk by chunk; the weight's gradient is summed in float32."""

    @staticmethod
    def forward(
        ctx: Any, hidden_XD: Tensor, weight_VD: Tensor, targets_X: Tensor, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        hidden_XD, device = hidden_XD.contiguous(), hidden_XD.device
        loss_X = torch.empty(len(hidden_XD), device=device)
        extra = torch.zeros((), device=device)
        dhidden_XD = torch.empty_like(hidden_XD)
        learns = ctx.needs_input_grad[1]  # a frozen head needs no gradient
        dweight_VD = torch.zeros(weight_VD.shape if learns else (0,), device=device)
        for rows in chunks(len(hidden_XD)):
            given_XD = hidden_XD[rows]
            native = on_cpu(given_XD) and native_kernels.can_multiply(given_XD, weight_VD)
            if native:
                logits_XV = given_XD.new_empty(len(given_XD), len(weight_VD))
                native_kernels.product(given_XD, weight_VD, logits_XV, turned=1)
            else:
                logits_XV = F.linear(given_XD, weight_VD)
            dlogits_XV, loss_X[rows], squares = cross_entropy(logits_XV, targets_X[rows], z_loss)
            extra += squares
            if native:
                native_kernels.product(dlogits_XV, weight_VD, dhidden_XD[rows], turned=0)
            else:
                torch.mm(dlogits_XV, weight_VD, out=dhidden_XD[rows])
            if learns and native:
                native_kernels.product_down(dlogits_XV, given_XD, dweight_VD)
            elif learns and given_XD.dtype == torch.float32:
                dweight_VD.addmm_(dlogits_XV.t(), given_XD)
            elif learns:
                add(dweight_VD, dlogits_XV.t() @ given_XD)
        ctx.save_for_backward(dhidden_XD, dweight_VD.to(weight_VD.dtype))
        ctx.mark_non_differentiable(loss_X)
        return loss_X.sum() + extra, loss_X

    @staticmethod
    def backward(ctx: Any, dtotal: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        dhidden_XD, dweight_VD = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            dweight_VD = None
        elif not on_cpu(dtotal) or float(dtotal) != 1:  # training asks for 1: no second gradient of the head's size
            dweight_VD = dweight_VD * dtotal
        return dhidden_XD * dtotal, dweight_VD, None, None


def add(total: Tensor, part: Tensor) -> None:
    """total += part, where the total is float32."""
    if on_cpu(part) and part.dtype == torch.bfloat16 and native_kernels.usable(part):
        native_kernels.add(total, part)
    else:
        total += part


def cross_entropy(logits_XV: Tensor, targets_X: Tensor, z_loss: float) -> tuple[Tensor, Tensor, Tensor | float]:
    """The gradient of a chunk's logits, which it may write over, each row's loss, and what z-loss adds to the sum."""
    if on_cpu(logits_XV) and native_kernels.usable(logits_XV):
        loss_X, log_sum_X = native_kernels.cross_entropy(logits_XV, targets_X, z_loss)
        return logits_XV, loss_X, z_loss * log_sum_X.square().sum() if z_loss else 0.0
    p_XV = torch.softmax(logits_XV, dim=-1)
    p_X1 = p_XV.gather(1, targets_X[:, None])
    # Below e^-69 the loss is reported as 69 nats: a logarithm of zero would end the run for one bad token.
    loss_X = -p_X1.squeeze(1).float().clamp_min(1e-30).log()
    extra: Tensor | float = 0.0
    if z_loss:  # d log_sum^2 = 2 log_sum p
        log_sum_X1 = logits_XV.float().logsumexp(-1, keepdim=True)
        extra = z_loss * log_sum_X1.square().sum()
        p_XV *= (1 + 2 * z_loss * log_sum_X1).to(p_XV.dtype)
        p_X1 = p_XV.gather(1, targets_X[:, None])
    return p_XV.scatter_(1, targets_X[:, None], p_X1 - 1), loss_X, extra
