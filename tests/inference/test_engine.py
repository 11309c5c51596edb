"""The engine equals the naive reference token for token, whoever else is computed."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base.errors import AthanorError
from athanor.inference.batch import Batch
from athanor.inference.engine import Engine
from athanor.inference.generate import generate
from athanor.inference.sampling import Sampling
from tests.inference.conftest import END, ByteTokenizer, make_model

ENDS = (END, 101)  # the byte "e" ends answers too, so that some are short
MODEL = make_model()
POSITION_BYTES = 2 * 2 * 2 * 8 * 4

samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 3.0]), top_k=st.sampled_from([None, 5]), top_p=st.sampled_from([1.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.3]), frequency_penalty=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 9), max_tokens=st.sampled_from([1, 2, 5, 20, None]), stop=st.sampled_from([(), ("a", "b c")]),
)  # fmt: skip
requests = st.tuples(
    st.lists(st.integers(0, 259), min_size=1, max_size=40), samplings,
    st.integers(0, 12),  # the step it arrives at
    st.one_of(st.none(), st.none(), st.integers(0, 15)),  # the step it is cancelled at
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(
    st.lists(requests, min_size=1, max_size=8), st.integers(1, 5), st.integers(1, 60), st.sampled_from([64, 200, 4096])
)
def test_equals_the_naive_reference(arrivals, rows, chunk, positions):
    torch.set_num_threads(1)
    tokenizer = ByteTokenizer()
    batch = Batch(MODEL, tokenizer.token_bytes(), ENDS, rows, chunk, positions * POSITION_BYTES)
    numbers, texts, ids, completions = {}, {}, {}, {}
    step = 0
    while step < 20 or not batch.idle:
        for place, (prompt, sampling, arrival, cancelled) in enumerate(arrivals):
            if arrival == step:
                number = batch.add(prompt, sampling)
                numbers[number], texts[number], ids[number] = place, "", ()
            if cancelled == step and place in numbers.values():
                batch.cancel(next(number for number in numbers if numbers[number] == place))
        for piece in batch.step():
            assert piece.request not in completions
            texts[piece.request] += piece.text
            ids[piece.request] += piece.ids
            if piece.completion is not None:
                completions[piece.request] = piece.completion
        step += 1
    assert len(completions) == len(arrivals) and not batch.schedule.running
    for number, completion in completions.items():
        prompt, sampling, _, cancelled = arrivals[numbers[number]]
        expected = generate(MODEL, prompt, sampling, ENDS, tokenizer)
        assert completion.text == texts[number] and completion.ids == ids[number]
        if completion.finish_reason == "cancelled":
            assert cancelled is not None and completion.ids == expected.ids[: len(completion.ids)]
        else:
            assert completion == expected


def prompts_of(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, 40, (count,), generator=generator).tolist()
    return [torch.randint(0, 260, (length,), generator=generator).tolist() for length in lengths]


def test_a_batch_keeps_the_order_of_its_prompts(model, tokenizer):
    prompts = prompts_of(30)
    each = [Sampling(max_tokens=1 + number % 9, temperature=number % 2, seed=number) for number in range(30)]
    found = Engine(model, tokenizer, end_ids=ENDS, rows=7).generate_batch(prompts, each)
    assert found == [generate(model, ids, one, ENDS, tokenizer) for ids, one in zip(prompts, each, strict=True)]


@pytest.mark.parametrize("changed", [{"position": "learned", "norm": "layer"}, {"norm_qk": True, "tied": True}])
def test_other_networks_too(changed):
    model = make_model(**changed)
    prompts = prompts_of(9)
    found = Engine(model, rows=4, chunk=16).generate_batch(prompts, Sampling(max_tokens=30))
    assert found == [generate(model, ids, Sampling(max_tokens=30)) for ids in prompts]


def test_a_stream_gives_the_pieces_of_the_answer(model, tokenizer):
    sampling = Sampling(temperature=1.0, seed=3, max_tokens=25)
    pieces = list(Engine(model, tokenizer).stream([1, 2, 3], sampling))
    expected = generate(model, [1, 2, 3], sampling, (), tokenizer)
    assert "".join(piece.text for piece in pieces) == expected.text
    assert pieces[-1].completion == expected and all(piece.completion is None for piece in pieces[:-1])


def test_requests_from_many_threads_are_answered_as_if_alone(model, tokenizer):
    engine = Engine(model, tokenizer, end_ids=ENDS, rows=4, chunk=24)
    prompts, sampling = prompts_of(24), Sampling(temperature=1.0, seed=5, max_tokens=15)
    answers = {}

    def ask(place):
        pieces = list(engine.submit(prompts[place], sampling))
        answers[place] = pieces[-1].completion

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {place: generate(model, ids, sampling, ENDS, tokenizer) for place, ids in enumerate(prompts)}
    assert engine.alive and engine.load == {"running": 0, "waiting": 0}
    engine.close()
    assert not engine.alive


def test_a_listener_gets_the_pieces_instead(model, tokenizer):
    engine, heard = Engine(model, tokenizer), []
    generation = engine.submit([5, 6], Sampling(max_tokens=4), listener=heard.append)
    assert generation.result(30) == heard[-1].completion
    engine.close()


def test_a_failing_listener_ends_its_own_request_only(model, tokenizer):
    engine = Engine(model, tokenizer)

    def fail(piece):
        raise RuntimeError("the client is gone")

    bad = engine.submit([5, 6], Sampling(max_tokens=20), listener=fail)
    good = engine.submit([7, 8], Sampling(max_tokens=20))
    assert good.result(30) == generate(model, [7, 8], Sampling(max_tokens=20), (), tokenizer)
    with pytest.raises(RuntimeError, match="client is gone"):
        bad.result(30)
    engine.close()


def test_cancelling_and_closing_end_requests(tokenizer):
    engine = Engine(make_model(max_positions=4096), tokenizer, rows=1)
    running, waiting = engine.submit([1], Sampling()), engine.submit([2], Sampling())
    first = next(iter(running))
    running.cancel()
    running.cancel()
    last = running.result(30)
    assert last.finish_reason == "cancelled" and last.ids[0] == first.ids[0] and len(last.ids) < 4000
    engine.close()
    engine.close()
    assert waiting.result(1).finish_reason == "cancelled"
    with pytest.raises(AthanorError, match="closed"):
        engine.submit([1], Sampling())


def test_a_failure_of_the_model_is_told_and_survived(tokenizer, monkeypatch):
    model = make_model()
    engine = Engine(model, tokenizer)
    with monkeypatch.context() as patch:
        patch.setattr(model, "logits", lambda hidden: hidden.new_full((len(hidden), 260), float("nan")))
        with pytest.raises(AthanorError, match="not finite"):
            engine.submit([1, 2], Sampling(max_tokens=3)).result(30)
    assert engine.submit([1, 2], Sampling(max_tokens=3)).result(30) == generate(
        model, [1, 2], Sampling(max_tokens=3), (), tokenizer
    )
    engine.close()


@pytest.mark.parametrize(
    ("ids", "sampling", "message"),
    [([], Sampling(), "0 tokens"), ([1] * 64, Sampling(), "64 tokens"), ([260], Sampling(), "260"),
     ([-1], Sampling(), "-1"), ([1], Sampling(logit_bias={260: 1.0}), "260")],
)  # fmt: skip
def test_requests_that_cannot_be_used_are_refused(model, tokenizer, ids, sampling, message):
    engine = Engine(model, tokenizer)
    for ask in (engine.submit, lambda *both: list(engine.stream(*both)), lambda *both: generate(model, *both)):
        with pytest.raises(AthanorError, match=message):
            ask(ids, sampling)
    with pytest.raises(AthanorError, match="tokenizer"):
        Engine(model).submit([1], Sampling(stop=("a",)))
    with pytest.raises(AthanorError, match="do not fit"):
        Engine(model, cache_bytes=1000).submit([1], Sampling())
    engine.close()
