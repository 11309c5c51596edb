"""Ctrl-C once saves and stops, twice stops now; SIGTERM saves and stops."""

import os
import signal
import sys
from types import FrameType

from athanor.base.errors import EXIT_STOPPED_BY_USER, Stopped


class StopRequest:
    """Remembers that a stop was asked for; long work looks at it between two units of work.

    Args:
        quiet: another process tells the user.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.asked = False
        self.by_system = False
        self.quiet = quiet

    def listen(self) -> "StopRequest":
        """Install the signal handlers (main thread only) and return self."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def check(self) -> None:
        """Raise `Stopped` when a stop was asked for."""
        if self.asked:
            raise Stopped(self.by_system)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            os._exit(EXIT_STOPPED_BY_USER)  # the second Ctrl-C: no cleaning up, nothing committed is lost
        if not self.asked:
            self.by_system = number == signal.SIGTERM
        self.asked = True
        if not self.quiet:
            os.write(sys.stderr.fileno(), "\nsaving and stopping · 正在保存 … (Ctrl-C again: stop now)\n".encode())
