"""Errors that speak to the person who can act on them, and the exit codes of the command line."""

EXIT_OK = 0  # the work is done
EXIT_FAILED = 1  # a defect of ours: a traceback is shown
EXIT_USAGE = 2  # what was given cannot be used: the message says what is allowed and what to do
EXIT_REFUSED = 3  # the work ran, and its result is past a threshold: nothing was stored
EXIT_STOPPED_BY_SYSTEM = 75  # SIGTERM: saved; run the same command again to continue
EXIT_STOPPED_BY_USER = 130  # Ctrl-C: saved; run the same command again to continue


class AthanorError(Exception):
    """A problem the user can solve: what was given, what is allowed, what to do.

    Args:
        what: what was given and why it cannot be used.
        allowed: what would be accepted; empty when `fix` says it all.
        fix: what to do next, as a command or a sentence.
        code: exit code of the command line.
    """

    def __init__(self, what: str, *, allowed: str = "", fix: str = "", code: int = EXIT_USAGE):
        super().__init__(what)
        self.what, self.allowed, self.fix, self.code = what, allowed, fix, code

    def __str__(self) -> str:
        lines = [self.what]
        if self.allowed:
            lines.append(f"allowed: {self.allowed}")
        if self.fix:
            lines.append(f"to do:   {self.fix}")
        return "\n".join(lines)

    def as_row(self) -> dict[str, str | int]:
        """The error for machines (`--json`)."""
        return {"error": self.what, "allowed": self.allowed, "fix": self.fix, "code": self.code}


class Stopped(AthanorError):
    """The user or the system asked us to stop; everything finished so far is kept."""

    def __init__(self, by_system: bool = False):
        super().__init__(
            "stopped by the system (SIGTERM)" if by_system else "stopped by Ctrl-C",
            fix="run the same command again: it continues where it stopped",
            code=EXIT_STOPPED_BY_SYSTEM if by_system else EXIT_STOPPED_BY_USER,
        )
