"""GPT-1's four input forms: how examples are read, losses beside `transformers`, and planted tasks are learnt."""

import json
import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from athanor.base.errors import AthanorError
from athanor.base.progress import SilentProgress
from athanor.base.settings import parse_settings
from athanor.data.examples import Example, ExampleSettings, Task, open_examples
from athanor.models.classified import Classifier, load_classifier, save_classifier
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.recipes.recipe import load_recipe
from athanor.recipes.runner import plan_recipe, run_recipe
from athanor.store.artifact import Artifact, Store
from athanor.tokens.extend import extend
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.classify import DELIMITER, EXTRACT, ClassifySettings, Reader
from athanor.training.correctness import correlation, figures_of, macro_f1, ranks
from athanor.training.objectives.classification import (
    ReadingBatch,
    Signs,
    batch_of,
    classification_loss,
    judge,
    readings,
)  # fmt: skip
from athanor.training.techniques import apply_techniques
from tests.training.stopping import files_of, stopped_again_and_again

CPU = torch.device("cpu")
SIGNS = Signs(start=1, delimiter=2, extract=3, pad=0)
WORDS = "apple bread cheese dates eggs figs grape honey ice jam kale lemon mango nuts olive pear".split()


def letters(text: str) -> list[int]:
    return [10 + ord(letter) - ord("a") for letter in text]


