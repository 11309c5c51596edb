"""ViT, MAE and the families of images with texts beside `transformers`: the same weights must give the same numbers.

Tiny networks, every parameter disturbed, through our converter in both directions.
"""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from athanor.base.errors import AthanorError
from athanor.models.contrastive import ContrastiveModel, contrastive_loss
from athanor.models.convert import load_checkpoint, load_network, save_checkpoint
from athanor.models.families.pictures import PICTURES
from athanor.models.settings import family_of, read_config
from athanor.models.vision.mae import MaskedAutoencoder, MaskedAutoencoderConfig, waves
from athanor.models.vision.patches import TowerConfig
from athanor.models.vision.vit import ViT
from tests.parity.reference import TOLERANCE, difference

transformers = pytest.importorskip("transformers")
modeling_vit_mae = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")

ROWS, LENGTH, VOCABULARY, END, CLASSES = 3, 12, 97, 90, 5
TOWER = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=4
)
TEXT = dict(
    hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40, vocab_size=VOCABULARY,
    max_position_embeddings=20,
)  # fmt: skip
DECODER = dict(
    decoder_hidden_size=24, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=20
)
CLIP = {"vision_config": TOWER, "text_config": {**TEXT, "eos_token_id": END}, "projection_dim": 10}
BERT = {**CLIP, "text_config": {**TEXT, "hidden_dropout_prob": 0.0}}
GREY = {**TOWER, "num_channels": 1, "layer_norm_eps": 1e-3, "hidden_act": "gelu_new"}
CASES = {
    "vit": ("ViTForImageClassification", {**TOWER, "num_labels": CLASSES}),
    "vit, wide images": ("ViTForImageClassification", {**TOWER, "image_size": [8, 20], "num_labels": CLASSES}),
    "vit, grey, no bias": ("ViTForImageClassification", {**GREY, "qkv_bias": False, "num_labels": CLASSES}),
    "vit-encoder": ("ViTModel", TOWER),
    "vit_mae": ("ViTMAEForPreTraining", {**TOWER, **DECODER, "norm_pix_loss": True}),
    "vit_mae, grey": ("ViTMAEForPreTraining", {**GREY, **DECODER, "mask_ratio": 0.3, "qkv_bias": False}),
    "clip": ("CLIPModel", CLIP),
    "clip, end by the highest id": ("CLIPModel", {**CLIP, "text_config": {**TEXT, "eos_token_id": 2}}),
    "clip, exact gelu": (
        "CLIPModel",
        {**CLIP, "vision_config": GREY, "text_config": {**TEXT, "hidden_act": "gelu", "eos_token_id": END}},
    ),
    "chinese_clip": ("ChineseCLIPModel", BERT),
    "altclip": ("AltCLIPModel", {**BERT, "text_config": {**BERT["text_config"], "project_dim": 14}}),
}  # fmt: skip
TEXTS = [case for case in CASES if "clip" in case]
AUTOENCODERS = [case for case in CASES if "mae" in case]
SQUARE = [case for case in CASES if "wide" not in case]  # the reference takes every table for a square one
HERE = {family.name: family for family in PICTURES}


def reference(case: str) -> torch.nn.Module:
    """The reference network in float32 with every parameter disturbed."""
    name, settings = CASES[case]
    torch.manual_seed(len(case))
    class_ = getattr(transformers, name)
    network = class_._from_config(class_.config_class(**settings), attn_implementation="eager")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval().float()


