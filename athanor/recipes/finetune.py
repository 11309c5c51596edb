"""Fine-tuning as a recipe made in code: the model, the conversations, what learns, and how good it is before and after.

`athanor finetune MODEL DATA` needs no file: what was not given is chosen by `finetune_dial.py`, each with its reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.settings import nearest
from athanor.inference.dequantize import is_quantized
from athanor.inference.quantize import read_family
from athanor.models.adapters.places import chosen_places, every_place, places
from athanor.models.language import LanguageModel
from athanor.recipes.dial import Choice
from athanor.recipes.finetune_dial import LOW_RANK, METHODS, Situation, choose_all, cost
from athanor.recipes.recipe import Recipe, RecipeStep
from athanor.recipes.runner import PlannedStep, plan_recipe
from athanor.recipes.survey import Survey, look_at
from athanor.store.artifact import Artifact
from athanor.tokens.chat import check_vocabulary, open_chat

NAME = "finetune"
MERGEABLE = (*LOW_RANK, "ia3")
WHOLE = ("full", "freeze")  # methods that give a model, not an adapter
MEANT_FOR = {
    "rank": LOW_RANK, "alpha": LOW_RANK, "targets": MERGEABLE, "prefix_tokens": ("prefix", "ptuning"),
    "last_layers": ("freeze",),
}  # fmt: skip
NO_DOCUMENTS = ("document_rows", "compare_every")
LONG_ROWS = ("refuse", "truncate", "split")
LOOKS = 10  # at held-out conversations, over the run


@dataclass(frozen=True)
class Wish:
    """What a person asked for; None: to be chosen.

    Attributes:
        more: further settings of the training step, by name.
    """

    method: str | None = None
    rank: int | None = None
    alpha: float | None = None
    targets: tuple[str, ...] | None = None
    prefix_tokens: int | None = None
    last_layers: int | None = None
    learning_rate: float | None = None
    epochs: float | None = None
    rows: int | None = None
    context: int | None = None
    dtype: str | None = None
    long_rows: str = "refuse"
    merge: bool = False
    seed: int = 1
    more: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Finetuning:
    """A fine-tuning, decided.

    Attributes:
        cost: what the training is expected to take; see `finetune_dial.cost`.
    """

    recipe: Recipe
    plan: list[PlannedStep]
    chosen: dict[str, Choice]
    survey: Survey
    steps: int
    cost: dict[str, float]


def decide(model: Path, artifact: Artifact | None, data: str, wish: Wish) -> Finetuning:
    """Look at the model and at the data, choose what was not given, and plan every step.

    Args:
        model: the checkpoint's folder.
        artifact: its record, where it stands in the store; None: it is imported first.

    Raises:
        AthanorError: the data, the model or a wish cannot be used; nothing has started.
    """
    check(wish)
    tokenizer, template = open_chat(model)
    family, config = read_family(model)
    if family.build is not LanguageModel:
        raise AthanorError(f"{model} holds a network of the family {family.name}", allowed="a language model")
    check_vocabulary(tokenizer, config.vocabulary, model)
    if wish.context is not None and not 16 <= wish.context <= config.max_positions:
        raise AthanorError(
            f"context={wish.context:,}", allowed=f"16 to {config.max_positions:,}: the positions of the model"
        )
    known = places(family, config)
    if wish.targets is not None:
        chosen_places(every_place(family, config), wish.targets)
    survey = look_at(data, template)
    situation = Situation(config, survey, is_quantized(model), known)
    given = {name: getattr(wish, name) for name in Wish.__dataclass_fields__ if name not in ("more", "merge", "seed")}
    chosen = choose_all(situation, given)
    check_fit(situation, {name: one.value for name, one in chosen.items()}, wish)
    rows = recipe_steps(model, artifact, data, wish, situation, chosen)
    recipe = Recipe(NAME, {}, "nano", wish.seed, tuple(rows))
    plan = plan_recipe(recipe, {} if artifact is None else {"base": artifact.id})
    plan = [replace(one, chosen=chosen) if one.name == NAME else one for one in plan]
    steps = next(one.settings.steps for one in plan if one.name == NAME)
    expected = cost(situation, {name: one.value for name, one in chosen.items()}, steps)
    return Finetuning(recipe, plan, chosen, survey, steps, expected)


def check(wish: Wish) -> None:
    """Refuse what no data and no model could make right."""
    if wish.method is not None and wish.method not in METHODS:
        raise AthanorError(f"method={wish.method!r}", allowed=", ".join(METHODS), fix=nearest(wish.method, METHODS))
    if wish.long_rows not in LONG_ROWS:
        raise AthanorError(f"long_rows={wish.long_rows!r}", allowed=", ".join(LONG_ROWS))
    if wish.rows is not None and wish.rows < 1:
        raise AthanorError(f"rows={wish.rows}", allowed="1 or more")
    for name, value in (wish.more or {}).items():
        if name in NO_DOCUMENTS and value:
            raise AthanorError(
                f"--set {name}={value}: here are no documents beside the conversations",
                fix="a recipe's step `finetune` takes them, from: {model: …, conversations: …, shards: …}",
            )
        option = "long_rows" if name == "too_long" else name
        if option in Wish.__dataclass_fields__:
            flag = "--" + option.replace("_", "-")
            raise AthanorError(f"--set {name}={value}: it has an option of its own", fix=f"{flag} {value}")
    if wish.learning_rate is not None and not 0 < wish.learning_rate < 1:
        raise AthanorError(
            f"learning_rate={wish.learning_rate:g}", allowed="above 0 (else nothing is learnt), below 1 (else nothing "
            "is left of the model)", fix="leave it out to have it chosen, or look for it: --find-lr",
        )  # fmt: skip
    if wish.epochs is not None and not 0 < wish.epochs <= 1000:
        raise AthanorError(f"epochs={wish.epochs:g}", allowed="above 0, at most 1000")


def check_fit(situation: Situation, chosen: Mapping[str, Any], wish: Wish) -> None:
    """Refuse what does not go together with this model and this data."""
    config, method = situation.config, chosen["method"]
    for name, methods in MEANT_FOR.items():
        if getattr(wish, name) is not None and method not in methods:
            raise AthanorError(f"{name} has no meaning with method={method}: it is for {', '.join(methods)}")
    if situation.quantized and method not in (*LOW_RANK, "ia3", "prefix", "ptuning"):
        raise AthanorError(
            f"method={method} on an INT4 model: codes cannot learn", allowed="qlora, ia3, prefix, ptuning"
        )
    if wish.last_layers is not None and not 1 <= wish.last_layers <= config.layers:
        raise AthanorError(f"last_layers={wish.last_layers}", allowed=f"1 to {config.layers}, the layers of the model")
    room = config.max_positions - chosen.get("prefix_tokens", 0)
    if not 16 <= chosen["context"] <= room:
        raise AthanorError(
            f"context={chosen['context']:,} behind prefix_tokens={chosen['prefix_tokens']:,}",
            allowed=f"{config.max_positions:,} together, the positions of the model; at least 16 of them context",
        )
    longest = situation.survey.longest()
    if longest > chosen["context"] and wish.long_rows == "refuse":
        count = sum(length > chosen["context"] for length in situation.survey.lengths)
        raise AthanorError(
            f"{count:,} of {len(situation.survey.lengths):,} conversations are longer than a row of "
            f"{chosen['context']:,} tokens; the longest has {longest:,}",
            allowed="long_rows: truncate (their ends are lost), split (into several), refuse",
            fix=f"--long-rows truncate, or --long-rows split, or --context up to {room:,}",
        )
    if wish.merge and method not in MERGEABLE:
        why = "it is a whole model already" if method in WHOLE else "a prefix changes no weight"
        raise AthanorError(f"--merge with method={method}: {why}", allowed=", ".join(MERGEABLE))


def recipe_steps(
    model: Path, artifact: Artifact | None, data: str, wish: Wish, situation: Situation, chosen: Mapping[str, Choice]
) -> list[RecipeStep]:
    """All steps of the recipe, in order."""
    values = {name: one.value for name, one in chosen.items()}
    share = situation.survey.share_apart(values["apart"])
    rows = [] if artifact else [RecipeStep("base", "import", {}, {"path": str(model.resolve())})]
    place = str(Path(data).expanduser().resolve())
    rows.append(RecipeStep("data", "instruct", {}, {"path": place, "heldout_share": share}))
    base = "base"
    if values["method"] == "qlora" and not situation.quantized:
        rows.append(RecipeStep("int4", "int4", {"model": "base"}, {}))
        base = "int4"
    settings, do = training(values, situation, wish)
    rows.append(
        RecipeStep(NAME, do, {"model" if do == "finetune" else "base": base, "conversations": "data"}, settings)
    )
    rows.append(RecipeStep("answers", "answers", {"before": base, "after": NAME, "conversations": "data"}, {}))
    if wish.merge:
        rows.append(RecipeStep("merge", "merge", {"adapter": NAME, "base": base}, {}))
    return rows


def training(values: Mapping[str, Any], situation: Situation, wish: Wish) -> tuple[dict[str, Any], str]:
    """Settings of the training step, and which step it is."""
    survey, method = situation.survey, values["method"]
    learnt = survey.tokens * (survey.rows - values["apart"]) / survey.rows
    per_epoch = max(1, -(-round(learnt / values["context"] * 1.03) // values["rows"]))  # rows are not quite full
    more = dict(wish.more or {})
    steps = more["steps"] if type(more.get("steps")) is int else max(1, round(values["epochs"] * per_epoch))
    settings: dict[str, Any] = {
        "steps": steps, "rows": values["rows"], "context": values["context"], "too_long": wish.long_rows,
        "dtype": values["dtype"], "learning_rate": values["learning_rate"], "optimizer": "adamw",
        "schedule": "linear", "warmup": min(100, max(1, steps // 20)), "weight_decay": 0.0, "document_rows": 0,
        "watch_every": max(1, steps // LOOKS), "keep_best": True,
    }  # fmt: skip
    if method in WHOLE:
        settings["last_layers"] = values["last_layers"] if method == "freeze" else None
        return settings | more, "finetune"
    names = ("rank", "alpha", "prefix_tokens", "targets")
    settings |= {name: values[name] for name in names if values.get(name) is not None}
    settings["method"] = "lora" if method == "qlora" else method
    return settings | more, "adapt"
