"""Runs training in two processes for the tests: a small language model, several cases one after the other.

    python -m tests.training.in_processes FOLDER CASES.json

Each case trains in FOLDER/<where>; the first process writes its rows and weights beside it.
"""

import errno
import json
import os
import resource
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.checkpoint import filesystem

from athanor.base.errors import AthanorError, Stopped
from athanor.base.progress import SilentProgress
from athanor.models.adapters.attach import attach
from athanor.models.config import TransformerConfig
from athanor.models.families import FAMILIES
from athanor.models.language import LanguageModel
from athanor.models.outline import outline
from athanor.models.shapes import count_parameters
from athanor.training.adapt import AdaptSettings, begin
from athanor.training.checkpoint import NEWEST
from athanor.training.engines.choose import open_engine
from athanor.training.engines.engine import Engine
from athanor.training.engines.part import PartDone
from athanor.training.loop import train
from athanor.training.objective import Objective, Scored
from athanor.training.objectives.next_token import TokenBatch, next_token_loss
from athanor.training.settings import LoopSettings
from athanor.training.setup import DTYPES
from athanor.training.techniques import apply_techniques
from tests.training.pretraining import ready, settings_of

ROWS, LENGTH, VOCABULARY = 4, 24, 61  # two processes cannot share 61 rows of the embedding evenly
CONFIG = TransformerConfig(
    width=32, layers=2, heads=4, kv_heads=2, hidden=48, max_positions=LENGTH, vocabulary=VOCABULARY, tied=True,
    norm_qk=True,
)  # fmt: skip


class StopAt(SilentProgress):
    """Asks to stop when so many steps are done; only the first process is asked."""

    def __init__(self, step: int | None):
        super().__init__()
        self.step = step

    def count(self, amount: float = 1.0, **figures: float | int | str) -> None:
        super().count(amount, **figures)
        self.stop.asked = self.step is not None and self.done >= self.step * ROWS * LENGTH


def batch_of(step: int, rank: int, world: int) -> TokenBatch:
    """Rows that count up, two documents each; how many positions are scored differs from row to row."""
    generator = torch.Generator().manual_seed(step)
    starts_B1 = torch.randint(VOCABULARY, (ROWS, 1), generator=generator)
    ids_BT = (starts_B1 + torch.arange(LENGTH + 1) * (1 + starts_B1 % 3)) % VOCABULARY
    targets_BT = ids_BT[:, 1:].clone()
    for row in range(ROWS):
        targets_BT[row, : 5 * row] = -100
    documents_BT = (torch.arange(LENGTH) >= 10).long().expand(ROWS, LENGTH)
    share = [part.chunk(world)[rank].contiguous() for part in (ids_BT[:, :-1], targets_BT, documents_BT)]
    return TokenBatch(*share)


def run_case(case: dict[str, Any], folder: Path, engine: Engine) -> list[dict[str, Any]]:
    """Train as a case says; rows and weights of the first process are written beside its folder."""
    if "objective" in case:
        return run_objective(case, folder, engine)
    more = dict(case.get("settings", {}))
    settings = LoopSettings.model_validate(
        {"steps": 12, "rows": ROWS, "learning_rate": 0.01, "warmup": 2, "checkpoint_seconds": 1e9, **more}
    )
    config = TransformerConfig(**{**vars(CONFIG), **case.get("config", {})})
    with outline() if case.get("outline") else nullcontext():
        model = LanguageModel(config)
    model = model.initialise(3).to(DTYPES[case.get("dtype", "float32")])
    apply_techniques(model.train(), settings)
    if "adapter" in case:
        family, ids = FAMILIES["llama"], batch_of(0, 0, 1).ids_BT[0].tolist()
        chosen = AdaptSettings.model_validate({"steps": 1, "rows": 1, "learning_rate": 0.1, **case["adapter"]})
        attach(model, family, begin(chosen, model, family, ids), train=True)
    objective = Objective(
        batch_of,
        # Balance of experts is a figure of one share: engines that share a batch differ in it, so it is left out.
        next_token_loss(config, balance=0.0 if config.experts else None, z_loss=settings.z_loss),
        tokens=ROWS * LENGTH,
        watch=lambda model: {"heldout": float(next_token_loss(config)(model, batch_of(10**6, 0, 1)).total)},
    )
    stop = StopAt(case.get("stop") if engine.first else None)
    place = folder / case["where"]
    try:
        rows = train(model, objective, settings, place, stop, "x", engine)
    except (PartDone, Stopped):
        return []
    save_file({name: weight.detach() for name, weight in model.named_parameters()}, f"{place}.safetensors")
    Path(f"{place}.json").write_text(json.dumps(rows))
    assert next(model.parameters()).dtype == DTYPES[case.get("dtype", "float32")]
    with torch.no_grad():  # what comes back is a plain model
        assert type(model.trunk.blocks[0]).__name__ == "Block"
        model(torch.zeros(1, 4, dtype=torch.long))
    return rows


def grown(case: dict[str, Any], folder: Path, engine: Engine) -> None:
    """Write down by how many bytes this process grew at most while it got its part of a network of some size."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = TransformerConfig(width=512, layers=12, heads=4, hidden=2048, max_positions=64, vocabulary=4096, tied=True)
    with outline():
        model = LanguageModel(config)
    module = engine.wrap(Scored(model.initialise(1), next_token_loss(config)))
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    row = {"grown": more, "whole": 4 * count_parameters(config), "meta": any(w.is_meta for w in module.parameters())}
    (folder / f"grown-{engine.name}-{engine.place}.json").write_text(json.dumps(row))


def run_objective(case: dict[str, Any], folder: Path, engine: Engine) -> list[dict[str, Any]]:
    """Teach one of pretraining's networks its own objective for twelve steps."""
    settings = settings_of(case["objective"], steps=12, rows=ROWS, learning_rate=0.003)
    model, objective = ready(settings)
    place = folder / case["where"]
    try:
        rows = train(model, objective, settings, place, SilentProgress(), "x", engine)
    except PartDone:
        return []
    save_file({name: weight.detach().clone() for name, weight in model.named_parameters()}, f"{place}.safetensors")
    Path(f"{place}.json").write_text(json.dumps(rows))
    return rows


def damage(place: Path, pattern: str) -> None:
    """Flip one bit in the newest checkpoint, in the middle of the first file of this kind."""
    newest = place / (place / NEWEST).read_text().strip()
    file = sorted(newest.glob(pattern))[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


class FullAfter:
    """os.fsync of a disk that is full after so many calls."""

    def __init__(self, calls: int):
        self.calls, self.real = calls, os.fsync

    def __call__(self, descriptor: int) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.real(descriptor)


def main(folder: Path, cases: list[dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    for case in cases:
        engine = open_engine(case["engine"])
        if engine.first and "damage" in case:
            damage(folder / case["where"], case["damage"])
        with pytest.MonkeyPatch.context() as patch:
            if "full" in case and not engine.first:
                patch.setattr(filesystem.os, "fsync", FullAfter(case["full"]))
            try:
                grown(case, folder, engine) if case.get("grown") else run_case(case, folder, engine)
            except AthanorError as problem:
                (folder / f"{case['where']}-{engine.place}.txt").write_text(problem.what)
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
