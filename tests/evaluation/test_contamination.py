"""Clean and dirty scores: a model that learnt leaked problems by heart shows it, and in the right place."""

import random
import shutil
from pathlib import Path

import pytest
import torch

from athanor.base import device
from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.base.progress import SilentProgress
from athanor.base.records import read_records, write_records
from athanor.data.copies.decontaminate import DecontaminateSettings, decontaminate
from athanor.data.copies.overlap import too_short
from athanor.data.copies.verdicts import item_key, read_verdicts
from athanor.data.document import make_document
from athanor.data.instruct.names import EXAM, TRAIN
from athanor.data.instruct.skills import examination
from athanor.data.shards import ShardWriter
from athanor.evaluation.contamination import scores_by_part, split_by_contamination
from athanor.evaluation.evaluate import EvaluateSettings, evaluate
from athanor.evaluation.exam import Answer
from athanor.evaluation.statistics import difference, share
from athanor.store.artifact import Artifact
from athanor.tokens.conversation import Conversation
from tests.conftest import athanor
from tests.data.cleaning.test_clean import story
from tests.data.conftest import run_step  # noqa: F401 - a fixture
from tests.taught import teach


def test_newcombes_interval_has_its_published_values() -> None:
    """Newcombe 1998, table II: 56/70 - 48/80, method 10."""
    found = difference(share(56, 70), share(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert difference(share(10, 10), share(0, 10)).high == 1.0


def test_items_are_known_by_their_words() -> None:
    report = {item_key("What is 2 + 2?"): "found", item_key("Name a metal."): "clean", item_key("2?"): "short",
              item_key("the answer"): "paraphrase"}  # fmt: skip
    items = [["what is\n2 2"], ["NAME A METAL!"], ["2?"], ["never looked for"], ["Name a metal.", "The answer"], []]
    parts = split_by_contamination(items, report)
    assert parts == {"clean": [1], "dirty": [0, 4], "unjudged": [2, 3, 5]}


def test_an_empty_part_has_no_score() -> None:
    answers = [Answer("sum", "en", "q", "4", "4", True), Answer("sum", "zh", "q", "4", "5", False)]
    scores = scores_by_part(answers, {"clean": [0], "dirty": [1], "unjudged": []})
    assert scores["clean"] == {"en": {"sum": share(1, 1).as_row(), "all": share(1, 1).as_row()}}
    assert set(scores) == {"clean", "dirty", "dirty_minus_clean"} and scores["dirty_minus_clean"] == {}


# ----------------------------------------------------------------------------------------- a model with leaked problems


@pytest.fixture
def exam() -> list[dict]:
    """Problems of two skills in two languages, all long enough to be looked for."""
    rows = examination(14, 1, skills=["json_object", "picking"])
    return [row for row in rows if not too_short(row["messages"][0]["content"])]


def reworded(question: str) -> str:
    """An English question's rare words in another order, inside other words."""
    words = question.rstrip("?").split()
    random.Random(7).shuffle(words)
    return "somebody told of it so: " + ", then ".join(words)


@pytest.fixture
def leaky(exam: list[dict], run_step):  # type: ignore[no-untyped-def]  # noqa: F811
    """(corpus, conversations, leaked): a corpus that holds every third problem word for word, and one reworded."""
    leaked = exam[::3]
    others = [row for row in exam if row not in leaked and row["meta"]["language"] == "en"]
    said = max(others, key=lambda row: row["messages"][0]["content"].count(","))  # the most rare words
    texts = [story(number, 12) for number in range(30)]
    for place, row in enumerate(leaked):
        question, answer = (turn["content"] for turn in row["messages"])
        texts[place] += f"{question.upper()}\n{answer}\n" + story(900 + place)
    texts[29] += reworded(said["messages"][0]["content"])

    def corpus(_settings: object, _parents: object, folder: Path, _progress: object) -> dict[str, int]:
        for split, rows in (("train", texts), ("heldout", [story(500, 30)])):
            with ShardWriter(folder, split) as writer:
                for number, text in enumerate(rows):
                    writer.write(make_document(text, f"{split}/{number}", language="en"))
        return {"documents": len(texts)}

    def conversations(_settings: object, _parents: object, folder: Path, _progress: object) -> dict[str, int]:
        write_records(folder / EXAM, exam)
        return {"conversations": write_records(folder / TRAIN, leaked)}

    return run_step(corpus, None), run_step(conversations, None), leaked, said


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A model this small is slower on two."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(device, "usable_cores", lambda: 1)
    device.set_threads()
    yield
    torch.set_num_threads(threads)


class Folder:
    """A model's folder where the step expects an artifact."""

    def __init__(self, path: Path):
        self.path = path


def test_what_was_learnt_by_heart_scores_apart(one_core, leaky, exam, tmp_path: Path, run_step) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    corpus, conversations, leaked, said = leaky
    searched = run_step(
        decontaminate, DecontaminateSettings(action="report"), corpus=corpus, **{"tasks.skills": conversations}
    )
    texts = [list(read_records(one.path / "train-00000.jsonl.zst")) for one in (corpus, searched)]
    assert texts[0] == texts[1]  # a report changes nothing
    verdicts = read_verdicts(searched)
    expected = {item_key(row["messages"][0]["content"]): "found" for row in leaked}
    assert {key: verdict for key, verdict in verdicts.items() if verdict == "found"} == expected
    assert verdicts[item_key(said["messages"][0]["content"])] == "paraphrase"
    questions = [row["messages"][0]["content"] for row in exam]
    dirty = {text for text in questions if verdicts[item_key(text)] in ("found", "paraphrase")}
    assert len(dirty) <= len(leaked) + 4  # problems made of the same words are near as well
    for name, steps in (("before", 2), ("after", 100)):
        (tmp_path / name).mkdir()
        teach([Conversation.from_row(row) for row in leaked], tmp_path / name, steps)
    parents = {
        "before": Folder(tmp_path / "before"), "after": Folder(tmp_path / "after"), "corpus": searched,
        "conversations": conversations,
    }  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    measured = evaluate(EvaluateSettings(heldout_bytes=1_000, exam=14), parents, out, SilentProgress())
    found = read_json(out / "results.json")["contamination"]
    assert found["items"] == {"clean": len(exam) - len(dirty), "dirty": len(dirty), "unjudged": 0}
    assert measured["items_dirty"] == len(dirty)
    answers = [row for row in read_records(out / "answers.jsonl") if row["model"] == "after"]
    for language in ("en", "zh"):
        for part, there in (("dirty", True), ("clean", False)):
            right = [
                row["right"] for row in answers if row["language"] == language and (row["question"] in dirty) == there
            ]
            assert found["after"][part][language]["all"] == share(sum(right), len(right)).as_row()
        assert found["after"]["dirty"][language]["all"]["value"] >= 0.7  # known by heart
        assert found["after"]["clean"][language]["all"]["value"] <= 0.4
        assert found["after"]["dirty_minus_clean"][language]["low"] > 0
        assert found["before"]["dirty"][language]["all"]["value"] == 0


def test_a_corpus_that_was_not_searched_says_nothing_and_cannot_be_asked(leaky, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    corpus, *_ = leaky
    with pytest.raises(AthanorError, match="not searched for test items"):
        split_by_contamination([["x"]], corpus)


def test_no_tasks_and_parents_without_problems_are_refused(leaky, run_step) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    corpus, *_ = leaky
    with pytest.raises(AthanorError, match="no test items to look for"):
        run_step(decontaminate, DecontaminateSettings(), corpus=corpus)
    with pytest.raises(AthanorError, match=r"tasks\.x: .* holds no problems apart"):
        run_step(decontaminate, DecontaminateSettings(), corpus=corpus, **{"tasks.x": corpus})


def test_the_report_of_a_run_shows_both_parts(journey: tuple[Path, dict], tmp_path: Path) -> None:
    """The quickstart with a search for its own examination: only the search, the evaluation and the report are made."""
    from tests.conftest import SMALLEST

    (tmp_path / "mine.yaml").write_text(
        "extends: quickstart\nsteps:\n"
        "  search: {do: decontaminate, from: {corpus: clean, tasks: {skills: skills}}, action: report}\n"
        "  evaluate: {from: {contamination: search}}\n"
    )
    store, before = tmp_path / "store", journey[1]
    shutil.copytree(journey[0], store)  # other tests count what stands in the journey's own
    done = athanor("run", str(tmp_path / "mine.yaml"), *SMALLEST, store=store)
    assert done.stderr.count("already made") == len(before) - 2
    names = read_json(store / "names" / "mine.json")
    results = read_json(store / "artifacts" / names["evaluate"] / "results.json")
    assert sum(results["contamination"]["items"].values()) == 2 * 2 * 17
    page = (store / "artifacts" / names["report"] / "report.html").read_text()
    assert "clean: not in the training text" in page and "过短，无法与巧合区分" in page
    plain = Artifact(store / "artifacts" / read_json(store / "names" / "quickstart.json")["evaluate"])
    assert "contamination" not in read_json(plain.file("results.json"))
