"""What an encoder-decoder writes for a source: T5, mT5, M2M-100 and Whisper.

The encoder runs once for each source, and what the decoder attends to of it is kept: keys and values of every layer.
`generate` is the reference: one source, and for every token all of its text again. `generate_batch` equals it token for
token, with many sources side by side, padded, and with keys and values of what was written kept too.

Shape letters: B rows being written, S positions of the source, T positions of a text, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.inference.beam import Beams, BeamSearch
from athanor.inference.cache import KeyValueCache
from athanor.inference.generate import Completion, Decoder, known_logits
from athanor.inference.sampling import Sampling, SamplingState, choose
from athanor.inference.stream import decode_so_far
from athanor.models.attention import Memory
from athanor.models.seq2seq import EncoderDecoder
from athanor.models.speech import SpeechModel

Network = EncoderDecoder | SpeechModel
Source = Sequence[int] | Tensor  # token ids, or of Whisper log-mel frames (M, F)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a text begins and ends, which a model's generation_config.json says.

    Attributes:
        start: what the decoder is given first, such as `decoder_start_token_id`.
        forced: what every text begins with, such as M2M-100's token of the language to write in.
        ends: tokens that end a text.
        never: tokens that are never written (`suppress_tokens`).
        never_first: tokens that no text begins with, behind `forced` (`begin_suppress_tokens`).
        beams: None: token by token, as the sampling says; else beam search, which draws nothing.
    """

    start: tuple[int, ...]
    forced: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    never: tuple[int, ...] = ()
    never_first: tuple[int, ...] = ()
    beams: Beams | None = None

    @property
    def prompt(self) -> tuple[int, ...]:
        """What stands in the decoder before anything is chosen."""
        return (*self.start, *self.forced)


