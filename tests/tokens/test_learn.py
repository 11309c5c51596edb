"""The three kinds of tokenizers learnt here: exactness, what is lost, the same bytes on every run, `transformers`."""

import math
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base.errors import AthanorError
from athanor.tokens.learn import KINDS, UNKNOWN
from athanor.tokens.tokenizer import SPECIAL_TOKENS, Tokenizer
from athanor.tokens.unigram import Lattice, learn_pieces
from tests.conftest import ROOT
from tests.tokens.samples import LEARN, NASTY, random_texts

TEXTS = [*NASTY, *LEARN[:6], *random_texts(100)]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.train(LEARN, 500, request.param)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_every_text_comes_back(kind: str) -> None:
    tokenizer = Tokenizer.train(LEARN, 400, kind)  # type: ignore[arg-type]

    @settings(max_examples=100, deadline=None)
    @given(text=st.text())
    def check(text: str) -> None:
        assert tokenizer.decode(tokenizer.encode(text)) == text

    check()
    table = tokenizer.token_bytes()
    for text in TEXTS:
        assert b"".join(table[index] for index in tokenizer.encode(text)) == text.encode()


def test_special_tokens_come_first_and_never_from_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.native
    assert [tokenizer.special[token] for token in SPECIAL_TOKENS] == list(range(6))
    for token in SPECIAL_TOKENS:
        for text in (token, f"x{token}y", f" {token} ", token * 2):
            assert not set(tokenizer.encode(text)) & set(range(6)), text
        assert tokenizer.encode_template(f"{token}the cat")[0] == tokenizer.special[token]


def test_wordpiece_loses_what_is_stated_and_no_more() -> None:
    tokenizer = Tokenizer.train(LEARN, 500, "wordpiece")
    assert tokenizer.unk == UNKNOWN and tokenizer.special[UNKNOWN] == 6
    assert tokenizer.decode(tokenizer.encode("the  cat\n sat")) == "the cat sat"  # white space
    assert tokenizer.decode(tokenizer.encode("The DOG naïve")) != tokenizer.decode(tokenizer.encode("the dog naive"))
    assert tokenizer.encode("\u1234\u1235") == [tokenizer.special[UNKNOWN]]
    assert tokenizer.decode(tokenizer.encode("你好")).replace(" ", "") == "你好"


def test_transformers_has_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs, again = transformers.AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    for text in TEXTS:
        if not any(token in text for token in (*SPECIAL_TOKENS, UNKNOWN)):
            assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text), text
        marked = f"<|user|>{text}<|end|>"
        assert theirs(marked, add_special_tokens=False)["input_ids"] == tokenizer.encode_template(marked), text
        assert again.encode(text) == tokenizer.encode(text)
    assert again.native and again.unk == tokenizer.unk


def test_another_process_learns_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom athanor.tokens.tokenizer import Tokenizer\nfrom tests.tokens.samples import LEARN\n"
        "for kind in ('bpe', 'unigram', 'wordpiece'):\n"
        "    folder = pathlib.Path(sys.argv[1], kind); folder.mkdir()\n"
        "    Tokenizer.train(LEARN, 500, kind).save(folder)\n"
    )
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], cwd=ROOT, check=True)
    for kind in KINDS:
        one, two = ((tmp_path / name / kind / "tokenizer.json").read_bytes() for name in ("one", "two"))
        assert one == two, kind


def test_the_vocabulary_is_as_large_as_asked() -> None:
    for kind in KINDS:
        assert Tokenizer.train(LEARN, 420, kind).vocabulary <= 420  # type: ignore[arg-type]
    with pytest.raises(AthanorError, match="kind='words'"):
        Tokenizer.train(LEARN, 420, "words")  # type: ignore[arg-type]
    with pytest.raises(AthanorError, match="too small"):
        Tokenizer.train(LEARN, 100)


def test_no_text_at_all_still_gives_the_bytes() -> None:
    for kind in ("bpe", "unigram"):
        tokenizer = Tokenizer.train([], 300, kind)  # type: ignore[arg-type]
        assert tokenizer.decode(tokenizer.encode("any text 你好")) == "any text 你好"


# ----------------------------------------------------------------------------------------------------- unigram's maths


def cuts(word: str, pieces: list[str]) -> list[list[str]]:
    """Every way to cut a word, by trying all of them."""
    found = []
    for marks in product((False, True), repeat=len(word) - 1):
        parts, start = [], 0
        for place, mark in enumerate(marks, 1):
            if mark:
                parts.append(word[start:place])
                start = place
        parts.append(word[start:])
        if all(part in pieces for part in parts):
            found.append(parts)
    return found


def test_expected_counts_are_those_of_all_cuts() -> None:
    draw = np.random.default_rng(3)
    pieces = ["a", "b", "c", "ab", "bc", "abc", "ca", "bca"]
    probability = draw.random(len(pieces))
    probability /= probability.sum()
    chance = dict(zip(pieces, probability, strict=True))
    words = {"abc": 3, "abcab": 2, "c": 5, "bcabca": 1}
    expected = Counter()
    for word, count in words.items():
        ways = cuts(word, pieces)
        weights = [math.prod(chance[part] for part in parts) for parts in ways]
        for parts, weight in zip(ways, weights, strict=True):
            for part in parts:
                expected[part] += count * weight / sum(weights)
    lattice = Lattice.build(list(words), pieces)
    found = lattice.expect(np.log(probability), np.array(list(words.values()), float))
    assert found == pytest.approx([expected[piece] for piece in pieces], rel=1e-12)
    best = lattice.forward(np.log(probability), best=True)[lattice.last_W]
    assert best == pytest.approx([
        math.log(max(math.prod(chance[part] for part in parts) for parts in cuts(word, pieces))) for word in words
    ])  # fmt: skip


def test_planted_words_are_found() -> None:
    """Words made of five planted parts: those are the pieces that the letters do not explain."""
    draw = np.random.default_rng(1)
    parts = ["king", "dom", "ship", "fall", "water"]
    words: Counter[str] = Counter()
    for _ in range(400):
        words["".join(draw.choice(parts, draw.integers(1, 4)))] += 1
    letters = sorted(set("".join(parts)))
    pieces = learn_pieces(words, letters, len(letters) + len(parts))
    assert {piece for piece, _ in pieces[len(letters) :]} == set(parts)
    likeliest = sorted(pieces, key=lambda row: -row[1])[: len(parts)]
    assert {piece for piece, _ in likeliest} == set(parts)
