"""The loader beside the trainer: tokens per second of each, and whether reading ahead in a thread helps.

    python benchmarks/corpus/loader.py --tokens 60000000

Builds packed corpora of random tokens in documents of 50 to 1,500, in five sources, then measures in processor seconds
(one core) the batches of one corpus, of the mixture of all five, and of a mixture by language, warm and with the files
dropped from the page cache (`posix_fadvise`; the wall clock stands beside it, since waiting for a disk is no processor
time). The trainer is a whole training step (forward, backward, update) of the quickstart's network on all cores; rounds
with and without a thread that reads one batch ahead alternate.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import athanor  # noqa: F401 - before torch
from athanor.base.device import fast_dtype, pick_device
from athanor.base.progress import SilentProgress
from athanor.base.records import write_records
from athanor.data.packing.batches import Batch
from athanor.data.packing.mixture import MixSettings, mix_sources, open_batches
from athanor.data.packing.pack import TokenWriter
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.store.artifact import Store
from athanor.training.loop import train
from athanor.training.objective import Objective
from athanor.training.objectives.next_token import next_token_loss, to_tensors
from athanor.training.settings import LoopSettings
from athanor.training.setup import prepare

VOCABULARY = 4_096
SHARES = {"web": 0.6, "links": 0.22, "books": 0.08, "more": 0.07, "wiki": 0.03}
LANGUAGES = ("en", "zh", "de", "fr", "es", "ru", "ja", "sw")


def pack(store: Store, name: str, tokens: int) -> Any:
    """A packed corpus of random tokens."""
    chance = np.random.default_rng(len(name))
    folder = store.workplace(f"shards-{name}")
    for split, count in (("train", tokens), ("heldout", 1_000)):
        writer = TokenWriter(folder, split, np.uint16, 8_000_000)
        starts, rows = [0], []
        while writer.tokens < count:
            writer.write(chance.integers(0, VOCABULARY, int(chance.integers(50, 1_500))).astype(np.uint16))
            starts.append(writer.tokens)
            rows.append({"language": LANGUAGES[int(chance.integers(len(LANGUAGES)))]})
        writer.close()
        np.save(folder / f"{split}-starts.npy", np.asarray(starts, dtype=np.int64))
        write_records(folder / f"{split}-documents.jsonl.zst", rows)
    return store.commit(f"shards-{name}", {"kind": "shards", "measurements": {"tokens": tokens}})


def drop_from_cache(folder: Path) -> None:
    """Let the next reading of every file come from the disk."""
    for path in folder.rglob("*.npy"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def rate(batch: Callable[[int], Batch], steps: range, tokens: int) -> tuple[float, float]:
    """Tokens per second of processor and of wall clock."""
    processor, wall = time.process_time(), time.perf_counter()
    for step in steps:
        batch(step)
    return len(steps) * tokens / (time.process_time() - processor), len(steps) * tokens / (time.perf_counter() - wall)


def measure_loader(folders: dict[str, Path], context: int, rows: int, rounds: int) -> float:
    """Print the loader's rates; the slowest warm one comes back."""
    slowest = float("inf")
    for name, folder in folders.items():
        batches = open_batches(folder, context, rows, 1, 100_000)
        batches.batch(0)
        tokens, steps = context * rows, max(20, 400_000 // (context * rows))
        warm = [rate(batches.batch, range(n * steps, (n + 1) * steps), tokens)[0] for n in range(rounds)]
        drop_from_cache(folder)
        batches = open_batches(folder, context, rows, 1, 100_000)
        cold, cold_wall = rate(batches.batch, range(50_000, 50_000 + steps), tokens)
        slowest = min(slowest, statistics.median(warm))
        told = (
            f"warm {statistics.median(warm) / 1e6:6.2f} M tok/s · cold {cold / 1e6:6.2f} (wall {cold_wall / 1e6:.2f})"
        )
        print(f"  {name:22} {context:5} x {rows:<3} {told}")
    return slowest


class Ahead:
    """The same batches, each made in a thread while the one before is learnt from."""

    def __init__(self, batches: Any):
        self.batches, self.pool = batches, ThreadPoolExecutor(1)
        self.waiting: dict[int, Future[Batch]] = {}

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The batch that was begun at the step before; the next one is begun."""
        found = self.waiting.pop(step, None) or self.pool.submit(self.batches.batch, step, rank, world)
        self.waiting[step + 1] = self.pool.submit(self.batches.batch, step + 1, rank, world)
        return found.result()


def measure_trainer(folder: Path, context: int, rows: int, rounds: int, steps: int) -> tuple[float, float]:
    """Tokens per second (wall clock) of training, batches made between the steps; and that with one read ahead."""
    config = TransformerConfig(
        width=128, layers=4, heads=4, hidden=384, max_positions=context, vocabulary=VOCABULARY, tied=True, norm_qk=True
    )
    dtype = str(fast_dtype(pick_device())).removeprefix("torch.")
    settings = LoopSettings(steps=steps, rows=rows, learning_rate=0.001, warmup=1)
    model = prepare(LanguageModel(config).initialise(1), dtype, settings)  # type: ignore[arg-type]
    plain, device = open_batches(folder, context, rows, 1, 100_000), next(model.parameters()).device

    def run(batches: Any) -> float:
        objective = Objective(
            lambda step, rank, world: to_tensors(batches.batch(step, rank, world), device), next_token_loss(config),
            rows * context,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as work:
            clock = time.perf_counter()
            train(model, objective, settings, Path(work), SilentProgress(), "")
            return steps * context * rows / (time.perf_counter() - clock)

    run(plain)
    pairs = []
    for number in range(rounds):
        if number % 2:
            pairs.append((run(plain), run(Ahead(plain))))
        else:
            ahead = run(Ahead(plain))
            pairs.append((run(plain), ahead))
    return statistics.median(one for one, _ in pairs), statistics.median(other / one for one, other in pairs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=60_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12, help="training steps in a round")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place) / "store").create()
        parents = {f"sources.{name}": pack(store, name, int(share * args.tokens)) for name, share in SHARES.items()}
        folders = {"one corpus": parents["sources.web"].path}
        mixtures = {
            "mixture of 5": MixSettings(weights=SHARES),
            "8 languages, alpha 0.3": MixSettings(by="language", alpha=0.3),
        }  # fmt: skip
        for name, settings in mixtures.items():
            folders[name] = store.workplace(f"mix-{settings.by}")
            mix_sources(settings, parents, folders[name], SilentProgress())
        slowest = min(measure_loader(folders, context, rows, args.rounds) for context, rows in ((256, 16), (2_048, 8)))
        trained, ratio = measure_trainer(folders["mixture of 5"], 256, 16, args.rounds, args.steps)
    print(f"  trainer (1.4 M weights, 256 x 16): {trained:,.0f} tok/s, with a batch read ahead {ratio:.3f} of it")
    times = f"{slowest / trained:,.0f} times as fast as this trainer, {slowest / 10_000:,.0f} times 10,000 tok/s"
    print(f"  the slowest loader is {times}")


if __name__ == "__main__":
    main()
