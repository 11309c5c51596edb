"""Networks that read their prompt in both directions: the engine equals the naive reference, in any company."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base.errors import AthanorError
from athanor.inference.batch import Batch
from athanor.inference.blanks import Blanks, find_blanks
from athanor.inference.engine import Engine
from athanor.inference.generate import generate
from athanor.inference.quantize import compare, quantize_model
from athanor.inference.sampling import Sampling
from athanor.inference.score import score
from athanor.models.glm import answer_row, batch_rows
from athanor.models.language import LanguageModel
from athanor.tokens.tokenizer import Tokenizer
from tests.inference.conftest import make_model

GMASK, MASK, SMASK, START, END = 250, 251, 252, 253, 254
BLANKS = Blanks(ending=GMASK, others=(MASK, SMASK), start=START)
DEEPNORM = {"norm": "layer", "norm_place": "residual", "residual_scale": 2.0, "kv_heads": 4}
KINDS = {
    "chatglm-6b": make_model(prefix=True, position_axes=2, **DEEPNORM),
    "glm-130b": make_model(prefix=True, **DEEPNORM),
    "glm-10b": make_model(prefix=True, position="learned", position_axes=2, tied=True),
}
words = st.lists(st.integers(0, 249), max_size=24)


@st.composite
def prompts(draw: st.DrawFn) -> list[int]:
    """Words, perhaps with a mask among them, perhaps with a start token and the beginning of an answer."""
    before, mask, behind = draw(words), draw(st.sampled_from([None, GMASK, MASK, SMASK])), draw(words)
    context = [*before, *([] if mask is None else [mask]), *behind]
    begun = draw(st.one_of(st.none(), st.lists(st.integers(0, 249), max_size=4))) if mask is not None else None
    return context if begun is None else [*context, START, *begun]


samplings = st.builds(
    Sampling, temperature=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 9), max_tokens=st.sampled_from([1, 3, None]),
    frequency_penalty=st.sampled_from([0.0, 1.0]),
)  # fmt: skip


def direct(model: LanguageModel, prompt: list[int], count: int) -> list[int]:
    """The greedy answer from nothing but the rows of `athanor.models.glm`."""
    cut = prompt.index(START) if START in prompt else len(prompt)
    context, answer = prompt[:cut], prompt[cut + 1 :]
    mask = next((token for token in context if token in (GMASK, MASK, SMASK)), None)
    context = context if mask is not None else [*context, GMASK]
    mask = GMASK if mask is None else mask
    counts_on = model.config.position_axes == 1 and mask == GMASK
    for _ in range(count):
        row = answer_row(context, answer, mask=mask, start=START, counts_on=counts_on)
        made = batch_rows([row], pad=0, axes=model.config.position_axes)
        logits = model(made.ids_BT, positions_BT=made.positions_BT, allowed_BTS=made.allowed_BTS)
        answer = [*answer, int(logits[0, -1].argmax())]
    return answer[-count:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_naive_loop_reads_the_rows_of_the_papers(kind):
    for prompt in ([], [5, 6, 7], [5, MASK, 6, 7], [5, 6, GMASK], [5, SMASK, 9, START, 8, 4]):
        found = generate(KINDS[kind], prompt, Sampling(max_tokens=8), blanks=BLANKS)
        assert list(found.ids) == direct(KINDS[kind], prompt, 8)


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.tuples(prompts(), samplings, st.integers(0, 6)), min_size=1, max_size=6),
    st.integers(1, 4), st.integers(1, 60),
)  # fmt: skip
def test_equals_the_naive_reference(kind, arrivals, rows, chunk):
    torch.set_num_threads(1)
    batch = Batch(KINDS[kind], None, (END, 101), rows, chunk, blanks=BLANKS)
    numbers, completions, step = {}, {}, 0
    while step < 8 or not batch.idle:
        for place, (prompt, sampling, arrival) in enumerate(arrivals):
            if arrival == step:
                numbers[batch.add(prompt, sampling)] = place
        for piece in batch.step():
            if piece.completion is not None:
                completions[numbers[piece.request]] = piece.completion
        step += 1
    expected = [generate(KINDS[kind], prompt, how, (END, 101), blanks=BLANKS) for prompt, how, _ in arrivals]
    assert [completions[place] for place in range(len(arrivals))] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_row_whatever_the_batches(kind):
    model = KINDS[kind]
    items = [([5, 6, 7, 8, 9], 2), ([1], 1), ([7, MASK, 8, START, 4, 5], 4), (list(range(40)), 1)]
    expected = []
    for ids, first in items:
        context, answer = ids[:first], ids[first:]
        context, mask = (context[:-1], MASK) if MASK in context else ([*context, GMASK], GMASK)
        counts_on = model.config.position_axes == 1 and mask == GMASK
        row = answer_row(context, answer, mask=mask, start=START, end=END, counts_on=counts_on)
        made = batch_rows([row], pad=0, axes=model.config.position_axes)
        with torch.no_grad():
            logits = model(made.ids_BT, positions_BT=made.positions_BT, allowed_BTS=made.allowed_BTS)[0].log_softmax(-1)
        expected.append(sum(float(logits[len(context) + place, token]) for place, token in enumerate(answer)))
    for batch_tokens in (1, 8192):
        found = [one.total for one in score(model, items, batch_tokens=batch_tokens, blanks=BLANKS)]
        assert found == pytest.approx(expected, abs=1e-4, rel=1e-5)


def test_a_quantised_network_reads_the_same_way():
    small = quantize_model(KINDS["chatglm-6b"])
    ids = torch.randint(0, 250, (3, 20), generator=torch.Generator().manual_seed(1))
    assert compare(small, small, [ids], BLANKS)["tokens"] == 3 * 20
    prompt = [5, 6, 7]
    found = Engine(small, blanks=BLANKS).generate_batch([prompt, [9] * 11], Sampling(max_tokens=9))
    assert found[0] == generate(small, prompt, Sampling(max_tokens=9), blanks=BLANKS)


def test_what_cannot_be_read_is_refused():
    model, plain = KINDS["glm-130b"], make_model()
    engine = Engine(model, blanks=BLANKS)
    for ask in (
        lambda ids: generate(model, ids, Sampling(), blanks=BLANKS),
        lambda ids: engine.submit(ids, Sampling()),
    ):
        with pytest.raises(AthanorError, match="2 kinds of mask"):
            ask([1, GMASK, MASK])
    with pytest.raises(AthanorError, match="0 kinds of mask"):
        generate(model, [1, 2, START], Sampling(), blanks=BLANKS)
    with pytest.raises(AthanorError, match="64 tokens"):
        generate(model, [1] * 62, Sampling(), blanks=BLANKS)
    for run in (
        lambda: generate(model, [1], Sampling()), lambda: Engine(model), lambda: score(model, [([1, 2], 1)]),
        lambda: Engine(plain, blanks=BLANKS),
    ):  # fmt: skip
        with pytest.raises(AthanorError, match=r"both directions|left to right"):
            run()


def test_special_tokens_are_found_in_the_tokenizer():
    tokenizer = Tokenizer.train(["a b c"], 300)
    config = KINDS["chatglm-6b"].config
    assert find_blanks(make_model().config, tokenizer) is None
    with pytest.raises(AthanorError, match=r"\[gMASK\]"):
        find_blanks(config, tokenizer)
    tokenizer.core.add_special_tokens(["[gMASK]", "[MASK]", "<sop>"])
    ending, mask, start = (tokenizer.core.token_to_id(name) for name in ("[gMASK]", "[MASK]", "<sop>"))
    assert find_blanks(config, Tokenizer(tokenizer.core)) == Blanks(ending, (mask,), start)
