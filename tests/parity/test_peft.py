"""Adapters against `peft`: what it saved computes the same in our network, what we saved the same in its network.

The reference draws the adapter, B and lengths of rows included, so that nothing is zero; base weights are disturbed.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.models.adapters.attach import Adapted, attach, drop, extract, merge
from athanor.models.adapters.files import read_adapter, save_adapter
from athanor.models.adapters.lora import LoraSettings
from athanor.models.adapters.lora_files import read_settings
from athanor.models.adapters.places import places
from athanor.models.convert import load_checkpoint, read_object, save_checkpoint
from athanor.models.settings import read_config
from tests.parity.peft_cases import Case, opened

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

# It looks for these keys among layers only, says it ignores those of parameters, and follows them all the same.
pytestmark = pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")

TOLERANCE = 1e-5
VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, POSITIONS = 97, 64, 3, 4, 96, 48
COMMON = dict(
    vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
    intermediate_size=HIDDEN, max_position_embeddings=POSITIONS, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
GPT = dict(
    vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=POSITIONS, resid_pdrop=0.0,
    embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
GROUPED = {**COMMON, "num_key_value_heads": 2, "head_dim": 16}
TIED = {**COMMON, "tie_word_embeddings": True}
NEOX = {**COMMON, "rope_parameters": {"rope_theta": 5_000.0, "partial_rotary_factor": 0.5}}
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OWN_RANKS = {
    "rank_pattern": {"k_proj": 2, r"layers.[01].mlp\.(gate|down)_proj": 3},
    "alpha_pattern": {"^model.layers.2.mlp.up_proj": 40.0, "q_proj": 3},
}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama, q and v only": ("Llama", COMMON, {"target_modules": ["q_proj", "v_proj"]}),
    "llama, all linear": ("Llama", GROUPED, {"target_modules": "all-linear"}),
    "llama, one layer": ("Llama", COMMON, {"target_modules": ["k_proj", "up_proj"], "layers_to_transform": 1}),
    "llama, ends in some layers, and a whole name": (
        "Llama", COMMON,
        {"target_modules": ["v_proj", "model.layers.1.mlp.up_proj"], "layers_to_transform": [0, 2],
         "layers_pattern": "layers"},
    ),
    "llama, the first of two patterns": (
        "Llama", COMMON, {"target_modules": ["q_proj"], "rank_pattern": {"layers.0.self_attn.q_proj": 2, "q_proj": 3}},
    ),
    "llama, a pattern": ("Llama", COMMON, {"target_modules": r".*\.(?:0|2)\.(self_attn|mlp)\.(q|k|down)_proj"}),
    "llama, without some": ("Llama", COMMON, {"target_modules": EVERY, "exclude_modules": r".*\.1\..*"}),
    "llama, own ranks and alphas": ("Llama", COMMON, {"target_modules": EVERY, **OWN_RANKS}),
    "llama, rank stabilised": ("Llama", COMMON, {"target_modules": EVERY, "use_rslora": True, **OWN_RANKS}),
    "llama, decomposed": ("Llama", COMMON, {"target_modules": EVERY, "use_dora": True}),
    "qwen2, biases, decomposed": ("Qwen2", GROUPED, {"target_modules": EVERY, "use_dora": True, "use_rslora": True}),
    "qwen2, biases": ("Qwen2", {**COMMON, "num_key_value_heads": 1}, {"target_modules": ["v_proj", "gate_proj"]}),
    "qwen3, norms of heads": ("Qwen3", GROUPED, {"target_modules": EVERY}),
    "glm4, gate and up in one": (
        "Glm4", {**GROUPED, "attention_bias": True}, {"target_modules": ["gate_up_proj", "q_proj"]}
    ),
    "gpt2, stored transposed": ("GPT2", GPT, {"target_modules": ["c_attn", "c_fc", "c_proj"]}),
    "gpt2, decomposed": ("GPT2", GPT, {"target_modules": ["c_attn", "mlp.c_proj"], "use_dora": True}),
    "mixtral, attention": ("Mixtral", {**GROUPED, "num_local_experts": 4}, {"target_modules": EVERY[:4]}),
    "qwen3_moe, dense between": (
        "Qwen3Moe", {**GROUPED, "moe_intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 2,
                     "mlp_only_layers": [0]},
        {"target_modules": ["q_proj", "model.layers.0.self_attn.o_proj"]},
    ),
    "opt": ("OPT", {**COMMON, "ffn_dim": HIDDEN, "dropout": 0.0}, {"target_modules": ["k_proj", "out_proj", "fc1"]}),
    "gpt_neox, head after head": ("GPTNeoX", NEOX, {"target_modules": ["query_key_value", "dense_4h_to_h"]}),
    "gpt_neox, decomposed": ("GPTNeoX", NEOX, {"target_modules": ["query_key_value"], "use_dora": True}),
    "llama, embedding and head": ("Llama", COMMON, {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "llama, decomposed embedding and head": (
        "Llama", COMMON, {"target_modules": ["embed_tokens", "lm_head"], "use_dora": True},
    ),
    "llama, tied embedding": ("Llama", TIED, {"target_modules": ["embed_tokens"], "use_rslora": True}),
    "llama, tied head": ("Llama", TIED, {"target_modules": ["lm_head", "o_proj"]}),
    "llama, tied embedding and head": (
        "Llama", TIED, {"target_modules": ["embed_tokens", "lm_head"], "rank_pattern": {"lm_head": 2}},
    ),
    "gpt2, tied embedding and head": ("GPT2", GPT, {"target_modules": ["wte", "lm_head", "c_attn"]}),
    "gpt_neox, embedding and head": ("GPTNeoX", NEOX, {"target_modules": ["embed_in", "lm_head"]}),
    "mixtral, experts": (
        "Mixtral", {**GROUPED, "num_local_experts": 4},
        {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
         "rank_pattern": {"gate_up_proj": 3}, "lora_dropout": 0.0},
    ),
    "mixtral, router and last matrices": (
        "Mixtral", {**GROUPED, "num_local_experts": 4},
        {"target_modules": [], "target_parameters": ["gate.weight", "down_proj"], "lora_dropout": 0.0},
    ),
    "qwen3_moe, first matrices, and a dense layer": (
        "Qwen3Moe", {**GROUPED, "moe_intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 2,
                     "mlp_only_layers": [0]},
        {"target_modules": ["down_proj", "lm_head"], "target_parameters": ["gate_up_proj"], "lora_dropout": 0.0},
    ),
    "gptj": ("GPTJ", {**GPT, "rotary_dim": 12}, {"target_modules": ["q_proj", "out_proj", "fc_in"]}),
}  # fmt: skip


def adapted(case: str, folder: Path) -> tuple[Any, torch.Tensor]:
    """Save the reference network and a random adapter of it; the reference with the adapter, and its base's logits."""
    name, settings, lora = CASES[case]
    torch.manual_seed(len(case))
    config = getattr(transformers, f"{name}Config")(
        **{key: value for key, value in settings.items() if name != "OPT" or key != "intermediate_size"},
        attn_implementation="eager",
    )
    network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        base = network(IDS).logits
    network.save_pretrained(folder / "base")
    model = peft.get_peft_model(
        network, peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", "lora_dropout": 0.1, **lora})
    )
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval().save_pretrained(folder / "adapter")
    return model, base


