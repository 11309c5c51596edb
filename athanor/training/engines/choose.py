"""From the setting `engine` to the engine."""

from typing import Literal

from athanor.training.engines.engine import Engine

EngineName = Literal["single", "ddp", "fsdp2", "tensor", "context", "deepspeed"]


def open_engine(name: EngineName) -> Engine:
    """The engine of this name, joined with the other processes where there are any.

    Raises:
        AthanorError: the processes it needs are not there.
    """
    if name == "ddp":
        from athanor.training.engines.ddp import Ddp

        return Ddp()
    if name == "fsdp2":
        from athanor.training.engines.fsdp2 import Fsdp2

        return Fsdp2()
    if name == "tensor":
        from athanor.training.engines.tensor import Tensors

        return Tensors()
    if name == "context":
        from athanor.training.engines.context import Context

        return Context()
    if name == "deepspeed":
        from athanor.training.engines.deepspeed import Deepspeed

        return Deepspeed()
    return Engine()
