"""What is shown of a corpus, against plain counting, and pairs of texts whose differences are known."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base.errors import AthanorError
from athanor.base.progress import SilentProgress
from athanor.data.cleaning.clean import CleanSettings, clean_documents
from athanor.data.document import make_document
from athanor.data.reading.read import ReadSettings, read_documents
from athanor.data.show.clusters import differences, find_clusters
from athanor.data.show.collection import Collection, of_artifact, of_path
from athanor.data.show.survey import survey
from tests.data.conftest import RunStep

WORDS = "harbour lantern river stone quiet violet seven copper meadow 光 über kettle".split()


def documents(count: int):
    draw = random.Random(7)
    texts = [" ".join(draw.choices(WORDS, k=draw.randrange(1, 60))) for _ in range(count)]
    return [make_document(text, f"d{n}", language=draw.choice(["en", "zh"])) for n, text in enumerate(texts)]


def seen(items, sample=10, seed=1, query=None):
    collection = Collection("it", lambda: (("train" if n % 3 else "heldout", one) for n, one in enumerate(items)))
    return survey(collection, sample, seed, query, SilentProgress())


def test_counts_are_those_of_plain_counting():
    items = documents(400)
    found = seen(items, query="Stone quiet")
    texts = [one.text for one in items]
    assert (found.documents, found.characters) == (400, sum(map(len, texts)))
    assert found.bytes == sum(len(text.encode()) for text in texts)
    counted = Counter(one.language for one in items)
    assert {code: row["documents"] for code, row in found.languages.items()} == counted
    assert sum(row["bytes"] for row in found.parts.values()) == found.bytes and len(found.parts) == 2
    assert sum(count for _, _, count in found.lengths) == 400
    for first, behind, count in found.lengths:
        assert count == sum(first <= len(text) < behind for text in texts)
    places = [match for text in texts for match in re.finditer("stone quiet", text)]
    assert found.found == len(places) > 5 and found.found_in == sum("stone quiet" in text for text in texts)
    for place in found.places:
        text = next(one.text for one in items if one.id == place["id"])
        assert place["before"] + place["match"] + place["after"] in text and place["match"] == "stone quiet"


def test_the_sample_is_the_same_whatever_the_order_and_another_for_another_seed():
    items = documents(300)
    chosen = [{row["id"] for row in seen(order, 20).sample} for order in (items, items[::-1])]
    assert chosen[0] == chosen[1] and len(chosen[0]) == 20
    assert {row["id"] for row in seen(items, 20, seed=2).sample} != chosen[0]
    counts = Counter(row["id"] for seed in range(200) for row in seen(items[:20], 5, seed).sample)
    assert min(counts.values()) > 25 and max(counts.values()) < 80  # 50 expected of each
    assert not seen(items, 0).sample


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*WORDS, "\n"]), max_size=30), st.lists(st.sampled_from([*WORDS, "\n"]), max_size=30))
def test_the_pieces_of_two_texts_are_the_texts(one, other):
    left, right = " ".join(one), " ".join(other)
    pieces = differences(left, right)
    for text, side in zip((left, right), pieces, strict=True):
        if all(what != "gap" for what, _ in side):
            assert "".join(piece for _, piece in side) == text
        else:
            length = sum(int(piece) if what == "gap" else len(piece) for what, piece in side)
            assert length == len(text)
    assert [p for p in pieces[0] if p[0] == "same"] == [p for p in pieces[1] if p[0] == "same"]


def test_a_changed_word_is_marked_and_what_is_equal_is_left_out():
    before = "word " * 2_000
    kept, removed = differences(before + "the old end" + before, before + "the new end" + before)
    assert ("only", "old") in kept and ("only", "new") in removed
    assert [what for what, _ in kept].count("only") == 1 and kept[0][0] == "gap" and int(kept[0][1]) > 9_000
    assert kept[-1][0] == removed[-1][0] == "rest"
    for number in range(0, 40, 5):  # wherever the cut falls, it is no difference
        kept, removed = differences(
            "a x" + "".join(f"{n} " for n in range(800)) + "z" * number,
            "a y" + number * "q" + "".join(f"{n} " for n in range(800)) + "z" * 50,
        )
        assert [what for what, _ in kept].count("only") == 1
    assert differences("炼金炉保持恒温", "炼丹炉保持恒温")[0][1] == ("only", "金")


def test_copies_among_files_are_found_and_those_removed_from_a_corpus_are_shown(run_step: RunStep, tmp_path):
    draw = random.Random(3)
    words = ["the", "of", "and", *("".join(draw.choices("aeioulnrst", k=6)) for _ in range(300))]
    texts = [" ".join(draw.choices(words, k=120)) for _ in range(12)]
    texts.append(texts[4] + " and one more")
    (tmp_path / "raw").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "raw" / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    count, clusters = find_clusters(of_path(str(tmp_path / "raw")), 5, 0.7, SilentProgress())
    assert count == 1 and {clusters[0]["source"], clusters[0]["members"][0]["source"]} == {"04.txt", "12.txt"}
    read = run_step(read_documents, ReadSettings(path=str(tmp_path / "raw")))
    made = run_step(clean_documents, CleanSettings(), documents=read)
    read.record["settings"] = made.record["settings"] = {}
    assert len(find_clusters(of_artifact(read), 5, 0.7, SilentProgress())[1]) == 1
    collection = of_artifact(made)
    assert collection.copies and [row["step"] for row in collection.funnels] == ["clean_documents"]
    shown = find_clusters(Collection("it", of_artifact(read).read, copies=collection.copies), 5, 0.7, SilentProgress())
    assert shown[0] == 1 and ("only", " and one more") in _joined(shown[1][0]["members"][0])
    with pytest.raises(AthanorError, match="there is nothing at"):
        of_path(str(tmp_path / "nowhere"))


def _joined(member):
    return [("only", "".join(piece for what, piece in side if what == "only"))
            for side in (member["kept_pieces"], member["removed_pieces"])]  # fmt: skip
