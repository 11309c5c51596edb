"""T5, mT5, M2M-100 and Whisper against `transformers`: random weights through our converter, in both directions.

The reference builds the network and draws the weights; every parameter is then disturbed, so that a norm weight of one
or a bias of zero cannot hide a mistake.
"""

import copy
import functools
import json
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.base.errors import AthanorError
from athanor.inference.cache import KeyValueCache
from athanor.models.attention import distance_bucket
from athanor.models.config import TransformerConfig
from athanor.models.convert import load_network, rows_of, save_checkpoint
from athanor.models.families.seq2seq import SEQ2SEQ
from athanor.models.seq2seq import EncoderDecoder, EncoderDecoderConfig, shifted, sinusoids
from athanor.models.settings import family_of, read_config, their_config
from athanor.models.speech import SpeechConfig, SpeechModel, log_mel

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5
VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, MELS, PLACES = 97, 64, 2, 4, 80, 6, 11
START, PADDING, END = 2, 1, 3
SPECIAL = dict(pad_token_id=PADDING, bos_token_id=0, eos_token_id=END, decoder_start_token_id=START)
T5 = dict(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=24, d_ff=HIDDEN, num_layers=LAYERS, num_heads=HEADS, **SPECIAL)
BART = dict(
    vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_ffn_dim=HIDDEN,
    decoder_ffn_dim=HIDDEN, encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, **SPECIAL,
)  # fmt: skip
UNLIKE = dict(encoder_layers=1, decoder_layers=3, encoder_ffn_dim=48, decoder_ffn_dim=72, decoder_attention_heads=2)
M2M = {**BART, "max_position_embeddings": 48}
WHISPER = {**BART, "num_mel_bins": MELS, "max_source_positions": PLACES, "max_target_positions": 40}
FEW_CLASSES = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 13}
# "untied": the head is a weight of its own, and config.json says so.
CASES = {
    "t5": ("T5", T5),
    "t5, untied": ("T5", {**T5, "tie_word_embeddings": False}),
    "t5, unlike trunks, few classes": ("T5", {**T5, **FEW_CLASSES, "num_decoder_layers": 3, "layer_norm_epsilon": 0.1}),
    "t5, unscaled head": ("T5", {**T5, "scale_decoder_outputs": False, "num_layers": 3, "num_decoder_layers": 1}),
    "t5-gated, untied": ("T5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5-gated": ("T5", {**T5, "feed_forward_proj": "gated-gelu"}),
    "mt5, untied": ("MT5", {**T5, **FEW_CLASSES, "tie_word_embeddings": False}),
    "mt5": ("MT5", T5),
    "m2m_100": ("M2M100", M2M),
    "m2m_100, unlike trunks": ("M2M100", {**M2M, **UNLIKE, "scale_embedding": False, "activation_function": "gelu"}),
    "whisper": ("Whisper", WHISPER),
    "whisper, unlike trunks, untied": (
        "Whisper", {**WHISPER, **UNLIKE, "tie_word_embeddings": False, "activation_function": "gelu_new"}
    ),
}  # fmt: skip
WORDS = [name for name in CASES if not name.startswith("whisper")]
FAMILY = {family.name: family for family in SEQ2SEQ}


def reference(case: str) -> torch.nn.Module:
    """The reference network in float32 with every parameter disturbed."""
    name, settings = CASES[case]
    torch.manual_seed(len(case))
    still = {key: 0.0 for key in ("dropout", "encoder_layerdrop", "decoder_layerdrop")} if "T5" not in name else {}
    config = getattr(transformers, f"{name}Config")(**settings, **still, attn_implementation="eager")
    network = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    if "untied" in case and "T5" in name:  # they tie it always, but for a checkpoint that holds two weights
        network.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, WIDTH) / 8)
    with torch.no_grad():
        for part, parameter in network.named_parameters():
            # Products only a little: where scores are large, so is the rounding.
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.dim() == 1 else 0.02))
            # T5 draws these wide: sharp attention, and scores in the hundreds where a tied head is not scaled.
            parameter.mul_(0.5 if part.endswith(".q.weight") else 0.2 if part == "shared.weight" else 1.0)
    return network.eval().float()