def network(outputs: int, seed: int = 0) -> Classifier:
    config = TransformerConfig(
        width=32, layers=2, heads=2, hidden=48, max_positions=64, vocabulary=40, tied=True, norm_qk=True
    )
    model = Classifier(LanguageModel(config).initialise(seed), outputs).initialise(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
    return model


def batch(form: str, examples: list[Example], labels: list[int | float]) -> ReadingBatch:
    return batch_of([readings(form, one, letters, SIGNS) for one in examples], labels, SIGNS, CPU)


PAIRS = [Example("1", "abc", "de"), Example("2", "f", "ghij"), Example("3", "klm", "n")]
CHOICES = [Example("1", "abc", choices=("d", "ef")), Example("2", "g", choices=("hi", "j", "klm"))]


def test_the_four_forms_are_those_of_figure_1() -> None:
    a, b = letters("ab"), letters("c")
    one = Example("1", "ab", "c", ("c", "ab"))
    assert readings("classification", one, letters, SIGNS) == [[1, *a, 3]]
    assert readings("entailment", one, letters, SIGNS) == [[1, *a, 2, *b, 3]]
    assert readings("similarity", one, letters, SIGNS) == [[1, *a, 2, *b, 3], [1, *b, 2, *a, 3]]
    assert readings("choice", one, letters, SIGNS) == [[1, *a, 2, *b, 3], [1, *a, 2, *a, 3]]


def test_similarity_does_not_know_which_text_comes_first() -> None:
    model = network(2)
    turned = [Example(one.id, one.second or "", one.text) for one in PAIRS]
    found = [
        judge(model, "similarity", model.language.hidden(rows.ids_RT), rows)
        for rows in (batch("similarity", some, [0, 1, 0]) for some in (PAIRS, turned))
    ]
    assert float(found[0].detach().std()) > 0.01
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    other = judge(
        model, "entailment", model.language.hidden((rows := batch("entailment", PAIRS, [0, 1, 0])).ids_RT), rows
    )
    swapped = batch("entailment", turned, [0, 1, 0])
    assert not torch.allclose(
        other, judge(model, "entailment", model.language.hidden(swapped.ids_RT), swapped), atol=1e-3
    )


def test_the_scores_and_both_losses_are_those_of_transformers(tmp_path: Path) -> None:
    """The saved folder as a model for sequence classification, and as a language model, one text at a time."""
    transformers = pytest.importorskip("transformers")
    model = network(3)
    save_classifier(model, tmp_path, ["no", "maybe", "yes"], {"pad_token_id": 0})
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    rows, labels = batch("entailment", PAIRS, [2, 0, 1]), torch.tensor([2, 0, 1])
    scores = judge(model, "entailment", model.language.hidden(rows.ids_RT), rows)
    with torch.no_grad():
        expected = theirs(rows.ids_RT, attention_mask=(rows.ids_RT != 0).long()).logits
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
        language = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        one_by_one = [row[row != 0][None] for row in rows.ids_RT]
        own = sum(float(language(ids, labels=ids).loss) for ids in one_by_one)
    task = float(nn.functional.cross_entropy(expected, labels, reduction="sum"))
    total, count, parts = classification_loss("entailment", 0.5)(model, rows)
    assert int(count) == 3
    assert float(parts["language"][0]) == pytest.approx(own, rel=1e-4)
    assert float(total.detach()) == pytest.approx(task + 0.5 * own, rel=1e-4)
    assert float(classification_loss("entailment", 0.0)(model, rows).total.detach()) == pytest.approx(task, rel=1e-4)
    assert torch.equal(load_classifier(tmp_path).score.weight, model.score.weight)


def test_endings_compete_with_those_of_their_own_example_only() -> None:
    model = network(1)
    total, count, _ = classification_loss("choice", 0.0)(model, batch("choice", CHOICES, [1, 2]))
    expected = 0.0
    for example, label in zip(CHOICES, (1, 2), strict=True):
        scores = [
            float(model(torch.tensor([reading]), torch.tensor([len(reading) - 1])).detach())
            for reading in readings("choice", example, letters, SIGNS)
        ]
        expected -= scores[label] - float(np.log(np.exp(scores).sum()))
    assert int(count) == 2 and float(total.detach()) == pytest.approx(expected, rel=1e-5)


def test_numbers_are_learnt_by_their_squared_error() -> None:
    model = network(1)
    rows = batch("similarity", PAIRS, [0.5, 4.0, 2.0])
    scores = judge(model, "similarity", model.language.hidden(rows.ids_RT), rows).squeeze(1)
    total = classification_loss("similarity", 0.0)(model, rows).total
    torch.testing.assert_close(total, (scores - torch.tensor([0.5, 4.0, 2.0])).square().sum())


def test_z_loss_is_of_the_language_models_scores() -> None:
    """1e-4 times the squared logarithm of the softmax's sum of every token, in the mean over a reading (PaLM)."""
    model, rows = network(2), batch("entailment", PAIRS, [1, 0, 1])
    with torch.no_grad():
        sums_RT = model.language(rows.ids_RT).logsumexp(-1)
    own = sum(
        float(sums_T[mask_T].square().mean()) for sums_T, mask_T in zip(sums_RT, rows.targets_RT >= 0, strict=True)
    )
    more, plain = (
        float(classification_loss("entailment", 0.5, share)(model, rows).total.detach()) for share in (0.1, 0.0)
    )
    assert more - plain == pytest.approx(0.5 * 0.1 * own, rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"z_loss": 1e-4, "auxiliary": 0}, "z_loss .* needs auxiliary"),
        ({"prompts": ["a"], "watch_every": 1}, "prompts"),
        ({"accumulate": 9}, "rows=8 for 9 pieces"),
    ],
)
def test_a_setting_without_a_meaning_is_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(AthanorError, match=told):
        parse_settings(ClassifySettings, {"steps": 4, "rows": 8, "learning_rate": 0.1, **wrong}, "classify")


@pytest.mark.parametrize(("first", "second"), [(30, 30), (200, 200), (3, 90), (90, 40), (31, 32)])
def test_a_long_pair_is_cut_to_what_has_room(first: int, second: int) -> None:
    """The longest texts lose their ends, both where both are long, and no more than must be lost."""
    tokenizer, _ = extend(Tokenizer.train(["abcd"], 270), special=[DELIMITER, EXTRACT])
    settings = ClassifySettings(steps=1, rows=1, learning_rate=0.1, context=64, too_long="truncate")
    reader = Reader(Task("entailment", ("no", "yes")), tokenizer, settings, 64)
    size = len(tokenizer.encode("ab" * 8)) / 8
    example = Example("1", "ab" * first, "ab" * second, label="no")
    ((reading,),) = reader.read([example])
    whole = 3 + size * (first + second)
    assert len(reading) == whole if whole <= 64 else 63 <= len(reading) <= 64
    assert reader.cut == int(whole > 64)
    place = reading.index(tokenizer.special[DELIMITER])
    if min(first, second) * size > 31:
        assert abs((place - 1) - (len(reading) - place - 2)) <= 1


