"""Mixtures: shares to within a row, batches that depend on their numbers only, and GPT-3's published table."""

import hashlib
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.base.progress import SilentProgress
from athanor.base.records import write_records
from athanor.base.settings import parse_settings
from athanor.data.packing.batches import IGNORED, Batches
from athanor.data.packing.interleave import Interleaving, Phase
from athanor.data.packing.mixed import MixedBatches, Selection
from athanor.data.packing.mixture import (
    MIXTURE,
    MixSettings,
    document_ids,
    measured_mixture,
    mix_sources,
    mixture_table,
    open_batches,
    open_sources,
    planned_mixture,
    shares_of,
    tempered,
)
from athanor.data.packing.order import ReadingOrder, keep_order
from athanor.data.packing.pack import TokenFiles, TokenWriter
from tests.data.conftest import RunStep

ONE = [(1.0, {"only": 1.0})]


class Corpus:
    """A packed corpus in memory: documents of these lengths, every token its place plus `first`."""

    def __init__(self, lengths, first=0):
        self.starts_D = np.cumsum([0, *lengths]).astype(np.int64)
        self.tokens, self.first = int(self.starts_D[-1]), first

    def read(self, start, stop):
        return np.arange(start, min(stop, self.tokens), dtype=np.int64) + self.first


def same(one, other):
    return all((getattr(one, name) == getattr(other, name)).all() for name in ("ids_BT", "targets_BT", "documents_BT"))


# --------------------------------------------------------------------------------------------------------- interleaving

weights = st.lists(st.floats(0.02, 1), min_size=1, max_size=8)


@settings(max_examples=30, deadline=None)
@given(weights, st.integers(0, 2**63), st.integers(1, 9_000))
def test_every_prefix_has_its_shares(given_weights, seed, rows):
    """Within two rows per source at any place, and within one of them at a block's end, however far."""
    shares_S = np.array(given_weights) / sum(given_weights)
    dealt = Interleaving([Phase(0, shares_S)], seed)
    sources_R, numbers_R = dealt.at(np.arange(rows))
    counts_S = np.bincount(sources_R, minlength=len(shares_S))
    assert (counts_S == dealt.counts(rows)).all()
    assert (np.abs(counts_S - rows * shares_S) <= 2).all()
    for source in range(len(shares_S)):
        assert numbers_R[sources_R == source].tolist() == list(range(counts_S[source]))
    far = 1_024 * 987_654_321
    assert (np.abs(dealt.counts(far) - far * shares_S) <= 1.01).all() and dealt.counts(far).sum() == far


