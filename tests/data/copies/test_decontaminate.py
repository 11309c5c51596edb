"""Test items planted into documents in the ways they turn up, and what must not be taken for them."""

import json
import random
import textwrap
from pathlib import Path

import pytest

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.base.records import read_records
from athanor.data.cleaning.clean import CleanSettings, clean_documents
from athanor.data.copies.decontaminate import DecontaminateSettings, decontaminate, fingerprint, read_items
from athanor.data.copies.overlap import Item, Runs, too_short
from athanor.data.reading.read import ReadSettings, read_documents
from athanor.data.shards import read_shards
from tests.data.cleaning.test_clean import story
from tests.data.conftest import RunStep

ENGLISH = (
    "Anna's train leaves at 9:15 and rides for 3 hours and 20 minutes; when does she arrive, if it's 10 minutes late?",
    "A baker sells forty-two loaves on Monday, half as many on Tuesday, and none on Sunday. How many loaves is that?",
    "Which of the following metals is liquid at room temperature and was once used in thermometers everywhere?",
)
CHINESE = (
    "小明有十二个苹果，送给小红五个以后，又买了三个，请问小明现在一共有多少个苹果？",
    "下列哪一座城市位于长江入海口，并且是中国人口最多的直辖市之一？",
)
ITEMS = [Item("tasks", number, text) for number, text in enumerate((*ENGLISH, *CHINESE))]
CHANGES = {
    "as it is": lambda text: text,
    "wrapped": lambda text: "\n".join(textwrap.wrap(text, 23)),
    "hyphened": lambda text: text.replace("minutes", "min-\nutes").replace("metals", "met-\n  als"),
    "upper case": str.upper,
    "title": str.title,
    "other marks": lambda text: text.replace(",", " ;").replace("?", "???").replace("'", "’").replace("，", " , "),
    "without apostrophes": lambda text: text.replace("'", ""),
    "full width": lambda text: text.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F)}),
    "embedded": lambda text: f"He said “{text}” and left.",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("number", range(len(ITEMS)))
def test_an_item_is_found_in_any_dress(change: str, number: int) -> None:
    text = story(1) + CHANGES[change](ITEMS[number].text) + "\n" + story(2)
    found = Runs(ITEMS).matches(text, 0.7)
    assert [match.item for match in found] == [number]
    assert found[0].share > 0.9


