"""Networks as ONNX graphs, for onnxruntime and whatever else runs them: batch and length are free, numbers float32.

A language model becomes one graph for prompts and for answers, with the names that other exporters use:

    input_ids, position_ids (B, T), attention_mask (B, P + T), past_key_values.0.key, .value ... (B, K, P, H)
    ->  logits (B, T, V), present.0.key, .value ... (B, K, P + T, H)

P is 0 for a prompt; rows of unlike length are padded at their left. BERT becomes input_ids, attention_mask,
token_type_ids -> last_hidden_state, and logits where it has that head; pictures pixel_values -> logits or
last_hidden_state; CLIP two graphs, text_embeds and image_embeds, of length 1. Encoder-decoders: `onnx_seq2seq.py`.

Shape letters as in `transformer.py`; P positions in the cache, C H W of an image.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.inference.onnx_graph import Graph, Inputs, Session, texts
from athanor.inference.onnx_seq2seq import encoder_decoder_graphs
from athanor.models.contrastive import ContrastiveModel
from athanor.models.feedforward import Experts
from athanor.models.language import LanguageModel
from athanor.models.masked import TextEncoder
from athanor.models.seq2seq import EncoderDecoder
from athanor.models.speech import SpeechModel
from athanor.models.vision.resnet import ResNet
from athanor.models.vision.swin import Swin
from athanor.models.vision.vit import ViT

# ------------------------------------------------------------------------------------------------------ what is traced


class Past:
    """A cache for one call: keys and values come in as tensors, and go out with the new ones behind them."""

    def __init__(self, past: Sequence[Tensor], mask_BTS: Tensor):
        self.past, self.mask_BTS = past, mask_BTS
        self.present: list[Tensor] = []

    def append(self, layer: int, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        keys = torch.cat((self.past[2 * layer], k_BKTH), 2)
        values = torch.cat((self.past[2 * layer + 1], v_BKTH), 2)
        self.present += [keys, values]
        return keys, values


class Writer(nn.Module):
    """A language model with its cache as inputs and outputs."""

    def __init__(self, model: LanguageModel):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        length, before = input_ids.shape[1], past[0].shape[2]
        key_S = torch.arange(before + length, device=input_ids.device)
        query_T1 = key_S[before:, None]
        seen_BTS = attention_mask[:, None].bool() | (key_S == query_T1)  # padding sees itself: softmax needs something
        cache = Past(past, (key_S <= query_T1) & seen_BTS)
        hidden_BTD = self.model.hidden(input_ids, positions_BT=position_ids, cache=cache)
        return self.model.logits(hidden_BTD), *cache.present


class Reader(nn.Module):
    """An encoder of text."""

    def __init__(self, model: TextEncoder):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, ...]:
        hidden_BTD = self.model.hidden(input_ids, segments_BT=token_type_ids, documents_BT=attention_mask)
        return (hidden_BTD,) if self.model.guess is None else (hidden_BTD, self.model.logits(hidden_BTD))


class TextVectors(nn.Module):
    """CLIP's tower for texts, with its way into the joint space."""

    def __init__(self, model: ContrastiveModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.text_vectors(input_ids, attention_mask.bool())


class ImageVectors(nn.Module):
    """CLIP's tower for images."""

    def __init__(self, model: ContrastiveModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.image_vectors(pixel_values)


class Features(nn.Module):
    """A picture network without a head: its vectors, or the maps of all its stages."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.model.features(pixel_values)


class Pixels(nn.Module):
    """A picture network with its head."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values)


class AllExperts(nn.Module):
    """Experts without sorting: each runs on every token, and those that were not chosen count for nothing.

    The same result for E / C times the work; a graph cannot hold lists whose lengths depend on what it computes.
    """

    def __init__(self, experts: Experts):
        super().__init__()
        self.one = experts

    def forward(self, x_BTD: Tensor) -> Tensor:
        probability_BTE = self.one.router(x_BTD).float().softmax(-1)
        weight_BTC, chosen_BTC = probability_BTE.topk(self.one.per_token, dim=-1)
        if self.one.normal:
            weight_BTC = weight_BTC / weight_BTC.sum(-1, keepdim=True)
        weight_BTE = torch.zeros_like(probability_BTE).scatter(-1, chosen_BTC, weight_BTC).to(x_BTD.dtype)
        return sum(expert(x_BTD) * weight_BTE[..., [place]] for place, expert in enumerate(self.one.experts))


# ---------------------------------------------------------------------------------------------------------- the graphs


def graphs_of(model: nn.Module) -> list[Graph]:
    """The graphs that a network in float32 becomes.

    Raises:
        AthanorError: a network of a kind that has none.
    """
    model = with_all_experts(model).eval()
    if isinstance(model, LanguageModel) and not model.config.prefix:
        return [writer_graph(model)]
    if isinstance(model, TextEncoder):
        return [reader_graph(model)]
    if isinstance(model, ContrastiveModel):
        return contrastive_graphs(model)
    if isinstance(model, EncoderDecoder | SpeechModel):
        return encoder_decoder_graphs(model)
    if isinstance(model, ViT | ResNet | Swin):
        return [picture_graph(model)]
    raise AthanorError(
        f"{type(model).__name__}: networks of this kind have no ONNX graph yet (SPEC M3)",
        allowed="language models that read from left to right, BERT and ERNIE, T5, M2M-100, Whisper, "
        "ViT, ResNet, Swin, CLIP",
        fix="athanor export --to hf",
    )


def writer_graph(model: LanguageModel) -> Graph:
    """A language model, for prompts and answers alike."""
    config = model.config
    inputs = writer_inputs(model, rows=2, length=5, before=3)
    past = [name for name in inputs if name.startswith("past")]
    return Graph(
        "model",
        Writer(model),
        inputs,
        free={
            "input_ids": {0: "batch", 1: "tokens"},
            "attention_mask": {0: "batch", 1: "past_and_tokens"},
            "position_ids": {0: "batch", 1: "tokens"},
            **{name: {0: "batch", 2: "past"} for name in past},
        },
        outputs=("logits", *(f"present.{layer}.{part}" for layer in range(config.layers) for part in ("key", "value"))),
    )


def writer_inputs(model: LanguageModel, rows: int, length: int, before: int) -> Inputs:
    """Random inputs of a language model's graph, drawn anew but always the same."""
    config, generator = model.config, torch.Generator().manual_seed(rows)
    shape = (rows, config.key_heads, before, config.head_size)
    names = [f"past_key_values.{layer}.{part}" for layer in range(config.layers) for part in ("key", "value")]
    place_T = torch.arange(before, before + length)
    return {
        "input_ids": torch.randint(0, config.vocabulary or 1, (rows, length), generator=generator),
        "attention_mask": torch.ones((rows, before + length), dtype=torch.long),
        "position_ids": place_T.expand(rows, -1).contiguous(),
        **{name: torch.randn(shape, generator=generator) for name in names},
    }


def reader_graph(model: TextEncoder) -> Graph:
    """An encoder of text."""
    vocabulary, words = model.config.trunk.vocabulary or 1, {0: "batch", 1: "tokens"}
    longest = model.config.trunk.max_positions - model.config.first_position

    def inputs(rows: int, length: int) -> Inputs:
        given = texts(rows, min(length, longest), vocabulary)
        segments_BT = (given["input_ids"] % 2) * (model.config.segments > 1)
        return {**given, "token_type_ids": segments_BT}

    return Graph(
        "model",
        Reader(model),
        inputs(2, 5),
        free={"input_ids": words, "attention_mask": words, "token_type_ids": words},
        outputs=("last_hidden_state", "logits") if model.guess is not None else ("last_hidden_state",),
        trials=(inputs(1, 1), inputs(3, 11), inputs(2, longest)),
    )


def contrastive_graphs(model: ContrastiveModel) -> list[Graph]:
    """CLIP's two towers."""
    text, vision = model.config.text, model.config.vision
    vocabulary, words = text.trunk.vocabulary or 1, {0: "batch", 1: "tokens"}
    end, longest = text.end_id, text.trunk.max_positions - text.first_position
    images = [{"pixel_values": pixels(vision.image, vision.channels, rows)} for rows in (2, 1, 3)]
    return [
        Graph(
            "text_model", TextVectors(model), texts(2, 5, vocabulary, end),
            free={"input_ids": words, "attention_mask": words}, outputs=("text_embeds",),
            trials=tuple(texts(rows, min(length, longest), vocabulary, end) for rows, length in ((1, 2), (3, 9))),
        ),
        Graph(
            "vision_model", ImageVectors(model), images[0], free={"pixel_values": {0: "batch"}},
            outputs=("image_embeds",), trials=tuple(images[1:]),
        ),
    ]  # fmt: skip


def picture_graph(model: ViT | ResNet | Swin) -> Graph:
    """A network that reads pictures; ViT and Swin take one size, ResNet any, of which the graph keeps one."""
    config = model.config
    size, channels = (config.tower.image, config.tower.channels) if isinstance(model, ViT) else (224, config.channels)
    size = config.image_size if isinstance(model, Swin) else size
    images = [{"pixel_values": pixels(size, channels, rows)} for rows in (2, 1, 3)]
    outputs: tuple[str, ...] = ("logits",)
    if config.classes is None:
        with torch.no_grad():
            made = model.features(**{"image_BCHW": images[0]["pixel_values"]})
        outputs = (
            ("last_hidden_state",)
            if isinstance(made, Tensor)
            else tuple(f"feature_maps.{place}" for place in range(len(made)))
        )
    return Graph(
        "model", Features(model) if config.classes is None else Pixels(model), images[0],
        free={"pixel_values": {0: "batch"}}, outputs=outputs, trials=tuple(images[1:]),
    )  # fmt: skip


def pixels(size: int | tuple[int, int], channels: int, rows: int) -> Tensor:
    """Random pictures, always the same."""
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn((rows, channels, height, width), generator=torch.Generator().manual_seed(rows))


def with_all_experts(model: nn.Module) -> nn.Module:
    """The network with experts that a graph can hold; weights are shared with the given one."""
    if not any(isinstance(module, Experts) for module in model.modules()):
        return model
    changed = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    for name, module in list(changed.named_modules()):
        if isinstance(module, Experts):
            changed.set_submodule(name, AllExperts(module))
    return changed


# ------------------------------------------------------------------------------------------------------------- running


class OnnxWriter:
    """Greedy answers from a language model's graph: prompts in one batch, padded at their left, then token by token."""

    def __init__(self, session: Session, model: LanguageModel):
        self.session = session
        self.nothing = {
            name: tensor for name, tensor in writer_inputs(model, 1, 1, 0).items() if name.startswith("past")
        }

    def logits(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Logits of every token of each row, (T, V) each."""
        found = self.session(self._prompts(rows))["logits"]
        return [row[len(row) - len(ids) :] for row, ids in zip(found, rows, strict=True)]

    def answers(
        self, rows: Sequence[Sequence[int]], count: int, ends: Sequence[int], known: int | None = None
    ) -> list[tuple[int, ...]]:
        """The likeliest tokens one after the other, up to an end token or `count` of them.

        Args:
            known: ids from here on stand for no token; None: all do.
        """
        inputs, written_BT = self._prompts(rows), torch.empty((len(rows), 0), dtype=torch.long)
        for _ in range(count):
            found = self.session(inputs)
            token_B1 = found["logits"][:, -1, :known].argmax(-1, keepdim=True)
            written_BT = torch.cat((written_BT, token_B1), 1)
            mask_BS = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
            past = {name.replace("present", "past_key_values"): tensor for name, tensor in found.items()}
            inputs = {
                **past, "input_ids": token_B1, "attention_mask": mask_BS,
                "position_ids": inputs["position_ids"][:, -1:] + 1,
            }  # fmt: skip
        stops = [next((place for place, one in enumerate(row) if one in ends), count) for row in written_BT.tolist()]
        return [tuple(row[:stop]) for row, stop in zip(written_BT.tolist(), stops, strict=True)]

    def _prompts(self, rows: Sequence[Sequence[int]]) -> Inputs:
        longest = max(map(len, rows))
        ids_BT = torch.tensor([[0] * (longest - len(ids)) + list(ids) for ids in rows])
        mask_BT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in rows])
        place_BT = (mask_BT.cumsum(1) - 1).clamp_min(0)
        past = {name: tensor.expand(len(rows), *tensor.shape[1:]) for name, tensor in self.nothing.items()}
        return {"input_ids": ids_BT, "attention_mask": mask_BT, "position_ids": place_BT, **past}
