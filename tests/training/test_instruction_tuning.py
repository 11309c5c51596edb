"""Instruction tuning in FLAN's option form: how tasks are told and mixed, options ranked, and a planted task."""

import json
import math
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.base.progress import SilentProgress
from athanor.base.settings import parse_settings
from athanor.data.examples import Example, Task
from athanor.data.instruct.options import (
    TEMPLATES,
    InstructionSettings,
    Template,
    Told,
    conversation,
    judged_instructions,
    mixed,
)  # fmt: skip
from athanor.evaluation.ranking import Asked, accuracy, fitting, likelihoods
from athanor.evaluation.subject import LocalSubject
from athanor.models.convert import load_network
from athanor.recipes.recipe import load_recipe
from athanor.recipes.runner import plan_recipe, run_recipe
from athanor.store.artifact import Artifact, Store
from athanor.tokens.conversation import Turn
from athanor.tokens.template import ChatTemplate
from athanor.tokens.tokenizer import Tokenizer
from tests.conftest import REAL_DATA

WORDS = "apple bread cheese dates eggs figs grape honey ice jam kale lemon mango nuts olive pear".split()
TURNED = Template(prompt="Write what is {answer}.", answer="{text}")


def told(count: int = 10, form: str = "classification", templates: list[Template] | None = None) -> Told:
    labels = () if form in ("choice", "pair") else ("bad", "good")
    examples = [
        Example(f"line {n}", f"text {n}", "other", ("this", "that", "it") if form == "choice" else (),
                n % 2 if form == "choice" else labels[n % 2] if labels else None, "written")
        for n in range(count)
    ]  # fmt: skip
    return Told(Task(form, labels), examples, examples, templates or TEMPLATES["en"][form])


def test_an_example_is_told_with_its_options_and_answered_with_the_right_one() -> None:
    """Wei et al. 2022, figure 3: the question, OPTIONS, one option a line, and the answer in words."""
    asked = Template(prompt='{text}\n\nDoes "{second}" follow?\n\n{options}')
    made = conversation("en", "nli", told(form="entailment", templates=[asked]), told(form="entailment").learnt[1], 0)
    assert made.turns[0].content == 'text 1\n\nDoes "other" follow?\n\nOPTIONS:\n- bad\n- good'
    assert made.turns[1].content == "good" and made.meta["options"] == ["bad", "good"] and made.meta["right"] == 1
    ending = conversation("zh", "x", told(form="choice"), told(form="choice").learnt[0], 0)
    assert ending.turns[0].content == "text 0\n\n选项：\n- this\n- that\n- it" and ending.turns[1].content == "this"
    around = conversation("en", "x", told(templates=[TURNED]), told().learnt[0], 0)
    assert [turn.content for turn in around.turns] == ["Write what is bad.", "text 0"]
    assert "options" not in around.meta


def test_braces_of_a_text_are_left_as_they_are() -> None:
    example = Example("1", "{options} {second} {x}", label="bad")
    made = conversation("en", "x", told(templates=[Template(prompt="{text} / {options}")]), example, 0)
    assert made.turns[0].content.startswith("{options} {second} {x} / OPTIONS:")


def test_tasks_are_mixed_in_proportion_up_to_a_most() -> None:
    """Section 2.4: 3,000 at most; a large task gives other examples in every round, a small one its own again."""
    tasks = {"large": told(50), "small": told(4)}
    rows = list(mixed(InstructionSettings(most=10, rounds=3), tasks))
    assert Counter(row.meta["task"] for row in rows) == {"large": 30, "small": 12}
    assert max(Counter(row.source for row in rows if row.meta["task"] == "large").values()) == 1
    assert set(Counter(row.source for row in rows if row.meta["task"] == "small").values()) == {3}
    assert len({row.meta["template"] for row in rows}) == len(TEMPLATES["en"]["classification"])
    assert rows == list(mixed(InstructionSettings(most=10, rounds=3), tasks))
    assert [row.meta["task"] for row in rows[:14]] != ["large"] * 10 + ["small"] * 4, "shuffled"


