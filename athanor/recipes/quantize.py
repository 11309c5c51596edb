"""The step that makes the INT4 model, measures what it lost, and refuses to store it when that is too much."""

from pathlib import Path
from typing import Any, Literal

import pydantic
import torch

from athanor.base.errors import EXIT_REFUSED, AthanorError
from athanor.base.files import write_json
from athanor.base.progress import Progress
from athanor.base.records import write_records
from athanor.base.settings import Settings
from athanor.evaluation.bits import bits_per_byte
from athanor.evaluation.evaluate import exam_rows, heldout_texts
from athanor.evaluation.exam import accuracy, examine
from athanor.evaluation.statistics import Estimate, share
from athanor.evaluation.subject import LocalSubject
from athanor.inference import equivalence
from athanor.inference.quantize import Quantization, compare, kernels, quantize_checkpoint
from athanor.inference.score import windows
from athanor.store.artifact import Artifact
from athanor.tokens.chat import generation_of, jinja_of
from athanor.tokens.tokenizer import Tokenizer

RECEIPT = "receipt.json"


class QuantizeSettings(Settings):
    """How to quantise, and how much may be lost."""

    group_size: Literal[32, 64, 128] = 32
    """Weights that share a scale."""
    embedding_bits: Literal[4, 8] = 8
    head_bits: Literal[4, 8] = 8
    heldout_bytes: int = pydantic.Field(default=100_000, ge=1000)
    """Held-out text for the comparison."""
    exam: int = pydantic.Field(default=50, ge=1)
    """Held-out problems per skill and language."""
    most_kl: float = pydantic.Field(default=0.03, gt=0)
    """Largest mean KL divergence from the 16-bit model, nats per token."""
    least_agreement: float = pydantic.Field(default=0.85, ge=0, le=1)
    """Smallest share of places where both models prefer the same token."""
    most_bits_lost: float = pydantic.Field(default=0.015, ge=0)
    """Largest relative rise of bits per byte."""
    most_accuracy_lost: float = pydantic.Field(default=0.02, ge=0, le=1)
    """Largest fall of the share of right answers."""


class Int4Settings(Settings):
    """How to quantise where there is no corpus to compare on."""

    group_size: Literal[32, 64, 128] = 32
    """Weights that share a scale."""
    embedding_bits: Literal[4, 8] = 8
    head_bits: Literal[4, 8] = 8


def make_int4(settings: Int4Settings, parents: dict[str, Artifact], folder: Path, progress: Progress) -> dict[str, Any]:
    """Write the INT4 checkpoint with its tokenizer, and what it lost on a fixed set of texts in receipt.json."""
    source = parents["model"]
    source.verify()
    progress.start("quantising", None, "")
    sizes = quantize_checkpoint(source.path, folder, Quantization(**settings.model_dump()))
    tokenizer = Tokenizer.load(source.path)
    tokenizer.save(folder, jinja_of(tokenizer))
    write_json(folder / "generation_config.json", generation_of(source.path, tokenizer))
    progress.start("comparing with the 16-bit model", None, "")
    seen = [equivalence.observe_folder(place, tokenizer) for place in (source.path, folder)]
    receipt = {**sizes, "logits": equivalence.compare_behaviour(*seen)}
    write_json(folder / RECEIPT, receipt)
    progress.finish(kl=receipt["logits"]["kl_mean"])
    return {**sizes, "kl_mean": round(receipt["logits"]["kl_mean"], 6)}


