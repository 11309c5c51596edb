"""Context parallelism: every process computes all layers for some positions of every row, with the keys of all.

What a layer keeps for the backward pass grows with the length of a row; divided by positions, a row may be as many
times longer. Each attention gathers the keys and values of all processes (as Llama 3 does, Grattafiori et al. 2024,
section 3.3.2), which is right for any mask: packed documents, windows, blanks. torch's own `context_parallel` takes the
place of CUDA's kernels of `scaled_dot_product_attention`, which know no packed documents, or of a compiled
`flex_attention`.

Embedding, head and loss see the whole row in every process: a slice on the way into the trunk and a join on the way
out, each the other's gradient. So gradients outside the trunk are whole, and those of its weights are added up.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

from athanor.base.errors import AthanorError
from athanor.models import kernels
from athanor.models.attention import Attention, Cache, Places
from athanor.models.transformer import Transformer
from athanor.training.engines.processes import Processes
from athanor.training.engines.tensor import sum_of_parts
from athanor.training.objective import Scored


def span(length: int) -> slice:
    """The positions of this process: as even as rounding up allows."""
    size = -(-length // dist.get_world_size())
    return slice(min(dist.get_rank() * size, length), min((dist.get_rank() + 1) * size, length))


def gathered(x: Tensor, length: int) -> Tensor:
    """The positions of all processes, (B, T, …), from those of each."""
    size = -(-length // dist.get_world_size())
    sent = x.new_zeros((x.shape[0], size, *x.shape[2:]))
    sent[:, : x.shape[1]] = x
    received = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
    dist.all_gather(received, sent)
    return torch.cat(received, 1)[:, :length]


class Slice(Function):
    """This process's positions of what all have; its gradient is that of all positions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.length = x.shape[1]
        return x[:, span(ctx.length)].contiguous()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return gathered(dy, ctx.length)


class Join(Function):
    """All positions, from those of each process, for what all do alike; its gradient is that of one's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, length: int) -> Tensor:
        ctx.length = length
        return gathered(x, length)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy[:, span(ctx.length)].contiguous(), None


class Gather(Function):
    """All keys, from those of each process, for queries that are each one's own: gradients come from all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, length: int) -> Tensor:
        ctx.length = length
        return gathered(x, length)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return sum_of_parts(dy)[:, span(ctx.length)].contiguous(), None


class SomePositions(Transformer):
    """A trunk that computes some positions of a row; while a text is written, with a cache, all of them."""

    def forward(self, x_BTD: Tensor, *, cache: Cache | None = None, **more: Any) -> Tensor:
        if cache is not None:
            return super().forward(x_BTD, cache=cache, **more)
        self.row_BTD = x_BTD
        y_BTD = super().forward(Slice.apply(x_BTD), **more)
        del self.row_BTD
        return Join.apply(y_BTD, x_BTD.shape[1])

    def places(self, x_BTD: Tensor, **more: Any) -> Places:
        if more.get("cache") is not None:
            return super().places(x_BTD, **more)
        found, mine = super().places(self.row_BTD, **more), span(self.row_BTD.shape[1])
        rope = None if found.rope is None else tuple((cos[:, mine], sin[:, mine]) for cos, sin in found.rope)
        bias_BNTS = None if found.bias_BNTS is None else found.bias_BNTS[:, :, mine]
        return replace(found, rope=rope, bias_BNTS=bias_BNTS)


class AllKeys(Attention):
    """Attention of some queries to the keys of all positions."""

    def attend(self, q_BTNH: Tensor, k_BTKH: Tensor, v_BTKH: Tensor, places: Places, cache: Cache | None) -> Tensor:
        if cache is not None:
            return super().attend(q_BTNH, k_BTKH, v_BTKH, places, cache)
        mask = places.window if self.windowed else places.mask
        assert isinstance(mask, kernels.Mask)
        k_BSKH, v_BSKH = (Gather.apply(x, mask.length) for x in (k_BTKH, v_BTKH))
        allowed_BTS = None if mask.allowed_BTS is None else mask.allowed_BTS[:, span(mask.length)]
        return kernels.masked_attention(
            q_BTNH, k_BSKH.transpose(1, 2), v_BSKH.transpose(1, 2), allowed_BTS, self.config.score_scale,
            places.bias_BNTS,
        )  # fmt: skip


class Context(Processes):
    """Positions, divided."""

    name = "context"

    def wrap(self, scored: Scored) -> nn.Module:
        self.rank, self.world = 0, 1  # all of them read the whole batch
        self.before: list[tuple[nn.Module, type[nn.Module]]] = []
        self.hooks: list[Any] = []
        trunks = [module for module in scored.modules() if isinstance(module, Transformer)]
        if not trunks or any(trunk.config.cross or trunk.config.experts is not None for trunk in trunks):
            raise AthanorError(
                "engine=context divides the positions of decoders and encoders",
                allowed="a Transformer without experts, and without a source beside it",
                fix="use engine=ddp, fsdp2 or tensor",
            )
        if any(type(block.attention) is not Attention for trunk in trunks for block in trunk.blocks):
            raise AthanorError("engine=context cannot divide rows that a prefix stands before", fix="use ddp or fsdp2")
        for trunk in trunks:
            self._become(trunk, SomePositions)
            for block in trunk.blocks:
                self._become(block.attention, AllKeys)
            for weight in trunk.parameters():
                if weight.requires_grad:
                    self.hooks.append(weight.register_hook(sum_of_parts))
        return scored

    def sum(self, numbers: Tensor) -> Tensor:
        return numbers  # all processes counted the same

    def restore(self, model: nn.Module) -> None:
        for module, plain in self.before:
            module.__class__ = plain
        for hook in self.hooks:
            hook.remove()

    def _become(self, module: nn.Module, kind: Callable[..., nn.Module]) -> None:
        self.before.append((module, type(module)))
        module.__class__ = kind  # type: ignore[assignment]
