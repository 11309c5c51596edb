"""Scales (IA3) and prefixes against `peft`, both directions, gradients included; no number drawn is neutral."""

from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.inference.cache import KeyValueCache
from athanor.models.adapters.attach import attach, drop, extract, merge, select, select_rows
from athanor.models.adapters.files import read_adapter, save_adapter
from athanor.models.adapters.prefix import fresh_prefix
from athanor.models.convert import load_checkpoint, read_object
from athanor.models.settings import read_config
from tests.parity.peft_cases import Case, opened

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

TOLERANCE = 1e-5
COMMON = dict(
    vocab_size=97, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
    max_position_embeddings=48, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
GROUPED = {**COMMON, "num_key_value_heads": 2, "head_dim": 16}
GPT = dict(
    vocab_size=97, n_embd=64, n_layer=3, n_head=4, n_positions=48, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    bos_token_id=1, eos_token_id=2,
)  # fmt: skip
SCALES = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
CASES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "scales, llama": ("Llama", GROUPED, lambda: peft.IA3Config(task_type="CAUSAL_LM", **SCALES)),
    "scales, qwen2 with biases": ("Qwen2", GROUPED, lambda: peft.IA3Config(task_type="CAUSAL_LM", **SCALES)),
    "scales, gpt2 stored transposed": (
        "GPT2", GPT, lambda: peft.IA3Config(task_type="CAUSAL_LM", target_modules=["c_attn", "mlp.c_proj"],
                                            feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True),
    ),
    "scales, gpt_neox head after head": (
        "GPTNeoX", COMMON, lambda: peft.IA3Config(task_type="CAUSAL_LM", feedforward_modules=["dense_4h_to_h"],
                                                  target_modules=["query_key_value", "dense_4h_to_h"]),
    ),
    "prefix, llama": ("Llama", COMMON, lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)),
    "prefix, qwen3 grouped": (
        "Qwen3", GROUPED, lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    ),
    "prefix, gpt2": ("GPT2", GPT, lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6)),
    "prefix, llama, made by a network": (
        "Llama", GROUPED,
        lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=True,
                                        encoder_hidden_size=24),
    ),
}  # fmt: skip
IDS = torch.randint(3, 97, (2, 17), generator=torch.Generator().manual_seed(1))


def adapted(case: str, folder: Path) -> tuple[Any, torch.Tensor]:
    """Save the reference network and a random adapter of it; the reference with the adapter, and its base's logits."""
    name, settings, make = CASES[case]
    torch.manual_seed(len(case))
    config = getattr(transformers, f"{name}Config")(**settings, attn_implementation="eager")
    network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        base = network(IDS).logits
    network.save_pretrained(folder / "base")
    model = peft.get_peft_model(network, make())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.eval().save_pretrained(folder / "adapter")
    return model, base


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("peft")
    return opened(request.param, folder, *adapted(request.param, folder), IDS)


@torch.no_grad()
def test_an_adapter_of_peft_computes_the_same_here(case: Case) -> None:
    name, folder, base, expected, family, model = case
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    attach(model, family, read_adapter(folder / "adapter", family, model.config))
    torch.testing.assert_close(model(IDS), expected, rtol=TOLERANCE, atol=TOLERANCE)
    if name.startswith("scales"):
        torch.testing.assert_close(merge(model, "adapter")(IDS), expected, rtol=TOLERANCE, atol=TOLERANCE)
    else:
        with pytest.raises(AthanorError, match="is a prefix: it changes no weight"):
            merge(model, "adapter")
    select(model, None)
    torch.testing.assert_close(model(IDS), base, rtol=TOLERANCE, atol=TOLERANCE)
    drop(model, "adapter")
    assert list(model.state_dict()) == list(before)
    assert all(bool((weight == before[name]).all()) for name, weight in model.state_dict().items())


@torch.no_grad()
def test_an_adapter_we_saved_computes_the_same_in_peft(case: Case) -> None:
    _, folder, _, expected, family, model = case
    attach(model, family, read_adapter(folder / "adapter", family, model.config), "mine")
    save_adapter(extract(model, family, "mine"), folder / "ours", family, model.config)
    drop(model, "mine")
    network = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(network, folder / "ours").eval()
    torch.testing.assert_close(theirs(IDS).logits, expected, rtol=TOLERANCE, atol=TOLERANCE)
    one, other = (read_adapter(folder / place, family, model.config) for place in ("adapter", "ours"))
    if hasattr(one, "numbers"):
        assert torch.equal(one.numbers, other.numbers)
        return
    assert list(one.pieces) == list(other.pieces)
    assert all(torch.equal(piece.vector, other.pieces[name].vector) for name, piece in one.pieces.items())


