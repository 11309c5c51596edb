"""Learning beside a frozen model: stopped runs, settings that do not go together, layers by default, odd models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from athanor.base.errors import AthanorError, Stopped
from athanor.base.progress import SilentProgress
from athanor.base.settings import parse_settings
from athanor.models import native_kernels
from athanor.models.adapters.places import places
from athanor.models.config import TransformerConfig
from athanor.models.families import FAMILIES
from athanor.recipes.recipe import Recipe, RecipeStep
from athanor.recipes.runner import plan_recipe, run_recipe
from athanor.store.artifact import Artifact, Store
from athanor.training.adapt import AdaptSettings, adapt, scaled
from athanor.training.adapt import prepared as adapt_prepared
from athanor.training.sft import FinetuneSettings, lesson, note_strangeness, prepared
from tests.inference.gguf_models import make_checkpoint, train_tokenizer

STEPS = {"steps": 8, "rows": 2, "context": 64, "learning_rate": 0.01, "warmup": 2, "watch_every": 4}


class Listening(SilentProgress):
    """Remembers what was said; asks to stop once so many steps were taken by this process, if it is told."""

    def __init__(self, steps: int | None = None):
        super().__init__()
        self.steps, self.notes = steps, list[str]()

    def start(self, label: str, total: float | None = None, unit: str = "", done: float = 0.0) -> None:
        super().start(label, total, unit, done)
        learning = self.steps is not None and label == "fine-tuning"
        self.last = done + self.steps * 2 * 64 if learning and self.steps else float("inf")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def count(self, amount: float = 1.0, **figures: float | int | str) -> None:
        super().count(amount, **figures)
        self.stop.asked = self.done >= self.last


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """A small random model and forty conversations, as artifacts."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("parents")
    make_checkpoint(folder / "model", train_tokenizer(), norm_qk=True, tied=True)
    rows = [{"question": f"{one} and {two}?", "answer": f"{one + two}"} for one in range(8) for two in range(5)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = (
        RecipeStep("base", "import", {}, {"path": str(folder / "model")}),
        RecipeStep("data", "instruct", {}, {"path": str(folder / "rows.jsonl"), "heldout_share": 0.2}),
    )
    recipe = Recipe("parents", {}, "nano", 1, steps)
    made = run_recipe(recipe, plan_recipe(recipe), Store(folder / "store"), SilentProgress())
    return {"base": made["base"], "conversations": made["data"]}


@pytest.mark.parametrize("method", [pytest.param("dora", marks=pytest.mark.slow), "prefix"])
def test_a_run_stopped_again_and_again_gives_the_same_bytes(
    method: str, parents: dict[str, Artifact], tmp_path: Path
) -> None:
    settings = AdaptSettings(method=method, checkpoint_seconds=0, **STEPS)
    folders = [tmp_path / "whole", tmp_path / "broken"]
    for folder in folders:
        folder.mkdir()
    measured = adapt(settings, parents, folders[0], SilentProgress())
    for _ in range(2):
        with pytest.raises(Stopped):
            adapt(settings, parents, folders[1], Listening(3))
    adapt(settings, parents, folders[1], Listening(3))
    for name in ("adapter_model.safetensors", "adapter_config.json", "metrics.jsonl", "packing.npy"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    assert measured["learning_parameters"] > 0 and measured["method"] == method


@pytest.mark.parametrize("what", ["full", "freeze", "lora", "head"])
def test_flops_are_those_that_learning_takes(
    what: str, parents: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch counts the products of a step: a frozen weight gets no gradient, a layer below all that learn has none."""
    monkeypatch.setattr(
        native_kernels, "can_multiply", lambda *factors: False
    )  # torch does not see those of the library
    if what in ("full", "freeze"):
        settings = FinetuneSettings(last_layers=1 if what == "freeze" else None, fused_loss=False, **STEPS)
        model, tokenizer, template = prepared(settings, {"model": parents["base"]})
    else:
        settings = AdaptSettings(rank=1, targets=["lm_head"] if what == "head" else None, fused_loss=False, **STEPS)
        model, tokenizer, template = adapt_prepared(settings, parents)
    given = lesson(model, tokenizer, template, settings, parents, SilentProgress())
    with FlopCounterMode(display=False) as counter:
        given.objective.loss(model, given.objective.batch(0, 0, 1)).total.backward()
    assert counter.get_total_flops() == pytest.approx(given.objective.flops, rel=0.1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "ia3", "rank": 4}, "rank has no meaning with method=ia3: it is for lora, rslora, dora"),
        ({"method": "lora", "prefix_tokens": 4}, "prefix_tokens has no meaning with method=lora"),
        ({"method": "ptuning", "targets": ["q_proj"]}, "targets has no meaning with method=ptuning"),
        ({"rank": 0}, "step.rank=0"),
        ({"learning_rate": 0.0}, "step.learning_rate=0.0"),
        ({"learning_rate": 10}, "step.learning_rate=10"),
        ({"alpha": 0}, "step.alpha=0"),
        ({"betas": (0.9, 1.0)}, "step.betas.1=1.0"),
        ({"betas": 0.9}, "allowed: a list in brackets"),
        ({"method": "prefix", "engine": "context"}, "a prefix stands before: use ddp or fsdp2"),
        ({"keep_best": True, "watch_every": None}, "keep_best needs watch_every"),
        ({"group_by_length": True, "document_rows": 1}, "goes with document_rows=0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(AthanorError, match=said):
        parse_settings(AdaptSettings, {**STEPS, **wrong}, "step")


def test_more_layers_than_there_are_cannot_learn(parents: dict[str, Artifact], tmp_path: Path) -> None:
    given = {"model": parents["base"]}
    model, _, _ = prepared(FinetuneSettings(last_layers=1, **STEPS), given)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning and all(name.startswith(("trunk.blocks.1.", "trunk.norm")) for name in learning)
    with pytest.raises(AthanorError, match="1 to 2, the layers"):
        prepared(FinetuneSettings(last_layers=3, **STEPS), given)
    with pytest.raises(AthanorError, match="without shards"):
        adapt(AdaptSettings(document_rows=1, **STEPS), parents, tmp_path, SilentProgress())
    with pytest.raises(AthanorError, match="the positions of the model"):
        adapt(AdaptSettings(**{**STEPS, "context": 512}), parents, tmp_path, SilentProgress())


@pytest.mark.parametrize(
    ("family", "outward", "inward"),
    [
        ("llama", {"k_proj", "v_proj"}, {"down_proj"}),
        ("gpt2", {"c_attn"}, {"c_proj"}),
        ("glm4", {"k_proj", "v_proj"}, {"down_proj"}),
    ],
)
def test_ia3_scales_keys_values_and_what_enters_the_last_matrix(
    family: str, outward: set[str], inward: set[str]
) -> None:
    shape = {"norm": "layer", "position": "learned", "mlp": "gelu_tanh", "tied": True} if family == "gpt2" else {}
    config = TransformerConfig(vocabulary=97, width=64, layers=2, heads=4, hidden=96, max_positions=64, **shape)
    found = scaled(places(FAMILIES[family], config), None)
    assert [{name.rpartition(".")[2] for name in names} for names in found] == [outward, inward]
    assert all(len(names) == 2 * len(ends) for names, ends in zip(found, (outward, inward), strict=True))


def test_a_model_that_finds_the_data_less_likely_than_chance_is_told(parents: dict[str, Artifact]) -> None:
    given = {"model": parents["base"], "conversations": parents["conversations"]}
    settings, notes = FinetuneSettings(**{**STEPS, "steps": 1}), []
    for scale in (1, 20):
        model, tokenizer, template = prepared(settings, given)
        model.tokens.weight.data *= scale  # scores that are far from each other, and wrong
        progress = Listening()
        note_strangeness(lesson(model, tokenizer, template, settings, given, progress), progress)
        notes.append(progress.notes)
    assert not notes[0] and "less likely than chance" in notes[1][0]
