"""Documents that say the same: cosine similarity of their embeddings, within clusters (SemDeDup, Abbas et al. 2023).

The embeddings come from a callable: a model of the caller's, or any service. K-means cuts the collection into clusters,
and only documents of one cluster are compared, N^2 / K products instead of N^2 (section 3 of the paper). A pair that
falls into two clusters is missed: fewer clusters miss less and cost more.

Shapes: N documents, D numbers of an embedding, K clusters, M documents of one cluster.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from athanor.base.errors import AthanorError
from athanor.base.settings import Settings
from athanor.data.copies.clusters import Copy

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Any]  # texts to (their number, D) numbers
COMPARED = 2_048  # documents compared with a whole cluster at once


class SemanticSettings(Settings):
    """What counts as saying the same."""

    threshold: float = Field(default=0.95, gt=0, le=1)
    """Least cosine similarity of the embeddings of copies."""
    clusters: int | None = Field(default=None, ge=1)
    """Of k-means; unset: one for each 1,000 documents."""
    keep: Literal["far", "near", "first"] = "far"
    """Which of similar documents stays: the one farthest from the middle of its cluster, the rarest (SemDeDup's
    choice), the nearest, or the first."""
    rounds: int = Field(default=20, ge=1)
    """Most rounds of k-means."""
    batch: int = Field(default=256, ge=1)
    """Texts embedded at once."""
    seed: int = Field(default=1, ge=0)


def find_semantic_copies(texts: Iterable[str], embed: Embed, settings: SemanticSettings) -> list[Copy]:
    """Which texts to remove, each for the sake of one that stays and is at least as similar as the threshold.

    Memory: 4 D bytes per text, and 8,192 per document of the largest cluster.

    Raises:
        AthanorError: the embeddings are no numbers, or not as many as the texts.
    """
    waiting = iter(texts)
    parts = [_embedded(some, embed) for some in iter(lambda: list(islice(waiting, settings.batch)), [])]
    if not parts:
        return []
    units_ND = np.concatenate(parts)
    count = settings.clusters or -(-len(units_ND) // 1_000)
    cluster_N, centres_KD = spherical_kmeans(units_ND, min(count, len(units_ND)), settings.rounds, settings.seed)
    copies: list[Copy] = []
    for cluster in range(len(centres_KD)):
        members_M = np.flatnonzero(cluster_N == cluster)
        order_M = members_M[_order(units_ND[members_M] @ centres_KD[cluster], settings.keep)]
        copies += _copies_among(units_ND, order_M, settings.threshold)
    return sorted(copies, key=lambda copy: copy.removed)


def _embedded(texts: list[str], embed: Embed) -> Vectors:
    """units_ND: embeddings of length 1."""
    vectors = np.asarray(embed(texts), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
        raise AthanorError(
            f"the embedding of {len(texts)} texts has the shape {vectors.shape}"
            + ("" if np.isfinite(vectors).all() else " and holds what is no number"),
            allowed=f"({len(texts)}, D) finite numbers",
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: Vectors = vectors / np.maximum(lengths, 1e-12)
    return units


def spherical_kmeans(units_ND: Vectors, count: int, rounds: int, seed: int) -> tuple[NDArray[np.int64], Vectors]:
    """(cluster_N, centres_KD): k-means by cosine (Dhillon and Modha 2001), begun as k-means++ would (Arthur 2007).

    A cluster that loses all its documents keeps its centre.
    """
    draw = np.random.default_rng(seed)
    centres_KD = _first_centres(units_ND, count, draw)
    cluster_N = np.full(len(units_ND), -1, dtype=np.int64)
    for _ in range(rounds):
        nearest_N = np.concatenate([
            (units_ND[begin : begin + COMPARED] @ centres_KD.T).argmax(axis=1)
            for begin in range(0, len(units_ND), COMPARED)
        ])  # fmt: skip
        if (nearest_N == cluster_N).all():
            break
        cluster_N = nearest_N
        sums_KD = np.zeros_like(centres_KD)
        np.add.at(sums_KD, cluster_N, units_ND)
        lengths_K1 = np.linalg.norm(sums_KD, axis=1, keepdims=True)
        centres_KD = np.where(lengths_K1 > 0, sums_KD / np.maximum(lengths_K1, 1e-12), centres_KD)
    return cluster_N, centres_KD


def _first_centres(units_ND: Vectors, count: int, draw: np.random.Generator) -> Vectors:
    """Documents far from one another: each is drawn with a chance in proportion to 1 - cosine to the nearest so far."""
    chosen = [int(draw.integers(len(units_ND)))]
    distance_N = np.maximum(1 - units_ND @ units_ND[chosen[0]], 0)
    while len(chosen) < count:
        total = float(distance_N.sum())
        chances = distance_N / total if total > 0 else None
        chosen.append(int(draw.choice(len(units_ND), p=chances)))
        distance_N = np.minimum(distance_N, np.maximum(1 - units_ND @ units_ND[chosen[-1]], 0))
    return units_ND[chosen]


def _order(cosines_M: NDArray[Any], keep: str) -> NDArray[np.int64]:
    """The members of a cluster, those that stay first."""
    if keep == "first":
        return np.arange(len(cosines_M))
    return np.argsort(cosines_M if keep == "far" else -cosines_M, kind="stable")


def _copies_among(units_ND: Vectors, order_M: NDArray[np.int64], threshold: float) -> list[Copy]:
    """Each document in order stays, unless it is similar to one that stays: then that one is kept for it."""
    copies: list[Copy] = []
    stays_M = np.ones(len(order_M), dtype=bool)
    members_MD = units_ND[order_M]
    for begin in range(0, len(order_M), COMPARED):
        block_BM = members_MD[begin : begin + COMPARED] @ members_MD.T
        for place in range(begin, min(begin + COMPARED, len(order_M))):
            alike = np.where(stays_M[:place], block_BM[place - begin, :place], -1.0)
            if len(alike) and float(alike.max()) >= threshold - 1e-6:
                best = int(alike.argmax())
                stays_M[place] = False
                copies.append(Copy(int(order_M[place]), int(order_M[best]), float(min(alike[best], 1.0))))
    return copies
