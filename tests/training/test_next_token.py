"""Next token: parts, z-loss, noise, recomputation; networks with experts included."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from athanor.base.errors import AthanorError
from athanor.base.progress import SilentProgress
from athanor.models.config import TransformerConfig
from athanor.models.feedforward import Routes
from athanor.models.language import LanguageModel
from athanor.training.loop import train
from athanor.training.objective import Objective
from athanor.training.objectives.next_token import TokenBatch, next_token_loss
from athanor.training.settings import LoopSettings
from athanor.training.techniques import apply_techniques

CONFIG = TransformerConfig(width=16, layers=2, heads=2, hidden=24, max_positions=16, vocabulary=40, tied=True)


def rows(seed: int = 0) -> TokenBatch:
    """Random tokens of two sources, some of them not scored."""
    generator = torch.Generator().manual_seed(seed)
    ids, targets = torch.randint(0, 40, (2, 3, 16), generator=generator)
    targets[:, ::5] = -100
    return TokenBatch(ids, targets, torch.arange(16).expand(3, 16) // 6, torch.arange(3)[:, None].expand(3, 16) % 2)


def gradients(model: nn.Module, total: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    total.backward()
    return [weight.grad.clone() for weight in model.parameters()]


def test_the_loss_is_cross_entropy_and_its_parts_add_up() -> None:
    model, batch = LanguageModel(CONFIG).initialise(0), rows()
    total, count, parts = next_token_loss(CONFIG, sources={0: "books", 1: "web"})(model, batch)
    logits = model(batch.ids_BT, documents_BT=batch.documents_BT)
    expected = nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets_BT.flatten(), reduction="none", ignore_index=-100
    ).view(3, 16)
    torch.testing.assert_close(total, expected.sum())
    assert int(count) == int((batch.targets_BT != -100).sum())
    torch.testing.assert_close(parts["books"][0], expected[0::2].sum())
    torch.testing.assert_close(parts["web"][0], expected[1].sum())
    assert int(parts["books"][1]) == int((batch.targets_BT[0::2] != -100).sum())


def test_z_loss_is_palms_and_its_gradient_that_of_autograd() -> None:
    model, batch = LanguageModel(CONFIG).initialise(0), rows()
    with torch.no_grad():
        model.tokens.weight.mul_(40)  # scores far from zero, so that the term matters
    total, _, _ = next_token_loss(CONFIG, z_loss=0.05)(model, batch)
    found = gradients(model, total)
    scored = batch.targets_BT != -100
    logits = model(batch.ids_BT, documents_BT=batch.documents_BT)[scored]
    plain = nn.functional.cross_entropy(logits, batch.targets_BT[scored], reduction="sum")
    expected = plain + 0.05 * logits.logsumexp(-1).square().sum()
    assert expected - plain > 1
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(found, gradients(model, expected), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head", [8, 64])
def test_recomputing_changes_no_bit(head: int, dtype: torch.dtype) -> None:
    """Heads of 64 are those whose attention the C library computes."""
    config = replace(CONFIG, head_width=head)
    plain, again = (LanguageModel(config).initialise(0).to(dtype) for _ in range(2))
    apply_techniques(again, LoopSettings(steps=1, rows=3, learning_rate=0.1, recompute=True))
    kept: dict[str, int] = {}
    found = []
    for name, model in (("plain", plain), ("again", again)):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.nbytes) or x, lambda x: x):
            total, _, _ = next_token_loss(config)(model, rows())
        kept[name] = sum(sizes)
        found.append((total, gradients(model, total)))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=True))
    assert kept["again"] < kept["plain"] / 2, kept


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_learn_the_same_curve(tmp_path: Path) -> None:
    """Twenty steps on real gradients: the loss stays within 1e-4 nats of the plain one's."""
    found = []
    for compiled in (False, True):
        settings = LoopSettings(steps=20, rows=3, learning_rate=0.003, compile=compiled)
        model = apply_techniques(LanguageModel(CONFIG).initialise(0), settings)
        objective = Objective(lambda step, rank, world: rows(step % 4), next_token_loss(CONFIG), 48)
        history = train(model, objective, settings, tmp_path / str(compiled), SilentProgress(), "x")
        found.append([row["loss"] for row in history])
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    assert found[0][-1] < found[0][0] - 0.1


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(AthanorError, match=r"C\+\+ compiler"):
        apply_techniques(LanguageModel(CONFIG), LoopSettings(steps=1, rows=3, learning_rate=0.1, compile=True))


def test_neftune_is_uniform_noise_of_the_papers_size_and_silent_in_evaluation() -> None:
    model = LanguageModel(CONFIG).initialise(0)
    clean = model.tokens(rows().ids_BT)
    apply_techniques(model, LoopSettings(steps=1, rows=3, learning_rate=0.1, neftune=5.0))
    torch.manual_seed(3)
    noise = (model.tokens(rows().ids_BT) - clean).detach()
    bound = 5 / math.sqrt(16 * 16)
    assert float(noise.abs().max()) <= bound * 1.0001
    assert float(noise.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    model.eval()
    assert torch.equal(model.tokens(rows().ids_BT), clean)


def test_techniques_for_transformers_are_refused_elsewhere() -> None:
    for name in ("recompute", "compile", "neftune"):
        settings = LoopSettings(steps=1, rows=1, learning_rate=0.1, **{name: 1 if name == "neftune" else True})
        with pytest.raises(AthanorError, match=name):
            apply_techniques(nn.Linear(2, 2), settings)


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
        loss = next_token_loss(config, balance)
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        generator = torch.Generator().manual_seed(0)
        for _ in range(80):
            ids = torch.randint(0, 40, (8, 16), generator=generator).cummax(1).values
            total, count, _ = loss(model, TokenBatch(ids, ids.roll(-1, 1), torch.zeros_like(ids)))
            optimizer.zero_grad()
            (total / count).backward()
            optimizer.step()
        routes = Routes()
        model.loss(ids, ids, routes=routes)
        found[balance] = float(routes.balance())
    assert found[1.0] - 2 < 0.4 * (found[0.0] - 2), found


def test_a_balance_without_experts_is_refused() -> None:
    with pytest.raises(AthanorError, match="no experts"):
        next_token_loss(CONFIG, 0.01)
