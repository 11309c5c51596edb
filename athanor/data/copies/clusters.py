"""From candidates to removals: each copy is removed for the sake of one document that stays, compared exactly.

Documents have ranks: the better one stays. A document whose candidates of better rank are all decided, and to none of
which that stays it is similar, stays; one similar to a document that stays is removed. So nothing is removed for a
document that is itself removed, and no chain of similar pairs removes anything. The outcome depends on the documents
and their ranks alone, never on how they were batched.

Shapes: E entries (a document in a band it shares with others), N pairs, R runs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from athanor.data.copies.byteshingles import SHINGLE_BITS
from athanor.data.copies.minhash import LEAST_SHARED, drop_rare
from athanor.data.copies.shingles import Hashes, Numbers, Places

PAIR_RUNS = 200_000  # runs compared at once: what fits in the cache
Similarities = NDArray[np.float64]
CountShared = Callable[[Places, Places], Places]


@dataclass(frozen=True, slots=True)
class Copy:
    """One removed document: its number, the document that stays for it, and their exact Jaccard similarity."""

    removed: int
    kept: int
    similarity: float


def similarities(
    left_N: Places, right_N: Places, sizes_D: Places, count_shared: CountShared, least: float
) -> Similarities:
    """The exact Jaccard similarity of each pair of sets of runs; 0 for pairs whose sizes alone forbid `least`.

    Args:
        left_N, right_N: numbers of the documents.
        sizes_D: how many runs each document has.
        count_shared: how many of them the documents of each pair share.
        least: the similarity that matters.
    """
    sizes_L, sizes_R = sizes_D[left_N], sizes_D[right_N]
    found = np.zeros(len(left_N))
    possible = np.flatnonzero(np.minimum(sizes_L, sizes_R) >= least * np.maximum(sizes_L, sizes_R) * (1 - 1e-9))
    shared = count_shared(left_N[possible], right_N[possible])
    union = (sizes_L + sizes_R)[possible] - shared
    found[possible] = np.where(union > 0, shared / np.maximum(union, 1), 0.0)
    return found


def count_shared(runs_R: Hashes, starts_D: Places, left_N: Places, right_N: Places) -> Places:
    """How many runs the sets of each pair share, in portions that fit in the cache.

    Args:
        runs_R: the sets one behind the other, each sorted and without repetitions, numbers below 2^52.
        starts_D: set d is runs_R[starts_D[d] : starts_D[d + 1]].
        left_N, right_N: numbers of sets.
    """
    sizes_D = np.diff(starts_D)
    total = np.cumsum(sizes_D[left_N] + sizes_D[right_N])
    found = np.zeros(len(left_N), dtype=np.int64)
    start = 0
    while start < len(left_N):
        so_far = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, so_far + PAIR_RUNS)))
        stop = min(stop, start + (1 << (64 - SHINGLE_BITS)), len(left_N))
        both = np.stack([left_N[start:stop], right_N[start:stop]], axis=1).ravel()
        keys_R = np.concatenate([runs_R[starts_D[number] : starts_D[number + 1]] for number in both])
        pairs = np.repeat(np.arange(len(both), dtype=np.uint64) >> np.uint64(1), sizes_D[both])
        keys_R |= pairs << np.uint64(SHINGLE_BITS)
        keys_R.sort()
        twice = keys_R[1:][keys_R[1:] == keys_R[:-1]] >> np.uint64(SHINGLE_BITS)
        found[start:stop] = np.bincount(twice.astype(np.int64), minlength=stop - start)
        start = stop
    return found


def _shared_often(kept_E: Numbers, other_E: Numbers, members: int) -> Places:
    """The pairs, as kept * members + other, that stand together often enough; each once, in order.

    The kept one heads all groups it is in, so these are all the bands that the two share.
    """
    pair_E = kept_E.astype(np.int64)
    pair_E *= members
    pair_E += other_E
    del kept_E, other_E
    pair_E.sort()
    same = pair_E[LEAST_SHARED - 1 :] == pair_E[: len(pair_E) - LEAST_SHARED + 1]
    pairs = pair_E[: len(same)][same]
    return pairs[np.flatnonzero(np.diff(pairs, prepend=-1))]


def decide(
    group_E: Numbers, rank_E: Numbers, compare: Callable[[Places, Places], Similarities], threshold: float
) -> list[Copy]:
    """Which ranks are removed, for which rank that stays; both in terms of ranks, in order of the removed one.

    Args:
        group_E, rank_E: of `shared_bands`, sorted by group and then rank.
        compare: exact similarities of pairs of ranks.
        threshold: the least Jaccard similarity of a copy.
    """
    is_there = np.zeros(int(rank_E.max(initial=0)) + 1, dtype=np.bool_)
    is_there[rank_E] = True
    names = np.flatnonzero(is_there)
    member_E: Numbers = (np.cumsum(is_there, dtype=np.int32) - 1)[rank_E]
    del rank_E, is_there
    copies: list[Copy] = []
    while len(member_E):
        begins_E = np.ones(len(member_E), dtype=np.bool_)
        np.not_equal(group_E[1:], group_E[:-1], out=begins_E[1:])
        never_second = np.ones(len(names), dtype=np.bool_)
        never_second[member_E[~begins_E]] = False
        starts_G = np.flatnonzero(begins_E)
        head_G, size_G = member_E[starts_G], np.diff(starts_G, append=len(member_E))
        stays_G = never_second[head_G]  # the group's best has no candidate before it in any group
        compared_E = np.repeat(stays_G, size_G)
        gone_E = begins_E & compared_E  # heads that stay: nothing more is asked of them
        compared_E &= ~begins_E
        pairs = _shared_often(np.repeat(head_G[stays_G], size_G[stays_G] - 1), member_E[compared_E], len(names))
        del begins_E, compared_E, starts_G, size_G  # as large as what came in
        kept, others = pairs // len(names), pairs % len(names)
        found = compare(names[kept], names[others])
        gone = np.zeros(len(names), dtype=np.bool_)
        order = np.lexsort((kept, -found, others))  # each other: its most similar kept one first, of equals the better
        for place in order[found[order] >= threshold].tolist():
            if not gone[others[place]]:
                gone[others[place]] = True
                copies.append(Copy(int(names[others[place]]), int(names[kept[place]]), float(found[place])))
        gone_E |= gone[member_E]
        left_E = np.logical_not(gone_E, out=gone_E)
        group_E, member_E = drop_rare(group_E[left_E], member_E[left_E])
    return sorted(copies, key=lambda copy: copy.removed)