@settings(max_examples=30, deadline=None)
@given(weights, weights, st.integers(1, 5_000), st.integers(0, 99))
def test_phases_follow_one_another_and_can_be_undone(one, other, second, seed):
    size = min(len(one), len(other))
    phases = [
        Phase(0, np.array(one[:size]) / sum(one[:size])),
        Phase(second, np.array(other[:size]) / sum(other[:size])),
    ]
    dealt, rows = Interleaving(phases, seed), second + 3_000
    sources_R, numbers_R = dealt.at(np.arange(rows))
    assert (np.bincount(sources_R[:second], minlength=size) == dealt.counts(second)).all()
    later_S = np.bincount(sources_R[second:], minlength=size)
    assert (np.abs(later_S - 3_000 * phases[1].shares_S) <= 2).all()
    for source in range(size):
        places = np.flatnonzero(sources_R == source)
        assert numbers_R[places].tolist() == list(range(len(places)))
        chosen = places[:: max(1, len(places) // 20)]
        assert dealt.rows_of(source, numbers_R[chosen], rows).tolist() == chosen.tolist()
        assert dealt.rows_of(source, numbers_R[places[-1:]], rows - 1).tolist() == [
            p for p in places[-1:] if p < rows - 1
        ]


def test_any_few_steps_have_nearly_the_shares_of_the_whole():
    shares_S = np.array([0.6, 0.22, 0.08, 0.07, 0.03])
    sources_R, _ = Interleaving([Phase(0, shares_S)], 3).at(np.arange(40_960))
    counts = np.stack([np.bincount(part, minlength=5) for part in sources_R.reshape(-1, 64)])
    assert np.abs(counts - 64 * shares_S).max() <= 4  # independent draws would be off by 16 somewhere
    again, _ = Interleaving([Phase(0, shares_S)], 4).at(np.arange(40_960))
    assert (again != sources_R).mean() > 0.3


def test_a_share_too_small_to_be_dealt_is_refused():
    small = np.array([1.0, 1e-5])
    sources_R, _ = Interleaving([Phase(0, small / small.sum())], 1).at(np.arange(1 << 20))
    assert abs(int((sources_R == 1).sum()) - 10.49) <= 1.5
    with pytest.raises(AthanorError, match="less than one in"):
        Interleaving([Phase(0, np.array([1.0, 1e-8]))], 1)


# -------------------------------------------------------------------------------------------------------------- batches


def test_the_batches_of_one_corpus_are_those_they_always_were(tmp_path):
    """The digest was made before mixtures existed."""
    lengths, place = [37, 5, 812, 64, 64, 1, 3_000, 250, 90, 7] * 3, 0
    writer = TokenWriter(tmp_path, "train", np.uint16, 1_024)
    for length in lengths:
        writer.write([number * 7_919 % 50_021 for number in range(place, place + length)])
        place += length
    writer.close()
    np.save(tmp_path / "train-starts.npy", np.cumsum([0, *lengths]).astype(np.int64))
    digest = hashlib.blake2b(digest_size=16)
    for context, rows, seed in ((64, 8, 0), (33, 6, 5), (256, 4, 2**63 + 1)):
        batches = open_batches(tmp_path, context, rows, seed)
        mixed = MixedBatches({"only": TokenFiles(tmp_path)}, ONE, context, rows, seed)
        for step in (0, 1, 2, 17, 400):
            for world in (1, 2):
                for rank in range(world):
                    batch = batches.batch(step, rank, world)
                    assert same(batch, mixed.batch(step, rank, world))
                    for array in (batch.ids_BT, batch.targets_BT, batch.documents_BT):
                        digest.update(array.tobytes())
    assert digest.hexdigest() == "3761d1b93c2a3e09f2f3967e850d46e7"


@pytest.fixture
def three():
    """Three sources whose tokens tell them apart; the smallest is read many times."""
    return {
        "books": Corpus([900, 40, 700, 1], first=100_000), "web": Corpus([50, 300, 7, 2_000] * 6),
        "wiki": Corpus([90, 33, 200], first=200_000),
    }  # fmt: skip


STAGES = [(0.25, {"web": 8, "books": 1, "wiki": 1}), (1.0, {"web": 2, "books": 4, "wiki": 4})]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_same_rows_whatever_the_world(three, world):
    whole, shared = (MixedBatches(three, STAGES, 32, 8, seed=5, steps=400) for _ in range(2))
    for step in (399, 0, 1, 99, 100, 101, 250):
        parts = [shared.batch(step, rank, world) for rank in range(world)]
        batch = whole.batch(step)
        for name in ("ids_BT", "targets_BT", "documents_BT"):
            assert (np.concatenate([getattr(part, name) for part in parts]) == getattr(batch, name)).all()
    for arguments in ({"rank": 2, "world": 2}, {"world": 9}):
        with pytest.raises(AthanorError):
            whole.batch(0, **arguments)


def test_windows_stay_inside_their_source_and_documents_are_told_apart(three):
    batches = MixedBatches(three, STAGES, 32, 8, seed=5, steps=400)
    owner: dict[int, tuple[str, int]] = {}
    for step in range(400):
        batch = batches.batch(step)
        for ids, targets, documents in zip(batch.ids_BT, batch.targets_BT, batch.documents_BT, strict=True):
            known = targets != IGNORED
            assert (targets[known] == ids[known] + 1).all()
            assert (known[:-1] <= (documents[:-1] == documents[1:])).all()
            for number in np.unique(documents[known]).tolist():
                place = int(ids[known & (documents == number)][0])
                name = {0: "web", 1: "books", 2: "wiki"}[place // 100_000]
                corpus = three[name]
                document = int(np.searchsorted(corpus.starts_D, place - corpus.first, side="right")) - 1
                assert owner.setdefault(number, (name, document)) == (name, document)
    assert len(set(owner.values())) == len(owner)


def test_each_source_is_read_as_it_would_be_alone(three):
    batches = MixedBatches(three, STAGES, 32, 8, seed=5, steps=400)
    rows = np.concatenate([batches.batch(step).ids_BT for step in range(400)])
    for name, corpus in three.items():
        alone = Batches(corpus, 32, 1, seed=5)
        mine = rows[(rows[:, 0] // 100_000) == corpus.first // 100_000]
        for number, row in enumerate(mine):
            assert (row == alone.batch(number).ids_BT[0]).all(), name


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.integers(2_000, 40_000), st.floats(0.05, 1)), min_size=1, max_size=5),
    st.integers(8, 64), st.integers(0, 2**40),
)  # fmt: skip
def test_the_realised_mixture_is_within_a_hundredth_of_the_weights(sources, context, seed):
    """Counted in tokens of real batches, padding left out."""
    corpora = {str(n): Corpus([size], first=n * 10**6) for n, (size, _) in enumerate(sources)}
    wanted = {str(n): weight / sum(w for _, w in sources) for n, (_, weight) in enumerate(sources)}
    batches, steps = MixedBatches(corpora, [(1.0, wanted)], context, 8, seed, 250), 250
    read = dict.fromkeys(corpora, 0)
    for step in range(steps):
        batch = batches.batch(step)
        for ids, documents in zip(batch.ids_BT, batch.documents_BT, strict=True):
            name = str(ids[0] // 10**6)
            read[name] += int((documents == documents[0]).sum())
    assert read == batches.tokens_read(steps)
    for name, count in read.items():
        assert abs(count / sum(read.values()) - wanted[name]) <= 0.01
    measured = measured_mixture(batches, steps)
    for name, row in measured["sources"].items():
        assert row["epochs"] == pytest.approx(read[name] / corpora[name].tokens, abs=1e-3)


def test_a_curriculum_changes_the_shares_at_its_step(three):
    batches = MixedBatches(three, STAGES, 32, 8, seed=5, steps=400)
    first, whole = batches.tokens_read(100), batches.tokens_read(400)
    later = {name: whole[name] - first[name] for name in whole}
    for read, weights_ in ((first, STAGES[0][1]), (later, STAGES[1][1])):
        for name, count in read.items():
            assert count / sum(read.values()) == pytest.approx(weights_[name] / 10, abs=0.01)
    heavy = [(0.25, {"web": 1, "books": 0, "wiki": 0}), (1.0, {"web": 0, "books": 1, "wiki": 1})]
    sharp = MixedBatches(three, heavy, 32, 8, seed=5, steps=400)
    assert set(sharp.documents_of(99)) <= {("web", number) for number in range(24)}
    assert not any(name == "web" for name, _ in sharp.documents_of(100))
    ending = MixedBatches(three, STAGES, 32, 8, seed=5)  # no number of steps: the last stage throughout
    read = ending.tokens_read(100)
    assert read["books"] / sum(read.values()) == pytest.approx(0.4, abs=0.01)
    only = MixedBatches(three, STAGES[1:], 32, 8, seed=5, steps=77)
    assert same(only.batch(9), ending.batch(9))


def test_steps_of_a_document_are_the_steps_whose_batches_hold_it(three):
    batches = MixedBatches(three, STAGES, 32, 4, seed=2, steps=120)
    held: dict[int, set[int]] = {step: set(batches.batch(step).ids_BT.ravel().tolist()) for step in range(90)}
    for name, corpus in three.items():
        for document in range(len(corpus.starts_D) - 1):
            first, last = corpus.starts_D[document : document + 2].tolist()
            there = set(range(first + corpus.first, last + corpus.first)) - {0}
            expected = [step for step, ids in held.items() if ids & there]
            assert batches.steps_of(name, document, 90) == expected, (name, document)
    wanted = {100_000 + 940 + 5, 100_000 + 940 + 6}
    assert batches.steps_of("books", 2, 90, 5, 7) == [step for step, ids in held.items() if ids & wanted]


def test_a_step_names_its_sources_and_documents(three):
    batches = MixedBatches(three, STAGES, 32, 8, seed=5, steps=400)
    for step in (0, 3, 200):
        batch = batches.batch(step)
        sources_BT = batches.sources_of(batch.documents_BT)
        places = {"web": 0, "books": 1, "wiki": 2}
        for ids, sources in zip(batch.ids_BT, sources_BT, strict=True):
            (source,) = set(sources.tolist())  # also where the row is padded
            assert places[batches.names[source]] == ids[0] // 100_000
        read = set()
        for ids, source in zip(batch.ids_BT, sources_BT[:, 0].tolist(), strict=True):
            corpus = three[batches.names[source]]
            there = ids[ids >= corpus.first] - corpus.first if corpus.first else ids[: 1 + int(np.flatnonzero(ids)[-1])]
            numbers = np.searchsorted(corpus.starts_D, there, side="right") - 1
            read |= {(batches.names[source], int(number)) for number in numbers}
        assert set(batches.documents_of(step)) == read


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=20), st.data())
def test_a_selection_reads_the_chosen_documents_and_no_others(documents, data):
    corpus = Corpus([length for length, _ in documents])
    chosen = np.array([n for n, (_, taken) in enumerate(documents) if taken], dtype=np.int64)
    other = Corpus([5, 4], first=1_000)
    selection = Selection([(corpus, chosen), (other, np.array([1], dtype=np.int64))])
    expected = [token for n in chosen.tolist() for token in range(*corpus.starts_D[n : n + 2].tolist())]
    expected += list(range(1_005, 1_009))
    start = data.draw(st.integers(0, len(expected)))
    stop = data.draw(st.integers(start, len(expected) + 9))
    assert selection.read(start, stop).tolist() == expected[start:stop]
    assert selection.tokens == len(expected)
    lengths = [documents[n][0] for n in chosen.tolist()] + [4]
    assert np.diff(selection.starts_D).tolist() == lengths


# ---------------------------------------------------------------------------------------------------- published numbers

GPT3 = {  # Brown et al. 2020, table 2.2: tokens (billions), weight (%), epochs in 300 billion tokens
    "common crawl": (410, 60, 0.44), "webtext2": (19, 22, 2.9), "books1": (12, 8, 1.9), "books2": (55, 8, 0.43),
    "wikipedia": (3, 3, 3.4),
}  # fmt: skip


def test_gpt3s_table_from_its_own_token_counts():
    """Epochs follow from weights and sizes within the rounding of all three, but for WebText2: at 22 % of 300 billion
    tokens a source of 19 billion is read 3.3 to 3.6 times, and the paper prints 2.9."""
    sizes = {name: tokens * 10**9 for name, (tokens, _, _) in GPT3.items()}
    given_weights = parse_settings(MixSettings, {"weights": {name: w for name, (_, w, _) in GPT3.items()}}, "mix")
    stages = [(1.0, shares_of(given_weights, sizes, "weights"))]
    planned = planned_mixture(sizes, stages, 300 * 10**9)
    context, rows = 2_048, 1_600  # the batch of 3.2 million tokens
    steps = 300 * 10**9 // (context * rows)
    batches = MixedBatches({n: Corpus([size]) for n, size in sizes.items()}, stages, context, rows, 1, steps)
    measured = measured_mixture(batches, steps)["sources"]
    for name, (tokens, weight, epochs) in GPT3.items():
        assert measured[name]["epochs"] == pytest.approx(planned[name]["epochs"], rel=1e-3)
        assert measured[name]["share"] == pytest.approx(weight / 101, abs=1e-4)  # the printed weights add up to 101
        least, most = (300 * (weight + way) / 101 / (tokens - way) for way in (-0.5, 0.5))
        assert least < measured[name]["epochs"] < most
        digits = 0.05 if epochs > 1 else 0.005
        assert (least <= epochs + digits and most >= epochs - digits) == (name != "webtext2")
    assert round(measured["common crawl"]["epochs"], 2) == 0.43 and round(measured["books2"]["epochs"], 2) == 0.43
    table = mixture_table(measured, 300 * 10**9)
    assert "410 G" in table and "59.41 %" in table


def test_alpha_is_mt5s_and_its_inverse_the_temperature():
    """p proportional to n^alpha (Xue et al. 2021, section 3.2)."""
    sizes = {"en": 2_733, "ru": 713, "de": 347, "sw": 1, "none": 0}  # mC4's billions of tokens, and an empty one
    powers = {name: count**0.3 for name, count in sizes.items() if count}
    expected = {name: power / sum(powers.values()) for name, power in powers.items()} | {"none": 0.0}
    assert tempered(sizes, 0.3) == pytest.approx(expected)
    one, other = (shares_of(MixSettings(**rule), sizes, "") for rule in ({"alpha": 0.3}, {"temperature": 1 / 0.3}))
    assert one == pytest.approx(other)
    assert shares_of(MixSettings(), sizes, "") == pytest.approx({n: c / 3_794 for n, c in sizes.items()})
    assert tempered(sizes, 0.0) == pytest.approx({"en": 0.25, "ru": 0.25, "de": 0.25, "sw": 0.25, "none": 0.0})


# ------------------------------------------------------------------------------------------------------------- the step


@pytest.fixture
def packed(run_step: RunStep):
    """`packed(first, documents)`: a packed corpus as the step `pack` leaves it; documents are (length, language)."""

    def make(first, documents):
        def fill(_settings, _parents, folder, _progress):
            for split in ("train", "heldout"):
                writer = TokenWriter(folder, split, np.uint32, 4_096)
                place = first
                for length, _ in documents:
                    writer.write(list(range(place, place + length)))
                    place += length
                writer.close()
                starts = np.cumsum([0, *(length for length, _ in documents)]).astype(np.int64)
                np.save(folder / f"{split}-starts.npy", starts)
                table = ({"id": f"{first}/{n}", "language": code} for n, (_, code) in enumerate(documents))
                write_records(folder / f"{split}-documents.jsonl.zst", table)
            return {"tokens": int(starts[-1])}

        return run_step(fill, None)

    return make


def test_sources_are_linked_not_copied_and_read_in_their_shares(packed, run_step: RunStep):
    web, books = packed(0, [(700, "en"), (5_000, "en"), (900, "zh")]), packed(10**6, [(800, "en"), (40, None)])
    made = run_step(
        mix_sources, MixSettings(weights={"web": 3, "books": 1}), **{"sources.web": web, "sources.books": books}
    )
    assert {name.partition("/")[0] for name in made.record["files"]} == {"web", "books", MIXTURE}
    for name, source in (("web", web), ("books", books)):
        for file in source.record["files"]:
            assert (made.path / name / file).samefile(source.path / file)
    assert made.measurements["sources"]["books"] == {"size": 840, "share": 0.25, "epochs": round(0.25 * 7_440 / 840, 4)}
    batches = open_batches(made.path, 16, 8, seed=1, steps=100)
    rows = np.concatenate([batches.batch(step).ids_BT[:, 0] for step in range(100)])
    assert (rows >= 10**6).mean() == pytest.approx(0.25, abs=0.01)
    expected = {f"{name}: {number // 10**6 * 10**6}/" for name, number in (("web", 0), ("books", 10**6))}
    named = {name for step in range(9) for name in document_ids(made.path, batches, step)}
    assert {name.rpartition("/")[0] + "/" for name in named} == expected
    plain = open_batches(web.path, 16, 8, seed=1)
    assert document_ids(web.path, plain, 0) == [f"0/{number}" for number in plain.documents_of(0)]
    made.verify()


def test_languages_are_mixed_whatever_their_source(packed, run_step: RunStep):
    sources = {
        "sources.web": packed(0, [(3_000, "en"), (90, "zh"), (5_000, "en"), (10, "zh")]),
        "sources.old": packed(10**6, [(200, "zh"), (40, None), (60, "en")]),
    }
    made = run_step(mix_sources, MixSettings(by="language", alpha=0.3), **sources)
    sizes = {name: source.tokens for name, source in open_sources(made.path, "language").items()}
    assert sizes == {"en": 8_060, "und": 40, "zh": 300}
    stored = read_json(made.file(MIXTURE))
    assert stored["stages"][0]["weights"] == pytest.approx(tempered(sizes, 0.3))
    batches = open_batches(made.path, 8, 8, seed=1, steps=300)
    chinese = {*range(3_000, 3_090), *range(8_090, 8_100), *range(10**6, 10**6 + 200)}
    rows = np.concatenate([batches.batch(step).ids_BT for step in range(300)])
    inside = np.isin(rows, list(chinese))
    assert (inside | (rows == 0)).all(axis=1)[inside[:, 0]].all()  # a window holds one language, and padding
    assert inside[:, 0].mean() == pytest.approx(tempered(sizes, 0.3)["zh"], abs=0.02)
    named = {name for step in range(300) for name in document_ids(made.path, batches, step) if name.startswith("zh")}
    assert named == {"zh: 0/1", "zh: 0/3", "zh: 1000000/0"}
    assert set(rows[inside].tolist()) == chinese


def test_a_source_of_weight_nothing_is_not_read(packed, run_step: RunStep):
    sources = {"sources.web": packed(0, [(3_000, "en")]), "sources.empty": packed(0, [(1, "en")])}
    made = run_step(mix_sources, MixSettings(weights={"web": 1, "empty": 0}), **sources)
    assert open_batches(made.path, 8, 8, seed=1).names == ["web"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"weights": {"web": 1}}, "books without a weight"),
        ({"weights": {"web": 1, "boks": 1}}, "no 'boks'"),
        ({"weights": {"web": 1, "books": -1}}, "at least 0"),
        ({"weights": {"web": 0, "books": 0}}, "one is above"),
        ({"weights": {"web": 1, "books": 1}, "alpha": 0.3}, "exclude one another"),
        ({"temperature": 0}, "temperature"),
        ({"curriculum": [{"until": 0.5}]}, "the last is 1"),
        ({"curriculum": [{"until": 0.5}, {"until": 0.4}, {"until": 1}]}, "must rise"),
        ({"curriculum": [{"until": 1}], "alpha": 0.3}, "stand in its stages"),
        ({"curriculum": [{"until": 0.5, "weights": {"web": 1}}, {"until": 1}]}, "curriculum until 0.5: books"),
    ],
)
def test_weights_that_make_no_sense_are_refused(values, said, packed, run_step: RunStep):
    sources = {"sources.web": packed(0, [(30, "en")]), "sources.books": packed(0, [(30, "en")])}
    with pytest.raises(AthanorError, match=said):
        run_step(mix_sources, parse_settings(MixSettings, values, "mix"), **sources)