@functools.cache
def pair_of(case: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The reference and our network loaded from what the reference saved."""
    theirs = reference(case)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        say_untied(case, Path(folder))
        return theirs, load_network(folder)


def say_untied(case: str, folder: Path) -> None:
    """`transformers` 5 writes `true` into the config.json of every T5; published ones say what is so."""
    if "untied" in case:
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**said, "tie_word_embeddings": False}))


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest):
    return pair_of(request.param)


@pytest.fixture(params=WORDS)
def words(request: pytest.FixtureRequest):
    """Those that read words, whose sources may be padded."""
    return pair_of(request.param)


def random_ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def random_source(ours: torch.nn.Module, rows: int) -> torch.Tensor:
    """Token ids, or frames of sound; as long as the widest class of distance reaches, and further."""
    if isinstance(ours, SpeechModel):
        frames = torch.randn(rows, MELS, 2 * PLACES, generator=torch.Generator().manual_seed(rows))
        return 10 * frames  # so loud that the kinds of gelu differ
    return random_ids(rows, 30, seed=5)


def their_logits(theirs: torch.nn.Module, source: torch.Tensor, ids: torch.Tensor, **more) -> torch.Tensor:
    return theirs(source, decoder_input_ids=ids, **more).logits


def decoder_of(ours: torch.nn.Module) -> EncoderDecoder:
    return ours.text if isinstance(ours, SpeechModel) else ours


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative where the reference is larger than 1."""
    assert a.shape == b.shape
    return float(((a - b).detach().abs() / b.detach().abs().clamp_min(1.0)).max())


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


def gradients_by_name(theirs: torch.nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """The gradients of a network by the names under which its weights are stored."""
    gradients = copy.deepcopy(theirs)
    with torch.no_grad():
        for ours, parameter in zip(gradients.parameters(), theirs.parameters(), strict=True):
            ours.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    gradients.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


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
    expected = gradients_by_name(theirs, tmp_path / "theirs")
    ours.zero_grad()
    total, count = ours.loss(source, ids, targets, **more)
    (total / count).backward()
    assert count == 50
    assert difference(total / count, loss) < TOLERANCE
    gradients = type(ours)(ours.config)
    zero = torch.zeros(())
    gradients.load_state_dict(
        {name: (zero.expand_as(one) if one.grad is None else one.grad) for name, one in ours.named_parameters()}
    )
    save_checkpoint(gradients, tmp_path / "ours")
    actual = load_file(tmp_path / "ours" / "model.safetensors")
    assert set(actual) == set(expected)
    for name, gradient in expected.items():
        scale = float(gradient.abs().max().clamp_min(1e-3))
        assert float((actual[name] - gradient).abs().max()) / scale < TOLERANCE, name


def test_targets_are_shifted_as_they_shift_them(pair):
    theirs, ours = pair
    source, targets = random_source(ours, 2), random_ids(2, 9)
    targets[0, 3:5], targets[1, 6:] = -100, -100
    total, count = ours.loss(source, shifted(targets, START, PADDING), targets)
    assert difference(total / count, theirs(source, labels=targets).loss) < TOLERANCE


class GrowingCache:
    """The simplest cache: grows by joining."""

    def __init__(self):
        self.kept, self.mask_BTS = {}, None

    def append(self, layer, k, v):
        if layer in self.kept:
            k, v = torch.cat((self.kept[layer][0], k), 2), torch.cat((self.kept[layer][1], v), 2)
        self.kept[layer] = (k, v)
        return k, v

    def step(self, network, memory, ids, first, last):
        place = torch.arange(last)
        self.mask_BTS = (place[first:, None] >= place)[None].expand(ids.shape[0], -1, -1)
        positions = place[first:].expand(ids.shape[0], -1)
        return network.logits(network.decode(ids[:, first:last], memory, positions_BT=positions, cache=self))


@pytest.mark.parametrize("ends", [(5, 9, *range(10, 21)), (1, 2, 20), (20,)])
def test_cached_decoding_equals_the_whole(pair, ends):
    """In chunks, then step by step, as an engine decodes; the source is read once."""
    theirs, ours = pair
    source, ids, cache, first, pieces = random_source(ours, 2), random_ids(2, 20), GrowingCache(), 0, []
    with torch.no_grad():
        memory = ours.encode(source)
        for last in ends:
            pieces.append(cache.step(decoder_of(ours), memory, ids, first, last))
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
            logits = cache.step(ours, memory, ids, length - 1, length)[:, -1]
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


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FAMILY if name != "t5-gated"])
def test_a_key_left_out_has_the_value_they_take(name):
    completed = transformers.CONFIG_MAPPING[name]().to_dict()
    assert read_config({"model_type": name}, "shortest") == read_config(completed, "completed")


