"""The step `classify`: a language model learns to tell classes, numbers or the right ending, by GPT-1's recipe."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.base.records import write_records
from athanor.data.examples import Example, Task, open_examples
from athanor.data.packing.batches import Rows
from athanor.data.packing.pack import document_mark
from athanor.models.classified import Classifier, save_classifier
from athanor.models.convert import load_checkpoint
from athanor.models.extend import extend_vocabulary
from athanor.models.language import LanguageModel
from athanor.models.shapes import flops_per_token
from athanor.store.artifact import RESUME, Artifact
from athanor.tokens.chat import check_vocabulary, special_ids
from athanor.tokens.extend import extend
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.correctness import figures_of
from athanor.training.loop import train
from athanor.training.objective import Objective
from athanor.training.objectives.classification import (
    AUXILIARY,
    ReadingBatch,
    Signs,
    batch_of,
    classification_loss,
    judge,
    readings,
)  # fmt: skip
from athanor.training.settings import LoopSettings
from athanor.training.setup import DTYPES, DtypeName, prepare, summary, write_metrics

DELIMITER, EXTRACT = "<|delimiter|>", "<|extract|>"
JUDGED = "judged.jsonl.zst"  # every held-out example: its id, what is true, and what the network says
AT_ONCE = 32  # examples judged together
Readings = list[list[int]]


class ClassifySettings(LoopSettings):
    """How a classifier learns; `rows` are examples."""

    auxiliary: float = pydantic.Field(default=AUXILIARY, ge=0, le=10)
    """Share of the language model's own loss on the same texts; 0: none."""
    too_long: Literal["refuse", "truncate"] = "refuse"
    """An example longer than the model's context: refuse it, or cut the end of its longest text."""
    context: int | None = pydantic.Field(default=None, ge=16)
    """Most tokens of a reading; unset: as many as the model has positions."""
    dtype: DtypeName = "float32"

    @pydantic.model_validator(mode="after")
    def _has_a_meaning(self) -> "ClassifySettings":
        if self.z_loss and not self.auxiliary:
            raise ValueError("z_loss keeps the language model's scores from drifting: it needs auxiliary above 0")
        if self.prompts:
            raise ValueError(
                "prompts are gone on with by language models, and a classifier writes nothing: leave it out"
            )
        return self