def test_what_is_held_out_is_told_in_every_wording_that_asks() -> None:
    tasks = {"x": told(8, templates=[*TEMPLATES["en"]["classification"][:3], TURNED]), "pairs": told(8, "pair")}
    rows = list(judged_instructions(InstructionSettings(judged=5), tasks, "unseen"))
    assert Counter(row.meta["template"] for row in rows) == {0: 5, 1: 5, 2: 5}
    assert {row.meta["side"] for row in rows} == {"unseen"}


# -------------------------------------------------------------------------------------------------------------- ranking


def test_accuracy_is_of_the_likeliest_option_whatever_the_number_of_options() -> None:
    asked = [Asked("x", "learnt", n % 2, f"line {n // 2}", (), ("a", "b", "c")[: 2 + n % 2], n % 2) for n in range(4)]
    found = accuracy(asked, [[-1.0, -2.0], [-3.0, -1.0, -2.0], [-2.0, -1.0], [-3.0, -1.0, -0.5]])
    assert found["value"] == 0.5 and found["templates"] == {"0": 0.5, "1": 0.5} and found["n"] == 2


def test_questions_longer_than_the_context_are_left_out_not_cut() -> None:
    subject = SimpleNamespace(template=ChatTemplate(Tokenizer.train(["sweet or sour"], 270)), context=48)
    short, long = (
        Asked("x", "learnt", 0, f"line {count}", (Turn("user", "sour " * count),), ("sweet", "sour"), 0)
        for count in (2, 40)
    )
    assert fitting(subject, [long, short]) == [short]
    with pytest.raises(AthanorError, match="all 1 questions are longer than the model's context of 48 tokens"):
        fitting(subject, [long])


# ------------------------------------------------------------------------------------------------------ a planted task


def planted(count: int = 240) -> dict[str, list[dict[str, object]]]:
    """Sweet or sour, by the first letters of a word; whether two words are the same; an unseen task told alike."""
    draw, rows = random.Random(3), {"sentiment": [], "entailment": [], "paraphrase": []}
    for _ in range(count):
        word, other = draw.choice(WORDS), draw.choice(WORDS)
        rows["sentiment"].append({"text": f"{word} {other}", "label": "sweet" if WORDS.index(word) < 8 else "sour"})
        same = draw.random() < 0.5
        row = {"text": word, "second": word if same else other, "label": "same" if same or word == other else "other"}
        rows["entailment"].append(row)
        rows["paraphrase"].append(row)
    return rows


SMALL = {
    "data": {"max_bytes": 60_000}, "tokenizer": {"vocabulary": 300},
    "pretrain": {"layers": 2, "width": 64, "heads": 2, "hidden": 96, "context": 96, "rows": 2, "steps": 2},
    "finetune": {"steps": 50, "rows": 6, "document_rows": 0, "learning_rate": 0.02, "warmup": 5},
    "instructions": {"judged": 8},
}  # fmt: skip


def run(store: Store, folder: Path, *more: str) -> dict[str, Artifact]:
    """Tasks whose labels are on the left of a text; one wording each keeps it short."""
    told = [f"{step}.{name}={value}" for step, values in SMALL.items() for name, value in values.items()]
    for name, rows in planted().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        told.append(f"{name}.path={folder}/{name}.jsonl")
    told += ["pretrain.dtype=float32", "finetune.dtype=float32"]
    recipe = load_recipe("instruction_tuning", [*told, *more])
    return run_recipe(recipe, plan_recipe(recipe), store, SilentProgress())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("instructions") / "store")


WORDINGS = """instructions.templates={sentiment: ['{text} {options}'], entailment: ['{text}, {second} {options}'],
 paraphrase: ['{text}, {second} {options}', '{text} {options}']}"""


