"""From candidates to removals: each copy is removed for the sake of one document that stays, compared exactly.

Documents have ranks: the better one stays. A document whose candidates of better rank are all decided, and to none of
which that stays it is similar, stays; one similar to a document that stays is removed. So nothing is removed for a
document that is itself removed, and no chain of similar pairs removes anything. The outcome depends on the documents
and their ranks alone, never on how they were batched.

Shapes: E entries (a document in a band it shares with others), N pairs, R runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from athanor.data.copies.byteshingles import SHINGLE_BITS
from athanor.data.copies.minhash import LEAST_SHARED, drop_rare
from athanor.data.copies.shingles import Hashes, Places

PAIR_RUNS = 200_000  # runs compared at once: what fits in the cache
Similarities = NDArray[np.float64]


class Sets(Protocol):
    """Sets of runs by number."""

    def __getitem__(self, number: int, /) -> Hashes: ...


@dataclass(frozen=True, slots=True)
class Copy:
    """One removed document: its number, the document that stays for it, and their exact Jaccard similarity."""

    removed: int
    kept: int
    similarity: float


def similarities(left_N: Places, right_N: Places, sets: Sets, least: float) -> Similarities:
    """The exact Jaccard similarity of each pair of sets of runs; 0 for pairs whose sizes alone forbid `least`.

    Args:
        left_N, right_N: numbers of the documents.
        sets: by number, sorted and without repetitions, numbers below 2^52.
        least: the similarity that matters.
    """
    sizes_L = np.array([len(sets[number]) for number in left_N.tolist()], dtype=np.int64)
    sizes_R = np.array([len(sets[number]) for number in right_N.tolist()], dtype=np.int64)
    found = np.zeros(len(left_N))
    possible = np.flatnonzero(np.minimum(sizes_L, sizes_R) >= least * np.maximum(sizes_L, sizes_R) * (1 - 1e-9))
    total = np.cumsum((sizes_L + sizes_R)[possible])
    start = 0
    while start < len(possible):
        so_far = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, so_far + PAIR_RUNS)))
        part = possible[start : min(stop, start + (1 << (64 - SHINGLE_BITS)))]
        shared = _count_shared([(sets[left_N[pair]], sets[right_N[pair]]) for pair in part])
        union = sizes_L[part] + sizes_R[part] - shared
        found[part] = np.where(union > 0, shared / np.maximum(union, 1), 0.0)
        start += len(part)
    return found


def _count_shared(pairs: list[tuple[Hashes, Hashes]]) -> Places:
    """How many numbers the two sets of each pair have in common."""
    keys_R = np.concatenate([part for pair in pairs for part in pair])
    sizes = np.array([len(left) + len(right) for left, right in pairs])
    keys_R |= np.repeat(np.arange(len(pairs), dtype=np.uint64) << np.uint64(SHINGLE_BITS), sizes)
    keys_R.sort()
    twice = keys_R[1:][keys_R[1:] == keys_R[:-1]] >> np.uint64(SHINGLE_BITS)
    return np.bincount(twice.astype(np.int64), minlength=len(pairs))


def decide(
    group_E: Places, rank_E: Places, compare: Callable[[Places, Places], Similarities], threshold: float
) -> list[Copy]:
    """Which ranks are removed, for which rank that stays; both in terms of ranks, in order of the removed one.

    Args:
        group_E, rank_E: of `shared_bands`, sorted by group and then rank.
        compare: exact similarities of pairs of ranks.
        threshold: the least Jaccard similarity of a copy.
    """
    names, member_E = np.unique(rank_E, return_inverse=True)
    copies: list[Copy] = []
    while len(member_E):
        begins_E = np.ones(len(member_E), dtype=np.bool_)
        begins_E[1:] = group_E[1:] != group_E[:-1]
        heads_E = member_E[np.flatnonzero(begins_E)[np.cumsum(begins_E) - 1]]
        never_second = np.ones(len(names), dtype=np.bool_)
        never_second[member_E[~begins_E]] = False
        stays_E = never_second[heads_E]  # the group's best has no candidate before it in any group
        pair_E = (heads_E * len(names) + member_E)[stays_E & ~begins_E]
        pairs, shared = np.unique(pair_E, return_counts=True)  # all bands they share: the kept one heads all its groups
        pairs = pairs[shared >= LEAST_SHARED]
        kept, others = pairs // len(names), pairs % len(names)
        found = compare(names[kept], names[others])
        gone = np.zeros(len(names), dtype=np.bool_)
        order = np.lexsort((kept, -found, others))  # each other: its most similar kept one first, of equals the better
        for place in order[found[order] >= threshold].tolist():
            if not gone[others[place]]:
                gone[others[place]] = True
                copies.append(Copy(int(names[others[place]]), int(names[kept[place]]), float(found[place])))
        left_E = ~gone[member_E] & ~(begins_E & stays_E)
        group_E, member_E = drop_rare(group_E[left_E], member_E[left_E])
    return sorted(copies, key=lambda copy: copy.removed)
