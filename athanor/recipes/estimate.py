"""What a recipe will cost, before anything starts: parameters, FLOPs, memory and time, with every assumption named."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from athanor.base.device import matmul_flops, pick_device, set_threads
from athanor.base.machines import PROCESSOR_SHARE
from athanor.data.examples import ExampleSettings
from athanor.data.instruct.lessons import files_of, rows_of
from athanor.data.reading.read import ReadSettings, source_bytes
from athanor.models.config import TransformerConfig
from athanor.models.seq2seq import EncoderDecoder
from athanor.models.shapes import flops_per_token, kept_per_token, learning_flops
from athanor.models.transformer import Transformer
from athanor.recipes.runner import PlannedStep
from athanor.training.adapt import AdaptSettings
from athanor.training.corpus import row_flops
from athanor.training.networks import PretrainSettings, unfilled
from athanor.training.seq2seq import fresh_config
from athanor.training.sft import ChatSettings

# Rates measured on two cores of a 2024 server processor; a slower machine takes longer in proportion.
READ_RATE, CLEAN_RATE, MERGE_RATE, PACK_RATE, INDEX_RATE = 5.5e6, 8e6, 5e6, 10e6, 9e6  # bytes per second
CONVERSATION_RATE = 60_000  # per second
SCORING_RATE, ANSWER_RATE = 50_000, 350  # tokens scored, problems answered per second
PROGRAM_MEMORY = 1_000_000_000  # Python, torch and its libraries, and what earlier steps did not give back
CONVERSATION_MEMORY = 6_000  # bytes per conversation while they are rendered and packed
TEXT_MEMORY = 30  # bytes of memory per byte of text while merges are learnt, the hungriest step over text
TOKEN_BYTES = 3  # bytes of text per token
SKILLS = 17 * 2  # skills and languages


@dataclass(frozen=True)
class Estimate:
    """What one step will take.

    Attributes:
        seconds: wall time on this machine.
        memory: peak bytes of the whole program while the step runs.
        flops: training FLOPs; 0 for steps that do not train.
        parameters: of the network it trains; 0 for steps that do not.
        tokens: it trains on.
    """

    seconds: float
    memory: int
    flops: float = 0.0
    parameters: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Forecast:
    """The whole recipe's estimate.

    Attributes:
        epochs: how often pretraining reads the text.
    """

    parameters: int
    tokens: int
    epochs: float
    flops: float
    seconds: float
    memory: int
    text_bytes: int
    peak_flops: float
    dtype: str
    steps: dict[str, Estimate]
    assumptions: list[str]


def forecast(plan: Sequence[PlannedStep]) -> Forecast:
    """Estimate every step of a plan; measures this machine's matrix products for a moment."""
    settings = {planned.do: planned.settings for planned in plan}
    shape = settings.get("pretrain")
    reached = _text_reaching(plan)
    text = max(reached.values(), default=0)
    dtype = shape.dtype if isinstance(shape, PretrainSettings) else "float32"
    set_threads()
    vocabulary = getattr(settings.get("tokenizer"), "vocabulary", 0)
    conversations = getattr(settings.get("skills"), "conversations", 0)
    steps = {}
    for planned in plan:
        known, own = reached[planned.artifact], shape_behind(planned, plan)
        if planned.do in ("classify", "seq2seq"):
            steps[planned.name] = learning_examples(planned, plan, own, vocabulary)
        else:
            steps[planned.name] = _estimate(planned.settings, planned.do, known, own, vocabulary, conversations)
    parameters = max((one.parameters for one in steps.values()), default=0)
    tokens = sum(one.tokens for one in steps.values())
    read_tokens = _tokens(shape, shape)
    return Forecast(
        parameters=parameters, tokens=tokens, epochs=read_tokens * TOKEN_BYTES / max(text, 1),
        flops=sum(one.flops for one in steps.values()),
        seconds=sum(one.seconds for one in steps.values()), memory=max(one.memory for one in steps.values()),
        text_bytes=text, peak_flops=peak_of(dtype), dtype=dtype, steps=steps, assumptions=_assumptions(dtype),
    )  # fmt: skip