def stored(network: torch.nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """What the reference stores, by the names of published checkpoints, which a round trip through it changes."""
    network.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for family in HERE.values():
        for new, old in family.other_names.items():
            tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    return tensors


@pytest.fixture(params=CASES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The reference and our network loaded from what the reference saved."""
    theirs = reference(request.param)
    folder = tmp_path_factory.mktemp("reference")
    stored(theirs, folder)
    return theirs, load_network(folder)


def tower(network: torch.nn.Module) -> TowerConfig:
    config = network.config
    return config.vision if isinstance(network, ContrastiveModel) else config.tower


def inputs(ours: torch.nn.Module, size: tuple[int, int] | None = None, padded: bool = False) -> dict:
    """Images, noise and texts; padded texts have 12, 7 and 4 tokens, padding behind them."""
    draw = torch.Generator().manual_seed(1)
    own = tower(ours)
    height, width = size or (own.grid[0] * own.patch, own.grid[1] * own.patch)
    ids = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=draw)  # some are above the id that ends a text
    lengths = torch.tensor([LENGTH, 7, 4] if padded else [LENGTH] * ROWS)
    seen = torch.arange(LENGTH) < lengths[:, None]
    end = lengths - torch.tensor([1, 3, 1])  # CLIP reads its vector here; what comes behind must not count
    ids[torch.arange(ROWS), end] = END
    return {
        "image": torch.randn(ROWS, own.channels, height, width, generator=draw),
        "noise": torch.rand(ROWS, height // own.patch * (width // own.patch), generator=draw),
        "ids": ids.masked_fill(~seen, 1),
        "seen": seen if padded else None,
        "segments": torch.randint(0, 2, (ROWS, LENGTH), generator=draw),
        "interpolate": size is not None,
    }


def their_outputs(theirs: torch.nn.Module, given: dict, **more) -> dict[str, torch.Tensor]:
    """Everything the reference makes of these inputs that we make too."""
    kind, flags = theirs.config.model_type, {"interpolate_pos_encoding": given["interpolate"]}
    if kind == "vit":
        out = theirs(given["image"], **flags)
        whole = {"features": getattr(theirs, "vit", theirs)(given["image"], **flags).last_hidden_state}
        return whole | ({"pooled": out.pooler_output} if "pooler_output" in out else {"scores": out.logits})
    if kind == "vit_mae":
        out = theirs(given["image"], noise=given["noise"], **flags)
        return {"patches": out.logits, "hidden": out.mask, "loss": out.loss}
    if kind == "chinese_clip":
        flags["token_type_ids"] = given["segments"]
    mask = None if given["seen"] is None else given["seen"].long()
    out = theirs(
        input_ids=given["ids"], pixel_values=given["image"], attention_mask=mask, return_loss=True, **flags, **more
    )
    names = ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds", "loss")
    return {name: getattr(out, name) for name in names}


def our_outputs(ours: torch.nn.Module, given: dict) -> dict[str, torch.Tensor]:
    """The same by our network."""
    flags = {"interpolate": given["interpolate"]}
    if isinstance(ours, ViT):
        features = ours.features(given["image"], **flags)
        last = {"pooled": ours.pool(features)} if ours.pooler else {"scores": ours(given["image"], **flags)}
        return {"features": features, **last}
    if isinstance(ours, MaskedAutoencoder):
        guessed = ours(given["image"], given["noise"], **flags)
        loss = ours.loss(given["image"], guessed)
        return {"patches": guessed.patches_BTP, "hidden": guessed.hidden_BT.float(), "loss": loss}
    segments = given["segments"] if ours.config.text.segments == 2 else None
    scores = ours(given["image"], given["ids"], given["seen"], segments, **flags)
    return {
        "logits_per_image": scores,
        "logits_per_text": scores.t(),
        "image_embeds": ours.image_vectors(given["image"], **flags),
        "text_embeds": ours.text_vectors(given["ids"], given["seen"], segments),
        "loss": contrastive_loss(scores),
    }


def assert_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(actual) == set(expected)
    for name in expected:
        assert difference(actual[name], expected[name]) < TOLERANCE, name


@pytest.mark.parametrize("wanted", [False, True], ids=["no gradient", "gradient"])
def test_outputs_equal(pair, wanted):
    theirs, ours = pair
    given = inputs(ours)
    with torch.set_grad_enabled(wanted):
        assert_equal(our_outputs(ours, given), their_outputs(theirs, given))


@pytest.mark.parametrize("pair", SQUARE, indirect=True)
@pytest.mark.parametrize("size", [(16, 16), (24, 8), (20, 28), (8, 32)])
def test_outputs_equal_on_images_of_other_sizes(pair, size):
    theirs, ours = pair
    given = inputs(ours, size)
    with torch.no_grad():
        assert_equal(our_outputs(ours, given), their_outputs(theirs, given))


@pytest.mark.parametrize("pair", [case for case in SQUARE if case not in AUTOENCODERS], indirect=True)
@pytest.mark.parametrize("size", [(17, 18), (27, 13)])
def test_what_is_left_at_the_edges_is_cut_off(pair, size):
    theirs, ours = pair
    given = inputs(ours, size)
    with torch.no_grad():
        assert_equal(our_outputs(ours, given), their_outputs(theirs, given))


@pytest.mark.parametrize("pair", TEXTS, indirect=True)
def test_padding_does_not_leak(pair):
    """Texts of different lengths in one batch, padding behind them."""
    theirs, ours = pair
    given = inputs(ours, padded=True)
    for wanted in (False, True):
        with torch.set_grad_enabled(wanted):
            assert_equal(our_outputs(ours, given), their_outputs(theirs, given))


@pytest.mark.parametrize("pair", TEXTS, indirect=True)
def test_padding_before_the_text(pair):
    """The same vectors as with padding behind it; CLIP's reference is told where each text begins."""
    theirs, ours = pair
    right = inputs(ours, padded=True)
    shift = LENGTH - right["seen"].sum(1, keepdim=True)
    moved = (torch.arange(LENGTH) - shift) % LENGTH
    left = right | {name: right[name].gather(1, moved) for name in ("ids", "seen", "segments")}
    with torch.no_grad():
        actual = our_outputs(ours, left)
        assert_equal(actual, our_outputs(ours, right))
        if theirs.config.model_type == "clip":
            places = (torch.arange(LENGTH) - shift).clamp_min(0)
            assert_equal(actual, their_outputs(theirs, left, position_ids=places))


@pytest.mark.parametrize("pair", AUTOENCODERS, indirect=True)
def test_faint_images_equal(pair):
    """Of pixels that hardly differ, what is added to their variance decides."""
    theirs, ours = pair
    given = inputs(ours)
    given["image"] = given["image"] * 1e-3
    assert_equal(our_outputs(ours, given), their_outputs(theirs, given))


def weighted(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """One number that every output has a part in."""
    draw = torch.Generator().manual_seed(2)
    parts = [torch.randn(outputs[name].shape, generator=draw) * outputs[name] for name in sorted(outputs)]
    return sum(part.sum() for part in parts)


def as_weights(network: torch.nn.Module) -> torch.nn.Module:
    """The same network with gradients in place of weights; zero where there is none."""
    out = copy.deepcopy(network)
    with torch.no_grad():
        for own, parameter in zip(out.parameters(), network.parameters(), strict=True):
            own.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    return out


def test_gradients_equal(pair, tmp_path):
    """Our gradients, put in place of the weights, go through our converter and must equal the reference's."""
    theirs, ours = pair
    given = inputs(ours, padded=isinstance(ours, ContrastiveModel))
    for network, outputs in ((theirs, their_outputs), (ours, our_outputs)):
        network.zero_grad()
        weighted(outputs(network, given)).backward()
    expected = stored(as_weights(theirs), tmp_path / "theirs")
    save_checkpoint(as_weights(ours), tmp_path / "ours")
    actual = load_file(tmp_path / "ours" / "model.safetensors")
    assert set(actual) == set(expected)
    for name, gradient in expected.items():
        scale = float(gradient.abs().max().clamp_min(1.0))
        assert float((actual[name] - gradient).abs().max()) / scale < TOLERANCE, name


def test_what_we_save_loads_there(pair, tmp_path):
    theirs, ours = pair
    save_checkpoint(ours, tmp_path)
    back, report = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    given = inputs(ours)
    with torch.no_grad():
        assert_equal(their_outputs(back.eval(), given), their_outputs(theirs, given))
        again = load_network(tmp_path)
        for name, output in our_outputs(again, given).items():
            assert torch.equal(output, our_outputs(ours, given)[name]), name
    assert again.config == ours.config
    with pytest.raises(AthanorError, match="left to right"):
        load_checkpoint(tmp_path)


def test_every_family_has_a_case(pair):
    _, ours = pair
    covered = {name.split(",")[0] for name in CASES}
    assert covered == set(HERE)
    assert family_of(ours.config).name in covered


@pytest.mark.parametrize("family", HERE.values(), ids=HERE)
def test_a_key_left_out_has_the_value_they_take(family):
    """The shortest config.json of each family is read as `transformers` completes it."""
    named = {"model_type": family.type, "architectures": [family.architecture]}
    completed = transformers.CONFIG_MAPPING[family.type]().to_dict()
    assert read_config(named, "shortest") == read_config(completed | named, "completed")


OLD = {
    "bad_words_ids": None, "do_sample": False, "max_length": 20, "num_beams": 1, "pruned_heads": {}, "top_k": 50,
    "tie_word_embeddings": True, "torchscript": False, "transformers_version": "4.16.0.dev0", "dropout": 0.0,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "projection_dim": 512,
}  # fmt: skip


@pytest.mark.parametrize("name", ["clip", "chinese_clip", "altclip"])
def test_a_config_as_older_versions_wrote_it(name):
    whole = transformers.CONFIG_MAPPING[name]().to_dict()
    inner = {place: {**whole[place], **OLD} for place in ("text_config", "vision_config")}
    old = {**whole, **inner, "text_config_dict": None, "vision_config_dict": None}
    assert read_config(old, "old") == read_config(whole, "new")


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 20_000])
@pytest.mark.parametrize("case", ["vit_mae", "altclip"])
def test_tensors_by_their_published_names(case, shard_bytes, tmp_path):
    """Whole, and in shards; a tensor under both of its names is refused."""
    theirs = reference(case)
    tensors = stored(theirs, tmp_path / "theirs")
    ours = load_network(tmp_path / "theirs")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size=shard_bytes)
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "config.json").write_bytes((tmp_path / "theirs" / "config.json").read_bytes())
    save_file(tensors, tmp_path / "published" / "model.safetensors", metadata={"format": "pt"})
    for folder in ("shards", "published"):
        loaded = load_network(tmp_path / folder).state_dict()
        assert all(torch.equal(weight, loaded[name]) for name, weight in ours.state_dict().items())
    both = load_file(tmp_path / "theirs" / "model.safetensors") | tensors
    save_file(both, tmp_path / "published" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AthanorError, match="twice"):
        load_network(tmp_path / "published")


