"""Export to ONNX: what leaves the store runs in onnxruntime, says in a receipt how equal it is, or does not leave."""

import sys
from pathlib import Path

import pytest
import torch

from athanor.base.files import hash_file, read_json
from athanor.inference import onnx_graph
from athanor.inference.onnx import OnnxWriter
from athanor.inference.onnx_graph import Session
from athanor.models.convert import load_checkpoint, save_checkpoint
from athanor.models.vision.patches import TowerConfig
from athanor.models.vision.vit import ViT, ViTConfig
from athanor.tokens.tokenizer import Tokenizer
from tests.inference.gguf_models import make_checkpoint, train_tokenizer
from tests.verbs.conftest import Verb


@pytest.fixture
def libraries() -> None:
    """Skips where the extra is not installed."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the extra `onnx` is not installed")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return train_tokenizer(600)


@pytest.mark.usefixtures("libraries")
def test_a_language_model_leaves_with_its_tokenizer(tokenizer: Tokenizer, verb: Verb, tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model", tokenizer, torch.bfloat16, layers=1, norm_qk=True, tied=True)
    said = verb("export", tmp_path / "model", "--to", "onnx", "--out", tmp_path / "out")
    assert "same greedy answers 11/11" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.onnx", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "receipt.json",
    }  # fmt: skip
    receipt = read_json(tmp_path / "out" / "receipt.json")
    assert receipt["logits"]["max_logit_difference"] < 1e-4 and receipt["logits"]["positions"] > 100
    assert receipt["files"]["model.onnx"]["hash"] == hash_file(tmp_path / "out" / "model.onnx")
    assert receipt["graphs"]["model.onnx"]["free_axes"]["input_ids"] == ["batch", "tokens"]
    model = load_checkpoint(tmp_path / "model", torch.float32)
    ids = [5, 300, 7]
    (found,) = OnnxWriter(Session(tmp_path / "out" / "model.onnx"), model).logits([ids])
    with torch.no_grad():
        torch.testing.assert_close(found, model(torch.tensor([ids]))[0], rtol=1e-5, atol=1e-4)


def test_what_cannot_leave_is_refused_before_anything_is_written(
    tokenizer: Tokenizer, verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path / "model", tokenizer)
    said = verb("export", tmp_path / "model", "--to", "onnx", "--type", "bf16", "--out", tmp_path / "out", code=2)
    assert "float32" in said
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = verb("export", tmp_path / "model", "--to", "onnx", "--out", tmp_path / "out", code=2)
    assert "onnxruntime" in said and "athanor[onnx]" in said
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "store") == ["model"]


@pytest.mark.slow
@pytest.mark.usefixtures("libraries")
def test_a_graph_that_is_not_equal_is_thrown_away(
    tokenizer: Tokenizer, verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that changes a weight on its way."""
    make_checkpoint(tmp_path / "model", tokenizer)
    right = onnx_graph.write_graph

    def wrong(graph: onnx_graph.Graph, folder: Path) -> Path:
        with torch.no_grad():
            graph.network.model.trunk.norm.weight.mul_(1.01)
            path = right(graph, folder)
            graph.network.model.trunk.norm.weight.div_(1.01)
        return path

    monkeypatch.setattr("athanor.recipes.export_onnx.write_graph", wrong)
    said = verb("export", tmp_path / "model", "--to", "onnx", "--out", tmp_path / "out", code=3)
    assert "refused" in said and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("libraries")
def test_pictures_leave_without_a_tokenizer(verb: Verb, tmp_path: Path) -> None:
    tower = TowerConfig(image=16, patch=4, width=32, layers=2, heads=4, hidden=48)
    save_checkpoint(ViT(ViTConfig(tower=tower, classes=7)).initialise(1), tmp_path / "vit")
    said = verb("export", tmp_path / "vit", "--to", "onnx", "--out", tmp_path / "out")
    assert "model.onnx: largest difference" in said
    receipt = read_json(tmp_path / "out" / "receipt.json")
    assert receipt["differences"]["model.onnx"]["max_difference"] < 1e-4
    assert len(receipt["differences"]["model.onnx"]["inputs"]) == 2
