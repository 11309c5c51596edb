"""Skills about words and lists: counting, sorting, reversing, repeating, picking, and answering in a given format."""

from __future__ import annotations

import json
from random import Random

from athanor.data.instruct.skills.exercise import (
    CITIES,
    NAMES,
    WORDS,
    Exercise,
    Phrases,
    ask,
    in_language,
    listed,
    spaced,
)

COUNT_WORDS: Phrases = {
    "en": ("How many words are in this list: {items}", "Count the words: {items}", "How long is this list? {items}"),
    "zh": ("下面有几个词：{items}", "请数一数有几个词：{items}", "这个列表有多少项？{items}"),
}
COUNT_LETTERS: Phrases = {  # spaces on both sides: the letter asked for is then the same token as in the row
    "en": (
        "How many times does the letter {wanted} occur in {items}",
        "Count the letter {wanted} in {items}",
        "How many letters {wanted} are there in {items}",
    ),
    "zh": (
        "字母 {wanted} 出现了几次： {items}",
        "请数一数字母 {wanted} 的个数： {items}",
        "下面有几个字母 {wanted} ： {items}",
    ),
}
SORT_WORDS: Phrases = {
    "en": (
        "Sort these words alphabetically: {items}",
        "Put these words in alphabetical order: {items}",
        "Order from A to Z: {items}",
    ),
    "zh": ("请按字母顺序排列这些单词：{items}", "把下列单词按字母表顺序排好：{items}", "按 A 到 Z 排序：{items}"),
}
REVERSE: Phrases = {
    "en": (
        "Reverse the order of this list: {items}",
        "Write these words backwards, last word first: {items}",
        "Reverse: {items}",
    ),
    "zh": ("把这个列表倒过来：{items}", "请将下列词语倒序写出：{items}", "倒序排列：{items}"),
}
REPEAT: Phrases = {
    "en": (
        'Repeat "{items}" {times} times.',
        'Write "{items}" {times} times.',
        'Say "{items}" {times} times in a row.',
    ),
    "zh": ("把“{items}”重复 {times} 遍。", "请将“{items}”写 {times} 遍。", "连续说 {times} 遍“{items}”。"),
}
PICK: Phrases = {
    "en": (
        "What is word number {place} of this list: {items}",
        "Give word {place} of: {items}",
        "Which word stands at place {place}? {items}",
    ),
    "zh": (
        "下面第 {place} 个词是什么：{items}",
        "请写出第 {place} 个词：{items}",
        "排在第 {place} 位的是哪个词？{items}",
    ),
}
UPPER_CASE: Phrases = {
    "en": (
        "Write in upper case: {items}",
        "Turn this into capital letters: {items}",
        "Answer in capitals only: {items}",
    ),
    "zh": ("请改成大写字母：{items}", "把下面的单词全部大写：{items}", "用大写字母写出：{items}"),
}
BULLETS: Phrases = {
    "en": (
        "Write as a list with bullets: {items}",
        "Make a bullet list of: {items}",
        'Put each item on its own line after "- ": {items}',
    ),
    "zh": ("请写成项目符号列表：{items}", "把下列各项分行列出，以“- ”开头：{items}", "用短横线逐行列出：{items}"),
}
JSON_OBJECT: Phrases = {
    "en": (
        "Write as a JSON object with name, age and city: {name} is {age} and lives in {city}.",
        "Answer as JSON (name, age, city): {name} from {city} is {age} years old.",
        "JSON with the keys name, age, city, please: {name}, {age}, {city}",
    ),
    "zh": (
        "请写成 JSON 对象，包含姓名、年龄和城市：{name}今年 {age} 岁，住在{city}。",
        "用 JSON 回答（姓名、年龄、城市）：来自{city}的{name}今年 {age} 岁。",
        "请输出键为姓名、年龄、城市的 JSON：{name}，{age}，{city}",
    ),
}


def english(pairs: list[tuple[str, str]]) -> list[str]:
    """The English halves of word pairs."""
    return [pair[0] for pair in pairs]


def counting_words(random: Random, language: str) -> Exercise:
    """How many words a list of two to nine has."""
    pairs = random.sample(WORDS, random.randint(2, 9))
    items = listed([in_language(pair, language) for pair in pairs], language)
    return Exercise(ask(random, COUNT_WORDS, language, items=items), str(len(pairs)), spaced(english(pairs)))


def counting_letters(random: Random, language: str) -> Exercise:
    """How often a letter occurs among six; one row of letters with one letter asked for is one problem."""
    wanted, *others = random.sample("abcdefghijklmnopqrstuvwxyz", 3)
    count = random.randint(0, 5)
    letters = [wanted] * count + random.choices(others, k=6 - count)
    random.shuffle(letters)
    question = ask(random, COUNT_LETTERS, language, wanted=wanted, items=spaced(letters))
    return Exercise(question, str(count), spaced([wanted, *letters]))


def sorting_words(random: Random, language: str) -> Exercise:
    """Three to five words in alphabetical order; one set of words is one problem."""
    words = english(random.sample(WORDS, random.randint(3, 5)))
    answer = spaced(sorted(words))
    return Exercise(ask(random, SORT_WORDS, language, items=spaced(words)), answer, answer)


def reversing(random: Random, language: str) -> Exercise:
    """Three to six words, last first."""
    pairs = random.sample(WORDS, random.randint(3, 6))
    items = [in_language(pair, language) for pair in pairs]
    question = ask(random, REVERSE, language, items=listed(items, language))
    return Exercise(question, listed(items[::-1], language), spaced(english(pairs)))


def repeating(random: Random, language: str) -> Exercise:
    """Two words, said two to six times."""
    pairs, times = random.sample(WORDS, 2), random.randint(2, 6)
    items = spaced([in_language(pair, language) for pair in pairs])
    question = ask(random, REPEAT, language, items=items, times=times)
    return Exercise(question, spaced([items] * times), f"{times} {spaced(english(pairs))}")


def picking(random: Random, language: str) -> Exercise:
    """The word at a place of a list of three to six; one list is one problem, whichever place is asked for."""
    pairs = random.sample(WORDS, random.randint(3, 6))
    place = random.randint(1, len(pairs))
    items = [in_language(pair, language) for pair in pairs]
    question = ask(random, PICK, language, place=place, items=listed(items, language))
    return Exercise(question, items[place - 1], spaced(english(pairs)))


def upper_case(random: Random, language: str) -> Exercise:
    """Two to five English words in capitals."""
    items = spaced(english(random.sample(WORDS, random.randint(2, 5))))
    return Exercise(ask(random, UPPER_CASE, language, items=items), items.upper(), items)


def bullet_list(random: Random, language: str) -> Exercise:
    """Two to five items on lines that begin with `- `."""
    pairs = random.sample(WORDS, random.randint(2, 5))
    items = [in_language(pair, language) for pair in pairs]
    question = ask(random, BULLETS, language, items=listed(items, language))
    return Exercise(question, "\n".join(f"- {item}" for item in items), spaced(english(pairs)))


def json_object(random: Random, language: str) -> Exercise:
    """A sentence about a person as a JSON object with three keys."""
    name, age, city = random.choice(NAMES), random.randint(10, 99), random.choice(CITIES)
    keys = ("name", "age", "city") if language == "en" else ("姓名", "年龄", "城市")
    values = (in_language(name, language), age, in_language(city, language))
    question = ask(random, JSON_OBJECT, language, name=values[0], age=age, city=values[2])
    answer = json.dumps(dict(zip(keys, values, strict=True)), ensure_ascii=False)
    return Exercise(question, answer, f"{name[0]} {age} {city[0]}")
