"""How right a network is on held-out examples: accuracy and F1 of classes, correlations of numbers."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from athanor.data.examples import Example, Task


def figures_of(task: Task, examples: Sequence[Example], told: Sequence[Sequence[float]]) -> Mapping[str, float]:
    """The figures of a task: of GLUE's for its form (Wang et al. 2018, table 1).

    Args:
        told: the scores of every example.
    """
    if task.form != "choice" and not task.labels:
        true, said = [float(example.label or 0) for example in examples], [scores[0] for scores in told]
        return {"pearson": correlation(true, said), "spearman": correlation(ranks(true), ranks(said))}
    best = [max(range(len(scores)), key=scores.__getitem__) for scores in told]
    if task.form == "choice":
        right = [example.label == one for example, one in zip(examples, best, strict=True)]
        chance = float(np.mean([1 / len(example.choices) for example in examples]))
        return {"accuracy": float(np.mean(right)), "chance": chance}
    true_classes = [task.labels.index(str(example.label)) for example in examples]
    share = max(true_classes.count(one) for one in set(true_classes)) / len(true_classes)
    return {
        "accuracy": float(np.mean(np.array(true_classes) == np.array(best))),
        "most_frequent_class": share,
        "macro_f1": macro_f1(true_classes, best),
    }


def macro_f1(true: Sequence[int], said: Sequence[int]) -> float:
    """The mean over all classes of the harmonic mean of precision and recall."""
    scores = []
    for one in sorted({*true, *said}):
        both = sum(a == one and b == one for a, b in zip(true, said, strict=True))
        scores.append(2 * both / (sum(a == one for a in true) + sum(b == one for b in said)))
    return float(np.mean(scores))


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Pearson's; 0 where one side never changes."""
    a, b = np.array(one) - np.mean(one), np.array(other) - np.mean(other)
    size = math.sqrt(float((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0


def ranks(numbers: Sequence[float]) -> list[float]:
    """Places in order, from 1; equal numbers share the mean of theirs."""
    values = np.array(numbers)
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((2 * ends - counts + 1) / 2)[group].tolist()
