"""Kappa and calibration against published values and planted truth."""

import random

import numpy as np
import pytest

from athanor.data.labelling.agreement import calibration_bins, calibration_error, fit_temperature, kappa, tempered


def test_kappa_has_its_textbook_values() -> None:
    """50 proposals read by two, 20 accepted and 15 refused by both (the usual example), and scikit-learn's example."""
    one = ["yes"] * 25 + ["no"] * 25
    other = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert kappa(one, other) == pytest.approx(0.4)
    left = ["negative", "positive", "negative", "neutral", "positive"]
    right = ["negative", "positive", "negative", "neutral", "negative"]
    assert kappa(left, right) == pytest.approx(0.6875)
    assert kappa(left, left) == 1.0
    assert kappa(["a", "b"], ["b", "a"]) == -1.0
    assert kappa(["a", "a"], ["a", "a"]) is None and kappa([], []) is None


def test_independent_judges_have_no_kappa() -> None:
    chance = random.Random(1)
    one, other = ([chance.choice("aaab") for _ in range(20_000)] for _ in range(2))
    assert abs(kappa(one, other)) < 0.02


def test_a_confidence_that_means_what_it_says_has_no_error() -> None:
    chance = random.Random(2)
    sure = [chance.uniform(0.5, 1) for _ in range(20_000)]
    right = [chance.random() < one for one in sure]
    assert calibration_error(sure, right) < 0.015
    assert calibration_error([0.9] * 100, [True] * 50 + [False] * 50) == pytest.approx(0.4)
    assert calibration_error([], []) is None
    bins = calibration_bins([0.55, 0.58, 1.0], [True, False, True])
    assert [(one.count, one.right) for one in bins] == [(2, 0.5), (1, 1.0)]


@pytest.mark.parametrize("labels", [2, 5])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_planted_temperature_is_found(labels: int, temperature: float) -> None:
    """Answers that are right as often as the tempered confidence says."""
    chance = random.Random(3)
    sure = [chance.uniform(1.2 / labels, 0.98) for _ in range(20_000)]
    right = [chance.random() < one for one in tempered(np.array(sure), temperature, labels)]
    assert fit_temperature(sure, right, labels) == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize("labels", [2, 7])
def test_temperature_scales_the_logits(labels: int) -> None:
    """Against a softmax of the whole distribution, written out."""
    for sure in (0.2, 0.5, 0.9, 0.999):
        chances = [sure] + [(1 - sure) / (labels - 1)] * (labels - 1)
        powers = [chance ** (1 / 0.7) for chance in chances]
        assert tempered(np.array([sure]), 0.7, labels)[0] == pytest.approx(powers[0] / sum(powers))
    assert tempered(np.array([0.0, 1.0]), 0.01, labels) == pytest.approx([0, 1])
    assert tempered(np.array([1 / labels]), 0.01, labels) == pytest.approx([1 / labels])
