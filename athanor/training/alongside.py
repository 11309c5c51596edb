"""Checkpoints that do not hold training up: what must reach the disk is waited for by a thread.

A thread works on one thing at a time. Of a single process, training stands still while tensors are hashed and given
to the operating system, which takes no memory of ours; that they are on the disk (fsync), and everything that follows
from it (checksums, rename, pointer), is the thread's part. Until then the checkpoint has its temporary name.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from athanor.training.checkpoint import Checkpoints


class Alongside:
    """One piece of work at a time, done while training goes on.

    Args:
        explain: what the user is told of a problem.
    """

    def __init__(self, explain: Callable[[BaseException], BaseException] = lambda problem: problem):
        self.explain = explain
        self.thread: threading.Thread | None = None
        self.problem: BaseException | None = None

    def start(self, do: Callable[[], None]) -> None:
        """Begin; `wait` comes first."""
        self.thread = threading.Thread(target=self._do, args=(do,), name="checkpoint")
        self.thread.start()

    def wait(self) -> None:
        """Until it is done.

        Raises:
            AthanorError: it could not be done; every older checkpoint is still there.
        """
        if self.thread is not None:
            self.thread.join()
        self.thread, problem, self.problem = None, self.problem, None
        if problem is not None:
            raise problem

    def _do(self, do: Callable[[], None]) -> None:
        try:
            do()
        except BaseException as problem:  # noqa: BLE001 - DCP's own exception derives from it; `wait` raises it
            self.problem = self.explain(problem)


class SyncedAlongside:
    """Writes the checkpoints of one process; see the head of the file."""

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints, self.work = checkpoints, Alongside()

    def save(
        self, step: int, parts: Mapping[str, Tensor], state: Mapping[str, Any], lines: str, best: int | None
    ) -> None:
        """Write the checkpoint, and go on before it is on the disk; waits first for the checkpoint before.

        Raises:
            AthanorError: the disk is full, now or when the one before was synced.
        """
        self.wait()
        hashes = self.checkpoints.write(step, parts)
        told = dict(state)
        self.work.start(lambda: self.checkpoints.finish(step, hashes, told, lines, best))

    def wait(self) -> None:
        """Until the last checkpoint is whole."""
        self.work.wait()
