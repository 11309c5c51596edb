import random
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base.errors import AthanorError
from athanor.base.workers import Workers, using
from athanor.data.copies import deduplicate, minhash
from athanor.data.copies.byteshingles import hash_runs
from athanor.data.copies.deduplicate import NearCopyFinder, ShingleSets, find_near_copies, in_batches, rank_by
from athanor.data.copies.minhash import WAITING_BYTES, BandKeys, BandMaker, chance_found, choose_bands
from athanor.data.copies.shingles import find_words, jaccard, runs, shingles

HAN = "[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]"


def words_by_hand(text):
    """The same definition of a word, by regular expression."""
    return [
        word
        for word in re.findall(rf"{HAN}|(?:(?!{HAN})(?:\w))+", text.lower())
        if any(c.isalnum() or c == "_" for c in word)
    ]


def runs_by_hand(text, width=5):
    words = words_by_hand(text)
    width = min(width, len(words))
    return {tuple(words[place : place + width]) for place in range(len(words) - width + 1)} if words else set()


def exact_jaccard(left, right):
    a, b = runs_by_hand(left), runs_by_hand(right)
    return len(a & b) / len(a | b) if a | b else 0.0


@settings(max_examples=200)
@given(st.text(alphabet="aB1_ .,é汉字がカ한-\n", max_size=60))
def test_words_are_those_of_the_definition(text):
    hashes, starts, ends = find_words(text)
    words = [text.lower()[start:end] for start, end in zip(starts, ends, strict=True)]
    assert words == words_by_hand(text)
    by_word = {}
    for word, number in zip(words, hashes.tolist(), strict=True):
        assert by_word.setdefault(word, number) == number
    assert len(set(by_word.values())) == len(by_word)


def test_a_word_has_one_hash_wherever_it_stands():
    first = find_words("alpha beta gamma")[0]
    second = find_words("汉字, " + "x " * 70_000 + "gamma; Beta / ALPHA")[0]
    assert second[-3:].tolist() == first[::-1].tolist()


@settings(max_examples=100)
@given(st.text(alphabet="ab 汉字", max_size=80), st.text(alphabet="ab 汉字", max_size=80))
def test_similarity_is_exact(left, right):
    a, b = (shingles(find_words(text)[0], 5) for text in (left, right))
    assert len(a) == len(runs_by_hand(left))
    assert jaccard(a, b) == pytest.approx(exact_jaccard(left, right))


def test_runs_depend_on_order():
    one, two = find_words("a b c d e")[0], find_words("e d c b a")[0]
    assert runs(one, 5)[0] != runs(two, 5)[0]


def planted(language, pairs, seed, shortest=120, longest=400):
    """(texts, [(original, copy, exact similarity)]): real-looking documents and copies with some words replaced."""
    chance = random.Random(seed)
    if language == "zh":
        vocabulary, glue = [chr(0x4E00 + number) for number in range(3_000)], ""
    else:
        vocabulary, glue = [f"word{number}" for number in range(5_000)], " "

    def write(length):
        return [vocabulary[min(int(chance.paretovariate(0.5)), len(vocabulary) - 1)] for _ in range(length)]

    texts, truth = [], []
    for _ in range(pairs):
        words = write(chance.randint(shortest, longest))
        copied = list(words)
        for _ in range(int(len(words) * chance.uniform(0.0, 0.12))):
            copied[chance.randrange(len(copied))] = chance.choice(vocabulary)
        texts += [glue.join(words), glue.join(copied)]
        truth.append((len(texts) - 2, len(texts) - 1, exact_jaccard(texts[-2], texts[-1])))
    return texts, truth


def find(texts, threshold, folder):
    """Near copies; of two the longer stays."""
    return find_near_copies(texts, folder, threshold, ranks_D=rank_by(np.array([len(text) for text in texts])))


def greedy_by_hand(texts, ranks, threshold):
    """{removed: kept ones it is similar to}: one after the other in order of rank, against all that stay."""
    sets = [runs_by_hand(text) for text in texts]
    kept, removed = [], {}
    for number in sorted(range(len(texts)), key=lambda number: ranks[number]):
        similar = [
            other
            for other in kept
            if sets[number] and len(sets[number] & sets[other]) >= threshold * len(sets[number] | sets[other])
        ]
        if similar:
            removed[number] = similar
        else:
            kept.append(number)
    return removed


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("threshold", [0.7, 0.8])
def test_planted_copies_are_found_and_nothing_else_is_removed(tmp_path, language, threshold):
    texts, truth = planted(language, 600, seed=7)
    copies = find(texts, threshold, tmp_path)
    removed = {copy.removed for copy in copies}
    above = [(a, b) for a, b, similarity in truth if similarity >= threshold]
    found = sum(bool({a, b} & removed) for a, b in above)
    assert len(above) > 100 and found / len(above) >= 0.99
    for copy in copies:
        assert copy.similarity == pytest.approx(exact_jaccard(texts[copy.removed], texts[copy.kept]))
        assert copy.similarity >= threshold
        assert copy.kept not in removed
        assert len(texts[copy.kept]) >= len(texts[copy.removed])


