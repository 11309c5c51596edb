"""Adapters in PEFT's layout are data from strangers: whatever is not as it should be is refused by its name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.base.errors import AthanorError
from athanor.models.adapters.files import read_adapter, save_adapter
from athanor.models.adapters.lora import Adapter, LoraSettings, Matrices
from athanor.models.adapters.lora_files import NEUTRAL, SILENT, USED
from athanor.models.adapters.places import places
from athanor.models.config import TransformerConfig
from athanor.models.families import FAMILIES

CONFIG = TransformerConfig(vocabulary=97, width=64, layers=3, heads=4, kv_heads=2, hidden=96, max_positions=64)
FAMILY = FAMILIES["llama"]
PLACES = places(FAMILY, CONFIG)
STEM = "base_model.model.model.layers.0.self_attn.q_proj"


def make(chosen: Callable[[str], bool], rank: Callable[[str], int] = lambda name: 4, **settings) -> Adapter:
    """An adapter of ones for the chosen pieces."""
    pieces = {
        name: Matrices(torch.ones(rank(name), place.inputs), torch.ones(place.height, rank(name)), 8.0)
        for name, place in PLACES.items()
        if chosen(name)
    }
    return Adapter(LoraSettings(rank=4, alpha=8.0, **settings), pieces)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter of q and v, as we write it."""
    save_adapter(make(lambda name: name.endswith(("q_proj", "v_proj"))), tmp_path, FAMILY, CONFIG)
    return tmp_path


def read(folder: Path) -> Adapter:
    return read_adapter(folder, FAMILY, CONFIG)


def change_settings(folder: Path, **changed: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


# ------------------------------------------------------------------------------------------------------------ settings


def test_every_setting_that_peft_writes_is_known() -> None:
    """A new version of it with a new setting is seen here, not by a user."""
    peft = pytest.importorskip("peft")
    assert set(peft.LoraConfig().to_dict()) <= USED | SILENT | set(NEUTRAL)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bias", "all"), ("bias", "lora_only"), ("modules_to_save", ["lm_head"]), ("lora_bias", True),
        ("task_type", "SEQ_CLS"), ("peft_type", "IA3"), ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("layer_replication", [[0, 2], [1, 3]]), ("trainable_token_indices", [1, 2]), ("loftq_config", {"bits": 4}),
        ("alora_invocation_tokens", [5]), ("use_qalora", True), ("arrow_config", {"top_k": 3}),
        ("megatron_config", {"a": 1}), ("ensure_weight_tying", True), ("kasa_config", {"x": 1}), ("use_bdlora", True),
        ("init_lora_weights", "pissa"), ("init_lora_weights", "pissa_niter_16"), ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"), ("init_lora_weights", "loftq"), ("init_lora_weights", 1),
        ("a_setting_of_2030", 1), ("r", 0), ("r", 4.0), ("r", True), ("lora_alpha", "8"), ("lora_dropout", 1.5),
        ("use_rslora", 1), ("use_dora", None), ("target_modules", None), ("target_modules", []),
        ("target_modules", ["q_proj", 3]), ("target_modules", ["q_proj", "v_proj", "w_pack"]),
        ("target_modules", "(q_proj"), ("target_modules", "(?=x)q_proj"), ("exclude_modules", 3),
        ("layers_to_transform", [-1]), ("layers_to_transform", "0"), ("rank_pattern", [4]),
        ("rank_pattern", {"q_proj": "4"}), ("rank_pattern", {"q_proj": 0}), ("alpha_pattern", {"q_proj": None}),
        ("rank_pattern", {"(": 4}), ("base_model_name_or_path", 3),
    ],
)  # fmt: skip
def test_a_setting_we_cannot_follow_is_refused_by_name(key: str, value: Any, folder: Path) -> None:
    change_settings(folder, **{key: value})
    with pytest.raises(AthanorError) as refused:
        read(folder)
    assert key in refused.value.what or "pattern" in refused.value.what


@pytest.mark.parametrize(
    "harmless",
    [
        {"inference_mode": False}, {"peft_version": "9"}, {"revision": "main"}, {"init_lora_weights": False},
        {"init_lora_weights": "gaussian"}, {"fan_in_fan_out": True}, {"modules_to_save": []}, {"task_type": None},
        {"auto_mapping": {"base_model_class": "LlamaForCausalLM"}}, {"megatron_core": "megatron.core"},
    ],
)  # fmt: skip
def test_what_says_nothing_about_the_result_is_let_through(harmless: dict[str, Any], folder: Path) -> None:
    change_settings(folder, **harmless)
    assert len(read(folder).pieces) == 6


def test_settings_that_are_no_json_are_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(AthanorError, match=r"adapter_config\.json is not JSON"):
        read(folder)


# ------------------------------------------------------------------------------------------------------------- tensors


