from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.base.errors import AthanorError
from athanor.data.packing.batches import IGNORED, Batches, Shuffle
from athanor.data.packing.conversations import pack_conversations
from athanor.data.packing.grouped import group_conversations
from athanor.data.packing.pack import TokenFiles, TokenWriter
from athanor.training.sft import row_of_conversation


@pytest.fixture
def packed(tmp_path):
    """`packed(lengths, shard_tokens)`: token files whose every token is unique, documents of these lengths."""

    def make(lengths, shard_tokens=1_024):
        folder = tmp_path / f"packed-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        writer = TokenWriter(folder, "train", np.uint32, shard_tokens)
        starts, place = [0], 0
        for length in lengths:
            writer.write(list(range(place, place + length)))
            place += length
            starts.append(place)
        writer.close()
        np.save(folder / "train-starts.npy", np.asarray(starts, dtype=np.int64))
        return TokenFiles(folder)

    return make


@settings(max_examples=60)
@given(st.integers(1, 3_000), st.integers(0, 2**64), st.integers(0, 5))
def test_a_shuffle_is_a_permutation_that_can_be_undone(size, seed, epoch):
    shuffle = Shuffle(size, seed)
    everything = np.arange(size, dtype=np.int64)
    places = shuffle.places(everything, epoch)
    assert sorted(places.tolist()) == everything.tolist()
    assert (shuffle.numbers(places, epoch) == everything).all()


def test_epochs_and_seeds_differ_and_look_random():
    first, second = (Shuffle(1_000, 1).places(np.arange(1_000), epoch) for epoch in (0, 1))
    other = Shuffle(1_000, 2).places(np.arange(1_000), 0)
    for left, right in ((first, second), (first, other)):
        assert (left == right).mean() < 0.01
        assert abs(np.corrcoef(left, right)[0, 1]) < 0.1
    assert abs(np.corrcoef(first, np.arange(1_000))[0, 1]) < 0.1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(1, 17), st.integers(1, 9), st.integers(0, 99))
