"""Figures and intervals against textbook values and a naive computation."""

import lzma
import math
from pathlib import Path

import pytest
import torch

from athanor import recipes
from athanor.base.page import render_page, smooth, to_json
from athanor.evaluation.bits import bits_per_byte, lzma_bits_per_byte
from athanor.evaluation.exam import Answer, accuracy, passed
from athanor.evaluation.statistics import ratio, share
from athanor.evaluation.subject import LocalSubject
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.tokens.tokenizer import DOCUMENT, Tokenizer
from athanor.training.setup import save_model

TEXTS = [
    "def add(a, b):\n    return a + b\n",
    "The cat sat on the mat. 猫坐在垫子上。",
    "x" * 90 + " and then a long tail " * 8,
]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> LocalSubject:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train(TEXTS * 10, 320)
    config = TransformerConfig(
        width=32,
        layers=2,
        heads=2,
        hidden=48,
        max_positions=32,
        vocabulary=tokenizer.vocabulary,
        tied=True,
        norm_qk=True,
    )
    save_model(LanguageModel(config).initialise(4), tokenizer, folder)
    return LocalSubject(folder, dtype="float32")


def naive_nats(subject: LocalSubject, text: str) -> float:
    """One forward pass per token, each with as much context as the windows promise at least."""
    ids = [subject.tokenizer.special[DOCUMENT], *subject.tokenizer.encode(text)]
    total = 0.0
    half = subject.context // 2
    for place in range(1, len(ids)):
        begin = 0 if place < subject.context else ((place - subject.context) // half + 1) * half
        with torch.inference_mode():
            logits = subject.model(torch.tensor([ids[begin:place]]))[0, -1].double()
        total -= float(logits.log_softmax(-1)[ids[place]])
    return total


def test_bits_per_byte_is_what_a_naive_loop_finds(subject: LocalSubject) -> None:
    expected = sum(naive_nats(subject, text) for text in TEXTS) / math.log(2)
    found = bits_per_byte(subject, TEXTS)
    assert found.value == pytest.approx(expected / sum(len(text.encode()) for text in TEXTS), rel=1e-5)
    assert found.low <= found.value <= found.high
    assert found.count == 3


def test_lzma_is_the_strongest_xz_over_one_stream() -> None:
    texts = ["abc" * 400, "你好" * 300]
    size = len(lzma.compress("".join(texts).encode(), preset=9 | lzma.PRESET_EXTREME))
    assert lzma_bits_per_byte(texts) == pytest.approx(8 * size / 3000)


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [(9, 10, 0.5958, 0.9821), (0, 20, 0.0, 0.1611), (50, 50, 0.9287, 1.0), (1, 1, 0.2065, 1.0)],
)
def test_wilsons_interval_has_its_textbook_values(right: int, of: int, low: float, high: float) -> None:
    found = share(right, of)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_wilsons_interval_covers_as_often_as_it_says() -> None:
    """Of 2,000 draws of 50 answers at a true share of 0.9, about 95 % of the intervals hold 0.9."""
    generator = torch.Generator().manual_seed(1)
    draws = (torch.rand(2000, 50, generator=generator) < 0.9).sum(1).tolist()
    covered = sum(share(count, 50).low <= 0.9 <= share(count, 50).high for count in draws) / 2000
    assert 0.93 < covered < 0.98


def test_the_bootstrap_covers_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(2)
    covered = 0
    for seed in range(200):
        sizes = 50 + 100 * torch.rand(60, generator=generator)
        bits = sizes * (1.5 + 0.3 * torch.randn(60, generator=generator))
        found = ratio(bits.tolist(), sizes.tolist(), seed)
        covered += found.low <= 1.5 <= found.high
    assert 0.88 < covered / 200 <= 1.0


def test_accuracy_counts_by_language_and_skill() -> None:
    answers = [Answer("sum", "en", "q", "4", "4", True)] * 9 + [Answer("sum", "en", "q", "4", "5", False)]
    answers += [Answer("sort", "en", "q", "a", "b", False)] * 10 + [Answer("sum", "zh", "q", "4", "4", True)] * 10
    table = accuracy(answers)
    assert table["en"]["sum"].value == 0.9
    assert table["en"]["all"].value == 0.45
    assert passed(table, "en") == 1 and passed(table, "zh") == 1


def test_a_running_mean_is_one() -> None:
    assert smooth([1.0, 3.0, 5.0, 7.0], 2) == pytest.approx([1.0, 2.0, 4.0, 6.0])


def test_text_in_a_page_stays_text() -> None:
    """A document cannot smuggle a script into the report."""
    assert "</script>" not in to_json({"text": "</script><script>alert(1)</script>"})
    with pytest.raises(Exception, match="undefined"):
        render_page(Path(recipes.__file__).with_name("report.html"))


def test_the_subject_refuses_a_tokenizer_of_another_model(subject: LocalSubject, tmp_path: Path) -> None:
    from athanor.base.errors import AthanorError
    from athanor.inference.runtime import open_model

    other = Tokenizer.train(["other words"] * 5, 270)
    config = TransformerConfig(width=16, layers=1, heads=1, hidden=16, max_positions=16, vocabulary=999, tied=True)
    save_model(LanguageModel(config).initialise(0), other, tmp_path)
    with pytest.raises(AthanorError, match="tokenizer has"):
        open_model(tmp_path)