def classify(
    settings: ClassifySettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Fine-tune the parent model on examples; write the classifier, metrics.jsonl and judged.jsonl.zst.

    Raises:
        AthanorError: the examples are of no form to classify, too long, or the tokenizer is another model's.
    """
    base = parents["model"]
    base.verify()
    task, learnt, heldout = open_examples(parents["examples"])
    if task.form == "pair":
        raise AthanorError("examples of the form pair have no classes", fix="`do: translate` learns to write them")
    tokenizer, model = with_signs(Tokenizer.load(base.path), base.path, settings)
    outputs = len(task.labels) or 1
    network = prepare(Classifier(model, outputs).initialise(settings.seed), settings.dtype, settings)
    reader = Reader(task, tokenizer, settings, model.config.max_positions)
    rows, judged = reader.read(learnt), reader.read(heldout)
    if reader.cut:
        progress.note(f"  {reader.cut} examples are longer than {reader.context} tokens: they lose their end")
    order = Rows(len(learnt), settings.rows, settings.seed)
    device = next(network.parameters()).device

    def batch(step: int, rank: int, world: int) -> ReadingBatch:
        return reader.batch(learnt, rows, order.at(step, rank, world).tolist(), device)

    tokens = round(settings.rows * sum(len(one) for each in rows for one in each) / len(rows))
    objective = Objective(
        batch, classification_loss(task.form, settings.auxiliary, settings.z_loss), tokens,
        sources=lambda step: [learnt[number].id for number in order.at(step).tolist()],
        watch=None if settings.watch_every is None else lambda one: look(one, reader, heldout, judged),
        flops=float(tokens * flops_per_token(model.config, max(1, tokens // settings.rows))),
    )  # fmt: skip
    clock = time.monotonic()
    history = train(network, objective, settings, folder / RESUME, progress, "classifying")
    seconds = time.monotonic() - clock
    told = reader.judge(network.eval(), heldout, judged)
    save_classifier(
        network, folder, task.labels or ("score",), special_ids(tokenizer) | {"pad_token_id": reader.signs.pad}
    )
    tokenizer.save(folder)
    write_metrics(folder, history)
    write_records(folder / JUDGED, verdicts(task, heldout, told))
    figures = figures_of(task, heldout, told)
    progress.note("  held out: " + ", ".join(f"{name} {figure:.4f}" for name, figure in figures.items()))
    return {
        **summary(history, objective, seconds), "examples": len(learnt), "heldout": len(heldout),
        "epochs": round(settings.steps / order.steps_per_epoch, 4), **figures,
    }  # fmt: skip


def with_signs(tokenizer: Tokenizer, folder: Path, settings: ClassifySettings) -> tuple[Tokenizer, LanguageModel]:
    """Tokenizer and model with tokens for the delimiter and the end of a reading; their rows begin as `extend` says."""
    model = load_checkpoint(folder, dtype=DTYPES[settings.dtype])
    check_vocabulary(tokenizer, model.config.vocabulary, folder)
    missing = [name for name in (DELIMITER, EXTRACT) if name not in tokenizer.special]
    if missing:
        tokenizer, plan = extend(tokenizer, special=missing)
        model = extend_vocabulary(model, plan.pieces(), plan.before, settings.seed)
    return tokenizer, model


class Reader:
    """Examples as rows of tokens.

    Attributes:
        context: most tokens of a reading.
        cut: how many examples were cut.
    """

    def __init__(self, task: Task, tokenizer: Tokenizer, settings: ClassifySettings, room: int):
        self.task, self.tokenizer, self.too_long, self.cut = task, tokenizer, settings.too_long, 0
        self.context = settings.context or room
        if self.context > room:
            raise AthanorError(f"context={self.context:,}", allowed=f"16 to {room:,}: the positions of the model")
        ids = special_ids(tokenizer)
        mark, special = document_mark(tokenizer), tokenizer.special
        pad = ids.get("pad_token_id", ids.get("eos_token_id", mark))
        self.signs = Signs(mark, special[DELIMITER], special[EXTRACT], pad)

    def read(self, examples: Sequence[Example]) -> list[Readings]:
        """The readings of every example."""
        return [self._one(example) for example in examples]

    def _one(self, example: Example) -> Readings:
        most, before = None, self.cut
        while True:
            made = readings(self.task.form, example, lambda text, most=most: self._encode(text, most), self.signs)
            longest = max(map(len, made))
            if longest <= self.context:
                self.cut = before + (most is not None)
                return made
            if self.too_long == "refuse":
                raise AthanorError(
                    f"{example.id} is {longest} tokens long", allowed=f"{self.context}, the context of the model",
                    fix="too_long: truncate cuts the end of its longest text",
                )  # fmt: skip
            together = 2 if example.second or example.choices else 1  # texts of a reading, which may both be cut
            length = max(len(self._encode(text, most)) for text in texts_of(example))
            most = length - max(1, (longest - self.context) // together)
            if most < 1:
                raise AthanorError(f"{example.id}: {self.context} tokens leave no room for its texts")

    def _encode(self, text: str, most: int | None) -> list[int]:
        return self.tokenizer.encode(text)[:most]

    def batch(
        self, examples: Sequence[Example], rows: Sequence[Readings], numbers: Sequence[int], device: torch.device
    ) -> ReadingBatch:
        """Some examples side by side."""
        labels = [self.label(examples[number]) for number in numbers]
        return batch_of([rows[number] for number in numbers], labels, self.signs, device)

    def label(self, example: Example) -> int | float:
        """The class as a number, the number of the right ending, or the number itself."""
        assert example.label is not None
        return self.task.labels.index(str(example.label)) if self.task.labels else example.label

    @torch.no_grad()
    def judge(self, model: Classifier, examples: Sequence[Example], rows: Sequence[Readings]) -> list[list[float]]:
        """The scores of every example."""
        device, told = next(model.parameters()).device, []
        for first in range(0, len(examples), AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, len(examples)))
            batch = self.batch(examples, rows, numbers, device)
            scores_EC = judge(model, self.task.form, model.language.hidden(batch.ids_RT), batch)
            told += [scores[: max(1, len(example.choices) or len(scores))] for scores, example in
                     zip(scores_EC.tolist(), (examples[number] for number in numbers), strict=True)]  # fmt: skip
        return told


def texts_of(example: Example) -> list[str]:
    """All texts of an example."""
    return [example.text, *([example.second] if example.second else []), *example.choices]


LOOKED = 256  # held-out examples of one look


def look(
    model: Classifier, reader: Reader, heldout: Sequence[Example], rows: Sequence[Readings]
) -> Mapping[str, float]:
    """Held-out loss and figures while the network learns, of the first examples."""
    some = list(heldout[:LOOKED])
    device = next(model.parameters()).device
    loss: Callable[..., Any] = classification_loss(reader.task.form, 0.0)
    total = 0.0
    for first in range(0, len(some), AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, len(some)))
        total += float(loss(model, reader.batch(some, rows, numbers, device)).total)
    figures = figures_of(reader.task, some, reader.judge(model, some, rows))
    return {"heldout": total / len(some), **{f"heldout/{name}": figure for name, figure in figures.items()}}


def verdicts(task: Task, examples: Sequence[Example], told: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """A row for every held-out example."""
    rows = []
    for example, scores in zip(examples, told, strict=True):
        best = max(range(len(scores)), key=scores.__getitem__)
        said = task.labels[best] if task.labels else best if task.form == "choice" else scores[0]
        rows.append({"id": example.id, "true": example.label, "said": said, "scores": scores})
    return rows
