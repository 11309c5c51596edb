"""Export and import: what leaves the store is the model, says so in a receipt, and comes back to the bit."""

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from athanor.base.files import hash_file, read_json, write_json
from athanor.inference.gguf import GgufFile
from athanor.inference.quantize import load_model, quantize_checkpoint
from athanor.inference.runtime import open_model
from athanor.models.convert import load_checkpoint
from athanor.store.artifact import Store
from athanor.tokens.conversation import Turn
from athanor.tokens.template import jinja_source
from athanor.tokens.tokenizer import Tokenizer
from tests.inference.gguf_models import make_checkpoint, train_tokenizer
from tests.verbs.conftest import Verb

IDS = torch.tensor([[0, 70, 71, 300, 400, 5]])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.set_num_threads(1)
    return train_tokenizer()


@pytest.fixture
def checkpoint(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A bf16 model of the quickstart's family with its tokenizer."""
    make_checkpoint(tmp_path / "model", tokenizer, torch.bfloat16, norm_qk=True, tied=True)
    return tmp_path / "model"


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# ------------------------------------------------------------------------------------------------------- Hugging Face


def test_a_folder_for_transformers_holds_everything(checkpoint: Path, verb: Verb, tmp_path: Path) -> None:
    said = verb("export", checkpoint, "--to", "hf", "--out", tmp_path / "out", "--license", "apache-2.0")
    assert "same greedy answers 11/11" in said and "largest logit difference 0 " in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "README.md", "receipt.json",
    }  # fmt: skip
    receipt = read_json(tmp_path / "out" / "receipt.json")
    for name, row in receipt["files"].items():
        assert hash_file(tmp_path / "out" / name) == row["hash"]
    assert receipt["source"]["files"]["model.safetensors"] == receipt["files"]["model.safetensors"]["hash"]
    assert receipt["token_ids"]["different"] == []
    assert (tmp_path / "out" / "README.md").read_text().startswith("---\nlicense: apache-2.0\n")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("kind", ["bf16", *(pytest.param(one, marks=pytest.mark.slow) for one in ("f32", "f16"))])
