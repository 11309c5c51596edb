"""The steps `copies` and `repeats` against plain sets: what stays has no near copy, what goes had one."""

import random
import re
from functools import cache
from itertools import combinations, product
from pathlib import Path

import pytest

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.base.records import read_records
from athanor.data.copies.corpora import CorpusCopySettings, remove_corpus_copies, remove_corpus_repeats
from athanor.data.copies.repeats import RepeatSettings
from athanor.data.document import make_document
from athanor.data.shards import ShardWriter, read_shards
from athanor.store.artifact import Artifact
from tests.data.cleaning.test_clean import story
from tests.data.conftest import RunStep


@cache
def runs(text: str) -> set[tuple[str, ...]]:
    """All runs of five words."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[place : place + 5]) for place in range(len(words) - 4)}


def jaccard(one: str, other: str) -> float:
    """Of the word runs of two texts."""
    return len(runs(one) & runs(other)) / len(runs(one) | runs(other))


def altered(text: str, share: float, seed: int) -> str:
    """The text with a share of its words replaced."""
    chance, words = random.Random(seed), text.split()
    return " ".join(f"new{chance.randrange(99)}" if chance.random() < share else word for word in words)


@pytest.fixture
def corpus(run_step: RunStep):
    """`corpus(train, heldout)`: a corpus artifact of these texts."""

    def make(train: list[str], heldout: list[str], name: str = "web") -> Artifact:
        def fill(_settings: object, _parents: object, folder: Path, _progress: object) -> dict[str, int]:
            for split, texts in (("train", train), ("heldout", heldout)):
                with ShardWriter(folder, split, shard_bytes=9_000) as writer:
                    for number, text in enumerate(texts):
                        writer.write(make_document(text, f"{name}/{split}/{number}", language="en"))
            return {"documents": len(train)}

        return run_step(fill, None)

    return make


def texts_of(artifact: Artifact, split: str) -> dict[str, str]:
    return {document.source: document.text for document in read_shards(artifact, split)}


@pytest.fixture
def tangled(corpus) -> tuple[Artifact, Artifact]:
    """A corpus of 90 documents with near copies inside, of held-out documents and of a curated corpus."""
    books = [story(number, 12) for number in range(20)]
    heldout = [story(100 + number, 12) for number in range(6)] + [altered(books[0], 0.01, 1)]
    train = [story(200 + number, random.Random(number).randint(8, 14)) for number in range(60)]
    train += [altered(text, 0.02 * (n % 5), n) for n, text in enumerate([*books[:10], *heldout[:4], *train[:15]])]
    random.Random(5).shuffle(train)
    return corpus(train, heldout), corpus(books, [story(999)], "books")


@pytest.mark.parametrize("keep", ["first", "longest"])
def test_what_stays_has_no_near_copy_and_what_goes_had_one(keep: str, run_step: RunStep, tangled) -> None:
    web, books = tangled
    made = run_step(remove_corpus_copies, CorpusCopySettings(keep=keep), corpus=web, **{"against.books": books})
    before = {split: texts_of(web, split) for split in ("train", "heldout")}
    left = {split: texts_of(made, split) for split in ("train", "heldout")}
    curated = texts_of(books, "train")
    for one, other in combinations(left["train"].values(), 2):
        assert jaccard(one, other) < 0.7
    for one, other in product([*left["train"].values()], [*left["heldout"].values(), *curated.values()]):
        assert jaccard(one, other) < 0.7
    rows = list(read_records(made.file("duplicates.jsonl")))
    gone = {**before["train"], **before["heldout"]}.keys() - {**left["train"], **left["heldout"]}.keys()
    assert {row["removed_source"] for row in rows} == gone and len(gone) >= 15
    assert "web/heldout/6" in gone and len(left["heldout"]) == 6  # nearly a curated document
    everything = before["train"] | before["heldout"] | curated
    for row in rows:
        one, other = everything[row["removed_source"]], everything[row["kept_source"]]
        assert row["similarity"] == pytest.approx(jaccard(one, other), abs=1e-4) and row["similarity"] >= 0.7
        assert row["kept_source"] in left["train"] | left["heldout"] | curated
    assert made.measurements["copies_near"] == len(rows)
    stages = {stage["stage"]: stage for stage in read_json(made.file("funnel.json"))}
    assert sum(stage["in"] - stage["out"] for stage in stages.values()) == len(rows)
    assert (made.measurements["documents"], made.measurements["heldout_documents"]) == (len(left["train"]), 6)


def test_which_one_stays_is_as_it_was_said(run_step: RunStep, corpus) -> None:
    short, long = story(1, 12), story(1, 12) + story(2, 2)
    web = corpus([short, long, story(3)], [story(4)])
    for keep, expected in (("first", "web/train/0"), ("longest", "web/train/1")):
        made = run_step(remove_corpus_copies, CorpusCopySettings(keep=keep), corpus=web)
        assert set(texts_of(made, "train")) == {expected, "web/train/2"}
    untouched = run_step(remove_corpus_copies, CorpusCopySettings(threshold=1.0), corpus=web)
    assert texts_of(untouched, "train") == texts_of(web, "train")


def test_nothing_left_is_an_error(run_step: RunStep, corpus) -> None:
    same = corpus([story(1)], [story(2)])
    with pytest.raises(AthanorError, match="nothing is left of the heldout documents"):
        run_step(
            remove_corpus_copies, CorpusCopySettings(), corpus=same, **{"against.x": corpus([story(2)], [story(3)])}
        )


def test_a_stretch_stays_where_it_stood_first(run_step: RunStep, corpus) -> None:
    notice = " ".join(f"notice{number}" for number in range(60))
    train = [story(1), f"{story(2)}{notice} {story(3)}", f"{story(4)}{notice.upper()}\n{story(5)}", notice]
    web = corpus(train, [f"{story(6)}{notice}", story(7)])
    made = run_step(remove_corpus_repeats, RepeatSettings(), corpus=web)
    left = {**texts_of(made, "train"), **texts_of(made, "heldout")}
    assert [name for name, text in left.items() if "notice30" in text.lower()] == ["web/train/1"]
    assert "web/train/3" not in left and left["web/train/0"] == train[0]
    assert left["web/train/2"].startswith(story(4)) and left["web/train/2"].endswith(story(5))
    assert set(texts_of(made, "heldout")) == {"web/heldout/0", "web/heldout/1"}
    figures = made.measurements
    assert (figures["documents"], figures["heldout_documents"], figures["changed"]) == (3, 2, 2)
    assert figures["bytes_cut"] == 3 * len(notice)


def test_lines_are_cut_too(run_step: RunStep, corpus) -> None:
    line = "This page is published under the usual terms and nobody may rely on it.\n"
    web = corpus([story(1) + line, line + story(2)], [line + story(3)])
    made = run_step(remove_corpus_repeats, RepeatSettings(unit="line", shortest=30), corpus=web)
    assert list(texts_of(made, "train").values()) == [story(1) + line, story(2)]
    assert list(texts_of(made, "heldout").values()) == [story(3)]
