"""How far two judges agree beyond chance, and whether a confidence means what it says.

Shapes: N items.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10
TINY = 1e-9
Floats = NDArray[np.float64]
GOLDEN = (math.sqrt(5) - 1) / 2


def kappa(one: Sequence[str], other: Sequence[str]) -> float | None:
    """Cohen's kappa (Cohen 1960): (observed - expected) / (1 - expected) agreement; None where chance alone agrees."""
    count = len(one)
    if not count:
        return None
    observed = sum(a == b for a, b in zip(one, other, strict=True)) / count
    left, right = Counter(one), Counter(other)
    expected = sum(left[name] * right[name] for name in left) / count**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


@dataclass(frozen=True)
class Bin:
    """Judgements of about the same confidence: how many, their mean confidence, and the share that is right."""

    count: int
    confidence: float
    right: float


def calibration_bins(confidences: Sequence[float], right: Sequence[bool]) -> list[Bin]:
    """Tenths of confidence that hold anything, in order."""
    values, hits = np.asarray(confidences, float), np.asarray(right, bool)
    places = np.minimum((values * BINS).astype(int), BINS - 1)
    chosen = [places == place for place in range(BINS)]
    return [Bin(int(here.sum()), float(values[here].mean()), float(hits[here].mean())) for here in chosen if here.any()]


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """Expected calibration error (Guo et al. 2017, equation 3): mean distance of confidence and accuracy over bins."""
    bins = calibration_bins(confidences, right)
    return sum(one.count * abs(one.confidence - one.right) for one in bins) / len(right) if bins else None


def tempered(confidences_N: Floats, temperature: float, labels: int) -> Floats:
    """Confidences after temperature scaling (Guo et al. 2017, section 4.2), the rest spread over the other labels.

    Below 1 makes surer, above 1 less sure.
    """
    sure_N = np.clip(confidences_N, TINY, 1 - TINY)
    surplus_N = np.log(sure_N) - np.log((1 - sure_N) / (labels - 1))  # the logit against each other label
    return 1 / (1 + (labels - 1) * np.exp(-np.clip(surplus_N / temperature, -700, 700)))


def fit_temperature(confidences: Sequence[float], right: Sequence[bool], labels: int) -> float:
    """The temperature under which what a person found is likeliest, between 0.05 and 20; found by golden section."""
    sure_N, right_N = np.asarray(confidences, float), np.asarray(right, bool)

    def loss(logarithm: float) -> float:
        chances_N = np.clip(tempered(sure_N, math.exp(logarithm), labels), TINY, 1 - TINY)
        return -float(np.log(np.where(right_N, chances_N, 1 - chances_N)).sum())

    low, high = math.log(0.05), math.log(20)
    while high - low > 1e-4:
        left, right_ = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if loss(left) <= loss(right_):
            high = right_
        else:
            low = left
    return math.exp((low + high) / 2)
