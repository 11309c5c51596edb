"""The optimiser: fp32 master weights behind a model in any number type, updated by AdamW or by Muon and AdamW.

Muon (Jordan et al. 2024) takes the matrices inside the layers, where it learns more per step; AdamW (Loshchilov &
Hutter 2019) takes the rest: embeddings, heads, norms and biases.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from athanor.training.divided_muon import DividedMuon
from athanor.training.engines.engine import Engine

OptimizerName = Literal["adamw", "muon"]


class MasterOptimizer:
    """Keeps fp32 copies of the weights, updates them, and writes them back in the model's number type.

    bf16 weights cannot take small updates (a step of 1/256 of the weight is lost to rounding); the copies can. A weight
    that is float32 already is its own copy.

    Args:
        model: the weights that learn are those that require a gradient now.
        engine: says which part of each weight this process holds; None: all of it.

    Attributes:
        held: these parts, in the model's number type and its memory.
    """

    def __init__(
        self,
        model: nn.Module,
        name: OptimizerName,
        betas: tuple[float, float],
        weight_decay: float,
        engine: Engine | None = None,
        fused: bool = True,
    ):
        self.engine = engine or Engine()
        learning = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
        self.names, self.weights = [name for name, _ in learning], [weight for _, weight in learning]
        self.held = [self.engine.local(weight) for weight in self.weights]
        self.masters = [_master(part) for part in self.held]
        muon = {
            name for name, weight in learning if weight.dim() == 2 and "blocks." in name and not name.endswith("bias")
        }
        muon = muon if name == "muon" else set()
        pairs = list(zip(self.names, self.masters, strict=True))
        self.optimizers: list[torch.optim.Optimizer] = []
        if chosen := {name: master for name, master in pairs if name in muon}:
            # The update is scaled to the root mean square of AdamW's, so that both share one learning rate
            # (Moonlight, Liu et al. 2025, section 2.2: 0.2 sqrt(max(rows, columns))).
            self.optimizers.append(
                torch.optim.Muon(list(chosen.values()), weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
                if self.engine.places == 1
                else DividedMuon(chosen, weight_decay, self.engine)
            )
        others = [master for name, master in pairs if name not in muon]
        groups = [
            {"params": [master for master in others if master.dim() > 1], "weight_decay": weight_decay},
            {"params": [master for master in others if master.dim() < 2], "weight_decay": 0.0},
        ]
        if groups := [group for group in groups if group["params"]]:
            self.optimizers.append(torch.optim.AdamW(groups, betas=betas, eps=1e-8, fused=fused))

    @torch.no_grad()
    def collect(self) -> None:
        """Add the model's gradients to those of the masters, in fp32, and give the model's back."""
        for master, weight in zip(self.masters, self.weights, strict=True):
            if weight.grad is None:
                master.grad = torch.zeros_like(master) if master.grad is None else master.grad
            elif master is not weight:
                gradient = self.engine.local(weight.grad).float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                weight.grad = None

    def forget(self) -> None:
        """Throw the gradients away."""
        for tensor in (*self.masters, *self.weights):
            tensor.grad = None

    def norm(self, scale: float) -> float:
        """Length of the collected gradient times `scale`."""
        gradients = [master.grad for master in self.masters]
        assert all(gradient is not None for gradient in gradients), "collect comes first"
        return float(self.engine.norm(self.names, gradients)) * scale

    @torch.no_grad()
    def update(self, learning_rate: float, scale: float) -> None:
        """Apply the collected gradients times `scale`, and clear them."""
        torch._foreach_mul_([master.grad for master in self.masters], scale)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
        self.write_back()
        self.forget()

    @torch.no_grad()
    def write_back(self) -> None:
        """Give the masters to the model, in its number type."""
        for master, part in zip(self.masters, self.held, strict=True):
            if master.dtype != part.dtype:
                part.copy_(master)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that must be saved to go on exactly: master weights and the optimisers' moments, by name."""
        for name, master in zip(self.names, self.masters, strict=True):
            yield f"master.{name}", master.detach()
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(master, {}).items():
                    yield f"{key}.{name}", torch.as_tensor(value)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        states: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for full, value in tensors.items():
            key, _, owner = full.partition(".")
            states[owner][key] = value
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(states[name]["master"])
            for optimizer in self.optimizers:
                if any(master is one for group in optimizer.param_groups for one in group["params"]):
                    kept = {key: value for key, value in states[name].items() if key in MOMENTS}
                    moments = {key: value.to(master.device, copy=True) for key, value in kept.items()}
                    optimizer.state.pop(master, None)
                    if moments:
                        optimizer.state[master] = moments
        self.write_back()


MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # what AdamW and Muon call what they keep


def _master(part: Tensor) -> nn.Parameter:
    return (
        part if isinstance(part, nn.Parameter) and part.dtype == torch.float32 else nn.Parameter(part.detach().float())
    )
