"""The language model's own promises: seeds, scored positions, refusals."""

import math

import pytest
import torch

from athanor.models.config import TransformerConfig
from athanor.models.language import IGNORED, LanguageModel
from athanor.models.rope import RopeScaling
from athanor.models.shapes import SHAPES

TINY = dict(width=32, layers=2, heads=4, kv_heads=2, hidden=48, max_positions=16, vocabulary=50)


def tiny(**more) -> LanguageModel:
    return LanguageModel(TransformerConfig(**{**TINY, **more})).initialise(0)


def test_same_seed_same_weights():
    first, second, other = tiny(), tiny(), tiny().initialise(1)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
    assert not torch.equal(first.tokens.weight, other.tokens.weight)
    low = LanguageModel(first.config).bfloat16().initialise(0)
    assert torch.equal(low.tokens.weight, first.tokens.weight.bfloat16())


def test_first_loss_is_that_of_a_uniform_guess():
    model = LanguageModel(SHAPES["nano"]).initialise(0)
    ids = torch.randint(0, 4096, (2, 64), generator=torch.Generator().manual_seed(0))
    total, count = model.loss(ids, ids.roll(-1, 1))
    assert abs(total.item() / count.item() - math.log(4096)) < 0.1


def test_only_scored_positions_count():
    model = tiny()
    ids = torch.randint(0, 50, (2, 10))
    targets = ids.roll(-1, 1)
    targets[:, 4:] = IGNORED
    total, count = model.loss(ids, targets)
    expected = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), reduction="sum")
    assert int(count) == 8
    assert torch.allclose(total, expected)


def test_no_scored_position_gives_zero_loss_and_zero_gradients():
    model = tiny(tied=True)
    ids = torch.randint(0, 50, (2, 10))
    total, count = model.loss(ids, torch.full_like(ids, IGNORED))
    total.backward()
    assert float(total) == 0 and int(count) == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_float32_logits_of_the_whole_batch_never_exist():
    """The largest tensor made by a loss is far below rows x vocabulary."""
    model = tiny(vocabulary=20_000, max_positions=512).bfloat16()
    ids = torch.randint(0, 20_000, (8, 512))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            largest = max(largest, result.nbytes if isinstance(result, torch.Tensor) else 0)
            return result

    with Watch():
        model.loss(ids, ids)[0].backward()
    assert largest < 8 * 512 * 20_000 * 4 / 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "magic", "factor": 2.0}, {"kind": "linear", "factor": 0.5}, {"kind": "linear", "factor": math.inf},
        {"kind": "linear", "factor": 2.0, "beta_fast": 32.0}, {"kind": "yarn", "factor": 2.0},
        {"kind": "llama3", "factor": 2.0, "original_positions": 8, "low_factor": 4.0, "high_factor": 1.0},
    ],
)  # fmt: skip
def test_impossible_rope_scalings_are_refused(wrong):
    with pytest.raises(ValueError, match=wrong["kind"]):
        RopeScaling(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 33}, {"kv_heads": 3}, {"layers": 0}, {"vocabulary": 0}, {"rope_share": 0.1},
        {"vocabulary": None, "tied": True}, {"kv_heads": -1}, {"mlp": "mish"}, {"position": "sideways"},
        {"window": 0}, {"window_layers": (0,)}, {"window": 4, "window_layers": (1, 0)},
        {"window": 4, "window_layers": ()},
        {"experts": 4}, {"experts": 2, "experts_per_token": 3}, {"expert_hidden": 8}, {"router_normal": False},
        {"experts": 4, "experts_per_token": 2, "expert_layers": (2,)}, {"parallel": True, "norm_place": "after"},
        {"shared_norm": True}, {"bias_head": True, "tied": True},
        {"position_offset": 2}, {"position": "learned", "position_offset": -1},
        {"position": "learned", "rope_scaling": RopeScaling(kind="linear", factor=2.0)},
        {"position": "buckets"}, {"position": "buckets", "buckets": 8}, {"buckets": 8, "farthest": 16},
        {"position": "alibi", "causal": False}, {"causal": False, "window": 4}, {"cross": True, "parallel": True},
        {"cross": True, "norm_place": "around"}, {"position_axes": 3}, {"position_axes": 2, "position": "alibi"},
        {"position_axes": 2, "rope_share": 0.5}, {"norm_bias": False}, {"residual_scale": 2.0},
        {"silent_ids": 1, "tied": True}, {"silent_ids": 50}, {"silent_ids": -1},
        {"logit_scale": 0.5, "bias_head": True}, {"prefix": True, "causal": False}, {"prefix": True, "window": 3},
    ],
)  # fmt: skip
def test_impossible_configs_are_refused(wrong):
    with pytest.raises(ValueError):
        TransformerConfig(**{**TINY, **wrong})


def test_refusals_of_the_model():
    model = tiny()
    with pytest.raises(ValueError, match="max_positions=16"):
        model(torch.zeros(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match="positions_BT"):
        model(torch.zeros(1, 3, dtype=torch.long), cache=object())
    with pytest.raises(ValueError, match="vocabulary"):
        LanguageModel(TransformerConfig(**{**TINY, "vocabulary": None}))


def test_a_frozen_weight_gets_no_gradient_and_the_rest_is_unchanged():
    """Adapters train a part of the network: the fast paths must not need every gradient."""
    ids = torch.randint(0, 50, (2, 10))
    whole, part = tiny(), tiny()
    for name, parameter in part.named_parameters():
        parameter.requires_grad_("mlp.down" in name)
    for model in (whole, part):
        model.loss(ids, ids)[0].backward()
    for (name, a), b in zip(whole.named_parameters(), part.parameters(), strict=True):
        assert (b.grad is None) == ("mlp.down" not in name)
        assert b.grad is None or torch.allclose(a.grad, b.grad, atol=1e-6), name
