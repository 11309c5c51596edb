"""The one place that asks the machine: device, number type, threads, memory, peak.

The CPU is the reference. On CUDA the same code runs with torch's own kernels.
"""

import ctypes
import functools
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from athanor.base.errors import AthanorError

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # what mallopt(3) calls M_MMAP_THRESHOLD and M_TRIM_THRESHOLD
KEPT_BYTES = 2**30  # larger pieces of memory go back to the system when they are freed
FLOAT32_ERROR = 2e-6  # of the largest entry of a product of 256 x 256: what sums in float32 leave

if TYPE_CHECKING:
    import torch


def pick_device(wanted: str = "auto") -> "torch.device":
    """The device to compute on: 'auto' takes a GPU when torch sees one, else the CPU."""
    import torch

    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise AthanorError("device=cuda, but torch sees no GPU here", allowed="auto, cpu", fix="athanor doctor")
    if wanted not in ("cpu", "cuda"):
        raise AthanorError(f"device={wanted!r} is not known", allowed="auto, cpu, cuda")
    return torch.device(wanted)


@functools.cache
def matmul_flops(dtype_name: str, device_name: str = "cpu") -> float:
    """Measured FLOP/s of a square matrix product: the best of several short runs."""
    import torch

    width = 512 if device_name == "cpu" else 8192
    left = torch.randn(width, width, device=device_name).to(getattr(torch, dtype_name))
    right = left.clone()
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(4):
            left @ right
        if device_name == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / 4)
    return 2 * width**3 / best


@functools.cache
def memory_bandwidth(device_name: str = "cpu") -> float:
    """Measured bytes per second of reading far more numbers than any cache holds: the best of several sums."""
    import torch

    numbers = torch.ones(100_000_000, device=device_name)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        float(numbers.sum())
        best = min(best, time.perf_counter() - start)
    return numbers.nbytes / best


def fast_dtype(device: "torch.device") -> "torch.dtype":
    """bf16 where the hardware multiplies it (GPUs, CPUs with AVX512-BF16 or AMX), else fp32.

    Asked, not timed: the answer decides the bits of a result, so it must not depend on a busy neighbour.
    """
    import torch

    fast = cpu_has_bf16() if device.type == "cpu" else torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 numbers in hardware (elsewhere it is emulated, and slow)."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def set_threads(threads: int | None = None) -> int:
    """Use `threads` CPU threads and return their number; unset: the cores this process may use, no more than
    OMP_NUM_THREADS says, or of several processes of one run on this machine (`torchrun` says how many) its share."""
    import torch

    count = threads or max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    wished = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    # torchrun sets it to 1 where nobody has: among several processes it says nothing about what a person wants
    if threads is None and wished.isdecimal() and "LOCAL_WORLD_SIZE" not in os.environ:
        count = min(count, max(1, int(wished)))
    torch.set_num_threads(count)
    quicken_float32()
    return count


@functools.cache
def quicken_float32() -> bool:
    """Let oneDNN multiply float32 matrices on AMD processors, where torch's MKL takes twice the time.

    Asked for by the setting that allows bf16 products, which oneDNN takes on processors with AMX only; so the error of
    a product is measured first, and the setting is left alone where anything was rounded.
    """
    import torch

    if not torch.backends.mkldnn.is_available() or processor_vendor() != "AuthenticAMD":
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator)
    exact = left.double() @ right.double()
    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, products.fp32_precision = products.fp32_precision, "bf16"
    error = float(((left @ right).double() - exact).abs().max() / exact.abs().max())
    if error > FLOAT32_ERROR:
        products.fp32_precision = before
    return error <= FLOAT32_ERROR


@functools.cache
def keep_freed_memory() -> bool:
    """Have malloc keep what is freed for the next step, instead of giving it back and asking the system again.

    The tensors of a step are large enough to be returned one by one, and a new page is cleared and mapped before its
    first use: up to 50,000 of them in a step of 1.2 seconds. glibc only; a user's own choice stands.
    """
    asked = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in asked):
        return False
    library = ctypes.CDLL(None)
    kept = library.mallopt(MMAP_THRESHOLD, KEPT_BYTES) == 1 or library.mallopt(MMAP_THRESHOLD, 2**25) == 1
    return kept and library.mallopt(TRIM_THRESHOLD, 2**31 - 1) == 1  # older ones take 32 MiB at most


def processor_vendor() -> str:
    """What the processor calls its maker; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def usable_cores() -> int:
    """Cores this process may use (a container's share, not the machine's)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory() -> int:
    """The most memory this process has held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine() -> dict[str, Any]:
    """What a result was computed on, for its record; imports no torch."""
    import psutil

    return {
        "system": platform.system(), "processor": platform.machine(), "cores": usable_cores(),
        "memory": psutil.virtual_memory().total, "python": platform.python_version(),
    }  # fmt: skip
