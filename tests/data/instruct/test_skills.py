"""Skills: every answer against an independent computation, the split by problem, the same rows from the same seed."""

import calendar
import datetime
import itertools
import json
import re
from collections import Counter
from decimal import Decimal
from random import Random

import pytest

from athanor.base.errors import AthanorError
from athanor.data.instruct import skills
from athanor.data.instruct.skills import SKILLS, check, examination, held_out, training_conversations
from athanor.data.instruct.skills.exercise import CITIES, LANGUAGES, NAMES, WORDS
from athanor.data.instruct.skills.numbers import words_en, words_zh

CHINESE = dict(WORDS) | dict(NAMES) | dict(CITIES)
IN_LARGE = {"km": "m 千米 米 1000", "m": "cm 米 厘米 100", "cm": "mm 厘米 毫米 10"}
IN_LARGE |= {"kg": "g 千克 克 1000", "t": "kg 吨 千克 1000", "L": "mL 升 毫升 1000"}


def exercises(skill, language, count=150):
    random = Random(f"test {skill} {language}")
    return [SKILLS[skill].exercise(random, language) for _ in range(count)]


def translated(words, language):
    return [CHINESE[word] for word in words] if language == "zh" else words


def numbers_in(text):
    return [int(number) for number in re.findall(r"\d+", text)]


# One checker for each skill: (question, answer, key, language) -> nothing, or an assertion that fails. The answer is
# worked out again from the question's own text (the key must agree with it), by other means than the code under test.


def check_addition(question, answer, key, language):
    assert numbers_in(key) in (numbers_in(question), numbers_in(question)[::-1])
    assert int(answer) == len([*range(numbers_in(key)[0]), *range(numbers_in(key)[1])])


def check_subtraction(question, answer, key, language):
    assert sorted(numbers_in(question), reverse=True) == numbers_in(key)
    assert int(answer) == len(range(numbers_in(key)[1], numbers_in(key)[0]))


def check_comparison(question, answer, key, language):
    low, high = numbers_in(key)
    assert low < high and sorted(numbers_in(question)) == [low, high]
    larger = re.search(r"larger|maximum|更大|较大|最大", question)
    assert bool(larger) != bool(re.search(r"smaller|minimum|更小|较小|最小", question))
    assert int(answer) == (high if larger else low)


def check_sorting_numbers(question, answer, key, language):
    given = [int(item) for item in re.split(r"[:：]", question)[1].split(",")]
    found = [int(item) for item in answer.split(", ")]
    assert Counter(given) == Counter(found) == Counter(numbers_in(key))
    rising = bool(re.search(r"ascending|small to large|smallest first|从小到大|升序|由小到大", question))
    assert all((a < b) == rising for a, b in itertools.pairwise(found))


def check_number_words(question, answer, key, language):
    read = read_english if language == "en" else read_chinese
    if answer.isdigit():
        assert answer == key
    else:
        assert key in question and read(answer) == int(key)


def check_unit_conversion(question, answer, key, language):
    amount, unit = key.split()
    small, large_zh, small_zh, factor = IN_LARGE[unit].split()
    large, small = (unit, small) if language == "en" else (large_zh, small_zh)
    both = {large: Decimal(amount), small: Decimal(amount) * int(factor)}
    value, asked = answer.split(" ")
    assert Decimal(value) == both[asked]
    other = large if asked == small else small
    given = Decimal(re.search(r"\d+(\.\d)?", question).group())
    assert given == both[other] and asked in question and other in question


def check_next_day(question, answer, key, language):
    year, month, day = map(int, key.split("-"))
    assert key in question
    last = calendar.monthrange(year, month)[1]
    expected = (year, month, day + 1) if day < last else (year, month + 1, 1) if month < 12 else (year + 1, 1, 1)
    assert answer == "{:04d}-{:02d}-{:02d}".format(*expected)