def test_transformers_gives_the_same_logits(kind: str, checkpoint: Path, verb: Verb, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    verb("export", checkpoint, "--to", "hf", "--type", kind, "--out", tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        expected = load_checkpoint(checkpoint, torch.float32)(IDS)
        torch.testing.assert_close(theirs(IDS).logits, expected, rtol=1e-3 if kind == "f16" else 1e-5, atol=1e-4)
    assert read_json(tmp_path / "out" / "config.json")["dtype"] == {"f32": "float32", "f16": "float16"}.get(
        kind, "bfloat16"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "<|end|> 你好"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == open_model(checkpoint).chat_prompt([Turn("user", "<|end|> 你好")])


@pytest.mark.slow
def test_the_model_card_tells_the_lineage(journey: tuple[Path, dict], verb: Verb, tmp_path: Path) -> None:
    """Data funnel, settings, figures of the evaluation, names of the ancestors; no path of the owner's disk."""
    store, records = journey
    verb("export", "--to", "hf", "--store", store, "--out", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "license: unknown" in card and "language: [en, zh]" in card
    for name in ("data", "clean", "pretrain", "finetune"):
        assert f"| {name} |" in card
    after = records["evaluate"]["measurements"]["bits_per_byte_after"]
    assert f"| bits per byte | {after} |" in card
    assert "near copies" in card and "learning_rate=" in card and str(tmp_path) not in card
    for artifact in Store(store).all():
        if artifact.kind in ("documents", "corpus", "tokenizer", "shards"):
            assert artifact.id in card


# --------------------------------------------------------------------------------------------------------------- GGUF


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_a_gguf_file_stands_beside_its_receipt(kind: str, checkpoint: Path, verb: Verb, tmp_path: Path) -> None:
    said = verb("export", checkpoint, "--to", "gguf", "--type", kind)
    file = GgufFile(tmp_path / f"model-{kind}.gguf")
    receipt = read_json(tmp_path / f"model-{kind}.receipt.json")
    assert receipt["type"] == kind.upper() and receipt["types"][kind.upper()] > 0
    assert sum(receipt["types"].values()) == len(file.tensors)
    assert receipt["files"]["model.gguf"]["hash"] == hash_file(file.path)
    assert (receipt["logits"]["max_logit_difference"] == 0) == (kind in ("f32", "bf16"))
    assert "token ids in llama.cpp differ for: letters and digits that Unicode 16 added" in said
    assert leftovers(tmp_path) == []


def test_the_type_is_the_stored_one_unless_another_is_asked_for(checkpoint: Path, verb: Verb, tmp_path: Path) -> None:
    told = json.loads(verb("export", checkpoint, "--to", "gguf", "--out", tmp_path / "a.gguf", "--json"))
    assert told["type"] == "BF16" and told["out"] == str(tmp_path / "a.gguf")


def test_a_quantised_model_is_exported_only_as_numbers(checkpoint: Path, verb: Verb, tmp_path: Path) -> None:
    small = tmp_path / "small"
    quantize_checkpoint(checkpoint, small)
    Tokenizer.load(checkpoint).save(small, jinja_source())
    for to in ("hf", "gguf"):
        assert "--dequantize" in verb("export", small, "--to", to, "--out", tmp_path / "x.gguf", code=2)
    verb("export", small, "--to", "hf", "--dequantize", "--out", tmp_path / "out")
    expected = load_model(small, dtype=torch.float32, kernel="plain")(IDS)
    torch.testing.assert_close(load_checkpoint(tmp_path / "out")(IDS), expected, rtol=0.03, atol=0.2)  # bf16 weights
    assert read_json(tmp_path / "out" / "receipt.json")["source"]["quantized"] is True
    assert leftovers(tmp_path) == []


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "tflite"), "'hf', 'gguf'"),
        (("--to", "onnx", "--type", "f16"), "float32"),
        ((), "--to"),
        (("--to", "gguf", "--type", "q3_k"), "q8_0"),
        (("--to", "hf", "--type", "q8_0"), "plain numbers"),
        (("--to", "gguf", "--out", "model.bin"), "ends in .gguf"),
        (("--to", "gguf", "--out", "nowhere/at/all.gguf"), "no folder nowhere/at"),
        (("--to", "hf", "--out", "model"), "exists already"),
    ],
)
def test_a_mistake_is_answered_before_anything_is_written(
    words: tuple[str, ...], said: str, checkpoint: Path, verb: Verb, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert said in verb("export", checkpoint, *words, code=2)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_target_or_receipt_that_exists_is_never_overwritten(checkpoint: Path, verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text("mine")
    (tmp_path / "b.receipt.json").write_text("mine")
    for name in ("a.gguf", "b.gguf"):
        assert "exists already" in verb("export", checkpoint, "--to", "gguf", "--out", name, code=2)
    assert (tmp_path / "a.gguf").read_text() == (tmp_path / "b.receipt.json").read_text() == "mine"


@pytest.mark.parametrize("words", [("gguf", "--out", "x.gguf"), ("hf", "--out", "x"), ("hf", "--type", "f32")])
def test_a_full_disk_leaves_nothing(words: tuple[str, ...], checkpoint: Path, verb: Verb, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # no file may grow beyond 100 kB
    try:
        said = verb("export", checkpoint, "--to", *words, code=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "disk is full" in said and "--out" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_family_that_llama_cpp_does_not_know_from_us(tokenizer: Tokenizer, verb: Verb, tmp_path: Path) -> None:
    biases = {"bias_qkv": True, "bias_out": True, "bias_mlp": True}
    changed = {"position": "learned", "position_offset": 2, "norm": "layer", "norm_eps": 1e-5, "mlp": "relu", **biases}
    make_checkpoint(tmp_path / "opt", tokenizer, kv_heads=None, **changed)
    assert "opt models cannot be exported as GGUF" in verb("export", tmp_path / "opt", "--to", "gguf", code=2)
    assert "same greedy answers 11/11" in verb("export", tmp_path / "opt", "--to", "hf")
    assert leftovers(tmp_path) == []


def test_a_template_that_cannot_be_run_safely_is_refused(checkpoint: Path, verb: Verb) -> None:
    (checkpoint / "chat_template.jinja").write_text("{% include 'secrets' %}")
    assert "the chat template" in verb("export", checkpoint, "--to", "gguf", code=2)


# -------------------------------------------------------------------------------------------------------------- import


def test_a_folder_becomes_a_model_of_the_store(checkpoint: Path, verb: Verb, tmp_path: Path) -> None:
    record = json.loads(verb("import", checkpoint, "--json"))
    artifact = Store(tmp_path / "store").get(record["artifact"])
    artifact.verify()
    assert artifact.kind == "model" and record["settings"]["path"] == str(checkpoint)
    assert record["measurements"]["source"]["model.safetensors"] == hash_file(checkpoint / "model.safetensors")
    assert read_json(artifact.path / "receipt.json")["logits"]["max_logit_difference"] == 0
    assert torch.equal(load_checkpoint(artifact.path)(IDS), load_checkpoint(checkpoint)(IDS))
    assert artifact.id[:12] in verb("lineage")
    assert verb("chat", artifact.id, "-p", "hello", "--max-tokens", "4") is not None
    assert "same greedy answers 11/11" in verb("export", "--to", "gguf", "--out", tmp_path / "again.gguf")


def test_importing_again_makes_nothing_and_a_changed_file_makes_another(checkpoint: Path, verb: Verb) -> None:
    first, second = (json.loads(verb("import", checkpoint, "--json"))["artifact"] for _ in range(2))
    write_json(checkpoint / "generation_config.json", {"eos_token_id": 1})
    assert first == second != json.loads(verb("import", checkpoint, "--json"))["artifact"]


def test_an_int4_folder_is_imported_too(checkpoint: Path, verb: Verb, tmp_path: Path) -> None:
    quantize_checkpoint(checkpoint, tmp_path / "small")
    Tokenizer.load(checkpoint).save(tmp_path / "small", jinja_source())
    artifact = Store(tmp_path / "store").get(json.loads(verb("import", tmp_path / "small", "--json"))["artifact"])
    assert open_model(artifact.path).chat_prompt([Turn("user", "hello")])


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def pickled(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")


def not_finite(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-2:] = b"\xc0\x7f"
    (folder / "model.safetensors").write_bytes(data)


def cut_short(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


def unknown_family(folder: Path) -> None:
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "model_type": "mamba"})


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def code_tokenizer(folder: Path) -> None:
    config = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {**config, "auto_map": {"AutoTokenizer": ["tokenization.Mine", None]}})


def other_tokenizer(folder: Path) -> None:
    train_tokenizer(900).save(folder, jinja_source())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_config, "no config.json"), (pickled, "is a pickle"), (not_finite, "not finite"),
        (cut_short, "the file holds"), (unknown_family, "mamba"), (no_tokenizer, "has no tokenizer.json"),
        (code_tokenizer, "foreign code is never run"), (other_tokenizer, "900 token ids"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_refused_by_name(
    spoil: Callable[[Path], None], said: str, checkpoint: Path, verb: Verb, tmp_path: Path
) -> None:
    spoil(checkpoint)
    assert said in verb("import", checkpoint, code=2)
    assert not list((tmp_path / "store" / "artifacts").glob("*")) if (tmp_path / "store").exists() else True


def test_a_folder_that_is_not_there(verb: Verb) -> None:
    assert "no folder" in verb("import", "/nowhere/at/all", code=2)
