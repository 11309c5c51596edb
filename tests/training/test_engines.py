"""The matrix: one process, pieces, DDP, FSDP2 and tensor parallelism walk the same curve, and go on from one another.

Tolerance in float32: losses agree to 2e-5 of their value over 12 steps, norms to 1e-4, weights to 2e-4 absolute
(Muon's own products are in bf16: 2e-4, 2e-3 and 2e-3).
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from athanor.base.errors import AthanorError
from athanor.training.checkpoint import Checkpoints
from athanor.training.engines.choose import open_engine
from athanor.training.engines.cut import Cut
from athanor.training.engines.engine import Engine
from tests.conftest import ROOT
from tests.training.in_processes import run_case
from tests.training.pretraining import HIDING

ENGINES = ("ddp", "fsdp2", "tensor")
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {"settings": {"optimizer": "adamw", "average": 0.9, "z_loss": 1e-4, "watch_every": 5}},
    "muon": {"settings": {"optimizer": "muon"}},
    "pieces": {"settings": {"optimizer": "adamw", "accumulate": 2}},
    "recompute": {"settings": {"optimizer": "adamw", "recompute": True}},
    "experts": {"settings": {"optimizer": "adamw"}, "config": {"experts": 3, "experts_per_token": 2, "hidden": 32}},
    "half": {"settings": {"optimizer": "adamw", "accumulate": 2}, "dtype": "bfloat16"},
}
LORA = {"targets": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "lm_head"]}
ADAPTER = {"settings": {"optimizer": "adamw", "learning_rate": 0.03}, "adapter": LORA}
BY_DISTANCE = {"alibi": {"position": "alibi"}, "buckets": {"position": "buckets", "buckets": 8, "farthest": 16}}
BY_POSITION = ("adamw", "muon", "recompute", "half")  # what context parallelism is tried with; experts it refuses
STOP = 5


def in_processes(folder: Path, cases: list[dict[str, Any]], count: int = 2) -> None:
    """Run cases in so many processes; what they print is shown when one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    listed = folder / "cases.json"
    listed.write_text(json.dumps(cases))
    words = [sys.executable, "-m", "tests.training.in_processes", str(folder), str(listed)]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    started = [
        subprocess.Popen(
            words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **world, "RANK": str(rank), "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"},
        )
        for rank in range(count)
    ]  # fmt: skip
    said = [process.communicate(timeout=600)[0] for process in started]
    assert not any(process.returncode for process in started), "\n\n".join(said)


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every variant by every engine, and every engine going on from a checkpoint of one process and the other way."""
    folder = tmp_path_factory.mktemp("matrix")
    cases: list[dict[str, Any]] = [{"engine": "fsdp2", "grown": True}]  # first: memory that was used once stays
    for engine in ("fsdp2", "tensor"):
        cases.append({"engine": engine, "where": f"outline-{engine}", "outline": True, **VARIANTS["muon"]})
    cases.append({"engine": "fsdp2", "where": "outline-half", "outline": True, **VARIANTS["half"]})
    for name, variant in VARIANTS.items():
        run_case({"where": f"{name}-single", **variant}, folder, Engine())
        cases += [{"engine": engine, "where": f"{name}-{engine}", **variant} for engine in ENGINES]
    for name in BY_POSITION:
        cases.append({"engine": "context", "where": f"{name}-context", **VARIANTS[name]})
    cases.append({"engine": "context", "where": "muon-context-then-fsdp2", "stop": STOP, **VARIANTS["muon"]})
    cases.append({"engine": "fsdp2", "where": "muon-context-then-fsdp2", **VARIANTS["muon"]})
    run_case({"where": "lora-single", **ADAPTER}, folder, Engine())
    cases += [{"engine": engine, "where": f"lora-{engine}", **ADAPTER} for engine in ("ddp", "fsdp2", "context")]
    prefix = {"method": "ptuning", "prefix_tokens": 2}
    cases.append({"engine": "context", "where": "prefix", "adapter": prefix, "config": {"max_positions": 32}})
    for name, config in BY_DISTANCE.items():
        variant = {"settings": {"optimizer": "adamw"}, "config": config}
        run_case({"where": f"{name}-single", **variant}, folder, Engine())
        cases += [{"engine": engine, "where": f"{name}-{engine}", **variant} for engine in ("tensor", "context")]
    for engine in ENGINES:
        for name in ("adamw", "muon"):
            run_case({"where": f"{name}-single-then-{engine}", "stop": STOP, **VARIANTS[name]}, folder, Engine())
            cases.append({"engine": engine, "where": f"{name}-single-then-{engine}", **VARIANTS[name]})
            cases.append({"engine": engine, "where": f"{name}-{engine}-then-single", "stop": STOP, **VARIANTS[name]})
        other = ENGINES[(ENGINES.index(engine) + 1) % 3]
        cases.append({"engine": engine, "where": f"muon-{engine}-then-{other}", "stop": STOP, **VARIANTS["muon"]})
        cases.append({"engine": other, "where": f"muon-{engine}-then-{other}", **VARIANTS["muon"]})
    often = {"settings": {"optimizer": "adamw", "checkpoint_seconds": 0}}
    for pattern in ("__1_0.distcp", ".metadata", "state.json", "metrics.jsonl"):
        where = f"damaged-{pattern.strip('._')}"
        cases.append({"engine": "fsdp2", "where": where, "stop": STOP, **often})
        cases.append({"engine": "fsdp2", "where": where, "damage": pattern, **often})
    cases.append({"engine": "fsdp2", "where": "full", "full": 2, **often})
    in_processes(folder, cases)
    for engine in ENGINES:
        for name in ("adamw", "muon"):
            run_case({"where": f"{name}-{engine}-then-single", **VARIANTS[name]}, folder, Engine())
    return folder


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((folder / f"{name}.json").read_text())


def differences(folder: Path, name: str, reference: str) -> list[str]:
    """Where the curves and the last weights of two runs are not the same within the stated tolerance."""
    loose = {"muon": 10.0, "lora": 20.0, "half": 500.0}.get(reference.partition("-")[0], 1.0)
    rows, expected = rows_of(folder, name), rows_of(folder, reference)
    assert expected[-1]["loss"] < 0.9 * expected[0]["loss"], "it must learn, or agreeing says nothing"
    found = [] if [row["step"] for row in rows] == list(range(12)) else [f"steps of {name}"]
    for one, two in zip(rows, expected, strict=True):
        watched = pytest.approx(two["watched"], rel=1e-4) if "watched" in two else None
        same = {
            "loss": one["loss"] == pytest.approx(two["loss"], rel=2e-5 * loose),
            "norm": one["norm"] == pytest.approx(two["norm"], rel=1e-4 * loose),
            "scored": one["scored"] == two["scored"],
            "watched": one.get("watched") == watched,
        }
        found += [
            f"{key} at step {one['step']}: {one.get(key)}, {two.get(key)}" for key, yes in same.items() if not yes
        ]
    weights, wanted = (load_file(folder / f"{run}.safetensors") for run in (name, reference))
    assert weights.keys() == wanted.keys()
    for key, weight in wanted.items():
        far = (weights[key].float() - weight.float()).abs()
        if not (float(far.mean()) < 2e-5 * loose and float(far.max()) < (2e-4 * loose if loose <= 10 else 0.05)):
            found.append(f"{key}: {far.mean():.2g} in the mean, {far.max():.2g} at most")
    return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_walk_the_curve_of_one(engine: str, variant: str, matrix: Path) -> None:
    assert not differences(matrix, f"{variant}-{engine}", f"{variant}-single")


def test_a_process_grows_by_its_part_of_a_network_whose_weights_it_never_holds_together(matrix: Path) -> None:
    for place in range(2):
        found = json.loads((matrix / f"grown-fsdp2-{place}.json").read_text())
        assert not found["meta"] and found["grown"] < 0.75 * found["whole"], found
    for engine in ("fsdp2", "tensor"):
        assert not differences(matrix, f"outline-{engine}", "muon-single")
    assert not differences(matrix, "outline-half", "half-single")


@pytest.mark.parametrize("name", BY_DISTANCE)
def test_scores_by_distance_are_divided_by_heads(name: str, matrix: Path) -> None:
    for engine in ("tensor", "context"):
        assert not differences(matrix, f"{name}-{engine}", f"{name}-single")


@pytest.mark.parametrize("name", BY_POSITION)
def test_rows_divided_by_positions_walk_the_curve_of_one(name: str, matrix: Path) -> None:
    assert not differences(matrix, f"{name}-context", f"{name}-single")
    if name == "muon":
        assert not differences(matrix, "muon-context-then-fsdp2", "muon-single")


@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "context"])
def test_an_adapter_beside_a_frozen_network_walks_the_curve_of_one(engine: str, matrix: Path) -> None:
    """One of its layers is the head, which shares its weight with the embedding."""
    assert not differences(matrix, f"lora-{engine}", "lora-single")
    before, after = (load_file(matrix / f"lora-{one}.safetensors") for one in ("single", engine))
    assert all(torch.equal(after[name], weight) for name, weight in before.items() if "adapters" not in name)


def test_rows_that_a_prefix_stands_before_are_not_divided(matrix: Path) -> None:
    assert "a prefix stands before" in (matrix / "prefix-0.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("engine", [*ENGINES, "context"])
def test_compiled_layers_walk_the_curve_of_plain_ones(engine: str, tmp_path: Path) -> None:
    variant = {"settings": {"optimizer": "adamw", "compile": True}}
    run_case({"where": "adamw-single", "settings": {"optimizer": "adamw"}}, tmp_path, Engine())
    in_processes(tmp_path, [{"engine": engine, "where": "compiled", **variant}])
    assert not differences(tmp_path, "compiled", "adamw-single")


@pytest.mark.slow
def test_every_objectives_network_is_learnt_by_every_engine(tmp_path: Path) -> None:
    """BERT's, XLNet's, T5's and GLM's: the curve of one process."""
    for name in HIDING:
        run_case({"where": f"{name}-single", "objective": name}, tmp_path, Engine())
    in_processes(tmp_path, [{"engine": engine, "where": f"{name}-{engine}", "objective": name}
                            for name in HIDING for engine in ENGINES])  # fmt: skip
    for name in HIDING:
        for engine in ENGINES:
            assert not differences(tmp_path, f"{name}-{engine}", f"{name}-single")


def test_pieces_walk_the_curve_of_the_whole(matrix: Path) -> None:
    plain = rows_of(matrix, "recompute-single")
    for one, two in zip(rows_of(matrix, "pieces-single"), plain, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=2e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("variant", ["adamw", "muon"])
def test_a_checkpoint_goes_on_in_another_engine_and_number_of_processes(
    engine: str, variant: str, matrix: Path
) -> None:
    assert not differences(matrix, f"{variant}-single-then-{engine}", f"{variant}-single")
    assert not differences(matrix, f"{variant}-{engine}-then-single", f"{variant}-single")
    if variant == "muon":
        other = ENGINES[(ENGINES.index(engine) + 1) % 3]
        assert not differences(matrix, f"muon-{engine}-then-{other}", "muon-single")


@pytest.mark.parametrize("file", ["1_0.distcp", "metadata", "state.json", "metrics.jsonl"])
def test_a_flipped_bit_is_found_and_the_checkpoint_before_is_used(file: str, matrix: Path) -> None:
    """torch's own reader takes a flipped bit in a tensor without a word."""
    assert not differences(matrix, f"damaged-{file}", "recompute-single")
    assert (matrix / f"damaged-{file}" / f"bad-step-{STOP:08d}").is_dir()


