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
from athanor.data.cleaning.personal import mask_personal, may_be_personal
from athanor.data.cleaning.repair import repair_text, repair_texts
from athanor.data.copies.compiled import run_repeats
from athanor.data.rules.chinese import (
    LONG_RUN,
    RUN,
    ChineseLimits,
    ChineseText,
    chinese_flags,
    judge_chinese,
    judge_chinese_texts,
    without_programs,
)
from athanor.data.rules.compiled import chinese_counts
from tests.conftest import REAL_DATA

pytestmark = pytest.mark.skipif(not native.available(), reason=f"no C library: {native.describe()}")
PARTS = [
    "the", "don't", "Don'T", "a'", "'b", "of_the", "x2y", "é", "naïve", "Ελλάδα", "İstanbul", "\u212aelvin", "中文",
    "かな", "한글", "\u1100\u1161", "e\u0301", "\u0301", " ", "  ", "\n", " \n", "\t\n", "\n\n\n\n", "\r\n", "\x0c",
    "\x85", "\u2028", "\u3000", "\xa0", "\u200b", "\ufeff", "\x00", "\x7f", "٣", "𠀀", "\U0002f800", "\U0001f600", ".",
    "these", "thousandfold", "|", " > ", "：", "」\n", "。", "、", "一二三四五六七八九十一二三四五六七", "同一行\n",
    " 同一行\n",
    "13800138000", "2001:db8::1", "x@y.org", "(at)", "8.8.8.8", "1 2–3（4）5—6.7", "86－138", "4012888888881881",
]  # fmt: skip
REPEATS = ChineseLimits(  # only what repeats is looked at
    minimum_characters=0, han_share=0, common_characters=0, punctuation=(0, 1), stops=0, bare_lines=1,
    repeated_lines=1, repeated_line_characters=1, most_frequent_run=0.1, repeated_runs=0.1,
)  # fmt: skip
repeated = st.text("甲乙丙 a。", min_size=8, max_size=30).map(lambda text: text * 3)
texts = st.lists(st.one_of(repeated, st.sampled_from(PARTS), st.text(max_size=6)), max_size=30).map("".join)


def numbers_of(text: ChineseText) -> list[float]:
    """All that the rules for Chinese ask of a text."""
    flags = [text.count(1 << bit) for bit in range(8)]
    lines = [text.line_count, text.line_characters, text.bare_share, text.ended_lines, *text.repeated_lines]
    return [*flags, text.marks, *lines, len(text.text)]


def check(documents: list[str]) -> None:
    assert repair_texts(documents) == [repair_text(text) for text in documents]
    assert guess_languages(documents) == [guess_language(text) for text in documents]
    for text, may_be in zip(documents, may_be_personal(documents), strict=True):
        assert may_be or mask_personal(text)[0] == text
    assert judge_chinese_texts(documents, REPEATS) == [judge_chinese(text, REPEATS) for text in documents]


def check_counts(documents: list[str]) -> None:
    documents = [without_programs(text) for text in documents]
    for text, counts in zip(documents, chinese_counts(TextBlock.of(documents), chinese_flags()), strict=True):
        assert numbers_of(ChineseText(text, counts)) == numbers_of(ChineseText(text))
    for text, repeats in zip(documents, run_repeats(TextBlock.of(documents), RUN, LONG_RUN), strict=True):
        plain, counted = ChineseText(text), ChineseText(text, repeats=repeats)
        assert plain.repeated_runs(LONG_RUN) == counted.repeated_runs(LONG_RUN)
        assert plain.most_frequent_run(RUN) == counted.most_frequent_run(RUN)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, max_size=6))
def test_any_texts(documents):
    check(documents)
    check_counts(documents)


def test_every_character_alone_and_behind_a_letter():
    every = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x30000, 1))]
    check(["".join(every[start : start + 8]) for start in range(0, len(every), 8)])
    check_counts(["\n".join(every[start : start + 4_096]) for start in range(0, len(every), 4_096)])
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


def test_what_may_be_personal_is_not_everything():
    quiet = ["第3章 2024年1月5日，共12345字。", "version 3.12.1, [1], {a: 1}", "a (b) c: 12:30", "1.5 x 2.5 y 3.5"]
    assert may_be_personal(quiet) == [False] * len(quiet)
    assert may_be_personal(["a@b", "电话 010－1234567", "10.0.0.1", "2001:db8::1", "me [at] home"]) == [True] * 5
