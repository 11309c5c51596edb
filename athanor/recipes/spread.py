"""One model on many accelerators: what each of them holds, how many it takes, and whether those at hand are enough.

By formula, for FSDP2 with recomputed layers; letters as in `models/shapes.py`, W devices, B rows on one of them.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from athanor.base.device import pick_device
from athanor.base.errors import AthanorError
from athanor.base.machines import MACHINES, Machine
from athanor.base.tables import duration, size
from athanor.models.config import TransformerConfig
from athanor.models.shapes import block_products, count_parameters, describe, flops_per_token, kept_per_token
from athanor.recipes.processes import among_others, spreads

# Bytes per weight: bf16 weight, and in fp32 the gradients' sum, master and two moments (Muon keeps one: 4 fewer). Where
# a step is one pass, its gradients stay bf16: 2 fewer; how many passes it takes is known only afterwards.
HELD = 18
USABLE = 0.9  # of a device's memory; the rest is the runtime's
PER_MACHINE = 8  # devices of one machine, as in a DGX A100
LONGEST = 60 * 86_400  # seconds: GLM-130B's training took 60 days (Zeng et al. 2022, section 1)
SYSTEM = 1_000_000_000  # the program, and buffers of communication


@dataclass(frozen=True)
class Device:
    """Bytes that one of W devices holds at the peak of a step."""

    divided: int
    """18 bytes for every weight, divided by the number of devices"""
    gathered: int
    """this layer and the next in bf16, a layer's gradients in bf16 and fp32, embedding and head all the time"""
    activations: int
    """what enters every layer, and all that one layer keeps"""
    head: int
    """the gradient of the head in fp32, made with the loss"""
    system: int = SYSTEM
    """the program, and buffers of communication"""

    @property
    def total(self) -> int:
        """The sum, in bytes."""
        return self.divided + self.gathered + self.activations + self.head + self.system

    def lines(self) -> list[tuple[str, int, str]]:
        """(name, bytes, reason) of every part."""
        reasons = dict(zip((field.name for field in fields(self)), REASONS, strict=True))
        return [(name, getattr(self, name), reason) for name, reason in reasons.items()]


REASONS = (
    f"{HELD} bytes for every weight: bf16 weight, fp32 gradient, master and moments, divided among the devices",
    "this layer and the next in bf16, a layer's gradients in bf16 and fp32, embedding and head all the time (FSDP2)",
    "what enters every layer, and all that one layer keeps while it is recomputed",
    "the gradient of the head in fp32, made with the loss",
    "the program, and buffers of communication",
)


