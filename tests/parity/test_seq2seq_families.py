"""T5, mT5, M2M-100 and Whisper against `transformers`: random weights through our converter, in both directions.

The reference builds the network and draws the weights; every parameter is then disturbed, so that a norm weight of one
or a bias of zero cannot hide a mistake.
"""

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.base.errors import AthanorError
from athanor.inference.cache import KeyValueCache
from athanor.models.convert import load_network, save_checkpoint
from athanor.models.seq2seq import EncoderDecoder, shifted
from athanor.models.settings import family_of
from athanor.models.speech import SpeechModel
from tests.parity.reference import TOLERANCE, GrowingCache, assert_gradients_equal, difference
from tests.parity.seq2seq import (
    CASES,
    END,
    FAMILY,
    HEADS,
    LAYERS,
    PADDING,
    START,
    WIDTH,
    WORDS,
    pair_of,
    random_ids,
    random_source,
)

transformers = pytest.importorskip("transformers")


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest):
    return pair_of(request.param)


@pytest.fixture(params=WORDS)
def words(request: pytest.FixtureRequest):
    """Those that read words, whose sources may be padded."""
    return pair_of(request.param)


def their_logits(theirs: torch.nn.Module, source: torch.Tensor, ids: torch.Tensor, **more) -> torch.Tensor:
    return theirs(source, decoder_input_ids=ids, **more).logits


def decoder_of(ours: torch.nn.Module) -> EncoderDecoder:
    return ours.text if isinstance(ours, SpeechModel) else ours


@pytest.mark.parametrize("training", [False, True])
def test_logits_equal(pair, training):
    """The paths taken when gradients are wanted are others than those without."""
    theirs, ours = pair
    source, ids = random_source(ours, 3), random_ids(3, 21)
    with torch.set_grad_enabled(training):
        assert difference(ours(source, ids), their_logits(theirs, source, ids)) < TOLERANCE


@pytest.mark.parametrize("case", [name for name in CASES if name not in WORDS])
@torch.no_grad()
def test_what_is_heard_equals(case):
    """Place by place: logits hardly tell the kinds of gelu after the second convolution apart."""
    theirs, ours = pair_of(case)
    frames = random_source(ours, 3)
    expected = theirs.get_encoder()(frames).last_hidden_state
    assert difference(ours.text.read(ours.hear(frames)), expected) < TOLERANCE