def missing(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[STEM + ".lora_B.weight"]


def misshaped(tensors: dict[str, torch.Tensor]) -> None:
    tensors[STEM + ".lora_B.weight"] = torch.ones(32, 4)


def other_rank(tensors: dict[str, torch.Tensor]) -> None:
    tensors[STEM + ".lora_A.weight"], tensors[STEM + ".lora_B.weight"] = torch.ones(5, 64), torch.ones(64, 5)


def not_finite(tensors: dict[str, torch.Tensor]) -> None:
    tensors[STEM + ".lora_A.weight"][1, 2] = float("nan")


def infinite(tensors: dict[str, torch.Tensor]) -> None:
    tensors[STEM + ".lora_B.weight"][1, 2] = float("-inf")


def integers(tensors: dict[str, torch.Tensor]) -> None:
    tensors[STEM + ".lora_A.weight"] = torch.ones(4, 64, dtype=torch.int64)


def unnamed_layer(tensors: dict[str, torch.Tensor]) -> None:
    tensors[STEM.replace("q_proj", "k_proj") + ".lora_A.weight"] = torch.ones(4, 64)


def fourth_layer(tensors: dict[str, torch.Tensor]) -> None:
    tensors[STEM.replace("layers.0", "layers.3") + ".lora_A.weight"] = torch.ones(4, 64)


def head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.ones(4, 64)


def embedding(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = torch.ones(4, 97)


def saved_layer(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.lm_head.weight"] = torch.ones(97, 64)


def lengths(tensors: dict[str, torch.Tensor]) -> None:
    tensors[STEM + ".lora_magnitude_vector"] = torch.ones(64)


def bias(tensors: dict[str, torch.Tensor]) -> None:
    tensors[STEM + ".lora_B.bias"] = torch.ones(64)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (missing, "q_proj.lora_B.weight is missing"), (misshaped, r"q_proj.lora_B.weight has shape \[32, 4\]"),
        (other_rank, r"q_proj.lora_A.weight has shape \[5, 64\]"), (not_finite, "lora_A.weight holds a number that"),
        (infinite, "lora_B.weight holds a number that"), (integers, "stored as I64"),
        (unnamed_layer, "k_proj.lora_A.weight is there, but target_modules"), (fourth_layer, "layers.3.*belongs to no"),
        (head, "lm_head.*does not name its layer"), (embedding, "embed_tokens.*does not name its layer"),
        (saved_layer, "lm_head.weight is no matrix"), (lengths, "does not say use_dora"), (bias, "lora_B.bias is no"),
    ],
)  # fmt: skip
def test_a_tensor_that_is_not_as_it_should_be_is_refused_by_name(
    change: Callable[..., None], said: str, folder: Path
) -> None:
    change_tensors(folder, change)
    with pytest.raises(AthanorError, match=said):
        read(folder)


def test_a_decomposed_adapter_needs_its_lengths(folder: Path) -> None:
    change_settings(folder, use_dora=True)
    with pytest.raises(AthanorError, match="lora_magnitude_vector is missing"):
        read(folder)


@pytest.mark.parametrize("name", ["adapter_model.bin", "training_args.bin", "weights"])
def test_a_pickle_is_refused_by_name_or_by_content(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(AthanorError, match=f"{name} is a pickle"):
        read(folder)


def test_a_file_cut_short_is_refused(folder: Path) -> None:
    data = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(data[:-10])
    with pytest.raises(AthanorError, match="the file holds"):
        read(folder)


def test_an_adapter_of_another_family_is_refused(folder: Path) -> None:
    config = TransformerConfig(
        vocabulary=97, width=64, layers=3, heads=4, hidden=256, max_positions=64, position="learned", mlp="gelu_tanh",
        norm="layer", bias_qkv=True, bias_out=True, bias_mlp=True, tied=True,
    )  # fmt: skip
    with pytest.raises(AthanorError, match="target_modules names q_proj, v_proj"):
        read_adapter(folder, FAMILIES["gpt2"], config)


# ------------------------------------------------------------------------------------------------------------- writing


def test_a_number_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    adapter = make(lambda name: name.endswith("q_proj"))
    adapter.pieces["model.layers.0.self_attn.q_proj"].a_RK[0, 0] = float("inf")
    with pytest.raises(AthanorError, match="not finite"):
        save_adapter(adapter, tmp_path / "out", FAMILY, CONFIG)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (lambda name: name.endswith(("q_proj", "v_proj")), ["q_proj", "v_proj"]),
        (lambda name: name.endswith("1.mlp.up_proj"), ["model.layers.1.mlp.up_proj"]),
        (lambda name: True, ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
    ],
)
def test_targets_are_named_shortly_only_where_that_is_exact(
    chosen: Callable[[str], bool], expected: list[str], tmp_path: Path
) -> None:
    save_adapter(make(chosen), tmp_path, FAMILY, CONFIG)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == expected
    assert set(read(tmp_path).pieces) == {name for name in PLACES if chosen(name)}


def test_ranks_and_alphas_of_their_own_come_back(tmp_path: Path) -> None:
    adapter = make(lambda name: "mlp" in name, lambda name: 2 if "layers.1" in name else 4)
    save_adapter(adapter, tmp_path, FAMILY, CONFIG)
    again = read(tmp_path)
    assert {name: one.rank for name, one in again.pieces.items()} == {
        name: one.rank for name, one in adapter.pieces.items()
    }


def test_the_hash_of_the_base_travels_in_the_file_and_its_name_in_the_settings(tmp_path: Path) -> None:
    adapter = make(lambda name: name.endswith("q_proj"))
    save_adapter(Adapter(adapter.settings, adapter.pieces, "a1b2", "someone/model"), tmp_path, FAMILY, CONFIG)
    assert (read(tmp_path).base, read(tmp_path).base_name) == ("a1b2", "someone/model")
