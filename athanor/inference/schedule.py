"""Who is computed next: pure Python over integers.

Prompts are admitted in the order they came, in groups that are computed together; a prompt longer than a chunk goes
alone, one chunk per step, so that running answers wait for no more than a chunk.
"""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """One request: `total` is the most positions it can come to fill."""

    number: int
    prompt: int
    total: int


class Schedule:
    """Admission under two limits: rows, and rows times the longest row (the cache is a rectangle).

    Args:
        rows: most answers at once.
        positions: most cached positions, all rows together.
        chunk: most prompt tokens per step, padding included.
    """

    def __init__(self, rows: int, positions: int, chunk: int):
        self.rows, self.positions, self.chunk = rows, positions, chunk
        self.waiting: deque[Job] = deque()
        self.running: dict[int, Job] = {}

    def add(self, number: int, prompt: int, total: int) -> None:
        """Queue a request. One that could never run is the caller's to refuse: see `fits`."""
        assert self.fits(total)
        self.waiting.append(Job(number, prompt, total))

    def fits(self, total: int) -> bool:
        """Whether a request of `total` positions can run when alone."""
        return total <= self.positions

    def remove(self, number: int) -> None:
        """Forget a request, waiting or running."""
        if self.running.pop(number, None) is None:
            self.waiting = deque(job for job in self.waiting if job.number != number)

    def admit(self) -> list[int]:
        """The requests whose prompts are computed next, together; they count as running from now on."""
        group: list[Job] = []
        longest_row = max((job.total for job in self.running.values()), default=0)
        longest_prompt = 0
        while self.waiting:
            job = self.waiting[0]
            longest_row, longest_prompt = max(longest_row, job.total), max(longest_prompt, job.prompt)
            rows = len(self.running) + 1
            if rows > self.rows or rows * longest_row > self.positions:
                break
            if group and (len(group) + 1) * longest_prompt > self.chunk:
                break
            group.append(self.waiting.popleft())
            self.running[job.number] = job
        return [job.number for job in group]
