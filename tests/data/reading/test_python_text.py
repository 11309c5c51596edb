import ast
import sys
import warnings
from pathlib import Path

import pytest

from athanor.data.reading import python_text
from athanor.data.reading.python_text import list_modules, read_module, read_topics, standard_library, take_docstrings

SOURCE = '''\
"""The module.

Second line.
"""
import os  # a comment stays


class Thing(object):
    """A thing."""

    size = "not a docstring"

    def grow(self, by, *, limit=None):
        """Grow.

        Much:
            indented example.
        """
        if by:
            def inner():
                "Inner words."
            return inner
        "neither is this"

    async def only(self): "One line only."


def empty():
    \'\'\'汉字 docstring.\'\'\'


def shared(): "first"; return 1
'''


def test_docstrings_are_taken_out_and_named():
    prose, code = take_docstrings(SOURCE, "pack.module")
    assert prose == (
        "pack.module: The module.\n\nSecond line.\n\nThing\n\nA thing.\n\nThing.grow(self, by, *, limit)\n\nGrow.\n\n"
        "Much:\n    indented example.\n\nThing.grow(self, by, *, limit).inner()\n\nInner words.\n\nThing.only(self)\n\n"
        "One line only.\n\nempty()\n\n汉字 docstring.\n\nshared()\n\nfirst"
    )
    for words in ("The module", "A thing", "Grow", "Inner words", "One line only", "汉字", "first"):
        assert words not in code
    for words in ("# a comment stays", '"not a docstring"', '"neither is this"', "return 1", "limit=None"):
        assert words in code


def statements_without_docstrings(source):
    """The tree of a source, its docstrings cut out by `ast` itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = (
                    node.body[1:] or []
                    if isinstance(node, ast.Module)
                    else node.body[1:] or [ast.Expr(ast.Constant(...))]
                )
    return ast.dump(tree)


@pytest.mark.parametrize(
    "name", ["json/decoder.py", "argparse.py", "typing.py", "turtle.py", "test/test_ast.py", "this.py"]
)
def test_what_is_left_of_a_real_module_is_the_same_program(name):
    source = python_text.read_source(standard_library() / name)
    _, code = take_docstrings(source, "m")
    assert statements_without_docstrings(code) == statements_without_docstrings(source)
    assert [line for line in source.split("\n") if line.startswith("#")] == [
        line for line in code.split("\n") if line.startswith("#")
    ]


def test_a_source_that_does_not_parse_is_all_code():
    assert take_docstrings("def broken(:\n", "m") == ("", "def broken(:\n")
    assert take_docstrings("x = '\0'", "m") == ("", "x = '\0'")


def test_the_library_is_listed_the_same_way_without_third_parties():
    names = list_modules(standard_library())
    assert names == list_modules(standard_library()) and len(set(names)) == len(names) > 500
    assert not any("site-packages" in name or name.startswith("_sysconfigdata") for name in names)
    first_test = next(place for place, name in enumerate(names) if name.startswith("test/"))
    assert names.index("zipfile.py" if "zipfile.py" in names else "zipfile/__init__.py") < first_test
    assert {"json/decoder.py", "os.py"} < set(names)


def test_documents_of_a_module_are_named_after_it():
    documents = list(read_module(standard_library(), "json/decoder.py", 1_000_000))
    assert [(document.source, document.kind) for document in documents] == [
        ("python:Lib/json/decoder.py#docstrings", "prose"), ("python:Lib/json/decoder.py#code", "code"),
    ]  # fmt: skip
    assert documents[0].text.startswith("json.decoder: Implementation of JSONDecoder")


def test_topics_are_those_of_pydoc():
    topics = {
        document.source.removeprefix("python:topics/"): document.text for document in read_topics(standard_library())
    }
    from pydoc_data.topics import topics as expected

    assert topics == expected


def test_nothing_is_imported():
    before = set(sys.modules)
    list(read_module(standard_library(), "this.py", 1_000_000))
    list(read_module(standard_library(), "antigravity.py", 1_000_000))
    assert not {"this", "antigravity"} & (set(sys.modules) - before)


def test_declared_encodings_are_obeyed(tmp_path: Path):
    (tmp_path / "old.py").write_bytes("# -*- coding: latin-1 -*-\nname = 'é'\n".encode("latin-1"))
    assert "'é'" in python_text.read_source(tmp_path / "old.py")
