"""The C library counts what the plain way counts, on difficult texts and on real ones."""

import gzip
import json
import random
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base import native
from athanor.base.textblock import TextBlock
from athanor.data.rules.compiled import count_block
from athanor.data.rules.fast import judge_texts
from athanor.data.rules.plain_counts import count_one
from athanor.data.rules.published import Counts
from tests.conftest import REAL_DATA
from tests.data.rules.test_published import LONG_ONES, PIECES, RECORDED, random_text
from tests.native_library import needs_library

pytestmark = needs_library
MORE = (
    "[٣] [1٣] [ [] [edit [edit] [citation needed] coo\u212aie coo\u212aie\u00a0policy use cookies uses cookies "
    "Terms of Use Privacy Policy JAVASCRIPT Lorem İpsum Lorem ipsum LOREM\u2028IPSUM \x00 .\x00 \x85 \u2028 \u2029 "
    "\x0b \x1c \r \r\n \ud800 \U0001f600. 1٣ ²٣ ０ １. e.g., ('e.g.') ’90s '90s ''s n't n’t n't. cann't's the\u00a0of ﬁ"
).split(" ")  # fmt: skip


def check(texts):
    """Every count of every text is the plain one's."""
    found = count_block(TextBlock.of_bytes([text.encode("utf-8", "surrogatepass") for text in texts]))
    for number, text in enumerate(texts):
        plain = count_one(text)
        for field in fields(Counts):
            fast, expected = getattr(found, field.name), getattr(plain, field.name)
            fast = {key: int(row[number]) for key, row in fast.items()} if isinstance(fast, dict) else fast[number]
            assert fast == expected, (field.name, text)


def test_difficult_texts():
    chance = random.Random(5)
    pieces = [*PIECES, *MORE]
    texts = ["", "\n", "a", "\n\n\n", "x" * 2_000, "a\r\nb. c\r\n" * 9, "a b\n\na b", "\na\n", "...", *LONG_ONES]
    for _ in range(150):
        texts.append(random_text(chance))
        gaps = ("", " ", " ", " ", "\n", "\n\n", "\r\n", "\u2028", "\x85")
        some = chance.sample(pieces, chance.choice((2, 6, 40)))
        texts.append("".join(chance.choice((*some, *gaps)) for _ in range(chance.choice((10, 80)))))
        line = "".join(chance.choice((*some, " ", " ", " ")) for _ in range(8))
        texts.append("\n".join([line + chance.choice(".?!\"']}") for _ in range(3)] + [line]))
    check(texts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="aTs.,'’-:/[]1 é汉\n\u2028\t#•…{", max_size=80) | st.text(max_size=40), max_size=4))
def test_any_text(texts):
    check(texts)


def test_runs_of_words_are_counted_exactly():
    chance = random.Random(8)
    texts = [" ".join(chance.choices("abcdefgh"[:letters], k=words)) for letters in (1, 2, 3, 8)
             for words in (0, 1, 2, 3, 4, 9, 10, 11, 12, 60, 400)]  # fmt: skip
    check([*texts, *(f"{text} {'uncommon words stand here'} {text}" for text in texts)])


def test_verdicts_are_the_same_with_and_without_the_library(monkeypatch):
    texts = [row["text"] for row in RECORDED] + [random_text(random.Random(number)) for number in range(200)]
    fast = judge_texts(texts)
    monkeypatch.setattr(native, "available", lambda: False)
    assert judge_texts(texts) == fast
    assert len({reason for reasons in fast.values() for reason in reasons}) > 15


@pytest.mark.parametrize("name", ["en_c4_sample", "en_wikipedia_sample", "zh_d2l_book", "en_rust_book"])
def test_real_texts(name):
    path = REAL_DATA / "text" / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    chance = np.random.default_rng(3)
    texts = [row["text" if "text" in row else "zh"] for row in rows]
    check([texts[number][:20_000] for number in chance.permutation(len(texts))[:40]])
