"""What the engines of several processes share: torch.distributed, joined as `torchrun` says in the environment."""

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from athanor.base.device import pick_device
from athanor.base.errors import AthanorError
from athanor.training.engines.engine import Engine, length_of

# A process that is gone is noticed at once, its connection breaks; this is for one that hangs.
PATIENCE = timedelta(minutes=10)


class Processes(Engine):
    """Several processes, every one with a share of the batch.

    Raises:
        AthanorError: this process was not started as one of several.
    """

    def __init__(self) -> None:
        super().__init__()
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing and not dist.is_initialized():
            raise AthanorError(
                f"engine={self.name} runs in processes that know each other, and {', '.join(missing)} is not set",
                fix="set processes=N, which starts them here, or start with torchrun",
            )
        self.device = pick_device()
        if not dist.is_initialized():
            join("nccl" if self.device.type == "cuda" else "gloo")
        self.place, self.places = dist.get_rank(), dist.get_world_size()
        self.rank, self.world, self.first = self.place, self.places, self.place == 0

    def sum(self, numbers: Tensor) -> Tensor:
        total = numbers.to(self.device, copy=True)
        dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        said = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(said, dist.ReduceOp.MAX)
        return bool(said)

    def told(self, tensor: Tensor, place: int) -> Tensor:
        dist.broadcast(tensor, place)
        return tensor

    def agreed(self, number: int | None) -> int | None:
        said = torch.tensor(-1 if number is None else number, device=self.device)
        dist.broadcast(said, 0)
        return None if said < 0 else int(said)

    def norm(self, names: Iterable[str], gradients: Iterable[Tensor]) -> Tensor:
        """The root of the squares of all parts and, once, of what every process holds whole."""
        parts, wholes = [], []
        for name, gradient in zip(names, gradients, strict=True):
            (parts if name in self.cuts else wholes).append(gradient)
        squares = [length_of(group).double().square() for group in (parts, wholes)]
        divided, same = (square.to(self.device) for square in squares)
        dist.all_reduce(divided)
        dist.all_reduce(same, dist.ReduceOp.MAX)  # to the bit the same for all, whatever their hardware rounds
        return (divided + same).sqrt()

    def part(self, name: str, whole: Tensor) -> Tensor:
        return self.cuts[name].take(whole, self.place) if name in self.cuts and whole.dim() else whole

    def whole(self, name: str, part: Tensor) -> Tensor:
        if name not in self.cuts or not part.dim():
            return part
        cut = self.cuts[name]
        lengths = [cut.length(place) for place in range(self.places)]
        shape = list(part.shape)
        shape[cut.axis] = max(lengths)  # parts of one size: gloo exchanges no others
        sent = part.new_zeros(shape)
        sent.narrow(cut.axis, 0, part.shape[cut.axis]).copy_(part)
        received = [torch.empty_like(sent) for _ in lengths]
        dist.all_gather(received, sent)
        return cut.join([one.narrow(cut.axis, 0, length) for one, length in zip(received, lengths, strict=True)])

    def close(self) -> None:
        dist.destroy_process_group()


def join(backend: str) -> None:
    """Meet the other processes at the store that the environment names.

    torchrun's agent keeps that store when it starts processes again, with the addresses of those that are gone; on one
    machine, where all know how often, each start gets keys of its own. (On several a fresh store has to be asked for,
    with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, as `athanor launch` does.)
    """
    store, rank, world = next(iter(rendezvous("env://", timeout=PATIENCE)))
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        store = dist.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)


def set_parameter(model: nn.Module, name: str, weight: Tensor, learns: bool) -> None:
    """Put a tensor in the place of a parameter, wherever it stands: embedding and head may share one."""
    old, new = model.get_parameter(name), nn.Parameter(weight, requires_grad=learns)
    for module in model.modules():
        for own, one in list(module.named_parameters(recurse=False)):
            if one is old:
                setattr(module, own, new)