def check_date_format(question, answer, key, language):
    pattern = "%d %B %Y" if language == "en" else "%Y年%m月%d日"
    long = question if key not in question else answer
    written = re.search(r"\d+ [A-Z][a-z]+ \d{4}" if language == "en" else r"\d+年\d+月\d+日", long).group()
    assert str(datetime.datetime.strptime(written, pattern).date()) == key
    assert "年0" not in written and "月0" not in written and not written.startswith("0")
    assert (answer == key) or (answer == written and key in question)


def check_counting_words(question, answer, key, language):
    items = translated(key.split(), language)
    assert question.endswith(("、" if language == "zh" else ", ").join(items))
    assert int(answer) == len(re.split(r"[、,]", re.split(r"[：:？?]", question)[1]))


def check_counting_letters(question, answer, key, language):
    wanted, *items = key.split()
    asked, row = question[: -len(" ".join(items))], question[-len(" ".join(items)) :]
    assert row.split() == items and f" {wanted} " in asked
    assert answer == str(Counter(items)[wanted])


def check_sorting_words(question, answer, key, language):
    given = re.split(r"[:：]", question)[1].split()
    assert sorted(given) == answer.split() == key.split()


def check_reversing(question, answer, key, language):
    separator = "、" if language == "zh" else ", "
    items = translated(key.split(), language)
    assert question.endswith(separator.join(items))
    assert list(reversed(answer.split(separator))) == items


def check_repeating(question, answer, key, language):
    times, *words = key.split()
    pair = " ".join(translated(words, language))
    assert pair in question and numbers_in(question) == [int(times)]
    assert answer.count(pair) == int(times) and answer.replace(pair, "").strip() == ""


def check_picking(question, answer, key, language):
    items = translated(key.split(), language)
    (place,) = numbers_in(question)
    assert question.endswith(("、" if language == "zh" else ", ").join(items))
    assert items.index(answer) + 1 == place


def check_upper_case(question, answer, key, language):
    assert question.endswith(key)
    assert answer.isupper() and answer.lower() == key


def check_bullet_list(question, answer, key, language):
    items = translated(key.split(), language)
    assert question.endswith(("、" if language == "zh" else ", ").join(items))
    assert [line.split("- ")[1] for line in answer.splitlines()] == items


def check_json_object(question, answer, key, language):
    name, age, city = key.split()
    found = json.loads(answer)
    assert list(found) == (["name", "age", "city"] if language == "en" else ["姓名", "年龄", "城市"])
    assert list(found.values()) == [*translated([name], language), int(age), *translated([city], language)]
    assert all(str(value) in question for value in found.values())


def read_english(words):
    """The number that English words name, by adding up what each word is worth."""
    units = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    worth = {word: n for n, word in enumerate((units + " seventeen eighteen nineteen").split())}
    worth |= dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))
    total = group = 0
    for word in words.replace("-", " ").split():
        if word == "thousand":
            total, group = group * 1000, 0
        elif word == "hundred":
            group *= 100
        else:
            group += worth[word]
    return total + group


def read_chinese(written):
    """The number that Chinese numerals name, by adding up digit times unit."""
    total, digit = 0, None
    for letter in written:
        if letter in "十百千":
            total += (1 if digit is None else digit) * {"十": 10, "百": 100, "千": 1000}[letter]
            digit = None
        else:
            digit = "零一二三四五六七八九".index(letter) or None
    return total + (digit or 0)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("skill", SKILLS)
def test_every_answer_is_right(skill, language):
    checker = globals()[f"check_{skill}"]
    for exercise in exercises(skill, language):
        checker(exercise.question, exercise.answer, exercise.key, language)
        assert exercise.question == exercise.question.strip() and exercise.answer == exercise.answer.strip() != ""
        assert check(exercise.answer, exercise.answer)


