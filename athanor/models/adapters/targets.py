"""Which layers the settings of an adapter name, in PEFT's words: target_modules and what narrows them."""

from collections.abc import Iterable, Mapping
from typing import Any

from athanor.base.errors import AthanorError
from athanor.models.adapters.places import Place
from athanor.models.families import Family
from athanor.models.patterns import Pattern


def targeted(record: Mapping[str, Any], known: Mapping[str, Place], config: Any, where: str) -> list[str]:
    """Names of the pieces that the settings say have matrices.

    `target_modules` is 'all-linear', a pattern for whole names, or a list of names and ends of names; the ends may be
    narrowed to some layers. What `exclude_modules` names has none.
    """
    target = record.get("target_modules")
    layers = layer_numbers(record, where)
    if target == "all-linear":
        if getattr(config, "experts", None) is not None:
            raise AthanorError(f"{where}: target_modules='all-linear' with experts", allowed="the layers by name")
        chosen = [name for name, place in known.items() if place.kind == "linear"]
    elif isinstance(target, str):
        chosen = named_by(target, known)
    elif isinstance(target, list) and all(isinstance(one, str) for one in target):
        chosen = named_by(target, known)
        no_piece = sorted(end for end in target if not named_by([end], known))
        if no_piece:
            raise AthanorError(
                f"{where}: target_modules names {', '.join(no_piece)}: no layer of this network that can have an "
                "adapter", allowed=", ".join(sorted({name.rpartition(".")[2] for name in known})),
                fix="was the adapter made for another model?",
            )  # fmt: skip
        chosen = [
            name for name in chosen if layers is None or name in target or layer_of(name, record, where) in layers
        ]
    else:
        raise AthanorError(f"{where}: target_modules={target!r}", allowed="a list of names, a pattern, or 'all-linear'")
    if layers is not None and isinstance(target, str):
        raise AthanorError(f"{where}: layers_to_transform with a pattern", allowed="only with a list of target_modules")
    excluded = record.get("exclude_modules")
    if excluded is not None and not isinstance(excluded, str | list):
        raise AthanorError(f"{where}: exclude_modules={excluded!r}", allowed="a list of names, or a pattern")
    left_out = set(named_by(excluded, known)) if excluded else set()
    wanted = [name for name in chosen if name not in left_out]
    if not wanted:
        raise AthanorError(f"{where}: target_modules={target!r} matches no layer of this network",
                           fix="was the adapter made for another model?")  # fmt: skip
    return wanted


def named_by(target: str | list[Any], names: Iterable[str]) -> list[str]:
    """The names that a pattern matches, or that are on a list, whole or by their ends."""
    if isinstance(target, str):
        pattern = Pattern(target)
        return [name for name in names if pattern.matches(name)]
    return [name for name in names if any(name == one or name.endswith(f".{one}") for one in target)]


def layer_numbers(record: Mapping[str, Any], where: str) -> set[int] | None:
    """The layers that `layers_to_transform` names; None: all."""
    given = record.get("layers_to_transform")
    numbers = given if isinstance(given, list) else [given]
    if given is None or given == []:
        return None
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise AthanorError(f"{where}: layers_to_transform={given!r}", allowed="numbers of layers")
    return set(numbers)


def layer_of(name: str, record: Mapping[str, Any], where: str) -> int | None:
    """The number of the layer in a piece's name: the first behind a dot, or behind one of `layers_pattern`."""
    given = record.get("layers_pattern") or []
    before = [given] if isinstance(given, str) else given
    if not isinstance(before, list) or not all(isinstance(word, str) and word.isidentifier() for word in before):
        raise AthanorError(
            f"{where}: layers_pattern={given!r}", allowed="the name of the list of layers, such as layers"
        )
    words = name.split(".")
    for place, word in enumerate(words[1:-1], start=1):
        if word.isdecimal() and (not before or words[place - 1] in before):
            return int(word)
    return None


def shortest(pieces: set[str], family: Family, known: Mapping[str, Place]) -> list[str]:
    """Ends of names, such as q_proj, if they mean these pieces and nothing else of the family; else the whole names."""
    ends = sorted({name.rpartition(".")[2] for name in pieces})
    others = {theirs.removesuffix(".weight") for row in family.tensors for theirs in row.theirs if theirs is not None}
    every = {*known, *(name.replace("{}", "0") for name in others)}
    return ends if set(named_by(ends, every)) == pieces else sorted(pieces)


def escaped(name: str) -> str:
    """A name as a pattern that matches nothing else."""
    return name.replace(".", r"\.")
