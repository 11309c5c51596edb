"""How the next token is chosen from logits, and the settings of one answer.

Shape letters: B rows of the batch, V vocabulary.
"""

import math
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from athanor.base.errors import AthanorError

LARGEST_INTEGER = 2**63 - 1
NUMBERS = {  # field: lowest, highest, allowed in words
    "temperature": (0.0, 100.0, "0 (always the likeliest token), or 0.001 to 100"),
    "top_p": (1e-9, 1.0, "above 0, up to 1 (off)"),
    "min_p": (0.0, 1.0, "0 (off) to 1"),
    "repetition_penalty": (0.01, 100.0, "0.01 to 100; 1 is off"),
    "presence_penalty": (-2.0, 2.0, "-2 to 2; 0 is off"),
    "frequency_penalty": (-2.0, 2.0, "-2 to 2; 0 is off"),
}
INTEGERS = {
    "top_k": (1, LARGEST_INTEGER, "an integer from 1, or not set"),
    "seed": (-LARGEST_INTEGER - 1, LARGEST_INTEGER, "an integer of 64 bits, or not set"),
    "max_tokens": (1, LARGEST_INTEGER, "an integer from 1, or not set"),
}
COLDEST = 1e-3  # dividing float32 logits by less overflows
MOST_STOPS, LONGEST_STOP, MOST_BIASES = 64, 1000, 4096


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of one answer; the defaults take the likeliest token every time.

    Args:
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: only the k likeliest tokens.
        top_p: only the likeliest tokens that together reach this probability (Holtzman et al. 2020, section 3.1).
        min_p: only tokens at least this share as likely as the likeliest (Nguyen et al. 2024).
        repetition_penalty: divides positive and multiplies negative logits of all tokens seen, prompt included
            (CTRL, Keskar et al. 2019, section 4.1).
        presence_penalty: taken once from the logits of every token of the answer so far.
        frequency_penalty: taken as often as the token stands in the answer so far.
        seed: the same seed gives the same answer; None draws a fresh one.
        max_tokens: most tokens of the answer; None goes on until the model's positions are used up.
        stop: strings that end the answer and are not part of it.
        logit_bias: numbers added to the logits of token ids.
        adapter: which of the adapters beside the network answers; None: the one that was chosen, or none.
    Raises:
        AthanorError: names the field and what is allowed.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    adapter: str | None = None

    def __post_init__(self) -> None:
        for name, (lowest, highest, allowed) in NUMBERS.items():
            _require(name, getattr(self, name), _is_number(getattr(self, name), lowest, highest), allowed)
        for name, (lowest, highest, allowed) in INTEGERS.items():
            value = getattr(self, name)
            _require(name, value, value is None or (_is_integer(value) and lowest <= value <= highest), allowed)
        coldest = self.greedy or self.temperature >= COLDEST
        _require("temperature", self.temperature, coldest, NUMBERS["temperature"][2])
        self._check_stop()
        self._check_bias()

    def _check_stop(self) -> None:
        good = isinstance(self.stop, tuple | list) and len(self.stop) <= MOST_STOPS
        good = good and all(isinstance(one, str) and 0 < len(one) <= LONGEST_STOP for one in self.stop)
        _require("stop", self.stop, good, f"up to {MOST_STOPS} strings of 1 to {LONGEST_STOP} characters")
        object.__setattr__(self, "stop", tuple(self.stop))

    def _check_bias(self) -> None:
        good = isinstance(self.logit_bias, Mapping) and len(self.logit_bias) <= MOST_BIASES
        good = good and all(_is_integer(token) and token >= 0 for token in self.logit_bias)
        good = good and all(_is_number(value, -100.0, 100.0) for value in self.logit_bias.values())
        _require("logit_bias", self.logit_bias, good, f"up to {MOST_BIASES} token ids with numbers from -100 to 100")

    @property
    def greedy(self) -> bool:
        """True when no random number is needed."""
        return self.temperature == 0.0

    @property
    def adjusts(self) -> bool:
        """True when logits change before the choice."""
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return bool(self.logit_bias) or penalties != (1.0, 0.0, 0.0)