@pytest.mark.parametrize("chosen", [name for name in CASES if "network" not in name])  # ours has other parameters
def test_gradients_are_those_of_peft(chosen: str, tmp_path: Path) -> None:
    theirs, _ = adapted(chosen, tmp_path)
    family, _ = read_config(read_object(tmp_path / "base" / "config.json"), "config.json")
    theirs(IDS).logits.square().mean().backward()
    model = load_checkpoint(tmp_path / "base")
    attach(model, family, read_adapter(tmp_path / "adapter", family, model.config), "mine", train=True)
    model(IDS).square().mean().backward()
    learning = [weight for weight in theirs.parameters() if weight.grad is not None]
    ours = [weight for weight in model.parameters() if weight.grad is not None]
    assert sum(weight.numel() for weight in ours) == sum(weight.numel() for weight in learning)
    one = torch.cat([weight.grad.flatten() for weight in learning]).sort().values
    other = torch.cat([weight.grad.flatten() for weight in ours]).sort().values
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("chosen", ["prefix, llama", "prefix, gpt2"])
def test_a_prefix_is_seen_from_every_document_and_with_a_cache(chosen: str, tmp_path: Path) -> None:
    theirs, _ = adapted(chosen, tmp_path)
    expected = theirs(IDS[:1]).logits[0]
    family, _ = read_config(read_object(tmp_path / "base" / "config.json"), "config.json")
    model = load_checkpoint(tmp_path / "base")
    attach(model, family, read_adapter(tmp_path / "adapter", family, model.config))
    row, documents = torch.cat((IDS[:1, :9], IDS[:1]), dim=1), torch.tensor([[0] * 9 + [1] * 17])
    packed = model(row, documents_BT=documents)[0, 9:]
    torch.testing.assert_close(packed, expected, rtol=TOLERANCE, atol=TOLERANCE)
    cache = KeyValueCache(model.config, 1, 32, torch.float32, torch.device("cpu"))
    steps = [model(IDS[:1, :8], positions_BT=cache.begin_chunk(0, 8), cache=cache)[0]]
    for place in range(8, 17):
        steps.append(model(IDS[:1, place : place + 1], positions_BT=cache.begin_decode([place]), cache=cache)[0])
    torch.testing.assert_close(torch.cat(steps), expected, rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("hidden", [None, 16])
def test_a_fresh_prefix_computes_what_its_tokens_would(hidden: int | None, tmp_path: Path) -> None:
    adapted("prefix, llama", tmp_path)
    family, _ = read_config(read_object(tmp_path / "base" / "config.json"), "config.json")
    model = load_checkpoint(tmp_path / "base")
    tokens = [5, 9, 33, 60]
    expected = model(torch.cat((torch.tensor([tokens] * 2), IDS), dim=1))[:, 4:]
    attach(model, family, fresh_prefix(model, tokens, hidden), train=True)
    torch.testing.assert_close(model(IDS), expected, rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
def test_several_adapters_serve_the_rows_of_one_batch(tmp_path: Path) -> None:
    """Scales and low-rank matrices beside one network: every row computes what it would alone."""
    adapted("scales, llama", tmp_path)
    family, _ = read_config(read_object(tmp_path / "base" / "config.json"), "config.json")
    lora = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
        peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj", "up_proj"], use_dora=True,
                        init_lora_weights=False),
    )  # fmt: skip
    lora.save_pretrained(tmp_path / "lora")
    model = load_checkpoint(tmp_path / "base")
    for name in ("adapter", "lora"):
        attach(model, family, read_adapter(tmp_path / name, family, model.config), name)
    ids = torch.cat((IDS, IDS.flip(1)))
    names = ("lora", None, "adapter", "lora")
    alone = []
    for name, row in zip(names, ids.split(1), strict=True):
        select(model, name)
        alone.append(model(row))
    select_rows(model, names)
    torch.testing.assert_close(model(ids), torch.cat(alone), rtol=TOLERANCE, atol=TOLERANCE)
    with pytest.raises(AthanorError, match="chosen for 4 rows, and 2 came"):
        model(IDS)
    select(model, None)
    alone = model(IDS)
    attach(model, family, fresh_prefix(model, [3, 4]), "prefix")
    attach(model, family, read_adapter(tmp_path / "lora", family, model.config), "behind the prefix")
    again = extract(model, family, "behind the prefix")
    assert again.pieces and list(again.pieces) == list(extract(model, family, "lora").pieces)
    seen = {name: (select(model, name), model(IDS))[1] for name in ("lora", "behind the prefix", "prefix", None)}
    torch.testing.assert_close(seen["behind the prefix"], seen["lora"], rtol=0, atol=0)
    assert (seen["prefix"] - seen[None]).abs().max() > 0.01
    drop(model, "behind the prefix")
    torch.testing.assert_close((select(model, None), model(IDS))[1], alone, rtol=0, atol=0)
    with pytest.raises(AthanorError, match="serves whole batches"):
        select_rows(model, ("prefix", "lora"))
