"""Patterns from files: the same answers as Python's own matcher, and never a long wait."""

import random
import re
import time

import pytest

from athanor.base.errors import AthanorError
from athanor.models.patterns import Pattern

PARTS = ("a", "b", r"\.", ".", "[ab]", "[^a]", "[a-c.]", r"\d", r"\w", "^", "$", r"\b", "1")
COUNTS = ("*", "+", "?", "*?", "{2}", "{1,2}", "{,2}", "{0,}")


def random_pattern(dice: random.Random, depth: int) -> str:
    kind = dice.random()
    if depth == 0 or kind < 0.35:
        return dice.choice(PARTS)
    if kind < 0.6:
        return random_pattern(dice, depth - 1) + random_pattern(dice, depth - 1)
    if kind < 0.75:
        return f"({random_pattern(dice, depth - 1)}|{random_pattern(dice, depth - 1)})"
    return f"(?:{random_pattern(dice, depth - 1)}){dice.choice(COUNTS)}"


def test_it_answers_as_the_standard_library_does() -> None:
    dice, matched = random.Random(1), 0
    for _ in range(4000):
        source, text = random_pattern(dice, 4), "".join(dice.choices("ab.1c", k=dice.randint(0, 6)))
        expected = re.fullmatch(source, text) is not None
        assert Pattern(source).matches(text) == expected, (source, text)
        matched += expected
    assert matched > 300


@pytest.mark.parametrize("source", ["(a*)*b", "(a|a)" * 30 + "b", "(.*.*.*.*.*)*x", "((((a?){1000}){1000}){1000})b"])
def test_no_pattern_takes_long(source: str) -> None:
    clock = time.monotonic()
    try:
        assert not Pattern(source).matches("a" * 100)
    except AthanorError as problem:
        assert "steps" in problem.what
    assert time.monotonic() - clock < 5


@pytest.mark.parametrize(
    "source",
    ["(", "a)", "[a", "*a", "(?=a)", "(?i)a", r"\1", r"\s", "a**", "a++", "a{", "a{3,2}", "a{9999}", "[b-a]", "\\",
     "(" * 60 + ")" * 60, "x" * 30_000],
)  # fmt: skip
def test_what_is_malformed_or_unknown_is_refused(source: str) -> None:
    with pytest.raises(AthanorError, match="pattern"):
        Pattern(source)
