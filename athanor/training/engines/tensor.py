"""Tensor parallelism: every process computes all of the batch with some heads and some hidden numbers of every layer.

Megatron-LM (Shoeybi et al. 2019, section 3): the first product of attention and of the feed-forward layer is divided by
columns, the second by rows, and one sum per half of a block puts the stream together. Its two operators are `Enter`
(forward nothing, backward a sum; f in figure 3) and `Leave` (forward a sum, backward nothing; g).

torch's own `parallelize_module` divides a product into consecutive columns. Ours makes queries, keys and values in one
product, as it makes gate and up, so each of these sections is divided (`Cut`). Embedding, norms and head stay whole.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

from athanor.base.errors import AthanorError
from athanor.models.attention import Attention, Cache, CrossAttention
from athanor.models.feedforward import FeedForward
from athanor.models.linear import Linear, linear
from athanor.models.outline import drawn_weights, fill, made_real
from athanor.models.transformer import Transformer
from athanor.training.engines.cut import Cut
from athanor.training.engines.processes import Processes, set_parameter
from athanor.training.objective import Scored


class Enter(Function):
    """Where the stream enters a divided product: its gradient is the sum of what all parts say."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        dy = dy.contiguous().clone()
        dist.all_reduce(dy)
        return dy


class Leave(Function):
    """Where divided products leave into the stream: their sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy


class ByColumns(Linear):
    """A product of which this process makes some outputs."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(Enter.apply(x))


class ByRows(Linear):
    """A product of which this process reads some inputs; the number it adds is added once, to the sum."""

    def forward(self, x: Tensor) -> Tensor:
        y = Leave.apply(linear(x, self.weight))
        return y if self.bias is None else y + self.bias


class ByHeads(Transformer):
    """A trunk whose scores by distance (ALiBi, T5) are those of the heads that this process has."""

    def bias(self, length: int, device: torch.device, cache: Cache | None) -> Tensor | None:
        whole_BNTS = super().bias(length, device, cache)
        return None if whole_BNTS is None else whole_BNTS.chunk(dist.get_world_size(), 1)[dist.get_rank()]


class Tensors(Processes):
    """Heads and hidden numbers, divided."""

    name = "tensor"

    def wrap(self, scored: Scored) -> nn.Module:
        self.rank, self.world = 0, 1  # all of them compute the whole batch
        self.before: list[tuple[nn.Module, dict[str, Any]]] = []
        self.hooks: list[Any] = []
        drawn = drawn_weights(scored.model)
        for home, module in scored.model.named_modules():
            for name, product, kind, cut in self._divisions(module):
                if type(product) not in (Linear, nn.Linear):
                    raise NotImplementedError(f"engine=tensor cannot divide {type(product).__name__} yet (SPEC R3)")
                self._divide(scored.model, f"{home}.{name}", product, kind, cut)
            if isinstance(module, Attention | CrossAttention):
                self._take_heads(module)
            if isinstance(module, Transformer):
                self._take_scores(module)
        if not self.cuts:
            raise AthanorError("engine=tensor divides Transformers, and the model has no layer of one",
                               fix="use engine=ddp or engine=fsdp2")  # fmt: skip
        made_real(scored.model, self.device)
        fill(scored.model, drawn, self.part, lambda weight: weight.detach())
        return scored

    def sum(self, numbers: Tensor) -> Tensor:
        return numbers  # all processes counted the same

    def restore(self, model: nn.Module) -> None:
        for name in self.cuts:
            weight = model.get_parameter(name)
            set_parameter(model, name, self.whole(name, weight.detach()), weight.requires_grad)
        for module, attributes in self.before:
            for name, value in attributes.items():
                setattr(module, name, value)
        for hook in self.hooks:
            hook.remove()

    def _divisions(self, module: nn.Module) -> Iterator[tuple[str, nn.Module, type[Linear], Cut]]:
        """(name, product, how, cut) of the products of one layer."""
        if isinstance(module, Transformer):
            self._check(module)
        if isinstance(module, Attention | CrossAttention):
            c = module.config
            queries, keys = c.heads * c.head_size, c.key_heads * c.head_size
            if isinstance(module, Attention):
                yield "qkv", module.qkv, ByColumns, Cut(0, (queries, keys, keys), self.places)
            else:
                yield "q", module.q, ByColumns, Cut(0, (queries,), self.places)
                yield "kv", module.kv, ByColumns, Cut(0, (keys, keys), self.places)
            yield "out", module.out, ByRows, Cut(1, (queries,), self.places)
        if isinstance(module, FeedForward):
            hidden = module.down.in_features
            sections = (hidden,) * (module.up.out_features // hidden)
            yield "up", module.up, ByColumns, Cut(0, sections, self.places)
            yield "down", module.down, ByRows, Cut(1, (hidden,), self.places)

    def _check(self, trunk: Transformer) -> None:
        c = trunk.config
        for what, number in (("heads", c.heads), ("key/value heads", c.key_heads), ("hidden numbers", c.expert_size)):
            if number % self.places:
                raise AthanorError(
                    f"engine=tensor with {self.places} processes cannot divide {number} {what}",
                    allowed="a number of processes that divides heads, key/value heads and hidden",
                    fix="use fewer processes, or engine=fsdp2",
                )

    def _divide(self, model: nn.Module, name: str, product: nn.Linear, kind: type[Linear], cut: Cut) -> None:
        self.before.append((product, {"__class__": type(product)}))
        for part, weight in list(product.named_parameters()):
            if part == "bias" and kind is ByRows:
                continue
            self.cuts[f"{name}.{part}"] = cut
            set_parameter(model, f"{name}.{part}", cut.take(weight.detach(), self.place), weight.requires_grad)
        product.__class__ = kind

    def _take_heads(self, attention: Attention | CrossAttention) -> None:
        """Let a layer know of its own heads only, and let the norms they share learn from all."""
        c = attention.config
        self.before.append((attention, {"config": c}))
        attention.config = replace(
            c, heads=c.heads // self.places, kv_heads=c.key_heads // self.places, head_width=c.head_size
        )
        for norm in (getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)):
            self._share(norm)

    def _take_scores(self, trunk: Transformer) -> None:
        """Let a trunk make the scores by distance of its own heads; a table of them learns from all."""
        self.before.append((trunk, {"__class__": type(trunk)}))
        trunk.__class__ = ByHeads
        self._share(trunk.distance_bias)

    def _share(self, module: nn.Module | None) -> None:
        """Of weights that every process applies to its own heads, add up the gradients."""
        for weight in () if module is None else module.parameters():
            if weight.requires_grad:
                self.hooks.append(weight.register_hook(sum_of_parts))


def sum_of_parts(gradient: Tensor) -> Tensor:
    """Gradient of a weight that every process applied to heads of its own."""
    gradient = gradient.contiguous().clone()
    dist.all_reduce(gradient)
    return gradient
