"""The text that every Python installation carries, as documents: no download, tens of megabytes.

Three kinds: the language reference's topics (`pydoc_data.topics`), for each module of the standard library its
docstrings as one document of prose, and the module's source without them, so that nothing is there twice. Modules are
parsed, never imported and never run (the topics are a table of strings, read with `ast.literal_eval`).
"""

import ast
import os
import re
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from athanor.base.errors import AthanorError
from athanor.data.document import Document, make_document
from athanor.data.reading.decode import Unreadable
from athanor.data.split import split_text

TOPICS = "pydoc_data/topics.py"
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "lib-dynload"})
TESTS = ("test/", "idlelib/idle_test/", "ctypes/test/", "distutils/tests/", "lib2to3/tests/", "tkinter/test/",
         "unittest/test/", "sqlite3/test/")  # fmt: skip
Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
QUOTED_CODING = re.compile(r"\A(?:#![^\n]*\n)?#[^\n]*coding[:=][^\n]*\n")


def standard_library() -> Path:
    """The folder of the running interpreter's standard library.

    Raises:
        AthanorError: this Python came without its sources.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    if not (folder / "os.py").is_file():
        raise AthanorError(
            f"this Python has no sources of its standard library in {folder}",
            allowed="path=python: needs an ordinary installation", fix="give a folder of your own: path=~/notes",
        )  # fmt: skip
    return folder


def list_modules(library: Path) -> list[str]:
    """Names of the library's source files, '/' between folders: the library first, its tests last, each sorted.

    Files that the build made for this machine (`_sysconfigdata…`, `config-…`) are left out: they hold its paths.
    """
    names = []
    for place, folders, files in os.walk(library):
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS and not f.startswith(("config-", ".")))
        inside = Path(place).relative_to(library).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        names += [prefix + file for file in sorted(files) if file.endswith(".py")]
    names = [name for name in names if not name.startswith("_sysconfigdata") and name != TOPICS]
    return sorted(names, key=lambda name: (name.startswith(TESTS), name))


def read_topics(library: Path) -> Iterator[Document]:
    """The language reference's topics, one document each."""
    path = library / TOPICS
    if not path.is_file():
        return
    tree = ast.parse(path.read_bytes())
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            topics = ast.literal_eval(statement.value)
            for topic in sorted(topics):
                yield make_document(topics[topic], f"python:topics/{topic}", language="en")


def read_module(library: Path, name: str, most_bytes: int) -> Iterator[Document]:
    """The documents of one module: its docstrings, and its source without them.

    Raises:
        Unreadable: the file cannot be opened or decoded.
    """
    source = read_source(library / name)
    docstrings, code = take_docstrings(source, module_name(name))
    if docstrings:
        yield from _parts(docstrings, f"python:Lib/{name}#docstrings", "prose", most_bytes)
    if code.strip():
        yield from _parts(code, f"python:Lib/{name}#code", "code", most_bytes)


def _parts(text: str, source: str, kind: str, most_bytes: int) -> Iterator[Document]:
    parts = list(split_text([text], most_bytes))
    for number, part in enumerate(parts, 1):
        yield make_document(part, source if len(parts) == 1 else f"{source}/{number}", kind=kind)


def read_source(path: Path) -> str:
    """A Python source as text, in the encoding it declares (PEP 263).

    Raises:
        Unreadable: it cannot be opened, or breaks the encoding it declares.
    """
    try:
        data = path.read_bytes()
        encoding, _ = tokenize.detect_encoding(BytesIO(data).readline)
        return data.decode(encoding).replace("\r\n", "\n")
    except OSError as problem:
        raise Unreadable(f"cannot be opened: {problem.strerror}") from None
    except (SyntaxError, UnicodeDecodeError) as problem:
        raise Unreadable("breaks its declared encoding", str(problem)) from None


def module_name(name: str) -> str:
    """'json/decoder.py' -> 'json.decoder'."""
    return name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def take_docstrings(source: str, module: str) -> tuple[str, str]:
    """(docstrings as prose under their qualified names, the source without them).

    A source that does not parse (some tests are broken on purpose) is all code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warnings are about the library's sources, not about ours
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "", source
    found: list[tuple[str, ast.Expr, bool]] = []
    _collect(tree, module, found)
    if not found:
        return "", source
    texts = [(name, _clean(statement)) for name, statement, _ in found]
    prose = "\n\n".join(f"{name}\n\n{text}" if name != module else f"{name}: {text}" for name, text in texts if text)
    return prose, _without(source, [(statement, alone) for _, statement, alone in found])


def _collect(node: Definition, name: str, found: list[tuple[str, ast.Expr, bool]]) -> None:
    """Collect a definition's docstring and those inside it: (name, statement, whether it is all there is)."""
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        found.append((name, first, len(node.body) == 1))
    waiting: list[ast.stmt] = list(reversed(node.body))
    while waiting:
        statement = waiting.pop()
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inside = "" if isinstance(node, ast.Module) else f"{name}."  # the module's name stands once, at the head
            _collect(statement, inside + _heading(statement), found)
            continue
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            for inner in reversed(getattr(statement, part, ())):
                waiting.append(inner)


def _heading(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """'decode(self, s)' for a function, 'JSONDecoder' for a class."""
    if isinstance(node, ast.ClassDef):
        return node.name
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    if node.args.vararg:
        names.append("*" + node.args.vararg.arg)
    elif node.args.kwonlyargs:
        names.append("*")
    names += [argument.arg for argument in node.args.kwonlyargs]
    if node.args.kwarg:
        names.append("**" + node.args.kwarg.arg)
    return f"{node.name}({', '.join(names)})"


def _clean(statement: ast.Expr) -> str:
    """The docstring's text without its indentation (PEP 257)."""
    assert isinstance(statement.value, ast.Constant)
    lines = str(statement.value.value).expandtabs().strip("\n").split("\n")
    indents = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    margin = min(indents, default=0)
    text = "\n".join([lines[0].strip(), *(line[margin:].rstrip() for line in lines[1:])]).strip()
    # A lone surrogate (an escape such as "\\ud800" in a docstring about Unicode) cannot be written as UTF-8.
    return text.encode("utf-8", errors="backslashreplace").decode()


def _without(source: str, statements: list[tuple[ast.Expr, bool]]) -> str:
    """The source with these statements cut out; a definition that had nothing else gets `...` in its place."""
    lines = source.encode().split(b"\n")  # ast counts columns in bytes of UTF-8
    for statement, alone in sorted(statements, key=lambda item: item[0].lineno, reverse=True):
        assert statement.end_lineno is not None
        first, last = statement.lineno - 1, statement.end_lineno - 1
        before, after = lines[first][: statement.col_offset], lines[last][statement.end_col_offset :]
        after = after.lstrip(b" \t;") if not alone else after
        rest = before + (b"..." if alone else b"") + after
        lines[first : last + 1] = [rest.rstrip()] if rest.strip() else []
    return b"\n".join(lines).decode()


def version() -> str:
    """Which Python's text this is."""
    return ".".join(map(str, sys.version_info[:3]))
