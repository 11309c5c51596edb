"""Adapters through the command line: in from PEFT's layout, out in it, and folded into the weights of their base."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.base.files import hash_file, read_json, write_json
from athanor.inference.quantize import quantize_checkpoint, read_family
from athanor.models.adapters.attach import attach
from athanor.models.adapters.files import read_adapter, save_adapter
from athanor.models.adapters.lora import LoraSettings, Matrices, fresh
from athanor.models.convert import load_checkpoint
from athanor.models.settings import family_of
from athanor.store.artifact import Store
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
def base(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A small model of the quickstart's family with its tokenizer."""
    make_checkpoint(tmp_path / "base", tokenizer, norm_qk=True, tied=True)
    return tmp_path / "base"


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """A random adapter of it in PEFT's layout; B is not zero."""
    return write_adapter(base, tmp_path / "peft")


def write_adapter(base: Path, folder: Path, **settings) -> Path:
    model = load_checkpoint(base)
    family, generator = family_of(model.config), torch.Generator().manual_seed(5)
    settings = LoraSettings(**{"rank": 4, "alpha": 8, **settings})
    made = fresh(model, family, settings, ["q_proj", "v_proj", "down_proj"])
    pieces = {
        name: Matrices(one.a_RK, torch.randn(one.b_PR.shape, generator=generator) * 0.2, one.alpha, one.length_P)
        for name, one in made.pieces.items()
    }
    save_adapter(type(made)(made.settings, pieces, None, "someone/model"), folder, family, model.config)
    return folder


@torch.no_grad()
def adapted_logits(base: Path, adapter: Path) -> torch.Tensor:
    model = load_checkpoint(base)
    family, config = read_family(base)
    attach(model, family, read_adapter(adapter, family, config))
    return model(IDS)


def imported(verb: Verb, base: Path, adapter: Path) -> tuple[str, str]:
    """Names of the base and of the adapter in the store."""
    model = json.loads(verb("import", base, "--json"))["artifact"]
    return model, json.loads(verb("import", adapter, "--base", model, "--json"))["artifact"]


# ------------------------------------------------------------------------------------------------------------- arrival


def test_an_adapter_becomes_an_artifact_whose_parent_is_its_base(
    base: Path, adapter: Path, verb: Verb, tmp_path: Path
) -> None:
    model, name = imported(verb, base, adapter)
    artifact = Store(tmp_path / "store").get(name)
    assert artifact.kind == "adapter" and artifact.record["parents"] == {"base": model}
    artifact.verify()
    receipt = read_json(artifact.file("receipt.json"))
    assert receipt["logits"]["max_logit_difference"] == 0 and receipt["adapted"]["max_logit_difference"] > 0.05
    assert receipt["source"]["files"]["adapter_model.safetensors"] == hash_file(adapter / "adapter_model.safetensors")
    assert receipt["base"]["model"] == model
    assert torch.equal(adapted_logits(base, artifact.path), adapted_logits(base, adapter))
    assert name in verb("lineage", name) and model in verb("lineage", name)
    assert verb("import", adapter, "--base", model, "--json").count(name)  # the same files: the same artifact


def test_a_folder_may_be_the_base_and_is_imported_first(base: Path, adapter: Path, verb: Verb, tmp_path: Path) -> None:
    said = verb("import", adapter, "--base", base)
    kinds = sorted(artifact.kind for artifact in Store(tmp_path / "store").all())
    assert kinds == ["adapter", "model"] and "the same logits as the source" in said


def test_an_adapter_without_its_base_is_told_what_to_do(adapter: Path, verb: Verb) -> None:
    assert "--base MODEL" in verb("import", adapter, code=2)


def test_an_adapter_of_other_weights_is_refused(
    base: Path, adapter: Path, verb: Verb, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """The shapes fit; the hash that travels with an exported adapter does not."""
    _, name = imported(verb, base, adapter)
    verb("export", name, "--to", "peft", "--out", tmp_path / "out")
    weights = load_file(base / "model.safetensors")
    shutil.copytree(base, tmp_path / "other")
    weights["model.norm.weight"] += 1
    save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    other = json.loads(verb("import", tmp_path / "other", "--json"))["artifact"]
    assert "was made for weights" in verb("import", tmp_path / "out", "--base", other, code=2)
    make_checkpoint(tmp_path / "wide", tokenizer, norm_qk=True, tied=True, width=128)
    wide = json.loads(verb("import", tmp_path / "wide", "--json"))["artifact"]
    assert "has shape" in verb("import", adapter, "--base", wide, code=2)


def test_a_pickled_adapter_is_refused(base: Path, adapter: Path, verb: Verb) -> None:
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x02}q\x00.")
    assert "adapter_model.bin is a pickle" in verb("import", adapter, "--base", base, code=2)


def test_a_folder_that_holds_no_adapter(base: Path, verb: Verb) -> None:
    assert "holds no adapter_config.json" in verb("import", base, "--base", base, code=2)


