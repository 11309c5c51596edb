"""The parts of training, each against a truth from outside: torch's optimiser, formulas, an undisturbed run."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from athanor.base.errors import AthanorError, Stopped
from athanor.base.progress import SilentProgress
from athanor.models.config import TransformerConfig
from athanor.models.feedforward import Routes
from athanor.models.language import LanguageModel
from athanor.training.checkpoint import load_newest, save_state
from athanor.training.experts import loss_for
from athanor.training.loop import LoopSettings, Objective, train
from athanor.training.optimizer import MasterOptimizer
from athanor.training.schedule import rate_share
from athanor.training.setup import next_token_loss


def small_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(5, 6, generator=generator)
    return inputs, inputs[:, :3].argmax(dim=1)


def loss_of(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = batch
    return nn.functional.cross_entropy(model(inputs), targets, reduction="sum"), torch.tensor(len(targets))


OBJECTIVE = Objective(batch_of, loss_of, tokens=5)
SETTINGS = LoopSettings(steps=40, rows=5, learning_rate=0.02, optimizer="adamw", warmup=4, checkpoint_seconds=0)


def test_adamw_is_torchs_on_the_same_gradients() -> None:
    ours, theirs = small_model(), small_model()
    optimizer = MasterOptimizer(ours, "adamw", (0.9, 0.95), weight_decay=0.1)
    decayed = [weight for weight in theirs.parameters() if weight.dim() > 1]
    plain = [weight for weight in theirs.parameters() if weight.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    for step in range(20):
        for model in (ours, theirs):
            total, count = loss_of(model, batch_of(step))
            (total if model is ours else total / count).backward()
        optimizer.step(0.01, 1 / 5, clip=1e9)
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
        optimizer.step(1e-5, 1.0, clip=1e9)
    assert math.isclose(float(optimizer.masters[0]), 0.99, abs_tol=1e-4)
    assert float(model.weight) == pytest.approx(0.99, abs=0.004)


def test_clipping_bounds_the_norm_and_reports_the_one_before() -> None:
    model = nn.Linear(2, 1, bias=False)
    optimizer = MasterOptimizer(model, "adamw", (0.9, 0.95), weight_decay=0.0)
    model.weight.grad = torch.tensor([[30.0, 40.0]])
    assert optimizer.step(0.1, 1.0, clip=1.0) == pytest.approx(50.0)


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


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_ends_with_the_same_bits(optimizer: str, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"optimizer": optimizer})
    whole = small_model()
    rows = train(whole, OBJECTIVE, settings, tmp_path / "whole", SilentProgress(), "x")

    class StopAfter(SilentProgress):
        def advance(self, amount: float = 1.0, **figures: float) -> None:
            self.stop.asked = self.done >= 5 * 17
            super().advance(amount, **figures)

    broken = small_model()
    with pytest.raises(Stopped):
        train(broken, OBJECTIVE, settings, tmp_path / "broken", StopAfter(), "x")
    resumed = small_model(seed=9)  # whatever it holds, the checkpoint decides
    again = train(resumed, OBJECTIVE, settings, tmp_path / "broken", SilentProgress(), "x")
    assert again == rows
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path: Path) -> None:
    for step in (10, 20):
        save_state(tmp_path, step, {"weight": torch.full((4,), float(step))}, {"metrics": []})
    newest = tmp_path / "step-00000020" / "state.safetensors"
    data = bytearray(newest.read_bytes())
    data[-3] ^= 8
    newest.write_bytes(data)
    step, tensors, _, complaints = load_newest(tmp_path)
    assert step == 10
    assert tensors["weight"].tolist() == [10.0] * 4
    assert "step-00000020" in complaints[0]
    assert (tmp_path / "bad-step-00000020").is_dir()


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
def test_every_byte_of_a_checkpoint_is_guarded(file: str, tmp_path: Path) -> None:
    save_state(tmp_path, 5, {"weight": torch.arange(12.0)}, {"metrics": [{"step": 0}]})
    path = tmp_path / "step-00000005" / file
    good = path.read_bytes()
    for place in range(0, len(good), max(1, len(good) // 60)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        assert load_newest(tmp_path)[0] == 0
        (tmp_path / "bad-step-00000005").rename(tmp_path / "step-00000005")
    path.write_bytes(good)
    assert load_newest(tmp_path)[0] == 5


def test_only_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        save_state(tmp_path, step, {"weight": torch.zeros(1)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


def test_a_loss_that_is_no_number_stops_with_what_to_do(tmp_path: Path) -> None:
    def broken(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        total, count = loss_of(model, batch)
        return total * float("nan"), count

    with pytest.raises(AthanorError, match="step 0") as caught:
        train(small_model(), Objective(batch_of, broken, 5), SETTINGS, tmp_path, SilentProgress(), "x")
    assert "learning rate" in caught.value.fix


def test_experts_are_used_evenly_when_their_balance_is_part_of_the_loss() -> None:
    """The same tiny network trained with and without it: the balance loss is 2, experts per token, when all is even."""
    found = {}
    for balance in (0.0, 1.0):
        config = TransformerConfig(
            width=16, layers=2, heads=2, hidden=16, max_positions=16, vocabulary=40, tied=True, norm_qk=True,
            experts=8, experts_per_token=2,
        )  # fmt: skip
        model = LanguageModel(config).initialise(0)
        with torch.no_grad():  # a router that begins with favourites
            for block in model.trunk.blocks:
                block.mlp.router.weight.mul_(60)
        loss = loss_for(model, balance)
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        generator = torch.Generator().manual_seed(0)
        for _ in range(80):
            ids = torch.randint(0, 40, (8, 16), generator=generator).cummax(1).values
            total, count = loss(model, (ids, ids.roll(-1, 1), torch.zeros_like(ids)))
            optimizer.zero_grad()
            (total / count).backward()
            optimizer.step()
        routes = Routes()
        model.loss(ids, ids, routes=routes)
        found[balance] = float(routes.balance())
    assert found[1.0] - 2 < 0.4 * (found[0.0] - 2), found


def test_a_balance_without_experts_is_refused() -> None:
    config = TransformerConfig(width=16, layers=1, heads=2, hidden=16, max_positions=8, vocabulary=12)
    with pytest.raises(AthanorError, match="no experts"):
        loss_for(LanguageModel(config), 0.01)
    assert loss_for(LanguageModel(config), None) is next_token_loss
