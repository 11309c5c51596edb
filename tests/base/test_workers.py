"""Workers: the same results in the same order whoever works, and nothing lost when one is killed."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from athanor.base.errors import AthanorError
from athanor.base.workers import Workers, current, using

EVERY = [Workers(), Workers(2), Workers(3)]


def describe(piece) -> str:
    return f"piece {piece}"


def square(piece: int) -> int:
    time.sleep(0.01 * (piece % 3 == 0))  # results come out of order
    return piece * piece


def die_once(folder: Path, piece: int) -> int:
    """Kills its own process at piece 5, as the system does when memory is short, but only the first time."""
    mark = folder / f"died-{piece}"
    if piece == 5 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return piece * piece


def die(piece: int) -> int:
    if piece == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


def refuse(piece: int) -> int:
    if piece == 4:
        raise AthanorError("the fourth is wrong", fix="leave it out")
    return piece


@pytest.mark.parametrize("workers", EVERY)
def test_results_come_in_order_and_pieces_are_read_as_they_are_needed(workers):
    asked = []

    def pieces():
        for number in range(30):
            asked.append(number)
            yield number

    results = workers.map(square, pieces(), describe)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(asked) <= 3 + 2 * 3  # two of each worker wait at most
    assert list(results) == [number * number for number in range(3, 30)]
    assert not list(workers.map(square, [], describe))


def test_a_killed_worker_loses_nothing(tmp_path):
    done = list(Workers(2).map(partial(die_once, tmp_path), range(12), describe))
    assert done == [number * number for number in range(12)] and (tmp_path / "died-5").exists()


def test_a_piece_that_kills_its_workers_is_named():
    results = Workers(2).map(die, range(8), describe)
    with pytest.raises(AthanorError, match="piece 3: 3 workers died of it") as problem:
        list(results)
    assert problem.value.code == 2


@pytest.mark.parametrize("workers", EVERY)
def test_errors_of_the_work_stand_where_their_piece_stands(workers):
    results, seen = workers.map(refuse, range(9), describe), []
    with pytest.raises(AthanorError) as problem:
        seen.extend(results)
    assert problem.value.fix == "leave it out" and (seen == [0, 1, 2, 3] or not workers.alone)


def test_who_works_is_chosen_outside_and_only_within_the_block():
    assert current().alone
    with using(Workers(4)):
        assert current().count == 4
    assert current().alone
    with pytest.raises(AthanorError, match="0 workers"), using(Workers(0)):
        pass
