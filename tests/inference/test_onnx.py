"""ONNX graphs in onnxruntime: the logits and the greedy answers of the networks they were traced from."""

from pathlib import Path

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.inference.engine import Engine
from athanor.inference.onnx import OnnxWriter, Session, graphs_of, write_graph
from athanor.inference.sampling import Sampling
from athanor.models.config import TransformerConfig
from athanor.models.contrastive import ContrastiveConfig, ContrastiveModel, TextTowerConfig
from athanor.models.masked import EncoderConfig, TextEncoder
from athanor.models.rope import RopeScaling
from athanor.models.vision.patches import TowerConfig
from athanor.models.vision.resnet import ResNet, ResNetConfig
from athanor.models.vision.swin import Swin, SwinConfig
from athanor.models.vision.vit import ViT, ViTConfig
from athanor.recipes.export_onnx import difference
from tests.inference.conftest import make_model

pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")

LAYER_NORM = {"norm": "layer", "bias_qkv": True, "bias_out": True, "bias_mlp": True, "kv_heads": None}
WRITERS = {
    "llama": {},
    "gpt2": {**LAYER_NORM, "position": "learned", "mlp": "gelu_tanh", "tied": True},
    "bloom": {**LAYER_NORM, "position": "alibi", "embedding_norm": True},
    "mixtral": {"experts": 4, "experts_per_token": 2},
    "mistral": {"window": 5},
    "glm4": {"rope_share": 0.5, "rope_pairs": "neighbours", "norm_place": "around", "bias_qkv": True},
    "qwen3, yarn": {
        "norm_qk": True,
        "rope_scaling": RopeScaling(
            kind="yarn", factor=4.0, original_positions=16, beta_fast=32.0, beta_slow=1.0, attention_factor=1.1,
            whole_bounds=True,
        ),
    },
    "gptj": {**LAYER_NORM, "parallel": True, "shared_norm": True, "bias_head": True},
}  # fmt: skip
TRUNK = {"width": 32, "layers": 2, "heads": 4, "hidden": 48, "max_positions": 24}
TEXT = {"vocabulary": 97, "position": "learned", "mlp": "gelu", **LAYER_NORM}
TOWER = {"image": 16, "patch": 4, "width": 32, "layers": 2, "heads": 4, "hidden": 48}
FAST = ("bert",)  # tracing takes seconds; a language model goes the whole way in tests/verbs/test_export_onnx.py


def networks() -> dict[str, torch.nn.Module]:
    """Those that write no text."""
    causal = TransformerConfig(**TRUNK, **TEXT, tied=True)
    seeing = TransformerConfig(**TRUNK, **TEXT, causal=False, norm_place="after")
    return {
        "bert": TextEncoder(EncoderConfig(trunk=seeing, pooled=True)),
        "roberta without a head": TextEncoder(
            EncoderConfig(trunk=seeing, segments=1, first_position=2, predicts=False)
        ),
        "clip": ContrastiveModel(
            ContrastiveConfig(vision=TowerConfig(**TOWER), text=TextTowerConfig(trunk=causal, end_id=90), joint=24)
        ),
        "chinese clip": ContrastiveModel(
            ContrastiveConfig(vision=TowerConfig(**TOWER), text=TextTowerConfig(trunk=seeing, segments=2), joint=24)
        ),
        "vit": ViT(ViTConfig(tower=TowerConfig(**TOWER), classes=7)),
        "vit without a head": ViT(ViTConfig(tower=TowerConfig(**TOWER))),
        "resnet": ResNet(ResNetConfig(widths=(8, 16), depths=(1, 1), block="basic", stem_width=8, classes=5)),
        "swin": Swin(
            SwinConfig(version="v2", stem_width=16, depths=(2, 2), heads=(2, 4), window=4, image_size=32, classes=5)
        ),
    }  # fmt: skip


def cases(names: dict) -> list:
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", cases(WRITERS))
def test_prompts_and_answers_are_those_of_the_network(name: str, tmp_path: Path) -> None:
    """Rows of unlike length in one batch, padded at their left, and every answer token by token through the cache."""
    model = make_model(97, **WRITERS[name])
    (graph,) = graphs_of(model)
    writer = OnnxWriter(Session(write_graph(graph, tmp_path)), model)
    rows = [list(range(5, 19)), [9], [40, 41, 42, 43]]
    with torch.no_grad():
        for ids, logits in zip(rows, writer.logits(rows), strict=True):
            expected = model(torch.tensor([ids]))[0]
            torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)
    answers = Engine(model, end_ids=(3,)).generate_batch(rows, Sampling(max_tokens=20))
    assert writer.answers(rows, 20, (3,)) == [answer.ids for answer in answers]
    assert writer.session.session.get_inputs()[0].shape == ["batch", "tokens"]


@pytest.mark.parametrize("name", cases(networks()))
def test_encoders_and_pictures_are_those_of_the_network(name: str, tmp_path: Path) -> None:
    model = networks()[name].eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    for graph in graphs_of(model):
        session = Session(write_graph(graph, tmp_path))
        assert len(graph.trials) >= 2
        assert difference(graph, session)["max_difference"] < 1e-4
        with torch.no_grad():
            for parameter in graph.network.parameters():
                parameter.mul_(1.1)
        with pytest.raises(AthanorError, match="refused"):
            difference(graph, session)


def test_a_network_without_a_graph_is_refused() -> None:
    with pytest.raises(AthanorError, match="M3"):
        graphs_of(make_model(prefix=True))
