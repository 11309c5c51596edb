"""The optimiser and the schedules against torch's own and the formulas."""

import itertools
import math

import pytest
import torch
from torch import nn

from athanor.base import native
from athanor.models import native_kernels
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.training import optimizer as optimizer_module
from athanor.training.optimizer import MasterOptimizer
from athanor.training.schedule import rate_share
from tests.training.tiny import ROWS, batch_of, loss_of, small_model


def test_adamw_is_torchs_on_the_same_gradients() -> None:
    ours, theirs = small_model(), small_model()
    optimizer = MasterOptimizer(ours, "adamw", (0.9, 0.95), weight_decay=0.1)
    decayed = [weight for weight in theirs.parameters() if weight.dim() > 1]
    plain = [weight for weight in theirs.parameters() if weight.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    for step in range(20):
        for model in (ours, theirs):
            total, count, _ = loss_of(model, batch_of(step))
            (total if model is ours else total / count).backward()
        optimizer.collect(last=True)
        optimizer.update(0.01, 1 / ROWS)
        reference.step()
        reference.zero_grad()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("portion", [1, 500, 10**9])
def test_portions_give_the_bits_of_one_update_of_all(
    dtype: torch.dtype, name: str, passes: int, portion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's optimisers over the whole list of float32 copies of the gradients, clipped, are the truth."""
    monkeypatch.setattr(optimizer_module, "PORTION", portion)
    monkeypatch.setattr(native_kernels, "can_update", lambda *tensors: False)  # the library rounds in other places
    model = LanguageModel(SMALL).initialise(0).to(dtype)
    model.unused = nn.Parameter(torch.ones(3, dtype=dtype))  # as an expert that gets no token
    ours = MasterOptimizer(model, name, (0.9, 0.95), weight_decay=0.1)
    assert len(ours.portions) == {1: len(ours.masters), 10**9: len(ours.optimizers)}.get(portion, len(ours.portions))
    masters = [weight.detach().float().clone().requires_grad_() for weight in model.parameters()]
    theirs = torchs_own(model, masters, name)
    for step in range(5):
        gradients = [torch.zeros_like(master) for master in masters]
        for piece in range(passes):
            draw = torch.Generator().manual_seed(10 * step + piece)
            for weight, total in zip(model.parameters(), gradients, strict=True):
                if weight is not model.unused:
                    fresh = torch.randn(weight.shape, generator=draw).to(dtype)
                    weight.grad = fresh.clone() if weight.grad is None else weight.grad + fresh
                    total += fresh
            ours.collect(last=piece == passes - 1)
        norm = float(torch.nn.utils.get_total_norm(gradients)) * 0.5
        assert ours.norm(0.5) == norm
        ours.update(0.01, 0.5 / norm)
        for master, total in zip(masters, gradients, strict=True):
            master.grad = total * (0.5 / norm)
        for one in theirs:
            one.step()
        assert all(map(torch.equal, ours.masters, masters)), f"step {step}"
        assert all(
            torch.equal(weight, master.to(dtype)) for weight, master in zip(model.parameters(), masters, strict=True)
        )
        assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_library_updates_as_torch_does_in_float64(dtype: torch.dtype, passes: int) -> None:
    """Gradients in the model's number type (one pass) and in float32 (two), decayed and not, more than one register."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(37, 19), nn.Linear(19, 5)).to(dtype)
    if not native_kernels.can_update(torch.zeros(1), *(weight.detach() for weight in list(model.parameters())[:2])):
        pytest.skip(f"the C library does not update here: {native.describe()}")
    ours = MasterOptimizer(model, "adamw", (0.9, 0.95), weight_decay=0.1)
    exact = [weight.detach().double().requires_grad_() for weight in model.parameters()]
    groups = [{"params": exact[::2], "weight_decay": 0.1}, {"params": exact[1::2], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    for _ in range(30):
        for piece in range(passes):
            for weight, other in zip(model.parameters(), exact, strict=True):
                fresh = torch.randn_like(weight)
                weight.grad = fresh if weight.grad is None else weight.grad + fresh
                other.grad = fresh.double() * 0.3 + (0 if piece == 0 else other.grad)
            ours.collect(last=piece == passes - 1)
        ours.update(0.01, 0.3)
        theirs.step()
    for master, weight, other in zip(ours.masters, model.parameters(), exact, strict=True):
        torch.testing.assert_close(master.double(), other, atol=2e-6, rtol=2e-6)
        assert torch.equal(weight, master.to(dtype))


SMALL = TransformerConfig(width=16, layers=2, heads=2, hidden=32, max_positions=8, vocabulary=20, tied=True)


def torchs_own(model: nn.Module, masters: list[torch.Tensor], name: str) -> list[torch.optim.Optimizer]:
    """One optimiser for all matrices of the layers, if it is Muon, and one for the rest."""
    named = dict(zip((name for name, _ in model.named_parameters()), masters, strict=True))
    muon = {key: w for key, w in named.items() if name == "muon" and "blocks." in key and w.dim() == 2}
    rest = [weight for key, weight in named.items() if key not in muon]
    decayed, plain = ([w for w in rest if (w.dim() > 1) == wide] for wide in (True, False))
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), fused=True)
    if not muon:
        return [adamw]
    return [torch.optim.Muon(list(muon.values()), 0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), adamw]


def test_going_back_takes_the_moments_along_and_to_before_the_first_step_forgets_them() -> None:
    optimizer = MasterOptimizer(small_model(), "adamw", (0.9, 0.95), weight_decay=0.1)
    first = {name: tensor.clone() for name, tensor in optimizer.tensors()}
    assert all(name.startswith("master.") for name in first)

    def learn() -> dict[str, torch.Tensor]:
        for weight in optimizer.weights:
            weight.grad = torch.ones_like(weight)
        optimizer.collect(last=True)
        optimizer.update(0.01, 1.0)
        return {name: tensor.clone() for name, tensor in optimizer.tensors()}

    one, two = learn(), learn()
    assert float(two["step.0.weight"]) == 2 and set(one) == set(two) > set(first)
    optimizer.load(first)
    assert all(name.startswith("master.") for name, _ in optimizer.tensors())
    again = learn()
    assert all(torch.equal(again[name], one[name]) for name in one)
    optimizer.load(two)
    optimizer.load(one)
    again = learn()
    assert all(torch.equal(again[name], two[name]) for name in two)


def test_masters_keep_updates_that_bf16_would_lose() -> None:
    """A thousand steps of 1e-5 on a weight of 1.0: bf16 alone (spacing 1/128) would never move."""
    model = nn.Linear(1, 1, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = MasterOptimizer(model, "adamw", (0.9, 0.95), weight_decay=0.0)
    for _ in range(1000):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.collect(last=True)
        optimizer.update(1e-5, 1.0)
    assert math.isclose(float(optimizer.masters[0]), 0.99, abs_tol=1e-4)
    assert float(model.weight) == pytest.approx(0.99, abs=0.004)


def test_muon_takes_matrices_of_the_trunk_only() -> None:
    config = TransformerConfig(width=16, layers=1, heads=2, hidden=32, max_positions=8, vocabulary=20, tied=True)
    optimizer = MasterOptimizer(LanguageModel(config).initialise(0), "muon", (0.9, 0.95), 0.1)
    muon, adamw = optimizer.optimizers
    assert isinstance(muon, torch.optim.Muon)
    assert all(weight.dim() == 2 for group in muon.param_groups for weight in group["params"])
    counted = sum(len(group["params"]) for one in optimizer.optimizers for group in one.param_groups)
    assert counted == len(optimizer.masters)
    assert [20, 16] in [list(weight.shape) for group in adamw.param_groups for weight in group["params"]]


@pytest.mark.parametrize("shape", ["cosine", "linear", "wsd", "constant"])
def test_schedules_warm_up_and_end_where_they_should(shape: str) -> None:
    shares = [rate_share(shape, step, 100, 10) for step in range(101)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(shares) == pytest.approx(1.0)
    assert shares[100] == pytest.approx(1.0 if shape == "constant" else 0.0, abs=1e-9)
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(shares[10:]))


def test_cosine_is_the_cosine() -> None:
    assert rate_share("cosine", 55, 100, 10) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))
