"""GPT-3's quality classifier: the curve it keeps documents by, and real junk against real prose."""

import random
from pathlib import Path

import numpy as np
import pytest

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.data.cleaning.clean import CleanSettings, clean_documents
from athanor.data.cleaning.quality import QualitySettings, area_under_curve, features, judge_quality, keep
from athanor.data.document import make_document
from athanor.data.reading.read import ReadSettings, read_documents
from athanor.data.shards import read_shards
from tests.data.cleaning.test_clean import story
from tests.data.conftest import RunStep

SHOP = (
    "buy cheap click here sale offer free shipping price discount login cart sign up cookies terms privacy menu".split()
)


def junk(number: int) -> str:
    """An advertisement, with enough common words to pass as English."""
    chance = random.Random(number)
    lines = [" ".join(chance.choice([*SHOP, "the", "to", "and", "of"]) for _ in range(12)) + "." for _ in range(9)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("score", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_documents_are_kept_as_often_as_the_distribution_says(score: float) -> None:
    """P(pareto(a) > 1 - s) = (2 - s)^-a for numpy's Pareto, which begins at 0."""
    settings = QualitySettings(alpha=9)
    documents = [make_document(str(number), "x") for number in range(4_000)]
    kept = np.mean([keep(score, document, settings) for document in documents])
    expected = (2 - score) ** -9.0
    assert abs(kept - expected) < 4 * np.sqrt(expected * (1 - expected) / 4_000) + 1e-3
    assert [keep(score, document, settings) for document in documents[:50]] == [
        keep(score, document, settings) for document in documents[:50]
    ]


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    random_numbers = np.random.default_rng(0)
    scores = random_numbers.integers(0, 8, 60) / 8
    kinds = random_numbers.random(60) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[kinds] for b in scores[~kinds]]
    assert area_under_curve(scores, kinds) == pytest.approx(np.mean(pairs))


def test_features_are_words_whatever_their_case() -> None:
    one, other = features("The cat, the DOG; 你好吗", 1 << 12), features("the Cat, THE dog; 你好吗", 1 << 12)
    assert sorted(one[0]) == sorted(other[0])
    assert float((one[1] ** 2).sum()) == pytest.approx(1.0)
    assert not len(features("", 1 << 12)[0])


@pytest.fixture
def corpora(tmp_path: Path, run_step: RunStep):
    """Stories as curated text; stories and advertisements as raw text."""

    def make(name: str, texts: dict[str, str]):
        folder = tmp_path / name
        folder.mkdir()
        for file, text in texts.items():
            (folder / file).write_text(text)
        documents = run_step(read_documents, ReadSettings(path=str(folder)))
        return run_step(clean_documents, CleanSettings(copy_threshold=1.0), documents=documents)

    curated = make("curated", {f"{number}.txt": story(number) for number in range(60)})
    texts = {f"story{number}.txt": story(1_000 + number) for number in range(60)}
    texts |= {f"junk{number}.txt": junk(number) for number in range(60)}
    return curated, make("raw", texts)


def test_stories_stay_and_advertisements_go(run_step: RunStep, corpora) -> None:
    curated, raw = corpora
    made = run_step(judge_quality, QualitySettings(alpha=3.0), corpus=raw, curated=curated)
    kept = [document.source for document in read_shards(made, "train")]
    stories = sum(name.startswith("story") for name in kept)
    advertisements = len(kept) - stories
    assert stories > 15 and stories > 4 * advertisements
    (stage,) = read_json(made.file("funnel.json"))
    assert stage["out"] == len(kept) and stage["reasons"]["unlike the curated text (alpha)"]["count"] == stage[
        "in"
    ] - len(kept)
    assert made.measurements["area_under_curve"] > 0.6  # half of the raw text is as good as the curated


def test_the_same_settings_keep_the_same(run_step: RunStep, corpora) -> None:
    curated, raw = corpora
    one = run_step(judge_quality, QualitySettings(), corpus=raw, curated=curated)
    other = run_step(judge_quality, QualitySettings(), corpus=raw, curated=curated)
    assert {name: entry for name, entry in one.record["files"].items()} == dict(other.record["files"])


def test_too_few_documents_are_refused(tmp_path: Path, run_step: RunStep, corpora) -> None:
    _, raw = corpora
    (tmp_path / "few").mkdir()
    for number in range(4):
        (tmp_path / "few" / f"{number}.txt").write_text(story(number))
    documents = run_step(read_documents, ReadSettings(path=str(tmp_path / "few")))
    few = run_step(clean_documents, CleanSettings(), documents=documents)
    with pytest.raises(AthanorError, match="at least 10 of each"):
        run_step(judge_quality, QualitySettings(), corpus=raw, curated=few)
