"""`athanor data show` over files, a run, and its page, which loads nothing and cannot be broken by a document."""

import json
import random
from pathlib import Path

import pytest

from tests.verbs.conftest import Verb

TEXT = "The lighthouse keeper counts {} ships in the evening and writes every name into a heavy book. "


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    draw = random.Random(1)
    words = ["the", "of", "and", *("".join(draw.choices("aeioulnrst", k=6)) for _ in range(300))]
    for number in range(12):
        text = TEXT.format(number) + " ".join(draw.choices(words, k=90))
        (folder / f"n{number:02d}.txt").write_text(text, encoding="utf-8")
    (folder / "bad.md").write_text("</script><script>alert(1)</script> <b>[bold]" + TEXT.format("many") + "and so on")
    (folder / "short.txt").write_text("灯塔")
    (folder / "copy.txt").write_text((folder / "n03.txt").read_text() + " indeed")
    return folder


def test_files_are_shown_with_their_copies_and_what_was_searched_for(notes: Path, verb: Verb) -> None:
    told = verb("data", "show", notes, "--search", "COUNTS 7 SHIPS")
    assert "15 documents" in told and "1 places in 1 documents" in told and "n07.txt" in told
    assert "1 clusters of copies" in told and "copy.txt" in told and "indeed" in told
    row = json.loads(verb("data", "show", notes / "n0*.txt", "--json", "--sample", "4"))
    assert row["survey"]["documents"] == 10 and len(row["survey"]["sample"]) == 4 and row["cluster_count"] == 0


def test_a_run_is_shown_with_its_funnel_on_one_page(notes: Path, verb: Verb) -> None:
    recipe = f"steps:\n  data: {{do: read, path: {notes}}}\n  clean: {{from: {{documents: data}}}}\n"
    Path("r.yaml").write_text(recipe)
    verb("run", "r.yaml")
    told = verb("data", "show", "clean")
    assert "minimum_words" in told and "short.txt" in told and "near copy" in told and "removed on the way" in told
    assert "→ page.html" in verb("data", "show", "clean", "--html", "page.html", "--search", "lighthouse")
    page = Path("page.html").read_text(encoding="utf-8")
    for fetching in ('src="', "src='", 'href="http', "@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert fetching not in page, f"the page would load something: {fetching}"
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert 'class="minus"' in page or 'class="plus"' in page
    for text in ("uPlot", "漏斗", "minimum_words", "a cluster of 2", 'class="hit">lighthouse'):
        assert text in page


def test_what_is_not_there_is_refused(notes: Path, verb: Verb) -> None:
    verb("run", _recipe(notes))
    assert "there is no file of this name" in verb("data", "show", "nothing", code=2)
    (notes / "empty").mkdir()
    assert "holds no document" in verb("data", "show", notes / "empty", code=2)


def _recipe(notes: Path) -> str:
    Path("r.yaml").write_text(f"steps:\n  data: {{do: read, path: {notes}}}\n")
    return "r.yaml"
