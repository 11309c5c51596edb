"""A program that is killed, frozen and starved of disk while it trains: `python -m tests.training.victim HOW FOLDER …`.

It imports torch once and forks a child for every trial, so that a thousand deaths take a minute. What the child trains
meets everything a run can meet: a checkpoint after every step, an average, looks at held-out data, a spike, and three
steps in a row without a number, which make it go back. Prints one JSON object.

    kills FOLDER COUNT SEED     SIGKILL at random moments, until there were COUNT of them
    calls FOLDER STRIDE         SIGKILL at every STRIDE-th call that changes the disk
    frozen FOLDER COUNT SEED    SIGSTOP and SIGCONT at random moments
    clock FOLDER SEED           the clock of the machine jumps before every step
    full FOLDER FIRST LAST      FOLDER is a tmpfs with room for FIRST to LAST blocks, and for all of them when full
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from athanor.base.errors import AthanorError
from athanor.base.progress import SilentProgress
from athanor.training.loop import train
from athanor.training.objective import Objective
from athanor.training.settings import LoopSettings
from tests.training.tiny import ROWS, SETTINGS, batch_of, loss_of, small_model

BAD = (11, 12, 13)
MORE = {"steps": 20, "average": 0.9, "watch_every": 4, "keep_best": True, "accumulate": 2, "on_spike": "rewind"}
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
DISK_FULL = 3


def batch(step: int, rank: int = 0, world: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """The batches of `tiny`, three of them damaged."""
    inputs, targets = batch_of(step, rank, world)
    return (inputs * float("nan") if step in BAD else inputs), targets


def objective() -> Objective:
    return Objective(
        batch, loss_of, tokens=ROWS, sources=lambda step: [f"document {step}"],
        watch=lambda model: {"heldout": float(loss_of(model, batch_of(10**6)).total)},
    )  # fmt: skip


def run(work: Path) -> None:
    """Train to the end and write down what came out."""
    settings = LoopSettings.model_validate({**SETTINGS.model_dump(), **MORE})
    model = small_model()
    train(model, objective(), settings, work, SilentProgress(), "x")
    weights = b"".join(weight.detach().numpy().tobytes() for weight in model.parameters())
    (work / "result").write_text(hashlib.sha256(weights).hexdigest())


def start(work: Path, before: Callable[[], None] = lambda: None) -> int:
    """Fork a child that trains; returns its process number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        before()
        run(work)
        code = 0
    except AthanorError as problem:
        code = DISK_FULL if "disk is full" in problem.what else 1
    finally:  # whatever happened: a child must never go on as if it were the parent
        if code == 1:
            traceback.print_exc()
        os._exit(code)


def end_of(child: int) -> int:
    """Its exit code; -9 when it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(work: Path) -> list[str]:
    """What must not depend on what happened on the way: the weights and every row of metrics."""
    return [(work / "result").read_text(), hashlib.sha256((work / "metrics.jsonl").read_bytes()).hexdigest()]


def undisturbed(folder: Path) -> tuple[list[str], float]:
    """The outcome of a run that nothing happens to, and its seconds."""
    clock = time.monotonic()
    assert end_of(start(folder)) == 0
    return outcome(folder), time.monotonic() - clock


def kills(folder: Path, count: int, seed: int) -> dict[str, object]:
    expected, seconds = undisturbed(folder / "whole")
    draw, deaths, runs, different = random.Random(seed), 0, 0, 0
    while deaths < count:
        work = folder / f"run-{runs}"
        code = -9
        while code == -9:
            child = start(work)
            time.sleep(draw.uniform(0, seconds / 2))
            os.kill(child, signal.SIGKILL)
            code = end_of(child)
            deaths += code == -9
            if deaths % 5 == 0:
                code = end_of(start(work))  # a run that dies at once again and again would never get through
        different += outcome(work) != expected
        runs += 1
    return {"deaths": deaths, "runs": runs, "different": different}


def calls(folder: Path, stride: int) -> dict[str, object]:
    expected, _ = undisturbed(folder / "whole")
    deaths, different, place = 0, 0, 1
    while True:
        work = folder / f"run-{place}"
        code = end_of(start(work, lambda place=place: die_at(place)))  # type: ignore[misc]
        if code == 0:
            break
        assert code == -9, code
        deaths += 1
        assert end_of(start(work)) == 0
        different += outcome(work) != expected
        place += stride
    return {"deaths": deaths, "different": different}


def die_at(place: int) -> None:
    """From now on, be killed just before the `place`-th call that changes the disk."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in CHANGES and not (event == "open" and arguments[1] in ("r", "rb")):
            seen += 1
            if seen == place:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def frozen(folder: Path, count: int, seed: int) -> dict[str, object]:
    expected, seconds = undisturbed(folder / "whole")
    draw, child = random.Random(seed), start(folder / "run")
    for _ in range(count):
        time.sleep(draw.uniform(0, seconds / count))
        os.kill(child, signal.SIGSTOP)
        time.sleep(0.05)
        os.kill(child, signal.SIGCONT)
    assert end_of(child) == 0
    return {"different": int(outcome(folder / "run") != expected)}


def clock(folder: Path, seed: int) -> dict[str, object]:
    expected, _ = undisturbed(folder / "whole")
    draw = random.Random(seed)

    def jump() -> None:
        time.time = lambda: draw.uniform(0, 4e9)  # 1970 to 2096, back and forth

    assert end_of(start(folder / "run", jump)) == 0
    return {"different": int(outcome(folder / "run") != expected)}


def full(folder: Path, first: int, last: int) -> dict[str, object]:
    """Run in a user and mount namespace of its own."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    expected, _ = undisturbed(folder / "whole")
    refusals, different = 0, 0
    for blocks in range(first, last + 1):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={4 * blocks}k", "none", disk], check=True)
        code = end_of(start(disk / "run"))
        refusals += code == DISK_FULL
        assert code in (0, DISK_FULL), (blocks, code)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert end_of(start(disk / "run")) == 0
        different += outcome(disk / "run") != expected
        subprocess.run(["umount", disk], check=True)
    return {"refusals": refusals, "different": different}


def main() -> None:
    how, folder, *numbers = sys.argv[1:]
    torch.set_num_threads(1)  # a forked child has no threads
    run(Path(folder) / "warm")  # what torch loads at its first use, no child has to load again
    ways: dict[str, Callable[..., dict[str, object]]] = {
        "kills": kills, "calls": calls, "frozen": frozen, "clock": clock, "full": full
    }  # fmt: skip
    print(json.dumps(ways[how](Path(folder), *map(int, numbers))))


if __name__ == "__main__":
    main()
