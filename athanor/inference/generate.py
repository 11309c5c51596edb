"""The naive reference: every token recomputes the whole row. The engine must equal it token for token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.inference.blanks import Blanks, check_blanks, inputs
from athanor.inference.sampling import Sampling, SamplingState, choose
from athanor.inference.stream import decode_so_far
from athanor.models.language import LanguageModel

FinishReason = Literal["stop", "length", "cancelled"]


class Decoder(Protocol):
    """The one thing the engine asks of a tokenizer."""

    def token_bytes(self) -> list[bytes]:
        """The bytes of every token id; empty for special tokens."""
        ...


@dataclass(frozen=True)
class Completion:
    """One finished answer.

    Attributes:
        ids: the tokens of the answer, without the one that ended it; a stop string's tokens are included.
        text: the answer, without the stop string; empty when no tokenizer was given.
        finish_reason: stop (an end token or a stop string), length (max_tokens or the model's positions), cancelled.
        prompt_tokens: length of the prompt.
        completion_tokens: tokens the model was run for, the end token included.
    """

    ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


def check_request(model: LanguageModel, ids: Sequence[int], sampling: Sampling, decodes: bool) -> int:
    """The most tokens the answer can have.

    Raises:
        AthanorError: the prompt is empty, too long or not of this vocabulary, or the sampling does not fit the model.
    """
    vocabulary, positions = model.config.vocabulary or 0, model.room
    if not 0 < len(ids) < positions:
        raise AthanorError(
            f"the prompt has {len(ids)} tokens", allowed=f"1 to {positions - 1} tokens, the model's positions less one",
            fix="shorten the conversation" if ids else "give some text",
        )  # fmt: skip
    wrong = next((token for token in (*ids, *sampling.logit_bias) if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise AthanorError(f"token id {wrong} is not in the model's vocabulary", allowed=f"0 to {vocabulary - 1}")
    if sampling.stop and not decodes:
        raise AthanorError("stop strings need a tokenizer, and none was given", fix="give the engine a tokenizer")
    return min(sampling.max_tokens or positions, positions - len(ids))


def known_logits(logits_BV: Tensor, token_bytes: Sequence[bytes] | None) -> Tensor:
    """The logits, where no token stands behind an id (the embedding is padded) minus infinity; changed in place."""
    if token_bytes is not None and len(token_bytes) < logits_BV.shape[-1]:
        logits_BV[..., len(token_bytes) :] = -torch.inf
    return logits_BV


@torch.inference_mode()
def generate(
    model: LanguageModel,
    ids: Sequence[int],
    sampling: Sampling,
    end_ids: Iterable[int] = (),
    tokenizer: Decoder | None = None,
    blanks: Blanks | None = None,
) -> Completion:
    """Answer one prompt without a cache.

    Args:
        blanks: special tokens of a network that reads its prompt in both directions; its prompt is completed.

    Raises:
        AthanorError: see `check_request` and `check_blanks`.
    """
    check_blanks(model.config, blanks)
    ids = list(ids) if blanks is None else blanks.complete(ids)
    limit = check_request(model, ids, sampling, tokenizer is not None)
    token_bytes, ends = tokenizer.token_bytes() if tokenizer else None, frozenset(end_ids)
    state = SamplingState(sampling, list(ids))
    device = next(model.parameters()).device
    for count in range(1, limit + 1):
        row = inputs(model.config, [[*ids, *state.generated]], blanks)
        hidden_1TD = model.hidden(**{name: tensor.to(device) for name, tensor in row.items()})
        logits_1V = model.logits(hidden_1TD[:, -1])
        token = choose(known_logits(logits_1V, token_bytes), [state])[0]
        if token in ends:
            return _completion(state, token_bytes, "stop", count)
        state.generated.append(token)
        if token_bytes and any(one in decode_so_far(token_bytes, state.generated) for one in sampling.stop):
            return _completion(state, token_bytes, "stop", count)
    return _completion(state, token_bytes, "length", limit)


def _completion(state: SamplingState, token_bytes: list[bytes] | None, why: FinishReason, count: int) -> Completion:
    text = decode_so_far(token_bytes, state.generated, final=True) if token_bytes else ""
    places = [place for one in state.sampling.stop if (place := text.find(one)) >= 0]
    text = text[: min(places)] if places else text
    return Completion(tuple(state.generated), text, why, len(state.prompt), count)
