"""ONNX graphs in onnxruntime: the logits and the greedy answers of the networks they were traced from."""

from pathlib import Path

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.inference.engine import Engine
from athanor.inference.onnx import OnnxWriter, graphs_of
from athanor.inference.onnx_graph import Session, write_graph
from athanor.inference.onnx_seq2seq import OnnxTranslator
from athanor.inference.sampling import Sampling
from athanor.inference.seq2seq import Decoding, generate
from athanor.models.config import TransformerConfig
from athanor.models.contrastive import ContrastiveConfig, ContrastiveModel, TextTowerConfig
from athanor.models.masked import EncoderConfig, TextEncoder
from athanor.models.rope import RopeScaling
from athanor.models.seq2seq import EncoderDecoder, EncoderDecoderConfig
from athanor.models.speech import SpeechConfig, SpeechModel
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
FAST = ("bert", "t5")  # tracing takes seconds; a language model goes the whole way in tests/verbs/test_export_onnx.py


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


def encoder_decoders() -> dict[str, torch.nn.Module]:
    """T5's way to tell places apart, M2M-100's and Whisper's."""
    trunk = {"width": 32, "layers": 1, "heads": 4, "hidden": 48, "causal": False}
    buckets = TransformerConfig(
        **trunk, position="buckets", buckets=8, farthest=20, max_positions=512, attention_scale=1.0, mlp="geglu"
    )
    waves = TransformerConfig(**trunk, **LAYER_NORM, position="none", mlp="relu", max_positions=44)
    heard = TransformerConfig(**trunk, **LAYER_NORM, position="none", mlp="gelu", max_positions=11)
    speech = EncoderDecoderConfig(encoder=heard, vocabulary=97, decoder_positions=24)
    return {
        "t5": EncoderDecoder(EncoderDecoderConfig(encoder=buckets, vocabulary=97)),
        "m2m100": EncoderDecoder(EncoderDecoderConfig(
            encoder=waves, vocabulary=97, padding=1, scale_embedding=True, decoder_layers=2, scale_head=False
        )),
        "whisper": SpeechModel(SpeechConfig(text=speech, mels=6)),
    }  # fmt: skip


@pytest.mark.parametrize("name", cases(encoder_decoders()))
def test_both_sides_of_an_encoder_decoder_are_those_of_the_network(name: str, tmp_path: Path) -> None:
    """Numbers of padded sources and texts of several lengths, and greedy texts by the two graphs together."""
    model = encoder_decoders()[name].eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.3 if weight.dim() > 1 else 0.1))
    graphs = graphs_of(model)
    sessions = [Session(write_graph(graph, tmp_path)) for graph in graphs]
    for graph, session in zip(graphs, sessions, strict=True):
        assert difference(graph, session)["max_difference"] < 1e-4
    encoder = graphs[0]
    assert set(sessions[0].inputs) == set(encoder.inputs) and set(sessions[1].inputs) == set(graphs[1].inputs)
    if "attention_mask" in encoder.inputs:  # what is padded, through both graphs, beside the network itself
        source_BS, seen_BS = (encoder.trials[1][key] for key in ("input_ids", "attention_mask"))
        ids_BT = graphs[1].trials[1]["input_ids"]
        assert not bool(seen_BS.all())
        (hidden_BSD,) = sessions[0](encoder.trials[1]).values()
        found = sessions[1](dict(zip(graphs[1].inputs, (ids_BT, hidden_BSD, seen_BS), strict=True)))["logits"]
        with torch.no_grad():
            expected = model(source_BS, ids_BT, seen_BS=seen_BS.bool())
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    decoding, told = Decoding(start=(2,), ends=(3, 20, 33)), Sampling(max_tokens=12)
    for given in encoder.trials:
        source = next(iter(given.values()))[0]
        length = int(given["attention_mask"][0].sum()) if "attention_mask" in given else None
        alone = {key: value[:1, :length] if length else value[:1] for key, value in given.items()}
        expected = generate(model, source[:length].tolist() if length else source, told, decoding).ids
        assert OnnxTranslator(*sessions).answer(alone, (2,), 12, decoding.ends) == expected
    with torch.no_grad():
        graphs[1].network.model.decoder.blocks[0].cross.q.weight.mul_(1.5)
    with pytest.raises(AthanorError, match="refused"):
        difference(graphs[1], sessions[1])


def test_a_network_without_a_graph_is_refused() -> None:
    with pytest.raises(AthanorError, match="M3"):
        graphs_of(make_model(prefix=True))