def quantize(
    settings: QuantizeSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Write the INT4 checkpoint with its tokenizer, receipt.json and answers.jsonl.

    Raises:
        AthanorError (exit code 3): a figure of the receipt is past its threshold; nothing is stored.
    """
    parents["model"].verify()
    full = parents["model"].path
    how = Quantization(
        group_size=settings.group_size, embedding_bits=settings.embedding_bits, head_bits=settings.head_bits
    )
    sizes = quantize_checkpoint(full, folder, how)
    tokenizer = Tokenizer.load(full)
    tokenizer.save(folder, jinja_of(tokenizer))
    before, after = LocalSubject(full), LocalSubject(folder)
    texts = heldout_texts(parents["corpus"], settings.heldout_bytes)
    figures = _compare(before, after, texts, parents, settings, folder, progress)
    stored = sum(path.stat().st_size for path in full.glob("*.safetensors"))
    receipt = {
        **figures, "bits_per_weight": sizes["bits_per_weight"], "bytes": sizes["bytes"], "bytes_before": stored,
        "kernels": kernels(after.model),
    }  # fmt: skip
    write_json(folder / RECEIPT, receipt)
    _gate(receipt, settings)
    return {key: value for key, value in receipt.items() if not isinstance(value, dict)}


def _compare(
    before: LocalSubject, after: LocalSubject, texts: list[str], parents: dict[str, Artifact],
    settings: QuantizeSettings, folder: Path, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    progress.start("comparing with the 16-bit model", None, "tok")
    rows = [torch.tensor([ids]) for text in texts for ids, _ in windows(before.text_prompt(text), before.context, 1)]
    with torch.inference_mode():
        divergence = compare(before.model, after.model, rows, before.engine.blanks)
    bits = [bits_per_byte(subject, texts, progress) for subject in (before, after)]
    progress.finish(kl=divergence["kl_mean"], agreement=divergence["top1_agreement"])
    problems = exam_rows(parents["conversations"], settings.exam)
    progress.start("answering held-out problems · INT4", len(problems), "answers")
    given = examine(after, problems, progress)
    progress.finish()
    table = accuracy(given)
    write_records(folder / "answers.jsonl", ({"model": "int4", **answer.as_row()} for answer in given))
    right_before = sum(answer.right for answer in examine(before, problems))
    right = [share(right_before, len(given)), share(sum(answer.right for answer in given), len(given))]
    return {
        "kl_mean": round(divergence["kl_mean"], 6), "kl_p99": round(divergence["kl_p99"], 6),
        "agreement": round(divergence["top1_agreement"], 5),
        "bits_before": round(bits[0].value, 5), "bits_after": round(bits[1].value, 5),
        "accuracy_before": round(right[0].value, 5), "accuracy_after": round(right[1].value, 5),
        "skills": {language: _rows(part) for language, part in table.items()},
    }  # fmt: skip


def _rows(part: dict[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.as_row() for name, estimate in part.items()}


def limits(settings: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """Which setting bounds which figure, and its value: 'kl_mean' must stay at or below 'most_kl' …"""
    return {
        "kl_mean": ("most_kl", settings["most_kl"]),
        "disagreement": ("least_agreement", 1 - settings["least_agreement"]),
        "bits_lost": ("most_bits_lost", settings["most_bits_lost"]),
        "accuracy_lost": ("most_accuracy_lost", settings["most_accuracy_lost"]),
    }


def losses(receipt: dict[str, Any]) -> dict[str, float]:
    """The receipt's figures as losses: larger is worse."""
    return {
        "kl_mean": receipt["kl_mean"],
        "disagreement": 1 - receipt["agreement"],
        "bits_lost": receipt["bits_after"] / receipt["bits_before"] - 1,
        "accuracy_lost": receipt["accuracy_before"] - receipt["accuracy_after"],
    }


def _gate(receipt: dict[str, Any], settings: QuantizeSettings) -> None:
    found = losses(receipt)
    for name, (setting, most) in limits(settings.model_dump()).items():
        if found[name] > most:
            raise AthanorError(
                f"the INT4 model is refused: {name.replace('_', ' ')} is {found[name]:.4f}",
                allowed=f"at most {most:.4f} ({setting})",
                fix="a smaller group_size or 8 bits for head and embedding lose less; or allow more with "
                f"quantize.{setting}=…",
                code=EXIT_REFUSED,
            )
