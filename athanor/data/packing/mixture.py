"""The step `mix`: packed corpora are read in shares that the recipe sets and that may change while training goes on.

Nothing is copied: the artifact holds the shards of its sources under their names (the same files on disk, where the
disk can do that), and mixture.json, which says in which shares they are read. Known good sources are added as for
GPT-3 (Brown et al. 2020, section 2.2 and table 2.2): each with a weight of its own, small ones read several times.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from athanor.base.errors import AthanorError
from athanor.base.files import link_or_copy, read_json, write_json
from athanor.base.progress import Progress
from athanor.base.records import read_records
from athanor.base.settings import Settings, nearest
from athanor.base.tables import quantity, text_table
from athanor.base.words import say
from athanor.data.packing.batches import Batches
from athanor.data.packing.mixed import MixedBatches, NamedSource, Selection
from athanor.data.packing.pack import TokenFiles
from athanor.store.artifact import Artifact, several

MIXTURE = "mixture.json"
UNKNOWN = "und"
MANY_EPOCHS = 16  # from there on repeated text teaches little (Muennighoff et al. 2023, section 5)
Weights = dict[str, float]
OpenCorpus = Callable[[Path], NamedSource]


class Shares(Settings):
    """How much of what is read: weights, or a rule. With neither: in proportion to size."""

    weights: Weights | None = None
    """By source (or language), in any unit: 60, 22, 8, 8, 3. A 0 leaves one out; none may be missing."""
    temperature: float | None = Field(default=None, gt=0)
    """Weights n^(1/temperature) of the number of tokens n: 1 is in proportion to size, larger raises the small ones."""
    alpha: float | None = Field(default=None, ge=0)
    """1/temperature, as XLM and mT5 write it (0.3)."""

    @model_validator(mode="after")
    def _one_rule(self) -> "Shares":
        if sum(one is not None for one in (self.weights, self.temperature, self.alpha)) > 1:
            raise ValueError("weights, temperature and alpha exclude one another")
        if self.weights is not None and (min(self.weights.values(), default=0) < 0 or not any(self.weights.values())):
            raise ValueError("weights are at least 0, and one is above")
        return self


class Stage(Shares):
    """One stage of a curriculum."""

    until: float = Field(gt=0, le=1)
    """The share of all training steps at which it ends; 1 for the last."""


class MixSettings(Shares):
    """In which shares the sources are read."""

    by: Literal["source", "language"] = "source"
    """What the shares are of: the sources, or the languages of their documents, all sources together."""
    curriculum: tuple[Stage, ...] = ()
    """Shares that change while training goes on; instead of `weights`, `temperature` or `alpha`."""
    train_tokens: int | None = Field(default=None, ge=1)
    """Tokens the training will read, to tell the epochs beforehand; unset: as many as the sources hold."""

    @model_validator(mode="after")
    def _stages_in_order(self) -> "MixSettings":
        ends = [stage.until for stage in self.curriculum]
        if ends and (ends != sorted(set(ends)) or ends[-1] != 1):
            raise ValueError(f"the stages of the curriculum end at {ends}: they must rise, and the last is 1")
        if ends and (self.weights is not None or self.temperature is not None or self.alpha is not None):
            raise ValueError("with a curriculum, weights, temperature and alpha stand in its stages")
        return self


def mix_sources(
    settings: MixSettings, parents: Mapping[str, Artifact], folder: Path, progress: Progress
) -> dict[str, Any]:
    """Bring the shards `parents["sources.…"]` together, and print each one's weight and how often it will be read.

    Raises:
        AthanorError: the sources were packed with different tokenizers, or weights and names do not agree.
    """
    sources = several(parents, "sources")
    _check_tokenizers(sources)
    total = sum(len(artifact.record["files"]) for artifact in sources.values())
    progress.start("mix", total, "files")
    for name, artifact in sources.items():
        _link(artifact, folder / name, progress)
        if settings.by == "language":
            _write_languages(folder / name)
    progress.finish()
    sizes = {name: source.tokens for name, source in open_sources(folder, settings.by).items()}
    stages = [(one.until, shares_of(one, sizes, f"curriculum until {one.until}")) for one in settings.curriculum]
    stages = stages or [(1.0, shares_of(settings, sizes, "weights"))]
    rows = [{"until": until, "weights": weights} for until, weights in stages]
    write_json(folder / MIXTURE, {"by": settings.by, "stages": rows})
    trained = settings.train_tokens or sum(sizes.values())
    planned = planned_mixture(sizes, stages, trained)
    progress.note(mixture_table(planned, trained))
    for name, row in planned.items():
        if row["epochs"] > MANY_EPOCHS:
            progress.note(say(
                f"  {name} will be read {row['epochs']:.0f} times: repeated text teaches little; lower its weight, or "
                "add text", f"  {name} 将被读取 {row['epochs']:.0f} 遍：重复文本收益很小；请降低权重或增加文本",
            ))  # fmt: skip
    return {"tokens": sum(sizes.values()), "planned_tokens": trained, "sources": planned}


def _check_tokenizers(sources: Mapping[str, Artifact]) -> None:
    made_with = {name: artifact.record.get("parents", {}).get("tokenizer") for name, artifact in sources.items()}
    if len(set(made_with.values())) > 1:
        told = ", ".join(f"{name} with {tokenizer}" for name, tokenizer in made_with.items())
        raise AthanorError(
            f"the sources were packed with different tokenizers: {told}", fix="pack all with one of them"
        )


def _link(artifact: Artifact, folder: Path, progress: Progress) -> None:
    """The files of a packed corpus in a folder of their own, each verified first."""
    if MIXTURE in artifact.record["files"]:
        raise AthanorError(f"{artifact.id} is a mixture itself", fix="name its sources here, with their weights")
    folder.mkdir()
    for name in artifact.record["files"]:
        link_or_copy(artifact.file(name), folder / name)
        progress.advance()


def _write_languages(folder: Path) -> None:
    """languages.json: code to the numbers of its documents, in npy files beside it."""
    numbers: dict[str, list[int]] = {}
    for number, row in enumerate(read_records(folder / "train-documents.jsonl.zst")):
        numbers.setdefault(row["language"] or UNKNOWN, []).append(number)
    for place, code in enumerate(sorted(numbers)):
        np.save(folder / f"language-{place:03d}.npy", np.array(numbers[code], dtype=np.int64))
    write_json(folder / "languages.json", sorted(numbers))


def open_sources(folder: Path, by: str, open_corpus: OpenCorpus = TokenFiles) -> dict[str, NamedSource]:
    """What a mixture's shares are of: its packed corpora, or the documents of each language in them."""
    files = {path.parent.name: open_corpus(path.parent) for path in sorted(folder.glob("*/train-starts.npy"))}
    if by == "source":
        return dict(files)
    parts: dict[str, list[tuple[NamedSource, Any]]] = {}
    for name, tokens in files.items():
        for place, code in enumerate(read_json(folder / name / "languages.json")):
            parts.setdefault(code, []).append((tokens, np.load(folder / name / f"language-{place:03d}.npy")))
    return {code: Selection(parts[code]) for code in sorted(parts)}


