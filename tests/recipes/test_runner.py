"""Names before anything runs, and the code version that follows imports."""

import importlib.util
from pathlib import Path

import pytest

from athanor.base.errors import EXIT_REFUSED, AthanorError
from athanor.base.progress import SilentProgress
from athanor.recipes import code
from athanor.recipes.dial import SCALES, choose
from athanor.recipes.quantize import QuantizeSettings, _gate
from athanor.recipes.recipe import load_recipe
from athanor.recipes.runner import plan_recipe, run_recipe
from athanor.recipes.steps import STEPS
from athanor.store.artifact import Store


def reached_from(module: str) -> set[str]:
    """The modules of ours that this one imports, and those that these import."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in reached and code._path(name):
            reached.add(name)
            waiting += code._imports(code._path(name).read_bytes())
    return reached


def test_the_code_version_follows_imports() -> None:
    """The corpus depends on the filters; training depends on the kernels; nothing depends on progress bars."""
    assert "athanor.data.cleaning.filters" in reached_from("athanor.data.cleaning.clean")
    assert code.code_version("athanor.data.cleaning.clean") != code.code_version("athanor.data.reading.read")
    reached = reached_from("athanor.training.pretrain")
    assert "athanor.models.kernels" in reached
    assert not any(name.startswith("athanor.serving") for name in reached)


def test_a_changed_source_changes_the_version(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    package = tmp_path / "athanor"
    (package / "data").mkdir(parents=True)
    (package / "data" / "a.py").write_text("from athanor.data import b\n")
    (package / "data" / "b.py").write_text("NUMBER = 1\n")
    monkeypatch.setattr(code, "PACKAGE", package)
    versions = []
    for text in ("NUMBER = 1\n", "NUMBER = 2\n"):
        (package / "data" / "b.py").write_text(text)
        code.code_version.cache_clear()
        versions.append(code.code_version("athanor.data.a"))
    code.code_version.cache_clear()
    assert versions[0] != versions[1]


def test_a_seed_reaches_every_step_that_draws() -> None:
    one, two = (plan_recipe(load_recipe("quickstart", [f"seed={seed}"])) for seed in (1, 2))
    changed = {a.name for a, b in zip(one, two, strict=True) if a.artifact != b.artifact}
    assert {"skills", "pretrain", "finetune"} <= changed
    assert not changed & {"data", "clean"}


@pytest.mark.parametrize("scale", SCALES)
def test_every_choice_of_the_dial_is_a_setting_with_a_reason(scale: str) -> None:
    for do in SCALES[scale].steps:
        fields = STEPS[do].settings_class().model_fields
        for key, choice in choose(scale, do).items():
            assert key in fields, f"{do}.{key}"
            assert len(choice.reason) > 10


RECEIPT = {
    "kl_mean": 0.01, "agreement": 0.92, "bits_before": 1.4, "bits_after": 1.405,
    "accuracy_before": 0.93, "accuracy_after": 0.925,
}  # fmt: skip


@pytest.mark.parametrize(
    ("figure", "value", "named"),
    [("kl_mean", 0.2, "most_kl"), ("agreement", 0.5, "least_agreement"), ("bits_after", 1.6, "most_bits_lost"),
     ("accuracy_after", 0.8, "most_accuracy_lost")],
)  # fmt: skip
def test_a_receipt_past_a_threshold_is_refused_by_name(figure: str, value: float, named: str) -> None:
    settings = QuantizeSettings()
    _gate(RECEIPT, settings)
    with pytest.raises(AthanorError) as caught:
        _gate({**RECEIPT, figure: value}, settings)
    assert named in str(caught.value)
    assert caught.value.code == EXIT_REFUSED


def test_a_report_bears_the_name_of_its_own_recipe(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "mine.yaml").write_text("extends: quickstart\n")
    plan = plan_recipe(load_recipe(str(tmp_path / "mine.yaml")))
    assert plan[-1].settings.model_dump()["recipe"] == "mine"


@pytest.mark.parametrize("setting", ["pretrain.tracker=wandb", "finetune.compile=true"])
def test_what_training_needs_and_is_not_here_is_refused_before_anything_is_made(
    setting: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more))
    monkeypatch.setenv("PATH", "/nowhere")
    recipe = load_recipe("quickstart", [setting])
    plan = plan_recipe(recipe)  # it may be here and run elsewhere
    with pytest.raises(AthanorError, match="is not installed" if "wandb" in setting else r"C\+\+ compiler"):
        run_recipe(recipe, plan, Store(tmp_path / "store"), SilentProgress())
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("override", ["pretrain=5", "pretrain.=5"])
def test_an_override_without_a_setting_says_so(override: str) -> None:
    with pytest.raises(AthanorError, match="names no setting of pretrain"):
        load_recipe("quickstart", [override])
