"""Intervals: how far a measured share or mean may be from the truth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % confidence interval and the number of observations."""

    value: float
    low: float
    high: float
    count: int

    def as_row(self) -> dict[str, float | int]:
        """Rounded for a record."""
        return {"value": round(self.value, 5), "low": round(self.low, 5), "high": round(self.high, 5), "n": self.count}


def share(successes: int, trials: int) -> Estimate:
    """A share with Wilson's interval (Wilson 1927), which stays right near 0 and 1 and for few trials."""
    if trials <= 0:
        raise ValueError(f"a share of {trials} trials has no value")
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    value = successes / trials
    centre = (value + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(value * (1 - value) / trials + z * z / (4 * trials * trials))
    return Estimate(value, max(0.0, centre - half), min(1.0, centre + half), trials)


def difference(one: Estimate, other: Estimate) -> Estimate:
    """One share minus another, of other trials, with Newcombe's interval (1998, method 10) from Wilson's of both."""
    value = one.value - other.value
    below = math.hypot(one.value - one.low, other.high - other.value)
    above = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, max(-1.0, value - below), min(1.0, value + above), one.count + other.count)


def ratio(numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Estimate:
    """Sum over sum (bits per byte over documents) with the percentile bootstrap over pairs (Efron 1979)."""
    top, bottom = np.asarray(numerators, float), np.asarray(denominators, float)
    if not len(top) or bottom.sum() == 0:
        raise ValueError("a ratio over no observations has no value")
    picks = np.random.default_rng(seed).integers(0, len(top), (RESAMPLES, len(top)))
    samples = top[picks].sum(1) / np.maximum(bottom[picks].sum(1), 1e-12)
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(top.sum() / bottom.sum()), float(low), float(high), len(top))
