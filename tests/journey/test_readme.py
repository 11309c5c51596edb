"""Both READMEs: every command in them runs, every folder they name exists, and they say the same in two languages."""

import json
import re
import shlex
from pathlib import Path

import pytest
import zstandard

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
        words += [setting for setting in SMALLEST if not setting.startswith("data.")]
    if words[0] == "finetune":
        words += ["--plan"]  # training is tested in tests/verbs/test_finetune.py
    words = [word for word in words if word != "--rebuild"]  # tested in tests/verbs/test_remove.py
    places = user_files(tmp_path)
    words = [places.get(word, word) for word in words]
    words = [word.replace("~/notes", str(tmp_path / "notes")) for word in words]
    done = athanor(*words, store=journey[0] if words[0] != "run" else tmp_path / "store")
    assert done.stdout or done.stderr


def user_files(folder: Path) -> dict[str, str]:
    """What the README's user has at hand: by the name in the README, where it stands here."""
    from pydoc_data.topics import topics

    notes, raw = folder / "notes", folder / "raw"
    for place in (notes, raw):
        place.mkdir()
    texts = list(topics.values())[:40]
    for number, text in enumerate(texts):
        (notes / f"{number}.md").write_text(text, encoding="utf-8")
    with zstandard.open(raw / "raw.jsonl.zst", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    chat = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A small furnace."}]
    rows = [
        json.dumps({"messages": [*chat, {"role": "user", "content": str(number)}, chat[1]]}) for number in range(40)
    ]
    (folder / "chats.jsonl").write_text("\n".join(rows) + "\n")
    return {
        "~/everything": str(notes),
        "raw/*.jsonl.zst": str(raw / "raw.jsonl.zst"),
        "notes/today.md": "python:topics/assert",
        **{name: str(folder / name) for name in ("corpus.html", "chats.jsonl", "unique", "cleaned")},
    }


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
