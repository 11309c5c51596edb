"""athanor finetune: from a model's folder and a file of rows to an adapter, judged on what was held out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from athanor.base.files import read_json
from athanor.base.records import read_records
from athanor.inference.quantize import read_family
from athanor.models.adapters.attach import attach
from athanor.models.adapters.files import read_adapter
from athanor.models.convert import load_checkpoint
from athanor.store.artifact import Store, weights_hash
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.networks import build
from athanor.training.setup import save_model
from tests.inference.gguf_models import make_checkpoint, train_tokenizer
from tests.training.pretraining import settings_of, tokenizer_for
from tests.verbs.conftest import Verb

COLOURS = ("red", "green", "blue", "white", "black", "grey", "brown", "pink")
THINGS = ("stone", "house", "river", "letter", "garden")
IDS = torch.tensor([[0, 70, 71, 300, 400, 5, 9, 33]])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return train_tokenizer()


@pytest.fixture
def model(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A small random model of the quickstart's family."""
    make_checkpoint(tmp_path / "model", tokenizer, norm_qk=True, tied=True)
    return tmp_path / "model"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Alpaca's rows, whose answers can be told from the questions."""
    rows = [
        {"instruction": f"Which colour has the {colour} {thing}?", "input": "", "output": f"It is {colour}."}
        for colour in COLOURS
        for thing in THINGS
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(verb: Verb, *words: object) -> dict[str, Any]:
    """The records of a fine-tuning, by step."""
    return json.loads(verb("finetune", *words, "--dtype", "float32", "--json"))


def test_a_model_learns_from_rows_and_stays_as_it_is(model: Path, data: Path, verb: Verb, tmp_path: Path) -> None:
    """Every row of the walk: learn, judge, chat, export, fold in; what leaves computes the same in peft."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    records = run(verb, model, data, "--epochs", 4, "--merge")
    assert list(records) == ["base", "data", "finetune", "answers", "merge"]
    judged = records["answers"]["measurements"]
    assert judged["heldout_loss_after"] < 0.5 * judged["heldout_loss_before"] and judged["change_high"] < 0
    store = Store(tmp_path / "store")
    adapter = next(one for one in store.all() if one.kind == "adapter")
    base = store.get(adapter.record["parents"]["base"])
    assert (
        weights_hash(base)
        == adapter.measurements["weights_of_base"]
        == records["finetune"]["measurements"]["weights_of_base"]
    )
    planned, took = records["finetune"]["expected"], records["finetune"]["measurements"]
    assert planned["flops"] == pytest.approx(took["train_flops"], rel=0.1)
    assert 0.3 < planned["memory"] / took["peak_memory"] < 3 and planned["seconds"] > 0
    assert set(adapter.record["reasons"]) >= {"method", "rank", "learning_rate", "epochs"}

    network = load_checkpoint(base.path, dtype=torch.float32)
    family, config = read_family(base.path)
    attach(network, family, read_adapter(adapter.path, family, config))
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), adapter.path
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(IDS), theirs(IDS).logits, rtol=1e-4, atol=1e-4)
    merged = next(one for one in store.all() if one.record["step"] == "merge")
    receipt = read_json(merged.file("receipt.json"))
    assert receipt["logits"]["kl_mean"] < 1e-6 and receipt["adapter"] == adapter.id

    said = json.loads(verb("chat", adapter.id, "-p", "Which colour has the pink house?", "--json"))
    assert "It is" in said["answer"]
    assert "an adapter of" in verb("export", adapter.id, "--to", "peft", "--out", tmp_path / "peft")
    assert f"{adapter.id} folded into" in verb("export", adapter.id, "--to", "hf", "--out", tmp_path / "hf")
    again = run(verb, model, data, "--epochs", 4, "--merge")
    assert again["finetune"]["seal"] == records["finetune"]["seal"], "nothing was done twice"


@pytest.mark.parametrize(
    ("method", "kind", "few"),
    [
        ("qlora", "adapter", True), ("ia3", "adapter", True), ("ptuning", "adapter", True),
        ("prefix", "adapter", True), ("full", "model", False),
        pytest.param("rslora", "adapter", True, marks=pytest.mark.slow),
        pytest.param("dora", "adapter", True, marks=pytest.mark.slow),
        pytest.param("freeze", "model", False, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_every_method_foretells_the_held_out_answers_better(
    method: str, kind: str, few: bool, model: Path, data: Path, verb: Verb, tmp_path: Path
) -> None:
    records = run(verb, model, data, "--method", method, "--epochs", 3)
    tuned, judged = records["finetune"], records["answers"]["measurements"]
    assert tuned["kind"] == kind and judged["change_high"] < 0
    if few:
        assert tuned["measurements"]["learning_parameters"] < 0.2 * records["base"]["measurements"]["parameters"]
    assert ("int4" in records) == (method == "qlora")
    assert verb("chat", "-p", "Which colour has the red river?")


def test_the_plan_gives_a_reason_for_every_value_and_starts_nothing(
    model: Path, data: Path, verb: Verb, tmp_path: Path
) -> None:
    said = verb("finetune", model, data, "--rank", 16, "--plan")
    assert "40 conversations" in said and "as you said" in said and "holds the longest conversation" in said
    assert not (tmp_path / "store").exists()
    told = json.loads(verb("finetune", model, data, "--plan", "--set", "neftune=5", "--set", "steps=3", "--json"))
    settings = told["steps"]["finetune"]["settings"]
    assert settings["warmup"] == 1 and settings["steps"] == settings["watch_every"] * 3 == 3
    assert settings["neftune"] == 5 and settings["too_long"] == "refuse" and settings["keep_best"]


def test_only_the_layers_that_were_named_learn(model: Path, data: Path, verb: Verb, tmp_path: Path) -> None:
    records = run(verb, model, data, "--targets", "q_proj,down_proj", "--set", "steps=1")
    folder = next(one.path for one in Store(tmp_path / "store").all() if one.kind == "adapter")
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        assert {name.rpartition(".lora")[0].rpartition(".")[2] for name in file.keys()} == {"q_proj", "down_proj"}
    assert records["finetune"]["settings"]["targets"] == ["q_proj", "down_proj"]


def test_a_prefix_leaves_room_for_the_longest_rows(model: Path, verb: Verb, tmp_path: Path) -> None:
    """Most of the model's 256 positions; what does not fit beside the prefix is said before anything starts."""
    rows = [{"instruction": f"Say {number}.", "output": "red " * (40 + 70 * (number == 1))} for number in range(4)]
    data = write(tmp_path / "rows.jsonl", rows)
    told = json.loads(verb("finetune", model, data, "--method", "ptuning", "--plan", "--json"))
    settings = told["steps"]["finetune"]["settings"]
    assert settings["context"] + settings["prefix_tokens"] == 256


def test_a_prefix_and_the_model_before_it_are_judged_on_the_same_tokens(
    model: Path, verb: Verb, tmp_path: Path
) -> None:
    """Every row is longer than the room behind the prefix: more tokens before than after were a gain of the prefix."""
    data = write(tmp_path / "rows.jsonl", [{"instruction": f"Say {row}.", "output": "red " * 300} for row in range(20)])
    few = ("--long-rows", "truncate", "--set", "steps=1")
    judged = run(verb, model, data, "--method", "prefix", *few)["answers"]["measurements"]
    difference = judged["heldout_loss_after"] - judged["heldout_loss_before"]
    assert judged["change"] == pytest.approx(difference, abs=2e-5)


def test_exactly_so_many_rows_are_held_out(model: Path, data: Path, verb: Verb, tmp_path: Path) -> None:
    run(verb, model, data, "--epochs", 0.1)
    chats = next(one for one in Store(tmp_path / "store").all() if one.kind == "conversations")
    assert len(list(read_records(chats.file("heldout.jsonl.zst")))) == 2
    assert len(list(read_records(chats.file("train.jsonl.zst")))) == 38


def test_a_learning_rate_is_found_and_nothing_is_trained(model: Path, data: Path, verb: Verb, tmp_path: Path) -> None:
    found = json.loads(verb("finetune", model, data, "--find-lr", "--dtype", "float32", "--json"))
    assert 1e-5 < found["suggested"] < 0.5 and len(found["rates"]) == len(found["losses"])
    assert {one.kind for one in Store(tmp_path / "store").all()} == {"model", "conversations"}


def test_one_held_out_conversation_tells_no_interval(model: Path, verb: Verb, tmp_path: Path) -> None:
    rows = [{"instruction": f"Which is number {number}?", "output": f"It is {number}."} for number in range(3)]
    said = verb("finetune", model, write(tmp_path / "few.jsonl", rows), "--dtype", "float32", "--set", "steps=2")
    assert "held-out answers, 1 conversation:" in said and "(one conversation tells no interval)" in said


def test_conversations_of_like_length_may_share_a_step(model: Path, data: Path, verb: Verb) -> None:
    records = run(verb, model, data, "--epochs", 2, "--rows", 4, "--set", "group_by_length=true")
    assert records["finetune"]["measurements"]["filled"] > 0.8
    assert records["answers"]["measurements"]["change_high"] < 0


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_data_that_cannot_be_learnt_from_is_refused_before_anything_starts(
    model: Path, verb: Verb, tmp_path: Path
) -> None:
    row = {"instruction": "Say it.", "output": "It."}
    assert "holds no instruction data" in verb("finetune", model, tmp_path / "none.jsonl", code=2)
    assert "0 conversations" in verb("finetune", model, write(tmp_path / "none.jsonl", []), code=2)
    said = verb("finetune", model, write(tmp_path / "one.jsonl", [row, row]), code=2)
    assert "1 conversation to learn from" in said and "add rows" in said
    long = write(tmp_path / "long.jsonl", [row, {"instruction": "word " * 900, "output": "It is long."}])
    said = verb("finetune", model, long, code=2)
    assert "1 of 2 conversations are longer than a row" in said and "--long-rows truncate" in said
    assert "0 conversations" in verb("finetune", model, write(tmp_path / "keys.jsonl", [{"text": "plain"}]), code=2)
    assert not (tmp_path / "store").exists()


def test_why_rows_are_refused_is_told_before_anything_starts(model: Path, verb: Verb, tmp_path: Path) -> None:
    rows = [{"instruction": f"Which is number {number}?", "output": f"It is {number}."} for number in range(3)]
    waiting = {"messages": [{"role": "user", "content": "Hello?"}]}
    said = verb("finetune", model, write(tmp_path / "few.jsonl", [*rows, waiting]), "--plan")
    assert "3 conversations, 1 refused (ends with user (1))" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learning-rate", 0], "learning_rate=0"),
        (["--learning-rate", 10], "--find-lr"),
        (["--rank", 0], "rank"),
        (["--context", 100_000], "the positions of the model"),
        (["--set", "rate=1"], "is not a setting"),
        (["--method", "prefix", "--merge"], "a prefix changes no weight"),
        (["--method", "ia3", "--rank", 4], "rank has no meaning with method=ia3"),
        (["--targets", "nothing"], "no layer of this network"),
        (["--targets", ""], "no layer of this network"),
        (["--method", "ptuning", "--prefix-tokens", 250], "256 together"),
        (["--method", "ptuning", "--context", 256], "context=256 behind prefix_tokens=20"),
        (["--epochs", 0], "epochs=0"),
        (["--rows", 0], "rows=0"),
        (["--method", "full", "--rank", 4], "rank has no meaning with method=full"),
        (["--last-layers", 1], "last_layers has no meaning with method=lora: it is for freeze"),
        (["--set", "rows=7"], "--rows 7"),
        (["--set", "too_long=split"], "--long-rows split"),
        (["--set", "rate=[1"], "is not a setting"),
        (["--set", "document_rows=2"], "no documents beside the conversations"),
        (["--method", "freeze", "--last-layers", 9], "1 to 2, the layers of the model"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_with_what_can(
    words: list[object], said: str, model: Path, data: Path, verb: Verb, tmp_path: Path
) -> None:
    assert said in verb("finetune", model, data, *words, code=2)
    assert not (tmp_path / "store").exists()


def test_a_network_that_is_no_language_model_is_refused(data: Path, verb: Verb, tmp_path: Path) -> None:
    settings = settings_of("masked")
    save_model(build(settings, 300), tokenizer_for(settings), tmp_path / "bert")
    said = verb("finetune", tmp_path / "bert", data, code=2)
    assert "the family bert" in said and "a language model" in said


def test_an_adapters_folder_is_no_model(model: Path, data: Path, verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "adapter_config.json").write_text("{}")
    said = verb("finetune", tmp_path / "tuned", data, code=2)
    assert "holds an adapter, not a model" in said and "--base MODEL" in said


def test_another_models_tokenizer_is_refused(model: Path, data: Path, verb: Verb) -> None:
    config = read_json(model / "config.json")
    Tokenizer.train(["another text, other merges"] * 30, 300).save(model)
    told = verb("finetune", model, data, code=2)
    assert f"the model {config['vocab_size']}" in told and "tokenizer" in told
