"""Tokenizers through the command line: learnt, measured, and made larger together with their model."""

import json
import shutil
from pathlib import Path
from pydoc_data.topics import topics

import click
import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from athanor.base.files import read_json
from athanor.inference.quantize import quantize_checkpoint
from athanor.models.config import TransformerConfig
from athanor.models.convert import load_checkpoint, save_checkpoint
from athanor.models.language import LanguageModel
from athanor.recipes import extend_model
from athanor.store.artifact import Store
from athanor.tokens.template import jinja_source
from athanor.tokens.tokenizer import Tokenizer
from tests.conftest import athanor
from tests.inference.gguf_models import make_checkpoint, train_tokenizer
from tests.tokens import makers
from tests.verbs.conftest import Verb

TERMS = "benzaldehyde is distilled, formaldehyde is not; 苯甲醛 is what benzaldehyde is called here.\n"
OLD = "def add(a, b):\n    return a + b  # 人工智能\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return train_tokenizer()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder of English texts and a Chinese one."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for number, text in enumerate(list(topics.values())[:30]):
        (folder / f"{number:02}.md").write_text(text, encoding="utf-8")
    (folder / "zh.txt").write_text("今天天气很好，我们一起去公园散步。" * 30, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def base(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with its tokenizer."""
    folder = tmp_path_factory.mktemp("base") / "model"
    make_checkpoint(folder, tokenizer, norm_qk=True, tied=True)
    return folder


@pytest.fixture(scope="module")
def imported(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store that holds the model, made once, and the model's name."""
    store = tmp_path_factory.mktemp("imported") / "store"
    told = json.loads(athanor("import", str(base), "--json", store=store).stdout)
    return store, told["artifact"]


@pytest.fixture
def model(imported: tuple[Path, str], tmp_path: Path) -> str:
    """The model in this test's own store."""
    shutil.copytree(imported[0], tmp_path / "store")
    return imported[1]


@pytest.fixture
def terms(tmp_path: Path) -> Path:
    """Texts of a field that the tokenizer has not seen."""
    (tmp_path / "terms").mkdir()
    (tmp_path / "terms" / "terms.txt").write_text(TERMS * 40, encoding="utf-8")
    return tmp_path / "terms"


def ids_of(folder: Path, text: str) -> list[int]:
    """By the library alone."""
    core = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return core.encode(text, add_special_tokens=False).ids


def kinds(tmp_path: Path) -> list[str]:
    store = tmp_path / "store"
    assert not [path for path in store.glob("work/*") if path.is_dir()]
    return sorted(artifact.kind for artifact in Store(store).all())


# -------------------------------------------------------------------------------------------------------------- train


def test_a_trained_tokenizer_is_the_one_that_a_run_would_make(notes: Path, verb: Verb, tmp_path: Path) -> None:
    few = "skills.conversations=50"
    told = json.loads(verb("tokens", "train", notes, few, "--vocabulary", 700, "--json"))
    assert told["kind"] == "tokenizer" and told["settings"]["kind"] == "bpe"
    plan = json.loads(verb(
        "run", "quickstart", f"data.path={notes}", few, "tokenizer.vocabulary=700", "--dry-run", "--json",
    ))  # fmt: skip
    assert plan["steps"]["tokenizer"]["artifact"] == told["artifact"]
    folder = Store(tmp_path / "store").get(told["artifact"]).path
    core = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert core.get_vocab_size() == told["measurements"]["vocabulary"] == 700
    text = topics["assert"]
    assert core.decode(core.encode(text).ids) == text
    assert 3 * len(core.encode(text).ids) < 2 * len(text)
    said = verb("tokens", "train", notes, few, "--vocabulary", 700)
    assert told["artifact"] in said and "700 ids" in said
    assert verb("tokens", "report", "tokenizer", notes / "00.md").count("\n") == 3


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_the_other_kinds_are_learnt_too(kind: str, notes: Path, verb: Verb, tmp_path: Path) -> None:
    words = ("skills.conversations=50", "--kind", kind, "--vocabulary", 600)
    told = json.loads(verb("tokens", "train", notes, *words, "--json"))
    folder = Store(tmp_path / "store").get(told["artifact"]).path
    model = read_json(folder / "tokenizer.json")["model"]["type"]
    assert model.lower() == kind and told["settings"]["kind"] == kind


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["NOTES", "--vocabulary", "100"], "vocabulary"),
        (["/nowhere/at/all", "--vocabulary", "600"], "/nowhere/at/all"),
        (["NOTES", "--vocabulary", "600", "--kind", "words"], "wordpiece"),
        (["NOTES", "tokenizer.vocabulary=700", "--vocabulary", "600"], "is given already"),
        (["NOTES", "tokenizer.kin=bpe", "--vocabulary", "600"], "did you mean 'kind'"),
        (["NOTES", "pretrain.steps=5", "--vocabulary", "600"], "comes after the tokenizer"),
        (["NOTES", "claen.seed=5", "--vocabulary", "600"], "did you mean 'clean'"),
        (["NOTES"], "--vocabulary"),
    ],
)
def test_what_cannot_be_learnt_leaves_nothing(
    words: list[str], said: str, notes: Path, verb: Verb, tmp_path: Path
) -> None:
    assert said in verb("tokens", "train", *(word.replace("NOTES", str(notes)) for word in words), code=2)
    assert kinds(tmp_path) == []


