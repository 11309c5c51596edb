"""The optimiser: fp32 master weights behind a model in any number type, updated by AdamW or by Muon and AdamW.

Muon (Jordan et al. 2024) takes the matrices inside the layers, where it learns more per step; AdamW (Loshchilov &
Hutter 2019) takes the rest: embeddings, heads, norms and biases.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from athanor.models import native_kernels
from athanor.training.divided_muon import DividedMuon
from athanor.training.engines.engine import Engine

OptimizerName = Literal["adamw", "muon"]
PORTION = 16_000_000  # numbers that are updated together, about: few enough to hold their gradients once more


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
        self.gradients: list[Tensor | None] = [None] * len(self.masters)
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
        self.portions = list(self._portions())
        self._make_moments()

    def _make_moments(self) -> None:
        """Give every master its moments before the first step, where torch makes them after it: among activations.

        There they leave holes that later ones do not fit: 60 to 90 MB of 2,400 with 110 million weights.
        """
        self.updated = False
        for optimizer in self.optimizers:
            adamw = isinstance(optimizer, torch.optim.AdamW)
            for group in optimizer.param_groups:
                for master in group["params"]:
                    kinds = ("exp_avg", "exp_avg_sq") if adamw else ("momentum_buffer",)
                    state = {kind: torch.zeros_like(master) for kind in kinds}
                    if adamw:
                        state["step"] = torch.zeros((), device=master.device if group["fused"] else None)
                    optimizer.state[master] = state

    def _portions(self) -> Iterator[tuple[torch.optim.Optimizer, list[int]]]:
        """An optimiser and places of weights that it updates together: about 64 MB of float32, the same everywhere.

        As many as there are processes, or a multiple, as they take turns at matrices (`DividedMuon`). The largest come
        last: what the others' gradients leave free has room for theirs.
        """
        place_of = {master: place for place, master in enumerate(self.masters)}
        for optimizer in self.optimizers:
            portion, numbers = list[int](), 0
            places = [place_of[master] for group in optimizer.param_groups for master in group["params"]]
            for place in sorted(places, key=lambda place: self.weights[place].numel()):
                size = self.weights[place].numel()
                if portion and numbers + size > PORTION and len(portion) % self.engine.places == 0:
                    yield optimizer, portion
                    portion, numbers = [], 0
                portion.append(place)
                numbers += size
            yield optimizer, portion

    @torch.no_grad()
    def collect(self, last: bool) -> None:
        """Take the gradients that a backward pass gave the model; those of several are added up in fp32.

        Those of a single pass stay as they are, in the model's number type.

        Args:
            last: whether no other pass of this step follows.
        """
        for place, (master, weight) in enumerate(zip(self.masters, self.weights, strict=True)):
            if master is weight and not last:
                continue  # the next pass adds to its gradient, which is fp32
            total, found = self.gradients[place], weight.grad
            if found is not None:
                gradient = self.engine.local(found)
                if total is not None:
                    total.add_(gradient)
                else:
                    self.gradients[place] = gradient if last else gradient.float()
                weight.grad = None
            elif total is None and last:
                self.gradients[place] = torch.zeros_like(self.held[place])

    def forget(self) -> None:
        """Throw the gradients away."""
        self.gradients = [None] * len(self.masters)
        for weight in self.weights:
            weight.grad = None

    def norm(self, scale: float) -> float:
        """Length of the collected gradient times `scale`."""
        return float(self.engine.norm(self.names, self._collected())) * scale

    def _collected(self) -> list[Tensor]:
        found = [gradient for gradient in self.gradients if gradient is not None]
        assert len(found) == len(self.masters), "collect comes first"
        return found

    @torch.no_grad()
    def update(self, learning_rate: float, scale: float) -> None:
        """Apply the collected gradients times `scale`, and clear them.

        They become fp32 a portion at a time: an optimiser passes over weights that have no gradient.
        """
        gradients = dict(enumerate(self._collected()))
        self.forget()
        for optimizer, portion in self.portions:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            if self._at_once(optimizer, portion, gradients, scale):
                continue
            for place in portion:
                self.masters[place].grad = gradients.pop(place).float().mul_(scale)
            optimizer.step()
            for place in portion:
                self.masters[place].grad = None
                self._write_back(place)
        self.updated = True

    def _at_once(
        self, optimizer: torch.optim.Optimizer, portion: list[int], gradients: dict[int, Tensor], scale: float
    ) -> bool:
        """Let the C library do all of an update of AdamW, if it can; it takes the gradients that it applied."""
        if not isinstance(optimizer, torch.optim.AdamW) or not optimizer.param_groups[0]["fused"]:
            return False
        if not all(native_kernels.can_update(self.masters[n], gradients[n], self.held[n]) for n in portion):
            return False
        group_of = {master: group for group in optimizer.param_groups for master in group["params"]}
        for place in portion:
            master, gradient = self.masters[place], gradients.pop(place)
            native_kernels.adamw(master, optimizer.state[master], gradient, self.held[place], scale, group_of[master])
        return True

    @torch.no_grad()
    def write_back(self) -> None:
        """Give the masters to the model, in its number type."""
        for place in range(len(self.masters)):
            self._write_back(place)

    def _write_back(self, place: int) -> None:
        master, part = self.masters[place], self.held[place]
        if master.dtype != part.dtype:
            part.copy_(master)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything that must be saved to go on exactly: master weights and the optimisers' moments, by name.

        Moments that are still zero are left out.
        """
        states = self._states()
        for name, master in zip(self.names, self.masters, strict=True):
            yield f"master.{name}", master.detach()
            if self.updated:
                for key, value in states[master].items():
                    yield f"{key}.{name}", value

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        given: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
        for full, value in tensors.items():
            key, _, owner = full.partition(".")
            given[owner][key] = value
        states, pairs = self._states(), list(zip(self.names, self.masters, strict=True))
        self.updated = all(states[master].keys() <= given[name].keys() for name, master in pairs)
        for name, master in pairs:
            master.copy_(given[name]["master"])
            for key, value in states[master].items():
                value.copy_(given[name][key]) if self.updated else value.zero_()
        self.write_back()

    def _states(self) -> dict[Tensor, dict[str, Tensor]]:
        """What the optimisers keep of every master."""
        return {master: state for optimizer in self.optimizers for master, state in optimizer.state.items()}


def _master(part: Tensor) -> nn.Parameter:
    return (
        part if isinstance(part, nn.Parameter) and part.dtype == torch.float32 else nn.Parameter(part.detach().float())
    )