def test_a_chain_of_similar_documents_does_not_swallow_its_far_end(tmp_path):
    words = [f"w{number}" for number in range(200)]
    chain = [" ".join(words[start : start + 100]) for start in range(0, 60, 12)]  # neighbours 0.77, next but one 0.60
    copies = find(chain, 0.7, tmp_path)
    for copy in copies:
        assert exact_jaccard(chain[copy.removed], chain[copy.kept]) >= 0.7
    assert len(chain) - len(copies) >= 2


def test_a_large_cluster_keeps_one_and_is_quick(tmp_path):
    import time

    page = " ".join(f"w{number}" for number in range(300))
    texts = [f"{page} {number}" for number in range(3_000)]
    begin = time.process_time()
    copies = find(texts, 0.7, tmp_path)
    assert len(copies) == 2_999 and len({copy.kept for copy in copies}) == 1
    assert time.process_time() - begin < 5


def test_documents_without_words_are_never_copies(tmp_path):
    assert find(["...", "!!!", "a b c d e f", "?"], 0.7, tmp_path) == []
    assert find(["..."], 0.7, tmp_path) == []


def test_short_documents_are_compared_whole(tmp_path):
    copies = find(["hello there", "Hello, there!", "good bye"], 0.7, tmp_path)
    assert [(copy.removed, copy.kept, copy.similarity) for copy in copies] == [(0, 1, 1.0)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_is_removed_is_what_comparing_all_with_all_removes(tmp_path, language):
    chance, texts = random.Random(11), []
    for original in planted(language, 12, seed=11)[0][::2]:
        words = list(original) if language == "zh" else original.split()
        for _ in range(10):  # each a little further away: neighbours are copies, the ends are not
            for _ in range(chance.randint(0, len(words) // 40)):
                words[chance.randrange(len(words))] = chance.choice(words)
            texts.append(("" if language == "zh" else " ").join(words))
    ranks = np.random.default_rng(5).permutation(len(texts))
    expected = greedy_by_hand(texts, ranks.tolist(), 0.7)
    copies = find_near_copies(texts, tmp_path, ranks_D=ranks)
    assert len(expected) > 40
    assert [copy.removed for copy in copies] == sorted(expected)
    for copy in copies:
        assert copy.kept in expected[copy.removed] and ranks[copy.kept] < ranks[copy.removed]


def test_the_outcome_does_not_depend_on_batches(tmp_path):
    texts = [text for pair in zip(planted("en", 80, 1)[0], planted("zh", 80, 2)[0], strict=True) for text in pair]
    outcomes = []
    for size in (1, 7, len(texts)):
        with NearCopyFinder(tmp_path, 0.7, 5) as finder:
            for start in range(0, len(texts), size):
                finder.add(texts[start : start + size])
            outcomes.append(finder.find(np.arange(len(texts)), lambda numbers: in_batches(texts[n] for n in numbers)))
    assert outcomes[0] == outcomes[1] == outcomes[2] and len(outcomes[0]) > 50


LETTERS = (
    "aBz09_ .,-\n\té ÉÀß ẞ İi\u0307 Σσς \u212a\u212b ПР Ⱥ Ω 汉字語 がカ 한글 ไทย \U00020000\U0001f600 ＡＢ１ ǅ \u1e9e"
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet=LETTERS, max_size=40), min_size=1, max_size=6), st.integers(1, 5))
def test_runs_of_many_texts_are_those_of_the_definition(texts, width):
    sets = hash_runs(texts, width).sets()
    assert [len(found) for found in sets] == [len(runs_by_hand(text, width)) for text in texts]
    by_run = {}
    for text in texts:
        for words in runs_by_hand(text, width):
            by_run.setdefault(words, len(by_run))
    for text, found in zip(texts, sets, strict=True):
        for other, theirs in zip(texts, sets, strict=True):
            a, b = runs_by_hand(text, width), runs_by_hand(other, width)
            assert len(np.intersect1d(found, theirs)) == len(a & b)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=LETTERS, max_size=60))
def test_a_text_is_hashed_alike_by_utf8_and_by_utf16(text):
    wide = "汉" * 300 + " " + text  # hashed by units of UTF-16, unless a letter forbids it
    narrow = "a " * 300 + text
    tail = [words for words in (hash_runs([wide], 1).sets()[0], hash_runs([narrow], 1).sets()[0])]
    shared = len(runs_by_hand(text, 1) - {("汉",), ("a",)})
    extra = len({("汉",), ("a",)} & runs_by_hand(text, 1))
    assert len(np.intersect1d(*tail)) == shared + extra


def test_long_words_and_sizes():
    words = ["x" * length for length in (7, 8, 9, 16, 17, 63, 64, 65, 66, 5_000)]
    texts = [" ".join(words), "".join(words), "é汉" * 200 + "😀", "", "İ" * 70]
    batch = hash_runs(texts, 1)
    assert batch.bytes_D.tolist() == [len(text.encode()) for text in texts]
    assert [len(found) for found in batch.sets()] == [10, 1, 2, 0, 1]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_bands_find_the_pairs_at_the_threshold(threshold):
    bands, rows = choose_bands(threshold)
    assert bands * rows <= 128
    assert chance_found(threshold, bands, rows) >= 0.998
    chance = random.Random(3)
    agree = [sum(chance.random() < threshold**rows for _ in range(bands)) >= 2 for _ in range(4_000)]
    assert np.mean(agree) == pytest.approx(chance_found(threshold, bands, rows), abs=0.004)