def device_needs(config: TransformerConfig, devices: int, rows: int) -> Device:
    """What one of W devices holds, with B rows of the whole context at once."""
    s, context = describe(config), config.max_positions
    count = count_parameters(s)
    layer = block_products(s, s.experts) if s.routed_layers else block_products(s, 1)
    ends = count - s.layers * layer
    kept = rows * context * (s.layers * s.width + kept_per_token(s, context)) * 2
    return Device(
        divided=math.ceil(HELD * count / devices), gathered=layer * (2 * 2 + 2 + 4) + ends * 2, activations=kept,
        head=s.vocabulary * s.width * 4,
    )  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Machines for one training.

    Attributes:
        rows: on each device at once.
        accumulate: pieces of a step, one after the other.
        needs: of one device.
        seconds: with all of them.
        dollars: of all of them; None: no price.
    """

    machine: Machine
    devices: int
    rows: int
    accumulate: int
    needs: Device
    seconds: float
    dollars: float | None

    @property
    def machines(self) -> int:
        """Machines of PER_MACHINE devices."""
        return math.ceil(self.devices / PER_MACHINE)

    def sentence(self) -> str:
        """'2 machines of 8 × NVIDIA A100 …: 31.2 GB on each, 27 days, $23,000'."""
        cost = "" if self.dollars is None else f", about ${self.dollars:,.0f}"
        many = "1 machine" if self.machines == 1 else f"{self.machines} machines"
        on_each = f"{PER_MACHINE} × {self.machine.about}: {size(self.needs.total)} on each device"
        return f"{many} of {on_each}, about {duration(self.seconds)}{cost}"

    def reasons(self) -> list[str]:
        """What the numbers rest on."""
        machine = self.machine
        priced = "" if machine.dollars is None else f"; ${machine.dollars} an hour each, {machine.priced}"
        return [
            f"machines: the fewest with room that end within {LONGEST // 86_400} days, as GLM-130B's training did",
            f"rows: {self.rows} on each device at once, {self.accumulate} times a step; layers are recomputed",
            f"time: {machine.training_share:.0%} of {machine.half / 1e12:.4g} TFLOP/s on each{priced}",
        ]


def fewest_machines(config: TransformerConfig, tokens: float, batch_rows: float, name: str = "a100") -> Spread:
    """The fewest machines of 8 devices on which a training has room and ends within 60 days.

    Args:
        batch_rows: rows of a step, all devices together.
    """
    machine = MACHINES[name]
    flops = flops_per_token(config, config.max_positions) * tokens
    work = flops / (machine.half * machine.training_share)
    machines = 1
    while True:
        devices = machines * PER_MACHINE
        if work / devices <= LONGEST and device_needs(config, devices, 1).total <= USABLE * machine.memory:
            break
        machines += 1
    rows = 1
    while 2 * rows * devices <= batch_rows and device_needs(config, devices, 2 * rows).total <= USABLE * machine.memory:
        rows *= 2
    dollars = None if machine.dollars is None else work / 3_600 * machine.dollars
    pieces = max(1, round(batch_rows / (rows * devices)))
    return Spread(machine, devices, rows, pieces, device_needs(config, devices, rows), work / devices, dollars)


def planned_spread(plan: Sequence[Any]) -> Spread | None:
    """The machines for a plan's pretraining, when it divides the model (FSDP2)."""
    from athanor.training.pretrain import PretrainSettings, network

    vocabulary = next((one.settings.vocabulary for one in plan if one.do == "tokenizer"), None)
    for planned in plan:
        s = planned.settings
        if isinstance(s, PretrainSettings) and s.engine == "fsdp2" and vocabulary is not None:
            return fewest_machines(network(s, vocabulary), s.steps * s.rows * s.context, s.rows)
    return None


def require_room(plan: Sequence[Any]) -> None:
    """Refuse a training that spreads over devices with too little memory, before anything starts.

    Raises:
        AthanorError: names what each device would hold, and machines that would do.
    """
    from athanor.training.networks import DIVIDING, PretrainSettings, network

    vocabulary = next((one.settings.vocabulary for one in plan if one.do == "tokenizer"), None)
    for planned in plan:
        s = planned.settings
        if not isinstance(s, PretrainSettings) or not spreads(s) or vocabulary is None:
            continue
        config = network(s, vocabulary)
        processes = int(os.environ["WORLD_SIZE"]) if among_others() else s.processes
        rows = max(1, s.rows // (processes * s.accumulate))
        needs, room = device_needs(config, processes, rows), device_memory()
        # Each builds the whole model, in memory of the computer in float32, unless its engine makes its part alone.
        alone = s.engine in DIVIDING and s.objective in ("next_token", "blank_infilling")
        whole = 0 if alone else count_parameters(config) * (4 if pick_device().type == "cpu" else 2)
        if max(needs.total, whole) > USABLE * room:
            best = fewest_machines(config, s.steps * s.rows * s.context, s.rows)
            raise AthanorError(
                f"{planned.name}: with {processes} {'process' if processes == 1 else 'processes'} each needs "
                f"{size(max(needs.total, whole))}, and here it has {size(room)}"
                + (", since each builds the whole model" if whole > needs.total else ""),
                allowed=best.sentence(),
                fix=f"athanor launch RECIPE --on slurm --nodes {best.machines} --gpus {PER_MACHINE} --store FOLDER "
                "writes the job; athanor plan says where the numbers come from",
            )


def device_memory() -> float:
    """Bytes of memory that one process has here: its accelerator's, or its share of this computer's."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return psutil.virtual_memory().total / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
