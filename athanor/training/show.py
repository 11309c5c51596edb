"""What a person sees while a model learns: loss, rate, share of the machine's peak, memory; in a tracker, too."""

import time

from athanor.base.device import matmul_flops, peak_memory, pick_device
from athanor.base.progress import Progress
from athanor.base.tables import size
from athanor.training.history import Row
from athanor.training.objective import Objective
from athanor.training.settings import LoopSettings
from athanor.training.trackers import flat, open_tracker

MEMORY_EVERY = 2.0  # seconds between two looks at the memory


class Show:
    """Figures beside the progress bar of one run.

    Args:
        name: what the run is called in a tracker.
        places: processes, each with a device or a share of the processor, whose peaks add up.
    """

    def __init__(self, objective: Objective, settings: LoopSettings, progress: Progress, name: str, places: int = 1):
        self.objective, self.progress = objective, progress
        self.tracker = open_tracker(settings.tracker, name, settings.model_dump(mode="json"))
        # Timed for a moment, and shown only: no result depends on it.
        self.peak = 0.0
        if objective.flops:
            self.peak = places * matmul_flops(getattr(settings, "dtype", "float32"), pick_device().type)
        self.clock, self.looked, self.memory = time.monotonic(), 0.0, ""

    def step(self, row: Row, recent: float) -> None:
        """Show the newest row, and the mean loss of the last ones."""
        now = time.monotonic()
        seconds, self.clock = now - self.clock, now
        if now - self.looked > MEMORY_EVERY:
            self.looked, self.memory = now, size(peak_memory())
        figures: dict[str, float | str] = {"loss": recent, "lr": row["rate"]}
        watched = next(iter(row.get("watched", {}).items()), None)
        if watched is not None:
            figures[watched[0]] = watched[1]
        share = self.objective.flops / max(seconds, 1e-9) / self.peak if self.peak else 0.0
        if share:
            figures["mfu"] = f"{share:.0%}"
        self.progress.show(**figures, memory=self.memory)
        for sample in row.get("samples", ()):
            self.progress.note(f"  step {row['step']} · {sample}")
        if self.tracker is None:
            return
        speed = {"tokens_per_second": self.objective.tokens / max(seconds, 1e-9), "peak_memory": float(peak_memory())}
        self.tracker.log(row["step"], flat(row) | speed | ({"mfu": share} if share else {}))
        for number, sample in enumerate(row.get("samples", ())):
            self.tracker.text(row["step"], f"sample-{number}", sample)

    def close(self) -> None:
        """Write what waits."""
        if self.tracker is not None:
            self.tracker.close()