def test_neftune_reaches_the_embedding_of_a_classifier() -> None:
    model, rows = network(2), batch("entailment", PAIRS, [1, 0, 1])
    apply_techniques(model, ClassifySettings(steps=1, rows=1, learning_rate=0.1, neftune=5.0))
    loss = classification_loss("entailment")
    noisy = [float(loss(model, rows).total.detach()) for _ in range(2)]
    assert noisy[0] != noisy[1]
    assert float(loss(model.eval(), rows).total) == float(loss(model, rows).total)


@pytest.mark.parametrize("form", ["similarity", "choice"])
def test_an_examples_share_of_the_loss_does_not_depend_on_its_neighbours(form: str) -> None:
    examples, labels = (PAIRS, [1, 0, 1]) if form == "similarity" else (CHOICES, [1, 2])
    model, loss = network(2 if form == "similarity" else 1), classification_loss(form)
    whole = loss(model, batch(form, examples, labels))
    single = [loss(model, batch(form, [one], [label])) for one, label in zip(examples, labels, strict=True)]
    for name in ("task", "language"):
        assert float(whole.parts[name][0]) == pytest.approx(sum(float(one.parts[name][0]) for one in single), rel=1e-4)


# ------------------------------------------------------------------------------------------------------------- figures


def test_figures_of_hand_computed_cases() -> None:
    """F1 of three classes, ranks with ties, a correlation from its definition."""
    assert macro_f1([0, 0, 1, 1, 2], [0, 1, 1, 1, 0]) == pytest.approx((2 / 4 + 4 / 5 + 0) / 3)
    assert ranks([3.0, 1.0, 3.0, 2.0]) == [3.5, 1.0, 3.5, 2.0]
    assert correlation([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)
    assert correlation([1, 2, 3], [5, 5, 5]) == 0.0
    numbers = [Example(str(n), "a", "b", label=float(n)) for n in (1, 2, 3, 10)]
    found = figures_of(Task("similarity", ()), numbers, [[0.1], [0.2], [0.3], [0.4]])
    assert found["spearman"] == 1.0 and found["pearson"] == pytest.approx(14 / math.sqrt(50 * 5))
    endings = [Example("1", "a", choices=("b", "c"), label=1), Example("2", "a", choices=("b", "c", "d", "e"), label=0)]
    assert figures_of(Task("choice", ()), endings, [[0.0, 1.0], [0.0, 1.0, 0.0, 0.0]]) == {
        "accuracy": 0.5,
        "chance": 0.375,
    }


# ------------------------------------------------------------------------------------------------------ a planted task


def planted(form: str, count: int = 400) -> list[dict[str, object]]:
    """Rows whose label follows from the words: of the first, of the one that is repeated, or a number of both."""
    draw, rows = random.Random(3), []
    for _ in range(count):
        some = draw.sample(WORDS, 5)
        if form == "classification":
            rows.append({"text": " ".join(some[:3]), "label": int(WORDS.index(some[0]) < 8)})
        elif form == "choice":
            right = draw.randrange(2)
            endings = [some[0], some[4]] if right == 0 else [some[4], some[0]]
            rows.append({"text": " ".join([some[0]] * 3), "endings": endings, "label": right})
        else:
            score = float(sum(WORDS.index(word) < 8 for word in some[:2]))
            rows.append({"text": some[0], "second": some[1], "label": score})
    return rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("classify") / "store")


SMALL = {
    "pretrain": {"layers": 2, "width": 64, "heads": 2, "hidden": 96, "context": 64, "rows": 4, "steps": 10,
                 "dtype": "float32"},
    "classify": {"steps": 50, "rows": 16, "learning_rate": 0.005, "dtype": "float32", "warmup": 5, "watch_every": 50},
}  # fmt: skip