def open_batches(
    folder: Path, context: int, rows: int, seed: int, steps: int | None = None, open_corpus: OpenCorpus = TokenFiles
) -> Batches | MixedBatches:
    """Batches of a packed corpus or of a mixture.

    Args:
        steps: of the whole run, which places the stages of a curriculum; None: its last stage alone.
        open_corpus: from a folder to what stands in it; only `read` needs the tokens.
    """
    if not (folder / MIXTURE).is_file():
        return Batches(open_corpus(folder), context, rows, seed)
    plan = read_json(folder / MIXTURE)
    stages = [(stage["until"], stage["weights"]) for stage in plan["stages"]]
    sources = open_sources(folder, plan["by"], open_corpus)
    read = {name: source for name, source in sources.items() if any(weights[name] for _, weights in stages)}
    return MixedBatches(read, stages, context, rows, seed, steps)


def open_heldout(folder: Path) -> dict[str, TokenFiles]:
    """What was held out of a packed corpus (under the empty name), or of each source of a mixture."""
    parts = {"": folder}
    if (folder / MIXTURE).is_file():
        parts = {path.parent.name: path.parent for path in sorted(folder.glob("*/train-starts.npy"))}
    opened = {name: TokenFiles(part, "heldout") for name, part in parts.items()}
    return {name: tokens for name, tokens in opened.items() if tokens.tokens > 1}


