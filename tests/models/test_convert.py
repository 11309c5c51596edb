"""A checkpoint is data from a stranger: every way it can be wrong or hostile is refused by name."""

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.base.errors import AthanorError
from athanor.models.config import TransformerConfig
from athanor.models.convert import load_checkpoint, save_checkpoint
from athanor.models.language import LanguageModel
from athanor.models.settings import read_config
from athanor.models.streamed import filler_of
from athanor.recipes.import_model import file_hashes

TINY = dict(width=32, layers=2, heads=4, kv_heads=2, hidden=48, max_positions=16, vocabulary=50)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def tiny(**more) -> LanguageModel:
    return LanguageModel(TransformerConfig(**{**TINY, "norm_qk": True, **more})).initialise(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tiny(), tmp_path / "whole")
    return tmp_path / "whole"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_checkpoint(tiny(), tmp_path / "shards", shard_bytes=22_000)
    assert len(list((tmp_path / "shards").glob("*-of-*.safetensors"))) > 1
    return tmp_path / "shards"


def refusal(folder: Path) -> str:
    """What loading a checkpoint that must not load says to the user."""
    with pytest.raises(AthanorError) as caught:
        load_checkpoint(folder)
    return str(caught.value)


def names(said: str, *wanted: str) -> bool:
    """Whether an error names everything that is wrong."""
    return all(words in said for words in wanted)


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_header(path: Path, change) -> None:
    """Change the header of a safetensors file and leave the bytes of its tensors."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def edit_tensors(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_round_trip_keeps_every_bit(tmp_path, dtype):
    model = tiny().to(dtype)
    save_checkpoint(model, tmp_path)
    back = load_checkpoint(tmp_path)
    assert back.config == model.config.complete()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, back.state_dict()[name]), name
        assert back.state_dict()[name].dtype == dtype
    assert load_checkpoint(tmp_path, dtype=torch.float32).tokens.weight.dtype == torch.float32


def test_same_model_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_checkpoint(tiny(), tmp_path / name, generation={"eos_token_id": 3})
    for file in sorted(os.listdir(tmp_path / "a")):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_saving_refuses(tmp_path):
    model = tiny()
    save_checkpoint(model, tmp_path / "a")
    with pytest.raises(AthanorError, match="already"):
        save_checkpoint(model, tmp_path / "a")
    with torch.no_grad():
        model.trunk.blocks[1].attention.qkv.weight[20, 0] = torch.nan
    with pytest.raises(AthanorError, match=r"layers\.1\.self_attn\.q_proj\.weight"):
        save_checkpoint(model, tmp_path / "b")
    with pytest.raises(AthanorError, match="no family"):
        save_checkpoint(tiny(mlp="geglu"), tmp_path / "c")
    model = tiny()
    model.trunk.blocks[0].mlp.adapter = torch.nn.Linear(2, 2)
    with pytest.raises(AthanorError, match="adapter"):
        save_checkpoint(model, tmp_path / "d")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt", "a.pkl", "training_args.bin"])
def test_pickles_by_name(folder, name):
    (folder / name).write_bytes(b"")
    assert names(refusal(folder), name, "pickle")


def test_pickles_by_content(folder):
    (folder / "notes.txt").write_bytes(pickle.dumps([1, 2]))
    assert names(refusal(folder), "notes.txt", "pickle")
    (folder / "notes.txt").unlink()
    torch.save({}, folder / "weights.dat")
    assert names(refusal(folder), "weights.dat", "pickle")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(auto_map={"AutoModel": "m.M"}), "auto_map"),
        (lambda c: c.update(model_type="mystery"), "mystery"),
        (lambda c: c.update(model_type=["qwen3"]), "model_type"),
        (lambda c: c.update(architectures=5), "architectures=5"),
        (lambda c: c.update(hidden_act=["silu"]), "hidden_act=['silu']"),
        (lambda c: c.update(quantization_config={}), "quantization_config"),
        (lambda c: c.update(hidden_act="relu"), "relu"),
        (lambda c: c.update(rope_parameters={"rope_type": "longrope", "factor": 2}), "longrope"),
        (lambda c: c.update(rope_parameters={"rope_type": "yarn"}), "factor"),
        (lambda c: c.update(rope_parameters={"rope_type": "yarn", "factor": "2"}), "factor='2'"),
        (lambda c: c.update(rope_parameters={"rope_type": "yarn", "factor": 0.5}), "factor=0.5"),
        (lambda c: c.update(rope_parameters={"rope_type": "linear", "factor": 2, "beta_fast": 4}), "beta_fast"),
        (lambda c: c.update(rope_parameters={"rope_type": "llama3", "factor": 2}), "low_freq_factor"),
        (lambda c: c.update(rope_parameters={"factor": 2}), "factor"),
        (lambda c: c.update(rope_parameters=[1]), "rope_parameters"),
        (lambda c: c.update(rope_scaling={"type": "linear", "factor": 2.0}), "linear"),
        (lambda c: c.update(use_sliding_window=True, sliding_window="8"), "sliding_window"),
        (lambda c: c.update(use_sliding_window=True, sliding_window=0, max_window_layers=0), "window=0"),
        (lambda c: c.update(use_sliding_window=True, sliding_window=8, layer_types=["full_attention"]), "layer_types"),
        (lambda c: c.update(use_sliding_window=True, layer_types=["chunked_attention"] * 2), "chunked_attention"),
        (lambda c: c.update(layer_types=["sliding_attention"] * 2), "sliding_attention"),
        (lambda c: c.update(num_attention_heads=0), "heads"),
        (lambda c: c.update(hidden_size="32"), "hidden_size"),
        (lambda c: c.update(num_hidden_layers=True), "num_hidden_layers"),
        (lambda c: c.pop("vocab_size"), "vocab_size"),
        (lambda c: c.update(num_hidden_layers=10**9, layer_types=None), "num_hidden_layers=1000000000"),
        (lambda c: c.update(intermediate_size=10**10), "gate_proj"),
        (lambda c: c.update(vocab_size=10**12), "embed_tokens"),
        (lambda c: c.update(rms_norm_eps=float("nan")), "norm_eps=nan"),
        (lambda c: c.update(rope_theta=0, rope_parameters=None), "rope_base=0"),
        (lambda c: c.update(num_hidden_layers=3), "model.layers.2."),
        (lambda c: c.update(num_hidden_layers=1), "model.layers.1."),
        (lambda c: c.update(vocab_size=51), "embed_tokens"),
        (lambda c: c.update(tie_word_embeddings=True), "lm_head"),
    ],
)
def test_settings(folder, change, said):
    edit_json(folder / "config.json", change)
    assert names(refusal(folder), said)


@pytest.mark.parametrize(("change", "said"), [({"n_embd": 0}, "division by zero"), ({}, None)])
def test_a_share_of_nothing_is_an_error_of_the_file(change, said):
    theirs = {"model_type": "gptj", "n_embd": 8, "n_head": 2, "n_layer": 1, "n_positions": 8, "vocab_size": 5}
    theirs |= {"rotary_dim": 2, "activation_function": "gelu_new", "tie_word_embeddings": False}
    if said is None:
        assert read_config(theirs, "config.json")[1].width == 8
        return
    with pytest.raises(AthanorError, match=f"config.json: .*{said}"):
        read_config(theirs | change, "config.json")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\xff"])
def test_settings_that_are_no_object(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    assert names(refusal(folder), "config.json")


def test_no_memory_is_taken_before_every_shape_is_checked(folder, monkeypatch):
    """A config of a stranger may ask for terabytes, which a machine that promises more than it has would begin."""
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda *given, **named: pytest.fail("memory was taken"))
    edit_json(folder / "config.json", lambda c: c.update(intermediate_size=c["intermediate_size"] + 1))
    assert names(refusal(folder), "has shape")
    with pytest.raises(AthanorError, match="has shape"):
        filler_of(folder)


def test_a_folder_in_place_of_the_weights(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    assert names(refusal(folder), WEIGHTS, "missing")
    assert WEIGHTS not in file_hashes(folder)


def test_tensors_that_do_not_fit(folder):
    weights = folder / WEIGHTS
    name = "model.layers.0.self_attn.k_proj.weight"
    kept = weights.read_bytes()
    edit_tensors(weights, lambda t: t.pop(name))
    assert names(refusal(folder), name, "missing")
    weights.write_bytes(kept)
    edit_tensors(weights, lambda t: t.update(extra=torch.ones(2)))
    assert names(refusal(folder), WEIGHTS, "extra")
    weights.write_bytes(kept)
    edit_tensors(weights, lambda t: t.update({name: t[name].t().contiguous()}))
    assert names(refusal(folder), WEIGHTS, name, "[16, 32]")
    for number in (torch.nan, torch.inf):
        weights.write_bytes(kept)
        edit_tensors(weights, lambda t, number=number: t[name].__setitem__((3, 4), number))
        assert names(refusal(folder), WEIGHTS, name, "not finite")


def test_headers(folder):
    weights, name = folder / WEIGHTS, "model.norm.weight"
    kept = weights.read_bytes()

    def overlap(header):
        header[name]["data_offsets"] = [0, 128]

    def shape(header):
        header[name]["shape"] = [64]

    def negative(header):
        header[name]["data_offsets"] = [-128, 0]

    def kind(header):
        header[name]["dtype"] = "I8"

    def malformed(header):
        header[name] = 7

    for change in (overlap, shape, negative, kind, malformed):
        weights.write_bytes(kept)
        edit_header(weights, change)
        assert names(refusal(folder), WEIGHTS, name)


@pytest.mark.parametrize("start", [2**63, 2**64 - 1, 10**6, 99_999_999])
def test_header_longer_than_file(folder, start):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", start) + data[8:])
    assert names(refusal(folder), WEIGHTS, "header")


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_truncated_files(folder, size):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:size])
    assert names(refusal(folder), WEIGHTS)


def test_a_sharded_checkpoint_loads(sharded):
    ids = torch.arange(10)[None]
    assert torch.equal(load_checkpoint(sharded)(ids), tiny()(ids))


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/x.safetensors", "a/b.safetensors", "..\\x.safetensors", 7, "x", "gone.safetensors"]
)
def test_index_pointing_elsewhere(sharded, file):
    edit_json(sharded / INDEX, lambda index: index["weight_map"].update({"lm_head.weight": file}))
    said = "gone.safetensors is missing" if file == "gone.safetensors" else f"lm_head.weight points to {file!r}"
    assert names(refusal(sharded), said)


def test_index_and_shards_disagree(sharded):
    edit_json(sharded / INDEX, lambda index: index["weight_map"].pop("lm_head.weight"))
    assert names(refusal(sharded), "lm_head.weight")


def test_files_beside_the_index(sharded):
    save_file({"x": torch.ones(1)}, sharded / "stray.safetensors")
    assert names(refusal(sharded), "stray.safetensors")
    (sharded / "stray.safetensors").rename(sharded / WEIGHTS)
    assert names(refusal(sharded), WEIGHTS, INDEX)


def test_missing_files(tmp_path, folder):
    assert names(refusal(tmp_path / "nowhere"), "nowhere")
    (folder / WEIGHTS).unlink()
    assert names(refusal(folder), WEIGHTS, "missing")
    (folder / "config.json").unlink()
    assert names(refusal(folder), "config.json", "missing")


def test_a_second_copy_of_a_tied_head(tmp_path):
    save_checkpoint(tiny(tied=True), tmp_path)
    edit_tensors(tmp_path / WEIGHTS, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    load_checkpoint(tmp_path)
    edit_tensors(tmp_path / WEIGHTS, lambda t: t["lm_head.weight"].add_(1))
    assert names(refusal(tmp_path), "lm_head.weight", "tie")
