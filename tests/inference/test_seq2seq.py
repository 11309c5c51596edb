"""What encoder-decoders write: as `transformers` writes it, one source alone and many side by side."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base.errors import AthanorError
from athanor.inference.beam import Beams, BeamSearch
from athanor.inference.sampling import Sampling
from athanor.inference.seq2seq import Decoding, generate, generate_batch
from tests.inference.conftest import ByteTokenizer
from tests.parity.seq2seq import CASES, END, PADDING, START, pair_of, random_ids, random_source

transformers = pytest.importorskip("transformers")
LENGTHS = [30, 17, 6, 1]
LANGUAGE = 61
FEW = ("t5", "mt5, untied", "m2m_100, unlike trunks", "whisper, unlike trunks, untied")
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in CASES if name not in FEW]


def sources_of(ours: torch.nn.Module) -> list:
    if not hasattr(ours, "hear"):
        return [row[:length].tolist() for row, length in zip(random_ids(4, 30, seed=5), LENGTHS, strict=True)]
    return list(random_source(ours, 4))


ENDS = (END, 20, 33, 47, 58, 71, 90)  # many, so that random networks end at different places


def their_answers(
    theirs: torch.nn.Module, sources: list, prompt: list[int], ends: tuple[int, ...], **how
) -> list[tuple[int, ...]]:
    """What they write behind the prompt, without the end and the padding behind it; all sources in one batch."""
    if isinstance(sources[0], torch.Tensor):
        given = {"inputs": torch.stack(sources)}
    else:
        longest = max(map(len, sources))
        rows = [[*source, *[PADDING] * (longest - len(source))] for source in sources]
        seen = [[1] * len(source) + [0] * (longest - len(source)) for source in sources]
        given = {"inputs": torch.tensor(rows), "attention_mask": torch.tensor(seen)}
    theirs.generation_config.suppress_tokens = theirs.generation_config.begin_suppress_tokens = None
    # Their cache has as many layers as the encoder, too few where the decoder has more: they write without.
    written = transformers.GenerationMixin.generate(
        theirs, **given, decoder_input_ids=torch.tensor([prompt] * len(sources)), use_cache=False, do_sample=False,
        eos_token_id=list(ends), pad_token_id=PADDING, **how,
    )  # fmt: skip
    rows = [row[len(prompt) :].tolist() for row in written]
    stops = [next((place for place, token in enumerate(row) if token in ends), len(row)) for row in rows]
    return [tuple(row[:stop]) for row, stop in zip(rows, stops, strict=True)]


@pytest.mark.parametrize("case", [*FEW, *OTHERS])
def test_greedy_texts_are_theirs(case):
    theirs, ours = pair_of(case)
    sources = sources_of(ours)
    for prompt, count in (((START,), 12), ((START, LANGUAGE, 9), 7)):
        expected = their_answers(theirs, sources, list(prompt), ENDS, max_new_tokens=count, num_beams=1)
        decoding = Decoding(start=prompt, ends=ENDS)
        found = generate_batch(ours, sources, Sampling(max_tokens=count), decoding)
        assert [one.ids for one in found] == expected
        assert found == [generate(ours, source, Sampling(max_tokens=count), decoding) for source in sources]


@pytest.mark.parametrize("case", [*FEW, *OTHERS])
@pytest.mark.parametrize(
    ("beams", "forced", "ends"),
    [
        (Beams(count=3), False, ENDS[:2]), (Beams(count=4, length_penalty=2.0), True, ENDS),
        (Beams(count=2, early=True, length_penalty=0.5), True, ENDS[:4]),
        (Beams(count=5, length_penalty=-1.0), False, ENDS),
    ],
)  # fmt: skip
def test_beams_find_what_theirs_find(case, beams, forced, ends):
    theirs, ours = pair_of(case)
    sources = sources_of(ours)
    decoding = Decoding(start=(START,), forced=(LANGUAGE,) if forced else (), ends=ends, beams=beams)
    expected = their_answers(
        theirs, sources, [START], ends, max_new_tokens=8 + forced, num_beams=beams.count, early_stopping=beams.early,
        length_penalty=beams.length_penalty, forced_bos_token_id=LANGUAGE if forced else None,
    )  # fmt: skip
    found = generate_batch(ours, sources, Sampling(max_tokens=8), decoding)
    assert [one.ids for one in found] == [ids[forced:] for ids in expected]
    assert found == [generate(ours, source, Sampling(max_tokens=8), decoding) for source in sources]


def test_texts_differ_in_length_and_words():
    """What the comparisons above compare is no single repeated answer."""
    ours = pair_of("mt5, untied")[1]
    found = generate_batch(ours, sources_of(ours), Sampling(max_tokens=12), Decoding(start=(START,), ends=ENDS))
    assert len({one.ids for one in found}) == 4 and len({len(one.ids) for one in found}) > 1


@pytest.mark.parametrize("case", FEW)
def test_samples_are_the_same_in_any_company(case):
    ours = pair_of(case)[1]
    sources, decoding = sources_of(ours) * 2, Decoding(start=(START,), ends=ENDS[:2], never=(7,), never_first=(8, 9))
    how = [
        Sampling(temperature=1.5, seed=number, max_tokens=3 + number, frequency_penalty=0.5, top_k=40)
        for number in range(8)
    ]
    alone = [generate(ours, source, one, decoding) for source, one in zip(sources, how, strict=True)]
    for rows in (3, 32):
        assert generate_batch(ours, sources, how, decoding, rows=rows) == alone
    assert all(7 not in one.ids and not {8, 9} & set(one.ids[:1]) for one in alone)


def test_stop_strings_and_text():
    ours = pair_of("t5, untied")[1]
    sources, decoding = sources_of(ours), Decoding(start=(START,))
    plain = generate_batch(ours, sources, Sampling(max_tokens=9), decoding, ByteTokenizer())
    assert [one.text for one in plain] == [bytes(one.ids).decode("utf-8", "replace") for one in plain]
    stop = plain[0].text[2:4]
    how = Sampling(max_tokens=9, stop=(stop,))
    found = generate_batch(ours, sources, how, decoding, ByteTokenizer())
    assert found[0].text == plain[0].text[: plain[0].text.find(stop)] and found[0].finish_reason == "stop"
    assert found == [generate(ours, source, how, decoding, ByteTokenizer()) for source in sources]


@given(st.integers(2, 5), st.integers(1, 4), st.sampled_from([-1.0, 0.0, 1.0, 2.0]), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_beam_that_holds_every_beginning_finds_the_likeliest_text(vocabulary, limit, penalty, seed):
    """Against all texts there are; token 0 ends one."""
    table = torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    count = min(64, vocabulary**limit)
    search = BeamSearch(Beams(count=count, length_penalty=penalty), [0], limit)
    while not search.done:
        search.step(torch.stack([table[text[-1] if text else 1] for text in search.texts]))
    scores = {}
    for text in itertools.chain(*(itertools.product(range(vocabulary), repeat=size) for size in range(1, limit + 1))):
        if 0 not in text[:-1] and (text[-1] == 0 or len(text) == limit):
            told = sum(float(table[last, token]) for last, token in zip((1, *text), text, strict=False))
            scores[text] = told / len(text) ** penalty
    if count == vocabulary**limit:  # every beginning was kept
        assert search.ended[0].score == pytest.approx(max(scores.values()), abs=1e-5)
    assert search.ended[0].score == pytest.approx(scores[search.ended[0].ids], abs=1e-5)


@pytest.mark.parametrize(
    ("source", "sampling", "changed", "said"),
    [
        ([], Sampling(), {}, "0 tokens"), ([1, 97], Sampling(), {}, "97"), ([1], Sampling(), {"start": ()}, "begins"),
        ([1], Sampling(), {"forced": (97,)}, "97"), ([5] * 49, Sampling(), {}, "49 tokens"),
        ([1], Sampling(stop=("a",)), {}, "tokenizer"),
        ([1], Sampling(temperature=1.0), {"beams": Beams(count=2)}, "beam"),
        ([1], Sampling(frequency_penalty=1.0), {"beams": Beams(count=2)}, "beam"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused(source, sampling, changed, said):
    ours = pair_of("m2m_100")[1]
    decoding = Decoding(**{"start": (START,), **changed})
    for write in (generate, lambda model, one, *more: generate_batch(model, [one], *more)):
        with pytest.raises(AthanorError, match=said):
            write(ours, source, sampling, decoding)
    with pytest.raises(AthanorError, match="beams=0"):
        Beams(count=0)
