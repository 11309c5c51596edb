"""A real tiny model, taught to tell two kinds of text apart, labels files; a person's review is put back."""

import http.server
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn

from athanor.base.errors import AthanorError
from athanor.inference.endpoint import Endpoint, named
from athanor.inference.labeller import ModelLabeller
from athanor.inference.runtime import Runtime, open_model
from athanor.serving.app import create_app
from athanor.serving.settings import ServingSettings
from athanor.tokens.conversation import Conversation, Turn
from tests.taught import teach
from tests.verbs.conftest import Verb

GOOD, BAD = "lovely fine warm bright kind sweet".split(), "awful grim cold dull rude bitter".split()
PLAIN = "the a room meal day town road book film song".split()
LABELS = ("good", "bad")
QUESTION = "{text} {labels}?"
CONTEXT = 48


def review(number: int) -> tuple[str, str]:
    """(text, label): plain words, and four that are mostly of one kind: their majority decides."""
    chance = random.Random(number)
    label = chance.choice(LABELS)
    kinds = [label] * 3 + [chance.choice(LABELS)]
    words = [chance.choice(GOOD if kind == "good" else BAD) for kind in kinds] + chance.choices(PLAIN, k=5)
    chance.shuffle(words)
    return " ".join(words), label


def tied(number: int) -> str:
    """A review that nobody can label: as many words of one kind as of the other."""
    chance = random.Random(number)
    words = chance.choices(GOOD, k=2) + chance.choices(BAD, k=2) + chance.choices(PLAIN, k=5)
    chance.shuffle(words)
    return " ".join(words)


