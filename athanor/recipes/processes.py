"""A step in several processes: started here as local ones, or joined when `torchrun` started this one among others.

Every process runs the whole step function; a training step's engine lets all but the first leave when the model is
trained. What one process meets is told in a file of its own, so that the first cause is shown, not what followed.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from athanor.base.errors import EXIT_FAILED, EXIT_STOPPED_BY_SYSTEM, EXIT_STOPPED_BY_USER, AthanorError, Stopped
from athanor.base.progress import Progress
from athanor.base.settings import Settings, parse_settings
from athanor.recipes.steps import Step, step_named
from athanor.store.artifact import Artifact, Store

JOB, RESULT = "job.json", "result.json"
GRACE = 10.0  # seconds the others have to leave once one has failed, before they are killed
POLL = 0.05  # seconds between two looks at the processes


@dataclass(frozen=True)
class Job:
    """What every process is told: the step, its settings, and where its parents and its workplace are."""

    do: str
    name: str
    settings: Settings
    parents: Mapping[str, str]
    store: Path
    folder: Path

    def write(self, path: Path) -> None:
        """As JSON, with the settings that are no part of an artifact's name."""
        settings = self.settings.model_dump(mode="json")
        settings |= {name: getattr(self.settings, name) for name in without_effect(self.settings)}
        row = {"do": self.do, "name": self.name, "settings": settings, "parents": dict(self.parents)}
        path.write_text(json.dumps({**row, "store": str(self.store), "folder": str(self.folder)}))

    @staticmethod
    def read(path: Path) -> "Job":
        """What `write` wrote."""
        row = json.loads(path.read_text())
        settings = parse_settings(step_named(row["do"]).settings_class(), row["settings"], row["name"])
        return Job(row["do"], row["name"], settings, row["parents"], Path(row["store"]), Path(row["folder"]))

    @property
    def step(self) -> Step:
        return step_named(self.do)

    def run(self, progress: Progress) -> dict[str, Any]:
        """Call the step function."""
        store = Store(self.store)
        parents: dict[str, Artifact] = {role: store.get(name) for role, name in self.parents.items()}
        return self.step.load()(self.settings, parents, self.folder, progress)


def without_effect(settings: Settings) -> list[str]:
    """Names of the settings that change no result, and so are no part of an artifact's name."""
    return [name for name, field in type(settings).model_fields.items() if field.exclude]


def spreads(settings: Settings) -> bool:
    """Whether a step runs in several processes."""
    return getattr(settings, "engine", "single") != "single"


def among_others() -> bool:
    """Whether `torchrun`, or what behaves like it, started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def join_others(plan: Sequence[Any]) -> bool:
    """Take the place that `torchrun` gave to this process; whether it is the first, which does the rest alone.

    Raises:
        AthanorError: several processes, and no step of the plan for more than one.
    """
    if int(os.environ["WORLD_SIZE"]) > 1 and not any(spreads(planned.settings) for planned in plan):
        raise AthanorError(
            f"{os.environ['WORLD_SIZE']} processes were started, and every step of the recipe runs in one",
            fix="set an engine, such as pretrain.engine=ddp, or start without torchrun",
        )
    bind_device()
    return os.environ["RANK"] == "0"


def bind_device() -> None:
    """Let this process compute on the GPU that its number says, where there are GPUs."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def run_job(job: Job, progress: Progress) -> dict[str, Any]:
    """Run a step's function where its settings want it, and return its measurements.

    Raises:
        Stopped: a stop was asked for; all processes saved.
        AthanorError: what one of the processes met, or that one was killed.
    """
    if not spreads(job.settings):
        return job.run(progress)
    count = getattr(job.settings, "processes", 1)
    if among_others():
        world = int(os.environ["WORLD_SIZE"])
        if count not in (1, world):
            raise AthanorError(f"{job.name}.processes={count}, but {world} processes were started", fix="leave it out")
        return {**job.run(progress), **described(job.settings, world)}
    return {**run_locally(job, count, progress), **described(job.settings, count)}


def described(settings: Settings, count: int) -> dict[str, Any]:
    """What a record says of the engine, which is no part of an artifact's name."""
    return {"engine": getattr(settings, "engine", "single"), "processes": count}


def run_locally(job: Job, count: int, progress: Progress) -> dict[str, Any]:
    """Start `count` processes of this machine, wait for them, and return what the first one measured."""
    import torch.distributed as dist

    # They find each other in a store that lives here: a process that is gone cannot take it away.
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory(prefix="athanor-") as place:
        folder = Path(place)
        job.write(folder / JOB)
        shared = {
            **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(meeting.port), "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count), "TORCHELASTIC_USE_AGENT_STORE": "True",
        }  # fmt: skip
        # A session of their own: Ctrl-C reaches them through us, once.
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "athanor.recipes.worker", place], start_new_session=True,
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(count)
        ]  # fmt: skip
        try:
            failed = wait_for(started, progress)
        finally:
            end(started)
        if failed is not None:
            raise explain(failed, started, folder)
        return json.loads((folder / RESULT).read_text())


def wait_for(started: Sequence[subprocess.Popen[bytes]], progress: Progress) -> int | None:
    """Wait until all have ended well (None) or one has not (its number); a stop that is asked for is passed on."""
    told = False
    while True:
        codes = [process.poll() for process in started]
        killed = [rank for rank, code in enumerate(codes) if code is not None and code < 0]
        bad = killed or [rank for rank, code in enumerate(codes) if code]
        if bad:
            return bad[0]
        if all(code == 0 for code in codes):
            return None
        if progress.stopping and not told:
            told = True
            for process in started:
                process.send_signal(signal.SIGTERM if progress.stop.by_system else signal.SIGINT)
        time.sleep(POLL)


def end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let what still runs leave by itself, which it does when it misses the others, and kill what does not."""
    until = time.monotonic() + GRACE
    for process in started:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def explain(rank: int, started: Sequence[subprocess.Popen[bytes]], folder: Path) -> Exception:
    """What the process that failed first has met."""
    code, who = started[rank].returncode, f"process {rank} of {len(started)}"
    if code < 0:
        name = signal.Signals(-code).name
        return AthanorError(
            f"{who} was killed ({name}), so the others were stopped"
            + ("; the system does so when memory runs out" if name == "SIGKILL" else ""),
            fix="run the same command again: it continues from the last checkpoint (fewer rows take less memory)",
            code=EXIT_FAILED,
        )
    if code in (EXIT_STOPPED_BY_SYSTEM, EXIT_STOPPED_BY_USER):
        return Stopped(code == EXIT_STOPPED_BY_SYSTEM)
    told = error_file(folder, rank)
    row = json.loads(told.read_text()) if told.is_file() else {"traceback": f"it left with code {code}"}
    if "error" in row:
        return AthanorError(row["error"], allowed=row["allowed"], fix=row["fix"], code=row["code"])
    return RuntimeError(f"{who} failed:\n{row['traceback']}")


def error_file(folder: Path, rank: int) -> Path:
    """Where a process tells what it met."""
    return folder / f"error-{rank}.json"
