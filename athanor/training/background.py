"""Checkpoints of several processes, written while training goes on.

Training stands still while every process copies its parts to memory of the host; a thread of each then writes them. The
checkpoint is there, whole, once all have written and the first has put their checksums beside them and renamed it.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.base.files import explain_disk_error, hash_file
from athanor.training.alongside import Alongside
from athanor.training.checkpoint import Checkpoints
from athanor.training.engines.engine import Engine
from athanor.training.parts import write_parts

LONGEST = timedelta(hours=2)  # one process may wait for another's disk


class Background:
    """Writes one checkpoint at a time.

    Args:
        checkpoints: their folder, the same for all processes.
        engine: of several processes; all of them make one of these at the same time.
    """

    def __init__(self, checkpoints: Checkpoints, engine: Engine):
        self.checkpoints, self.engine = checkpoints, engine
        self.group = dist.new_group(backend="gloo", timeout=LONGEST)  # the threads' talk, apart from training's
        self.copies: dict[str, Tensor] = {}
        self.work = Alongside(lambda problem: explained(problem, checkpoints.folder))

    def save(
        self, step: int, parts: Mapping[str, Tensor], state: Mapping[str, Any], lines: str, best: int | None
    ) -> None:
        """Copy the parts and begin to write them; waits first for the checkpoint before.

        Raises:
            AthanorError: the one before could not be written.
        """
        self.wait()
        for name, part in parts.items():
            if name not in self.copies:  # made once: new memory costs more than the copy
                self.copies[name] = torch.empty(part.shape, dtype=part.dtype, pin_memory=part.is_cuda)
            self.copies[name].copy_(part, non_blocking=True)
        if any(part.is_cuda for part in parts.values()):
            torch.cuda.synchronize()
        copies, told = {name: self.copies[name] for name in parts}, dict(state)
        self.work.start(lambda: self._write_together(step, copies, told, lines, best))

    def wait(self) -> None:
        """Until the last checkpoint is whole; see `Alongside.wait`."""
        self.work.wait()

    def _write_together(self, step: int, parts: Mapping[str, Tensor], state: Any, lines: str, best: int | None) -> None:
        first, kept = self.engine.first, self.checkpoints
        self._by_first(lambda: kept.begin(step))
        temporary = kept.temporary(step)
        try:
            mine = {
                name: hash_file(temporary / name) for name in write_parts(temporary, parts, self.engine, self.group)
            }
        except BaseException:
            if first:
                kept.abandon(step)
            raise
        every: list[dict[str, str]] = [{}] * self.engine.places
        dist.all_gather_object(every, mine, group=self.group)
        files = {name: one for some in every for name, one in sorted(some.items())}
        self._by_first(lambda: kept.commit(step, {"files": files}, state, lines, best))

    def _by_first(self, do: Any) -> None:
        """Let the first process do something; the others learn whether it could."""
        said: list[AthanorError | None] = [None]
        if self.engine.first:
            try:
                do()
            except AthanorError as problem:
                said = [problem]
        dist.broadcast_object_list(said, src=0, group=self.group)
        if said[0] is not None:
            raise said[0]


def explained(problem: BaseException, folder: Path) -> BaseException:
    """What the user can do about it: of DCP's collection of what went wrong where, the first."""
    from torch.distributed.checkpoint.api import CheckpointException

    if isinstance(problem, CheckpointException) and problem.failures:
        problem = next(iter(problem.failures.values()))[0]
    if isinstance(problem, OSError):
        return explain_disk_error(problem, folder)
    return problem if isinstance(problem, Exception) else RuntimeError(f"{folder} could not be written: {problem}")
