"""Near hashes are those that comparing all pairs finds, each once."""

import numpy as np
import pytest

from athanor.data.copies import hamming
from athanor.data.copies.hamming import choose_bands, near_pairs


def all_pairs(left, right, distance):
    near = np.bitwise_count(left[:, None] ^ right[None, :]) <= distance
    pairs = list(zip(*(side.tolist() for side in np.nonzero(near)), strict=True))
    return [(one, other) for one, other in pairs if one < other] if left is right else pairs


def found(left, right, distance):
    """The pairs in order; where both sides are one, the lower number first."""
    pairs = [pair for ones, others in near_pairs(left, right, distance) for pair in zip(ones.tolist(), others.tolist())]  # noqa: B905
    return sorted((min(pair), max(pair)) for pair in pairs) if left is right else sorted(pairs)


def some_hashes(count, seed):
    """Hashes around a few centres, at every distance from 0 to 30 bits."""
    draw = np.random.default_rng(seed)
    centres = draw.integers(0, 1 << 64, 20, dtype=np.uint64)
    hashes = centres[draw.integers(0, 20, count)]
    for number in range(count):
        for place in draw.choice(64, draw.integers(0, 16), replace=False).tolist():
            hashes[number] ^= np.uint64(1 << place)
    return hashes


@pytest.mark.parametrize("distance", [0, 1, 3, 7, 12, 16, 64])
@pytest.mark.parametrize("wanted", [20, 10**6])
def test_the_pairs_are_those_of_all_comparisons(monkeypatch, distance, wanted):
    monkeypatch.setattr(hamming, "PAIRS", 500)
    monkeypatch.setattr(hamming, "choose_bands", lambda near, _: choose_bands(near, wanted))  # as of so many hashes
    one, other = some_hashes(150, 1), some_hashes(90, 2)
    assert found(one, one, distance) == all_pairs(one, one, distance)
    assert found(one, other, distance) == all_pairs(one, other, distance)
    assert found(one, one[:0], distance) == []


def test_differences_at_the_limit_in_every_band():
    draw = np.random.default_rng(5)
    for distance in (1, 4, 12):
        bands = choose_bands(distance, 10**6)
        assert len(bands) > 1 and sum(band.flips + 1 for band in bands) == distance + 1
        assert sum(band.bits for band in bands) == 64
        for _ in range(30):
            places = draw.choice(64, distance + 1, replace=False).tolist()
            near, far = (sum(1 << place for place in places[:count]) for count in (distance, distance + 1))
            hashes = np.array([0, near, far], dtype=np.uint64)
            assert (0, 1) in found(hashes, hashes, distance) and (0, 2) not in found(hashes, hashes, distance)


def test_many_hashes_are_compared_with_few():
    bands = choose_bands(12, 10**6)
    assert sum(band.cost(10**6) for band in bands) < 10**6 / 20
    assert [band.bits for band in choose_bands(12, 50)] == [0]
