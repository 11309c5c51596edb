"""Texts that were taken out of a store: reading leaves them out, whichever recipe reads them again.

removed.json in the store's folder lists them, by the hash of what was read, so that the same text under another name
stays out too. A step `read` takes those whose paths overlap with its own into its setting `without`, which is part of
the name of what it makes: everything made before the removal has another name.
"""

from collections.abc import Iterable, Sequence
from glob import has_magic
from pathlib import Path
from typing import Any

from athanor.base.files import hash_bytes, read_json, write_json
from athanor.store.artifact import Store

LIST = "removed.json"


def text_hash(text: str) -> str:
    """What names a removed text."""
    return hash_bytes(text.encode())[:16]


def read_removed(store: Store) -> list[dict[str, Any]]:
    """What was removed, in order: text (its hash), id and source (of the document as it was found), why, path."""
    path = store.root / LIST
    return list(read_json(path)) if path.is_file() else []


def add_removed(store: Store, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to the list what it does not have yet, and return the whole of it."""
    known = read_removed(store)
    there = {(row["text"], row["path"]) for row in known}
    known += [row for row in rows if (row["text"], row["path"]) not in there]
    write_json(store.root / LIST, known)
    return known


def without_for(path: str, removed: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Hashes of the removed texts that reading `path` may meet, sorted."""
    return tuple(sorted({row["text"] for row in removed if overlap(path, row["path"])}))


def overlap(one: str, other: str) -> bool:
    """Whether two things to read may have a file in common: one lies within the other, patterns by what is fixed."""
    first, second = _fixed(one), _fixed(other)
    shorter = min(len(first), len(second))
    return first[:shorter] == second[:shorter]


def _fixed(path: str) -> tuple[str, ...]:
    """The parts of an absolute path before the first that is a pattern; of python: or an address the whole of it."""
    scheme, colon, _ = path.partition(":")
    if colon and len(scheme) > 1 and "/" not in scheme:
        return (path,)
    parts = Path(path).expanduser().absolute().parts
    return parts[: next((place for place, part in enumerate(parts) if has_magic(part)), len(parts))]
