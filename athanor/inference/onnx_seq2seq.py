"""Encoder-decoders as two ONNX graphs, with the names that other exporters use:

    encoder_model: input_ids, attention_mask (B, S); of Whisper input_features (B, M, F)
    ->  last_hidden_state (B, S, D)
    decoder_model: input_ids (B, T), encoder_hidden_states (B, S, D), encoder_attention_mask (B, S)
    ->  logits (B, T, V)

The decoder computes all of its text each time; Whisper's has no mask, since it always hears 30 seconds.

Shape letters as in `models.seq2seq`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from athanor.inference.onnx_graph import Graph, Inputs, Session, texts
from athanor.models.seq2seq import EncoderDecoder
from athanor.models.speech import SpeechModel

MEMORY = ("encoder_hidden_states", "encoder_attention_mask")


class SourceReader(nn.Module):
    """The encoder of an encoder-decoder."""

    def __init__(self, model: EncoderDecoder):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x_BSD = self.model.embed(input_ids, self.model.places(input_ids, None))
        return self.model.encoder(x_BSD, allowed_BTS=attention_mask[:, None].bool())


class SoundReader(nn.Module):
    """Whisper's encoder."""

    def __init__(self, model: SpeechModel):
        super().__init__()
        self.model = model

    def forward(self, input_features: Tensor) -> Tensor:
        return self.model.text.encoder(self.model.hear(input_features))


class TextWriter(nn.Module):
    """The decoder, without a cache."""

    def __init__(self, model: EncoderDecoder):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor | None = None
    ) -> Tensor:
        seen_BS = None if encoder_attention_mask is None else encoder_attention_mask.bool()
        memory = self.model.decoder.remember(encoder_hidden_states, seen_BS)
        return self.model.logits(self.model.decode(input_ids, memory))


def encoder_decoder_graphs(model: EncoderDecoder | SpeechModel) -> list[Graph]:
    """The graph that reads, and the one that writes."""
    words, memory = {0: "batch", 1: "tokens"}, {0: "batch", 1: "source_tokens"}
    hears = isinstance(model, SpeechModel)
    text = model.text if hears else model
    if hears:
        sources = [{"input_features": sound(model, rows)} for rows in (2, 1, 3)]
        reader: nn.Module = SoundReader(model)
    else:
        sources = [source(text, rows, length) for rows, length in ((2, 5), (1, 1), (3, 40))]
        reader = SourceReader(text)
    written = [
        written_for(text, one, rows, length) for one, rows, length in zip(sources, (2, 1, 3), (4, 1, 9), strict=True)
    ]
    free_source = {"input_features": {0: "batch"}} if hears else {"input_ids": memory, "attention_mask": memory}
    free_text = {
        "input_ids": words,
        **{name: ({0: "batch"} if hears else memory) for name in written[0] if name != "input_ids"},
    }
    return [
        Graph("encoder_model", reader, sources[0], free_source, ("last_hidden_state",), tuple(sources[1:])),
        Graph("decoder_model", TextWriter(text), written[0], free_text, ("logits",), tuple(written[1:])),
    ]


def source(model: EncoderDecoder, rows: int, length: int) -> Inputs:
    """Random sources of unlike length, always the same, padded as the network pads."""
    longest = length if model.encoder.config.position == "buckets" else min(length, model.encoder.config.max_positions)
    given = texts(rows, longest, model.config.vocabulary)
    padding = model.config.padding or 0
    ids_BS = given["input_ids"].masked_fill(given["input_ids"] == padding, (padding + 1) % model.config.vocabulary)
    return {**given, "input_ids": ids_BS.masked_fill(given["attention_mask"] == 0, padding)}


def sound(model: SpeechModel, rows: int) -> Tensor:
    """Random frames, always the same."""
    frames = 2 * model.config.text.encoder.max_positions
    return torch.randn((rows, model.config.mels, frames), generator=torch.Generator().manual_seed(rows))


def written_for(model: EncoderDecoder, given: Inputs, rows: int, length: int) -> Inputs:
    """A random text behind random memories of the lengths of a source."""
    generator = torch.Generator().manual_seed(rows)
    mask = given.get("attention_mask")
    positions = model.encoder.config.max_positions if mask is None else mask.shape[1]
    hidden_BSD = torch.randn((rows, positions, model.config.encoder.width), generator=generator)
    ids_BT = torch.randint(0, model.config.vocabulary, (rows, length), generator=generator)
    if model.config.padding is not None:
        ids_BT = ids_BT.masked_fill(
            ids_BT == model.config.padding, (model.config.padding + 1) % model.config.vocabulary
        )
    values = (hidden_BSD,) if mask is None else (hidden_BSD, mask)
    return {"input_ids": ids_BT, **dict(zip(MEMORY, values, strict=False))}


class OnnxTranslator:
    """Greedy texts from the two graphs, one source at a time."""

    def __init__(self, encoder: Session, decoder: Session):
        self.encoder, self.decoder = encoder, decoder

    def answer(self, given: Inputs, prompt: Sequence[int], count: int, ends: Sequence[int]) -> tuple[int, ...]:
        """The likeliest tokens one after the other behind the prompt, up to an end token or `count` of them."""
        memory = dict(zip(MEMORY, (*self.encoder(given).values(), *list(given.values())[1:]), strict=False))
        written = list(prompt)
        for _ in range(count):
            logits_1TV = self.decoder({"input_ids": torch.tensor([written]), **memory})["logits"]
            token = int(logits_1TV[0, -1].argmax())
            if token in ends:
                break
            written.append(token)
        return tuple(written[len(prompt) :])
