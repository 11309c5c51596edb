"""What every skill is made of: an exercise, phrases in two languages, and the words that fill them.

Words, names and cities are pairs (English, Chinese): the key of an exercise names the English one in both languages, so
that a problem that is held out is held out in every language.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

LANGUAGES = ("en", "zh")

Phrases = dict[str, tuple[str, ...]]


class Exercise(NamedTuple):
    """One question with its only right answer, and the key that names the problem whatever its phrasing or language."""

    question: str
    answer: str
    key: str


def ask(random: Random, phrases: Phrases, language: str, **blanks: object) -> str:
    """One of the phrases of `language`, its {blanks} filled in."""
    return random.choice(phrases[language]).format(**blanks)


def in_language(pair: tuple[str, str], language: str) -> str:
    """The English or the Chinese half of a pair."""
    return pair[LANGUAGES.index(language)]


def spaced(items: list[str]) -> str:
    """A list as both languages' exercises with Latin words write it: `pear fig kiwi`."""
    return " ".join(items)


def listed(items: list[str], language: str) -> str:
    """A list as running text writes it: `pear, fig, kiwi` and `梨、无花果、猕猴桃`."""
    return ("、" if language == "zh" else ", ").join(items)


WORDS = (
    ("apple", "苹果"),
    ("bread", "面包"),
    ("chair", "椅子"),
    ("cloud", "白云"),
    ("dance", "舞蹈"),
    ("eagle", "老鹰"),
    ("flower", "花朵"),
    ("garden", "花园"),
    ("glass", "玻璃"),
    ("horse", "骏马"),
    ("island", "岛屿"),
    ("juice", "果汁"),
    ("king", "国王"),
    ("lemon", "柠檬"),
    ("lion", "狮子"),
    ("milk", "牛奶"),
    ("moon", "月亮"),
    ("music", "音乐"),
    ("night", "夜晚"),
    ("ocean", "海洋"),
    ("paper", "纸张"),
    ("piano", "钢琴"),
    ("queen", "女王"),
    ("rain", "雨水"),
    ("river", "河流"),
    ("salt", "食盐"),
    ("silver", "白银"),
    ("snow", "雪花"),
    ("stone", "石头"),
    ("summer", "夏天"),
    ("sugar", "白糖"),
    ("table", "桌子"),
    ("tiger", "老虎"),
    ("tree", "树木"),
    ("uncle", "叔叔"),
    ("village", "村庄"),
    ("water", "清水"),
    ("winter", "冬天"),
    ("yellow", "黄色"),
    ("zebra", "斑马"),
)

NAMES = (
    ("Alice", "李娜"),
    ("Anna", "王芳"),
    ("Ben", "张伟"),
    ("Carl", "刘洋"),
    ("Clara", "陈静"),
    ("David", "杨光"),
    ("Emma", "赵敏"),
    ("Frank", "黄磊"),
    ("Grace", "周洁"),
    ("Henry", "吴刚"),
    ("Iris", "徐丽"),
    ("Jack", "孙强"),
    ("Kate", "胡月"),
    ("Leo", "朱军"),
    ("Mary", "高兰"),
    ("Nina", "林雪"),
    ("Oscar", "何勇"),
    ("Paul", "郭峰"),
    ("Rose", "马红"),
    ("Tom", "罗明"),
)

CITIES = (
    ("Beijing", "北京"),
    ("Berlin", "柏林"),
    ("Cairo", "开罗"),
    ("London", "伦敦"),
    ("Madrid", "马德里"),
    ("Moscow", "莫斯科"),
    ("Oslo", "奥斯陆"),
    ("Paris", "巴黎"),
    ("Rome", "罗马"),
    ("Shanghai", "上海"),
    ("Sydney", "悉尼"),
    ("Tokyo", "东京"),
)
