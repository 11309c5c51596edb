"""One document from file to answer: the whole quickstart at its smallest, run as a user runs it."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from athanor.store.artifact import Store
from tests.conftest import SMALLEST, athanor, file_hashes, run_smallest

Journey = tuple[Path, dict[str, dict]]


def test_every_step_leaves_a_whole_artifact(journey: Journey) -> None:
    store, records = journey
    assert list(records) == [
        "data", "clean", "skills", "tokenizer", "pack", "pretrain", "finetune", "index", "evaluate",
        "quantize", "report",
    ]  # fmt: skip
    for artifact in Store(store).all():
        artifact.verify()
    assert records["clean"]["measurements"]["documents"] > 10
    assert not any((store / "work").iterdir())


def test_a_second_run_redoes_nothing(journey: Journey) -> None:
    store, records = journey
    before = file_hashes(store)
    done = athanor("run", "quickstart", *SMALLEST, store=store)
    assert done.stderr.count("already made") == len(records)
    assert file_hashes(store) == before


def test_one_changed_setting_redoes_only_what_follows(journey: Journey, tmp_path: Path) -> None:
    """A change to fine-tuning leaves data, tokenizer and pretraining alone."""
    store = tmp_path / "store"
    shutil.copytree(journey[0], store)
    records = run_smallest(store, "finetune.learning_rate=0.003")
    same = {name for name, record in records.items() if record == journey[1][name]}
    assert same == {"data", "clean", "skills", "tokenizer", "pack", "pretrain"}


def test_another_machine_run_gives_the_same_bytes(journey: Journey, tmp_path: Path) -> None:
    """A run in another store makes artifacts of the same names with the same bytes."""
    run_smallest(tmp_path / "store")
    assert file_hashes(tmp_path / "store") == file_hashes(journey[0])


def test_the_checkpoint_is_the_same_model_in_transformers(journey: Journey) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from athanor.inference.runtime import open_model
    from athanor.tokens.conversation import Turn

    folder = Path(journey[0]) / "artifacts" / _id(journey, "finetune")
    ours = open_model(folder, dtype="float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "12 + 30 = ? 你好"}]
    ids = ours.chat_prompt([Turn("user", messages[0]["content"])])
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == ids
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits
        found = ours.model(torch.tensor([ids]))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_why_names_the_document_that_taught_it(journey: Journey) -> None:
    """A sentence from a training document is found in that document, with the steps that read it."""
    store, _ = journey
    from athanor.data.shards import read_shards

    corpus = Store(store).get(_id(journey, "clean"))
    document = next(one for one in read_shards(corpus, "train") if len(one.text) > 2000)
    sentence = document.text[500:620]
    rows = json.loads(athanor("why", sentence, "--json", store=store).stdout)
    assert rows[0]["text"] == sentence
    assert document.source in [match["document"] for match in rows[0]["matches"]]
    assert all(0 <= step < 12 for match in rows[0]["matches"] for step in match["steps"])


def test_lineage_reaches_back_to_the_documents(journey: Journey) -> None:
    store, records = journey
    drawn = athanor("lineage", _id(journey, "quantize"), store=store).stdout
    for step in ("data", "clean", "pack", "pretrain", "finetune", "quantize"):
        assert _id(journey, step) in drawn
    listed = json.loads(athanor("lineage", "--json", store=store).stdout)
    assert len(listed) == len(records)


def test_chat_answers_with_the_newest_model(journey: Journey) -> None:
    done = athanor("chat", "-p", "Who are you?", "--json", "--max-tokens", "8", store=journey[0])
    row = json.loads(done.stdout)
    assert row["question"] == "Who are you?"
    assert row["tokens"] > 0


def test_the_report_is_one_file_with_everything_in_it(journey: Journey) -> None:
    page = (journey[0] / "artifacts" / _id(journey, "report") / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://127.0.0.1:8000", "").replace("http://www.w3.org", "")
    assert "https://" not in page
    for text in ("addition", "LZMA", "uPlot", _id(journey, "quantize"), "learning_rate"):
        assert text in page


def test_a_user_folder_of_mixed_kinds(tmp_path: Path) -> None:
    """Notes in two languages and five formats; what cannot be read is set aside and named."""
    notes = tmp_path / "notes"
    notes.mkdir()
    paragraph = "The furnace was lit at dawn, and the workers sat around it and talked about the year that was over. "
    for number in range(40):
        (notes / f"day-{number:02d}.md").write_text(
            f"# Day {number}\n\n" + paragraph * 3 + f"It was day {number * 37}.\n"
        )
    (notes / "中文.txt").write_bytes(
        ("炉火在清晨点燃，工人们围坐在一起，谈论着过去的一年和将要到来的春天。" * 20).encode("gb18030")
    )
    (notes / "page.html").write_text(
        f"<html><body><nav>menu</nav><article><p>{paragraph * 4}</p></article></body></html>"
    )
    (notes / "rows.jsonl").write_text("".join(json.dumps({"text": paragraph * 2 + str(n)}) + "\n" for n in range(5)))
    (notes / "fake.txt").write_bytes(bytes(range(256)) * 40)
    sqlite3.connect(notes / "base.db").close()
    records = run_smallest(tmp_path / "store", f"data.path={notes}", "clean.copy_threshold=1.0")
    aside = (tmp_path / "store" / "artifacts" / "x").parent.glob("documents-*/set_aside.jsonl")
    assert records["data"]["measurements"]["documents"] >= 45
    assert records["report"]["kind"] == "report"
    assert len(list(aside)) == 1


def test_every_shipped_recipe_resolves() -> None:
    from athanor.recipes.recipe import load_recipe, shipped_recipes
    from athanor.recipes.runner import plan_recipe

    for name in shipped_recipes():
        assert plan_recipe(load_recipe(name, SMALLEST if name == "quickstart" else ()))


def _id(journey: Journey, step: str) -> str:
    names = json.loads((journey[0] / "names" / "quickstart.json").read_text())
    return names[step]
