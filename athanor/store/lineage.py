"""Lineage: what an artifact was made from, back to the raw documents."""

from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.tables import duration, quantity, size
from athanor.store.artifact import Artifact, Store

SHOWN = 3  # measurements in one line


def summary(artifact: Artifact) -> dict[str, str]:
    """One line about an artifact: its step, size, time and first measurements."""
    record = artifact.record
    return {
        "artifact": artifact.id,
        "step": str(record.get("name", record["step"])),
        "size": size(sum(row["bytes"] for row in record["files"].values())),
        "took": duration(record["measurements"].get("seconds", 0.0)),
        "result": _result(record["measurements"]),
    }


def ancestry(store: Store, artifact: Artifact, role: str = "") -> dict[str, Any]:
    """The artifact and, under `parents`, everything it was made from.

    A parent that is gone from the store stays in the tree, marked `missing`.
    """
    parents = []
    for parent_role, name in artifact.record["parents"].items():
        try:
            parents.append(ancestry(store, store.get(name), parent_role))
        except AthanorError as problem:
            parents.append({"artifact": name, "role": parent_role, "missing": problem.what, "parents": []})
    record = artifact.record
    kept = ("step", "name", "settings", "code", "version", "machine", "measurements")
    return {
        "artifact": artifact.id, "role": role, **{key: record.get(key) for key in kept},
        "files": {name: row["hash"] for name, row in record["files"].items()},
        "summary": summary(artifact), "parents": parents,
    }  # fmt: skip


def draw(tree: dict[str, Any]) -> str:
    """The tree as text; an artifact that appears twice is drawn once and referred to afterwards."""
    seen: set[str] = set()
    return "\n".join(_lines(tree, "", "", seen))


def _lines(tree: dict[str, Any], first: str, rest: str, seen: set[str]) -> list[str]:
    name = tree["artifact"]
    role = f" ({tree['role']})" if tree.get("role") else ""
    if "missing" in tree:
        return [f"{first}{name}{role} · missing: {tree['missing']}"]
    row = tree["summary"]
    if name in seen:
        return [f"{first}{name}{role} · see above"]
    seen.add(name)
    lines = [f"{first}{name}{role} · {row['step']} · {row['size']} · {row['took']}"]
    parents = tree["parents"]
    if row["result"]:
        lines.append(f"{rest}{'│' if parents else ' '}  {row['result']}")
    for number, parent in enumerate(parents):
        last = number == len(parents) - 1
        lines += _lines(parent, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "), seen)
    return lines


def _result(measurements: dict[str, Any]) -> str:
    shown = []
    for name, value in measurements.items():
        if isinstance(value, bool | str | list | dict) or name in ("seconds", "peak_memory"):
            continue
        shown.append(f"{name.replace('_', ' ')} {quantity(value) if value is not None else '–'}")
    return ", ".join(shown[:SHOWN])