def document_ids(folder: Path, batches: Batches | MixedBatches, step: int) -> list[str]:
    """Ids of the documents that a step of `open_batches` reads; of a mixture with the source before each."""
    if isinstance(batches, Batches):
        tokens = TokenFiles(folder)
        return [tokens.document_row(number)["id"] for number in batches.documents_of(step)]
    sources = open_sources(folder, read_json(folder / MIXTURE)["by"])
    return [f"{name}: {sources[name].document_row(number)['id']}" for name, number in batches.documents_of(step)]


# ------------------------------------------------------------------------------------------------------------- weights


def shares_of(shares: Shares, tokens: Mapping[str, int], where: str) -> Weights:
    """The weight of each source, together 1; where no rule is set, in proportion to size.

    Raises:
        AthanorError: a name is unknown or missing, or a source that is to be read is empty.
    """
    if shares.weights is None:
        alpha = 1 / (shares.temperature or 1.0) if shares.alpha is None else shares.alpha
        return tempered(tokens, alpha)
    unknown = [name for name in shares.weights if name not in tokens]
    if unknown:
        raise AthanorError(f"{where}: there is no {unknown[0]!r} to mix", allowed=", ".join(tokens),
                           fix=nearest(unknown[0], tokens))  # fmt: skip
    missing = [name for name in tokens if name not in shares.weights]
    if missing:
        raise AthanorError(f"{where}: {', '.join(missing)} without a weight", fix="give it one; 0 leaves it out")
    empty = [name for name, weight in shares.weights.items() if weight and not tokens[name]]
    if empty:
        raise AthanorError(f"{where}: {empty[0]} holds no tokens", fix="weight 0, or more documents")
    total = sum(shares.weights.values())
    return {name: shares.weights[name] / total for name in tokens}


def tempered(tokens: Mapping[str, int], alpha: float) -> Weights:
    """p_i = n_i^alpha / their sum; an empty source gets 0.

    alpha = 1/T: XLM (Lample and Conneau 2019, section 3.1), mT5 (Xue et al. 2021, section 3.2: 0.3).
    """
    largest = max(tokens.values())
    powers = {name: (count / largest) ** alpha if count else 0.0 for name, count in tokens.items()}
    return {name: power / sum(powers.values()) for name, power in powers.items()}


def mean_weights(stages: Sequence[tuple[float, Mapping[str, float]]]) -> Weights:
    """The weights over the whole training."""
    starts = [0.0, *(until for until, _ in stages)]
    return {
        name: sum((until - start) * weights[name] for start, (until, weights) in zip(starts[:-1], stages, strict=True))
        for name in stages[0][1]
    }


def planned_mixture(
    sizes: Mapping[str, int], stages: Sequence[tuple[float, Mapping[str, float]]], trained: int
) -> dict[str, Any]:
    """Of each source its size, its share of the training, and the epochs: share times training, over size."""
    return {
        name: {"size": sizes[name], "share": round(share, 6), "epochs": round(share * trained / max(sizes[name], 1), 4)}
        for name, share in mean_weights(stages).items()
    }


def measured_mixture(batches: Batches | MixedBatches, steps: int) -> dict[str, Any]:
    """What a training of so many steps has read: epochs of all, and of a mixture the same as `planned_mixture`."""
    if isinstance(batches, Batches):
        return {"epochs": round(steps / batches.steps_per_epoch, 4)}
    read = batches.tokens_read(steps)
    total = sum(read.values())
    sizes = {name: part.tokens.tokens for name, part in zip(batches.names, batches.parts, strict=True)}
    sources = planned_mixture(sizes, [(1.0, {name: count / total for name, count in read.items()})], total)
    return {"epochs": round(total / sum(sizes.values()), 4), "sources": sources}


def mixture_table(mixture: Mapping[str, Any], trained: int) -> str:
    """Weights and epochs as GPT-3's table 2.2 shows them."""
    told = quantity(trained)
    header = [say("source", "来源"), say("tokens", "词元数"), say("weight", "权重"),
              say(f"epochs in {told} tokens", f"训练 {told} 词元的轮数")]  # fmt: skip
    rows = [
        [name, quantity(row["size"]), f"{100 * row['share']:.2f} %", f"{row['epochs']:.2f}"]
        for name, row in mixture.items()
    ]
    return text_table(header, rows)
