"""The choice of tokens against `transformers`' logits processors, and the settings' limits."""

import math
from collections import Counter

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.inference.sampling import Sampling, SamplingState, adjust, choose, draw, probabilities


def reference(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The distribution that `transformers` would draw from."""
    transformers = pytest.importorskip("transformers")
    steps = transformers.LogitsProcessorList([transformers.TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        steps.append(transformers.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(transformers.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        steps.append(transformers.MinPLogitsWarper(sampling.min_p))
    return steps(torch.zeros((len(logits), 1), dtype=torch.long), logits.clone()).softmax(-1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"top_k": 1}, {"top_k": 7}, {"top_k": 10**9}, {"top_p": 0.5}, {"top_p": 1e-6}, {"min_p": 0.1},
     {"top_k": 9, "top_p": 0.7}, {"top_k": 9, "top_p": 0.8, "min_p": 0.2}],
)  # fmt: skip
def test_probabilities_equal_those_of_transformers(settings):
    sampling = Sampling(temperature=0.7, **settings)
    logits = 3 * torch.randn(16, 50, generator=torch.Generator().manual_seed(0))
    ours = probabilities(logits, [sampling] * 16)
    torch.testing.assert_close(ours / ours.sum(-1, keepdim=True), reference(logits, sampling))


def test_a_row_does_not_depend_on_its_neighbours():
    logits = 3 * torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    kinds = [{"top_k": 3}, {"top_p": 0.4}, {}, {"min_p": 0.3}, {"top_k": 5, "top_p": 0.9}]
    samplings = [Sampling(temperature=0.5 + number, **kind) for number, kind in enumerate(kinds)]
    together = probabilities(logits, samplings)
    for row, sampling in enumerate(samplings):
        torch.testing.assert_close(together[row : row + 1], probabilities(logits[row : row + 1], [sampling]))


def test_repetition_penalty_equals_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    logits = torch.randn(1, 20)
    state = SamplingState(Sampling(repetition_penalty=1.7), [1, 2, 2])
    state.generated = [7, 1]
    expected = transformers.RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[1, 2, 2, 7, 1]]), logits.clone())
    adjust(logits[0], state)
    torch.testing.assert_close(logits, expected)


def test_presence_and_frequency_count_the_answer_only():
    state = SamplingState(Sampling(presence_penalty=0.5, frequency_penalty=0.25, logit_bias={3: 4.0}), [0, 0])
    state.generated = [1, 1, 2]
    logits = torch.zeros(5)
    adjust(logits, state)
    assert logits.tolist() == [0, -1.0, -0.75, 4.0, 0]


def test_draws_follow_the_weights():
    weights = torch.tensor([[0.0, 2.0, 0.0, 6.0, 0.0]])
    numbers = [(one + 0.5) / 1000 for one in range(1000)]
    assert Counter(draw(weights.expand(1000, -1), numbers)) == {1: 250, 3: 750}
    assert draw(weights, [0.0]) == [1] and draw(weights, [math.nextafter(1.0, 0.0)]) == [3]


def test_the_seed_decides():
    logits = torch.randn(1, 100)

    def answers(seed):
        state = SamplingState(Sampling(temperature=1.0, seed=seed), [])
        return [choose(logits.clone(), [state])[0] for _ in range(20)]

    assert answers(1) == answers(1) != answers(2)
    assert answers(None) != answers(None)


def test_greedy_takes_the_first_of_equals():
    assert choose(torch.tensor([[0.0, 5.0, 5.0]]), [SamplingState(Sampling(), [])]) == [1]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_logits_are_told(broken):
    with pytest.raises(AthanorError, match="not finite"):
        choose(torch.tensor([[0.0, broken]]), [SamplingState(Sampling(), [])])


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -0.1), ("temperature", math.nan), ("temperature", 1e308), ("temperature", "hot"),
     ("temperature", True), ("top_p", 0), ("top_p", 1.01), ("min_p", -1), ("top_k", 0), ("top_k", 2.5),
     ("repetition_penalty", 0), ("presence_penalty", 2.1), ("frequency_penalty", math.inf), ("seed", 2**70),
     ("seed", "x"), ("max_tokens", 0), ("max_tokens", 10**30), ("max_tokens", True), ("stop", "text"), ("stop", ("",)),
     ("stop", ("a",) * 65), ("stop", (5,)), ("stop", ("x" * 1001,)), ("logit_bias", {"a": 1.0}),
     ("logit_bias", {-1: 1.0}), ("logit_bias", {1: 101}), ("logit_bias", [1]), ("logit_bias", {1: "x"})],
)  # fmt: skip
def test_impossible_settings_name_their_field(field, value):
    with pytest.raises(AthanorError, match=f"^{field}=") as caught:
        Sampling(**{field: value})
    assert caught.value.allowed
