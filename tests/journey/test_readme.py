"""Both READMEs: every command in them runs, every folder they name exists, and they say the same in two languages."""

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT, SMALLEST, athanor

READMES = ("README.md", "README.zh.md")


def commands(name: str) -> list[str]:
    """The lines of a README's ```sh blocks, comments cut off."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


ATHANOR = sorted({line for name in READMES for line in commands(name) if line.startswith("athanor ")})


def test_there_are_commands_to_run() -> None:
    assert len(ATHANOR) >= 7


@pytest.mark.parametrize("line", ATHANOR)
def test_every_command_runs(line: str, journey: tuple[Path, dict], tmp_path: Path) -> None:
    words = shlex.split(line)[1:]
    if words[0] == "serve":
        words = ["serve", "--help"]  # serving is tested with real clients in tests/serving
    if words[0] == "export":
        words += ["--out", str(tmp_path / "model.gguf")]
    if words[0] == "run":
        notes = tmp_path / "notes"
        notes.mkdir()
        from pydoc_data.topics import topics

        for number, text in enumerate(list(topics.values())[:40]):
            (notes / f"{number}.md").write_text(text, encoding="utf-8")
        words = [word.replace("~/notes", str(notes)) for word in words] + [
            setting for setting in SMALLEST if not setting.startswith("data.")
        ]
    done = athanor(*words, store=journey[0] if words[0] != "run" else tmp_path / "store")
    assert done.stdout or done.stderr


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {
        word for name in READMES for line in commands(name) for word in line.split()[1:2] if line.startswith("make")
    }
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("name", READMES)
def test_every_folder_of_the_tree_exists_and_none_is_missing(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    tree = re.search(r"```text\n(athanor/.*?)```", text, flags=re.DOTALL)
    assert tree, "the README shows the tree"
    named = set(re.findall(r"^  ([a-z_]+)/", tree.group(1), flags=re.MULTILINE))
    there = {path.name for path in (ROOT / "athanor").iterdir() if (path / "__init__.py").is_file()}
    assert named == there


@pytest.mark.parametrize("name", READMES)
def test_every_link_and_picture_is_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / target).exists(), f"{name} points at {target}"


def test_both_languages_show_the_same_commands_and_figures() -> None:
    assert commands(READMES[0]) == commands(READMES[1])
    figures = [re.findall(r"\d+(?:[.,:]\d+)+", (ROOT / name).read_text(encoding="utf-8")) for name in READMES]
    assert sorted(figures[0]) == sorted(figures[1])
