"""What several processes cost: processor seconds of a step by engine, and how long a checkpoint holds training up.

    python benchmarks/training/engines.py [--rounds 3]

Each round runs every engine once, one thread per process, interleaved; figures are medians over rounds. Processor
seconds are of all processes together, so that other work on the machine counts little.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ENGINES = {"single": 1, "ddp": 2, "fsdp2": 2, "tensor": 2}
STEPS, ROWS, CONTEXT, VOCABULARY = 6, 8, 128, 2048
SHAPE = {"width": 256, "layers": 4, "heads": 4, "hidden": 768}


def measure(engine: str, folder: Path) -> dict[str, float]:
    """Train for a few steps in this process, one of several, and say what the steps and a checkpoint took."""
    import torch

    from athanor.base.progress import SilentProgress
    from athanor.models.config import TransformerConfig
    from athanor.models.language import LanguageModel
    from athanor.training.engines.choose import open_engine
    from athanor.training.loop import take_step
    from athanor.training.objective import Objective
    from athanor.training.objectives.next_token import TokenBatch, next_token_loss
    from athanor.training.run import Run
    from athanor.training.settings import LoopSettings

    torch.set_num_threads(1)
    config = TransformerConfig(**SHAPE, max_positions=CONTEXT, vocabulary=VOCABULARY, tied=True, norm_qk=True)
    settings = LoopSettings(steps=10**6, rows=ROWS, learning_rate=0.01, checkpoint_seconds=1e9, optimizer="adamw")

    def batch(step: int, rank: int, world: int) -> TokenBatch:
        generator = torch.Generator().manual_seed(step)
        ids_BT = torch.randint(VOCABULARY, (ROWS, CONTEXT + 1), generator=generator).chunk(world)[rank]
        return TokenBatch(ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous(), None)

    objective = Objective(batch, next_token_loss(config), tokens=ROWS * CONTEXT)
    run = Run(LanguageModel(config).initialise(1), objective, settings, folder, SilentProgress(), open_engine(engine))
    run.restore()
    for _ in range(2):
        take_step(run)
    run.save()
    run.settle()
    before, clock = time.process_time(), time.perf_counter()
    for _ in range(STEPS):
        take_step(run)
    found = {"processor": (time.process_time() - before) / STEPS, "wall": (time.perf_counter() - clock) / STEPS}
    clock = time.perf_counter()
    run.save()
    found["held_up"] = time.perf_counter() - clock
    run.settle()
    found["written"] = time.perf_counter() - clock
    return found


def one_round(engine: str) -> dict[str, float]:
    """Start the processes of one engine and add up what they took."""
    with tempfile.TemporaryDirectory() as place, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        count = ENGINES[engine]
        started = [
            subprocess.Popen(
                [sys.executable, __file__, "--engine", engine, "--folder", place], stdout=subprocess.PIPE, text=True,
                env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
                     "MASTER_PORT": port, "OMP_NUM_THREADS": "1"},
            )
            for rank in range(count)
        ]  # fmt: skip
        rows: list[dict[str, Any]] = [json.loads(process.communicate()[0]) for process in started]
    return {
        name: sum(row[name] for row in rows) if name == "processor" else max(row[name] for row in rows)
        for name in rows[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.engine:
        print(json.dumps(measure(given.engine, given.folder)))
        sys.stdout.flush()
        os._exit(0)
    rounds = [{engine: one_round(engine) for engine in ENGINES} for _ in range(given.rounds)]
    print(f"{'engine':8} {'CPU s/step':>10} {'of single':>9} {'wall s/step':>11} {'held up s':>9} {'written s':>9}")
    for engine in ENGINES:
        middle = {name: statistics.median(one[engine][name] for one in rounds) for name in rounds[0][engine]}
        ratio = statistics.median(one[engine]["processor"] / one["single"]["processor"] for one in rounds)
        print(
            f"{engine:8} {middle['processor']:10.3f} {ratio:9.2f} {middle['wall']:11.3f} {middle['held_up']:9.3f} "
            f"{middle['written']:9.3f}"
        )


if __name__ == "__main__":
    main()
