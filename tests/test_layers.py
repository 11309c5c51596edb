"""The map of the package, and the promise that imports follow it. Imports hidden in functions count too."""

import ast
from collections.abc import Iterator
from pathlib import Path

MAP = {  # folder: what it may import; every name stands above its user
    "native": "",  # C: opened by base/native.py, nothing to import
    "base": "",
    "store": "base",
    "tokens": "base",
    "models": "base",
    "data": "base store tokens",
    "inference": "base tokens models",
    "training": "base store tokens models data inference",
    "evaluation": "base store tokens data inference",
    "serving": "base store tokens inference",
    "perf": "base models training inference serving",
    "recipes": "base store tokens models data inference training evaluation",
    "studio": "base store",  # talks to serving over HTTP, starts recipes as processes
    "verbs": "base store tokens models data inference training evaluation serving perf recipes studio",
}
ROOT = Path(__file__).parent.parent / "athanor"
LONGEST_FILE, LONGEST_FUNCTION = 500, 60


def imported_folders(file: Path) -> Iterator[tuple[int, str]]:
    """(line, folder) of every import of our own package, wherever in the file it stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == ROOT.name and len(parts) > 1:
                yield node.lineno, parts[1]


def test_the_map_has_no_cycle() -> None:
    for place, (folder, allowed) in enumerate(MAP.items()):
        assert set(allowed.split()) <= set(list(MAP)[:place]), f"{folder} may import only folders above it in MAP"


def test_every_folder_is_on_the_map() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(MAP), f"not on the map: {folders - set(MAP)}"


def test_imports_follow_the_map() -> None:
    wrong = {
        f"{file.relative_to(ROOT)}:{line}: {home} may not import {folder}"
        for file in ROOT.rglob("*.py")
        if (home := file.relative_to(ROOT).parts[0]) in MAP  # cli.py may name everything, lazily
        for line, folder in imported_folders(file)
        if folder != home and folder in MAP and folder not in MAP[home].split()
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_sizes_stay_readable() -> None:
    big = []
    for file in ROOT.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if text.count("\n") > LONGEST_FILE:
            big.append(f"{file}: {text.count(chr(10))} lines, at most {LONGEST_FILE}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    big.append(f"{file}:{node.lineno}: {node.name} has {length} lines, at most {LONGEST_FUNCTION}")
    for file in (ROOT / "native").glob("*.[ch]"):
        lines = file.read_text(encoding="utf-8").split("\n")
        ends = [number for number, line in enumerate(lines) if line == "}"]
        tops = [number for number, line in enumerate(lines) if line and line[0] not in " /}#"]
        begins = [max(number for number in tops if number < end) for end in ends]
        longest = max((end - begin for begin, end in zip(begins, ends, strict=True)), default=0)
        if len(lines) > LONGEST_FILE or longest > LONGEST_FUNCTION:
            big.append(f"{file}: {len(lines)} lines, its longest function {longest}")
    assert not big, "\n".join(big)
