"""Languages and repair by the C library: for every text what Python says."""

import gzip
import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base import native
from athanor.base.textblock import TextBlock
from athanor.data.cleaning.compiled import may_change
from athanor.data.cleaning.language import guess_language, guess_languages
from athanor.data.cleaning.repair import repair_text, repair_texts
from athanor.data.rules.chinese import ChineseLimits, judge_chinese, judge_chinese_texts
from tests.conftest import REAL_DATA

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no C library: {native.describe()}")
PARTS = [
    "the", "don't", "Don'T", "a'", "'b", "of_the", "x2y", "é", "naïve", "Ελλάδα", "İstanbul", "\u212aelvin", "中文",
    "かな", "한글", "\u1100\u1161", "e\u0301", "\u0301", " ", "  ", "\n", " \n", "\t\n", "\n\n\n\n", "\r\n", "\x0c",
    "\x85", "\u2028", "\u3000", "\xa0", "\u200b", "\ufeff", "\x00", "\x7f", "٣", "𠀀", "\U0002f800", "\U0001f600", ".",
    "these", "thousandfold",
]  # fmt: skip
REPEATS = ChineseLimits(  # only what repeats is looked at
    minimum_characters=0, han_share=0, common_characters=0, punctuation=(0, 1), stops=0, bare_lines=1,
    repeated_lines=1, repeated_line_characters=1, most_frequent_run=0.1, repeated_runs=0.1,
)  # fmt: skip
texts = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=6)), max_size=30).map("".join)


def check(documents: list[str]) -> None:
    assert repair_texts(documents) == [repair_text(text) for text in documents]
    assert guess_languages(documents) == [guess_language(text) for text in documents]
    assert judge_chinese_texts(documents, REPEATS) == [judge_chinese(text, REPEATS) for text in documents]


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, max_size=6))
def test_any_texts(documents):
    check(documents)


def test_every_character_alone_and_behind_a_letter():
    every = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x30000, 1))]
    check(["".join(every[start : start + 8]) for start in range(0, len(every), 8)])
    behind = ["e" + letter + "a" for letter in every if unicodedata.category(letter) != "Lo"]
    assert repair_texts(behind) == [repair_text(text) for text in behind]


def test_what_repeats_in_chinese_is_counted_alike():
    some = [
        "春眠不觉晓" * 3,
        "处处闻啼鸟夜来风雨声花落知多少" * 2,
        "一二三四" * 9 + "天地玄黄宇宙洪荒",
        "甲乙丙丁",
        "İ" + "甲乙丙丁" * 9,
    ]
    check(
        [
            text + more
            for text in some
            for more in ("", "。完", "```\n重复重复重复重复\n```", "日月盈昃辰宿列张寒来暑往" * 2)
        ]
    )
    assert len(set(judge_chinese_texts(some, REPEATS))) == 3


def test_a_sample_ends_where_it_does():
    for more in range(12):
        check([text * 999 + "x" * more + "n't и и и 中 the" for text in ("the ", "中文字符", "и он ", "ab'c")])


def test_most_texts_need_no_repair():
    assert not may_change(TextBlock.of(["Plain.\n\n\nText, “quoted” — naïve.", "中文，标点。\n\t indented", ""])).any()


@pytest.mark.parametrize("name", ["en_c4_sample", "zh_d2l_book", "udhr"])
def test_real_texts(name):
    path = REAL_DATA / "text" / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    check([row["text" if "text" in row else "zh"] for row in rows])
