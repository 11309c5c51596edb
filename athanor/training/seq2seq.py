"""The step `seq2seq`: an encoder-decoder learns to write targets from sources, of one task or of several at once."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pydantic
import torch

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.base.records import write_records
from athanor.data.examples import Example, open_examples
from athanor.data.packing.batches import Numbers, Rows
from athanor.models.config import TransformerConfig
from athanor.models.convert import load_network
from athanor.models.seq2seq import EncoderDecoder, EncoderDecoderConfig
from athanor.models.shapes import flops_per_token
from athanor.store.artifact import RESUME, Artifact, several
from athanor.tokens.chat import special_ids
from athanor.tokens.extend import extend
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.loop import train
from athanor.training.objective import Objective
from athanor.training.objectives.mixed import Task, mixed_batch, mixed_loss
from athanor.training.objectives.sequence_to_sequence import (
    PairBatch,
    PairSigns,
    pair_batch,
    pair_of,
    sequence_loss,
    written,
)  # fmt: skip
from athanor.training.settings import LoopSettings
from athanor.training.setup import DTYPES, DtypeName, prepare, save_model, summary, write_metrics

WRITTEN = "written.jsonl.zst"  # held-out sources, their targets, and what the network writes
LANGUAGE = "__{}__"  # M2M-100's names
SHAPE = ("layers", "width", "heads", "hidden")
LOOKED, AT_ONCE = 128, 32  # held-out pairs of a look, and of one batch


class Seq2SeqSettings(LoopSettings):
    """How pairs are learnt; `rows` are pairs of each task."""

    layers: int | None = pydantic.Field(default=None, ge=1)
    """Shape of a fresh network of M2M-100's family, on either side; a parent model has its own."""
    width: int | None = pydantic.Field(default=None, ge=16)
    heads: int | None = pydantic.Field(default=None, ge=1)
    hidden: int | None = pydantic.Field(default=None, ge=16)
    context: int = pydantic.Field(default=256, ge=1)
    """Most tokens of a source, and of a target."""
    too_long: Literal["refuse", "truncate"] = "refuse"
    """A longer one: refuse it, or cut its end."""
    label_smoothing: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Share of each target's probability that is shared among all tokens."""
    weights: dict[str, Annotated[float, pydantic.Field(gt=0)]] = pydantic.Field(default_factory=dict)
    """What each task counts, by name; unset: all the same."""
    compare_every: int | None = pydantic.Field(default=None, ge=1)
    """Steps between two comparisons of the tasks' gradients; unset: none."""
    dtype: DtypeName = "float32"

    @pydantic.model_validator(mode="after")
    def _has_a_meaning(self) -> "Seq2SeqSettings":
        if self.prompts:
            raise ValueError("prompts are gone on with by language models; what a step of pairs writes of held-out "
                             f"sources stands in {WRITTEN}: leave it out")  # fmt: skip
        return self


class Pairs(NamedTuple):
    """One task, ready to be learnt."""

    signs: PairSigns
    learnt: Sequence[Example]
    heldout: Sequence[Example]
    rows: Sequence[tuple[Numbers, Numbers]]
    judged: Sequence[tuple[Numbers, Numbers]]