@pytest.mark.parametrize("name", FAMILY)
def test_every_key_left_out_alone(name):
    """One after the other, with all others set to something else than their default."""
    case = next(case for case in CASES if case.split(",")[0] == name)
    class_, settings = CASES[case]
    class_ = getattr(transformers, f"{class_}Config")
    more = UNLIKE if "encoder_layers" in settings else {"num_decoder_layers": 4}
    whole = class_(**{**settings, **more, "d_model": 96}).to_dict()  # a width that every default of heads divides
    keys = [key for key in FAMILY[name].settings if key not in ("tie_word_embeddings", "scale_decoder_outputs")]
    for key in keys:
        shorter = {other: value for other, value in whole.items() if other != key}
        if key == "scale_embedding":
            shorter["scale_embedding"] = class_().scale_embedding
        completed = class_(**{**shorter}).to_dict()
        assert read_config(shorter, key) == read_config(completed, key), key


@pytest.mark.parametrize("tied", [None, True, False])
@pytest.mark.parametrize("scaled", [None, True, False])
def test_the_head_is_scaled_where_they_scale_it(tied, scaled):
    said = {"tie_word_embeddings": tied, "scale_decoder_outputs": scaled}
    said = {key: value for key, value in said.items() if value is not None}
    _, ours = read_config({"model_type": "t5", **said}, "config.json")
    assert ours.scale_head == transformers.T5Config(**said).scale_decoder_outputs
    assert ours.tied == (tied is not False)


def test_as_old_files_say_it():
    """Keys of files older than `transformers` 5 that say nothing about the network."""
    old = {"n_positions": 512, "output_past": True, "task_specific_params": {"a": 1}, "tokenizer_class": "T5Tokenizer"}
    assert read_config({"model_type": "t5", **old}, "old") == read_config({"model_type": "t5"}, "new")
    old = {"num_hidden_layers": 12, "encoder_layers": 12, "max_length": 200, "num_beams": 5, "early_stopping": True}
    assert read_config({"model_type": "m2m_100", **old}, "old") == read_config({"model_type": "m2m_100"}, "new")
    old = {"num_hidden_layers": 4, "encoder_layers": 4, "max_length": 448, "forced_decoder_ids": [[1, 50259]]}
    assert read_config({"model_type": "whisper", **old}, "old") == read_config({"model_type": "whisper"}, "new")


def test_gating_may_be_said_by_one_key():
    """As the files of T5 v1.1 say it, which are older than `is_gated_act`."""
    old = {"model_type": "t5", **GATED, "tie_word_embeddings": False}
    family, _ = read_config(old, "old")
    assert family.name == "t5-gated"


GATED = {"feed_forward_proj": "gated-gelu"}


@pytest.mark.parametrize(
    ("name", "first", "wrong"),
    [
        ("t5", {}, {"feed_forward_proj": "gelu"}),
        ("t5", {}, {"feed_forward_proj": "gated-silu"}),
        ("t5", {}, {"dense_act_fn": "gelu_new"}),
        ("t5", GATED, {"dense_act_fn": "relu"}),
        ("t5", GATED, {"feed_forward_proj": "relu"}),
        ("t5", GATED, {"feed_forward_proj": "gated-relu"}),
        ("t5", {}, {"relative_attention_num_buckets": None}),
        ("t5", {}, {"relative_attention_max_distance": "128"}),
        ("t5", {}, {"num_heads": 8.0}),
        ("t5", {}, {"num_layers": 0}),
        ("t5", {}, {"alibi": True}),
        ("mt5", {}, {"feed_forward_proj": "relu"}),
        ("mt5", {}, {"is_gated_act": False}),
        ("mt5", {}, {"dense_act_fn": "gelu"}),
        ("mt5", {}, {"scale_decoder_outputs": True}),
        ("m2m_100", {}, {"activation_function": "silu"}),
        ("m2m_100", {}, {"tie_word_embeddings": False}),
        ("m2m_100", {}, {"scale_embedding": 2}),
        ("m2m_100", {}, {"pad_token_id": -1}),
        ("m2m_100", {}, {"num_hidden_layers": 3}),
        ("m2m_100", {}, {"decoder_attention_heads": 7}),
        ("m2m_100", {}, {"normalize_before": False}),
        ("whisper", {}, {"scale_embedding": True}),
        ("whisper", {}, {"activation_function": "silu"}),
        ("whisper", {}, {"num_hidden_layers": 3}),
        ("whisper", {}, {"num_mel_bins": 0}),
        ("whisper", {}, {"decoder_attention_heads": 7}),
        ("whisper", {}, {"position_embeddings": "rope"}),
    ],
)
def test_what_we_cannot_run_is_refused_by_name(name, first, wrong):
    settings = transformers.CONFIG_MAPPING[name](**first).to_dict()
    read_config(settings, "config.json")
    with pytest.raises(AthanorError) as caught:
        read_config({**settings, **wrong}, "config.json")
    said = {
        "num_layers": "layers=0",
        "pad_token_id": "padding=-1",
        "decoder_attention_heads": "heads=7",
        "num_mel_bins": "mels=0",
        "relative_attention_num_buckets": "buckets",
    }
    # Of two keys that contradict each other either may be named.
    named = (*wrong, "is_gated_act") if "feed_forward_proj" in wrong else wrong
    assert any(said.get(key, key) in str(caught.value) for key in named)


