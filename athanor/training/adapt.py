"""Fine-tuning beside a frozen model: the step `adapt`, whose artifact is an adapter in PEFT's layout.

LoRA (Hu et al. 2021), rsLoRA (Kalajdzievski 2023), DoRA (Liu et al. 2024), IA3 (Liu et al. 2022), prefix tuning (Li and
Liang 2021), P-tuning v2 (Liu et al. 2022). Beside an INT4 model LoRA is QLoRA (Dettmers et al. 2023): each weight is
made from its codes where it is used, forward and backward, and never more than one at a time.
"""

from collections.abc import Mapping
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any, Literal

import pydantic
import torch

from athanor.base.errors import AthanorError
from athanor.base.files import hash_bytes, hash_json
from athanor.base.progress import Progress
from athanor.base.records import read_records
from athanor.data.instruct.names import TRAIN
from athanor.inference.dequantize import is_quantized
from athanor.inference.quantize import load_model, read_family
from athanor.models.adapters.attach import AnyAdapter, attach, drop, extract
from athanor.models.adapters.files import read_adapter, save_adapter, with_base
from athanor.models.adapters.lora import LoraSettings, fresh
from athanor.models.adapters.places import Place, places
from athanor.models.adapters.prefix import fresh_prefix
from athanor.models.adapters.scaling import fresh_scales
from athanor.models.convert import raw
from athanor.models.families import Family
from athanor.models.language import LanguageModel
from athanor.store.artifact import Artifact, weights_hash
from athanor.tokens.chat import Template, open_chat
from athanor.tokens.conversation import Conversation
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.optimizer import OptimizerName
from athanor.training.setup import DTYPES, prepare
from athanor.training.sft import ChatSettings, learn, lesson

Method = Literal["lora", "rslora", "dora", "ia3", "prefix", "ptuning"]
LOW_RANK: tuple[Method, ...] = ("lora", "rslora", "dora")
PREFIXES: tuple[Method, ...] = ("prefix", "ptuning")
USED_BY: dict[str, tuple[Method, ...]] = {
    "rank": LOW_RANK, "alpha": LOW_RANK, "dropout": LOW_RANK, "targets": (*LOW_RANK, "ia3"), "prefix_tokens": PREFIXES,
}  # fmt: skip
RANK, ALPHA, PREFIX_TOKENS = 8, 16.0, 20
NAME = "adapter"


class AdaptSettings(ChatSettings):
    """How to fine-tune beside a frozen model."""

    method: Method = "lora"
    rank: int | None = pydantic.Field(default=None, ge=1)
    """Of the matrices; unset: 8."""
    alpha: float | None = pydantic.Field(default=None, gt=0)
    """What the matrices make is multiplied by alpha / rank (rslora: / sqrt(rank)); unset: 16."""
    dropout: float | None = pydantic.Field(default=None, ge=0, lt=1)
    """Share of the matrices' inputs left out while learning; unset: none."""
    targets: tuple[str, ...] | None = None
    """Layers by the ends of their names, such as q_proj; unset: every linear layer; with ia3 keys, values and the last
    matrix of the feed-forward layer."""
    prefix_tokens: int | None = pydantic.Field(default=None, ge=1)
    """Positions of the prefix; unset: 20."""
    optimizer: OptimizerName = "adamw"
    weight_decay: float = pydantic.Field(default=0.0, ge=0)

    @pydantic.model_validator(mode="after")
    def _fits_method(self) -> "AdaptSettings":
        for name, methods in USED_BY.items():
            if getattr(self, name) is not None and self.method not in methods:
                raise ValueError(f"{name} has no meaning with method={self.method}: it is for {', '.join(methods)}")
        if self.engine == "tensor":
            raise ValueError("engine=tensor divides whole layers, not what adapters put around them: use ddp or fsdp2")
        if self.engine == "context" and self.method in PREFIXES:
            raise ValueError("engine=context divides rows, which a prefix stands before: use ddp or fsdp2")
        return self


def adapt(settings: AdaptSettings, parents: dict[str, Artifact], folder: Path, progress: Progress) -> dict[str, Any]:
    """Write an adapter of the parent model that `peft` loads, metrics.jsonl and packing.npy.

    The parent's weights are hashed before and after; the adapter knows their hash, and fits no other model.

    Raises:
        AthanorError: the model has no chat template, or a target is no layer of it.
    """
    base = parents["base"]
    model, tokenizer, template = opened(settings, parents)
    family, config = read_family(base.path)
    before = hash_weights(model)
    wrap(model, settings, family, parents, template)
    measured = learn(lesson(model, tokenizer, template, settings, parents, progress), settings, folder, progress)
    made = with_base(extract(model, family, NAME), weights_hash(base), None)
    drop(model, NAME)
    assert hash_weights(model) == before, "the base is what it was, to the bit"
    save_adapter(made, folder, family, config)
    read_adapter(folder, family, config)
    return {"method": settings.method, "weights_of_base": made.base, **measured}


