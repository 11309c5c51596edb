"""XLNet against `transformers`: both streams, orders, segments, padding, memories, gradients."""

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.models.settings import read_config
from tests.parity.reference import (
    TOLERANCE,
    assert_gradients_equal,
    assert_loads_there,
    difference,
    disturb,
    loaded,
)

transformers = pytest.importorskip("transformers")

VOCABULARY, LENGTH = 83, 18
COMMON = dict(vocab_size=VOCABULARY, d_model=32, n_layer=3, n_head=4, d_inner=72, layer_norm_eps=1e-3, mem_len=None)
CASES = {"both ways": COMMON, "left to right": {**COMMON, "attn_type": "uni", "ff_activation": "relu"}}


@pytest.fixture(params=CASES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    torch.manual_seed(0)
    theirs = disturb(transformers.XLNetLMHeadModel(transformers.XLNetConfig(**CASES[request.param])), amount=0.2)
    return theirs, loaded(theirs, tmp_path_factory.mktemp("reference"))


@pytest.fixture
def both_ways(pair):
    """For what the reference's left-to-right form cannot take: it adds a mask of a batch to one without in place."""
    if pair[1].config.trunk.causal:
        pytest.skip("the reference fails on masks in its left-to-right form")
    return pair


def random_ids(rows: int, length: int, seed: int = 0, highest: int = VOCABULARY) -> torch.Tensor:
    return torch.randint(0, highest, (rows, length), generator=torch.Generator().manual_seed(seed))


def an_order(rows: int, given: int = 6) -> torch.Tensor:
    """A random order of guessing; the first word and some others are given."""
    generator = torch.Generator().manual_seed(5)
    order = torch.stack([torch.randperm(LENGTH - 1, generator=generator) for _ in range(rows)]) - given
    return torch.cat((torch.full((rows, 1), -1), order.clamp_min(-1)), 1)


def their_mask(order: torch.Tensor) -> torch.Tensor:
    """Their perm_mask: 1 where i must not see j. Words that are given see each other; guessed ones see lower places."""
    hidden = (order[:, None] >= order[:, :, None]) & ~((order[:, None] == -1) & (order[:, :, None] == -1))
    return hidden.float()


def every_target(rows: int) -> torch.Tensor:
    """Their target_mapping: a guess for every place."""
    return torch.eye(LENGTH).expand(rows, -1, -1)


def segments(rows: int) -> torch.Tensor:
    return random_ids(rows, LENGTH, 7, 3)


@pytest.mark.parametrize("told_apart", [False, True])
def test_content_alone(pair, told_apart):
    theirs, ours = pair
    ids = random_ids(3, LENGTH)
    mine = {"segments_BT": segments(3)} if told_apart else {}
    yours = {"token_type_ids": segments(3)} if told_apart else {}
    assert difference(ours(ids, **mine), theirs(ids, **yours).logits) < TOLERANCE


def test_two_streams(both_ways):
    """Guesses of the query stream for every place that is guessed, and the content stream beside it."""
    theirs, ours = both_ways
    ids, order = random_ids(3, LENGTH), an_order(3)
    guessed = order >= 0
    more = {"perm_mask": their_mask(order), "token_type_ids": segments(3)}
    expected = theirs(ids, target_mapping=every_target(3), **more).logits
    actual = ours(ids, order_BT=order, segments_BT=segments(3))
    assert difference(actual[guessed], expected[guessed]) < TOLERANCE
    content, _, _ = ours.streams(ids, order_BT=order, segments_BT=segments(3))
    assert difference(ours.logits(content), theirs(ids, **more).logits) < TOLERANCE


def test_a_guess_never_sees_its_own_word(pair):
    _, ours = pair
    ids, order = random_ids(1, LENGTH), an_order(1)
    place = int((order[0] == 4).nonzero())
    other = ids.clone()
    other[0, place] = (ids[0, place] + 1) % VOCABULARY
    before, after = ours(ids, order_BT=order), ours(other, order_BT=order)
    seen_later = (order[0] > 4) & (torch.arange(LENGTH) >= (place if ours.config.trunk.causal else 0))
    assert torch.equal(before[0, order[0] <= 4], after[0, order[0] <= 4])
    assert bool((before[0, seen_later] != after[0, seen_later]).any(-1).all())


def test_padding_does_not_leak(both_ways):
    theirs, ours = both_ways
    ids, lengths = random_ids(3, LENGTH), torch.tensor([LENGTH, 11, 4])
    seen = torch.arange(LENGTH) < lengths[:, None]
    expected = theirs(ids, attention_mask=seen.long()).logits
    assert difference(ours(ids, documents_BT=seen.long())[seen], expected[seen]) < TOLERANCE


def test_a_text_remembered_in_chunks(pair):
    """What entered each layer is kept and seen by the next chunk, as in Transformer-XL; chunks of one at last."""
    theirs, ours = pair
    ids, memories, theirs_memories, whole = random_ids(2, LENGTH), None, None, ours(random_ids(2, LENGTH))
    first = 0
    for last in (7, 12, 13, 14, LENGTH):
        chunk = ids[:, first:last]
        out = theirs(chunk, mems=theirs_memories, use_mems=True, token_type_ids=torch.zeros_like(chunk))
        h, _, entered = ours.streams(chunk, segments_BT=torch.zeros_like(chunk), memories=memories)
        assert difference(ours.logits(h), out.logits) < TOLERANCE
        if ours.config.trunk.causal and memories is None:
            assert difference(ours(chunk), whole[:, first:last]) < TOLERANCE
        theirs_memories = out.mems
        pairs = zip(memories or [chunk[:, :0]] * len(entered), entered, strict=True)
        memories = tuple(torch.cat((old, new), 1) if old.dim() == 3 else new for old, new in pairs)
        first = last


def test_stepwise_equals_the_whole_from_left_to_right(pair):
    _, ours = pair
    if not ours.config.trunk.causal:
        pytest.skip("only a network that looks back can be run word by word")
    ids, memories, pieces = random_ids(2, LENGTH), None, []
    for place in range(LENGTH):
        h, _, entered = ours.streams(ids[:, place : place + 1], memories=memories)
        memories = entered if memories is None else tuple(map(torch.hstack, zip(memories, entered, strict=True)))
        pieces.append(ours.logits(h))
    assert difference(torch.cat(pieces, 1), ours(ids)) < TOLERANCE


def test_loss_and_gradients_equal(both_ways, tmp_path):
    theirs, ours = both_ways
    ids, order = random_ids(3, LENGTH), an_order(3)
    targets = torch.where(order >= 0, random_ids(3, LENGTH, 8), -100)
    theirs.zero_grad()
    ours.zero_grad()
    expected = theirs(
        ids, perm_mask=their_mask(order), target_mapping=every_target(3), labels=targets, token_type_ids=segments(3)
    ).loss
    total, count = ours.loss(ids, order, targets, segments(3))
    assert difference(total / count, expected) < TOLERANCE
    expected.backward()
    (total / count).backward()
    assert_gradients_equal(theirs, ours, tmp_path)


def test_what_we_save_loads_there(pair, tmp_path):
    theirs, ours = pair
    assert_loads_there(ours, theirs, tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"clamp_len": 8}, {"bi_data": True}, {"same_length": True}, {"ff_activation": "silu"}, {"d_head": 0},
              {"attn_type": "three"}],
)  # fmt: skip
def test_what_we_cannot_run_is_refused_by_name(wrong):
    settings = transformers.XLNetConfig(**COMMON).to_dict()
    read_config(settings, "config.json")
    with pytest.raises(AthanorError) as caught:
        read_config({**settings, **wrong}, "config.json")
    assert any({"d_head": "head_width"}.get(key, key) in str(caught.value) for key in wrong)


def test_the_published_size_has_the_published_count():
    whole = transformers.XLNetConfig()
    family, config = read_config(whole.to_dict(), "config.json")
    with torch.device("meta"):
        ours, theirs = family.build(config), transformers.XLNetLMHeadModel(whole)
    counts = [sum(weight.numel() for weight in network.parameters()) for network in (ours, theirs)]
    assert counts[0] == counts[1]