class SamplingState:
    """What the choice of one answer's next token depends on besides the logits."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]):
        self.sampling, self.prompt = sampling, prompt
        self.generated: list[int] = []
        self.random = random.Random(secrets.randbits(63) if sampling.seed is None else sampling.seed)


def choose(logits_BV: Tensor, states: Sequence[SamplingState]) -> list[int]:
    """The next token of every row. A row's choice depends on its own logits and state only.

    Does not append the choice to the state. Float32 logits are expected and may be changed in place.

    Raises:
        AthanorError: a row of logits holds NaN, or only minus infinity.
    """
    for row, state in enumerate(states):
        if state.sampling.adjusts:
            adjust(logits_BV[row], state)
    best_B = logits_BV.max(dim=-1)
    if not bool(torch.isfinite(best_B.values).all()):
        raise AthanorError("the model's logits are not finite numbers", fix="its weights or their number type overflow")
    chosen = best_B.indices.tolist()
    drawn = [row for row, state in enumerate(states) if not state.sampling.greedy]
    if drawn:
        samplings = [states[row].sampling for row in drawn]
        uniforms = [states[row].random.random() for row in drawn]
        every = len(drawn) == len(states)
        probabilities_BV = probabilities(logits_BV if every else logits_BV[drawn], samplings)
        for row, token in zip(drawn, draw(probabilities_BV, uniforms), strict=True):
            chosen[row] = token
    return chosen


def adjust(logits_V: Tensor, state: SamplingState) -> None:
    """Add the bias and take the penalties from one row of logits, in place."""
    sampling = state.sampling
    for token, bias in sampling.logit_bias.items():
        logits_V[token] += bias
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*state.prompt, *state.generated}), device=logits_V.device)
        scores = logits_V[seen]
        penalty = sampling.repetition_penalty
        logits_V[seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    if state.generated and (sampling.presence_penalty or sampling.frequency_penalty):
        tokens, counts = torch.tensor(state.generated, device=logits_V.device).unique(return_counts=True)
        logits_V[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts.to(logits_V.dtype)


def probabilities(logits_BV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """What each row's next token is drawn from, (B, V): temperature, then top-k, then top-p, then min-p.

    Rows are not divided by their sum after the cuts. Tokens as likely as the last one kept are kept too.
    """

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=logits_BV.dtype, device=logits_BV.device)[:, None]

    logits_BV = logits_BV / column([one.temperature for one in samplings])
    vocabulary = logits_BV.shape[1]
    smallest_B1 = torch.full_like(logits_BV[:, :1], -math.inf)
    ks = [min(one.top_k or vocabulary, vocabulary) for one in samplings]
    nucleus = any(one.top_p < 1.0 for one in samplings)
    if nucleus or min(ks) < vocabulary:
        ordered_BX = logits_BV.sort(dim=-1, descending=True).values if nucleus else logits_BV.topk(max(ks)).values
        last_B1 = torch.tensor(ks, device=logits_BV.device)[:, None] - 1
        smallest_B1 = ordered_BX.gather(1, last_B1)
        if nucleus:
            kept_BX = ordered_BX.masked_fill(ordered_BX < smallest_B1, -math.inf).softmax(dim=-1)
            before_BX = kept_BX.cumsum(dim=-1) - kept_BX
            limits_B1 = column([one.top_p if one.top_p < 1.0 else math.inf for one in samplings])
            inside_BX = (before_BX < limits_B1) & (ordered_BX >= smallest_B1)
            inside_BX[:, 0] = True
            smallest_B1 = ordered_BX.gather(1, inside_BX.sum(dim=-1, keepdim=True) - 1)
    scores_BV = (logits_BV - logits_BV.amax(dim=-1, keepdim=True)).exp()
    keep_BV = (logits_BV >= smallest_B1) & (scores_BV >= column([one.min_p for one in samplings]))
    return scores_BV * keep_BV


def draw(weights_BV: Tensor, uniforms: Sequence[float]) -> list[int]:
    """Invert the cumulative distribution of each row, in the order of the ids, at a number in [0, 1)."""
    cumulative_BV = weights_BV.double().cumsum(dim=-1)
    total_B1 = cumulative_BV[:, -1:].contiguous()
    goal_B1 = torch.tensor(uniforms, dtype=torch.float64, device=weights_BV.device)[:, None] * total_B1
    goal_B1 = torch.minimum(goal_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    return torch.searchsorted(cumulative_BV, goal_B1, right=True)[:, 0].tolist()


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object, lowest: float, highest: float) -> bool:
    """False for text, truth values, infinities and NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest


def _require(name: str, value: object, good: bool, allowed: str) -> None:
    if not good:
        shown = repr(value)
        raise AthanorError(f"{name}={shown if len(shown) <= 80 else shown[:80] + '…'} is not possible", allowed=allowed)
