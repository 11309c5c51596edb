"""One document from file to answer: the whole quickstart at its smallest, run as a user runs it."""

import json
import shutil
from pathlib import Path

import pytest

from athanor.store.artifact import Store
from tests.conftest import SMALLEST, athanor, file_hashes, run_smallest

CHINESE = """炉火在清晨点燃，工人们围坐在一起，谈论过去的一年。有人说今年的雨水比往年多，河边的稻田长得很好。
孩子们放学以后常去老码头，看船只慢慢靠岸，听船工讲远方的故事。镇上的图书馆新添了三百本书，多半是历史和地理。
馆长每周六下午朗读一章，来听的人坐满了两排长椅。冬天来临之前，大家把屋顶修好，又在院子里堆满了干柴。"""
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
    drawn = athanor("lineage", "quantize", store=store).stdout
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
    for fetching in ('src="', "src='", 'href="', "@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert fetching not in page, f"the report would load something: {fetching}"
    for text in ("addition", "LZMA", "uPlot", _id(journey, "quantize"), "learning_rate"):
        assert text in page


def test_a_user_folder_of_mixed_kinds(tmp_path: Path) -> None:
    """Notes in two languages and five formats; what cannot be read is set aside and named."""
    from pydoc_data.topics import topics

    notes = tmp_path / "notes"
    notes.mkdir()
    texts = sorted(text for text in topics.values() if 800 < len(text) < 20000)
    for number, text in enumerate(texts[:30]):
        (notes / f"note-{number:02d}.{'md' if number % 2 else 'txt'}").write_text(text, encoding="utf-8")
    (notes / "中文.txt").write_bytes(CHINESE.encode("gb18030"))
    (notes / "page.html").write_text(f"<html><body><nav>menu</nav><article><p>{texts[30]}</p></article></body></html>")
    (notes / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[31:35]))
    (notes / "fake.txt").write_bytes(bytes(range(256)) * 40)
    (notes / "broken.md").write_bytes(b"good words, then a broken character \xff\xfe\x00\xd8 in the middle of it" * 9)
    records = run_smallest(tmp_path / "store", f"data.path={notes}")
    set_aside = next((tmp_path / "store" / "artifacts").glob("documents-*")) / "set_aside.jsonl"
    names = {json.loads(line)["source"] for line in set_aside.read_text().splitlines()}
    assert {"fake.txt", "broken.md"} <= names
    assert records["data"]["measurements"]["documents"] == 36
    assert records["report"]["kind"] == "report"


def test_every_shipped_recipe_resolves(tmp_path: Path) -> None:
    from athanor.recipes.recipe import load_recipe, shipped_recipes
    from athanor.recipes.runner import plan_recipe

    reviews = tmp_path / "reviews.jsonl"
    reviews.write_text('{"text": "warm and dry", "label": "good"}\n{"text": "it rained in", "label": "bad"}\n')
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"text": "it rained", "second": "it was wet", "label": "yes"}\n')
    folders = {  # what these need to be told
        "gpt3data": ("raw.path=python:", "curated.path=python:"),
        "classify": (f"examples.path={reviews}",),
        "instruction_tuning": (
            f"sentiment.path={reviews}",
            f"entailment.path={pairs}",
            f"paraphrase.path={pairs}",
        ),
    }
    for name in shipped_recipes():
        assert plan_recipe(load_recipe(name, SMALLEST if name == "quickstart" else folders.get(name, ())))


def _id(journey: Journey, step: str) -> str:
    names = json.loads((journey[0] / "names" / "quickstart.json").read_text())
    return names[step]
