"""The step `quality`: raw text is kept the more likely the more it looks like text that people chose.

GPT-3's recipe (Brown et al. 2020, appendix A): a logistic regression on hashed words tells curated documents from raw
ones, and a raw document is kept if a Pareto number exceeds one minus its score, so that some unlikely ones stay:

    keep  <=>  np.random.pareto(9) > 1 - score

A raw document is judged by a classifier that has not learnt from it: there are two, each learns from half of the raw
text and judges the other half. One that had seen the document as an example of raw text would say so; on a crawl that
hardly matters, on a folder it would drop nearly everything.

Shapes: D documents, F features (buckets of hashed words).
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from athanor.base.errors import AthanorError
from athanor.base.files import hash_bytes
from athanor.base.progress import Progress
from athanor.base.settings import Settings
from athanor.data.copies.overlap import IDEOGRAPHS
from athanor.data.document import Document
from athanor.data.funnel import Funnel
from athanor.data.shards import ShardWriter, read_shards
from athanor.store.artifact import Artifact

MEGA = 1e6
WORDS = re.compile(rf"[{IDEOGRAPHS}]{{1,2}}|[^\W\d_{IDEOGRAPHS}]+|\d+|[^\w\s]")
MODEL = "quality.npy"
FOLDS = 2
Floats = NDArray[np.float64]
Row = tuple[NDArray[np.int64], Floats]  # buckets of a document and their weights


class QualitySettings(Settings):
    """How the classifier learns and how strict it is."""

    alpha: float = Field(default=9.0, gt=0)
    """Of the Pareto distribution; GPT-3 took 9. Larger is stricter."""
    features: int = Field(default=1 << 18, ge=1_024)
    """Buckets that words are hashed to."""
    epochs: int = Field(default=10, ge=1)
    learning_rate: float = Field(default=0.5, gt=0)
    penalty: float = Field(default=1e-6, ge=0)
    """Shrinks the weights (L2)."""
    most_documents: int = Field(default=50_000, ge=10)
    """Of each kind, to learn from."""
    heldout_share: float = Field(default=0.1, gt=0, lt=1)
    """Of both kinds, kept apart to measure the classifier."""
    seed: int = Field(default=1, ge=0)


def features(text: str, buckets: int) -> Row:
    """Hashed words of a text with their logarithmic counts, of length 1."""
    counts: dict[int, int] = {}
    for word in WORDS.findall(text.lower()):
        bucket = bucket_of(word, buckets)
        counts[bucket] = counts.get(bucket, 0) + 1
    places = np.fromiter(counts, dtype=np.int64, count=len(counts))
    values = np.log1p(np.fromiter(counts.values(), dtype=np.float64, count=len(counts)))
    return places, values / max(float(np.sqrt((values**2).sum())), 1e-12)


@lru_cache(maxsize=1_000_000)
def bucket_of(word: str, buckets: int) -> int:
    """The bucket of a word, the same on every machine."""
    return int(hash_bytes(word.encode())[:15], 16) % buckets


class Classifier:
    """Logistic regression: how likely a document is a curated one."""

    def __init__(self, weights_F: Floats, bias: float):
        self.weights_F, self.bias = weights_F, bias

    def score(self, row: Row) -> float:
        """Probability that the document is curated."""
        places, values = row
        return float(1 / (1 + np.exp(-(self.weights_F[places] @ values + self.bias))))

    @classmethod
    def learn(cls, rows: list[Row], curated_D: NDArray[np.bool_], settings: QualitySettings) -> "Classifier":
        """Stochastic gradient descent on the cross-entropy, both kinds weighing the same (AdaGrad, Duchi 2011)."""
        weights_F, squares_F = np.zeros(settings.features), np.full(settings.features, 1e-8)
        bias, bias_square = 0.0, 1e-8
        share = float(curated_D.mean())
        importance = np.where(curated_D, 0.5 / share, 0.5 / (1 - share))
        random = np.random.default_rng(settings.seed)
        for _ in range(settings.epochs):
            for number in random.permutation(len(rows)):
                places, values = rows[number]
                chance = 1 / (1 + np.exp(-(weights_F[places] @ values + bias)))
                slope = float(importance[number]) * (chance - float(curated_D[number]))
                gradient = slope * values + settings.penalty * weights_F[places]
                squares_F[places] += gradient**2
                weights_F[places] -= settings.learning_rate * gradient / np.sqrt(squares_F[places])
                bias_square += slope**2
                bias -= settings.learning_rate * slope / bias_square**0.5
        return cls(weights_F, bias)


def area_under_curve(scores_D: Floats, curated_D: NDArray[np.bool_]) -> float:
    """Share of pairs of a curated and a raw document in which the curated one scores higher; ties count half."""
    ranks_D = np.empty(len(scores_D))
    order = scores_D.argsort(kind="stable")
    _, starts, counts = np.unique(scores_D[order], return_index=True, return_counts=True)
    ranks_D[order] = np.repeat(starts + (counts - 1) / 2, counts)
    curated, raw = int(curated_D.sum()), int((~curated_D).sum())
    return float((ranks_D[curated_D].sum() - curated * (curated - 1) / 2) / (curated * raw))


def keep(score: float, document: Document, settings: QualitySettings) -> bool:
    """Whether a Pareto number, drawn anew for each document from its id, exceeds one minus its score."""
    random = np.random.default_rng([settings.seed, int(document.id, 16) % (1 << 63)])
    return float(random.pareto(settings.alpha)) > 1 - score


def judge_quality(
    settings: QualitySettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write the part of `parents["corpus"]` that is kept, judged against `parents["curated"]`.

    Also writes quality.npy (a row for each classifier: bias, then weights) and funnel.json. Held-out documents are
    never judged.

    Raises:
        AthanorError: a corpus has too few documents to learn from, or nothing is kept.
    """
    corpus, curated = parents["corpus"], parents["curated"]
    progress.start("learning what curated text looks like", None, "")
    classifiers, measured = train_classifiers(settings, curated, corpus)
    np.save(folder / MODEL, np.stack([np.concatenate(([one.bias], one.weights_F)) for one in classifiers]))
    progress.start("quality", total=corpus.measurements.get("text_bytes", 0) / MEGA or None, unit="MB")
    funnel = Funnel("quality")
    stage, scores = funnel["quality"], []
    with ShardWriter(folder, "train") as train, ShardWriter(folder, "heldout") as heldout:
        for document in read_shards(corpus, "train"):
            progress.advance(document.bytes / MEGA)
            stage.enter(document.bytes)
            scores.append(classifiers[fold_of(document)].score(features(document.text, settings.features)))
            if keep(scores[-1], document, settings):
                stage.leave(document.bytes)
                train.write(document)
            else:
                stage.drop("unlike the curated text (alpha)", document.bytes, document.source, document.text)
        for document in read_shards(corpus, "heldout"):
            heldout.write(document)
    progress.finish(kept=train.documents)
    funnel.write(folder)
    if not train.documents:
        raise AthanorError("no document is like the curated text", fix="a smaller alpha, or other curated documents")
    tenths = np.quantile(scores, np.arange(0.1, 1.0, 0.1)).round(4).tolist()
    return {
        **measured, "scores_by_tenth": tenths, "documents": train.documents, "text_bytes": train.bytes,
        "heldout_documents": heldout.documents, "heldout_bytes": heldout.bytes,
        "languages": corpus.measurements.get("languages", {}),
    }  # fmt: skip