class Runner(Protocol):
    """Runs the decoder on rows of equal length."""

    def logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Scores (B, V) of what comes behind each row."""
        ...

    def keep(self, order: Sequence[int]) -> None:
        """From now on the rows are continuations of these of the old ones."""
        ...


class Whole:
    """The naive way: every row is computed anew."""

    def __init__(self, text: EncoderDecoder, memory: Memory):
        self.text, self.memory = text, memory

    def logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        ids_BT = torch.tensor(rows, device=self.text.tokens.weight.device)
        positions_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device).expand(ids_BT.shape)
        return self.text.logits(self.text.decode(ids_BT, self.memory, positions_BT=positions_BT)[:, -1])

    def keep(self, order: Sequence[int]) -> None:
        self.memory = chosen(self.memory, order)


class Cached:
    """The last token of each row is computed, the others are remembered."""

    def __init__(self, text: EncoderDecoder, memory: Memory, rows: int, capacity: int):
        weight = text.tokens.weight
        self.text, self.memory = text, memory
        dtype = text.decoder.blocks[0].attention_norm.weight.dtype
        self.cache = KeyValueCache(text.decoder.config, rows, capacity, dtype, weight.device)
        self.done = 0

    def logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        ids_BT = torch.tensor([row[self.done :] for row in rows], device=self.text.tokens.weight.device)
        positions_BT = self.cache.begin_chunk(self.done, ids_BT.shape[1])
        self.done += ids_BT.shape[1]
        hidden_BTD = self.text.decode(ids_BT, self.memory, positions_BT=positions_BT, cache=self.cache)
        return self.text.logits(hidden_BTD[:, -1])

    def keep(self, order: Sequence[int]) -> None:
        if list(order) != list(range(self.cache.rows)):
            self.memory = chosen(self.memory, order)
            self.cache.rearrange(order)


def chosen(memory: Memory, order: Sequence[int]) -> Memory:
    """These rows of what is remembered of the sources."""
    rows_B = torch.tensor(order, device=memory.keys_values[0][0].device)
    pairs = tuple((keys[rows_B], values[rows_B]) for keys, values in memory.keys_values)
    return Memory(pairs, None if memory.allowed_B1S is None else memory.allowed_B1S[rows_B])


# ------------------------------------------------------------------------------------------------------------- verbs


@torch.inference_mode()
def generate(
    model: Network, source: Source, sampling: Sampling, decoding: Decoding, tokenizer: Decoder | None = None
) -> Completion:
    """Write one text for one source, every token from all of its text.

    Raises:
        AthanorError: see `check`.
    """
    limit = check(model, [source], [sampling], decoding, tokenizer is not None)[0]
    memory = remember(model, [source])
    writer = Whole(text_of(model), memory)
    token_bytes = tokenizer.token_bytes() if tokenizer else None
    return write(writer, [source], [sampling], [limit], decoding, token_bytes)[0]


@torch.inference_mode()
def generate_batch(
    model: Network,
    sources: Sequence[Source],
    sampling: Sampling | Sequence[Sampling],
    decoding: Decoding,
    tokenizer: Decoder | None = None,
    *,
    rows: int = 32,
) -> list[Completion]:
    """Write a text for each source, in their order; `rows` sources are computed together, those of like length.

    Raises:
        AthanorError: see `check`.
    """
    samplings = [sampling] * len(sources) if isinstance(sampling, Sampling) else list(sampling)
    limits = check(model, sources, samplings, decoding, tokenizer is not None)
    token_bytes = tokenizer.token_bytes() if tokenizer else None
    by_length = sorted(range(len(sources)), key=lambda place: -length_of(sources[place]))
    written: dict[int, Completion] = {}
    for first in range(0, len(sources), rows):
        places = by_length[first : first + rows]
        group = [sources[place] for place in places]
        most = [limits[place] for place in places]
        writer = Cached(text_of(model), remember(model, group), len(group), len(decoding.prompt) + max(most))
        done = write(writer, group, [samplings[place] for place in places], most, decoding, token_bytes)
        written |= dict(zip(places, done, strict=True))
    return [written[place] for place in range(len(sources))]


def check(
    model: Network, sources: Sequence[Source], samplings: Sequence[Sampling], decoding: Decoding, decodes: bool
) -> list[int]:
    """The most tokens of each text.

    Raises:
        AthanorError: a source is empty, too long, or not of this vocabulary; the text cannot begin as it should; or
            beams are asked for together with what they cannot do.
    """
    text, speech = text_of(model), isinstance(model, SpeechModel)
    vocabulary, positions = text.config.vocabulary, text.decoder.config.max_positions
    if len(samplings) != len(sources):
        raise AthanorError(f"{len(sources)} sources, {len(samplings)} samplings", allowed="one each or one in all")
    if not decoding.start or len(decoding.prompt) >= positions:
        raise AthanorError(f"the text begins with {len(decoding.prompt)} tokens", allowed=f"1 to {positions - 1}")
    wrong = next((token for token in decoding.prompt if not 0 <= token < vocabulary), None)
    for number, source in enumerate(sources):
        if speech:
            continue  # `SpeechModel.hear` takes one shape only, and says which
        longest = None if text.encoder.config.position == "buckets" else text.encoder.config.max_positions
        if not 0 < len(source) <= (longest or len(source)):
            raise AthanorError(
                f"source {number} has {len(source)} tokens", allowed=f"from 1{f' to {longest}' if longest else ''}"
            )
        wrong = next((token for token in source if not 0 <= token < vocabulary), wrong)
    if wrong is not None:
        raise AthanorError(f"token id {wrong} is not in the model's vocabulary", allowed=f"0 to {vocabulary - 1}")
    for sampling in samplings:
        if sampling.stop and not decodes:
            raise AthanorError("stop strings need a tokenizer, and none was given", fix="give a tokenizer")
        if decoding.beams is not None and (sampling.stop or sampling.adjusts or not sampling.greedy):
            raise AthanorError(
                "beam search with a temperature, penalties, biases or stop strings", allowed="max_tokens alone",
                fix="leave beams out, or the others",
            )  # fmt: skip
    return [min(one.max_tokens or positions, positions - len(decoding.prompt)) for one in samplings]


def text_of(model: Network) -> EncoderDecoder:
    """The encoder-decoder, without the front through which it hears."""
    return model.text if isinstance(model, SpeechModel) else model


def length_of(source: Source) -> int:
    """Tokens of a source, or frames."""
    return source.shape[1] if isinstance(source, Tensor) and source.ndim == 2 else len(source)


def remember(model: Network, sources: Sequence[Source]) -> Memory:
    """What the decoder attends to of sources, the shorter ones padded at their right."""
    device = next(model.parameters()).device
    if isinstance(model, SpeechModel):
        return model.encode(torch.stack([torch.as_tensor(source) for source in sources]).to(device))
    longest, padding = max(map(len, sources)), model.config.padding or 0
    source_BS = torch.full((len(sources), longest), padding, dtype=torch.long)
    for row, source in enumerate(sources):
        source_BS[row, : len(source)] = torch.as_tensor(source)
    seen_BS = torch.arange(longest) < torch.tensor([len(source) for source in sources])[:, None]
    return model.encode(source_BS.to(device), None if bool(seen_BS.all()) else seen_BS.to(device))


# ----------------------------------------------------------------------------------------------------------- writing


def write(
    runner: Runner, sources: Sequence[Source], samplings: Sequence[Sampling], limits: Sequence[int],
    decoding: Decoding, token_bytes: list[bytes] | None,
) -> list[Completion]:  # fmt: skip
    """A text for each source, all of them side by side."""
    if decoding.beams is not None:
        return search(runner, sources, limits, decoding, decoding.beams, token_bytes)
    states = [SamplingState(sampling, list(decoding.prompt)) for sampling in samplings]
    found: dict[int, Completion] = {}
    running = list(range(len(sources)))
    while running:
        logits_BV = runner.logits([[*decoding.prompt, *states[place].generated] for place in running])
        forbid(logits_BV, decoding, len(states[running[0]].generated), token_bytes)
        tokens = choose(logits_BV, [states[place] for place in running])
        for place, token in zip(running, tokens, strict=True):
            done = take(states[place], token, limits[place], decoding, token_bytes, length_of(sources[place]))
            found |= {} if done is None else {place: done}
        order = [row for row, place in enumerate(running) if place not in found]
        running = [running[row] for row in order]
        if running:
            runner.keep(order)
    return [found[place] for place in range(len(sources))]


def take(
    state: SamplingState, token: int, limit: int, decoding: Decoding, token_bytes: list[bytes] | None, source: int
) -> Completion | None:
    """Add a token to a text; the finished text, if this was its last one."""
    ended = token in decoding.ends
    if not ended:
        state.generated.append(token)
    text = decode_so_far(token_bytes, state.generated) if token_bytes else ""
    ended = ended or any(one in text for one in state.sampling.stop)
    if not ended and len(state.generated) < limit:
        return None
    text = decode_so_far(token_bytes, state.generated, final=True) if token_bytes else ""
    cuts = [place for one in state.sampling.stop if (place := text.find(one)) >= 0]
    text = text[: min(cuts)] if cuts else text
    computed = len(state.generated) + (token in decoding.ends)
    return Completion(tuple(state.generated), text, "stop" if ended else "length", source, computed)


def search(
    runner: Runner, sources: Sequence[Source], limits: Sequence[int], decoding: Decoding, beams: Beams,
    token_bytes: list[bytes] | None,
) -> list[Completion]:  # fmt: skip
    """The likeliest text for each source that a beam search finds."""
    searches = [BeamSearch(beams, decoding.ends, limit, before=len(decoding.forced)) for limit in limits]
    running = list(searches)
    while running:
        rows = [[*decoding.prompt, *text] for one in running for text in one.texts]
        likelihood_RV = runner.logits(rows).log_softmax(-1)
        forbid(likelihood_RV, decoding, len(rows[0]) - len(decoding.prompt), token_bytes)
        order, first = [], 0
        for one in running:
            count = len(one.texts)
            parents = one.step(likelihood_RV[first : first + count])
            order += [] if one.done else [first + parent for parent in parents]
            first += count
        running = [one for one in running if not one.done]
        if running:
            runner.keep(order)
    found = []
    for source, one in zip(sources, searches, strict=True):
        ids = one.ended[0].ids
        stopped = ids[-1] in decoding.ends
        kept = ids[:-1] if stopped else ids
        text = decode_so_far(token_bytes, list(kept), final=True) if token_bytes else ""
        found.append(Completion(kept, text, "stop" if stopped else "length", length_of(source), len(ids)))
    return found


def forbid(scores_BV: Tensor, decoding: Decoding, written: int, token_bytes: Sequence[bytes] | None) -> None:
    """Minus infinity, in place, for tokens that may not come next, and for ids that no token stands behind."""
    known_logits(scores_BV, token_bytes)
    never: Iterable[int] = (*decoding.never, *(decoding.never_first if written == 0 else ()))
    if never := list(never):
        scores_BV[:, never] = -torch.inf
