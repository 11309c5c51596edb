"""Semantic copies against planted truth: other words with the same meaning, and vectors at known angles."""

import random

import numpy as np
import pytest

from athanor.base.errors import AthanorError
from athanor.data.copies.semantic import SemanticSettings, find_semantic_copies, spherical_kmeans

SAME = [("big", "large"), ("car", "automobile"), ("buys", "purchases"), ("quick", "fast"), ("house", "home"),
        ("begins", "starts"), ("文档", "文件"), ("child", "kid")]  # fmt: skip
MEANING = {word: number for number, words in enumerate(SAME) for word in words}


def meanings(texts):
    """Embeds a text as the sum of random directions, one for each meaning of a word."""
    vectors = []
    for text in texts:
        parts = [
            np.random.default_rng(MEANING.get(word, sum(map(ord, word)) * 31 + len(word))) for word in text.split()
        ]
        vectors.append(sum(part.normal(size=96) for part in parts))
    return np.stack(vectors)


def paraphrase(text):
    swap = {one: other for pair in SAME for one, other in (pair, pair[::-1])}
    return " ".join(swap.get(word, word) for word in text.split())


def test_planted_paraphrases_are_found_and_nothing_else():
    draw = random.Random(4)
    words = [*MEANING, *(f"word{number}" for number in range(400))]
    texts = [" ".join(draw.choices(words, k=12)) for _ in range(600)]
    assert sum(paraphrase(text) != text for text in texts[::5]) > 20
    everything = [*texts, *(paraphrase(text) for text in texts[::5])]
    numbers = {600 + place: n for place, n in enumerate(range(0, 600, 5))}
    copies = find_semantic_copies(everything, meanings, SemanticSettings(threshold=0.98, clusters=6, keep="first"))
    assert {copy.removed: copy.kept for copy in copies} == numbers
    assert all(copy.similarity > 0.999 for copy in copies)
    assert not find_semantic_copies(texts, meanings, SemanticSettings(threshold=0.98, clusters=6))


def vectors_with_copies(count, copies, noise, seed=0):
    """Documents in groups, and copies of some at a cosine of about 1 / sqrt(1 + noise^2)."""
    draw = np.random.default_rng(seed)
    groups = draw.normal(size=(20, 64)) * 2
    first = groups[draw.integers(20, size=count)] + draw.normal(size=(count, 64))
    chosen = draw.choice(count, copies, replace=False)
    lengths = np.linalg.norm(first[chosen], axis=1, keepdims=True)
    return np.concatenate([first, first[chosen] + draw.normal(size=(copies, 64)) / 8 * lengths * noise]), chosen


@pytest.mark.parametrize("keep", ["far", "near", "first"])
def test_every_removal_is_above_the_threshold_and_what_is_kept_stays(keep):
    vectors, chosen = vectors_with_copies(3_000, 400, 0.15)
    texts = [str(number) for number in range(len(vectors))]
    settings = SemanticSettings(threshold=0.97, keep=keep, clusters=12)
    copies = find_semantic_copies(texts, lambda some: vectors[[int(text) for text in some]], settings)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    gone = {copy.removed for copy in copies}
    for copy in copies:
        assert copy.kept not in gone and copy.similarity == pytest.approx(
            units[copy.removed] @ units[copy.kept], abs=1e-5
        )
        assert copy.similarity >= 0.97 - 1e-5
    similar = [(n, 3_000 + place) for place, n in enumerate(chosen) if units[n] @ units[3_000 + place] >= 0.97]
    found = sum(one in gone or other in gone for one, other in similar)
    assert len(similar) > 350 and found >= 0.97 * len(similar)  # a pair is missed where clusters part it
    if keep == "first":
        assert all(copy.kept < copy.removed for copy in copies)


def test_one_cluster_finds_what_comparing_all_pairs_finds():
    vectors, _ = vectors_with_copies(300, 60, 0.2, seed=3)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    copies = find_semantic_copies(map(str, range(360)), lambda some: vectors[[int(n) for n in some]],
                                  SemanticSettings(threshold=0.95, clusters=1, keep="first", batch=7))  # fmt: skip
    stays, expected = [], set()
    for number in range(360):
        if any(units[number] @ units[other] >= 0.95 for other in stays):
            expected.add(number)
        else:
            stays.append(number)
    assert {copy.removed for copy in copies} == expected and len(expected) > 40


def test_k_means_finds_planted_groups_and_the_same_ones_every_time():
    draw = np.random.default_rng(2)
    truth = np.repeat(np.arange(5), 40)
    points = (draw.normal(size=(5, 32))[truth] * 5 + draw.normal(size=(200, 32))).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    found, centres = spherical_kmeans(points, 5, 20, seed=1)
    assert len({(a, b) for a, b in zip(truth, found, strict=True)}) == 5 and len(set(found)) == 5
    assert (spherical_kmeans(points, 5, 20, seed=1)[0] == found).all()
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)


def test_embeddings_that_are_none_are_refused():
    for wrong in (np.zeros((1, 4)), np.zeros(2), np.full((2, 4), np.nan)):
        with pytest.raises(AthanorError, match="the embedding of 2 texts"):
            find_semantic_copies(["a", "b"], lambda some, wrong=wrong: wrong, SemanticSettings())
    assert find_semantic_copies([], lambda some: np.zeros((0, 4)), SemanticSettings()) == []