def test_a_setting_we_do_not_compute_leaves_nothing_in_the_store(
    base: Path, adapter: Path, verb: Verb, tmp_path: Path
) -> None:
    model = json.loads(verb("import", base, "--json"))["artifact"]
    write_json(adapter / "adapter_config.json", {**read_json(adapter / "adapter_config.json"), "bias": "all"})
    assert "bias='all' is not supported" in verb("import", adapter, "--base", model, code=2)
    assert [artifact.kind for artifact in Store(tmp_path / "store").all()] == ["model"]


def test_an_adapter_of_an_int4_model(base: Path, verb: Verb, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Beside the codes it computes; folded into them it can be only as the numbers that they stand for."""
    quantize_checkpoint(base, tmp_path / "small")
    tokenizer.save(tmp_path / "small", jinja_source())
    adapter = write_adapter(base, tmp_path / "peft", decomposed=True)
    _, name = imported(verb, tmp_path / "small", adapter)
    assert "--dequantize" in verb("export", name, "--to", "hf", code=2)
    told = json.loads(verb("export", name, "--to", "hf", "--dequantize", "--out", tmp_path / "out", "--json"))
    assert told["source"]["quantized"] and told["merged"]["logits"]["kl_mean"] < 1e-6


# ------------------------------------------------------------------------------------------------------------- leaving


def test_what_leaves_loads_in_peft_and_gives_the_same_logits(
    base: Path, adapter: Path, verb: Verb, tmp_path: Path
) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    model, name = imported(verb, base, adapter)
    said = verb("export", name, "--to", "peft", "--out", tmp_path / "out", "--license", "mit")
    assert f"an adapter of {model}" in said and "largest logit difference 0 " in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "README.md", "receipt.json",
    }  # fmt: skip
    receipt = read_json(tmp_path / "out" / "receipt.json")
    for file, row in receipt["files"].items():
        assert hash_file(tmp_path / "out" / file) == row["hash"]
    assert (tmp_path / "out" / "README.md").read_text().startswith("---\nlicense: mit\nlibrary_name: peft\n")
    network = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(network, tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, adapted_logits(base, adapter), rtol=1e-5, atol=1e-4)


def test_a_merged_folder_is_the_base_with_the_adapter(base: Path, adapter: Path, verb: Verb, tmp_path: Path) -> None:
    model, name = imported(verb, base, adapter)
    said = verb("export", name, "--to", "hf", "--out", tmp_path / "out")
    assert f"{name} folded into {model}" in said
    receipt = read_json(tmp_path / "out" / "receipt.json")
    assert receipt["merged"]["adapter"] == name and receipt["merged"]["base"] == model
    assert receipt["merged"]["logits"]["kl_mean"] < 1e-6 and receipt["logits"]["max_logit_difference"] == 0
    assert not receipt["source"]["quantized"]
    with torch.no_grad():
        merged = load_checkpoint(tmp_path / "out")(IDS)
    torch.testing.assert_close(merged, adapted_logits(base, adapter), rtol=1e-5, atol=1e-4)
    assert name in (tmp_path / "out" / "README.md").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_merged_gguf_file_says_what_rounding_changed(base: Path, adapter: Path, verb: Verb, tmp_path: Path) -> None:
    _, name = imported(verb, base, adapter)
    told = json.loads(verb("export", name, "--to", "gguf", "--type", "f16", "--out", tmp_path / "a.gguf", "--json"))
    assert told["merged"]["type"] == "float16" and 0 < told["merged"]["logits"]["kl_mean"] < 0.01
    assert read_json(tmp_path / "a.receipt.json")["merged"]["adapter"] == name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "peft"], "is a whole model, not an adapter"),
        (["--to", "peft", "--type", "f16"], "is a whole model, not an adapter"),
    ],
)
def test_a_whole_model_is_no_adapter(words: list[str], said: str, base: Path, verb: Verb) -> None:
    told = verb("export", base, *words, code=2)
    assert said in told and "athanor import ADAPTER_FOLDER --base MODEL" in told


def test_what_cannot_be_said_of_an_adapter_is_refused(base: Path, adapter: Path, verb: Verb) -> None:
    _, name = imported(verb, base, adapter)
    assert "--type f16 with --to peft" in verb("export", name, "--to", "peft", "--type", "f16", code=2)
    assert "--dequantize with --to peft" in verb("export", name, "--to", "peft", "--dequantize", code=2)
    assert "athanor import" in verb("export", adapter, "--to", "peft", code=2)


def test_without_a_name_the_newest_adapter_leaves(base: Path, adapter: Path, verb: Verb, tmp_path: Path) -> None:
    verb("import", base)
    assert "athanor import ADAPTER_FOLDER" in verb("export", "--to", "peft", code=2)
    _, name = imported(verb, base, adapter)
    verb("export", "--to", "peft")
    assert (tmp_path / f"{name}-peft" / "adapter_model.safetensors").is_file()