def test_number_words_agree_with_a_reader_and_with_known_forms():
    for number in range(10_000):
        assert read_english(words_en(number)) == number
        assert read_chinese(words_zh(number)) == number
    assert len({words_en(n) for n in range(10_000)}) == len({words_zh(n) for n in range(10_000)}) == 10_000
    assert [words_zh(n) for n in (0, 10, 12, 20, 105, 110, 1010, 1001, 4020)] == [
        "零", "十", "十二", "二十", "一百零五", "一百一十", "一千零一十", "一千零一", "四千零二十",
    ]  # fmt: skip
    assert [words_en(n) for n in (0, 13, 40, 42, 100, 1005)] == [
        "zero", "thirteen", "forty", "forty-two", "one hundred", "one thousand five",
    ]  # fmt: skip


def test_months_ends_and_leap_days_are_met_and_right():
    found = exercises("next_day", "en", 20_000)
    days = {exercise.key: exercise.answer for exercise in found}
    assert (
        days["2000-02-28"] == "2000-02-29" and days["2000-02-29"] == "2000-03-01" and days["2001-02-28"] == "2001-03-01"
    )
    assert days["1999-12-31"] == "2000-01-01"
    assert 0.25 < sum(exercise.answer.endswith("-01") for exercise in found) / len(found)


def test_no_problem_of_the_examination_is_trained_in_any_wording_or_language():
    questions = list(examination(40, seed=3))
    asked = {(row["meta"]["skill"], row["meta"]["key"]) for row in questions}
    trained, texts = set(), set()
    for row in training_conversations(6_000, seed=4):
        texts.update(message["content"] for message in row["messages"] if message["role"] == "user")
        if "skill" in row["meta"]:
            trained.add((row["meta"]["skill"], row["meta"]["key"]))
    assert not asked & trained
    assert not texts & {row["messages"][0]["content"] for row in questions}
    assert all(held_out(*problem) for problem in asked) and not any(held_out(*problem) for problem in trained)
    assert {skill for skill, _ in trained} == set(SKILLS)


def test_turns_before_the_last_are_not_held_out_either():
    rows = list(training_conversations(3_000, seed=6, skills=["addition"]))
    questions = [m["content"] for row in rows for m in row["messages"] if m["role"] == "user"]
    keys = [f"{a} {b}" for a, b in filter(None, map(numbers_in, questions))]
    assert any(len(row["messages"]) > 3 for row in rows) and len(keys) > 3_000
    assert not any(held_out("addition", key) for key in keys)


@pytest.mark.parametrize("skill", SKILLS)
def test_at_least_a_tenth_is_held_out_and_the_space_is_large(skill):
    random = Random(skill)
    keys = {SKILLS[skill].exercise(random, random.choice(LANGUAGES)).key for _ in range(3_000)}
    assert len(keys) > 800 and SKILLS[skill].problems >= 1_000
    assert 0.1 < sum(held_out(skill, key) for key in keys) / len(keys) < 0.15


@pytest.mark.parametrize("skill", SKILLS)
def test_the_key_of_a_problem_does_not_depend_on_the_language(skill):
    keys = [[exercise.key for exercise in exercises(skill, language, 400)] for language in LANGUAGES]
    assert all(key.isascii() for key in keys[0] + keys[1])
    shapes = [{re.sub(r"[a-z]+", "w", re.sub(r"\d+", "n", key.lower())) for key in found} for found in keys]
    assert len(shapes[0] & shapes[1]) >= 0.5 * len(shapes[0])


