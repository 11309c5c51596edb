import json
import random
import re

import pytest

from athanor.base.files import read_json
from athanor.data.copies.repeats import RepeatSettings, remove_repeats


def run(tmp_path, texts, **settings):
    rows = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    half = len(rows) // 2
    for name, part in (("a", rows[:half]), ("b", rows[half:])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    result = remove_repeats([tmp_path / "a", tmp_path / "b"], tmp_path / "out", RepeatSettings(**settings))
    lines = (tmp_path / "out" / "documents.jsonl").read_text().splitlines()
    return result, {int(row["id"]): row["text"] for row in map(json.loads, lines)}


def covered_by_hand(texts, width):
    """For each text the words that lie in a run of `width` words which stood before, by a plain dictionary."""
    seen, found = set(), []
    for text in texts:
        words = [word.lower() for word in re.findall(r"\w+", text)]
        covered = [False] * len(words)
        for first in range(len(words) - width + 1):
            run = tuple(words[first : first + width])
            if run in seen:
                covered[first : first + width] = [True] * width
            seen.add(run)
        found.append([word for word, gone in zip(words, covered, strict=True) if not gone])
    return found


@pytest.mark.parametrize("width", [3, 10, 50])
def test_words_that_stay_are_those_of_a_plain_search(tmp_path, width):
    chance = random.Random(width)
    words = [f"{chance.choice(['é', 'Σ', 'İ', 'w', 'B'])}{number}" for number in range(4_000)]
    texts = []
    for _ in range(60):
        parts = []
        for _ in range(chance.randint(0, 6)):
            first = chance.randrange(len(words) - 200)
            parts.append(" ".join(words[first : first + chance.randint(1, 150)]))
        texts.append(", ".join(parts).upper() if chance.random() < 0.3 else ". ".join(parts))
    texts = [text.replace("Σ", "S").replace("İ", "I") if number % 2 else text for number, text in enumerate(texts)]
    texts = [re.sub("[ΣİÉ]", "q", text) for text in texts]
    expected = covered_by_hand(texts, width)
    result, left = run(tmp_path, texts, shortest=width)
    for number, stays in enumerate(expected):
        if stays or not texts[number]:
            assert [word.lower() for word in re.findall(r"\w+", left[number])] == stays
        else:
            assert number not in left
    assert result["changed"] > 5 and result["documents"] == 60


def test_the_first_occurrence_stays_and_the_rest_of_the_text_too(tmp_path):
    notice = "This Page is published under the usual terms and nothing in it may be relied upon by anyone"
    texts = [f"One. {notice}. End!", f"Two: {notice.lower().replace(' ', '  ')}? Über.", notice]
    result, left = run(tmp_path, texts, shortest=18)
    assert left == {0: texts[0], 1: "Two: ? Über."}
    stages = {stage["stage"]: stage for stage in read_json(tmp_path / "out" / "funnel.json")}
    assert stages["repeats"]["reasons"]["nothing new"]["count"] == 1
    assert stages["parts"]["reasons"]["stood before"]["examples"][0]["text"].startswith("this page")
    assert result["bytes_cut"] == len(notice) + len(notice.replace(" ", "  "))


def test_chinese_characters_are_words_and_letters_of_odd_case_do_not_shift_places(tmp_path):
    poem = "床前明月光疑是地上霜举头望明月低头思故乡"
    texts = [f"İİİ {poem} x", f"İstanbul ẞ {poem}y", f"K {poem[:9]}"]
    _, left = run(tmp_path, texts, shortest=10)
    assert left == {0: texts[0], 1: "İstanbul ẞ y", 2: texts[2]}


FIRST = "A long first line\nshort\nshort\n\nA second long line"


@pytest.mark.parametrize(
    ("unit", "second"),
    [("line", "short\n\n\nA third long line\n"), ("paragraph", "A long first line\nshort\n \nA third long line\n")],
)
def test_lines_and_paragraphs(tmp_path, unit, second):
    texts = [FIRST, "A long first line\nshort\n \nA second long line\n\nA third long line\n", "A second long line"]
    second = second.replace("short\n\n", "short\n \n") if unit == "line" else second
    result, found = run(tmp_path, texts, unit=unit, shortest=10)
    assert found == {0: FIRST, 1: second}
    assert (result["kept"], result["changed"]) == (2, 1)


def test_texts_without_repeats_stay(tmp_path):
    texts = ["", "...", "one", "two words", "x " * 10]
    assert run(tmp_path, texts, shortest=50)[1] == dict(enumerate(texts))