ENCODER = dict(width=32, layers=1, heads=2, hidden=48, max_positions=16, causal=False)


@pytest.mark.parametrize(
    ("encoder", "more", "said"),
    [
        ({"causal": True}, {}, "causal"),
        ({"position": "rope"}, {}, "position"),
        ({"vocabulary": 9}, {}, "vocabulary"),
        ({"experts": 4, "experts_per_token": 2}, {}, "experts"),
        ({"position": "buckets", "buckets": 8, "farthest": 16}, {"padding": 1}, "sinusoids"),
        ({"position": "buckets", "buckets": 8, "farthest": 16}, {"decoder_positions": 9}, "decoder_positions"),
        ({"width": 2, "hidden": 8}, {"padding": 1}, "width"),
        ({}, {"padding": -1}, "padding"),
        ({}, {"padding": 50}, "padding"),
        ({}, {"decoder_heads": 3}, "heads=3"),
        ({}, {"decoder_layers": 0}, "layers=0"),
    ],
)
def test_numbers_that_form_no_network_are_refused(encoder, more, said):
    numbers = {**ENCODER, "position": "none", **encoder}
    with pytest.raises(ValueError, match=said):
        EncoderDecoderConfig(encoder=TransformerConfig(**numbers), vocabulary=50, **more)


def test_a_front_that_hears_is_checked():
    relative = TransformerConfig(**ENCODER, position="buckets", buckets=8, farthest=16)
    for encoder, mels in ((relative, 8), (TransformerConfig(**ENCODER, position="none"), 0)):
        with pytest.raises(ValueError):
            SpeechConfig(text=EncoderDecoderConfig(encoder=encoder, vocabulary=50), mels=mels)


def test_misuse_is_refused():
    _, ours = pair_of("m2m_100")
    ids = random_ids(2, 9)
    seen = torch.ones(2, 9, dtype=torch.bool)
    seen[1] = False
    with pytest.raises(ValueError, match="padding and nothing else"):
        ours(ids, ids, seen_BS=seen)
    with pytest.raises(ValueError, match="49 positions"):
        ours(random_ids(1, 49), ids[:1])
    with pytest.raises(ValueError, match="49 positions"):
        ours(ids[:1], random_ids(1, 49))
    with pytest.raises(ValueError, match="with a cache"):
        ours.decode(ids, ours.encode(ids), cache=GrowingCache())
    _, hears = pair_of("whisper")
    with pytest.raises(ValueError, match="frames"):
        hears(torch.zeros(1, MELS, 2 * PLACES - 2), ids[:1])
    _, relative = pair_of("t5")
    assert relative(random_ids(1, 600), ids[:1]).shape == (1, 9, VOCABULARY)  # distances have no last class


# --- laws and published numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (8, 13), (32, 1000), (6, 20)])
def test_classes_of_distance_equal(causal, buckets, farthest):
    distance = torch.arange(-1500, 1500)
    law = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    expected = law(-distance, bidirectional=not causal, num_buckets=buckets, max_distance=farthest)
    assert torch.equal(distance_bucket(distance, buckets, farthest, causal), expected)


def test_sinusoids_equal():
    m2m = transformers.models.m2m_100.modeling_m2m_100.M2M100SinusoidalPositionalEmbedding
    whisper = transformers.models.whisper.modeling_whisper.sinusoids
    place = torch.arange(1500)
    for width in (4, 64, 384, 1024):
        assert float((sinusoids(place, width) - m2m.get_embedding(1500, width)).abs().max()) < 1e-6
        assert float((sinusoids(place, width) - whisper(1500, width)).abs().max()) < 1e-3  # angles of 1,500 in float32


