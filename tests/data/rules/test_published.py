"""The published rules: equal to datatrove's recorded verdicts, and the fast counting equal to the plain one."""

import json
import random
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from athanor.data.rules.counts import find_words_of_all
from athanor.data.rules.fast import count_texts, judge_texts
from athanor.data.rules.plain_counts import count_one, edit_page
from athanor.data.rules.published import RULE_SETS, Counts, PublishedLimits, judge_counts
from athanor.data.rules.words import find_english_words

LIMITS = PublishedLimits()
# 62 texts and what datatrove 0.10.1 said of each: passages of public-domain books, most of them spoiled on purpose.
RECORDED = [json.loads(line) for line in Path(__file__).with_name("datatrove_verdicts.jsonl").open(encoding="utf-8")]
NAMES = {  # its reasons and ours
    "gopher_short_doc": "minimum_words", "gopher_below_avg_threshold": "mean_word_letters",
    "gopher_above_avg_threshold": "mean_word_letters", "gopher_too_many_hashes": "symbols_per_word",
    "gopher_too_many_ellipsis": "symbols_per_word", "gopher_too_many_bullets": "bullet_lines",
    "gopher_too_many_end_ellipsis": "ellipsis_lines", "gopher_below_alpha_threshold": "words_with_letters",
    "gopher_enough_stop_words": "stop_words", "dup_para_frac": "(repeated_paragraphs)",
    "dup_para_char_frac": "(repeated_paragraph_letters)", "dup_line_frac": "(repeated_lines)",
    "dup_line_char_frac": "(repeated_line_letters)", "lorem_ipsum": "placeholder", "curly_bracket": "brace",
    "too_few_sentences": "(sentences)", "line_punct_ratio": "closed_lines", "short_line_ratio": "short_lines",
    "char_dup_ratio": "repeated_letters", "list_ratio": "line_feeds_per_word",
}  # fmt: skip


def judge_plainly(text):
    counts = count_one(text)
    return {name: judge_counts(counts, LIMITS, name) for name in RULE_SETS}


def is_same(ours, theirs):
    if ours is None or theirs is None:
        return ours is theirs
    name = NAMES.get(theirs, "most_frequent_run" if theirs.startswith("top_") else "repeated_runs")
    return name in ours


def test_verdicts_and_reasons_are_the_reference_s():
    seen = set()
    for row in RECORDED:
        ours = judge_plainly(row["text"])
        for name in RULE_SETS:
            assert is_same(ours[name], row[name]), (name, ours[name], row[name], row["text"])
            seen.add(ours[name])
    assert len(seen) >= 20  # nearly every rule has its example


def test_the_text_that_c4_leaves_is_the_reference_s():
    kept = [row for row in RECORDED if row["c4_text"] is not None]
    assert kept
    for row in kept:
        assert edit_page(row["text"]) == row["c4_text"]


def test_the_fast_verdicts_are_the_reference_s():
    found = judge_texts([row["text"] for row in RECORDED])
    for number, row in enumerate(RECORDED):
        for name in RULE_SETS:
            assert is_same(found[name][number], row[name])


PIECES = (
    "the of and have with Mr. Dr. U.S. e.g. J. don't it's they'll John's ’s don’t 's 'em 'll can't n't "
    "-- - — – well-known either/or a=b x:y 10:30 3.5 1,000 5-6 -5 .5 ... .. … wait... ...so foo(bar) "
    "(foo). [1] [12] [edit] ] word.[1] x² http://a.b/c-d:e,f "
    "](http://a.b/c-d (http://a-b/c-d). a:// x:///b-c see:http://x.y-z/A.B,c a.B end.Start _a_ "
    "a_b ** # ## #tag $5 5$ 50% • - •x é über naïve Ö. Ö.. 中文 。 ？ 你好。 \u00a0 😀 a😀b ½ ٣ ' '' "
    "\" ”. ). ?! !!! ! ? . , ; co. Inc. longlonglonglongword javascript { } lorem ipsum cookie ~ a~b "
    "a+b 1+2 C++ a^b 2^3 a|b \\ / // :// :). )( “so” ‘so’ «so» a-b-c a--b a---b a----b 1-b b-1 É.X. dog’s. isn't. "
    "vs. VS. ÉÉ. I'm"
).split(" ")  # fmt: skip


