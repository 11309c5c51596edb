"""The optimiser and the schedules against torch's own and the formulas."""

import itertools
import math

import pytest
import torch
from torch import nn

from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
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
        optimizer.collect()
        optimizer.update(0.01, 1 / ROWS)
        reference.step()
        reference.zero_grad()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


def test_masters_keep_updates_that_bf16_would_lose() -> None:
    """A thousand steps of 1e-5 on a weight of 1.0: bf16 alone (spacing 1/128) would never move."""
    model = nn.Linear(1, 1, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = MasterOptimizer(model, "adamw", (0.9, 0.95), weight_decay=0.0)
    for _ in range(1000):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.collect()
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
