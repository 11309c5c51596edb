"""The C library's runs, band keys and sets are those of Python."""

import gzip
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base import native
from athanor.base.textblock import TextBlock
from athanor.data.copies import clusters, compiled
from athanor.data.copies.byteshingles import SPECIAL, hash_runs, lower_tables
from athanor.data.copies.files import CopySettings, remove_copies
from athanor.data.copies.minhash import BandMaker
from tests.conftest import REAL_DATA
from tests.native_library import needs_library

pytestmark = needs_library
LETTERS = (
    "aBzZ09_ .,-@[`{\n\t\0\x7f éÉÀß ẞ İi\u0307 Σσς \u212a\u212b ПР Ⱥ Ω 汉字語 がカ 한글 ไทย \U00020000\U0001f600"
    " ＡＢ１ ǅ \u1e9e\ufffd\ue000\uffff"
)
texts = st.lists(st.text(alphabet=LETTERS, max_size=60) | st.text(max_size=40), max_size=6)


def equal(documents, width):
    """Compare everything the library says about documents with what Python says."""
    documents = [text.encode("utf-8", "replace").decode() for text in documents]  # no lone surrogates
    block, maker = TextBlock.of(documents), BandMaker(0.7)
    keys_DB = compiled.band_keys(block, width, maker.probes, maker.bands, maker.rows)
    runs_R, ends_D = compiled.run_sets(block, width)
    if not documents:
        assert keys_DB.shape == (0, maker.bands) and len(runs_R) == len(ends_D) == 0
        return
    batch = hash_runs(documents, width)
    assert np.array_equal(keys_DB, maker(batch))
    sets = batch.sets()
    assert ends_D.tolist() == np.cumsum([len(found) for found in sets]).tolist()
    assert np.array_equal(runs_R, np.concatenate(sets))


@settings(max_examples=100, deadline=None)
@given(texts, st.integers(1, 6))
def test_runs_are_those_of_python(documents, width):
    equal(documents, width)


def test_words_of_every_length_at_every_place():
    words = ["x" * length for length in (*range(1, 34), 63, 64, 65, 66, 71, 72, 73, 1_000)]
    mixed = ["Ab", "é" * 5, "汉", "ÀÉ" * 40, "x" * 7, "y" * 8, "z" * 9, "_", "9" * 17, "Ж" * 64, "𝐀" * 9, "がa"]
    documents = [" " * gap + glue.join(part) + end for gap in range(9) for glue in (" ", "。", ", ", "é ")
                 for part in (words, mixed, [*mixed[::-1], *words]) for end in ("", ".", "é", "字")]  # fmt: skip
    for width in (1, 5, 100):
        equal(documents, width)


def test_every_letter_of_unicode():
    letters = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x110000, 7))]
    special = [chr(code) for code in np.flatnonzero(lower_tables()[0] == SPECIAL)]
    assert "İ" in special and "Σ" in special
    assert not set(special) & set("".join(special).lower()), "lower-casing once is enough"
    documents = ["a".join(letters[start : start + 500]) for start in range(0, len(letters), 500)]
    equal([*documents, *(f"x{letter}y {letter}" for letter in special), " ".join(special)], 2)


def test_many_equal_and_colliding_runs_are_sorted():
    chance = random.Random(4)
    equal(["a b " * 5_000, "a " * 9_999, " ".join(chance.choices("abcd", k=20_000)), "x", ""], 3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sets(st.integers(0, 60), max_size=40), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_shared_runs_are_counted(sets, chance):
    runs_R = np.array([number for found in sets for number in sorted(found)], dtype=np.uint64)
    starts_D = np.cumsum([0, *map(len, sets)])
    left_N, right_N = (np.array([chance.randrange(len(sets)) for _ in range(9)]) for _ in range(2))
    expected = [len(sets[one] & sets[other]) for one, other in zip(left_N, right_N, strict=True)]
    for count in (compiled.count_shared, clusters.count_shared):
        assert count(runs_R, starts_D, left_N, right_N).tolist() == expected


@pytest.mark.parametrize("name", ["en_c4_sample", "zh_d2l_book", "udhr"])
def test_real_texts(name):
    path = REAL_DATA / "text" / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    equal([row["text" if "text" in row else "zh"] for row in rows], 5)


def test_the_files_are_the_same_to_the_byte(tmp_path, monkeypatch):
    chance = random.Random(6)
    words = [f"Word{number}" for number in range(400)] + [*"汉字文本处理é"] + ["Σίσυφος", "İstanbul"]
    rows = []
    for number in range(300):
        text = chance.choices(words, k=chance.randint(0, 200))
        for copy in range(chance.choice((1, 1, 1, 3))):
            text = [chance.choice(words) if chance.random() < 0.02 * copy else word for word in text]
            rows.append(json.dumps({"id": f"{number}-{copy}", "text": " ".join(text)}, ensure_ascii=copy == 0))
    chance.shuffle(rows)
    (tmp_path / "in.jsonl").write_text("\n".join([*rows[:50], "", *rows[50:]]), encoding="utf-8")
    remove_copies([tmp_path / "in.jsonl"], tmp_path / "fast", CopySettings())
    monkeypatch.setattr(native, "available", lambda: False)
    remove_copies([tmp_path / "in.jsonl"], tmp_path / "plain", CopySettings())
    for path in (tmp_path / "plain").iterdir():
        assert path.read_bytes() == (tmp_path / "fast" / path.name).read_bytes()
    assert len((tmp_path / "plain" / "duplicates.jsonl").read_bytes().splitlines()) > 50


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, (1 << 32) - 1) | st.integers(0, 40), max_size=200), st.integers(1, 300))
def test_every_repeated_key_may_repeat(keys, expected):
    key_D = np.array(keys, dtype=np.uint32)
    parts = [(0, key_D[:90]), (90, key_D[90:])]
    may_repeat = compiled.find_repeated(iter(parts), expected)
    found = np.concatenate([may_repeat(part) for _, part in parts]).astype(bool)
    assert not found[key_D == 0].any()
    assert all(found[place] for place, key in enumerate(keys) if key and keys.count(key) > 1)


def test_few_keys_that_do_not_repeat_may_repeat():
    key_D = np.random.default_rng(2).permutation(1 << 20).astype(np.uint32)[:20_000] * np.uint32(2_654_435_761)
    assert compiled.find_repeated([(0, key_D)], len(key_D))(key_D).mean() < 0.15