def test_a_planted_task_is_learnt_and_judged_by_the_likelihood_of_its_options(store: Store, tmp_path: Path) -> None:
    made = run(store, tmp_path, WORDINGS)
    figures = made["rank"].measurements
    assert figures["sentiment_after"] > 0.9 > figures["sentiment_before"] and figures["sentiment_chance"] == 0.5
    told = json.loads(made["rank"].file("results.json").read_text())
    assert told["paraphrase"]["side"] == "unseen" and len(told["paraphrase"]["after"]["templates"]) == 2
    rows = [json.loads(line) for line in made["rank"].file("ranked.jsonl").read_text().splitlines()]
    check_likelihoods(made, [row for row in rows if row["task"] == "sentiment"][:3])


def check_likelihoods(made: dict[str, Artifact], rows: list[dict]) -> None:
    """log p of an option is the sum of its tokens' log-softmax behind the question, and of the end of the turn's."""
    subject, model = LocalSubject(made["finetune"].path, "float32"), load_network(made["finetune"].path)
    text = "apple pear OPTIONS:\n- sour\n- sweet"
    asked = Asked("x", "learnt", 0, "1", (Turn("user", text),), ("sour", "sweet"), 0)
    found = likelihoods(subject, [asked], SilentProgress())[0]
    for option, told in zip(asked.options, found, strict=True):
        prompt = subject.chat_prompt(asked.turns)
        answer = [*subject.tokenizer.encode(option), subject.template.end_ids[0]]
        with torch.no_grad():
            log_p = torch.log_softmax(model(torch.tensor([[*prompt, *answer]]))[0].float(), -1)
        expected = sum(float(log_p[len(prompt) - 1 + n, token]) for n, token in enumerate(answer))
        assert told == pytest.approx(expected, abs=1e-3)
    assert all(len(row["after"]) == 2 and math.isfinite(sum(row["after"])) for row in rows)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("templates", "complaint"),
    [
        ("{sentimnt: ['{text} {options}']}", "did you mean 'sentiment'"),
        ("{sentiment: ['{text} {second} {options}']}", "has {second}"),
        ("{sentiment: ['{text}, what is it?']}", "shows no options"),
        ("{sentiment: ['{text} {answer} {options}']}", "tells its answer"),
        ("{sentiment: [{prompt: 'Write.', answer: '{text}'}]}", "same for every example"),
        ("{sentiment: []}", "no templates"),
    ],
)
def test_wordings_that_cannot_be_used_are_refused(templates: str, complaint: str, store: Store, tmp_path: Path) -> None:
    with pytest.raises(AthanorError) as refused:
        run(store, tmp_path, f"instructions.templates={templates}")
    assert complaint in str(refused.value)


def test_a_misspelt_part_of_a_template_is_refused_before_anything_starts() -> None:
    with pytest.raises(AthanorError, match="promt"):
        parse_settings(InstructionSettings, {"templates": {"x": [{"promt": "a"}]}}, "instructions")


@pytest.mark.skipif(not (REAL_DATA / "tasks").is_dir(), reason="the real data sets are not on this machine")
@pytest.mark.slow
def test_sst_2_is_learnt_in_flans_form(tmp_path: Path) -> None:
    """100 steps of pretraining and 300 of fine-tuning from fresh weights: three CPU minutes. 0.710 was measured."""
    recipe = load_recipe("instruction_tuning", [
        f"data.path={REAL_DATA}/text/en_gutenberg.jsonl.gz",
        f"sentiment.path={REAL_DATA}/tasks/sst2.jsonl.gz", "sentiment.names={0: negative, 1: positive}",
        "sentiment.split=split", f"entailment.path={REAL_DATA}/tasks/ent_rte.jsonl.gz", "entailment.text=premise",
        "entailment.second=hypothesis", "entailment.split=split", f"paraphrase.path={REAL_DATA}/tasks/mrpc.jsonl.gz",
        "paraphrase.text=s1", "paraphrase.second=s2", "paraphrase.names={0: different, 1: the same}",
        "instructions.most=20000", "pretrain.steps=100", "finetune.steps=300", "finetune.rows=16",
    ])  # fmt: skip
    made = run_recipe(recipe, plan_recipe(recipe), Store(tmp_path / "store"), SilentProgress())
    assert made["rank"].measurements["sentiment_after"] > 0.55
