"""T5, mT5, M2M-100 and Whisper: what their config.json may say, the laws they rest on, and their published sizes."""

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.models.attention import distance_bucket
from athanor.models.config import TransformerConfig
from athanor.models.convert import rows_of
from athanor.models.seq2seq import EncoderDecoderConfig, shifted, sinusoids
from athanor.models.settings import read_config, their_config
from athanor.models.speech import SpeechConfig, SpeechModel, log_mel
from tests.parity.reference import TOLERANCE, GrowingCache, difference
from tests.parity.seq2seq import (
    CASES,
    FAMILY,
    MELS,
    PADDING,
    PLACES,
    START,
    UNLIKE,
    VOCABULARY,
    WIDTH,
    pair_of,
    random_ids,
    random_source,
)

transformers = pytest.importorskip("transformers")

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