def padded(side: str, rows: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows cut to these lengths and filled with padding on one side, and where they are not padding."""
    place, length = torch.arange(rows.shape[1]), torch.tensor(lengths)[:, None]
    seen = place < length if side == "right" else place >= rows.shape[1] - length
    return rows.masked_fill(~seen, PADDING), seen


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_of_the_source_does_not_leak(words, side):
    """Against the reference with its mask, and against the reference that is given each source alone."""
    theirs, ours = words
    lengths, ids = [30, 17, 1], random_ids(3, 12)
    source, seen = padded(side, random_source(ours, 3), lengths)
    expected = their_logits(theirs, source, ids, attention_mask=seen.long())
    for training in (False, True):
        with torch.set_grad_enabled(training):
            actual = ours(source, ids, seen_BS=seen)
        assert difference(actual, expected) < TOLERANCE
        for row in range(3):
            alone = their_logits(theirs, source[row][seen[row]][None], ids[row : row + 1])
            assert difference(actual[row : row + 1], alone) < TOLERANCE


@pytest.mark.parametrize("case", ["t5", "t5-gated, untied"])
def test_nothing_under_the_mask_has_influence(case):
    _, ours = pair_of(case)
    ids, (source, seen) = random_ids(3, 12), padded("left", random_source(ours, 3), [30, 17, 1])
    other = torch.where(seen, source, random_ids(3, 30, seed=9))
    assert torch.equal(ours(source, ids, seen_BS=seen), ours(other, ids, seen_BS=seen))


def test_padding_behind_the_target_does_not_leak(pair):
    theirs, ours = pair
    source, (ids, seen) = random_source(ours, 3), padded("right", random_ids(3, 20), [20, 13, 5])
    expected = their_logits(theirs, source, ids, decoder_attention_mask=seen.long())
    assert difference(ours(source, ids)[seen], expected[seen]) < TOLERANCE


def test_padding_before_the_target_does_not_leak(pair):
    """As batches of beginnings have it, with each token's place in its own text."""
    theirs, ours = pair
    source, (ids, seen) = random_source(ours, 3), padded("left", random_ids(3, 20), [20, 13, 5])
    places = (seen.long().cumsum(1) - 1).clamp_min(0)
    more = {"decoder_position_ids": places} if isinstance(ours, SpeechModel) else {}
    expected = their_logits(theirs, source, ids, decoder_attention_mask=seen.long(), **more)
    for training in (False, True):
        with torch.set_grad_enabled(training):
            actual = ours(source, ids, documents_BT=seen.long())
        assert difference(actual[seen], expected[seen]) < TOLERANCE


def test_packed_targets_equal_targets_alone(pair):
    """Several texts in a row of the decoder, all of them about the one source."""
    theirs, ours = pair
    source, ids = random_source(ours, 2), random_ids(2, 20)
    documents = torch.tensor([[0] * 7 + [1] * 1 + [0] * 12, [4] * 15 + [2] * 5])
    actual = ours(source, ids, documents_BT=documents)
    for row, first, last in ((0, 0, 7), (0, 7, 8), (0, 8, 20), (1, 0, 15), (1, 15, 20)):
        alone = their_logits(theirs, source[row : row + 1], ids[row : row + 1, first:last])
        assert difference(actual[row : row + 1, first:last], alone) < TOLERANCE


def test_loss_and_gradients_equal(pair, tmp_path):
    """Our gradients, put in place of the weights, go through our converter and must equal the reference's."""
    theirs, ours = pair
    ids, targets, more, their_more = random_ids(3, 20), random_ids(3, 20, seed=1), {}, {}
    targets[0, 5:15] = -100
    source = random_source(ours, 3)
    if not isinstance(ours, SpeechModel):
        source, more["seen_BS"] = padded("right", source, [30, 17, 4])
        their_more["attention_mask"] = more["seen_BS"].long()
        ids[1, 7] = PADDING  # some networks do not train its embedding where it is read
    theirs.zero_grad()
    logits = their_logits(theirs, source, ids, **their_more)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    loss.backward()
    ours.zero_grad()
    total, count = ours.loss(source, ids, targets, **more)
    (total / count).backward()
    assert count == 50
    assert difference(total / count, loss) < TOLERANCE
    assert_gradients_equal(theirs, ours, tmp_path, floor=1e-3)


def test_targets_are_shifted_as_they_shift_them(pair):
    theirs, ours = pair
    source, targets = random_source(ours, 2), random_ids(2, 9)
    targets[0, 3:5], targets[1, 6:] = -100, -100
    total, count = ours.loss(source, shifted(targets, START, PADDING), targets)
    assert difference(total / count, theirs(source, labels=targets).loss) < TOLERANCE


@pytest.mark.parametrize("ends", [(5, 9, *range(10, 21)), (1, 2, 20), (20,)])
def test_cached_decoding_equals_the_whole(pair, ends):
    """In chunks, then step by step, as an engine decodes; the source is read once."""
    theirs, ours = pair
    source, ids, cache, first, pieces = random_source(ours, 2), random_ids(2, 20), GrowingCache(), 0, []
    with torch.no_grad():
        memory = ours.encode(source)
        for last in ends:
            positions, network = cache.begin(len(ids), first, last), decoder_of(ours)
            hidden = network.decode(ids[:, first:last], memory, positions_BT=positions, cache=cache)
            pieces.append(network.logits(hidden))
            first = last
        assert difference(torch.cat(pieces, 1), their_logits(theirs, source, ids)) < TOLERANCE


def test_rows_of_a_cache_at_different_places(pair):
    """The engine's own cache: beginnings of different lengths, then one token per row, each at its own position."""
    theirs, ours = pair
    network, ids, lengths, source = decoder_of(ours), random_ids(3, 20), [9, 4, 7], random_source(ours, 3)
    cache = KeyValueCache(network.config.decoder, 3, 16, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        whole, memory = their_logits(theirs, source, ids), ours.encode(source)
        network.decode(ids[:, : max(lengths)], memory, positions_BT=cache.begin_chunk(0, max(lengths)), cache=cache)
        for step in range(8):
            places = [length + step for length in lengths]
            token = torch.stack([ids[row, place] for row, place in enumerate(places)])[:, None]
            hidden = network.decode(token, memory, positions_BT=cache.begin_decode(places), cache=cache)
            expected = torch.stack([whole[row, place] for row, place in enumerate(places)])
            assert difference(network.logits(hidden)[:, 0], expected) < TOLERANCE


def test_what_is_written_greedily_equals_what_they_write(words):
    """Padded sources, and our tokens one by one through a cache."""
    theirs, ours = words
    source, seen = padded("left", random_source(ours, 3), [30, 17, 6])
    limits = dict(max_new_tokens=10, min_new_tokens=10, do_sample=False, num_beams=1)
    # Their cache has as many layers as the encoder, too few where the decoder has more: they write without.
    expected = theirs.generate(source, attention_mask=seen.long(), use_cache=False, **limits)
    ids, cache = torch.full((3, 1), START), GrowingCache()
    with torch.no_grad():
        memory = ours.encode(source, seen)
        for length in range(1, 11):
            positions = cache.begin(len(ids), length - 1, length)
            hidden = ours.decode(ids[:, length - 1 :], memory, positions_BT=positions, cache=cache)
            logits = ours.logits(hidden)[:, -1]
            logits[:, END] = float("-inf")  # as a least length forbids it
            ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), 1)
    assert torch.equal(ids, expected)


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 100_000])
def test_what_we_save_loads_there(pair, tmp_path, shard_bytes):
    theirs, ours = pair
    family = "mt5" if theirs.config.model_type == "mt5" else None
    save_checkpoint(ours, tmp_path, generation={"eos_token_id": END}, shard_bytes=shard_bytes, family=family)
    back, report = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert back.generation_config.eos_token_id == END
    source, ids = random_source(ours, 2), random_ids(2, 15)
    with torch.no_grad():
        assert difference(their_logits(back.eval(), source, ids), their_logits(theirs, source, ids)) < TOLERANCE
        assert torch.equal(load_network(tmp_path)(source, ids), ours(source, ids))