def run(
    store: Store, folder: Path, form: str, rows: list[dict[str, object]], progress: SilentProgress | None = None,
    **more: object,
) -> dict[str, Artifact]:  # fmt: skip
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    field = {"classification": {}, "choice": {"choices": "endings"}}.get(form, {"second": "second"})
    examples = {"path": str(path), "form": form, **field}
    told = [f"examples.{name}={value}" for name, value in examples.items()]
    told += [f"{step}.{name}={value}" for step, values in SMALL.items() for name, value in values.items()]
    told += [f"classify.{name}={value}" for name, value in more.items()]
    recipe = load_recipe("classify", ["data.max_bytes=100000", "tokenizer.vocabulary=300", *told])
    return run_recipe(recipe, plan_recipe(recipe), store, progress or SilentProgress())


@pytest.mark.parametrize("form", ["classification", "similarity", "choice"])
def test_a_planted_task_is_learnt(form: str, store: Store, tmp_path: Path) -> None:
    made = run(store, tmp_path, form, planted(form))["classify"]
    figure = "pearson" if form == "similarity" else "accuracy"
    assert made.measurements[figure] > 0.85, made.measurements
    rows = [json.loads(line) for line in made.file("metrics.jsonl").read_text().splitlines()]
    assert set(rows[-1]["parts"]) == {"task", "language"}
    assert rows[-1]["watched"][f"heldout/{figure}"] == pytest.approx(made.measurements[figure])
    assert load_classifier(made.path).score.out_features == (2 if form == "classification" else 1)


def test_a_classifier_stopped_again_and_again_is_the_same_to_the_bit(store: Store, tmp_path: Path) -> None:
    rows = planted("similarity", 60)
    short = {"steps": 8, "watch_every": 4, "average": 0.9, "checkpoint_seconds": 0}
    whole = run(store, tmp_path, "similarity", rows, **short)
    other = Store(tmp_path / "store")
    shutil.copytree(store.root, other.root, ignore=shutil.ignore_patterns("classifier-*"))
    made, stops = stopped_again_and_again(
        lambda progress: run(other, tmp_path, "similarity", rows, progress, **short), "classifying", 3
    )
    assert stops >= 2 and made["classify"].path != whole["classify"].path
    assert files_of(made["classify"]) == files_of(whole["classify"])


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"form": "entailment", "label": "label"}, "needs `second`"),
        ({"form": "classification", "label": "label", "choices": "x"}, "has no `choices`"),
        ({"form": "pair", "target": "t", "source_language": "en"}, "go together"),
        ({"form": "regression"}, "classification"),
    ],
)
def test_fields_that_a_form_lacks_or_has_no_use_for_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(AthanorError, match=told):
        parse_settings(ExampleSettings, {"path": "x.jsonl", **settings}, "examples")


def test_names_and_values_may_be_written_as_yaml_reads_them() -> None:
    given = {"path": "x", "form": "classification", "label": "y", "names": {0: "no", 1: "yes"}, "where": {"set": 3}}
    settings = parse_settings(ExampleSettings, given, "examples")
    assert settings.names == {"0": "no", "1": "yes"} and settings.where == {"set": "3"}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"text": "a", "label": 1}, {"txt": "b", "label": 1}], "line 2 has no 'text'"),
        ([{"text": " ", "label": 1}], "not empty"),
        ([{"text": str(n), "label": 1} for n in range(99)], "two classes"),
        ([], "no example is left"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(
    rows: list[dict[str, object]], told: str, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(AthanorError, match=told):
        run(store, tmp_path, "classification", rows)


def test_a_text_too_long_is_refused_or_cut(store: Store, tmp_path: Path) -> None:
    rows = [*planted("classification", 60), {"text": " ".join(WORDS * 4), "label": 1}]
    with pytest.raises(AthanorError, match=r"line 61 is \d+ tokens long"):
        run(store, tmp_path, "classification", rows, too_long="refuse", steps=2, watch_every=2)
    assert run(store, tmp_path, "classification", rows, steps=2, watch_every=2)["classify"].measurements["steps"] == 2


def test_what_is_held_out_is_not_learnt(store: Store, tmp_path: Path) -> None:
    rows = [{"text": f"{word} {number % 7}", "label": number % 2} for number in range(14) for word in WORDS]
    made = run(store, tmp_path, "classification", rows, steps=2, watch_every=2)["examples"]
    _, learnt, heldout = open_examples(made)
    assert heldout and not {one.text for one in learnt} & {one.text for one in heldout}
