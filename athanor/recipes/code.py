"""The code version of a step: a hash of every source file it can reach, so that a changed filter redoes the corpus and
a changed web page redoes nothing."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from athanor.base.files import hash_bytes, hash_json

PACKAGE = Path(__file__).parent.parent
WITHOUT_EFFECT = {  # shown to people or run around a step; none of them can change a result
    "athanor.base.progress", "athanor.base.tables", "athanor.base.stopping", "athanor.base.words",
    "athanor.base.errors",
}  # fmt: skip


@functools.cache
def code_version(module: str) -> str:
    """Hash of the module and of all modules of this package that it imports, directly or not."""
    reached: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _path(name)
        if name in reached or name in WITHOUT_EFFECT or path is None:
            continue
        source = path.read_bytes()
        reached[name] = hash_bytes(source)
        waiting += _imports(source)
    return hash_json(reached)[:16]


def _path(module: str) -> Path | None:
    stem = PACKAGE.joinpath(*module.split(".")[1:])
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(source: bytes) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.startswith(PACKAGE.name + "."))
