"""Fine-tuning for classes, numbers and choices in GPT-1's four input forms (Radford et al. 2018, sections 3.2 and 3.3).

    L2 = -sum over examples of log p(y | x_1 … x_m)     p = softmax(h_m W_y), h_m the last token's vector
    L3 = L2 + lambda L1                                 L1: the language model's loss on the same text, lambda 0.5

A text becomes a row of tokens, called a reading here: start, text, extract; two texts are parted by a delimiter.
Two texts to compare have no order, so both orders are read and the two last vectors are added: the result is the same
whichever comes first, by construction. Of a choice, every ending is read behind the beginning, and a softmax over the
endings decides. A number instead of a class is learnt by its squared error (the published code has it so for STS-B).

Shapes: R readings, T positions, E examples, C classes, D width.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athanor.data.examples import Example, Form
from athanor.data.packing.batches import IGNORED
from athanor.models.classified import Classifier
from athanor.training.objective import Loss

AUXILIARY = 0.5  # lambda


class Signs(NamedTuple):
    """Ids of the tokens that stand around the texts, and of padding."""

    start: int
    delimiter: int
    extract: int
    pad: int


class ReadingBatch(NamedTuple):
    """Readings of examples, those of one example next to each other.

    Attributes:
        ids_RT: padded at the right.
        targets_RT: the token after each; -100 at the end and in padding.
        ends_R: position of each reading's last token.
        example_R: number of the example each belongs to.
        labels_E: class or right ending (int64), or a number (float32).
    """

    ids_RT: Tensor
    targets_RT: Tensor
    ends_R: Tensor
    example_R: Tensor
    labels_E: Tensor


Encode = Callable[[str], list[int]]


def readings(form: Form, example: Example, encode: Encode, signs: Signs) -> list[list[int]]:
    """The rows of tokens that an example is read as (section 3.3, figure 1)."""

    def joined(*texts: str) -> list[int]:
        ids = [signs.start]
        for text in texts:
            ids += [*encode(text), signs.delimiter]
        return [*ids[:-1], signs.extract]

    if form == "classification":
        return [joined(example.text)]
    if form == "choice":
        return [joined(example.text, ending) for ending in example.choices]
    assert example.second is not None
    if form == "entailment":
        return [joined(example.text, example.second)]
    return [joined(example.text, example.second), joined(example.second, example.text)]


def batch_of(
    rows: Sequence[Sequence[Sequence[int]]], labels: Sequence[int | float], signs: Signs, device: torch.device
) -> ReadingBatch:
    """The readings of several examples side by side."""
    flat = [reading for example in rows for reading in example]
    length = max(map(len, flat))
    ids_RT = np.full((len(flat), length), signs.pad, dtype=np.int64)
    targets_RT = np.full((len(flat), length), IGNORED, dtype=np.int64)
    for row, reading in enumerate(flat):
        ids_RT[row, : len(reading)] = reading
        targets_RT[row, : len(reading) - 1] = reading[1:]
    ends_R = np.array([len(reading) - 1 for reading in flat])
    example_R = np.repeat(np.arange(len(rows)), [len(example) for example in rows])
    kind = np.float32 if isinstance(labels[0], float) else np.int64
    arrays = (ids_RT, targets_RT, ends_R, example_R, np.array(labels, dtype=kind))
    return ReadingBatch(*(torch.from_numpy(array).to(device) for array in arrays))


def judge(model: Classifier, form: Form, hidden_RTD: Tensor, batch: ReadingBatch) -> Tensor:
    """Scores float32 (E, C): of the classes; of the endings, minus infinity where an example has fewer; or a number."""
    last_RD = model.last(hidden_RTD, batch.ends_R)
    examples = len(batch.labels_E)
    if form != "choice":  # one reading, or the sum of both orders
        sum_ED = last_RD.new_zeros(examples, last_RD.shape[1]).index_add(0, batch.example_R, last_RD)
        return model.score(sum_ED).float()
    score_R = model.score(last_RD).float().squeeze(1)
    count_E = torch.bincount(batch.example_R, minlength=examples)
    place_R = torch.arange(len(score_R), device=score_R.device) - (count_E.cumsum(0) - count_E)[batch.example_R]
    scores_EC = score_R.new_full((examples, int(count_E.max())), float("-inf"))
    return scores_EC.index_put((batch.example_R, place_R), score_R)


def classification_loss(
    form: Form, auxiliary: float = AUXILIARY, z_loss: float = 0.0
) -> Callable[[nn.Module, ReadingBatch], Loss]:
    """L3 of a `Classifier`, counted in examples.

    Args:
        auxiliary: lambda, the share of the language model's loss: a mean over the tokens of a reading, and over the
            readings of an example, as in the published code.
        z_loss: of the language model's scores, see `kernels.linear_cross_entropy`.
    """

    def loss(model: nn.Module, batch: ReadingBatch) -> Loss:
        assert isinstance(model, Classifier)
        hidden_RTD = model.language.hidden(batch.ids_RT)
        scores_EC = judge(model, form, hidden_RTD, batch)
        if batch.labels_E.is_floating_point():
            task = F.mse_loss(scores_EC.squeeze(1), batch.labels_E, reduction="sum")
        else:
            task = F.cross_entropy(scores_EC, batch.labels_E, reduction="sum")
        count = torch.tensor(len(batch.labels_E), device=task.device)
        if not auxiliary:
            return Loss(task, count)
        language = language_loss(model, hidden_RTD, batch, z_loss)
        parts = {"task": (task.detach(), count), "language": (language.detach(), count)}
        return Loss(task + auxiliary * language, count, parts)

    return loss


def language_loss(model: Classifier, hidden_RTD: Tensor, batch: ReadingBatch, z_loss: float = 0.0) -> Tensor:
    """L1: each example's mean over its readings of the mean loss of a token; summed over the examples.

    A token counts 1 / (tokens of its reading, times readings of its example), so readings of equal weight are scored
    together: the head is the largest product of the model.
    """
    lengths_R = (batch.targets_RT != IGNORED).sum(1)
    readings_E = torch.bincount(batch.example_R, minlength=len(batch.labels_E))
    weight_R = 1 / (lengths_R * readings_E[batch.example_R])
    total = hidden_RTD.new_zeros((), dtype=torch.float32)
    for weight in weight_R.unique():
        rows_R = weight_R == weight
        total = total + weight * model.language.score(hidden_RTD[rows_R], batch.targets_RT[rows_R], z_loss).total
    return total