# ------------------------------------------------------------------------------------------------------------- report


def test_the_report_counts_as_the_library_does(base: Path, notes: Path, verb: Verb) -> None:
    files = [notes / "00.md", notes / "zh.txt"]
    told = json.loads(verb("tokens", "report", base, *files, "--json"))
    assert [row["language"] for row in told["rows"]] == ["00.md", "zh.txt", "all"]
    for row, file in zip(told["rows"], files, strict=False):
        text = file.read_text(encoding="utf-8")
        count = len(ids_of(base, text))
        assert row["tokens"] == count and row["bytes"] == len(text.encode())
        assert row["bytes_per_token"] == pytest.approx(len(text.encode()) / count, abs=1e-4)
    assert told["rows"][1]["words"] == 15 * 30  # every Chinese character, no sign
    assert told["rows"][2]["tokens"] == told["rows"][0]["tokens"] + told["rows"][1]["tokens"]
    assert "bytes/token" in verb("tokens", "report", base, *files)


def test_the_report_by_language_and_what_it_leaves_out(base: Path, notes: Path, verb: Verb) -> None:
    (notes / "picture.png").write_bytes(b"\x89PNG")
    told = json.loads(verb("tokens", "report", base, notes, "--by", "language", "--json"))
    rows = {row["language"]: row for row in told["rows"]}
    assert rows["en"]["texts"] >= 25 and rows["zh"]["texts"] == 1 and list(rows)[-1] == "all"
    assert rows["all"]["texts"] == 31
    assert told["set_aside"] == [{"source": "picture.png", "reason": "a picture without words"}]
    once, twice = (verb("tokens", "report", base, *[notes] * times, "--by", "language") for times in (1, 2))
    assert once == twice