def test_the_key_is_the_set_where_the_order_does_not_matter():
    for skill in ("comparison", "sorting_numbers", "sorting_words"):
        answers = {}
        for exercise in exercises(skill, "en", 3_000):
            answers.setdefault(exercise.key, set()).add(exercise.question)
        assert all(
            key.split() == sorted(key.split(), key=lambda item: (len(item), item) if item.isdigit() else (0, item))
            for key in answers
        )


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    first, again, other = (list(training_conversations(300, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert list(examination(5, 1)) == list(examination(5, 1)) != list(examination(5, 2))
    alone = list(examination(5, 1, languages=["zh"], skills=["picking"]))
    together = [
        row for row in examination(5, 1) if row["meta"]["skill"] == "picking" and row["meta"]["language"] == "zh"
    ]
    assert alone == together


def test_the_split_is_the_same_on_every_machine():
    """A change of the hash or of the share would move problems between training and examination: it must be meant."""
    problems = [f"{a} {b}" for a in range(10, 1000) for b in range(1, 10)]
    assert [key for key in problems if held_out("addition", key)][:4] == ["11 3", "11 7", "11 9", "12 4"]
    assert sum(held_out("addition", key) for key in problems) == 1105


def test_conversations_have_both_languages_several_turns_system_turns_and_the_name():
    rows = list(training_conversations(3_000, seed=9))
    assert {row["meta"]["language"] for row in rows} == set(LANGUAGES)
    zh = sum(row["meta"]["language"] == "zh" for row in rows) / len(rows)
    assert 0.45 < zh < 0.55
    for row in rows:
        roles = [message["role"] for message in row["messages"]]
        assert roles == roles[: roles[0] == "system"] + ["user", "assistant"] * (
            (len(roles) - (roles[0] == "system")) // 2
        )
        if "answer" in row["meta"] and roles[-1] == "assistant":
            assert row["source"] == "skills"
        written = "".join(message["content"] for message in row["messages"])
        assert bool(re.search(r"[一-鿿？]", written)) >= (row["meta"]["language"] == "zh")
    assert 0.06 < sum(len(row["messages"]) > 3 for row in rows) / len(rows) < 0.15
    assert 0.03 < sum(row["messages"][0]["role"] == "system" for row in rows) / len(rows) < 0.1
    answers = "".join(
        message["content"] for row in rows for message in row["messages"] if message["role"] == "assistant"
    )
    assert "I am Athanor" in answers and "我是炼丹炉" in answers and "your own machine" in answers


def test_examination_rows_hold_different_problems_and_what_check_needs():
    rows = list(examination(100, seed=1))
    assert len(rows) == 100 * len(SKILLS) * len(LANGUAGES)
    assert len({(row["meta"]["skill"], row["meta"]["language"], row["meta"]["key"]) for row in rows}) == len(rows)
    for row in rows:
        question, answer = row["messages"]
        assert (question["role"], answer["role"]) == ("user", "assistant") and check(
            answer["content"], row["meta"]["answer"]
        )


def test_check_is_exact():
    assert check(" 61\n", "61") and check("- a \n- b", "- a\n- b")
    assert (
        not check("61.", "61")
        and not check("The answer is 61", "61")
        and not check("6 1", "61")
        and not check("161", "61")
    )
    assert not check("", "61") and not check("apple", "Apple") and not check("- a\n\n- b", "- a\n- b")


def test_what_cannot_be_made_is_said():
    with pytest.raises(AthanorError, match="unknown skill 'juggling'"):
        list(training_conversations(1, 1, skills=["juggling"]))
    with pytest.raises(AthanorError, match="unknown language 'fr'"):
        list(examination(1, 1, languages=["fr"]))
    with pytest.raises(AthanorError, match="no skill was given"):
        list(examination(1, 1, skills=[]))
    with pytest.raises(AthanorError, match="different held-out problems of addition"):
        list(examination(2_000, 1, skills=["addition"]))


def test_a_skill_whose_space_is_too_small_is_refused(monkeypatch):
    one_problem = skills.Skill(lambda random, language: skills.Exercise("?", "!", "only"), 1, 1.0, "")
    monkeypatch.setitem(skills.SKILLS, "tiny", one_problem)
    with pytest.raises(AthanorError, match="tiny made no"):
        list(examination(1, 1, skills=["tiny"]))
        list(training_conversations(1, 1, skills=["tiny"]))
