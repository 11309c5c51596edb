"""Admission under limits; no torch here."""

from hypothesis import given
from hypothesis import strategies as st

from athanor.inference.schedule import Schedule


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 30)), max_size=30),
    st.integers(1, 6), st.integers(80, 300), st.integers(1, 60), st.randoms(),
)  # fmt: skip
def test_all_are_admitted_in_order_and_within_the_limits(jobs, rows, positions, chunk, random):
    schedule = Schedule(rows, positions, chunk)
    for number, (prompt, more) in enumerate(jobs):
        schedule.add(number, prompt, prompt + more)
    admitted = []
    while schedule.waiting or schedule.running:
        group = schedule.admit()
        admitted += group
        longest = max(jobs[number][0] for number in group) if group else 0
        assert len(group) <= 1 or len(group) * longest <= chunk
        running = list(schedule.running)
        assert running and len(running) <= rows
        assert len(running) == 1 or len(running) * max(sum(jobs[number]) for number in running) <= positions
        schedule.remove(random.choice(running))
    assert admitted == list(range(len(jobs)))


def test_a_waiting_request_can_be_removed():
    schedule = Schedule(1, 100, 10)
    for number in range(3):
        schedule.add(number, 5, 10)
    schedule.remove(1)
    assert schedule.admit() == [0]
    assert schedule.admit() == []
    schedule.remove(0)
    assert schedule.admit() == [2]


def test_what_never_fits_is_known():
    assert Schedule(4, 100, 10).fits(100) and not Schedule(4, 100, 10).fits(101)