def test_mt5_is_written_as_t5_where_nothing_is_said(tmp_path):
    """The same network has two names there; unnamed, the first of our table is taken, and computes the same."""
    theirs, ours = pair_of("mt5, untied")
    assert family_of(ours.config).name == "t5-gated"
    save_checkpoint(ours, tmp_path)
    back = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    source, ids = random_source(ours, 2), random_ids(2, 15)
    assert difference(their_logits(back, source, ids), their_logits(theirs, source, ids)) < TOLERANCE


def test_every_family_has_a_case(pair):
    _, ours = pair
    assert {name.split(",")[0] for name in CASES} == set(FAMILY)
    assert family_of(ours.config).name in FAMILY


# --- what files may hold --------------------------------------------------------------------------------------------


COPIES = {
    "t5": ("shared.weight", ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")),
    "m2m_100": (
        "model.shared.weight",
        ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
    ),
    "whisper": ("model.decoder.embed_tokens.weight", ("proj_out.weight",)),
}
UNUSED = {
    "t5": {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.ones(32, HEADS)},
    "m2m_100": {"model.encoder.embed_positions.weights": torch.ones(50, WIDTH)},
    "whisper": {},
}


@pytest.mark.parametrize("case", COPIES)
def test_copies_may_be_stored_and_must_agree(case, tmp_path):
    theirs, ours = pair_of(case)
    theirs.save_pretrained(tmp_path)
    stored, (first, copies) = load_file(tmp_path / "model.safetensors"), COPIES[case]
    repeated = {name: stored[first].clone() for name in copies}
    save_file({**stored, **repeated, **UNUSED[case]}, tmp_path / "model.safetensors")
    source, ids = random_source(ours, 2), random_ids(2, 6)
    assert torch.equal(load_network(tmp_path)(source, ids), ours(source, ids))
    for name in copies:
        other = {**repeated, name: repeated[name] + 1e-3}
        save_file({**stored, **other}, tmp_path / "model.safetensors")
        with pytest.raises(AthanorError, match=name):
            load_network(tmp_path)


def test_a_head_of_its_own_that_is_said_to_be_tied_is_refused(tmp_path):
    """What `transformers` 5 writes of T5 v1.1: the message says what to change in config.json."""
    theirs, _ = pair_of("t5-gated, untied")
    theirs.save_pretrained(tmp_path)
    with pytest.raises(AthanorError, match=r"lm_head.weight(.|\n)*tie_word_embeddings to false"):
        load_network(tmp_path)


def test_a_bias_of_keys_has_no_influence_in_whisper(tmp_path):
    """Theirs have none; ours is zero, whatever it becomes changes no result, and it is not stored."""
    theirs, _ = pair_of("whisper")
    theirs.save_pretrained(tmp_path)
    ours, source, ids = load_network(tmp_path), random_source(pair_of("whisper")[1], 2), random_ids(2, 9)
    before, keys = ours(source, ids), 0
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name.endswith(("qkv.bias", "kv.bias")):
                bias = parameter[-2 * WIDTH : -WIDTH]
                assert not bool(bias.any())
                bias.normal_()
                keys += 1
    assert keys == 3 * LAYERS
    assert difference(ours(source, ids), before) < TOLERANCE
    save_checkpoint(ours, tmp_path / "saved")
    assert not [name for name in load_file(tmp_path / "saved" / "model.safetensors") if name.endswith("k_proj.bias")]