def test_a_disk_that_is_full_for_one_process_stops_all_and_keeps_the_last_good_checkpoint(matrix: Path) -> None:
    """The second process can sync two checkpoints, and no third."""
    for place in range(2):
        assert "disk is full" in (matrix / f"full-{place}.txt").read_text()
    found = Checkpoints(matrix / "full").load()
    assert found is not None and found.step == 1 and not list((matrix / "full").glob(".*.tmp"))
    assert len(found.tensors) == 4 * 18 and all(bool(one.isfinite().all()) for one in found.tensors.values())


def test_a_cut_takes_every_section_apart_and_joins_it_again() -> None:
    whole = torch.arange(7 * 3).view(7, 3)
    cut = Cut(0, (4, 3), 2)
    parts = [cut.take(whole, part) for part in range(2)]
    assert parts[0][:, 0].tolist() == [0, 3, 12, 15] and parts[1][:, 0].tolist() == [6, 9, 18]
    assert torch.equal(cut.join(parts), whole)
    assert [cut.length(part) for part in range(2)] == [4, 3]
    assert Cut(1, (3,), 5).spans(4) == [(3, 3)], "more processes than columns: some hold nothing"


def test_an_engine_of_several_processes_says_how_to_start_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AthanorError, match="RANK") as caught:
        open_engine("ddp")
    assert "processes=N" in caught.value.fix and "torchrun" in caught.value.fix
