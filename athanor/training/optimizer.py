"""The optimiser: fp32 master weights behind a model in any number type, updated by AdamW or by Muon and AdamW.

Muon (Jordan et al. 2024) takes the matrices inside the trunk, where it learns more per step; AdamW (Loshchilov &
Hutter 2019) takes the rest: embeddings, heads, norms and biases.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

OptimizerName = Literal["adamw", "muon"]
MUON_RATE = 0.2  # Muon's update is scaled to the root mean square of AdamW's, so both share one learning rate
# (Moonlight, Liu et al. 2025, section 2.2: 0.2 * sqrt(max(rows, columns)))


class MasterOptimizer:
    """Keeps fp32 copies of the weights, updates them, and writes them back in the model's number type.

    bf16 weights cannot take small updates (a step of 1/256 of the weight is lost to rounding); the copies can.
    """

    def __init__(self, model: nn.Module, name: OptimizerName, betas: tuple[float, float], weight_decay: float):
        self.names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.masters = [nn.Parameter(weight.detach().float().clone()) for weight in self.weights]
        matrices = [name == "muon" and _belongs_to_muon(*row) for row in zip(self.names, self.weights, strict=True)]
        self.optimizers: list[torch.optim.Optimizer] = []
        chosen = [master for master, matrix in zip(self.masters, matrices, strict=True) if matrix]
        if chosen:
            self.optimizers.append(
                torch.optim.Muon(chosen, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw", nesterov=True)
            )
        others = [master for master, matrix in zip(self.masters, matrices, strict=True) if not matrix]
        decayed = [master for master in others if master.dim() > 1]
        plain = [master for master in others if master.dim() < 2]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        if groups:
            self.optimizers.append(torch.optim.AdamW(groups, betas=betas, eps=1e-8, fused=True))

    def step(self, learning_rate: float, scale: float, clip: float) -> float:
        """Apply the gradients of the model, multiplied by `scale`, and clear them.

        Args:
            learning_rate: of this step.
            scale: turns the summed loss's gradient into the mean's.
            clip: largest norm of the whole gradient.

        Returns:
            the norm of the scaled gradient before clipping.
        """
        for master, weight in zip(self.masters, self.weights, strict=True):
            gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
            master.grad = gradient.float().mul_(scale)
            weight.grad = None
        norm = nn.utils.clip_grad_norm_(self.masters, clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
        with torch.no_grad():
            for master, weight in zip(self.masters, self.weights, strict=True):
                weight.copy_(master)
                master.grad = None
        return float(norm)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that must be saved to go on exactly: master weights and the optimisers' moments, by name."""
        for name, master in zip(self.names, self.masters, strict=True):
            yield f"master.{name}", master.detach()
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(master, {}).items():
                    yield f"{key}.{name}", torch.as_tensor(value)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        places = {id(master): optimizer for optimizer in self.optimizers for group in optimizer.param_groups
                  for master in group["params"]}  # fmt: skip
        with torch.no_grad():
            for name, master, weight in zip(self.names, self.masters, self.weights, strict=True):
                master.copy_(tensors[f"master.{name}"])
                weight.copy_(master)
                state: dict[str, Any] = {}
                for full, value in tensors.items():
                    key, _, owner = full.partition(".")
                    if owner == name and key != "master":
                        state[key] = value.clone()
                if state:
                    places[id(master)].state[master] = state


def _belongs_to_muon(name: str, weight: Tensor) -> bool:
    return weight.dim() == 2 and name.startswith("trunk.")
