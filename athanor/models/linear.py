"""The products of the trunk."""

import torch.nn.functional as F
from torch import Tensor, nn

from athanor.models import native_kernels
from athanor.models.kernels import trains_on_cpu


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x weight^T, (..., outputs), which the library multiplies (athanor/native/product.h) where a CPU learns."""
    if trains_on_cpu(x, weight) and native_kernels.can_multiply(x, weight):
        return native_kernels.Linear.apply(x, weight)
    return F.linear(x, weight)


class Linear(nn.Linear):
    """x weight^T + bias by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        if not trains_on_cpu(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        y = linear(x, self.weight)
        return y if self.bias is None else y + self.bias
