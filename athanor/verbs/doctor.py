"""athanor doctor: what this machine can do, and what is missing or in the way."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from athanor.base.words import say
from athanor.verbs.options import json_option, print_json

OK, NOTE, BAD = "✓", "·", "✗"
SMALLEST_DISK = 2_000_000_000
SMALLEST_MEMORY = 4_000_000_000
BREAKS_IMPORTS = ("torchvision", "torchaudio", "torchcodec")


@click.command(epilog="\b\nExample:  athanor doctor\n          athanor doctor --json")
@json_option
def command(as_json: bool) -> None:
    """Look at processor, memory, disk, GPU and torch, and measure the speed that training depends on."""
    rows = [*_machine(), *_torch(), _library(), *_neighbours()]
    if as_json:
        print_json([{"state": state, "what": what, "detail": detail} for state, what, detail in rows])
        return
    for state, what, detail in rows:
        colour = {OK: "green", NOTE: "yellow", BAD: "red"}[state]
        click.echo(f"{click.style(state, fg=colour)} {what}: {detail}")


def _machine() -> Iterator[tuple[str, str, str]]:
    import psutil

    from athanor.base.device import machine
    from athanor.base.tables import size

    here = machine()
    yield (
        OK,
        say("machine", "机器"),
        f"{here['system']} {here['processor']}, {here['cores']} cores, Python {here['python']}",
    )
    memory = psutil.virtual_memory()
    enough = memory.available >= SMALLEST_MEMORY
    yield (OK if enough else BAD), say("memory", "内存"), f"{size(memory.available)} of {size(memory.total)} free" + (
        "" if enough else say("; the quickstart needs 4 GB", "；快速开始需要 4 GB"))  # fmt: skip
    free = shutil.disk_usage(Path.cwd()).free
    enough = free >= SMALLEST_DISK
    yield (OK if enough else BAD), say("disk", "磁盘"), f"{size(free)} free here" + (
        "" if enough else say("; the quickstart needs 2 GB", "；快速开始需要 2 GB"))  # fmt: skip


def _torch() -> Iterator[tuple[str, str, str]]:
    if importlib.util.find_spec("torch") is None:
        yield BAD, "torch", say("not installed: pip install torch==2.13.0", "未安装：pip install torch==2.13.0")
        return
    import torch

    from athanor.base.device import cpu_has_bf16, fast_dtype, matmul_flops, pick_device, set_threads
    from athanor.base.tables import quantity

    threads = set_threads()
    device = pick_device()
    yield OK, "torch", f"{torch.__version__}, {threads} threads, computing on {device.type}"
    if device.type == "cuda":
        yield OK, "GPU", torch.cuda.get_device_name()
    else:
        yield NOTE, "GPU", say("none seen by torch; the CPU is used", "torch 未发现 GPU，使用 CPU")
    fp32, bf16 = matmul_flops("float32"), matmul_flops("bfloat16") if cpu_has_bf16() else 0.0
    chosen = str(fast_dtype(device)).removeprefix("torch.")
    detail = f"matrix products {quantity(fp32)}FLOP/s in fp32" + (f", {quantity(bf16)}FLOP/s in bf16" if bf16 else "")
    yield OK, say("speed", "速度"), f"{detail}; training uses {chosen}"
    if device.type == "cpu" and not cpu_has_bf16():
        yield NOTE, "bf16", say("not in this processor: training takes two to four times as long as with it",
                                "处理器不支持：训练时间约为支持时的两到四倍")  # fmt: skip


def _library() -> tuple[str, str, str]:
    from athanor.base import native

    used = native.available()
    slower = say("; corpus steps take two to three times as long", "；语料步骤耗时约为两到三倍")
    return (OK if used else NOTE), say("C library", "C 库"), native.describe() + ("" if used else slower)


def _neighbours() -> Iterator[tuple[str, str, str]]:
    for name in BREAKS_IMPORTS:
        if importlib.util.find_spec(name) is not None and _is_cpu_torch():
            yield (
                BAD,
                name,
                say(
                    f"installed beside CPU torch, where it breaks `import transformers`: pip uninstall {name}",
                    f"与 CPU 版 torch 不兼容，会使 transformers 无法导入：pip uninstall {name}",
                ),
            )
    for name in ("tokenizers", "safetensors", "fastapi", "uvicorn", "selectolax", "pypdfium2", "pydivsufsort"):
        if importlib.util.find_spec(name) is None:
            yield (
                BAD,
                name,
                say("missing: pip install -e . in the project's folder", "缺失：在项目目录运行 pip install -e ."),
            )
    language = os.environ.get("ATHANOR_LANGUAGE") or os.environ.get("LC_ALL") or os.environ.get("LANG") or "unset"
    yield (
        OK,
        say("language", "语言"),
        language + say(" (ATHANOR_LANGUAGE=zh for Chinese)", "（ATHANOR_LANGUAGE=en 切换英文）"),
    )


def _is_cpu_torch() -> bool:
    import torch

    return torch.version.cuda is None and torch.version.hip is None
