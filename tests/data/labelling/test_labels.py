"""A planted labeller of known accuracy: what it reports is kept, what it doubts waits, and a person's word counts."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from athanor.base.errors import AthanorError, Stopped
from athanor.base.progress import SilentProgress
from athanor.base.settings import parse_settings
from athanor.base.stopping import StopRequest
from athanor.data.labelling.agreement import calibration_error
from athanor.data.labelling.labels import LabelSettings, decide, label_files
from athanor.data.labelling.review import NONE, merge, read_queue

LABELS = ("neg", "neutral", "pos")
ROWS = 3_000
CONFIDENCES = (0.5, 0.7, 0.85, 0.95)


class Planted:
    """Right with exactly the confidence it reports; a wrong answer is any other label."""

    def __init__(self, seed: int):
        self.seed, self.asked = seed, 0

    def __call__(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        self.asked += len(texts)
        return [self.answer(text) for text in texts]

    def answer(self, text: str) -> tuple[str, float]:
        chance = random.Random(f"{self.seed} {text}")
        sure, right = chance.choice(CONFIDENCES), truth(text)
        wrong = [label for label in LABELS if label != right]
        return (right if chance.random() < sure else chance.choice(wrong)), sure


def truth(text: str) -> str:
    return LABELS[int(text.split()[1]) % 3]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"id": f"t{n}", "text": f"text {n}"}) + "\n" for n in range(ROWS)))
    return path


def label(texts: Path, out: Path, labellers=None, progress=None, about=None, **more):  # type: ignore[no-untyped-def]
    settings = LabelSettings(labels=LABELS, **more)
    journal = texts.parent / "votes"
    labellers = labellers or [Planted(1)]
    return label_files([texts], labellers, about or {}, out, journal, settings, progress or SilentProgress())


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def edit(queue: Path, change) -> None:  # type: ignore[no-untyped-def]
    """What a person does to the rows of the queue."""
    found = rows(queue)
    for row in found:
        change(row)
    queue.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))


def by_truth(row: dict) -> None:
    row["label"] = truth(row["text"])


def test_confidence_is_as_good_as_it_says_and_doubt_waits(texts: Path, tmp_path: Path) -> None:
    figures = label(texts, tmp_path / "out", threshold=0.8, spot_checks=0.1)
    labelled, queue = rows(tmp_path / "out" / "labelled.jsonl"), rows(tmp_path / "out" / "review.jsonl")
    assert figures["rows"] == ROWS and figures["labelled"] == len(labelled) and figures["queued"] == len(queue)
    assert all(row["confidence"] >= 0.8 and row["by"] == "machine" for row in labelled)
    below = [row for row in queue if row["why"] == "below the threshold"]
    assert len(labelled) + len(below) == ROWS and all(row["machine"]["confidence"] < 0.8 for row in below)
    checks = {row["number"] for row in queue if row["why"] == "spot check"}
    assert checks <= {row["number"] for row in labelled} and 100 < len(checks) < 200
    sure = [row["confidence"] for row in labelled]
    right = [row["label"] == truth(row["text"]) for row in labelled]
    assert calibration_error(sure, right) < 0.02
    assert 0.87 < sum(right) / len(right) < 0.93  # 0.85 and 0.95 in equal parts
    assert [row["id"] for row in labelled[:5]] == [f"t{row['number']}" for row in labelled[:5]]


def test_a_review_tells_agreement_kappa_and_temperature_and_is_put_back(texts: Path, tmp_path: Path) -> None:
    label(texts, tmp_path / "out", threshold=0.8, spot_checks=0.1)
    queue = tmp_path / "out" / "review.jsonl"
    edit(queue, by_truth)
    figures = merge(queue, tmp_path / "merged")
    reviewed = rows(queue)
    machine, person = [row["machine"]["label"] for row in reviewed], [truth(row["text"]) for row in reviewed]
    agree = sum(a == b for a, b in zip(machine, person, strict=True)) / len(reviewed)
    chance = sum((machine.count(one) / len(machine)) * (person.count(one) / len(person)) for one in LABELS)
    assert figures["agreement"]["all"]["kappa"] == pytest.approx((agree - chance) / (1 - chance), abs=1e-4)
    assert figures["agreement"]["spot check"]["rows"] + figures["agreement"]["below the threshold"]["rows"] == len(
        reviewed
    )
    assert figures["calibration_error"] < 0.03 and figures["temperature"] == pytest.approx(1, abs=0.1)
    labelled = rows(tmp_path / "merged" / "labelled.jsonl")
    assert [row["number"] for row in labelled] == list(range(ROWS))
    assert all(row["label"] == truth(row["text"]) for row in labelled if row["by"] == "person")
    assert sum(row["by"] == "person" for row in labelled) == len(reviewed) == figures["by_person"]
    assert (figures["open"], rows(tmp_path / "merged" / "review.jsonl")) == (0, [])


def test_a_review_goes_on_in_rounds(texts: Path, tmp_path: Path) -> None:
    label(texts, tmp_path / "out", threshold=0.6, spot_checks=0)
    queue = tmp_path / "out" / "review.jsonl"
    total = len(rows(queue))

    def some(row: dict) -> None:
        if row["number"] % 3 == 0:
            by_truth(row)
        elif row["number"] % 30 == 1:
            row["accept"] = True
        elif row["number"] % 30 == 2:
            row["accept"] = False

    edit(queue, some)
    first = merge(queue, tmp_path / "one")
    assert first["decided"] + first["open"] == total and first["open"] > total / 2
    labelled = {row["number"]: row for row in rows(tmp_path / "one" / "labelled.jsonl")}
    for row in rows(queue):
        if row["accept"] is False:
            assert row["number"] not in labelled  # no label fits
        elif row["accept"]:
            assert labelled[row["number"]]["label"] == row["machine"]["label"]
        elif row["label"] is None:
            assert row["number"] not in labelled
    edit(tmp_path / "one" / "review.jsonl", by_truth)
    second = merge(tmp_path / "one" / "review.jsonl", tmp_path / "two")
    assert (second["decided"], second["open"]) == (total, 0)
    assert read_queue(tmp_path / "two" / "review.jsonl").figures()["decided"] == total
    assert any(one.label == NONE for one in read_queue(tmp_path / "two" / "review.jsonl").earlier)


def test_a_spot_check_overrules_a_sure_machine(texts: Path, tmp_path: Path) -> None:
    label(texts, tmp_path / "out", threshold=0.8, spot_checks=0.1)
    queue = tmp_path / "out" / "review.jsonl"
    checks = [row["number"] for row in rows(queue) if row["why"] == "spot check"]
    edit(queue, lambda row: row.update(accept=False) if row["number"] in checks else None)
    merge(queue, tmp_path / "merged")
    left = {row["number"] for row in rows(tmp_path / "merged" / "labelled.jsonl")}
    assert not left & set(checks)
    assert left | set(checks) == {row["number"] for row in rows(tmp_path / "out" / "labelled.jsonl")}


def test_votes_are_pooled() -> None:
    one = decide([("a", 0.9), ("a", 0.6), ("b", 0.99)], ("a", "b", "c"))
    assert one.label == "a" and one.confidence == pytest.approx((0.9 + 0.6 + 0.005) / 3)
    few = decide([("a", 0.4), ("a", 0.4), ("b", 1.0)], ("a", "b"))  # the majority counts, not one who is sure
    assert few.label == "a" and few.confidence == pytest.approx(0.8 / 3)
    tie = decide([("a", 0.6), ("b", 0.9)], ("a", "b"))
    assert tie.label == "b" and tie.confidence == pytest.approx(0.65)
    assert decide([("b", 0.8)], ("a", "b")).confidence == 0.8


def test_several_votes_are_righter_than_one_and_a_review_corrects_their_doubt(texts: Path, tmp_path: Path) -> None:
    voters = [Planted(seed) for seed in range(3)]
    label(texts, tmp_path / "three", labellers=voters, threshold=1.0)
    edit(tmp_path / "three" / "review.jsonl", by_truth)
    queue = read_queue(tmp_path / "three" / "review.jsonl")
    right = sum(one.right for one in queue.decided) / ROWS
    alone = [sum(voter.answer(f"text {n}")[0] == truth(f"text {n}") for n in range(ROWS)) / ROWS for voter in voters]
    assert right > max(alone) + 0.04
    figures = queue.figures()
    assert figures["calibration_error"] > 0.08 and figures["temperature"] < 0.7  # the pool is too modest
    label(texts, tmp_path / "again", labellers=voters, threshold=1.0, temperature=figures["temperature"])
    edit(tmp_path / "again" / "review.jsonl", by_truth)
    better = read_queue(tmp_path / "again" / "review.jsonl").figures()
    assert better["calibration_error"] < 0.4 * figures["calibration_error"]
    assert better["temperature"] == pytest.approx(figures["temperature"], rel=0.05)


def test_a_stopped_run_goes_on_and_gives_the_same(texts: Path, tmp_path: Path) -> None:
    label(texts, tmp_path / "whole")
    stop = StopRequest()
    progress = SilentProgress(stop)

    class Stopping(Planted):
        def __call__(self, asked: Sequence[str]) -> list[tuple[str, float]]:
            stop.asked = self.asked >= 1_000
            return super().__call__(asked)

    with pytest.raises(Stopped):
        label(texts, tmp_path / "stopped", [Stopping(1)], progress)
    with open(tmp_path / "votes", "a") as file:
        file.write('[1500, [["pos", 0.')  # killed in the middle of a line
    again = Planted(1)
    label(texts, tmp_path / "stopped", [again])
    assert 1_800 < again.asked <= ROWS - 1_000
    for name in ("labelled.jsonl", "review.jsonl", "labels.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "votes").exists()
    with pytest.raises(Stopped):
        stop.asked = False
        label(texts, tmp_path / "other", [Stopping(1)], progress)
    another = Planted(2)
    label(texts, tmp_path / "other", [another], about={"model": "another"})
    assert another.asked == ROWS  # votes of another labeller are not gone on with


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace('"label": null', '"label": "good"', 1), "line 1: label is 'good'"),
        (lambda text: text.replace('"accept": null', '"accept": "yes"', 1), "line 1: accept is 'yes'"),
        (lambda text: text.replace('"text": "text', '"text": "Text', 1), "line 1: more was changed"),
        (lambda text: text.replace("{", "", 1), "line 1 is no JSON"),
        (lambda text: text.partition("\n")[2], "is missing"),
        (lambda text: text + text.partition("\n")[0] + "\n", "a row of the queue, once"),
        (lambda text: text + "[1]\n", "a row of the queue, once"),
    ],
)
def test_a_queue_that_was_spoilt_is_refused_by_its_line(change, said: str, texts: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    label(texts, tmp_path / "out")
    queue = tmp_path / "out" / "review.jsonl"
    queue.write_text(change(queue.read_text()))
    with pytest.raises(AthanorError) as caught:
        merge(queue, tmp_path / "merged")
    assert said in str(caught.value)


def test_contradictions_are_refused(texts: Path, tmp_path: Path) -> None:
    label(texts, tmp_path / "out")
    queue = tmp_path / "out" / "review.jsonl"
    first = rows(queue)[0]
    other = next(one for one in LABELS if one != first["machine"]["label"])
    for answer, accept, fine in ((other, True, False), (first["machine"]["label"], False, False), (other, False, True)):
        edit(
            queue,
            lambda row, a=answer, b=accept: row.update(label=a, accept=b) if row["number"] == first["number"] else 0,
        )
        if fine:
            assert read_queue(queue).decided[0].label == other
        else:
            with pytest.raises(AthanorError, match="contradict each other"):
                read_queue(queue)
    with pytest.raises(AthanorError, match="is no queue"):
        read_queue(tmp_path / "review.jsonl")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([("good", 0.5)], "says 'good'"),
        ([("pos", 1.5)], "with 1.5"),
        ([], "0 answers to"),
        ([("pos", 0.5)] * 9, "9 answers"),
    ],
)
def test_a_labeller_that_answers_nonsense_is_refused(answers, said: str, texts: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    texts.write_text('{"text": "text 1"}\n')
    with pytest.raises(AthanorError, match=said):
        label(texts, tmp_path / "out", [lambda asked: answers])


def test_rows_and_settings_that_cannot_be_are_refused(texts: Path, tmp_path: Path) -> None:
    texts.write_text('{"text": "text 1", "label": "pos"}\n')
    with pytest.raises(AthanorError, match="has a field 'label' already"):
        label(texts, tmp_path / "out")
    for values in (
        {"labels": ("a",)},
        {"labels": ("a", "a")},
        {"labels": ("a", " ")},
        {"labels": ("a", "b"), "threshold": 2},
    ):
        with pytest.raises(AthanorError):
            parse_settings(LabelSettings, values, "label")