GOOD_LINE = "He said that it was late. She left. They ran to the boat. It was gone. Nobody knew. "
LONG_ONES = [
    GOOD_LINE + "foo,bar," * 200 + ".", GOOD_LINE + "\n" + "foo, " * 400 + ".", "-" * 9_000 + " " + GOOD_LINE,
    GOOD_LINE + "y" * 990 + ".", GOOD_LINE + "y" * 1_010 + ".", GOOD_LINE + "é" * 600 + ".", "x1" * 5_000 + ".",
]  # fmt: skip


def random_text(chance):
    parts = []
    vocabulary = chance.sample(PIECES, chance.choice((3, 8, 30, len(PIECES))))
    for _ in range(chance.choice((0, 1, 5, 60, 300))):
        parts.append(chance.choice(vocabulary))
        parts.append(chance.choice((" ", " ", " ", " ", "", "  ", "\t", "\n", "\n\n", " \n", "\n ", ".\n", ". ")))
    text = "".join(parts)
    return text * 2 if chance.random() < 0.2 else text


def test_the_fast_words_are_the_plain_words():
    chance = random.Random(1)
    for _ in range(12):
        texts = [random_text(chance) for _ in range(40)]
        assert find_words_of_all(texts) == [find_english_words(text) for text in texts]


def test_the_fast_counts_and_verdicts_are_the_plain_ones():
    chance = random.Random(2)
    repetition = {"most_frequent", "repeated", "rows", "paragraphs", "sentences", "placeholder", "braces"}
    for _ in range(10):
        texts = [random_text(chance) for _ in range(40)] + ["", "\n", "a", "\n\n\n", "x" * 2_000, "a\r\nb. c\r\n" * 9]
        texts += LONG_ONES
        texts += [text.encode("ascii", "replace").decode() for text in texts]
        plain = [count_one(text) for text in texts]
        fast = count_texts(texts, LIMITS)
        for field in fields(Counts):
            if field.name in repetition:  # counted only as far as the verdict needs them
                continue
            expected = [getattr(counts, field.name) for counts in plain]
            assert np.array_equal(getattr(fast, field.name), expected), field.name
        reasons = judge_texts(texts)
        for number, counts in enumerate(plain):
            for name in RULE_SETS:
                assert reasons[name][number] == judge_counts(counts, LIMITS, name), (name, texts[number])


def test_other_limits_reach_the_fast_way_too():
    chance = random.Random(3)
    texts = [random_text(chance) for _ in range(80)]
    names = [f"w{number}" for number in range(500)]
    for width in (9, 14, 40):  # one passage twice among other words
        texts.append(" ".join([*names[:width], *names[100:160], *names[:width], *names[200:290]]) + ".")
    strict = PublishedLimits(
        minimum_words=5, most_frequent_run=(0.05, 0.04, 0.03), repeated_runs=(0.05, 0.05, 0.04, 0.04, 0.02, 0.02),
        sentences=2, repeated_line_letters=0.5, repeated_lines=0.6, repeated_paragraphs=0.8,
    )  # fmt: skip
    reasons = judge_texts(texts, strict)
    for number, text in enumerate(texts):
        for name in RULE_SETS:
            assert reasons[name][number] == judge_counts(count_one(text), strict, name)
    assert any("repeated_runs" in (reason or "") for reason in reasons["gopher_repetition"])
    assert any("most_frequent_run" in (reason or "") for reason in reasons["gopher_repetition"])


def test_every_limit_is_named_by_a_reason():
    reasons = " ".join(reason for rules in RULE_SETS.values() for reason, _ in rules)
    for name in PublishedLimits.model_fields:
        assert f"({name})" in reasons


@pytest.mark.parametrize(
    "text,words",
    [
        ("Don't stop.", "Do n't stop ."),  # what spaCy 3.8 makes of them
        ("Mr. Smith's dog", "Mr. Smith 's dog"),
        ("It is the dog’s. It isn't.", "It is the dog ’s . It is n't ."),
        ("(3.5%), i.e. $5", "( 3.5 % ) , i.e. $ 5"),
        ("well-known either/or 10:30", "well - known either / or 10:30"),
        ("end.Start wait... “Hi.”", "end . Start wait ... “ Hi . ”"),
        ("http://www.a.com/b-c?d=e foo(bar)", "http://www.a.com/b-c?d=e foo(bar )"),
        ("U.S. OK. word.[1]", "U.S. OK . word.[1 ]"),
    ],
)
def test_words_are_cut_as_the_reference_tokenizer_cuts_them(text, words):
    assert find_english_words(text) == words.split(" ")
