import random

import pytest

from athanor.data.cleaning.facts import Facts
from athanor.data.cleaning.filters import Thresholds, judge, judge_pages
from athanor.data.cleaning.language import guess_language
from athanor.data.document import make_document

PROSE = (
    "The river rose slowly during the night, and by the morning the lower meadow was under water. People came down from"
    " the village with boats to bring the sheep to the hill, which nobody had thought to do before the rain began. An"
    " old man said that he had seen it higher when he was a boy, but few of them believed what he told that day."
)
GOOD_PAGE = (
    "The baker opened his shop long before the sun came up over the harbour. Nobody else was awake at that hour.\n"
    "He lit the oven and mixed flour with water while his dog slept near the door. It was the oldest dog in town.\n"
    "By seven the first people stood outside and waited for warm bread to come out. They talked about the weather and"
    " the boats that had not returned. Most of them would have liked to be at sea as well.\n"
)
CHINESE = (
    "夜里河水慢慢地涨了起来，到了早晨，低处的草地已经被水淹没。村里的人划着船下来，把羊群赶到山上去，下雨之前谁也"
    "没有想到要这样做。一位老人说，他小时候见过更大的水，可是那天相信他的人不多。"
)
CODE = (
    "import os\n\n\ndef walk(folder):\n    for name in sorted(os.listdir(folder)):\n"
    "        path = os.path.join(folder, name)\n"
    "        if os.path.isdir(path):\n            yield from walk(path)\n        else:\n            yield path\n"
)


def verdict(text, kind="prose", language=None, **limits):
    document = make_document(text, "test", kind=kind, language=language or guess_language(text))
    return judge(Facts(document), Thresholds(**limits))


@pytest.mark.parametrize(
    "text,kind", [(PROSE, "prose"), (PROSE, "page"), (CHINESE, "prose"), (CHINESE, "page"), (CODE, "code")]
)
def test_good_text_stays(text, kind):
    assert verdict(text, kind) is None


def numbers(count):
    chance = random.Random(1)
    return "\n".join(f"    0x{chance.getrandbits(32):08x}, {chance.random():.6f}," for _ in range(count))


BULLETED = "\n".join(
    f"- {word} belongs to {number * 7919} things and {PROSE[number : number + 25].strip()}"
    for number, word in enumerate(PROSE.split())
)
BAD = [
    ("Too short.", "prose", "minimum_words"),
    (PROSE.replace("river", "ri\ufffdver").replace("village", "vil\ufffdlage"), "prose", "replaced_letters"),
    ("a b c d e f g h i of the " * 9, "prose", "mean_word_letters"),
    (" ".join("#" + word for word in PROSE.split()), "prose", "symbols_per_word"),
    (BULLETED, "prose", "bullet_lines"),
    ("\n".join(f"{PROSE[n : n + 40]} ..." for n in range(0, 300, 37)), "prose", "symbols_per_word|ellipsis_lines"),
    (" ".join(f"{n}.5% the" if n % 9 == 0 else f"{n}.5%" for n in range(400)), "prose", "words_with_letters"),
    ("Green apples in tall trees, many birds singing songs, blue skies as the hills lie by it, slow rivers are "
     "running past stones, warm winds moving grass.", "prose", "stop_words"),
    ("\n".join(["Subscribe to the newsletter of our house."] * 30 + [PROSE]), "prose", "repeated_line"),
    (PROSE + " buy cheap watches" * 60, "prose", "repetition"),
    ("Lorem ipsum dolor sit amet. " + PROSE, "page", "placeholder text"),
    ("\n".join(PROSE.split(",")[0].replace(" ", f" {n} ") for n in range(40)), "page", "words_with_letters"),
    (PROSE.replace(" that", "").replace(" ", "\n", 40), "page", "closed_lines|short_lines"),
    ("手机 电脑 " * 3 + "".join(chr(0x4E00 + 7 * n) for n in range(300)), "prose", "chinese_punctuation"),
    ("。，！？、；：" * 30 + CHINESE[:60], "prose", "chinese_punctuation"),
    (CHINESE[:40] * 12, "prose", "repetition"),
    (f"table = [\n{numbers(300)}\n]\n", "code", "code_letters|code_digits"),
    ("data = '" + "abcdef" * 300 + "'\n" + CODE, "code", "code_longest_line"),
    ("\n".join("name = " + "value_of_something_long + " * 9 for _ in range(20)), "code", "code_mean_line"),
]  # fmt: skip


@pytest.mark.parametrize("text,kind,reason", BAD, ids=[f"{kind}-{reason}" for _, kind, reason in BAD])
def test_planted_junk_goes_for_its_own_reason(text, kind, reason):
    found = verdict(text, kind)
    assert found is not None and any(part in found for part in reason.split("|")), found


def test_every_reason_names_a_setting_that_relaxes_it():
    fields = set(Thresholds.model_fields)
    for text, kind, _ in BAD:
        reason = verdict(text, kind) or ""
        if "(" in reason:
            assert reason.split("(")[1].rstrip(")") in fields, reason


def test_a_relaxed_setting_keeps_the_document():
    assert verdict("A short note of the day.", minimum_words=3) is None
    assert verdict(PROSE + " buy cheap watches" * 60, repetition=100) is None


def test_english_rules_are_not_put_on_chinese():
    assert verdict(CHINESE * 1, language="zh") is None
    assert verdict("床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n") is None


def gopher_repeated(text, width):
    """Share of characters in repeated runs of words, straight from the definition."""
    words = text.split()
    covered, starts, at = 0, [], 0
    for word in words:
        at = text.index(word, at)
        starts.append(at)
        at += len(word)
    free = 0
    known = set()
    for place in range(len(words) - width + 1):
        run = tuple(words[place : place + width])
        if run in known and place >= free:
            covered += starts[place + width - 1] + len(words[place + width - 1]) - starts[place]
            free = place + width
        known.add(run)
    return covered / len(text)


@pytest.mark.parametrize("width", [2, 5, 10])
def test_repeated_runs_are_counted_as_defined(width):
    chance = random.Random(width)
    for _ in range(20):
        text = " ".join(chance.choice("aa bb cc dd ee".split()) for _ in range(chance.randint(1, 200)))
        facts = Facts(make_document(text, "t"))
        assert facts.repeated_runs(width) == pytest.approx(gopher_repeated(text, width))


def test_the_most_frequent_run_is_counted_as_defined():
    facts = Facts(make_document("ab cd ab cd xy ab cd", "t"))
    assert facts.most_frequent_run(2) == pytest.approx(3 * 5 / 20)
    assert facts.most_frequent_run(4) == 0.0


def test_pages_of_the_web_are_judged_by_the_published_rules_and_by_language():
    documents = [
        make_document(GOOD_PAGE, "a", "page", "en"), make_document(PROSE, "b", "page", "en"),
        make_document(CHINESE, "c", "page", "zh"), make_document(CHINESE[:40] * 12, "d", "page", "zh"),
        make_document(CODE, "e", "code", "und"), make_document(numbers(300), "f", "code", "und"),
    ]  # fmt: skip
    reasons = judge_pages(documents)
    assert [reason is None for reason in reasons] == [True, False, True, False, True, False]
    assert reasons[1] == "too few sentences (sentences)"
    assert judge_pages([]) == []