@pytest.mark.parametrize("name", ["clip", "chinese_clip", "altclip"])
def test_an_older_object_replaces_the_newer_one(name):
    """As CLIP ViT-L/14 is published; what the older object leaves out has its usual value, not that of the newer."""
    inner = {"hidden_size": 64, "num_attention_heads": 4, "hidden_act": "relu", "layer_norm_eps": 0.5}
    older = {"hidden_size": 96, "num_hidden_layers": 3, "projection_dim": 9}
    for objects in ({"text_config_dict": older}, {"vision_config_dict": older, "text_config_dict": {}}):
        given = {"text_config": dict(inner), "vision_config": dict(inner), **objects}
        whole = transformers.CONFIG_MAPPING[name](**copy.deepcopy(given)).to_dict()
        named = {"model_type": name, "vision_config_dict": None, **given}
        assert read_config(named, "old") == read_config(whole, "new")


def changed(settings: dict, key: str, value: object) -> dict:
    """Settings with another value for one key, which may stand inside an object."""
    place, _, name = key.rpartition(".")
    return {**settings, place: {**settings[place], name: value}} if place else {**settings, name: value}


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("vit", "patch_size", [4, 4]),
        ("vit", "image_size", [4, 4, 4]),
        ("vit", "image_size", 8),
        ("vit", "hidden_act", "silu"),
        ("vit", "num_attention_heads", 7),
        ("vit", "head_dim", 3),
        ("vit-encoder", "pooler_act", "relu"),
        ("vit-encoder", "pooler_output_size", 3),
        ("vit_mae", "image_size", [16, 8]),
        ("vit_mae", "mask_ratio", 1.0),
        ("vit_mae", "mask_ratio", 0),
        ("vit_mae", "decoder_hidden_size", 0),
        ("vit_mae", "num_channels", True),
        ("clip", "text_config.eos_token_id", [1, 2]),
        ("clip", "text_config.eos_token_id", None),
        ("clip", "text_config.hidden_act", "silu"),
        ("clip", "text_config.rope_theta", 3.0),
        ("clip", "vision_config.hidden_size", "768"),
        ("clip", "text_config_dict", 5),
        ("clip", "text_config_dict", {"rope_theta": 64}),
        ("vit", "num_labels", 7),
        ("clip", "projection_dim", 0),
        ("chinese_clip", "text_config.position_embedding_type", "relative_key"),
        ("chinese_clip", "text_config.type_vocab_size", 0),
        ("altclip", "text_config.pad_token_id", 0),
        ("altclip", "text_config.project_dim", 0),
    ],
)
def test_what_we_cannot_run_is_refused_by_name(family, key, value):
    row = HERE[family]
    settings = transformers.CONFIG_MAPPING[row.type]().to_dict() | {"architectures": [row.architecture]}
    read_config(settings, "config.json")
    with pytest.raises(AthanorError) as caught:
        read_config(changed(settings, key, value), "config.json")
    said = {**row.settings, "image_size": "image", "text_config.eos_token_id": "end_id"}
    names = {key, said.get(key, key).split(".")[-1]} | ({"eos_token_id"} if "eos" in key else set())
    assert any(name in str(caught.value) for name in names), caught.value