@pytest.mark.parametrize(("language", "shortest", "longest"), [("en", 120, 400), ("zh", 120, 400), ("en", 12, 40)])
def test_signatures_estimate_the_similarity(language, shortest, longest):
    texts, truth = planted(language, 400, 3, shortest, longest)
    signatures = BandMaker(0.7).sign(hash_runs(texts, 5))
    errors = [(signatures[a] == signatures[b]).mean() - similarity for a, b, similarity in truth]
    assert abs(np.mean(errors)) < 0.015 and np.std(errors) < (0.06 if shortest > 100 else 0.12)


@pytest.mark.parametrize("waiting", [1, 200])
def test_keys_and_sets_on_disk_change_nothing(tmp_path, monkeypatch, waiting):
    texts, _ = planted("zh", 60, 8)
    whole, _ = find_all(tmp_path / "whole", texts)
    for module in (minhash, deduplicate):
        monkeypatch.setattr(module, "WAITING_BYTES", waiting)
    assert find_all(tmp_path / "disk", texts)[0] == whole and len(whole) > 20
    with using(Workers(2)):
        assert find_all(tmp_path / "workers", texts)[0] == whole
    assert (tmp_path / "workers" / "ranks.bin").stat().st_size == 4 * len(texts)


def test_more_documents_than_ranks_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(minhash, "MOST_DOCUMENTS", 2)
    with pytest.raises(AthanorError, match="among 3 documents"):
        find(["a b c", "d e f", "g h i"], 0.7, tmp_path)


def test_memory_per_document_is_what_is_stated(tmp_path, monkeypatch):
    bands = choose_bands(0.7)[0]
    keys, documents = BandKeys(tmp_path, bands), WAITING_BYTES // 128
    for _ in range(3):
        keys.append(np.ones((documents // 2, bands), dtype=np.uint32))
    assert sum(len(part) for _, part in keys.bands()[0].read()) == documents * 3 // 2
    assert sum(path.stat().st_size for path in keys.paths) == 128 * documents * 3 // 2
    monkeypatch.setattr(minhash, "WAITING_BYTES", 1)  # keys on disk, as of many documents
    texts = [f"{number} " * 8 for number in range(8_000)]
    with NearCopyFinder(tmp_path, 0.7, 5) as finder:
        for start in range(0, len(texts), 500):
            finder.add(texts[start : start + 500])
        ranks = np.arange(len(texts))
        np.unique(ranks)  # numpy imports more of itself the first time
        tracemalloc.start()
        finder.find(ranks, lambda numbers: in_batches(texts[n] for n in numbers))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 * len(texts)


def near_copies(count: int) -> list[str]:
    """Texts of one large cluster: the same words but for one."""
    words = [f"word{number}" for number in range(60)]
    return [" ".join([*words[:30], f"own{number}", *words[30:]]) for number in range(count)]


def find_all(folder, texts, **more):
    """The copies among texts, and the peak of memory that looking for them took."""
    folder.mkdir()
    with NearCopyFinder(folder, 0.7, 5) as finder:
        for batch in in_batches(texts):
            finder.add(batch)
        np.unique(np.zeros(1))  # numpy imports more of itself the first time
        tracemalloc.start()
        copies = finder.find(np.arange(len(texts)), lambda numbers: in_batches(texts[n] for n in numbers), **more)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return copies, peak


def test_a_tiny_memory_for_sorting_changes_nothing_but_the_passes(tmp_path):
    texts, _ = planted("en", 300, 4, 60, 120)
    texts = [*texts, *near_copies(40), "", "one", "one"]
    whole, _ = find_all(tmp_path / "whole", texts)
    assert len(whole) > 100
    for number, sort_bytes in enumerate((32 * 40, 32 * 300)):  # a pass for every forty documents, three hundred
        assert find_all(tmp_path / str(number), texts, sort_bytes=sort_bytes)[0] == whole


def test_one_huge_cluster_takes_the_stated_memory_and_one_comparison_each(tmp_path, monkeypatch):
    texts, compared = near_copies(6_000), []
    shared = ShingleSets.count_shared

    def count(self, left, right):
        compared.append(len(left))
        return shared(self, left, right)

    monkeypatch.setattr(ShingleSets, "count_shared", count)
    for module in (minhash, deduplicate):
        monkeypatch.setattr(module, "WAITING_BYTES", 1)  # keys and sets on disk, as of many documents
    copies, peak = find_all(tmp_path / "work", texts)
    assert len(copies) == 5_999 and {copy.kept for copy in copies} == {0}
    assert sum(compared) == 5_999  # all pairs would be eighteen million
    assert peak < 900 * len(texts)