@pytest.mark.parametrize("mels", [80, 128])
def test_spectra_equal(mels):
    """A tone that rises, noise, a click, and silence to the end; whole sound, and sound that is filled up."""
    time = torch.arange(16_000 * 3) / 16_000
    rising = 0.5 * torch.sin(2 * torch.pi * (200 + 900 * time) * time)
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0)) * 0.1
    click = torch.zeros(len(time))
    click[20_000] = 1.0
    extractor = transformers.WhisperFeatureExtractor(feature_size=mels)
    for sound in (rising, noise, click, rising[:1_234], torch.zeros(999)):
        expected = extractor(sound.numpy(), sampling_rate=16_000, return_tensors="pt").input_features
        actual = log_mel(sound[None], mels)
        assert actual.shape == (1, mels, 3_000)
        assert difference(actual, expected) < 1e-4  # logarithms of what is nearly nothing
    both = log_mel(torch.stack((rising, noise)), mels)
    assert difference(both[1:], log_mel(noise[None], mels)) < TOLERANCE
    with pytest.raises(ValueError, match="480001 samples"):
        log_mel(torch.zeros(1, 480_001), mels)


T5_BASE = dict(d_model=768, num_layers=12, num_heads=12)
LARGE = dict(d_model=1280, encoder_layers=32, decoder_layers=32, encoder_ffn_dim=5120, decoder_ffn_dim=5120)
LARGE |= dict(encoder_attention_heads=20, decoder_attention_heads=20)
BASE = dict(d_model=512, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=2048, decoder_ffn_dim=2048)
BASE |= dict(encoder_attention_heads=8, decoder_attention_heads=8)
PUBLISHED = {
    "t5-small": ("T5", {}, 60_506_624),
    "t5-base": ("T5", {**T5_BASE, "d_ff": 3072}, 222_903_552),
    "flan-t5-base": ("T5", {**T5_BASE, **GATED, "d_ff": 2048, "tie_word_embeddings": False}, 247_577_856),
    "mt5-small": ("MT5", {"tie_word_embeddings": False}, 300_176_768),
    "m2m100_418M": ("M2M100", {}, 483_905_536),
    "whisper-tiny": ("Whisper", {}, 37_760_640),
    "whisper-base": ("Whisper", BASE, 72_593_920),
    "whisper-large-v2": ("Whisper", LARGE, 1_543_304_960),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_built_exactly(name):
    """Every stored number is counted; a second network of theirs, without weights in memory, counts the same."""
    class_, settings, count = PUBLISHED[name]
    config = getattr(transformers, f"{class_}Config")(**settings)
    family, ours = read_config({**config.to_dict(), **settings}, name)
    with torch.device("meta"):
        theirs, network = getattr(transformers, f"{class_}ForConditionalGeneration")(config), family.build(ours)
        if settings.get("tie_word_embeddings") is False:
            theirs.lm_head.weight = torch.nn.Parameter(torch.empty_like(theirs.lm_head.weight))
    weights, stored = network.state_dict(), 0
    for ours_name, row, their_names in rows_of(family, weights):
        pieces = row.pieces(network.config, weights[ours_name])
        stored += sum(piece.numel() for piece, one in zip(pieces, their_names, strict=True) if one is not None)
    assert stored == count
    assert sum(parameter.numel() for parameter in theirs.parameters()) == count


def test_config_json_is_written_as_it_was_read():
    """Every key they wrote that says something about the network comes back with its value."""
    for case in CASES:
        class_, settings = CASES[case]
        said = getattr(transformers, f"{class_}Config")(**settings).to_dict()
        family, config = read_config(said, case)
        written = their_config(family, config, "float32")
        for key in (*family.settings, *family.required, *family.choices):
            assert written[key] == said[key], (case, key)


def test_weights_are_drawn_by_seed():
    """And learn: a loss falls within a few steps, with the sinusoids of the front left as they are."""
    for case in ("t5-gated, untied", "m2m_100", "whisper"):
        _, loaded = pair_of(case)
        ours, again = type(loaded)(loaded.config).initialise(7), type(loaded)(loaded.config).initialise(7)
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))
        source, targets = random_source(ours, 4), random_ids(4, 8)
        optimizer = torch.optim.Adam([one for one in ours.parameters() if one.requires_grad], 3e-3)
        losses = []
        for _ in range(12):
            total, count = ours.loss(source, shifted(targets, START, PADDING), targets)
            losses.append(float((total / count).detach()))
            optimizer.zero_grad()
            total.div(count).backward()
            optimizer.step()
        assert losses[-1] < 0.7 * losses[0], case
        if isinstance(ours, SpeechModel):
            assert torch.equal(ours.places, sinusoids(torch.arange(PLACES), WIDTH))
