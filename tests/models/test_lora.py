"""Adapters by wrapping: the equation, what is frozen, several at once, folding in, quantised bases, refusals."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.inference.int4 import Int4Linear
from athanor.inference.quantize import quantize_model, set_kernel
from athanor.models.adapters.attach import Adapted, adapter_names, attach, drop, extract, merge, select
from athanor.models.adapters.lora import Adapter, LoraSettings, Matrices, fresh
from athanor.models.adapters.places import places
from athanor.models.config import TransformerConfig
from athanor.models.convert import load_checkpoint, save_checkpoint
from athanor.models.language import LanguageModel
from athanor.models.settings import family_of

IDS = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(1))
CONFIG = TransformerConfig(
    vocabulary=97, width=64, layers=2, heads=4, kv_heads=2, hidden=96, max_positions=64, bias_qkv=True
)
FAMILY = family_of(CONFIG)
Q, V = "model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"


@pytest.fixture
def model() -> LanguageModel:
    model = LanguageModel(CONFIG).initialise(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)) * 0.1)
    return model.eval()


def random_adapter(model: LanguageModel, targets: list[str], seed: int = 2, **settings) -> Adapter:
    """An adapter whose B is not zero."""
    made = fresh(model, FAMILY, LoraSettings(**{"rank": 3, "alpha": 7, **settings}), targets)
    generator = torch.Generator().manual_seed(seed)
    pieces = {
        name: replace(one, b_PR=torch.randn(one.b_PR.shape, generator=generator) * 0.3)
        for name, one in made.pieces.items()
    }
    return replace(made, pieces=pieces)


def numbers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


# ------------------------------------------------------------------------------------------------------- the equation


@pytest.mark.parametrize(("stabilised", "scale"), [(False, 7 / 3), (True, 7 / math.sqrt(3))])
@torch.no_grad()
def test_a_piece_of_a_fused_layer_is_adapted_and_the_others_are_not(
    stabilised: bool, scale: float, model: LanguageModel
) -> None:
    adapter = random_adapter(model, ["v_proj"], rank_stabilised=stabilised)
    layer = model.trunk.blocks[1].attention.qkv
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(9))
    plain = layer(x)
    attach(model, FAMILY, adapter)
    wrapped = model.trunk.blocks[1].attention.qkv
    assert isinstance(wrapped, Adapted) and wrapped.base is layer
    q, k, v = wrapped(x).split((64, 32, 32), dim=-1)
    assert torch.equal(torch.cat((q, k), -1), plain[:, :96])
    a, b = adapter.pieces[V].a_RK, adapter.pieces[V].b_PR
    torch.testing.assert_close(v, plain[:, 96:] + scale * (x @ a.T @ b.T))


def test_a_decomposed_adapter_sets_the_length_of_every_row(model: LanguageModel) -> None:
    """DoRA, equation 5: the folded weight has rows of the learned lengths, in the direction of W + s B A."""
    adapter = random_adapter(model, ["q_proj"], decomposed=True)
    lengths = torch.linspace(0.5, 3.0, 64)
    adapter = replace(adapter, pieces={name: replace(one, length_P=lengths) for name, one in adapter.pieces.items()})
    weight = model.trunk.blocks[1].attention.qkv.weight.detach()[:64]
    attach(model, FAMILY, adapter)
    folded = merge(model, "adapter").trunk.blocks[1].attention.qkv.weight[:64]
    torch.testing.assert_close(folded.norm(dim=1), lengths)
    straight = weight + 7 / 3 * adapter.pieces[Q].b_PR @ adapter.pieces[Q].a_RK
    torch.testing.assert_close(torch.cosine_similarity(folded, straight), torch.ones(64))


@pytest.mark.parametrize("decomposed", [False, True])
@torch.no_grad()
def test_a_fresh_adapter_changes_nothing(decomposed: bool, model: LanguageModel) -> None:
    before = model(IDS)
    adapter = fresh(model, FAMILY, LoraSettings(rank=4, decomposed=decomposed), ["q_proj", "mlp.up_proj"], seed=5)
    attach(model, FAMILY, adapter)
    torch.testing.assert_close(model(IDS), before, rtol=1e-5, atol=1e-6)
    again = fresh(model, FAMILY, adapter.settings, ["mlp.up_proj", "q_proj"], seed=5)
    assert list(again.pieces) == list(adapter.pieces)
    for name, one in adapter.pieces.items():
        assert torch.equal(again.pieces[name].a_RK, one.a_RK) and not one.b_PR.any()
        assert one.a_RK.abs().max() <= 1 / 8 and one.a_RK.std() > 0.05


@torch.no_grad()
def test_dropout_is_for_training_only(model: LanguageModel) -> None:
    attach(model, FAMILY, random_adapter(model, ["q_proj"], dropout=0.5))
    assert torch.equal(model(IDS), model(IDS))
    model.train()
    assert not torch.equal(model(IDS), model(IDS))


# ---------------------------------------------------------------------------------------------------- frozen, learning


@pytest.mark.parametrize("quantised", [False, True])
def test_only_the_matrices_learn_and_the_base_stays_to_the_bit(quantised: bool, model: LanguageModel) -> None:
    model = quantize_model(model) if quantised else model
    before = numbers(model)
    attach(model, FAMILY, fresh(model, FAMILY, LoraSettings(rank=4), ["q_proj", "v_proj", "down_proj"]), train=True)
    if quantised:
        assert isinstance(model.trunk.blocks[0].attention.qkv.base, Int4Linear)
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(learning) == 2 * 3 * CONFIG.layers and all(".adapters." in name for name in learning)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.02)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(model.train()(IDS[:, :-1]).flatten(0, 1), IDS[:, 1:].flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.5
    drop(model, "adapter")
    assert set(numbers(model)) == set(before)
    assert all(torch.equal(weight, before[name]) for name, weight in numbers(model).items())


@torch.no_grad()
def test_a_bfloat16_network_keeps_its_type_and_the_matrices_theirs(model: LanguageModel) -> None:
    model = model.bfloat16()
    attach(model, FAMILY, random_adapter(model, ["q_proj"]))
    assert model.trunk.blocks[0].attention.qkv(torch.randn(2, 64).bfloat16()).dtype == torch.bfloat16
    assert extract(model, FAMILY, "adapter").pieces[Q].a_RK.dtype == torch.float32


# ------------------------------------------------------------------------------------------- several, dropping, folding


@torch.no_grad()
def test_one_of_several_adapters_is_chosen(model: LanguageModel) -> None:
    bare = model(IDS)
    made = {"one": random_adapter(model, ["q_proj"]), "two": random_adapter(model, ["k_proj", "down_proj"], seed=8)}
    alone = {}
    for name, adapter in made.items():
        attach(model, FAMILY, adapter, name)
        alone[name] = model(IDS)
        drop(model, name)
    assert not any(isinstance(module, Adapted) for module in model.modules())
    for name, adapter in made.items():
        attach(model, FAMILY, adapter, name)
    for name, expected in alone.items():
        select(model, name)
        assert torch.equal(model(IDS), expected)
    select(model, None)
    assert torch.equal(model(IDS), bare)
    select(model, "one")
    drop(model, "two")
    assert adapter_names(model) == ["one"] and torch.equal(model(IDS), alone["one"])
    taken = extract(model, FAMILY, "one")
    assert taken.settings == made["one"].settings
    assert all(torch.equal(one.b_PR, taken.pieces[name].b_PR) for name, one in made["one"].pieces.items())


@torch.no_grad()
def test_folding_makes_a_new_network_and_leaves_the_given_one(model: LanguageModel, tmp_path: Path) -> None:
    untouched = model.trunk.blocks[0].attention.qkv.weight.clone()
    attach(model, FAMILY, random_adapter(model, ["q_proj", "gate_proj"]), "one")
    with_adapter = model(IDS)
    merged = merge(model, "one")
    torch.testing.assert_close(merged(IDS), with_adapter, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(IDS), with_adapter) and adapter_names(merged) == []
    assert torch.equal(model.trunk.blocks[0].attention.qkv.base.weight, untouched)
    assert merged.tokens.weight.data_ptr() == model.tokens.weight.data_ptr()  # shared: no second copy in memory
    save_checkpoint(merged, tmp_path / "merged")
    assert torch.equal(load_checkpoint(tmp_path / "merged")(IDS), merged(IDS))
    with pytest.raises(AthanorError, match="has no name in a"):
        save_checkpoint(model, tmp_path / "wrapped")


# ------------------------------------------------------------------------------------------------------ quantised bases


@pytest.mark.parametrize("decomposed", [False, True])
@torch.no_grad()
def test_beside_int4_weights_it_computes_what_the_codes_and_it_stand_for(
    decomposed: bool, model: LanguageModel
) -> None:
    small = quantize_model(model)
    dense = small.trunk.blocks[1].attention.qkv.weight.float()
    adapter = random_adapter(model, ["q_proj"], decomposed=decomposed)
    bias = small.trunk.blocks[1].attention.qkv.bias
    attach(small, FAMILY, adapter)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(9))
    weight = dense[:64] + 7 / 3 * adapter.pieces[Q].b_PR @ adapter.pieces[Q].a_RK
    if decomposed:
        weight = weight * (adapter.pieces[Q].length_P / weight.norm(dim=1))[:, None]
    expected = torch.cat((x @ weight.T, x @ dense[64:].T), -1) + bias
    torch.testing.assert_close(small.trunk.blocks[1].attention.qkv(x), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(AthanorError, match="quantised"):
        merge(small, "adapter")


def test_a_packed_kernel_has_no_weight_for_a_decomposed_adapter(model: LanguageModel) -> None:
    small = quantize_model(model)
    set_kernel(small, "packed")
    attach(small, FAMILY, random_adapter(model, ["q_proj"]))
    assert small(IDS).isfinite().all()
    with pytest.raises(AthanorError, match="kernel='plain'"):
        attach(small, FAMILY, random_adapter(model, ["q_proj"], decomposed=True), "other")
    assert adapter_names(small) == ["adapter"]


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0},
        {"rank": 2.0},
        {"rank": True},
        {"alpha": math.nan},
        {"alpha": "8"},
        {"dropout": 1},
        {"dropout": -0.1},
    ],
)
def test_settings_that_cannot_be(wrong: dict) -> None:
    with pytest.raises(AthanorError, match=next(iter(wrong))):
        LoraSettings(**wrong)


def test_what_cannot_be_attached_is_refused_and_changes_nothing(model: LanguageModel) -> None:
    good = random_adapter(model, ["q_proj"])
    one = good.pieces[Q]
    for piece, matrices, said in (
        ("model.norm", one, "no layer of this network"),
        (Q, replace(one, a_RK=one.a_RK[:, 1:]), "A of shape"),
        (V, one, "B of shape"),
        (Q, replace(one, length_P=torch.ones(64)), "lengths of shape"),
    ):
        with pytest.raises(AthanorError, match=said):
            attach(model, FAMILY, replace(good, pieces={**good.pieces, piece: matrices}))
        assert not any(isinstance(module, Adapted) for module in model.modules())
    attach(model, FAMILY, good, "one")
    for name in ("one", "a.b", ""):
        with pytest.raises(AthanorError, match="name"):
            attach(model, FAMILY, good, name)
    for act in (lambda: select(model, "x"), lambda: drop(model, "x"), lambda: merge(model, "x")):
        with pytest.raises(AthanorError, match="there is no adapter 'x'"):
            act()


@pytest.mark.parametrize("target", ["norm", "layernorm", "proj", "down_proj.weight"])
def test_a_target_that_is_no_layer_is_refused(target: str, model: LanguageModel) -> None:
    with pytest.raises(AthanorError, match=target):
        fresh(model, FAMILY, LoraSettings(), [target])


def test_scales_of_a_network_with_experts_stand_in_attention_only() -> None:
    config = TransformerConfig(
        vocabulary=97, width=64, layers=2, heads=4, hidden=96, max_positions=64, experts=4, experts_per_token=2
    )
    ends = {name.rpartition(".")[2] for name in places(family_of(config), config)}
    assert ends == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_matrices_say_their_rank() -> None:
    assert Matrices(torch.zeros(3, 8), torch.zeros(5, 3), 1.0).rank == 3


def test_int4_weights_are_made_anew_for_the_gradient_and_never_kept(model: LanguageModel) -> None:
    """QLoRA: what waits for the backward pass holds no weight, and the gradients are those beside the made weights."""
    small, kept = quantize_model(model), []
    adapter = random_adapter(model, ["q_proj", "v_proj", "down_proj"])
    attach(small, FAMILY, adapter, train=True)
    shapes = {tuple(one.weight.shape) for one in small.modules() if isinstance(one, Int4Linear)}
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda one: one):
        loss, _ = small.loss(IDS, IDS)
    assert kept and not {tuple(shape) for shape in kept} & (shapes | {shape[::-1] for shape in shapes})
    loss.backward()
    dense = LanguageModel(CONFIG)
    coded = [(name, one) for name, one in small.named_modules() if hasattr(one, "codes") and name != "tokens"]
    names = {name.replace(".base", "") + ".weight": one.weight.float() for name, one in coded}
    names["tokens.weight"] = small.tokens(torch.arange(CONFIG.vocabulary or 0)).float()
    others = {name.replace(".base", ""): tensor for name, tensor in small.state_dict().items()}
    dense.load_state_dict({name: names.get(name, others.get(name)) for name in dense.state_dict()})
    attach(dense, FAMILY, adapter, train=True)
    expected, _ = dense.loss(IDS, IDS)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    expected.backward()
    grads = [[weight.grad for name, weight in one.named_parameters() if ".adapters." in name] for one in (small, dense)]
    assert len(grads[0]) == 12
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
