"""What a recipe will cost, before anything starts: parameters, FLOPs, memory and time, with every assumption named."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from athanor.base.device import matmul_flops, pick_device, set_threads
from athanor.base.machines import PROCESSOR_SHARE
from athanor.data.reading.read import ReadSettings, source_bytes
from athanor.models.shapes import count_parameters, flops_per_token, training_memory
from athanor.recipes.runner import PlannedStep
from athanor.training.pretrain import PretrainSettings, network
from athanor.training.sft import FinetuneSettings

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
    peak = matmul_flops(dtype, pick_device().type)
    vocabulary = getattr(settings.get("tokenizer"), "vocabulary", 0)
    conversations = getattr(settings.get("skills"), "conversations", 0)
    steps = {}
    for planned in plan:
        known = reached[planned.artifact]
        steps[planned.name] = _estimate(planned.settings, planned.do, known, shape, vocabulary, peak, conversations)
    parameters = count_parameters(network(shape, vocabulary)) if isinstance(shape, PretrainSettings) else 0
    tokens = sum(_tokens(one, shape) for one in settings.values())
    read_tokens = _tokens(shape, shape)
    return Forecast(
        parameters=parameters, tokens=tokens, epochs=read_tokens * TOKEN_BYTES / max(text, 1),
        flops=sum(one.flops for one in steps.values()),
        seconds=sum(one.seconds for one in steps.values()), memory=max(one.memory for one in steps.values()),
        text_bytes=text, peak_flops=peak, dtype=dtype, steps=steps, assumptions=_assumptions(dtype),
    )  # fmt: skip


def _text_reaching(plan: Sequence[PlannedStep]) -> dict[str, int]:
    """Artifact to the bytes of the files that are read for it, directly or not."""
    sizes, reads = dict[str, int](), dict[str, set[str]]()
    for planned in plan:
        reads[planned.artifact] = set().union(*(reads[parent] for parent in planned.parents.values()))
        if isinstance(planned.settings, ReadSettings):
            sizes[planned.artifact] = source_bytes(planned.settings)
            reads[planned.artifact].add(planned.artifact)
    return {artifact: sum(sizes[read] for read in found) for artifact, found in reads.items()}


def _estimate(one: Any, do: str, text: int, shape: Any, vocabulary: int, peak: float, conversations: int) -> Estimate:
    rates = {"read": READ_RATE, "clean": CLEAN_RATE, "tokenizer": MERGE_RATE, "pack": PACK_RATE, "index": INDEX_RATE}
    if do in rates:
        memory = PROGRAM_MEMORY + (
            TEXT_MEMORY * min(text, getattr(one, "max_bytes", None) or text) if do == "tokenizer" else 0
        )
        return Estimate(1 + text / rates[do], memory)
    if do == "skills":
        return Estimate(1 + one.conversations / CONVERSATION_RATE, PROGRAM_MEMORY)
    if do in ("pretrain", "finetune") and isinstance(shape, PretrainSettings):
        return _training(one, shape, vocabulary, peak, conversations if do == "finetune" else 0)
    if do in ("evaluate", "quantize"):
        scored, answered = 2 * 2 * one.heldout_bytes / TOKEN_BYTES, 2 * SKILLS * one.exam
        return Estimate(2 + scored / SCORING_RATE + answered / ANSWER_RATE, PROGRAM_MEMORY + 500_000_000)
    return Estimate(1, PROGRAM_MEMORY)


def _training(one: Any, shape: PretrainSettings, vocabulary: int, peak: float, conversations: int) -> Estimate:
    config = network(shape, vocabulary)
    tokens = _tokens(one, shape)
    flops = float(flops_per_token(config, shape.context)) * tokens
    rows = one.rows + getattr(one, "document_rows", 0)
    memory = training_memory(config, rows=rows, context=shape.context, number_bytes=4 if one.dtype == "float32" else 2)
    seconds = 2 + flops / (peak * PROCESSOR_SHARE[one.dtype])
    needed = PROGRAM_MEMORY + memory.total + CONVERSATION_MEMORY * conversations
    return Estimate(seconds, needed, flops, count_parameters(config), tokens)


def _tokens(one: Any, shape: Any) -> int:
    if not isinstance(one, PretrainSettings | FinetuneSettings) or not isinstance(shape, PretrainSettings):
        return 0
    return one.steps * (one.rows + getattr(one, "document_rows", 0)) * shape.context


def _assumptions(dtype: str) -> list[str]:
    return [
        "FLOPs: 6 per weight in a matrix product and token, and attention (PaLM, appendix B)",
        f"training reaches {PROCESSOR_SHARE[dtype]:.0%} of the matrix-product speed measured here, in {dtype}",
        f"text: read {READ_RATE / 1e6:.0f}, clean {CLEAN_RATE / 1e6:.0f}, learn merges {MERGE_RATE / 1e6:.1f}, "
        f"tokenise {PACK_RATE / 1e6:.0f}, index {INDEX_RATE / 1e6:.0f} MB/s",
        "memory: weights, gradients, fp32 masters and moments, activations; 1 GB for the program, "
        "6 kB per conversation",
    ]
