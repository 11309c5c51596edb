"""What fine-tuning chooses: by memory, by data, by width; each with a reason, and nothing against what was said."""

from dataclasses import replace

import pytest

from athanor.base.errors import AthanorError
from athanor.models.adapters.places import places
from athanor.models.config import TransformerConfig
from athanor.models.families import FAMILIES
from athanor.recipes import finetune_dial
from athanor.recipes.finetune_dial import METHODS, Situation, choose_all
from athanor.recipes.survey import Survey

SEVEN_B = TransformerConfig(width=4096, layers=32, heads=32, hidden=11008, vocabulary=32000, max_positions=4096)
SMALL = TransformerConfig(width=256, layers=4, heads=4, hidden=512, vocabulary=4096, max_positions=512)


def situation(config: TransformerConfig, rows: int = 1000, tokens: int = 100, quantized: bool = False) -> Situation:
    survey = Survey(rows, 0, [tokens] * rows, rows * tokens // 2, [(number + 0.5) / rows for number in range(rows)])
    return Situation(config, survey, quantized, places(FAMILIES["llama"], config))


def test_the_method_follows_from_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    plain = situation(SEVEN_B)
    for free in (4, 10, 12, 40, 200):
        monkeypatch.setattr(finetune_dial, "free_memory", lambda free=free: free * 1e9)
        try:
            found[free] = choose_all(plain, {"dtype": "bfloat16"})["method"].value
        except AthanorError as problem:
            found[free] = problem.what.split(":")[0]
    # 6.7 billion weights: 14 GB in bf16, under 5 GB in INT4
    assert found == {4: "not even the model's INT4 codes fit", 10: "qlora", 12: "qlora", 40: "lora", 200: "lora"}
    assert choose_all(situation(SMALL, quantized=True), {})["method"].value == "qlora"


def test_the_rank_grows_with_what_is_to_be_learnt() -> None:
    ranks = [choose_all(situation(SMALL, rows), {})["rank"].value for rows in (50, 1000, 5000, 50_000, 10**6)]
    assert ranks[0] == 8 and ranks == sorted(ranks) and ranks[-1] == 128  # half the width at most
    assert choose_all(situation(SEVEN_B, 50_000), {"method": "lora"})["rank"].value == 8


def test_the_rate_falls_with_the_width_and_is_a_tenth_for_all_weights() -> None:
    rates = {
        (name, config.width): choose_all(situation(config), {"method": name, "dtype": "bfloat16"})[
            "learning_rate"
        ].value
        for name in ("lora", "full")
        for config in (SMALL, SEVEN_B)
    }
    assert rates["lora", 4096] < 5e-4 < rates["lora", 256]
    assert rates["lora", 256] == pytest.approx(10 * rates["full", 256], rel=0.03)


def test_few_rows_are_seen_often_and_many_once() -> None:
    epochs = [choose_all(situation(SMALL, rows), {})["epochs"].value for rows in (2, 201, 5_000, 20_000, 100_000)]
    assert epochs == [10, 5, 3, 2, 1]
    apart = [choose_all(situation(SMALL, rows), {})["apart"].value for rows in (2, 100, 10**5)]
    assert apart == [1, 5, 200]


@pytest.mark.parametrize(("longest", "row"), [(20, 64), (64, 64), (65, 128), (300, 512), (5000, 512)])
def test_a_row_holds_the_longest_conversation_if_the_model_does(longest: int, row: int) -> None:
    assert choose_all(situation(SMALL, tokens=longest), {})["context"].value == row


@pytest.mark.parametrize("method", METHODS)
def test_what_was_said_stays_and_every_value_has_a_reason(method: str) -> None:
    chosen = choose_all(situation(SMALL), {"method": method, "epochs": 7.0, "context": None})
    assert chosen["method"].value == method and chosen["epochs"].value == 7.0
    assert chosen["method"].reason == chosen["epochs"].reason == "as you said"
    assert all(one.reason for one in chosen.values())
    assert ("rank" in chosen) == (method in ("lora", "qlora", "rslora", "dora"))
    assert ("prefix_tokens" in chosen) == (method in ("prefix", "ptuning"))
    assert ("last_layers" in chosen) == (method == "freeze")
    assert 0 < chosen["learning_rate"].value < 1


def test_the_rate_of_p_tuning_is_among_those_of_its_authors_scripts() -> None:
    """0.007 (BoolQ) to 0.03 (CoNLL 2003), for networks of width 1,024."""
    wide = replace(SMALL, width=1024)
    assert 0.007 <= choose_all(situation(wide), {"method": "ptuning"})["learning_rate"].value <= 0.03


def test_the_share_that_is_kept_apart_holds_exactly_so_many() -> None:
    survey = replace(situation(SMALL, 10).survey, places=[0.01, 0.02, 0.3, 0.31, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99])
    for rows in range(1, 10):
        share = survey.share_apart(rows)
        assert sum(place < share for place in survey.places) == rows