def test_an_epoch_covers_every_token_once(tmp_path_factory, lengths, context, rows, seed):
    tokens = _tokens(tmp_path_factory.mktemp("t"), lengths)
    batches = Batches(tokens, context, rows, seed)
    windows = batches.windows
    seen = [ids for step in range(-(-windows // rows)) for ids in _rows(batches.batch(step))][:windows]
    read = sorted(token for ids, targets, documents in seen for token in ids[documents < tokens.documents].tolist())
    assert read == list(range(sum(lengths)))
    learnt = sorted(token for _, targets, _ in seen for token in targets[targets != IGNORED].tolist())
    beginnings = set(np.cumsum([0, *lengths]).tolist())
    assert learnt == [token for token in range(sum(lengths)) if token not in beginnings]


def _rows(batch):
    return zip(batch.ids_BT, batch.targets_BT, batch.documents_BT, strict=True)


def _tokens(folder, lengths):
    writer = TokenWriter(folder, "train", np.uint32, 64)
    starts = np.cumsum([0, *lengths])
    for start, end in pairwise(starts.tolist()):
        writer.write(list(range(start, end)))
    writer.close()
    np.save(folder / "train-starts.npy", starts.astype(np.int64))
    return TokenFiles(folder)


def test_targets_follow_their_ids_and_never_cross_a_document(packed):
    batches = Batches(packed([5, 9, 2, 30]), 7, 3)
    for step in range(batches.steps_per_epoch):
        for ids, targets, documents in _rows(batches.batch(step)):
            known = targets != IGNORED
            assert (targets[known] == ids[known] + 1).all()
            inside = documents[:-1] == documents[1:]
            assert (known[:-1] <= inside).all()


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 6, 11, 12])
def test_ranks_together_are_the_batch_of_one(packed, world):
    batches = Batches(packed([100, 250, 33, 400]), 16, 12, seed=5)
    for step in (0, 1, 7, 40):
        whole = batches.batch(step)
        parts = [batches.batch(step, rank, world) for rank in range(world)]
        for name in ("ids_BT", "targets_BT", "documents_BT"):
            assert (np.concatenate([getattr(part, name) for part in parts]) == getattr(whole, name)).all()


def test_a_batch_depends_on_its_numbers_only(packed):
    lengths = [100, 250, 33, 400]
    one, two = Batches(packed(lengths), 16, 4, seed=5), Batches(packed(lengths, 2_000), 16, 4, seed=5)
    for step in (9, 3, 100, 3):
        assert (one.batch(step).ids_BT == two.batch(step).ids_BT).all()
    assert (one.batch(3).ids_BT != Batches(packed(lengths), 16, 4, seed=6).batch(3).ids_BT).any()


def test_steps_of_a_document_are_the_steps_whose_batches_hold_it(packed):
    tokens = packed([100, 250, 33, 400, 7])
    batches = Batches(tokens, 16, 4, seed=2)
    held = {step: set(np.unique(batches.batch(step).documents_BT).tolist()) for step in range(60)}
    for document in range(tokens.documents):
        assert batches.steps_of(document, 60) == [step for step, there in held.items() if document in there]
    wanted = set(range(350 + 10, 350 + 13))  # tokens 10 to 13 of document 2
    expected = [step for step in range(60) if wanted & set(batches.batch(step).ids_BT.ravel().tolist())]
    assert batches.steps_of(2, 60, start=10, stop=13) == expected


def test_tokens_are_read_across_shards(packed):
    tokens = packed([3_000], shard_tokens=1_024)
    assert len(list(tokens.folder.glob("train-0*.npy"))) == 3
    for start, stop in ((0, 3_000), (1_020, 1_030), (1_024, 1_025), (2_990, 4_000), (3_000, 3_010)):
        assert tokens.read(start, stop).tolist() == list(range(start, min(stop, 3_000)))


def test_in_order_gives_the_corpus(packed):
    batches = Batches(packed([50, 60]), 16, 4)
    everything = np.concatenate([batches.in_order(0, 4).ids_BT, batches.in_order(4, 99).ids_BT]).ravel()
    assert everything[:110].tolist() == list(range(110))


def test_bad_numbers_are_refused(packed):
    batches = Batches(packed([100]), 16, 4)
    for arguments in ({"rank": 2, "world": 2}, {"world": 5}):
        with pytest.raises(AthanorError):
            batches.batch(0, **arguments)
    with pytest.raises(AthanorError, match="nothing to learn"):
        Batches(packed([1]), 16, 4)


def conversations(lengths):
    """Conversations of unique ids, the second half of each learnt."""
    place, made = 1, []
    for length in lengths:
        made.append((list(range(place, place + length)), [at >= length // 2 for at in range(length)]))
        place += length
    return made


@settings(max_examples=60)
@given(st.lists(st.integers(2, 20), min_size=1, max_size=40))
def test_conversations_are_packed_whole(lengths):
    made = conversations(lengths)
    packed = pack_conversations(made, 20)
    assert packed.conversations == len(made)
    found = {}
    for ids, targets, documents in zip(packed.ids_RT, packed.targets_RT, packed.documents_RT, strict=True):
        for number in np.unique(documents[documents < len(made)]):
            inside = np.flatnonzero(documents == number)
            assert (np.diff(inside) == 1).all() and number not in found
            found[int(number)] = (ids[inside], targets[inside])
        assert (targets[documents == len(made)] == IGNORED).all()
    for number, (ids, mask) in enumerate(made):
        read, targets = found[number]
        assert read.tolist() == ids
        assert targets.tolist() == [ids[at + 1] if mask[at + 1] else IGNORED for at in range(len(ids) - 1)] + [IGNORED]
    fewest = -(-sum(lengths) // 20)
    assert len(packed.ids_RT) <= 11 / 9 * fewest + 10  # far from a bad packing
    assert packed.learnt == sum(sum(mask[1:]) for _, mask in made)


def test_a_conversation_that_does_not_fit():
    made = conversations([5, 30])
    with pytest.raises(AthanorError, match="conversation 1 has 30 tokens"):
        pack_conversations(made, 20)
    cut = pack_conversations(made, 20, "truncate")
    assert cut.filled == 25 / 40 and cut.learnt == 3 + 5
    split = pack_conversations(made, 20, "split")
    assert split.conversations == 2 and sorted(split.ids_RT[split.documents_RT < 2].tolist()) == list(range(1, 36))


@pytest.mark.parametrize("grouped", [False, True])
def test_a_conversation_that_was_split_keeps_its_number(grouped):
    """What a step read is told by conversations: the pieces of a long one do not move the numbers behind it."""
    made = conversations([5, 50, 7, 6])
    rows = group_conversations(made, 1, 20, "split") if grouped else pack_conversations(made, 20, "split")
    assert rows.conversations == 4
    for step in range(rows.steps_per_epoch(1)):
        ids, members = rows.batch(step, 1, seed=3).ids_BT, rows.members(step, 1, seed=3)
        assert set(members) == {number for number, (own, _) in enumerate(made) if np.isin(own, ids).any()}
    where = rows.group_of_conversation() if grouped else row_of_conversation(rows)
    assert len(where) == 4 and len(set(where.tolist())) == (4 if grouped else 3)


def test_nothing_to_learn_is_an_error():
    with pytest.raises(AthanorError, match="answer to learn from"):
        pack_conversations([([1, 2, 3], [False] * 3)], 8)
    with pytest.raises(AthanorError):
        pack_conversations([], 8)


def test_packed_conversations_have_pure_batches():
    packed = pack_conversations(conversations([7] * 50), 16)
    assert len(packed.ids_RT) == 25
    rows = [packed.batch(step, 5, seed=1) for step in range(packed.steps_per_epoch(5))]
    seen = np.concatenate([batch.ids_BT for batch in rows])
    assert sorted(seen[seen > 0].tolist()) == list(range(1, 351))
    halves = [packed.batch(3, 4, 1, rank, 2).ids_BT for rank in (0, 1)]
    assert (np.concatenate(halves) == packed.batch(3, 4, 1).ids_BT).all()
