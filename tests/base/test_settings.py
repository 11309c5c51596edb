"""Settings are strict, and errors say what was given, what is allowed, what to do."""

from typing import Literal

import pydantic
import pytest

from athanor.base.errors import AthanorError
from athanor.base.settings import Settings, parse_settings
from athanor.base.tables import duration, quantity, size, text_table


class Example(Settings):
    learning_rate: float = pydantic.Field(gt=0, lt=1)
    steps: int = 10
    schedule: Literal["cosine", "linear"] | None = None


def test_an_unknown_key_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(AthanorError) as caught:
        parse_settings(Example, {"learning_rat": 0.1}, "pretrain")
    assert caught.value.what == "pretrain.learning_rat is not a setting"
    assert "learning_rate" in caught.value.fix
    assert caught.value.code == 2


@pytest.mark.parametrize("value", [0, 1, -3, "fast", None, float("nan"), float("inf")])
def test_a_value_out_of_range_is_refused_by_name(value: object) -> None:
    with pytest.raises(AthanorError, match=r"pretrain\.learning_rate") as caught:
        parse_settings(Example, {"learning_rate": value}, "pretrain")
    assert "float" in caught.value.allowed


def test_a_word_that_is_none_of_the_known_ones_is_answered_with_them() -> None:
    with pytest.raises(AthanorError, match=r"pretrain\.schedule='cosin'") as caught:
        parse_settings(Example, {"learning_rate": 0.1, "schedule": "cosin"}, "pretrain")
    assert caught.value.allowed == "cosine, linear (default None)"
    assert caught.value.fix == "did you mean 'cosine'?"


class Around(Settings):
    inside: Example | None = None
    count: int = pydantic.Field(ge=3, default=5)


def test_what_is_allowed_is_said_in_words_and_inside_other_settings_too() -> None:
    with pytest.raises(AthanorError, match=r"step\.count=2 cannot") as caught:
        parse_settings(Around, {"count": 2}, "step")
    assert caught.value.allowed == "int at least 3 (default 5)"
    with pytest.raises(AthanorError, match=r"step\.inside\.learning_rate") as caught:
        parse_settings(Around, {"inside": {"learning_rate": 3}}, "step")
    assert caught.value.allowed == "float above 0 and below 1"
    with pytest.raises(AthanorError, match=r"step\.inside\.learning_rat is not a setting") as caught:
        parse_settings(Around, {"inside": {"learning_rate": 0.1, "learning_rat": 3}}, "step")
    assert "learning_rate" in caught.value.allowed and caught.value.fix == "did you mean 'learning_rate'?"


def test_a_missing_value_is_named() -> None:
    with pytest.raises(AthanorError, match=r"pretrain\.learning_rate"):
        parse_settings(Example, {}, "pretrain")


def test_numbers_as_people_read_them() -> None:
    assert [quantity(n) for n in (950, 12_345, 4.56e6, 3.15e23, 0.25)] == [
        "950",
        "12.3 k",
        "4.56 M",
        "3.15e+23",
        "0.25",
    ]
    assert [size(n) for n in (12, 4.2e9)] == ["12 B", "4.2 GB"]
    assert [duration(s) for s in (0.43, 9, 65, 7265)] == ["0.4 s", "9 s", "1:05", "2:01:05"]


def test_wide_characters_stay_aligned() -> None:
    lines = text_table(["step", "步骤"], [["数据", 1], ["x", 22]]).splitlines()
    assert lines[2] == "数据     1"
    assert lines[3] == "x       22"
