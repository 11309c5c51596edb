"""Inputs for filling in blanks: the figure of the paper, and what must hold for any text."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athanor.models.config import TransformerConfig
from athanor.models.glm import answer_row, batch_rows, draw_blanks, draw_ending, training_row
from athanor.models.language import IGNORED, LanguageModel

M, G, S, E, PAD = 90, 91, 92, 93, 0
SPECIAL = {"mask": M, "start": S, "end": E}


def test_figure_2_of_the_paper():
    """Du et al. 2022, figure 2: x1 to x6, of which x3 and x5 x6 are taken out, and the second is filled in first."""
    row = training_row([1, 2, 3, 4, 5, 6], [(4, 6), (2, 3)], **SPECIAL)
    assert row.ids == (1, 2, M, 4, M, S, 5, 6, S, 3)
    assert row.targets == (*[IGNORED] * 5, 5, 6, E, 3, E)
    assert [place + 1 for place in row.places] == [1, 2, 3, 4, 5, 5, 5, 5, 3, 3]  # the paper counts places from 1
    assert row.steps == (0, 0, 0, 0, 0, 1, 2, 3, 1, 2)
    allowed_TS = batch_rows([row], pad=PAD, axes=2).allowed_BTS[0]
    assert allowed_TS[:5].tolist() == [[True] * 5 + [False] * 5] * 5  # part A sees part A, in both directions
    assert allowed_TS[5:].tolist() == [[True] * count + [False] * (10 - count) for count in range(6, 11)]


texts = st.integers(1, 40).flatmap(lambda length: st.tuples(st.just(length), st.integers(0, 2**32)))


@given(texts)
def test_a_text_can_be_put_together_again(text):
    """Part A with each mask replaced by the span that stands for it is the text; no token is lost or seen twice."""
    length, seed = text
    ids = torch.arange(100, 100 + length).tolist()
    spans = draw_blanks(length, torch.Generator().manual_seed(seed))
    row = training_row(ids, spans, **SPECIAL)
    filled = {}
    for index in range(row.context, len(row.ids)):
        place, step = row.places[index], row.steps[index]
        assert row.ids[place] == M
        assert (row.ids[index] == S) == (step == 1)
        filled.setdefault(place, []).append(row.ids[index])
        expected = E if index + 1 == len(row.ids) or row.ids[index + 1] == S else row.ids[index + 1]
        assert row.targets[index] == expected
    whole = [word for place in range(row.context) for word in filled.get(place, [S, row.ids[place]])[1:]]
    assert whole == ids
    assert set(row.targets[: row.context]) <= {IGNORED}
    assert row.places[: row.context] == tuple(range(row.context)) and not any(row.steps[: row.context])


@given(texts)
def test_blanks_hold_enough_and_do_not_touch(text):
    length, seed = text
    spans = draw_blanks(length, torch.Generator().manual_seed(seed))
    assert spans == draw_blanks(length, torch.Generator().manual_seed(seed))
    ordered = sorted(spans)
    assert sum(stop - first for first, stop in spans) >= 0.15 * length
    assert all(0 <= first < stop <= length for first, stop in spans)
    assert all(first > before for (_, before), (first, _) in itertools.pairwise(ordered))


@given(texts)
def test_blanks_never_touch_however_many_there_are(text):
    length, seed = text
    ordered = sorted(draw_blanks(length, torch.Generator().manual_seed(seed), share=1.0))
    assert ordered and all(0 <= first < stop <= length for first, stop in ordered)
    assert all(first > before for (_, before), (first, _) in itertools.pairwise(ordered))


def test_blanks_have_the_lengths_and_places_of_the_paper():
    """Poisson(3) without 0 has the mean 3 / (1 - e^-3) = 3.157; every place of a text is taken out equally often."""
    generator = torch.Generator().manual_seed(0)
    taken, sizes, first_is_first = torch.zeros(500), [], 0
    for _ in range(400):
        spans = draw_blanks(500, generator)
        first_is_first += spans[0] == min(spans)
        sizes += [stop - first for first, stop in spans]
        for first, stop in spans:
            taken[first:stop] += 1
    assert abs(sum(sizes) / len(sizes) - 3.157) < 0.05
    quarters = taken.view(4, -1).mean(1) / 400
    assert all(abs(float(share) - 0.155) < 0.01 for share in quarters)
    assert first_is_first < 60  # of 400: the order of the spans is shuffled


@given(texts)
def test_an_ending_takes_at_least_half(text):
    length, seed = text
    first, stop = draw_ending(length, torch.Generator().manual_seed(seed))
    assert stop == length
    assert max(1, round(length / 2)) <= stop - first <= length


def test_open_ending_of_the_two_kinds():
    """ChatGLM-6B's places stand still at [gMASK] while steps count; GLM-130B's places count on after it."""
    still = answer_row([7, 8, G], [5, 6], mask=G, start=S, end=E)
    assert still.places == (0, 1, 2, 2, 2, 2) and still.steps == (0, 0, 0, 1, 2, 3)
    assert still.targets == (IGNORED, IGNORED, IGNORED, 5, 6, E)
    on = answer_row([7, 8, G], [5, 6], mask=G, start=S, end=E, counts_on=True)
    assert on.places == (0, 1, 2, 3, 4, 5)
    blank = answer_row([7, M, 8], mask=M, start=S)
    assert blank.ids == (7, M, 8, S) and blank.places == (0, 1, 2, 1) and set(blank.targets) == {IGNORED}


@pytest.mark.parametrize("counts_on", [False, True])
def test_positions_of_what_is_still_to_be_written(counts_on):
    """A prompt knows the positions its answer will have."""
    prompt = answer_row([7, G, 8, 9], mask=G, start=S, counts_on=counts_on)
    whole = answer_row([7, G, 8, 9], [1, 2, 3], mask=G, start=S, counts_on=counts_on)
    positions = list(zip(whole.places, whole.steps, strict=True))[whole.context :]
    assert [prompt.position(step) for step in range(1, 5)] == positions


def test_rows_of_different_lengths():
    rows = [answer_row([7, 8, M], [5], mask=M, start=S, end=E), training_row([1, 2], [(1, 2)], **SPECIAL)]
    made = batch_rows(rows, pad=PAD, axes=2)
    assert made.ids_BT.tolist() == [[7, 8, M, S, 5], [1, M, S, 2, PAD]]
    assert made.positions_BT.shape == (2, 5, 2)
    assert made.targets_BT.tolist() == [[IGNORED] * 3 + [5, E], [IGNORED, IGNORED, 2, E, IGNORED]]
    assert made.allowed_BTS[1, :2].tolist() == [[True, True, False, False, False]] * 2  # a context sees itself alone
    assert made.allowed_BTS[1, :4, 4].tolist() == [False] * 4  # nobody sees the padding
    assert bool(made.allowed_BTS.any(-1).all())  # and everybody sees somebody
    assert batch_rows(rows, pad=PAD, axes=1).positions_BT.tolist() == [[0, 1, 2, 2, 2], [0, 1, 1, 1, 0]]


def test_a_network_learns_to_fill_in_blanks():
    """Two of seven equal words are taken out: the loss falls towards what cannot be known, and that is nothing."""
    config = TransformerConfig(
        width=32, layers=2, heads=2, hidden=64, vocabulary=100, max_positions=32, position="learned", position_axes=2
    )
    model = LanguageModel(config).initialise(seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(120):
        words = torch.randint(1, 80, (16,), generator=generator).tolist()
        rows = [training_row([word] * 4 + [word] * 3, [(2, 4)], **SPECIAL) for word in words]
        made = batch_rows(rows, pad=PAD, axes=2)
        total, count = model.loss(
            made.ids_BT, made.targets_BT, positions_BT=made.positions_BT, allowed_BTS=made.allowed_BTS
        )
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float((total / count).detach()))
    assert losses[0] > 4 and losses[-1] < 0.7


@pytest.mark.parametrize("spans", [[], [(1, 1)], [(0, 3), (2, 4)], [(3, 7)], [(-1, 2)], [(2, 1)]])
def test_spans_that_are_none(spans):
    with pytest.raises(ValueError, match="span"):
        training_row([1, 2, 3, 4, 5], spans, **SPECIAL)


def test_a_context_without_a_mask():
    with pytest.raises(ValueError, match="mask token 91"):
        answer_row([1, 2, M], mask=G, start=S)