def test_half_an_item_is_not_an_item() -> None:
    half = ENGLISH[1][: len(ENGLISH[1]) // 2]
    assert Runs(ITEMS).matches(story(1) + half + story(2), 0.7) == []
    assert [match.item for match in Runs(ITEMS).matches(story(1) + half + story(2), 0.2)] == [1]


def test_texts_that_share_words_but_no_runs_are_not_found() -> None:
    words = " ".join(ENGLISH).split()
    for seed in range(50):
        random.Random(seed).shuffle(words)
        assert Runs(ITEMS).matches(" ".join(words), 0.5) == []


@pytest.mark.parametrize(
    ("text", "short"),
    [("下列说法正确的是", True), (CHINESE[1], False), ("Which is right?", True), (ENGLISH[2], False), ("", True)],
)
def test_what_is_too_short_to_tell_is_left_out(text: str, short: bool) -> None:
    assert too_short(text) is short
    runs = Runs([Item("tasks", 0, text)])
    assert runs.skipped == short
    assert bool(runs.matches(f"{story(1)} {text} {story(2)}", 0.7)) is not short


def write_tasks(folder: Path) -> Path:
    path = folder / "tasks.jsonl"
    rows = [{"question": text, "answer": "…"} for text in ENGLISH]
    rows += [{"messages": [{"role": "user", "content": text}]} for text in CHINESE]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def corpus(tmp_path: Path, run_step: RunStep):
    """Thirty stories, three of which hold items."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02d}.txt").write_text(story(number, 30))
    (folder / "long.txt").write_text(story(100, 60) + ENGLISH[0] + " " + story(101, 60))
    (folder / "two.txt").write_text(story(102, 40) + CHINESE[0] + story(103, 40) + ENGLISH[1] + story(104, 40))
    (folder / "short.txt").write_text(story(105, 2) + ENGLISH[2])
    documents = run_step(read_documents, ReadSettings(path=str(folder)))
    return run_step(clean_documents, CleanSettings(heldout_share=0.1), documents=documents)


def settings(tmp_path: Path, **more: object) -> DecontaminateSettings:
    return DecontaminateSettings(tasks=(str(write_tasks(tmp_path)),), **more)


def test_items_are_cut_out_and_the_rest_stays(tmp_path: Path, run_step: RunStep, corpus) -> None:
    made = run_step(decontaminate, settings(tmp_path), corpus=corpus)
    runs = Runs(ITEMS)
    before = {one.source: one.text for part in ("train", "heldout") for one in read_shards(corpus, part)}
    after = {one.source: one.text for part in ("train", "heldout") for one in read_shards(made, part)}
    assert not any(runs.matches(text, 0.3) for text in after.values())
    untouched = {source for source, text in before.items() if not runs.matches(text, 0.7)}
    assert len(untouched) == 30 and all(after[source] == before[source] for source in untouched)
    assert {"long.txt/1", "long.txt/2", "two.txt/1", "two.txt/2", "two.txt/3"} <= set(after)
    assert not any("short.txt" in source for source in after)  # nothing of it is longer than the margins
    rows = list(read_records(made.file("contaminated.jsonl")))
    assert {(row["source"], row["done"]) for row in rows} == {
        ("long.txt", "cut"), ("two.txt", "cut"), ("short.txt", "dropped"),
    }  # fmt: skip
    trained = {row["item"] for row in rows if row["part"] == "train"}
    assert trained == {1, 3}  # the others stood in a held-out document alone, which no model learns from
    verdicts = {row["number"]: row["verdict"] for row in read_records(made.file("items.jsonl"))}
    assert verdicts == {number: "found" if number in trained else "clean" for number in range(1, 6)}
    assert made.measurements["items_found"] == 4 and made.measurements["documents_touched"] == 3
    stages = {row["stage"]: row for row in read_json(made.file("funnel.json"))}
    assert sum(stage["in"] - stage["out"] for stage in stages.values()) == 1


def test_what_is_cut_is_the_item_with_its_margin(tmp_path: Path, run_step: RunStep, corpus) -> None:
    made = run_step(decontaminate, settings(tmp_path, margin=30), corpus=corpus)
    whole = next(
        one.text for part in ("train", "heldout") for one in read_shards(corpus, part) if one.source == "long.txt"
    )
    left = [one.text for part in ("train", "heldout") for one in read_shards(made, part) if "long.txt" in one.source]
    start = whole.index("Anna")
    end = start + len(ENGLISH[0])
    assert left[0] == whole[: start - 30].strip()
    assert left[1] == whole[end + 29 :].strip()  # the question mark is part of the margin


def test_dropping_drops_the_whole_document(tmp_path: Path, run_step: RunStep, corpus) -> None:
    made = run_step(decontaminate, settings(tmp_path, action="drop"), corpus=corpus)
    names = {one.source for part in ("train", "heldout") for one in read_shards(made, part)}
    assert len(names) == 30 and not names & {"long.txt", "two.txt", "short.txt"}


def test_paraphrases_are_reported_and_stay(tmp_path: Path, run_step: RunStep) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02d}.txt").write_text(story(number, 20))
    said = (
        "On Monday the baker sold loaves, forty-two of them; on Sunday no loaves, and Tuesday saw half as many sells."
    )
    (folder / "other.txt").write_text(story(50, 10) + said + story(51, 10))
    documents = run_step(read_documents, ReadSettings(path=str(folder)))
    corpus = run_step(clean_documents, CleanSettings(), documents=documents)
    made = run_step(decontaminate, settings(tmp_path), corpus=corpus)
    assert list(read_records(made.file("contaminated.jsonl"))) == []
    (row,) = read_records(made.file("paraphrases.jsonl"))
    assert (row["source"], row["item"]) == ("other.txt", 2)
    assert (
        run_step(decontaminate, settings(tmp_path, paraphrase_share=None), corpus=corpus).measurements["paraphrases"]
        == 0
    )


def test_bad_files_of_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AthanorError, match="there is no file"):
        fingerprint(DecontaminateSettings(tasks=(str(tmp_path / "none.jsonl"),)))
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(AthanorError, match="no test items"):
        read_items(tmp_path / "empty.txt", ("question",))
    (tmp_path / "other.jsonl").write_text('{"frage": "Wie spät ist es?"}\n')
    with pytest.raises(AthanorError, match="row 1 has none of the fields"):
        read_items(tmp_path / "other.jsonl", ("question",))
    changed = settings(tmp_path)
    before = fingerprint(changed)
    Path(changed.tasks[0]).write_text('{"question": "another one"}\n')
    assert fingerprint(changed) != before
