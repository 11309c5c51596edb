"""All pairs of 64-bit hashes within a Hamming distance, without looking at all pairs.

The bits are cut into bands. Hashes that differ in at most `distance` bits differ, in one band at least, in few: were it
more than t_i bits in each band i, they would differ in the sum of all t_i + 1, which is chosen to be distance + 1 (the
pigeonhole principle; Norouzi, Punjani, Fleet 2012, "Fast Search in Hamming Space with Multi-Index Hashing"). So each
hash is compared only with those of which one band is within t_i flipped bits of its own. That is exact, and takes for
10^6 hashes at a distance of 12 about a fiftieth of all comparisons.

Shapes: N hashes, P pairs, K keys of a band.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np
from numpy.typing import NDArray

BITS = 64
MOST_BANDS = 8
MOST_KEY_BITS = 20
PAIRS = 1 << 20  # compared at once
LOOKUP = 3  # a key looked up costs as much as so many comparisons
Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Band:
    """Some neighbouring bits, and in how many of them hashes may differ to be compared; -1: it is not looked at."""

    shift: int
    bits: int
    flips: int

    @property
    def mask(self) -> int:
        return (1 << self.bits) - 1 << self.shift

    def keys(self, hashes_N: Hashes) -> Places:
        """The band's bits of each hash."""
        return (hashes_N >> np.uint64(self.shift) & np.uint64((1 << self.bits) - 1)).astype(np.int64)

    def flipped(self) -> Iterator[int]:
        """Every number with at most `flips` bits."""
        for count in range(self.flips + 1):
            for places in combinations(range(self.bits), count):
                yield sum(1 << place for place in places)

    def cost(self, hashes: int) -> float:
        """Comparisons per hash that looking at this band takes, of hashes that are spread evenly."""
        lookups = sum(comb(self.bits, count) for count in range(self.flips + 1))
        return lookups * (LOOKUP + hashes / (1 << self.bits))


def choose_bands(distance: int, hashes: int) -> list[Band]:
    """The bands that need the fewest comparisons; one band of no bits, with which all are compared, for few hashes."""
    best, least = [Band(0, 0, 0)], float(hashes)
    for count in range(2, MOST_BANDS + 1):
        edges = [BITS * number // count for number in range(count + 1)]
        flips, more = divmod(distance + 1, count)  # the sum of flips + 1
        if edges[1] + 1 > MOST_KEY_BITS:
            continue
        bands = [
            Band(edge, end - edge, flips - 1 + (number >= count - more))
            for number, (edge, end) in enumerate(pairwise(edges))
        ]
        cost = sum(band.cost(hashes) for band in bands)
        if cost < least:
            best, least = bands, cost
    return best


def near_pairs(left_N: Hashes, right_N: Hashes, distance: int) -> Iterator[tuple[Places, Places]]:
    """(left_P, right_P): numbers of the hashes that differ in at most `distance` bits, some pairs at a time.

    Where both are the same array, each pair is given once, and none of a hash with itself.
    """
    same = left_N is right_N
    bands = choose_bands(distance, len(right_N))
    for number, band in enumerate(bands):
        if band.flips < 0:
            continue
        keys_N = band.keys(left_N)
        key_of_right = band.keys(right_N)
        order = np.argsort(key_of_right, kind="stable")
        sorted_N = right_N[order]
        starts_K = np.searchsorted(key_of_right[order], np.arange((1 << band.bits) + 1))
        for flip in band.flipped():
            asked = np.arange(len(left_N))
            if same and flip:  # the other half of the pairs comes from the other side
                asked = np.flatnonzero(keys_N < keys_N ^ flip)
            for ones, places in _in_buckets(asked, keys_N[asked] ^ flip, starts_K):
                differ = left_N[ones] ^ sorted_N[places]
                near = np.bitwise_count(differ) <= distance
                ones, others, differ = ones[near], order[places[near]], differ[near]
                new = np.ones(len(ones), dtype=np.bool_)
                for before in bands[:number]:  # a pair that an earlier band has given
                    new &= np.bitwise_count(differ & np.uint64(before.mask)) > before.flips
                if same and not flip:
                    new &= ones < others
                if new.any():
                    yield ones[new], others[new]


def _in_buckets(asked: Places, keys: Places, starts_K: Places) -> Iterator[tuple[Places, Places]]:
    """(who asks, place): each of `asked` with every place of its key's bucket, about PAIRS of them at a time."""
    firsts, sizes = starts_K[keys], starts_K[keys + 1] - starts_K[keys]
    there = np.flatnonzero(sizes)
    asked, firsts, sizes = asked[there], firsts[there], sizes[there]
    ends = np.cumsum(sizes)
    begin = 0
    while begin < len(asked):
        done = int(ends[begin - 1]) if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, done + PAIRS, side="right")))
        part = slice(begin, stop)
        offsets = firsts[part] - (ends[part] - sizes[part] - done)
        yield np.repeat(asked[part], sizes[part]), np.repeat(offsets, sizes[part]) + np.arange(ends[stop - 1] - done)
        begin = stop
