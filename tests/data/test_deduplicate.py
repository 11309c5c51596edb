import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data.deduplicate import ShingleFile, SignatureMaker, choose_bands, find_near_copies
from athanor.data.shingles import find_words, jaccard, runs, shingles

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


def planted(language, pairs, seed):
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
        words = write(chance.randint(120, 400))
        copied = list(words)
        for _ in range(int(len(words) * chance.uniform(0.0, 0.12))):
            copied[chance.randrange(len(copied))] = chance.choice(vocabulary)
        texts += [glue.join(words), glue.join(copied)]
        truth.append((len(texts) - 2, len(texts) - 1, exact_jaccard(texts[-2], texts[-1])))
    return texts, truth


def find(texts, threshold, path):
    sign = SignatureMaker()
    with ShingleFile(path) as stored:
        signatures = []
        for text in texts:
            found = shingles(find_words(text)[0], 5)
            stored.append(found)
            signatures.append(sign(found) if len(found) else np.zeros(128, np.uint32))
        return find_near_copies(np.stack(signatures), stored, [len(text) for text in texts], threshold)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("threshold", [0.7, 0.8])
def test_planted_copies_are_found_and_nothing_else_is_removed(tmp_path, language, threshold):
    texts, truth = planted(language, 600, seed=7)
    copies = find(texts, threshold, tmp_path / "runs")
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
    copies = find(chain, 0.7, tmp_path / "runs")
    for copy in copies:
        assert exact_jaccard(chain[copy.removed], chain[copy.kept]) >= 0.7
    assert len(chain) - len(copies) >= 2


def test_a_large_cluster_keeps_one_and_is_quick(tmp_path):
    import time

    page = " ".join(f"w{number}" for number in range(300))
    texts = [f"{page} {number}" for number in range(3_000)]
    begin = time.process_time()
    copies = find(texts, 0.7, tmp_path / "runs")
    assert len(copies) == 2_999 and len({copy.kept for copy in copies}) == 1
    assert time.process_time() - begin < 5


def test_documents_without_words_are_never_copies(tmp_path):
    assert find(["...", "!!!", "a b c d e f", "?"], 0.7, tmp_path / "runs") == []
    assert find(["..."], 0.7, tmp_path / "runs2") == []


def test_short_documents_are_compared_whole(tmp_path):
    copies = find(["hello there", "Hello, there!", "good bye"], 0.7, tmp_path / "runs")
    assert [(copy.removed, copy.kept, copy.similarity) for copy in copies] == [(0, 1, 1.0)]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_bands_find_99_of_100_pairs_at_the_threshold(threshold):
    bands, rows = choose_bands(threshold)
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= 0.99


def test_signatures_estimate_the_similarity():
    texts, truth = planted("en", 60, seed=3)
    sign = SignatureMaker()
    signatures = [sign(shingles(find_words(text)[0], 5)) for text in texts]
    errors = [(signatures[a] == signatures[b]).mean() - similarity for a, b, similarity in truth]
    assert abs(np.mean(errors)) < 0.02 and np.std(errors) < 0.06