def question(asked: str, order: tuple[str, ...]) -> str:
    return QUESTION.format(text=asked, labels=", ".join(order))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that learnt from 600 reviews, asked with the labels in either order."""
    folder = tmp_path_factory.mktemp("model")
    torch.set_num_threads(1)
    told = []
    for number in range(600):
        text, label = review(number)
        order = LABELS if number % 2 else LABELS[::-1]
        told.append(Conversation.of(("user", question(text, order)), ("assistant", label)))
    teach(told, folder, steps=260, context=CONTEXT, vocabulary=320, rate=0.01)
    return folder


@pytest.fixture(scope="module")
def runtime(model: Path) -> Runtime:
    return open_model(model, dtype="float32")


def test_a_model_labels_what_it_was_taught_and_knows_how_sure_it_is(runtime: Runtime) -> None:
    cases = [review(10_000 + number) for number in range(200)]
    votes = ModelLabeller(runtime, LABELS, QUESTION)([text for text, _ in cases])
    right = np.array([label == truth for (label, _), (_, truth) in zip(votes, cases, strict=True)])
    sure = np.array([confidence for _, confidence in votes])
    assert right.mean() > 0.85 and (sure >= 0.5).all()
    doubtful = [confidence for _, confidence in ModelLabeller(runtime, LABELS, QUESTION)([tied(n) for n in range(200)])]
    assert np.mean(doubtful) < sure.mean(), "two words of each kind say nothing, and it must know"


def test_a_confidence_is_a_share_of_what_the_model_gives_the_labels(runtime: Runtime) -> None:
    """Against one forward pass per label over the conversation as it is trained on."""
    text, _ = review(20_000)
    totals = []
    for label in LABELS:
        told = Conversation((Turn("user", question(text, LABELS)), Turn("assistant", label)))
        (one,) = runtime.template.render_all([told])
        with torch.inference_mode():
            chances = runtime.model(torch.tensor([one.ids]))[0].double().log_softmax(-1)
        learnt = [place for place, there in enumerate(one.mask) if there]
        totals.append(sum(float(chances[place - 1, one.ids[place]]) for place in learnt))
    shares = np.exp(totals) / np.exp(totals).sum()
    ((label, confidence),) = ModelLabeller(runtime, LABELS, QUESTION)([text])
    assert label == LABELS[int(shares.argmax())] and confidence == pytest.approx(shares.max(), rel=1e-4)


def test_a_long_text_is_read_to_the_end_of_the_context(runtime: Runtime) -> None:
    labeller = ModelLabeller(runtime, LABELS, QUESTION)
    short, _ = review(3)
    votes = labeller([short, f"{short} {'road ' * 500}"])
    assert labeller.cut == 1 and votes[0][0] == votes[1][0]
    with pytest.raises(AthanorError, match="the question takes"):
        ModelLabeller(runtime, LABELS, "{text} " + "road " * 100)(["x"])
    with pytest.raises(AthanorError, match=r"a text with \{text\} in it"):
        ModelLabeller(runtime, LABELS, "which?")


def test_a_model_without_a_template_continues(runtime: Runtime) -> None:
    bare = Runtime(runtime.model, runtime.tokenizer, None, runtime.engine)
    votes = ModelLabeller(bare, LABELS, QUESTION)(["a fine day", "a grim day"])
    assert all(label in LABELS and 0.5 <= confidence <= 1 for label, confidence in votes)


def test_files_are_labelled_reviewed_and_merged(model: Path, verb: Verb, tmp_path: Path) -> None:
    cases = [review(30_000 + number) for number in range(120)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text, _ in cases))
    options = ("--labels", "good,bad", "--model", model, "--question", QUESTION, "--votes", 2, "--threshold", 0.95)
    said = verb("data", "label", "texts.jsonl", *options, "--spot-checks", 0.2, "--out", "labelled")
    assert "120 rows" in said and "athanor data review labelled/review.jsonl" in said
    queue = tmp_path / "labelled" / "review.jsonl"
    assert "0 of" in verb("data", "review", queue)
    found = [json.loads(line) for line in queue.read_text().splitlines()]
    labelled = [json.loads(line) for line in (tmp_path / "labelled" / "labelled.jsonl").read_text().splitlines()]
    assert found and labelled and all(len(row["votes"]) == 2 for row in labelled)
    for row in found:
        row["label"] = cases[row["number"]][1]
    queue.write_text("".join(json.dumps(row) + "\n" for row in found))
    told = verb("data", "review", queue)
    assert f"{len(found)} of {len(found)} decided, 0 open" in told and "κ" in told and "spot check" in told
    merged = json.loads(verb("data", "review", queue, "--out", "merged", "--json"))
    assert merged["by_person"] == len(found) and merged["labelled"] == 120
    agree = sum(row["label"] == row["machine"]["label"] for row in found)
    assert merged["agreement"]["all"]["agree"] == agree
    rows = [json.loads(line) for line in (tmp_path / "merged" / "labelled.jsonl").read_text().splitlines()]
    right = sum(row["label"] == cases[row["number"]][1] for row in rows)
    assert right / 120 >= 0.9  # the sure ones are right, and a person mended the others


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--labels", "good"), "labels"),
        (("--labels", "good,good"), "labels are different"),
        (("--labels", "good,bad", "--threshold", "2"), "threshold"),
        (("--labels", "good,bad", "--model", "/nowhere"), "no store"),
        (("--labels", "good,bad", "--question", "which?"), "with {text} in it"),
        (("--labels", "good,bad", "--votes", "0"), "votes"),
    ],
)
def test_what_cannot_be_labelled_is_said(
    words: tuple[str, ...], said: str, model: Path, verb: Verb, tmp_path: Path
) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "a fine day"}\n')
    words = words if "--model" in words else (*words, "--model", str(model))
    assert said in verb("data", "label", "texts.jsonl", *words, "--out", "x", code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


@pytest.fixture
def endpoint(runtime: Runtime) -> Iterator[str]:
    """The model served as a user serves it, in a thread of this process."""
    app = create_app(runtime.engine, runtime.template, model_name="judge", settings=ServingSettings())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    (socket,) = server.servers[0].sockets
    yield f"http://127.0.0.1:{socket.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()


def test_a_model_behind_an_interface_labels_and_its_agreement_is_the_confidence(
    endpoint: str, verb: Verb, tmp_path: Path
) -> None:
    cases = [review(40_000 + number) for number in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text, _ in cases))
    asked = ("data", "label", "texts.jsonl", "--labels", "good,bad", "--endpoint", endpoint, "--question", QUESTION)
    options = ("--model", "judge", "--asked", 7, "--threshold", 0.8, "--spot-checks", 0)
    told = json.loads(verb(*asked, *options, "--out", "labelled", "--json"))
    about = json.loads((tmp_path / "labelled" / "labels.json").read_text())["about"]
    assert told["rows"] == 40 and about["endpoint"] == endpoint and about["asked"] == 7
    rows = [json.loads(line) for line in (tmp_path / "labelled" / "labelled.jsonl").read_text().splitlines()]
    assert {row["confidence"] for row in rows} <= {round((count + 1) / 9, 6) for count in range(8)}
    right = np.array([row["label"] == cases[row["number"]][1] for row in rows])
    assert len(rows) >= 20 and right.mean() > 0.85
    again = json.loads(verb(*asked, *options, "--out", "again", "--json"))
    assert again["labelled"] == told["labelled"]  # every answer has its own seed
    assert "judge2" in verb(*asked, "--model", "judge2", "--out", "x", code=2)
    assert "--model" in verb(*asked, "--out", "x", code=2)
    assert "http://" in verb(*asked[:5], "--endpoint", "nowhere", "--model", "judge", "--out", "x", code=2)
    assert not (tmp_path / "x").exists()


def test_an_answer_names_one_label_or_none() -> None:
    labels = ("good", "not good", "bad")
    told = {"Good.": "good", " **bad** ": "bad", "I say: not good!": "not good", "good or bad": None, "fine": None}
    assert {answer: named(answer, labels) for answer in told} == told


def test_a_busy_endpoint_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """503 twice, then an answer; what is not a chat completion is named."""
    monkeypatch.setattr("athanor.inference.endpoint.PAUSES", (0.0, 0.0, 0.0))
    bodies = [
        (503, b"busy"),
        (503, b"busy"),
        (200, b'{"choices": [{"message": {"content": "good"}}]}'),
        (200, b"<html>"),
    ]
    seen = []

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.headers["Authorization"])
            code, body = bodies[len(seen) - 1]
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("JUDGE_KEY", "secret")
    with http.server.HTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        there = Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "judge", "JUDGE_KEY")
        try:
            assert there.answers(["x"]) == ["good"] and seen == ["Bearer secret"] * 3
            with pytest.raises(AthanorError, match="answers b'<html>'"):
                there.answers(["x"])
        finally:
            server.shutdown()
            thread.join()