IDS = torch.randint(3, VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("peft")
    return opened(request.param, folder, *adapted(request.param, folder), IDS)


@torch.no_grad()
def test_an_adapter_of_peft_computes_the_same_here(case: Case) -> None:
    _, folder, base, expected, family, model = case
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    attach(model, family, read_adapter(folder / "adapter", family, model.config))
    torch.testing.assert_close(model(IDS), expected, rtol=TOLERANCE, atol=TOLERANCE)
    merged = merge(model, "adapter")
    torch.testing.assert_close(merged(IDS), expected, rtol=TOLERANCE, atol=TOLERANCE)
    save_checkpoint(merged, folder / "merged")
    torch.testing.assert_close(load_checkpoint(folder / "merged")(IDS), merged(IDS), rtol=0, atol=0)
    drop(model, "adapter")
    assert all(bool((weight == before[name]).all()) for name, weight in model.state_dict().items())
    torch.testing.assert_close(model(IDS), base, rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
def test_an_adapter_we_saved_computes_the_same_in_peft(case: Case) -> None:
    name, folder, _, expected, family, model = case
    attach(model, family, read_adapter(folder / "adapter", family, model.config), "mine")
    save_adapter(extract(model, family, "mine"), folder / "ours", family, model.config)
    drop(model, "mine")
    network = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(network, folder / "ours").eval()
    torch.testing.assert_close(theirs(IDS).logits, expected, rtol=TOLERANCE, atol=TOLERANCE)
    if "tied" in name:  # PEFT changes the one weight of both, and says so in a warning
        return
    merged = theirs.merge_and_unload()
    torch.testing.assert_close(merged(IDS).logits, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_what_we_write_is_read_again_to_the_bit(case: Case) -> None:
    name, folder, _, _, family, model = case
    if not (folder / "again").exists():
        save_adapter(read_adapter(folder / "adapter", family, model.config), folder / "again", family, model.config)
    one, other = (read_adapter(folder / place, family, model.config) for place in ("adapter", "again"))
    assert one.settings == other.settings and list(one.pieces) == list(other.pieces)
    for piece, matrices in one.pieces.items():
        again = other.pieces[piece]
        assert matrices.alpha == again.alpha
        assert torch.equal(matrices.a_RK, again.a_RK) and torch.equal(matrices.b_PR, again.b_PR)
        assert matrices.length_P is None or torch.equal(matrices.length_P, again.length_P)
    written = json.loads((folder / "again" / "adapter_config.json").read_text())
    assert written["fan_in_fan_out"] == name.startswith("gpt2")


def test_a_setting_left_out_has_the_value_peft_takes() -> None:
    theirs = peft.LoraConfig()
    assert read_settings({}, "adapter_config.json") == LoraSettings(
        rank=theirs.r, alpha=theirs.lora_alpha, dropout=theirs.lora_dropout,
        rank_stabilised=theirs.use_rslora, decomposed=theirs.use_dora,
    )  # fmt: skip


@pytest.mark.parametrize("chosen", ["llama, own ranks and alphas", "llama, decomposed", "gpt2, decomposed"])
def test_gradients_are_those_of_peft(chosen: str, tmp_path: Path) -> None:
    """Of A, B and lengths; a decomposed adapter's gradients do not flow through the norm of the weight."""
    theirs, _ = adapted(chosen, tmp_path)
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_("lora_" in name)
    theirs(IDS).logits.square().mean().backward()
    family, config = read_config(read_object(tmp_path / "base" / "config.json"), "config.json")
    model = load_checkpoint(tmp_path / "base")
    attach(model, family, read_adapter(tmp_path / "adapter", family, config), "mine", train=True)
    model(IDS).square().mean().backward()
    ends = {"a": "lora_A.mine.weight", "b": "lora_B.mine.weight", "length": "lora_magnitude_vector.mine.weight"}
    known, parameters, compared = places(family, config), dict(theirs.named_parameters()), 0
    for piece, place in known.items():
        layer = model.get_submodule(place.layer)
        low_rank = layer.adapters["mine"][str(place.piece)] if isinstance(layer, Adapted) else torch.nn.Identity()
        for name, parameter in low_rank.named_parameters():
            expected = parameters[f"base_model.model.{piece}.{ends[name].replace('mine', 'default')}"].grad
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)
            compared += 1
    assert compared == sum(parameter.grad is not None for parameter in parameters.values()) > 10
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if ".adapters." not in name)
