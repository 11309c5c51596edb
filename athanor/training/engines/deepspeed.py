"""DeepSpeed's ZeRO, stage 2: every process holds the whole model, and a share of gradients, masters and moments.

Rajbhandari et al. 2020, section 5. It stands between DDP, which divides nothing, and FSDP2, which is stage 3. DeepSpeed
owns the masters and AdamW's moments: weights in flat rows, of which each process has a piece. A checkpoint asks it for
whole tensors, so that every other engine reads them.

DeepSpeed takes the mean of gradients over processes, and its loss scale divides them at the update. A sum over scored
positions that is divided by their number afterwards is thus a loss scale of 1 / (processes times that factor).
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.training.engines.engine import owner_of
from athanor.training.engines.processes import Processes, set_parameter
from athanor.training.objective import Scored
from athanor.training.settings import LoopSettings

MOMENTS = ("exp_avg", "exp_avg_sq")


class Deepspeed(Processes):
    """Gradients, masters and moments, divided."""

    name = "deepspeed"

    def start(self, scored: Scored, settings: LoopSettings) -> tuple[nn.Module, Any]:
        deepspeed = imported(self.device.type)
        learning = [weight for weight in scored.parameters() if weight.requires_grad]
        groups = [
            {"params": [weight for weight in learning if weight.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [weight for weight in learning if weight.dim() < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        adamw = torch.optim.AdamW(groups, betas=settings.betas, eps=1e-8, fused=settings.fused_optimizer)
        half = any(weight.dtype == torch.bfloat16 for weight in learning)
        self.runtime, zero, _, _ = deepspeed.initialize(
            model=scored, optimizer=adamw,
            config={
                "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1,
                "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True,
                "bf16": {"enabled": half}, "data_types": {"grad_accum_dtype": "fp32"},
                "communication_data_type": "fp32",
            },
        )  # fmt: skip
        return self.runtime, ZeroOptimizer(scored.model, zero, self.places)

    def piece(self, last: bool) -> AbstractContextManager[Any]:
        self.runtime.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, total: Tensor) -> None:
        self.runtime.backward(total)

    def restore(self, model: nn.Module) -> None:
        whole = {name: weight.detach().clone() for name, weight in model.named_parameters()}  # they lie in flat rows
        learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
        self.runtime.destroy()
        for name, weight in whole.items():
            set_parameter(model, name, weight, name in learning)


class ZeroOptimizer:
    """DeepSpeed's optimiser as the loop calls `MasterOptimizer`.

    Attributes:
        held: nothing: the parts of weights that a process holds are DeepSpeed's own.
    """

    def __init__(self, model: nn.Module, zero: Any, places: int):
        self.zero, self.places = zero, places
        self.learning = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.names, self.held = list(self.learning), list[Tensor]()

    def collect(self, last: bool) -> None:
        """DeepSpeed does it during the backward pass."""

    def forget(self) -> None:
        """Throw the gradients away."""
        self.zero.zero_grad()
        for gradients in (self.zero.averaged_gradients, self.zero.all_grad_tensors):
            for group in gradients:
                gradients[group] = None

    def norm(self, scale: float) -> float:
        """Length of the whole gradient times `scale`; DeepSpeed says -1 where it is no number."""
        found = float(self.zero.scaled_global_norm())
        return found * self.places * scale if found >= 0 else math.nan

    def update(self, learning_rate: float, scale: float) -> None:
        """Apply the gradients times `scale`, and clear them."""
        for group in self.zero.param_groups:
            group["lr"] = learning_rate
        self.zero.loss_scale = 1 / (scale * self.places)
        self.zero.step()
        self.zero.loss_scale = 1.0
        self.zero.zero_grad()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Master weights and moments, whole, by name; all processes ask together."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        steps = {id(weight): state.get("step") for weight, state in self._states()}
        if any(step is not None for step in steps.values()):
            self._find_moments()
        for name, weight in self.learning.items():
            yield f"master.{name}", safe_get_full_fp32_param(weight).detach()
            if (step := steps[id(weight)]) is not None:
                yield f"step.{name}", torch.as_tensor(step).clone()
                for key in MOMENTS:
                    yield f"{key}.{name}", safe_get_full_optimizer_state(weight, key)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave; moments that are not there begin at zero."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        steps = {owner_of(name): value for name, value in tensors.items() if name.startswith("step.")}
        names = {id(weight): name for name, weight in self.learning.items()}
        for group, flat in zip(self.zero.bit16_groups, self.zero.single_partition_of_fp32_groups, strict=True):
            step = steps.get(names[id(group[0])], torch.tensor(0.0))
            moments = {key: torch.zeros_like(flat) for key in MOMENTS}
            self.zero.optimizer.state[flat] = {"step": step.clone(), **moments}
        self._find_moments()
        for name, weight in self.learning.items():
            safe_set_full_fp32_param(weight, tensors[f"master.{name}"].to(weight.device))
            for key in MOMENTS:
                if (moment := tensors.get(f"{key}.{name}")) is not None:
                    safe_set_full_optimizer_state(weight, moment.to(weight.device), key)
        self.zero.update_lp_params()

    def _find_moments(self) -> None:
        """Let DeepSpeed find the moments of each weight: it looks once, after its first group's first update."""
        self.zero._hp_optimizer_states_linked = False
        self.zero._lazy_init_hp_params_optimizer_state()

    def _states(self) -> Iterator[tuple[Tensor, Mapping[str, Any]]]:
        """Every weight with what AdamW keeps of the flat row that it is in."""
        for group, flat in zip(self.zero.bit16_groups, self.zero.single_partition_of_fp32_groups, strict=True):
            for weight in group:
                yield weight, self.zero.optimizer.state.get(flat, {})


def imported(device: str) -> Any:
    """The library, told not to compile anything at run time.

    Raises:
        AthanorError: it is not installed.
    """
    os.environ.setdefault("DS_ACCELERATOR", device)
    os.environ.setdefault("LOCAL_RANK", os.environ.get("RANK", "0"))  # torchrun sets it; else all are on one machine
    try:
        import deepspeed
    except ImportError as problem:
        raise AthanorError(
            f"engine=deepspeed needs DeepSpeed ({problem})",
            fix='pip install "athanor[deepspeed]" (on a machine without CUDA: DS_BUILD_OPS=0 before it); or '
            "engine=fsdp2, which divides the weights as well",
        ) from problem
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # On CPUs it would compile its own sum through shared memory when it starts, for inference; gloo sums for training.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
