"""Recipes: strict YAML that names steps and wires them together.

    extends: quickstart            # optional: another recipe, shipped or a path
    about: {en: ..., zh: ...}
    scale: nano                    # the one dial: every number the recipe leaves out follows from it
    seed: 1
    steps:
      data:  {do: read, path: "python:"}
      clean: {from: {documents: data}}          # `do` is the step's own name unless given

Any value is overridden on the command line as `step.key=value`, or `scale=micro`.
"""

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


@dataclass(frozen=True)
class RecipeStep:
    """A step as the recipe writes it: which function, which parents, which settings."""

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
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        value = text  # a path such as `C:\x: y` is text, not YAML
    step, dot, key = name.partition(".")
    if not dot and step in ("scale", "seed"):
        rows[step] = value
        return
    steps = rows.get("steps") or {}
    if not dot or step not in steps:
        raise AthanorError(
            f"{override!r}: there is no step {step!r} in this recipe",
            allowed=", ".join(steps) + " as step.key=value; scale=NAME; seed=NUMBER", fix=nearest(step, steps),
        )  # fmt: skip
    steps[step] = _with(steps[step] or {}, key.split("."), value)


def _with(row: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**row, path[0]: value}
    inner = row.get(path[0])
    return {**row, path[0]: _with(inner if isinstance(inner, dict) else {}, path[1:], value)}


def _check(name: str, rows: Mapping[str, Any]) -> Recipe:
    from athanor.recipes.steps import step_named

    steps = rows.get("steps")
    if not isinstance(steps, dict) or not steps:
        raise AthanorError(f"recipe {name} has no steps", allowed="steps: a name, then do: and from:")
    made: list[RecipeStep] = []
    for step, row in steps.items():
        row = dict(row or {})
        do = str(row.pop("do", step))
        parents = dict(row.pop("from", {}) or {})
        needs = step_named(do).needs
        earlier = [other.name for other in made]
        for role, parent in parents.items():
            if role not in needs:
                raise AthanorError(f"{step}: {do} takes no {role!r}", allowed=", ".join(needs) or "no parents",
                                   fix=nearest(str(role), needs))  # fmt: skip
            if parent not in earlier:
                raise AthanorError(f"{step}: from {role}: {parent!r} is not an earlier step",
                                   allowed=", ".join(earlier) or "none", fix=nearest(str(parent), earlier))  # fmt: skip
        missing = [role for role in needs if role not in parents]
        if missing:
            raise AthanorError(f"{step}: {do} needs {', '.join(missing)}", fix=f"from: {{{missing[0]}: a step}}")
        made.append(RecipeStep(str(step), do, parents, row))
    seed = rows.get("seed", 1)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise AthanorError(f"seed={seed!r} cannot be used", allowed="a whole number from 0 to 2^63 - 1")
    return Recipe(name, dict(rows.get("about") or {}), str(rows.get("scale", "nano")), seed, tuple(made))