def seq2seq(
    settings: Seq2SeqSettings, parents: dict[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Train a parent encoder-decoder, or a fresh one on a parent tokenizer; write it, metrics.jsonl, written.jsonl.zst.

    Raises:
        AthanorError: the parents do not fit, a pair is too long, or languages are missing.
    """
    examples = several(parents, "examples")
    tokenizer, model = opened(settings, parents, examples)
    tasks = {name: read_pairs(settings, tokenizer, model, artifact) for name, artifact in examples.items()}
    unknown = set(settings.weights) - set(tasks)
    if unknown or (settings.compare_every is not None and len(tasks) == 1):
        what = f"weights of {min(unknown)!r}" if unknown else "compare_every with one task"
        raise AthanorError(f"seq2seq: {what}", allowed=f"the tasks are {', '.join(tasks)}")
    model = prepare(model, settings.dtype, settings)
    objective = objective_of(settings, tasks, model.config, next(model.parameters()).device)
    clock = time.monotonic()
    history = train(model, objective, settings, folder / RESUME, progress, "learning pairs")
    seconds = time.monotonic() - clock
    signs = next(iter(tasks.values())).signs
    save_model(model, tokenizer, folder, {
        "eos_token_id": signs.end, "pad_token_id": signs.pad, "decoder_start_token_id": signs.start,
    })  # fmt: skip
    write_metrics(folder, history)
    figures = write_answers(model.eval(), tokenizer, tasks, folder, settings.context)
    progress.note("  held out: " + ", ".join(f"{name} {figure:.4f}" for name, figure in figures.items()))
    return {**summary(history, objective, seconds), **figures}


def opened(
    settings: Seq2SeqSettings, parents: Mapping[str, Artifact], examples: Mapping[str, Artifact]
) -> tuple[Tokenizer, EncoderDecoder]:
    """Tokenizer and network: the parent model's, or fresh ones of M2M-100's family with a token for each language."""
    shape = {name: getattr(settings, name) for name in SHAPE}
    if ("model" in parents) == ("tokenizer" in parents):
        raise AthanorError(
            "seq2seq learns from `model`, or from `tokenizer` with fresh weights", fix="name one of them"
        )
    if "model" in parents:
        if any(number is not None for number in shape.values()):
            raise AthanorError(
                f"the model has a shape of its own: {shape}", fix="leave layers, width, heads, hidden out"
            )
        base = parents["model"]
        base.verify()
        network = load_network(base.path, dtype=DTYPES[settings.dtype])
        if not isinstance(network, EncoderDecoder):
            raise AthanorError(
                f"{base.id} is no encoder-decoder", allowed="T5's family, M2M-100's",
                fix="pretrain with objective: span_corruption",
            )  # fmt: skip
        return Tokenizer.load(base.path), network
    if any(number is None for number in shape.values()):
        raise AthanorError(f"a fresh network needs its shape: {shape}", fix="set layers, width, heads and hidden")
    tokenizer = Tokenizer.load(parents["tokenizer"].path)
    spoken = [language for one in examples.values() for language in _languages(one)]
    missing = [name for name in dict.fromkeys(LANGUAGE.format(one) for one in spoken) if name not in tokenizer.special]
    if missing:
        tokenizer, _ = extend(tokenizer, special=missing)
    config = fresh_config(settings, 1 + max(tokenizer.core.get_vocab().values()), _padding(tokenizer))
    return tokenizer, EncoderDecoder(config).initialise(settings.seed)


def fresh_config(settings: Seq2SeqSettings, vocabulary: int, padding: int) -> EncoderDecoderConfig:
    """The network of M2M-100's family that the settings describe.

    Raises:
        AthanorError: the numbers cannot form one.
    """
    try:
        encoder = TransformerConfig(
            layers=settings.layers, width=settings.width, heads=settings.heads, hidden=settings.hidden, causal=False,
            position="none", max_positions=settings.context + 2, norm="layer", norm_eps=1e-5, mlp="relu",
            bias_qkv=True, bias_out=True, bias_mlp=True,
        )  # fmt: skip
        return EncoderDecoderConfig(
            encoder=encoder, vocabulary=vocabulary, tied=True, scale_embedding=True, padding=padding, scale_head=False
        )
    except ValueError as problem:
        raise AthanorError(f"seq2seq: {problem}") from problem


def _languages(examples: Artifact) -> list[str]:
    task, _, _ = open_examples(examples)
    if task.source is None or task.target is None:
        raise AthanorError(
            f"{examples.id} does not say its languages, which M2M-100's family tells tasks apart by",
            fix="set source_language and target_language of the step `examples`, or start from a model of T5's family",
        )
    return [task.source, task.target]


def _padding(tokenizer: Tokenizer) -> int:
    ids = special_ids(tokenizer)
    return ids.get("bos_token_id", ids.get("pad_token_id", 0))  # the end is a token of its own: it is written


def read_pairs(settings: Seq2SeqSettings, tokenizer: Tokenizer, model: EncoderDecoder, examples: Artifact) -> Pairs:
    """The pairs of one task as rows of tokens."""
    task, learnt, heldout = open_examples(examples)
    if task.form != "pair":
        raise AthanorError(f"{examples.id} has the form {task.form}", allowed="pair", fix="`do: classify` learns it")
    ids = special_ids(tokenizer)
    if "eos_token_id" not in ids:
        raise AthanorError("the tokenizer has no token that ends a text", fix='add "eos_token" to its config')
    end, pad = ids["eos_token_id"], model.config.padding
    if pad is None:  # T5 begins with padding
        pad = ids.get("pad_token_id", end)
        signs = PairSigns(start=pad, end=end, pad=pad)
    else:
        spoken = [LANGUAGE.format(one) for one in _languages(examples)]
        signs = PairSigns(end, end, pad, *(tokenizer.special[name] for name in spoken))
    sides = [[_pair(settings, tokenizer, signs, one) for one in side] for side in (learnt, heldout)]
    return Pairs(signs, learnt, heldout, *sides)


def _pair(
    settings: Seq2SeqSettings, tokenizer: Tokenizer, signs: PairSigns, example: Example
) -> tuple[Numbers, Numbers]:
    texts = [tokenizer.encode(example.text), tokenizer.encode_target(example.target or "")]
    longest = max(map(len, texts))
    if longest > settings.context and settings.too_long == "refuse":
        raise AthanorError(
            f"{example.id} is {longest} tokens long", allowed=f"{settings.context}, the context",
            fix="a larger context, or too_long: truncate",
        )  # fmt: skip
    return pair_of(*(ids[: settings.context] for ids in texts), signs)


def row_flops(task: Pairs, config: EncoderDecoderConfig) -> float:
    """FLOPs to train on one pair of a task, at its mean lengths."""
    read, written = (max(1, round(sum(map(len, side)) / len(side))) for side in zip(*task.rows, strict=True))
    return float(
        read * flops_per_token(config.encoder, read) + written * flops_per_token(config.decoder, written)
    )  # fmt: skip


def objective_of(
    settings: Seq2SeqSettings, tasks: Mapping[str, Pairs], config: EncoderDecoderConfig, device: torch.device
) -> Objective:  # fmt: skip
    """What the loop needs: of one task its loss, of several all of theirs in one batch."""
    loss = sequence_loss(settings.label_smoothing, settings.z_loss)
    orders = {name: Rows(len(task.learnt), settings.rows, settings.seed) for name, task in tasks.items()}

    def batch_of(name: str, step: int, rank: int, world: int) -> PairBatch:
        numbers = orders[name].at(step, rank, world).tolist()
        return pair_batch([tasks[name].rows[number] for number in numbers], tasks[name].signs, device)

    def reader(name: str) -> Any:
        return lambda step, rank, world: batch_of(name, step, rank, world)

    def sources(step: int) -> list[str]:
        return [
            f"{name}: {task.learnt[number].id}"
            for name, task in tasks.items()
            for number in orders[name].at(step).tolist()
        ]

    one_by_one = {name: Task(reader(name), loss, settings.weights.get(name, 1.0)) for name in tasks}
    mean = sum(sum(len(s) + len(t) for s, t in task.rows) / len(task.rows) for task in tasks.values())
    alone = one_by_one[next(iter(tasks))]
    return Objective(
        batch=mixed_batch(one_by_one, settings.compare_every) if len(tasks) > 1 else alone.batch,
        loss=mixed_loss(one_by_one) if len(tasks) > 1 else alone.loss,
        tokens=round(settings.rows * mean), sources=sources,
        flops=settings.rows * sum(row_flops(task, config) for task in tasks.values()),
        watch=None if settings.watch_every is None else lambda model: look(model, tasks),
    )  # fmt: skip


def look(model: EncoderDecoder, tasks: Mapping[str, Pairs]) -> dict[str, float]:
    """Held-out loss in nats per token, of all tasks and of each."""
    device, loss = next(model.parameters()).device, sequence_loss()
    sums = {}
    for name, task in tasks.items():
        found = [loss(model, pair_batch(some, task.signs, device)) for some in _groups(task.judged[:LOOKED])]
        sums[name] = sum(float(one.total) for one in found), sum(int(one.count) for one in found)
    whole = sum(total for total, _ in sums.values()) / sum(count for _, count in sums.values())
    parts = {f"heldout/{name}": total / count for name, (total, count) in sums.items()} if len(sums) > 1 else {}
    return {"heldout": whole, **parts}


def write_answers(
    model: EncoderDecoder, tokenizer: Tokenizer, tasks: Mapping[str, Pairs], folder: Path, longest: int
) -> dict[str, float]:
    """Write what the network makes of held-out sources; their loss, and the share of targets met exactly, by task."""
    device, rows, exact = next(model.parameters()).device, [], {}
    for name, task in tasks.items():
        said = []
        for some in _groups(task.judged[:LOOKED]):
            said += written(model, pair_batch(some, task.signs, device), task.signs, longest)
        for example, ids in zip(task.heldout, said, strict=False):
            rows.append({"id": example.id, "task": name, "source": example.text, "target": example.target,
                         "written": tokenizer.decode(ids)})  # fmt: skip
        right = [row["written"].strip() == str(row["target"]).strip() for row in rows if row["task"] == name]
        exact[f"exact_{name}"] = sum(right) / len(right)
    write_records(folder / WRITTEN, rows)
    with torch.no_grad():
        watched = look(model, tasks)
    return {**{name.replace("/", "_"): figure for name, figure in watched.items()}, **exact}


def _groups(pairs: Sequence[tuple[Numbers, Numbers]]) -> list[Sequence[tuple[Numbers, Numbers]]]:
    return [pairs[first : first + AT_ONCE] for first in range(0, len(pairs), AT_ONCE)]
