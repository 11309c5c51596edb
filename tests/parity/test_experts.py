"""Routing: the balance loss against `transformers`, gradients included, and what a token's path depends on."""

import pytest
import torch

from athanor.models.config import TransformerConfig
from athanor.models.convert import load_checkpoint
from athanor.models.feedforward import Experts, Routes
from athanor.models.language import LanguageModel

transformers = pytest.importorskip("transformers")

TINY = dict(width=32, layers=2, heads=4, hidden=48, max_positions=64, vocabulary=97, experts=4, experts_per_token=2)


@pytest.fixture
def pair(tmp_path):
    torch.manual_seed(1)
    config = transformers.MixtralConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64, num_local_experts=5, num_experts_per_tok=2,
        initializer_range=0.3, router_aux_loss_coef=0.7,
    )  # fmt: skip
    theirs = transformers.MixtralForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    return theirs, load_checkpoint(tmp_path)


@pytest.mark.parametrize("padded", [False, True])
def test_balance_loss_and_its_gradient(pair, padded):
    theirs, ours = pair
    ids = torch.randint(3, 97, (3, 30))
    seen = torch.ones_like(ids)
    if padded:
        seen[1, 20:] = seen[2, 7:] = 0
    expected = theirs(ids, attention_mask=seen if padded else None, output_router_logits=True).aux_loss
    routes = Routes(seen) if padded else Routes()
    ours.hidden(ids, documents_BT=1 - seen, routes=routes)
    assert torch.allclose(routes.balance(), expected, atol=1e-5)
    theirs.zero_grad()
    expected.backward()
    routes.balance().backward()
    for block, layer in zip(ours.trunk.blocks, theirs.model.layers, strict=True):
        reference = layer.mlp.gate.weight.grad
        assert float((block.mlp.router.weight.grad - reference).abs().max() / reference.abs().max()) < 1e-5


def test_training_loss_with_balance(pair):
    """Cross-entropy plus a share of the balance loss is what the reference minimises."""
    theirs, ours = pair
    ids = torch.randint(3, 97, (2, 30))
    expected = theirs(ids, labels=ids, output_router_logits=True).loss
    routes, targets = Routes(), torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], 1)
    total, count = ours.loss(ids, targets, routes=routes)
    assert torch.allclose(total / count + 0.7 * routes.balance(), expected, atol=1e-5)


def test_an_even_load_gives_the_smallest_balance_loss():
    probability, chosen = torch.full((8, 4), 0.25), torch.arange(8)[:, None] % 4
    routes = Routes()
    routes.add(probability, chosen)
    assert float(routes.balance()) == 1.0
    one = Routes()
    one.add(torch.eye(4)[[0] * 8], torch.zeros(8, 1, dtype=torch.long))
    assert float(one.balance()) == 4.0
    with pytest.raises(ValueError, match="experts"):
        Routes().balance()


def test_every_expert_gets_a_gradient_and_no_token_is_dropped():
    torch.manual_seed(0)
    experts = Experts(TransformerConfig(**TINY))
    with torch.no_grad():
        experts.router.weight.zero_()
        experts.router.weight[:2] = 1.0  # all tokens with a positive sum go to experts 0 and 1
    x = torch.rand(2, 16, 32)
    y = experts(x, None)
    expected = 0.5 * (experts.experts[0](x) + experts.experts[1](x))
    assert torch.allclose(y, expected, atol=1e-5)
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in experts.experts.parameters())
    assert not experts.experts[3].up.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_network_with_experts_learns(dtype):
    model = LanguageModel(TransformerConfig(**TINY)).initialise(0).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    ids = torch.arange(60)[None] % 7
    losses = []
    for _ in range(30):
        routes = Routes()
        total, count = model.loss(ids, ids.roll(-1, 1), routes=routes)
        (total / count + 0.01 * routes.balance()).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total / count))
    assert losses[-1] < 0.3 * losses[0]
