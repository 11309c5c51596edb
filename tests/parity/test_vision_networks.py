"""Residual networks and Swin of both versions beside `transformers`: the same weights must give the same numbers.

Tiny networks, every parameter and every running number disturbed, copied through the families' tables of names.
"""

import copy
import math

import pytest
import torch
import transformers
from safetensors.torch import load_file

from athanor.models.convert import load_network, rows_of, save_checkpoint
from athanor.models.families.vision import VISION
from athanor.models.settings import our_config
from athanor.models.vision.resnet import ResNet, ResNetConfig
from athanor.models.vision.sizes import SIZES
from athanor.models.vision.swin import Swin, SwinConfig
from tests.parity.reference import difference

TOLERANCE = 1e-5
# V2 normalises small numbers and multiplies cosines by 100: in float32 either network shows 1e-5 of rounding.
IN_DOUBLE = 1e-10
CLASSES = 5
IMAGES = [(64, 64), (61, 83), (130, 97)]  # odd ones fill up with zeros at every stage, and in V2 beyond `image_size`
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 24], "depths": [2, 1, 2]}
SWIN = {
    "embed_dim": 8, "depths": [2, 3, 2], "num_heads": [2, 1, 4], "window_size": 4, "image_size": 64,
    "mlp_ratio": 2.5, "drop_path_rate": 0.0, "attn_implementation": "eager",
}  # fmt: skip
V2 = {**SWIN, "pretrained_window_sizes": [0, 0, 0]}
CASES = {
    "resnet, basic": ("ResNet", {**RESNET, "layer_type": "basic"}),
    "resnet, basic, halving at once": (
        "ResNet", {**RESNET, "layer_type": "basic", "downsample_in_first_stage": True, "hidden_act": "gelu"},
    ),
    "resnet, bottleneck": ("ResNet", {**RESNET, "num_channels": 1}),
    "resnet, bottleneck, halving early": ("ResNet", {**RESNET, "downsample_in_bottleneck": True, "hidden_act": "silu"}),
    "swin": ("Swin", SWIN),
    "swin, window that divides nothing": (
        "Swin", {**SWIN, "window_size": 3, "qkv_bias": False, "layer_norm_eps": 1e-3},
    ),
    "swin, patches of two": ("Swin", {**SWIN, "patch_size": 2, "window_size": 7, "hidden_act": "gelu_new"}),
    "swinv2": ("Swinv2", V2),
    "swinv2, larger windows in pretraining": ("Swinv2", {**V2, "pretrained_window_sizes": [6, 0, 5]}),
    "swinv2, window larger than the map": ("Swinv2", {**V2, "window_size": 6, "num_channels": 2}),
    "swinv2, no bias": ("Swinv2", {**V2, "qkv_bias": False, "window_size": 5, "hidden_act": "relu"}),
}  # fmt: skip
ROWS = {family.name: family for family in VISION}


def reference(case: str) -> torch.nn.Module:
    """The reference network in float32 with every parameter and running number disturbed."""
    name, settings = CASES[case]
    torch.manual_seed(len(case))
    config = getattr(transformers, f"{name}Config")(**settings, num_labels=CLASSES)
    network = getattr(transformers, f"{name}ForImageClassification")(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if name == "ResNet" else 0.1))
        for key, number in network.named_buffers():
            if key.endswith("running_mean"):
                number.normal_()
            elif key.endswith("running_var"):
                number.uniform_(0.5, 2)
            elif key.endswith("num_batches_tracked"):
                number.add_(7)
        for key, parameter in network.named_parameters():
            if key.endswith("0.blocks.0.attention.self.logit_scale"):
                parameter[0] = math.log(300)  # beyond the bound: cut to 100
    return network.eval()