def fold_of(document: Document) -> int:
    """Which classifier judges a document."""
    return int(document.id, 16) % FOLDS


def train_classifiers(
    settings: QualitySettings, curated: Artifact, corpus: Artifact
) -> tuple[list[Classifier], dict[str, float]]:
    """A classifier for each fold, and how well they tell apart what they did not learn from."""
    rows: list[Row] = []
    kinds: list[bool] = []
    folds: list[int] = []
    for artifact, kind in ((curated, True), (corpus, False)):
        for document in some_of(artifact, settings.most_documents):
            rows.append(features(document.text, settings.features))
            kinds.append(kind)
            folds.append(fold_of(document))
    curated_D, fold_D = np.array(kinds), np.array(folds)
    if min(int(curated_D.sum()), int((~curated_D).sum())) < 10:
        raise AthanorError(
            f"{int(curated_D.sum())} curated and {int((~curated_D).sum())} raw documents", allowed="at least 10 of each"
        )
    apart_D = np.random.default_rng([settings.seed, 1]).random(len(rows)) < settings.heldout_share
    apart_D[[0, -1]] = True  # one of each kind at least
    learnt = []
    for fold in range(FOLDS):
        chosen_D = ~apart_D & (curated_D | (fold_D != fold))
        if not (chosen_D & ~curated_D).any() or not (chosen_D & curated_D).any():
            raise AthanorError("the raw documents cannot be halved", fix="more of them, or another seed")
        learnt.append(Classifier.learn([rows[n] for n in np.flatnonzero(chosen_D)], curated_D[chosen_D], settings))
    scores = np.array([learnt[fold_D[number]].score(rows[number]) for number in np.flatnonzero(apart_D)])
    return learnt, {"area_under_curve": round(area_under_curve(scores, curated_D[apart_D]), 4)}


def some_of(artifact: Artifact, most: int) -> Iterator[Document]:
    """At most so many training documents, evenly spread."""
    step = max(1, artifact.measurements.get("documents", 0) // most)
    for number, document in enumerate(read_shards(artifact, "train")):
        if number % step == 0:
            yield document
