"""Recipes: strict YAML that names steps and wires them together.

    extends: quickstart            # optional: another recipe, shipped or a path
    about: {en: ..., zh: ...}
    scale: nano                    # the one dial: every number the recipe leaves out follows from it
    seed: 1
    steps:
      data:  {do: read, path: "python:"}
      clean: {from: {documents: data}}          # `do` is the step's own name unless given
      mix: {from: {sources: {web: clean, books: other}}}    # a role that takes several parents has a name for each

Any value is overridden on the command line as `step.key=value`, or `scale=micro`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from athanor.base.errors import AthanorError
from athanor.base.settings import nearest

SHIPPED = Path(__file__).parent
TOP_KEYS = ("extends", "about", "scale", "seed", "steps")
LONGEST_FILE = 1_000_000
PARENT_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of one of several parents; becomes the name of a folder


@dataclass(frozen=True)
class RecipeStep:
    """A step as the recipe writes it: which function, which parents (by role, or 'role.name'), which settings."""

    name: str
    do: str
    parents: Mapping[str, str]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A recipe after `extends` and overrides; the dial has not filled in numbers yet."""

    name: str
    about: Mapping[str, str]
    scale: str
    seed: int
    steps: tuple[RecipeStep, ...] = field(default=())


def shipped_recipes() -> list[str]:
    """Names of the recipes in this package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by shipped name or path and apply `step.key=value` overrides.

    Raises:
        AthanorError: an unknown recipe, key, step or role, each with the nearest known spelling.
    """
    rows = _read_with_parents(name, ())
    for override in overrides:
        _apply(rows, override)
    return _check(Path(name).stem, rows)


def _find(name: str, beside: Path | None = None) -> Path:
    if name in shipped_recipes():
        return SHIPPED / f"{name}.yaml"
    for path in ([beside / name] if beside else []) + [Path(name).expanduser()]:
        if path.suffix in (".yaml", ".yml") and path.is_file():
            return path
    raise AthanorError(
        f"there is no recipe {name!r}", allowed=", ".join(shipped_recipes()) + ", or the path of a .yaml file",
        fix=nearest(name, shipped_recipes()) or "athanor run --help",
    )  # fmt: skip