def copied(theirs: dict[str, torch.Tensor], ours: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    """Their tensors under our names, stacked as the family's table says; none may be left over or missing."""
    out, used = {}, set()
    for own, _, names in rows_of(ROWS[name], ours.state_dict()):
        pieces = [theirs[one] for one in names]
        out[own] = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        used.update(names)
    assert used == set(theirs)
    return out


@pytest.fixture(params=CASES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The reference and our network with the weights that the reference saved."""
    theirs = reference(request.param)
    folder = tmp_path_factory.mktemp("reference")
    theirs.save_pretrained(folder)
    family = ROWS[theirs.config.model_type]
    config = our_config(family, theirs.config.to_dict() | {"num_labels": CLASSES}, "config.json")
    ours = family.build(config)
    ours.load_state_dict(copied(load_file(folder / "model.safetensors"), ours, family.name))
    return theirs, ours.eval()


def as_exact(pair):
    """Both networks, in float64 where float32 hides a difference behind its rounding, and the tolerance that is due."""
    theirs, ours = (copy.deepcopy(network) for network in pair)
    if theirs.config.model_type == "swinv2":
        return theirs.double(), ours.double(), IN_DOUBLE
    return theirs, ours, TOLERANCE


def images(network: torch.nn.Module, height: int, width: int, rows: int = 2) -> torch.Tensor:
    channels = network.config.num_channels
    drawn = torch.randn(rows, channels, height, width, generator=torch.Generator().manual_seed(height))
    return drawn.to(next(network.parameters()).dtype)


def their_maps(theirs: torch.nn.Module, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The map that each stage ends with."""
    if theirs.config.model_type == "resnet":
        return theirs(pixels, output_hidden_states=True).hidden_states[1:]
    backbone = getattr(copy.deepcopy(theirs), theirs.config.model_type)  # a small image changes their windows for good
    patches, size = backbone.embeddings(pixels)
    flags = {"output_hidden_states": True, "output_hidden_states_before_downsampling": True}
    return backbone.encoder(patches, size, **flags).reshaped_hidden_states[1:]


@pytest.mark.parametrize("size", IMAGES)
@pytest.mark.parametrize("wanted", [False, True], ids=["no gradient", "gradient"])
def test_scores_and_maps_equal(pair, size, wanted):
    theirs, ours, tolerance = as_exact(pair)
    pixels = images(theirs, *size)
    with torch.set_grad_enabled(wanted):
        assert difference(ours(pixels), copy.deepcopy(theirs)(pixels).logits) < tolerance
        expected = their_maps(theirs, pixels)
        actual = ours.features(pixels)
    assert len(actual) == len(expected) == len(ours.config.widths)
    for map_BCHW, other_BCHW, width, stride in zip(
        actual, expected, ours.config.widths, ours.config.strides, strict=True
    ):
        assert difference(map_BCHW, other_BCHW) < tolerance
        assert map_BCHW.shape == (2, width, -(-size[0] // stride), -(-size[1] // stride))


def test_scores_equal_in_float32(pair):
    theirs, ours = pair
    pixels = images(theirs, 97, 130)
    assert difference(ours(pixels), copy.deepcopy(theirs)(pixels).logits) < TOLERANCE


def test_gradients_equal_in_training(pair):
    """Batch statistics in use; the running ones must move as theirs do."""
    theirs, ours, tolerance = as_exact(pair)
    theirs.train(), ours.train()
    pixels = images(theirs, 97, 130)
    wanted = torch.randn(2, CLASSES, generator=torch.Generator().manual_seed(1)).to(pixels)
    (ours(pixels) * wanted).sum().backward()
    (theirs(pixels).logits * wanted).sum().backward()
    named = {key: one.grad for key, one in theirs.named_parameters()} | dict(theirs.named_buffers())
    moved = transformers_names(theirs, named)
    expected = copied(moved, ours, theirs.config.model_type)
    for name, parameter in ours.named_parameters():
        scale = float(expected[name].abs().max().clamp_min(1e-3))
        assert float((parameter.grad - expected[name]).abs().max()) / scale < tolerance, name
    for name, number in ours.named_buffers():
        assert difference(number.float(), expected[name].float()) < TOLERANCE, name


def transformers_names(network: torch.nn.Module, named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors by the names under which that network's weights are stored; V1 has other names in memory."""
    out = {}
    for name, tensor in named.items():
        if name.endswith(("relative_position_index", "relative_coords_table")):
            continue
        if network.config.model_type == "swin":
            for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
                name = name.replace(f".attention.{letter}_proj.", f".attention.self.{word}.")
            name = name.replace(".attention.o_proj.", ".attention.output.dense.")
            name = name.replace(".attention.relative_position_bias.", ".attention.self.")
            name = name.replace(".mlp.fc1.", ".intermediate.dense.").replace(".mlp.fc2.", ".output.dense.")
        out[name] = tensor
    return out


def test_stochastic_depth_leaves_out_the_same_branches():
    """The same seed draws the same numbers in the same order; of V1 theirs never leaves out the second branch."""
    theirs = transformers.Swinv2ForImageClassification(transformers.Swinv2Config(**{**V2, "drop_path_rate": 0.5}))
    ours = Swin(our_config(ROWS["swinv2"], theirs.config.to_dict(), "config.json"))
    ours.load_state_dict(copied(transformers_names(theirs, theirs.state_dict()), ours, "swinv2"))
    pixels = torch.randn(4, 3, 64, 64)
    scores = []
    for network in (ours.train(), theirs.train()):
        torch.manual_seed(3)
        scores.append(network(pixels))
    assert difference(scores[0], scores[1].logits) < TOLERANCE
    assert difference(ours.eval()(pixels), scores[0]) > 1e-4


def test_a_map_smaller_than_a_window_is_one_window():
    """V1 then has windows of the map's size, and of its table the distances that occur (its authors' networks)."""
    large = Swin(SwinConfig(version="v1", stem_width=8, depths=(2,), heads=(2,), window=7, classes=3)).initialise(0)
    small = Swin(SwinConfig(version="v1", stem_width=8, depths=(2,), heads=(2,), window=4, classes=3))
    weights = large.state_dict()
    for name, table in weights.items():
        if name.endswith("bias.table"):
            weights[name] = table.unflatten(0, (13, 13))[3:-3, 3:-3].flatten(0, 1)
    small.load_state_dict(weights)
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.equal(large(pixels), small(pixels))
    assert large(torch.randn(1, 3, 9, 100)).isfinite().all()


def test_places_joined_by_rolling_do_not_see_each_other():
    """Moved windows: what happens at one edge must not reach the other one."""
    network = Swin(SwinConfig(version="v1", stem_width=8, depths=(2,), heads=(2,), window=4, classes=3)).initialise(0)
    pixels = torch.randn(1, 3, 64, 64)
    changed = pixels.clone()
    changed[..., :4, :4] += 1
    moved = (network.features(pixels)[0] - network.features(changed)[0]).abs().amax((0, 1)) > 0
    assert moved[0, 0] and not moved[-6:].any() and not moved[:, -6:].any()


def test_both_ways_through_a_folder(pair, tmp_path):
    """What they save loads here, and what we save loads there with nothing missing or left over."""
    theirs, ours = pair
    theirs.save_pretrained(tmp_path / "theirs")
    pixels = images(theirs, 97, 130)
    loaded = load_network(tmp_path / "theirs")
    assert loaded.config == ours.config
    assert torch.equal(loaded(pixels), ours(pixels))
    save_checkpoint(ours, tmp_path / "ours")
    back, report = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert difference(back.eval()(pixels).logits, copy.deepcopy(theirs)(pixels).logits) < TOLERANCE
    for key, number in back.named_buffers():
        assert torch.equal(number, theirs.get_buffer(key)), key


CONVOLUTIONAL_OR_WINDOWED = [name for name in SIZES if not name.startswith("vitae")]


@pytest.mark.parametrize("name", CONVOLUTIONAL_OR_WINDOWED)
def test_published_sizes(name):
    """Counts as torchvision and the authors give them, and as many as theirs of that size has."""
    size = SIZES[name]
    with torch.device("meta"):
        ours, theirs = size.build(size.config), of_the_same_size(size.config)
    counts = [sum(one.numel() for one in network.parameters()) for network in (ours, theirs)]
    assert counts == [size.parameters] * 2


def of_the_same_size(config: ResNetConfig | SwinConfig) -> torch.nn.Module:
    shape = {"depths": config.depths, "num_labels": config.classes}
    if isinstance(config, ResNetConfig):
        settings = transformers.ResNetConfig(hidden_sizes=config.widths, layer_type=config.block, **shape)
        return transformers.ResNetForImageClassification(settings)
    shape |= {"embed_dim": config.stem_width, "num_heads": config.heads, "window_size": config.window}
    if config.version == "v1":
        return transformers.SwinForImageClassification(transformers.SwinConfig(**shape))
    settings = transformers.Swinv2Config(image_size=config.image_size, **shape)
    return transformers.Swinv2ForImageClassification(settings)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: ResNetConfig(widths=(8, 8), depths=(1,), block="basic"), "widths"),
        (lambda: ResNetConfig(widths=(8,), depths=(1,), block="neck"), "block"),
        (lambda: ResNetConfig(widths=(8, 8), depths=(1, 0), block="basic"), "depths"),
        (lambda: ResNetConfig(widths=(6,), depths=(1,), block="bottleneck"), "widths"),
        (lambda: ResNetConfig(widths=(8,), depths=(1,), block="basic", halve_early=True), "halve_early"),
        (lambda: ResNetConfig(widths=(8,), depths=(1,), block="basic", classes=0), "classes"),
        (lambda: SwinConfig(version="v3", stem_width=8, depths=(1,), heads=(2,), window=4), "version"),
        (lambda: SwinConfig(version="v1", stem_width=8, depths=(1,), heads=(3,), window=4), "heads"),
        (lambda: SwinConfig(version="v1", stem_width=8, depths=(1,), heads=(2,), window=0), "window"),
        (lambda: SwinConfig(version="v1", stem_width=8, depths=(1, 1), heads=(2,), window=4), "heads"),
        (
            lambda: SwinConfig(
                version="v1", stem_width=8, depths=(1,), heads=(2,), window=4, pretrained_windows=(3, 0, 0, 0)
            ),
            "pretrained_windows",
        ),
        (
            lambda: SwinConfig(version="v2", stem_width=8, depths=(1,), heads=(2,), window=4, pretrained_windows=(1,)),
            "pretrained_windows",
        ),
    ],
)
def test_what_forms_no_network_is_refused_by_name(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()


def test_images_of_other_channels_and_missing_heads_are_refused():
    network = ResNet(ResNetConfig(widths=(8,), depths=(1,), block="basic"))
    with pytest.raises(ValueError, match="images"):
        network.features(torch.randn(1, 1, 16, 16))
    with pytest.raises(ValueError, match="classes"):
        network(torch.randn(1, 3, 16, 16))


@pytest.mark.parametrize("build", [ResNet, Swin])
def test_first_weights_follow_the_seed(build):
    config = (
        ResNetConfig(widths=(8,), depths=(1,), block="basic", classes=3)
        if build is ResNet
        else SwinConfig(version="v2", stem_width=8, depths=(2,), heads=(2,), window=4, classes=3)
    )
    one, same, other = (build(config).initialise(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