LARGE = dict(hidden_size=1_024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4_096)
LARGE_14 = {**LARGE, "patch_size": 14}
PUBLISHED = [  # counts as the pages of the models and their papers have them; None: none is published
    ("ViTForImageClassification", {"num_labels": 1_000}, 86_567_656),
    ("ViTForImageClassification", {"num_labels": 1_000, "patch_size": 32}, 88_224_232),
    ("ViTForImageClassification", {**LARGE, "num_labels": 1_000}, 304_326_632),
    ("ViTModel", {}, 86_389_248),
    ("ViTMAEForPreTraining", {}, 111_907_840),
    ("ViTMAEForPreTraining", LARGE, None),
    ("CLIPModel", {}, 151_277_313),
    ("CLIPModel", {"vision_config": {"patch_size": 16}}, 149_620_737),
    (
        "CLIPModel",
        {
            "vision_config": LARGE_14, "projection_dim": 768,
            "text_config": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3_072},
        },
        427_616_513,
    ),
    ("ChineseCLIPModel", {"vision_config": {"patch_size": 16}, "text_config": {"vocab_size": 21_128}}, 188_262_913),
    ("AltCLIPModel", {"vision_config": LARGE_14}, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "count"), PUBLISHED)
def test_published_sizes_have_as_many_parameters(name, settings, count):
    class_ = getattr(transformers, name)
    config = class_.config_class(**settings)
    family, own = read_config(config.to_dict() | {"architectures": [name]}, name)
    with torch.device("meta"):
        theirs, ours = class_(config), family.build(own)
    actual = sum(parameter.numel() for parameter in ours.parameters())
    assert actual == sum(parameter.numel() for parameter in theirs.parameters())
    assert count in (None, actual)


def test_waves_equal_theirs():
    """Their function has the row first; the authors' weights, and their own model, have the column first."""
    tower = TowerConfig(image=16, patch=4, width=32, layers=2, heads=4, hidden=48)
    theirs = modeling_vit_mae.build_2d_sinusoidal_position_embedding(3, 5, 32)
    assert difference(waves((3, 5), 32), torch.cat((theirs[:, 16:], theirs[:, :16]), 1)) < 1e-6
    network = MaskedAutoencoder(MaskedAutoencoderConfig(tower=tower, decoder_width=16)).initialise(0)
    for table in (network.tower.front.positions, network.positions):
        assert not table.requires_grad and not bool(table[0].any())
        assert torch.equal(table[1:], waves((4, 4), table.shape[1]))
    with pytest.raises(ValueError, match="four"):
        waves((2, 2), 6)