def test_what_does_not_fit_together_is_refused(packed, run_step: RunStep):
    web, books = packed(0, [(30, "en")]), packed(0, [(30, "en")])
    mixture = run_step(mix_sources, MixSettings(), **{"sources.web": web, "sources.books": books})
    with pytest.raises(AthanorError, match="a mixture itself"):
        run_step(mix_sources, MixSettings(), **{"sources.all": mixture, "sources.web": web})
    for artifact, tokenizer in ((web, "tokenizer-1"), (books, "tokenizer-2")):
        artifact.record["parents"] = {"tokenizer": tokenizer}
    with pytest.raises(AthanorError, match="different tokenizers: web with tokenizer-1, books with tokenizer-2"):
        run_step(mix_sources, MixSettings(), **{"sources.web": web, "sources.books": books})


def make_folder(place):
    (place / "again").mkdir()
    return place / "again"


STEPS, CONTEXT, ROWS = 40, 16, 4


@pytest.mark.parametrize("by", ["source", "language"])
def test_the_order_kept_in_an_index_tells_the_steps_that_read_a_text(by, packed, run_step: RunStep, tmp_path):
    """Every token of these corpora is its own number, so the truth is found by looking through all batches."""
    web = packed(0, [(70, "en"), (500, "zh"), (90, None), (33, "en")])
    books = packed(10**6, [(300, "en"), (40, "zh"), (20, "en")])
    weights = {"web": 3, "books": 1} if by == "source" else {"en": 5, "zh": 1, "und": 0}
    stages = [{"until": 0.5, "weights": weights}, {"until": 1.0, "weights": dict.fromkeys(weights, 1)}]
    for changes in ({"weights": weights}, {"curriculum": stages}):
        settings = parse_settings(MixSettings, {"by": by, **changes}, "mix")
        mixture = run_step(mix_sources, settings, **{"sources.web": web, "sources.books": books})
        folder = tmp_path / f"order of {len(changes)} {next(iter(changes))}"
        keep_order(mixture, folder)
        assert not list(folder.rglob("train-0*")), "the tokens themselves are not kept"
        plan = {"steps": STEPS, "context": CONTEXT, "rows": ROWS, "seed": 5}
        tuning = {"steps": 7, "context": CONTEXT, "rows": 3, "seed": 6, "document_rows": 2}
        order = ReadingOrder(folder, {"pretrained": plan, "finetuned": tuning}, None)
        batches = open_batches(mixture.path, CONTEXT, ROWS, 5, STEPS)
        again = open_batches(mixture.path, CONTEXT, 2, 6)
        read = [np.unique(batches.batch(step).ids_BT) for step in range(STEPS)]
        reread = [np.unique(again.batch(step).ids_BT) for step in range(7)]
        for name, artifact, first in (("web", web, 0), ("books", books, 10**6)):
            starts = TokenFiles(artifact.path).starts_D
            for number, (begin, end) in enumerate(itertools.pairwise(starts.tolist())):
                for start, stop in ((0, end - begin), (3, 5), (11, 20)):
                    wanted = np.arange(begin + start, begin + stop) + first
                    wanted = wanted[wanted > 0]  # 0 is also the padding
                    found = order.of_document(name, number, start, stop)
                    assert found["pretrained"] == [n for n, ids in enumerate(read) if np.isin(wanted, ids).any()]
                    assert found["finetuned"] == [n for n, ids in enumerate(reread) if np.isin(wanted, ids).any()]
        assert order.measured()["pretrained"]["sources"].keys() == {
            n for n, w in weights.items() if w or "curriculum" in changes
        }


def test_the_table_is_told(packed, run_step: RunStep, tmp_path):
    told: list[str] = []
    progress = SilentProgress()
    progress.note = told.append  # type: ignore[method-assign]
    parents = {"sources.web": packed(0, [(3_000, "en")]), "sources.books": packed(0, [(500, "en")])}
    mix_sources(MixSettings(train_tokens=7_000, weights={"web": 1, "books": 1}), parents, tmp_path, progress)
    assert "epochs in 7 k tokens" in told[0] and "7.00" in told[0] and "1.17" in told[0]
    assert len(told) == 1
    mix_sources(MixSettings(train_tokens=70_000), parents, make_folder(tmp_path), progress)
    assert told[2].startswith("  books will be read 20 times")
    assert json.loads((tmp_path / MIXTURE).read_text())["stages"] == [
        {"until": 1.0, "weights": {"books": 0.5, "web": 0.5}}
    ]
