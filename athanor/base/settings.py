"""Strict settings: every key is known, every value is checked, nothing is accepted and ignored."""

import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pydantic

from athanor.base.errors import AthanorError


class Settings(pydantic.BaseModel):
    """Base of every step's settings: unknown keys are refused, values never change after they were checked."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


SomeSettings = TypeVar("SomeSettings", bound=Settings)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the known word nearest to `word`, or nothing."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}?" if match else ""


def parse_settings(cls: type[SomeSettings], values: Mapping[str, Any], where: str) -> SomeSettings:
    """Check `values` against `cls`.

    Raises:
        AthanorError: names the key as the user wrote it (`where.key`), the value, and what is allowed.
    """
    known = list(cls.model_fields)
    for key in values:
        if key not in known:
            raise AthanorError(
                f"{where}.{key} is not a setting",
                allowed=", ".join(known) or "this step has no settings",
                fix=nearest(str(key), known),
            )
    try:
        return cls.model_validate(dict(values))
    except pydantic.ValidationError as problem:
        first = problem.errors()[0]
        if not first["loc"]:  # settings that contradict each other
            raise AthanorError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
        place = ".".join([where, *(str(part) for part in first["loc"])])
        around, field = _field(cls, first["loc"])
        if first["type"] == "extra_forbidden":
            known = list(around.model_fields)
            fix = nearest(str(first["loc"][-1]), known)
            raise AthanorError(f"{place} is not a setting", allowed=", ".join(known), fix=fix) from None
        raise AthanorError(
            f"{place}={first['input']!r} cannot be used: {first['msg'].removeprefix('Value error, ')}",
            allowed=_allowed(field) if field else "",
            fix=nearest(str(first["input"]), _words(field.annotation)) if field else "",
        ) from None


def _field(
    cls: type[Settings], place: tuple[int | str, ...]
) -> tuple[type[Settings], pydantic.fields.FieldInfo | None]:
    """The field that a problem is about, which may be one of settings inside settings, and the settings around it."""
    field = cls.model_fields.get(str(place[0]))
    kinds = (field.annotation, *typing.get_args(field.annotation)) if field else ()
    inside = [kind for kind in kinds if _is_settings(kind)]
    return _field(inside[0], place[1:]) if inside and len(place) > 1 else (cls, field)


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "of at least", "pattern": "as"}


def _allowed(field: pydantic.fields.FieldInfo) -> str:
    given: Any = field.annotation
    plain = isinstance(given, type) and not typing.get_args(given)
    listed = tuple in (typing.get_origin(given), *map(typing.get_origin, typing.get_args(given)))
    kind = ", ".join(_words(given)) or (given.__name__ if plain else "a list in brackets" if listed else str(given))
    limits = [
        f"{words} {getattr(limit, name)}"
        for limit in field.metadata for name, words in LIMITS.items() if getattr(limit, name, None) is not None
    ]  # fmt: skip
    default = "" if field.is_required() else f"(default {field.get_default(call_default_factory=True)!r})"
    return " ".join(part for part in (kind, " and ".join(limits), default) if part)


def _words(annotation: Any) -> list[str]:
    """The words that a Literal names, also one among other kinds (Literal["a"] | None)."""
    if typing.get_origin(annotation) is typing.Literal:
        return [str(word) for word in typing.get_args(annotation)]
    return [word for part in typing.get_args(annotation) for word in _words(part)]