def opened(
    settings: AdaptSettings, parents: Mapping[str, Artifact]
) -> tuple[LanguageModel, Tokenizer, Template]:  # fmt: skip
    """The base, ready to be trained beside, with its tokenizer and template."""
    base = parents["base"]
    base.verify()
    tokenizer, template = open_chat(base.path)
    quantized = is_quantized(base.path)
    model = load_model(base.path, dtype=DTYPES[settings.dtype], kernel="plain" if quantized else None)
    return prepare(model, None if quantized else settings.dtype, settings), tokenizer, template


def wrap(
    model: LanguageModel, settings: AdaptSettings, family: Family, parents: Mapping[str, Artifact], template: Template
) -> None:  # fmt: skip
    """Put a fresh adapter that learns on a model."""
    adapter = begin(settings, model, family, first_ids(parents["conversations"], template))
    attach(model, family, adapter, NAME, train=True)


def prepared(
    settings: AdaptSettings, parents: Mapping[str, Artifact]
) -> tuple[LanguageModel, Tokenizer, Template]:  # fmt: skip
    """A model with a fresh adapter that is to learn, its tokenizer and its template."""
    model, tokenizer, template = opened(settings, parents)
    family, _ = read_family(parents["base"].path)
    wrap(model, settings, family, parents, template)
    return model, tokenizer, template


def begin(settings: AdaptSettings, model: LanguageModel, family: Family, ids: list[int]) -> AnyAdapter:
    """The adapter before its first step.

    Args:
        ids: tokens of the data, for a prefix to begin as.
    """
    known = places(family, model.config)
    if settings.method in PREFIXES:
        tokens = settings.prefix_tokens or PREFIX_TOKENS
        hidden = model.config.width if settings.method == "prefix" else None
        return fresh_prefix(model, list(islice(cycle(ids), tokens)), hidden)
    if settings.method == "ia3":
        outward, inward = scaled(known, settings.targets)
        return fresh_scales(model, family, outward, inward)
    how = LoraSettings(
        rank=settings.rank or RANK, alpha=ALPHA if settings.alpha is None else settings.alpha,
        dropout=settings.dropout or 0.0, rank_stabilised=settings.method == "rslora",
        decomposed=settings.method == "dora",
    )  # fmt: skip
    return fresh(model, family, how, list(known) if settings.targets is None else settings.targets, settings.seed)


def scaled(known: dict[str, Place], targets: tuple[str, ...] | None) -> tuple[list[str], list[str]]:
    """The pieces whose outputs IA3 scales, and those whose inputs (Liu et al. 2022, section 3.3)."""
    if targets is None:
        names = [name for name, place in known.items() if is_key_or_value(place) or enters_last(place)]
    else:
        missing = [end for end in targets if not any(name == end or name.endswith(f".{end}") for name in known)]
        if missing:
            ends = sorted({name.rpartition(".")[2] for name in known})
            raise AthanorError(f"targets: {missing[0]!r} is no linear layer of this network", allowed=", ".join(ends))
        names = [name for name in known if any(name == end or name.endswith(f".{end}") for end in targets)]
    return [name for name in names if not enters_last(known[name])], [
        name for name in names if enters_last(known[name])
    ]


def is_key_or_value(place: Place) -> bool:
    """Whether a piece makes keys or values; where one matrix of the checkpoint makes queries too, it counts."""
    return place.layer.endswith("attention.qkv") and (len(place.heights) == 1 or place.piece > 0)


def enters_last(place: Place) -> bool:
    """Whether a piece is the last matrix of a feed-forward layer."""
    return place.layer.endswith("mlp.down")


def first_ids(conversations: Artifact, template: Template) -> list[int]:
    """Tokens of the first conversations, at least one."""
    rows = islice(enumerate(read_records(conversations.file(TRAIN)), 1), 8)
    rendered = template.render_all(Conversation.from_row(row, f"{TRAIN} row {number}") for number, row in rows)
    ids = list(chain.from_iterable(one.ids for one in rendered))
    if not ids:
        raise AthanorError(f"{conversations.id} holds no conversations", fix="make or import some first")
    return ids


def hash_weights(model: torch.nn.Module) -> str:
    """A hash of every weight and code of a model by its name."""
    return hash_json({name: hash_bytes(raw(tensor.cpu())) for name, tensor in model.state_dict().items()})
