"""FSDP2: every process holds a share of every weight, gradient and moment, and asks for a layer when it is due.

Rajbhandari et al. 2020 (ZeRO, stage 3); torch's `fully_shard`. Each block of a trunk is one unit, the rest another.
Gradients are added up in float32 and, as the loss is a sum over positions, never divided.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from athanor.models.outline import drawn_weights, fill, made_real
from athanor.models.transformer import Transformer
from athanor.training.engines.cut import Cut
from athanor.training.engines.processes import Processes, set_parameter
from athanor.training.objective import Scored


class Fsdp2(Processes):
    """Rows of every weight, divided."""

    name = "fsdp2"

    def wrap(self, scored: Scored) -> nn.Module:
        drawn = drawn_weights(scored.model)
        mesh = init_device_mesh(self.device.type, (self.places,))
        exact = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        trunks = [module for module in scored.modules() if isinstance(module, Transformer)]
        blocks = [block for trunk in trunks for block in trunk.blocks]
        # A decoder's keys and values of the source are made before its blocks are called: units of their own.
        self.units: list[nn.Module] = [block.cross.kv for block in blocks if block.cross is not None]
        self.units += [*blocks, scored]
        self.plain = [type(unit) for unit in self.units]
        for unit in self.units:
            fully_shard(unit, mesh=mesh, mp_policy=exact)
            assert isinstance(unit, FSDPModule)
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
        for name, weight in scored.model.named_parameters():
            self.cuts[name] = Cut(0, (weight.shape[0],), self.places)
        made_real(scored, self.device)
        fill(scored.model, drawn, self.part, self.local)
        return scored

    def local(self, weight: Tensor) -> Tensor:
        return weight.detach().to_local() if isinstance(weight, DTensor) else weight

    @contextmanager
    def looking(self) -> Iterator[None]:
        """A layer comes when it is called; what stands around the trunk is called part by part, so it comes before."""
        root = self.units[-1]
        assert isinstance(root, FSDPModule)
        root.unshard()
        try:
            yield
        finally:
            root.reshard()

    def restore(self, model: nn.Module) -> None:
        for name, weight in list(model.named_parameters()):
            whole = self.whole(name, self.local(weight))
            # A model that was divided may have no room on one device: the computer's memory holds it to be written.
            set_parameter(model, name, whole.to("cpu" if self.first else "meta"), weight.requires_grad)
        for unit, plain in zip(self.units, self.plain, strict=True):
            state = unit._get_fsdp_state()  # torch has no way back of its own
            state._pre_forward_hook_handle.remove()
            state._post_forward_hook_handle.remove()
            unit.__class__ = plain
