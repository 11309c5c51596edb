"""DeepSpeed's column of the matrix: the curve of one process, and checkpoints from and to the other engines.

DeepSpeed is an extra: without it this skips. The tolerance is that of `test_engines.py`.
"""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from athanor.base.errors import AthanorError
from athanor.training.engines.deepspeed import imported
from athanor.training.engines.engine import Engine
from athanor.training.settings import LoopSettings
from tests.training import test_engines
from tests.training.in_processes import run_case
from tests.training.test_engines import STOP, differences, in_processes

here = importlib.util.find_spec("deepspeed") is not None
needed = pytest.mark.skipif(not here, reason="DeepSpeed is not installed (the extra athanor[deepspeed])")

VARIANTS: dict[str, dict[str, Any]] = {
    **{name: variant for name, variant in test_engines.VARIANTS.items() if name != "muon"},
    "lora": test_engines.ADAPTER,
    "adamw": {"settings": {"optimizer": "adamw", "z_loss": 1e-4, "watch_every": 5}},
}
PLAIN = VARIANTS["adamw"]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepspeed")
    cases: list[dict[str, Any]] = []
    for name, variant in VARIANTS.items():
        run_case({"where": f"{name}-single", **variant}, folder, Engine())
        cases.append({"engine": "deepspeed", "where": f"{name}-deepspeed", **variant})
    run_case({"where": "single-then-deepspeed", "stop": STOP, **PLAIN}, folder, Engine())
    cases.append({"engine": "deepspeed", "where": "single-then-deepspeed", **PLAIN})
    cases.append({"engine": "deepspeed", "where": "deepspeed-then-single", "stop": STOP, **PLAIN})
    for one, other in (("fsdp2", "deepspeed"), ("deepspeed", "tensor")):
        cases.append({"engine": one, "where": f"{one}-then-{other}", "stop": STOP, **PLAIN})
        cases.append({"engine": other, "where": f"{one}-then-{other}", **PLAIN})
    in_processes(folder, cases)
    run_case({"where": "deepspeed-then-single", **PLAIN}, folder, Engine())
    return folder


@needed
@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_walk_the_curve_of_one(variant: str, matrix: Path) -> None:
    assert not differences(matrix, f"{variant}-deepspeed", f"{variant}-single")


@needed
@pytest.mark.slow
@pytest.mark.parametrize("pair", ["single-then-deepspeed", "deepspeed-then-single", "fsdp2-then-deepspeed",
                                  "deepspeed-then-tensor"])  # fmt: skip
def test_a_checkpoint_goes_on_in_another_engine_and_number_of_processes(pair: str, matrix: Path) -> None:
    assert not differences(matrix, pair, "adamw-single")


@pytest.mark.skipif(here, reason="DeepSpeed is installed")
def test_without_the_library_it_says_what_to_install() -> None:
    with pytest.raises(AthanorError, match="needs DeepSpeed") as refused:
        imported("cpu")
    assert "athanor[deepspeed]" in refused.value.fix


@pytest.mark.parametrize(
    ("more", "told"), [({}, "optimizer=muon"), ({"optimizer": "adamw", "average": 0.9}, "average")]
)
def test_what_it_cannot_update_is_refused_with_the_settings(more: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        LoopSettings.model_validate({"steps": 1, "rows": 1, "learning_rate": 0.1, "engine": "deepspeed", **more})