def shape_behind(planned: PlannedStep, plan: Sequence[PlannedStep]) -> PretrainSettings | None:
    """The pretraining whose network a step goes on with, however many steps lie between; None: it is made elsewhere."""
    made = {one.artifact: one for one in plan}
    if isinstance(planned.settings, PretrainSettings):
        return planned.settings
    parents = [made.get(planned.parents.get(role, "")) for role in ("model", "base")]
    found = [shape_behind(parent, plan) for parent in parents if parent is not None]
    return found[0] if found else None


def peak_of(dtype: str) -> float:
    """FLOP/s of this machine's matrix products; measured once, for a moment."""
    return matmul_flops(dtype, pick_device().type)


def _text_reaching(plan: Sequence[PlannedStep]) -> dict[str, int]:
    """Artifact to the bytes of the files that are read for it, directly or not."""
    sizes, reads = dict[str, int](), dict[str, set[str]]()
    for planned in plan:
        reads[planned.artifact] = set().union(*(reads[parent] for parent in planned.parents.values()))
        if isinstance(planned.settings, ReadSettings):
            sizes[planned.artifact] = source_bytes(planned.settings)
            reads[planned.artifact].add(planned.artifact)
    return {artifact: sum(sizes[read] for read in found) for artifact, found in reads.items()}


def _estimate(one: Any, do: str, text: int, shape: Any, vocabulary: int, conversations: int) -> Estimate:
    rates = {"read": READ_RATE, "clean": CLEAN_RATE, "tokenizer": MERGE_RATE, "pack": PACK_RATE, "index": INDEX_RATE}
    if do in rates:
        memory = PROGRAM_MEMORY + (
            TEXT_MEMORY * min(text, getattr(one, "max_bytes", None) or text) if do == "tokenizer" else 0
        )
        return Estimate(1 + text / rates[do], memory)
    if do == "skills":
        return Estimate(1 + one.conversations / CONVERSATION_RATE, PROGRAM_MEMORY)
    if do in ("pretrain", "finetune", "adapt") and isinstance(shape, PretrainSettings):
        return _training(one, shape, vocabulary, 0 if do == "pretrain" else conversations)
    if do in ("evaluate", "quantize"):
        scored, answered = 2 * 2 * one.heldout_bytes / TOKEN_BYTES, 2 * SKILLS * one.exam
        return Estimate(2 + scored / SCORING_RATE + answered / ANSWER_RATE, PROGRAM_MEMORY + 500_000_000)
    return Estimate(1, PROGRAM_MEMORY)


def _training(one: Any, shape: PretrainSettings, vocabulary: int, conversations: int) -> Estimate:
    rows, length = one.rows + getattr(one, "document_rows", 0), length_of(one, shape)
    with torch.device("meta"):
        model = unfilled(shape, vocabulary)
    shape = shape.model_copy(update={"context": length})
    names = (one.objective, *one.beside) if isinstance(one, PretrainSettings) else (shape.objective,)
    flops = sum(row_flops(shape.model_copy(update={"objective": name}), model) for name in names)
    if isinstance(one, AdaptSettings):
        flops = length * learning_flops(model.config, length, scored=1.0, frozen=1.0, below=0.0)
    more = CONVERSATION_MEMORY * conversations
    return _trained(one, model, float(flops) * rows * one.steps, rows, length, _tokens(one, shape), more)


def length_of(one: Any, shape: PretrainSettings) -> int:
    """Tokens of a row; fine-tuning that is not told takes as many as the model has positions."""
    return one.context or shape.max_positions or shape.context


