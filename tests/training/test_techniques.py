"""Every technique is one setting, and switched on it keeps the loss curve within a stated tolerance.

Those that compute the same in another way are held to rounding; those that change what is learnt, to the curve's end.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.base.progress import SilentProgress
from athanor.data.packing.conversations import pack_conversations
from athanor.data.packing.grouped import group_conversations
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.training.find_rate import find_rate, suggest
from athanor.training.loop import train
from athanor.training.objective import Objective
from athanor.training.objectives.next_token import next_token_loss, to_tensors
from athanor.training.settings import LoopSettings
from athanor.training.techniques import apply_techniques

STEPS, ROWS, CONTEXT, VOCABULARY = 60, 4, 32, 64
CPU = torch.device("cpu")
CONFIG = TransformerConfig(
    width=32, layers=2, heads=2, hidden=48, max_positions=CONTEXT, vocabulary=VOCABULARY, tied=True, norm_qk=True
)
SETTINGS = {
    "steps": STEPS, "rows": ROWS, "learning_rate": 0.003, "optimizer": "adamw", "schedule": "constant", "warmup": 5,
}  # fmt: skip


def chats() -> list[tuple[list[int], list[bool]]]:
    """Questions of numbers and the same numbers backwards, of many lengths."""
    draw = np.random.default_rng(6)
    made = []
    for _ in range(120):
        question = draw.integers(6, VOCABULARY, draw.integers(2, 9)).tolist()
        ids = [3, *question, 1, 4, *question[::-1], 1]
        made.append((ids, [False] * (len(question) + 3) + [True] * (len(question) + 1)))
    return made


def objective(
    fused: bool = True, document_mask: bool = True, by_length: bool = False, z_loss: float = 0.0
) -> Objective:
    rows = group_conversations(chats(), 3 * ROWS, CONTEXT) if by_length else pack_conversations(chats(), CONTEXT)
    count = 3 * ROWS if by_length else ROWS

    def batch(step: int, rank: int, world: int) -> Any:
        return to_tensors(rows.batch(step, count, 3, rank, world), CPU)

    loss = next_token_loss(CONFIG, z_loss=z_loss, fused=fused, document_mask=document_mask)
    return Objective(batch, loss, ROWS * CONTEXT)


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., np.ndarray]:
    """The loss of every step under some settings; the plain run is made once."""
    known: dict[str, np.ndarray] = {}

    def made(dtype: torch.dtype = torch.float32, lesson: Objective | None = None, **changed: Any) -> np.ndarray:
        key = f"{dtype}{changed}" if lesson is None else ""
        if key not in known or not key:
            torch.set_num_threads(1)
            settings = LoopSettings(**{**SETTINGS, **changed})
            model = apply_techniques(LanguageModel(CONFIG).initialise(1), settings).to(dtype)
            folder = tmp_path_factory.mktemp("run")
            rows = train(model, lesson or objective(), settings, folder, SilentProgress(), "")
            known[key] = np.array([row["loss"] for row in rows])
        return known[key]

    return made


SAME = {  # technique -> settings, largest difference of the loss at any of the 60 steps, nats
    "gradient accumulation": ({"accumulate": 2}, 2e-4),
    "pieces of unequal rows": ({"accumulate": 3}, 2e-4),
    "activation checkpointing": ({"recompute": True}, 0.0),
    "unfused AdamW": ({"fused_optimizer": False}, 2e-4),
    "averaged weights": ({"average": 0.99}, 0.0),
}


@pytest.mark.parametrize("technique", SAME)
def test_a_technique_that_computes_the_same_keeps_the_curve(technique: str, curve: Callable[..., np.ndarray]) -> None:
    changed, tolerance = SAME[technique]
    assert np.abs(curve(**changed) - curve()).max() <= tolerance
    assert curve()[-5:].mean() < 0.85 * curve()[:5].mean(), "it learns"


def test_clipping_that_never_bites_changes_nothing(curve: Callable[..., np.ndarray]) -> None:
    assert np.array_equal(curve(clip=1e6), curve(clip=None))


def test_the_fused_loss_is_the_plain_one(curve: Callable[..., np.ndarray]) -> None:
    assert np.abs(curve(lesson=objective(fused=False)) - curve()).max() <= 2e-4


def test_bf16_with_fp32_masters_keeps_the_curve(curve: Callable[..., np.ndarray]) -> None:
    """The mean: how far a single step differs depends on the seed, 0.02 to 0.12 nats, whoever computes it."""
    assert np.abs(curve(dtype=torch.bfloat16) - curve()).mean() <= 0.03


def test_documents_alone_in_their_rows_need_no_mask(curve: Callable[..., np.ndarray]) -> None:
    """One conversation a row: the mask changes nothing; packed, attention across documents is another task."""
    alone = [curve(lesson=objective(document_mask=mask, by_length=True)) for mask in (True, False)]
    assert np.abs(alone[0] - alone[1]).max() <= 2e-4
    crossed = curve(lesson=objective(document_mask=False))
    assert 1e-3 < np.abs(crossed - curve()).max() <= 0.5


OTHER = {  # technique -> settings, largest difference of the mean loss of the last 10 steps
    "z-loss": ({"z_loss": 1e-4}, 0.02),
    "NEFTune": ({"neftune": 1.0}, 0.3),
    "Muon": ({"optimizer": "muon"}, 0.6),
    "cosine": ({"schedule": "cosine"}, 0.35),
    "linear": ({"schedule": "linear"}, 0.35),
    "wsd": ({"schedule": "wsd"}, 0.2),
    "clipping": ({"clip": 0.5}, 0.2),
}


@pytest.mark.parametrize("technique", OTHER)
def test_a_technique_that_learns_otherwise_ends_near(technique: str, curve: Callable[..., np.ndarray]) -> None:
    changed, tolerance = OTHER[technique]
    lesson = objective(z_loss=1e-4) if technique == "z-loss" else None
    found, plain = curve(lesson=lesson, **changed), curve()
    assert 0 < abs(found[-10:].mean() - plain[-10:].mean()) <= tolerance


def test_like_lengths_together_learn_the_same_with_less_padding(curve: Callable[..., np.ndarray]) -> None:
    rows = group_conversations(chats(), 8, CONTEXT)
    assert sorted(number for group in rows.groups for number in group) == list(range(120))
    width = max(len(ids) for ids, _ in chats())
    assert rows.filled > 0.75 > sum(len(ids) for ids, _ in chats()) / (120 * -(-width // 8) * 8)
    whole, halves = rows.batch(5, 8, seed=2), [rows.batch(5, 8, seed=2, rank=rank, world=2) for rank in (0, 1)]
    assert np.array_equal(whole.ids_BT, np.concatenate([half.ids_BT for half in halves]))
    seen = {number for step in range(rows.steps_per_epoch(8)) for number in rows.members(step, 8, 2)}
    assert len(seen) == 120 and rows.members(3, 8, 2) == rows.members(3, 8, 2)
    ids, mask = chats()[rows.members(5, 8, 2)[0]]
    assert whole.ids_BT[0, : len(ids)].tolist() == ids
    assert (whole.targets_BT[0] != -100).sum() == sum(mask[1:])
    assert abs(curve(lesson=objective(by_length=True))[-10:].mean() - curve()[-10:].mean()) <= 0.4


def test_the_rate_that_is_found_learns_well(tmp_path: Path) -> None:
    settings = LoopSettings(**SETTINGS)
    found = find_rate(LanguageModel(CONFIG).initialise(1), objective(), settings, SilentProgress())
    assert 3e-4 < found.suggested < 0.1 and min(found.losses) < found.losses[0] - 0.25
    ends = {}
    for name, rate in (
        ("found", found.suggested),
        ("low", found.suggested / 30),
        ("high", min(0.9, found.suggested * 30)),
    ):
        model = LanguageModel(CONFIG).initialise(1)
        rows = train(
            model,
            objective(),
            settings.model_copy(update={"learning_rate": rate}),
            tmp_path / name,
            SilentProgress(),
            "",
        )
        ends[name] = np.mean([row["loss"] for row in rows[-10:]])
    assert ends["found"] < ends["low"] - 0.3 and ends["found"] < ends["high"] - 0.3


def test_the_suggestion_is_two_thirds_of_the_way_down() -> None:
    rates = [10.0**power for power in range(-6, 1)]
    assert suggest(rates, [4.0, 4.0, 4.0, 3.0, 2.0, 1.0, 5.0]) == pytest.approx(10 ** (-3 + 4 / 3), rel=0.05)
    with pytest.raises(AthanorError, match="falls at no learning rate"):
        suggest(rates, [4.0, 4.5, 5.0])