def test_rows_without_text_are_counted_and_another_field_may_be_named(
    base: Path, notes: Path, verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_apart: list[str] = []
    echo = click.echo
    monkeypatch.setattr(click, "echo", lambda text, err=False: told_apart.append(text) if err else echo(text))
    rows = "".join(json.dumps({"title": f"The lighthouse number {number}."}) + "\n" for number in range(40))
    (notes / "rows.jsonl").write_text(rows)
    verb("tokens", "report", base, notes)
    assert told_apart == ["not read: rows.jsonl#1 and 39 more: no field text or content or body"]
    monkeypatch.setattr(click, "echo", echo)
    assert "has title" in verb("tokens", "report", base, notes / "rows.jsonl", code=2)
    told = json.loads(verb("tokens", "report", base, notes / "rows.jsonl", "--text-field", "title", "--json"))
    assert told["rows"][0]["texts"] == 40 and told["set_aside"] == []


def test_files_of_one_name_get_rows_of_their_own(base: Path, notes: Path, verb: Verb, tmp_path: Path) -> None:
    shutil.copytree(notes, tmp_path / "more")
    told = json.loads(verb("tokens", "report", base, notes / "00.md", tmp_path / "more" / "00.md", "--json"))
    assert [row["texts"] for row in told["rows"]] == [1, 1, 2]


def test_the_tokenizer_of_another_model_is_measured(notes: Path, verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    makers.MAKERS["bert"](tmp_path / "bert")
    told = json.loads(verb("tokens", "report", tmp_path / "bert", notes / "00.md", "--json"))
    text = (notes / "00.md").read_text()
    assert told["rows"][0]["tokens"] == len(Tokenizer.load(tmp_path / "bert").encode(text))
    assert told["rows"][0]["unknown_share"] > 0


def test_what_cannot_be_measured_is_said(base: Path, notes: Path, verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"\x00")
    assert "there is nothing at" in verb("tokens", "report", base, tmp_path / "gone", code=2)
    assert "kind not read: .bin" in verb("tokens", "report", base, tmp_path / "data.bin", code=2)
    assert "has no tokenizer.json" in verb("tokens", "report", notes, notes, code=2)
    assert "no store" in verb("tokens", "report", "model-1f2e3d4c", notes, code=2)
    assert "TEXT" in verb("tokens", "report", base, code=2)


# ------------------------------------------------------------------------------------------------------------- extend


@pytest.mark.parametrize(("tied", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_a_model_grows_and_keeps_what_it_knew(
    tied: bool, dtype: torch.dtype, tokenizer: Tokenizer, terms: Path, verb: Verb, tmp_path: Path
) -> None:
    make_checkpoint(tmp_path / "model", tokenizer, dtype, norm_qk=True, tied=tied)
    (tmp_path / "words.txt").write_text("\ufeffacetone\n\n乙醇\n", encoding="utf-8")
    told = json.loads(verb(
        "tokens", "extend", tmp_path / "model", "--texts", terms, "--count", 12, "--words", tmp_path / "words.txt",
        "--special", "<|search|>", "--json",
    ))  # fmt: skip
    store = Store(tmp_path / "store")
    parent = told["parents"]["model"]
    old, new = store.get(parent).path, store.get(told["artifact"]).path
    assert store.remembered("import")["import"] == parent and told["measurements"]["new_tokens"] == 15
    before = tokenizers.Tokenizer.from_file(str(old / "tokenizer.json"))
    after = tokenizers.Tokenizer.from_file(str(new / "tokenizer.json"))
    known = before.get_vocab_size()
    assert after.get_vocab_size() == known + 15
    assert before.get_vocab().items() <= after.get_vocab().items()

    counts = [len(ids_of(folder, TERMS * 40)) for folder in (old, new)]
    texts = told["receipt"]["texts"]
    assert [texts["tokens_before"], texts["tokens_after"]] == counts and counts[1] < 0.8 * counts[0]
    assert texts["saved"] == pytest.approx(1 - counts[1] / counts[0], abs=1e-4)
    assert ids_of(old, OLD) == ids_of(new, OLD)

    one, other = load_file(old / "model.safetensors"), load_file(new / "model.safetensors")
    grown = {"model.embed_tokens.weight", *(() if tied else ("lm_head.weight",))}
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.equal(weight, other[name][: len(weight)])
        assert (len(other[name]) == known + 15) if name in grown else (other[name].shape == weight.shape)
    for name in grown:  # the new word begins as the mean of the pieces that wrote it
        pieces = torch.tensor(before.encode("acetone", add_special_tokens=False).ids)
        expected = one[name][pieces].float().mean(0).to(dtype)
        assert torch.equal(other[name][after.token_to_id("acetone")], expected)
    assert told["receipt"]["logits"]["max_logit_difference"] < 1e-5
    rows = read_json(new / "new_tokens.json")
    assert [row["id"] for row in rows] == list(range(known, known + 15)) and rows[-1]["token"] == "<|search|>"
    assert parent in verb("lineage", told["artifact"]) and "documents" in verb("lineage", told["artifact"])


def test_a_larger_model_is_used_like_any_other(base: Path, model: str, terms: Path, verb: Verb, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    said = verb("tokens", "extend", model, "--texts", terms, "--count", 8, "--special", "<|search|>")
    assert "9 new tokens" in said and "36/36 fixed texts" in said and "fewer" in said
    name = Store(tmp_path / "store").remembered("extend")["extend"]
    assert "has no tokenizer" in verb("tokens", "report", "data", terms, code=2)
    assert verb("chat", "-p", "benzaldehyde", "--max-tokens", 3, "--json")  # the newest model
    verb("export", name, "--to", "hf", "--out", tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = reader(TERMS + OLD, add_special_tokens=False)["input_ids"]
    assert ids == ids_of(tmp_path / "out", TERMS + OLD) and max(ids) >= Tokenizer.load(base).vocabulary
    assert reader("<|search|>", add_special_tokens=False)["input_ids"] == [len(reader) - 1]
    with torch.no_grad():
        old = load_checkpoint(base)(torch.tensor([ids_of(base, OLD)]))
        new = theirs(torch.tensor([ids_of(base, OLD)])).logits
    torch.testing.assert_close(new[..., : old.shape[-1]], old, rtol=1e-5, atol=1e-4)


def test_a_model_with_another_tokenizer_grows_too(terms: Path, verb: Verb, tmp_path: Path) -> None:
    """Qwen's layout, put into the store by hand: its rows are more than its tokens, and the spare ones are taken."""
    store = Store(tmp_path / "store").create()
    folder = store.workplace("model-1")
    makers.MAKERS["qwen"](folder)
    theirs = Tokenizer.load(folder)
    spare, shape = 7, {"width": 32, "layers": 1, "heads": 2, "hidden": 48, "max_positions": 64}
    network = LanguageModel(TransformerConfig(vocabulary=theirs.vocabulary + spare, **shape)).initialise(2)
    save_checkpoint(network, folder, generation={"eos_token_id": 3}, family="mistral")
    store.commit("model-1", {"kind": "model", "measurements": {}, "parents": {}, "step": "by hand"})
    told = json.loads(verb("tokens", "extend", "model-1", "--texts", terms, "--count", 10, "--json"))
    larger, weights = store.get(told["artifact"]).path, load_checkpoint(store.get(told["artifact"]).path)
    assert Tokenizer.load(larger).vocabulary == theirs.vocabulary + 10 == weights.config.vocabulary
    assert read_json(larger / "config.json")["model_type"] == "mistral"
    assert Tokenizer.load(larger).eos == theirs.eos and Tokenizer.load(larger).chat_template == theirs.chat_template
    assert read_json(larger / "generation_config.json") == read_json(folder_of(store) / "generation_config.json")
    assert len(ids_of(larger, TERMS)) < len(ids_of(folder_of(store), TERMS))


def folder_of(store: Store) -> Path:
    return store.get("model-1").path


def test_the_same_extension_is_made_once(base: Path, model: str, verb: Verb, tmp_path: Path) -> None:
    """A folder is imported first; it may be there already."""
    names = {
        json.loads(verb("tokens", "extend", one, "--special", "<|x|>", "--json"))["artifact"] for one in (base, model)
    }
    assert len(names) == 1 and kinds(tmp_path) == ["model", "model"]
    other = json.loads(verb("tokens", "extend", model, "--special", "<|x|>", "--seed", 2, "--json"))["artifact"]
    store = Store(tmp_path / "store")
    one, two = (load_checkpoint(store.get(name).path).tokens.weight for name in (*names, other))
    assert torch.equal(one[:-1], two[:-1])
    assert 0 < (one[-1] - two[-1]).abs().max() < 0.12 * one[:-1].std(0).max()  # the noise on the new row


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "there is nothing to add"),
        (["--texts", "TERMS"], "there is nothing to add"),
        (["--count", "5"], "--texts FOLDER"),
        (["--count", "-5", "--texts", "TERMS"], "count"),
        (["--special", "<|user|>"], "already"),
        (["--special", "<|x|>", "--special", "<|x|>"], "already"),
        (["--special", " "], "visible"),
        (["--words", "gone.txt"], "cannot be read"),
        (["--words", "empty.txt"], "holds no words"),
        (["--words", "broken.txt"], "not UTF-8"),
        (["--words", "twice.txt", "--texts", "TERMS"], "already"),
        (["--texts", "/nowhere/at/all", "--count", "5"], "/nowhere/at/all"),
        (["--special", "<|x|>", "--seed", "-1"], "seed"),
    ],
)
def test_what_cannot_be_added_leaves_nothing(
    words: list[str], said: str, model: str, terms: Path, verb: Verb, tmp_path: Path
) -> None:
    for name, content in (("empty", b"\n\n"), ("broken", b"\xff\xfe\x00"), ("twice", b"ether\nether\n")):
        (tmp_path / f"{name}.txt").write_bytes(content)
    given = [word.replace("TERMS", str(terms)) for word in words]
    assert said in verb("tokens", "extend", model, *given, code=2)
    assert kinds(tmp_path) == ["model"]


def test_texts_in_which_nothing_repeats_add_no_token(model: str, verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "rare.txt").write_text("a b c")
    said = verb("tokens", "extend", model, "--texts", tmp_path / "rare.txt", "--count", 5, code=2)
    assert "no token was added" in said and kinds(tmp_path) == ["documents", "model"]


def test_a_quantised_model_is_refused(base: Path, tokenizer: Tokenizer, verb: Verb, tmp_path: Path) -> None:
    quantize_checkpoint(base, tmp_path / "small")
    tokenizer.save(tmp_path / "small", jinja_source())
    said = verb("tokens", "extend", tmp_path / "small", "--special", "<|x|>", code=2)
    assert "is quantised" in said and "then quantise" in said
    assert not (tmp_path / "store" / "artifacts").exists()


@pytest.mark.parametrize("place", ["row", "matrix"])
def test_a_model_that_came_out_changed_is_refused(
    place: str, model: str, verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect in the growing itself: one old number is another."""
    true = extend_model.extend_vocabulary

    def broken(old, *rest):
        larger = true(old, *rest)
        weight = larger.tokens.weight if place == "row" else larger.trunk.blocks[1].attention_norm.weight
        with torch.no_grad():
            weight[7] += 0.5
        return larger

    monkeypatch.setattr(extend_model, "extend_vocabulary", broken)
    said = verb("tokens", "extend", model, "--special", "<|x|>", code=3)
    assert "the result was refused" in said and "has changed" in said
    assert kinds(tmp_path) == ["model"]


def test_a_command_that_is_not_there(verb: Verb) -> None:
    assert "did you mean 'extend'" in verb("tokens", "extnd", code=2)
    for name in ("train", "report", "extend"):
        assert f"Example:  athanor tokens {name}" in verb("tokens", name, "--help")
