"""Log-likelihoods against a plain loop, in any company."""

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.inference.score import Score, score, windows


def rows(count: int) -> list[tuple[list[int], int]]:
    generator = torch.Generator().manual_seed(7)
    lengths = torch.randint(2, 60, (count,), generator=generator).tolist()
    return [(torch.randint(0, 260, (length,), generator=generator).tolist(), 1 + length // 3) for length in lengths]


def plain(model, ids: list[int], first: int) -> float:
    with torch.inference_mode():
        likelihood = model(torch.tensor([ids]))[0].double().log_softmax(-1)
    return sum(likelihood[place - 1, ids[place]].item() for place in range(first, len(ids)))


def test_equals_a_plain_loop_whatever_the_batches(model):
    items = rows(25)
    expected = [plain(model, ids, first) for ids, first in items]
    for batch_tokens in (1, 200, 8192):
        found = score(model, items, batch_tokens=batch_tokens)
        assert [one.total for one in found] == pytest.approx(expected, abs=1e-5, rel=1e-6)
        assert [one.count for one in found] == [len(ids) - first for ids, first in items]


def test_greedy_says_whether_the_model_would_have_written_it(model):
    from athanor.inference.generate import generate
    from athanor.inference.sampling import Sampling

    answer = list(generate(model, [1, 2], Sampling(max_tokens=5)).ids)
    other = [*answer[:-1], (answer[-1] + 1) % 260]
    found = score(model, [([1, 2, *answer], 2), ([1, 2, *other], 2), ([1, 2], 2)])
    assert [one.greedy for one in found] == [True, False, True] and found[2] == Score(0.0, 0, True)


def test_windows_score_every_token_once():
    ids = list(range(100))
    for length, overlap in ((10, 1), (10, 9), (64, 32), (200, 5), (2, 1)):
        scored = [part[place] for part, first in windows(ids, length, overlap) for place in range(first, len(part))]
        assert scored == ids[1:]
        assert all(len(part) <= length for part, _ in windows(ids, length, overlap))
    assert list(windows([5], 10, 1)) == list(windows([], 10, 1)) == []
    with pytest.raises(AthanorError, match="overlap"):
        list(windows(ids, 5, 5))


@pytest.mark.parametrize(("ids", "first"), [([], 1), ([1] * 65, 1), ([1, 2], 0), ([1, 2], 3), ([1, 260], 1)])
def test_rows_that_cannot_be_scored_are_named(model, ids, first):
    with pytest.raises(AthanorError, match="row 1"):
        score(model, [([1, 2], 1), (ids, first)])
