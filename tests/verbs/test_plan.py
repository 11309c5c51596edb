"""athanor plan, for a model and for the larger scales, as a person runs it."""

import json
from pathlib import Path

import pytest

from tests.conftest import athanor_here


def test_chatglm_in_four_bits(tmp_path: Path) -> None:
    row = json.loads(athanor_here("plan", "--model", "chatglm-6b", "--bits", "4", "--context", "2048", "--json",
                             store=tmp_path).stdout)  # fmt: skip
    assert row["parameters"] == row["published"] == 6_173_286_400
    assert row["memory"]["weights"] == 4_061_117_376
    assert row["memory"]["cache"] == 939_524_096
    assert row["machines"]["4090"]["fits"] and row["machines"]["4090"]["rate"] > 100
    assert len(row["assumptions"]) > 8
    assert not list(tmp_path.iterdir())


def test_training_gpt3_in_chinese(tmp_path: Path) -> None:
    shown = athanor_here("plan", "--model", "gpt3-175b", "--tokens", "300e9", "--on", "a100", store=tmp_path,
                    ATHANOR_LANGUAGE="zh").stdout  # fmt: skip
    for words in ("参数量: 174,604,259,328", "训练算力: 3.23e+23", "6 N D: 3.14e+23", "否", "5 of them", "假设"):
        assert words in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "a recipe or --model"),
        (("quickstart", "--model", "gpt2"), "a recipe or --model"),
        (("quickstart", "--bits", "4"), "--bits is for --model"),
        (("--model", "gpt2", "--scale", "nano"), "--scale is a recipe's dial"),
        (("--model", "gpt2", "--bits", "3"), "bits=3"),
        (("--model", "gpt2", "--context", "5000"), "context=5,000"),
        (("--model", "gpt2", "--batch", "0"), "batch=0"),
        (("--model", "gpt2", "--tokens", "-1"), "tokens=-1"),
        (("--model", "gpt2", "--on", "a10"), "did you mean 'a100'"),
        (("--model", "llama-8b"), "did you mean 'llama"),
    ],
)
def test_a_mistake_is_answered(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = athanor_here("plan", *words, store=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_large_scale_is_planned_honestly_and_refused_before_anything_starts(tmp_path: Path) -> None:
    cost = json.loads(athanor_here("plan", "quickstart", "--scale", "6b", "--json", store=tmp_path).stdout)
    assert cost["parameters"] == pytest.approx(6.2e9, rel=0.01)
    assert cost["seconds"] > 10 * 365 * 86_400 and cost["epochs"] > 1_000
    shown = athanor_here("plan", "quickstart", "--scale", "6b", store=tmp_path).stdout
    assert "years" in shown and "Chinchilla" in shown
    done = athanor_here("run", "quickstart", "--scale", "6b", store=tmp_path / "store")
    assert done.returncode == 2
    assert "with 1 process each needs" in done.stderr and "here it has" in done.stderr
    assert "athanor launch" in done.stderr and "athanor plan" in done.stderr
    assert not (tmp_path / "store").exists()
