"""Machines by name: what a plan reckons with. Peaks are of dense matrix products; prices only where a source names one.

A price ages: it stands with its source and date, and a machine without a sourced price has none.
"""

from dataclasses import dataclass

from athanor.base.errors import AthanorError
from athanor.base.settings import nearest


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One accelerator, or one computer without.

    Attributes:
        memory: bytes that weights, cache and activations share.
        bandwidth: bytes per second that can be read from that memory.
        half: FLOP/s in 16-bit floats (bf16, or fp16 where there is no bf16).
        single: FLOP/s in fp32, without tensor cores.
        source: where these numbers stand.
        training_share: of `half` that training sustains.
        watts: power at full load; None: not known.
        dollars: price of an hour; None: no source at hand.
        priced: source and date of the price.
    """

    about: str
    memory: float
    bandwidth: float
    half: float
    single: float
    source: str
    training_share: float
    watts: float | None = None
    dollars: float | None = None
    priced: str = ""


# Large runs sustained 21 % (GPT-3, V100), 30 % (MT-NLG, A100), 33 % (Gopher), 46 % (PaLM) of the peak (Chowdhery et
# al. 2022, table 3); careful ones today are at the upper end.
LARGE_RUN_SHARE = 0.4
# Of the matrix-product speed measured on a processor, what our training reaches there, by number type: that of the
# quickstart's small network; wide ones reach 0.8 to 0.9.
PROCESSOR_SHARE = {"bfloat16": 0.45, "float32": 0.6}

MACHINES: dict[str, Machine] = {
    "v100": Machine(
        about="NVIDIA V100 SXM2 32 GB", memory=32e9, bandwidth=900e9, half=125e12, single=15.7e12, watts=300,
        source="NVIDIA V100 datasheet, 2020", training_share=LARGE_RUN_SHARE,
    ),
    "a100": Machine(
        about="NVIDIA A100 SXM 80 GB", memory=80e9, bandwidth=2_039e9, half=312e12, single=19.5e12, watts=400,
        source="NVIDIA A100 datasheet, 2021", training_share=LARGE_RUN_SHARE,
        dollars=1.75, priced="8 for about $14 an hour (karpathy/llm.c, discussion 481, May 2024)",
    ),
    "h100": Machine(
        about="NVIDIA H100 SXM 80 GB", memory=80e9, bandwidth=3_350e9, half=989e12, single=67e12, watts=700,
        source="NVIDIA H100 datasheet, 2023", training_share=LARGE_RUN_SHARE,
        dollars=3.0, priced="about $3 each (karpathy/nanochat, README, July 2026)",
    ),
    "h200": Machine(
        about="NVIDIA H200 SXM 141 GB", memory=141e9, bandwidth=4_800e9, half=989e12, single=67e12, watts=700,
        source="NVIDIA H200 datasheet, 2024", training_share=LARGE_RUN_SHARE,
    ),
    "4090": Machine(
        about="NVIDIA GeForce RTX 4090 24 GB", memory=24e9, bandwidth=1_008e9, half=165.2e12, single=82.6e12, watts=450,
        source="NVIDIA Ada whitepaper, 2022 (fp16 with fp32 sums)", training_share=LARGE_RUN_SHARE,
    ),
    "cpu-2-core": Machine(
        about="two cores of a 2024 server processor with bf16 (AMD EPYC, Zen 5)", memory=25e9, bandwidth=59e9,
        half=770e9, single=190e9, training_share=PROCESSOR_SHARE["bfloat16"],
        source="measured by Athanor's authors with torch 2.13: the best of 25 short runs",
    ),
}  # fmt: skip
HERE = "here"


def find_machine(name: str) -> Machine:
    """The row of a machine, or this computer as measured now (`here`).

    Raises:
        AthanorError: no such row.
    """
    if name == HERE:
        return this_machine()
    if name not in MACHINES:
        known = [*MACHINES, HERE]
        raise AthanorError(f"on={name!r} is not in the table of machines", allowed=", ".join(known),
                           fix=nearest(name, known))  # fmt: skip
    return MACHINES[name]


def this_machine() -> Machine:
    """This computer: its matrix products and its memory timed for a moment, no price and no power known."""
    import psutil
    import torch

    from athanor.base.device import fast_dtype, matmul_flops, memory_bandwidth, pick_device, set_threads

    set_threads()
    device = pick_device()
    on_gpu = device.type == "cuda"
    dtype = str(fast_dtype(device)).removeprefix("torch.")  # a processor without bf16 computes in fp32
    memory = torch.cuda.get_device_properties(0).total_memory if on_gpu else psutil.virtual_memory().total
    return Machine(
        about=torch.cuda.get_device_name(0) if on_gpu else "this computer's processor", memory=memory,
        bandwidth=memory_bandwidth(device.type), half=matmul_flops(dtype, device.type),
        single=matmul_flops("float32", device.type), source="measured just now",
        training_share=LARGE_RUN_SHARE if on_gpu else PROCESSOR_SHARE[dtype],
    )  # fmt: skip