def _read_with_parents(name: str, seen: tuple[Path, ...], beside: Path | None = None) -> dict[str, Any]:
    path = _find(name, beside)
    if path in seen:
        raise AthanorError(f"recipe {path} extends itself: " + " → ".join(str(place) for place in (*seen, path)))
    rows = _read(path)
    if "extends" not in rows:
        return rows
    base = _read_with_parents(str(rows.pop("extends")), (*seen, path), path.parent)
    return _merge(base, rows)


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LONGEST_FILE:
        raise AthanorError(f"{path} is {path.stat().st_size:,} bytes long: not a recipe", allowed="1 MB")
    try:
        rows = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise AthanorError(f"{path} is not valid YAML: {problem}") from None
    if not isinstance(rows, dict):
        raise AthanorError(f"{path} must hold keys and values", allowed=", ".join(TOP_KEYS))
    for key in rows:
        if key not in TOP_KEYS:
            raise AthanorError(f"{path}: {key!r} is not a key", allowed=", ".join(TOP_KEYS), fix=nearest(key, TOP_KEYS))
    return rows


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, refusing a key given twice (the standard one keeps the last and says nothing)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} is given twice, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def _merge(base: dict[str, Any], rows: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in rows.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply(rows: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator:
        raise AthanorError(f"{override!r} is not an override", allowed="step.key=value, scale=NAME or seed=NUMBER")
    value = value_of(text)
    step, dot, key = name.partition(".")
    if not dot and step in ("scale", "seed"):
        rows[step] = value
        return
    steps = rows.get("steps") or {}
    if step in steps and not key:
        raise AthanorError(f"{override!r} names no setting of {step}", allowed=f"{step}.key=value")
    if step not in steps:
        raise AthanorError(
            f"{override!r}: there is no step {step!r} in this recipe",
            allowed=", ".join(steps) + " as step.key=value; scale=NAME; seed=NUMBER", fix=nearest(step, steps),
        )  # fmt: skip
    steps[step] = _with(steps[step] or {}, key.split("."), value)


def value_of(text: str) -> Any:
    """A value as it is written after `key=`: YAML, or a text where that is none."""
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        return text  # a path such as `C:\x: y` is text, not YAML
    return text if isinstance(value, dict) and not text.lstrip().startswith("{") else value  # so is `python:`


def _with(row: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**row, path[0]: value}
    inner = row.get(path[0])
    return {**row, path[0]: _with(inner if isinstance(inner, dict) else {}, path[1:], value)}


def _check(name: str, rows: Mapping[str, Any]) -> Recipe:
    steps = rows.get("steps")
    if not isinstance(steps, dict) or not steps:
        raise AthanorError(f"recipe {name} has no steps", allowed="steps: a name, then do: and from:")
    made: list[RecipeStep] = []
    for step, row in _in_order(steps).items():
        row = dict(row or {})
        do = str(row.pop("do", step))
        parents = _parents(str(step), do, row.pop("from", None) or {}, [other.name for other in made])
        made.append(RecipeStep(str(step), do, parents, row))
    seed = rows.get("seed", 1)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise AthanorError(f"seed={seed!r} cannot be used", allowed="a whole number from 0 to 2^63 - 1")
    return Recipe(name, dict(rows.get("about") or {}), str(rows.get("scale", "nano")), seed, tuple(made))


def _in_order(steps: Mapping[Any, Any]) -> dict[Any, Any]:
    """The steps, each behind its parents and else as written: so a recipe can put one before those that it extends."""
    waiting, ordered = dict(steps), dict[Any, Any]()
    while waiting:
        ready = (step for step, row in waiting.items() if not _named_parents(row) & (waiting.keys() - {step}))
        step = next(ready, next(iter(waiting)))  # parents in a circle: the next check names them
        ordered[step] = waiting.pop(step)
    return ordered


def _named_parents(row: Any) -> set[str]:
    """Every step that a row's `from` names, however deep."""
    given = row.get("from") if isinstance(row, dict) else None
    found: set[str] = set()
    for parent in given.values() if isinstance(given, dict) else ():
        found |= {one for one in (parent.values() if isinstance(parent, dict) else [parent]) if isinstance(one, str)}
    return found


def _parents(step: str, do: str, given: Any, earlier: Sequence[str]) -> dict[str, str]:
    """Role, or 'role.name' where a role takes several, to the earlier step that plays it."""
    from athanor.recipes.steps import step_named

    roles = step_named(do).roles
    if not isinstance(given, dict):
        raise AthanorError(f"{step}: from: {given!r} is no list of roles", allowed=_form(roles))
    found: dict[str, str] = {}
    for role, parent in given.items():
        if role not in roles:
            raise AthanorError(f"{step}: {do} takes no {role!r}", allowed=", ".join(roles) or "no parents",
                               fix=nearest(str(role), roles))  # fmt: skip
        if (roles[role] in ("+", "*")) != isinstance(parent, dict):
            raise AthanorError(f"{step}: from {role}: {parent!r}", allowed=_form({role: roles[role]}))
        found |= _named(step, role, parent) if isinstance(parent, dict) else {role: parent}
    for role, parent in found.items():
        if parent not in earlier:
            raise AthanorError(f"{step}: from {role}: {parent!r} is not an earlier step",
                               allowed=", ".join(earlier) or "none", fix=nearest(str(parent), earlier))  # fmt: skip
    missing = [role for role, sign in roles.items() if sign in ("", "+") and not given.get(role)]
    if missing:
        raise AthanorError(
            f"{step}: {do} needs {', '.join(missing)}", fix=f"from: {_form({missing[0]: roles[missing[0]]})}"
        )
    return found


def _named(step: str, role: str, parents: Mapping[Any, Any]) -> dict[str, Any]:
    """The parents of a role that takes several, by 'role.name'."""
    for name in parents:
        if not isinstance(name, str) or not PARENT_NAME.fullmatch(name):
            raise AthanorError(
                f"{step}: from {role}: {name!r} is no name", allowed="letters, digits, _ and -, at most 64"
            )
    return {f"{role}.{name}": parent for name, parent in parents.items()}


def _form(roles: Mapping[str, str]) -> str:
    """How `from` is written for these roles."""
    shown = {role: "{name: a step, …}" if sign in ("+", "*") else "a step" for role, sign in roles.items()}
    return "{" + ", ".join(f"{role}: {form}" for role, form in shown.items()) + "}"


def nested(parents: Mapping[str, str]) -> dict[str, Any]:
    """Parents as `from` writes them: {'sources.web': a} becomes {'sources': {'web': a}}."""
    written: dict[str, Any] = {}
    for role, parent in parents.items():
        role, dot, name = role.partition(".")
        if dot:
            written.setdefault(role, {})[name] = parent
        else:
            written[role] = parent
    return written