def _trained(one: Any, model: nn.Module, flops: float, rows: int, length: int, tokens: int, more: int = 0) -> Estimate:
    """What training a network takes: its weights counted one by one, activations of each of its trunks."""
    count, number = sum(weight.numel() for weight in model.parameters()), 4 if one.dtype == "float32" else 2
    trunks = [module.config for module in model.modules() if isinstance(module, Transformer)]
    trunks = trunks or [model.config.trunk]  # XLNet's has layers of its own
    kept = -(-rows // one.accumulate) * length * sum(kept_by(trunk, length, one.recompute) for trunk in trunks)
    head = max(weight.numel() for weight in model.parameters())
    held, gradients = number, 0
    if not isinstance(one, AdaptSettings):
        held, gradients = bytes_per_weight(number, one.accumulate, one.average is not None), count
    # Gradients come as activations go: the most is held before a backward pass or after it.
    memory = PROGRAM_MEMORY + count * held + (max(kept, gradients) + head) * number + more
    flops_here = flops * (4 / 3 if one.recompute else 1)  # forward once more; the model's own FLOPs stay
    return Estimate(2 + flops_here / (peak_of(one.dtype) * PROCESSOR_SHARE[one.dtype]), memory, flops, count, tokens)


def bytes_per_weight(number: int, passes: int, averaged: bool) -> int:
    """Bytes that training holds for a weight of `number` bytes when the last of a step's passes begins.

    They are itself, AdamW's two moments, in bf16 a float32 master (a float32 weight is its own), the float32 sum of the
    gradients of the passes before, and its average.
    """
    return number + 8 + 4 * (number < 4) + 4 * (passes > 1) + 4 * averaged


def kept_by(trunk: TransformerConfig, length: int, recompute: bool) -> int:
    """Numbers that a trunk keeps of a token for the gradient: of all layers, or what enters each and one layer's."""
    layer, outside = kept_per_token(trunk, length), 3 * trunk.width
    return (trunk.layers * trunk.width + layer if recompute else trunk.layers * layer) + outside


def learning_examples(planned: PlannedStep, plan: Sequence[PlannedStep], shape: Any, vocabulary: int) -> Estimate:
    """What learning from labelled examples or pairs takes, by the length of the first of them.

    A parent model that is made elsewhere is not known: then only the program's memory is.
    """
    one, made = planned.settings, {other.artifact: other.settings for other in plan}
    parents = [made.get(parent) for parent in planned.parents.values()]
    tasks = [parent for parent in parents if isinstance(parent, ExampleSettings)]
    lengths = [example_tokens(task) for task in tasks]
    with torch.device("meta"):
        if planned.do == "seq2seq" and one.layers is not None:
            model: Any = EncoderDecoder(fresh_config(one, vocabulary, 0))
        elif isinstance(shape, PretrainSettings) and vocabulary:
            model = unfilled(shape, vocabulary)
        else:
            return Estimate(1, PROGRAM_MEMORY)
    tokens = one.steps * one.rows * sum(lengths)
    if isinstance(model, EncoderDecoder):  # half of a pair is read, half is written
        half = max(1, round(max(lengths) / 2))
        each = flops_per_token(model.config.encoder, half) + flops_per_token(model.config.decoder, half)
        return _trained(one, model, tokens / 2 * each, one.rows * len(tasks), half, tokens)
    length = min(max(lengths), model.config.max_positions)
    flops = float(flops_per_token(model.config, length)) * tokens
    return _trained(one, model, flops, one.rows, length, tokens)


SAMPLED = 200  # examples whose length is looked at


def example_tokens(task: ExampleSettings) -> int:
    """Tokens of an example as it is read, about: similarity reads both orders, a choice its beginning every time."""
    lengths = []
    for _, row in islice((pair for path in files_of(task.path) for pair in rows_of(path)), SAMPLED):
        row = row or {}
        texts = [str(row.get(name) or "") for name in (task.text, task.second, task.target) if name]
        size = sum(len(text.encode()) for text in texts)
        endings = row.get(task.choices or "") or ()
        size = size * max(1, len(endings)) + sum(len(str(ending).encode()) for ending in endings)
        lengths.append(size * (2 if task.form == "similarity" else 1) / TOKEN_BYTES)
    return max(4, round(sum(lengths) / max(1, len(lengths))))


def _tokens(one: Any, shape: Any) -> int:
    if not isinstance(one, PretrainSettings | ChatSettings) or not isinstance(shape, PretrainSettings):
        return 0
    return one.steps * (one.rows + getattr(one, "document_rows", 0)) * length_of(one, shape)


def _assumptions(dtype: str) -> list[str]:
    return [
        "FLOPs: 6 per weight in a matrix product and token, and attention (PaLM, appendix B)",
        f"training reaches {PROCESSOR_SHARE[dtype]:.0%} of the matrix-product speed measured here, in {dtype}",
        f"text: read {READ_RATE / 1e6:.0f}, clean {CLEAN_RATE / 1e6:.0f}, learn merges {MERGE_RATE / 1e6:.1f}, "
        f"tokenise {PACK_RATE / 1e6:.0f}, index {INDEX_RATE / 1e6:.0f} MB/s",
        "memory: weights, gradients, their fp32 sums, masters and moments, activations; 1 GB for the program, "
        "6 kB per conversation",
    ]
