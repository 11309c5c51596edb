"""ViTAE: the numbers of its paper, its parts beside torch's own, sizes of maps, and that it learns."""

import math

import pytest
import torch
import torch.nn.functional as F

from athanor.models.vision.sizes import SIZES
from athanor.models.vision.vitae import (
    NormalCell,
    Performer,
    ReductionCell,
    Vitae,
    VitaeConfig,
    centred,
)

TINY = dict(
    widths=(8, 12, 16), inner_widths=(4, 4, 8), depths=(0, 1, 2), heads=(1, 2, 4), mlp_ratio=2, groups=(1, 4, 4),
    classes=3,
)  # fmt: skip


def tiny(**changed) -> VitaeConfig:
    return VitaeConfig(**{**TINY, **changed})


@pytest.mark.parametrize(
    ("name", "stated"), [("vitae-t", 4.8e6), ("vitae-6m", 6.5e6), ("vitae-13m", 13.2e6), ("vitae-s", 23.6e6)]
)
def test_parameters_beside_those_the_paper_states(name, stated):
    """The paper states two or three digits; ours are at most 1.8 % away."""
    with torch.device("meta"):
        network = Vitae(SIZES[name].config)
    actual = sum(parameter.numel() for parameter in network.parameters())
    assert actual == SIZES[name].parameters
    assert abs(actual / stated - 1) < 0.018


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_every_dilation_gives_a_map_of_the_same_size(ratio):
    for kernel in range(ratio, 12):
        for dilation in range(1, 6):
            for places in (1, 2, 7):
                padding = centred(kernel, ratio, dilation)
                image = torch.zeros(1, 1, places * ratio, places * ratio)
                weight = torch.zeros(1, 1, kernel, kernel)
                map_BCHW = F.conv2d(image, weight, stride=ratio, padding=padding, dilation=dilation)
                assert map_BCHW.shape[2:] == (places, places)


@pytest.mark.parametrize("size", [(64, 64), (61, 83), (16, 130)])
@pytest.mark.parametrize("kinds", [("performer", "attention", "pyramid"), ("attention", "performer", "performer")])
def test_maps_of_every_stage(size, kinds):
    network = Vitae(tiny(reductions=kinds)).initialise(0)
    maps = network.features(torch.randn(2, 3, *size))
    for map_BCHW, width, stride in zip(maps, network.config.widths, (4, 8, 16), strict=True):
        assert map_BCHW.shape == (2, width, -(-size[0] // stride), -(-size[1] // stride))
    assert network.config.strides == (4, 8, 16)
    assert network(torch.randn(2, 3, *size)).shape == (2, 3)


def test_a_performer_weighs_as_its_features_say():
    """In linear time, the same as writing all weights out; and directions stand at right angles."""
    torch.manual_seed(0)
    performer = Performer(12, 16).double()
    directions = performer.directions_MK
    torch.testing.assert_close(directions @ directions.t(), 8 * torch.eye(8, dtype=torch.double), atol=1e-5, rtol=0)
    x = torch.randn(2, 30, 12, dtype=torch.double)
    q, k, v = performer.qkv(x).detach().chunk(3, -1)

    def feature(one):
        parts = [math.exp(float(line @ one - one @ one / 2)) / math.sqrt(8) for line in directions]
        return torch.tensor(parts, dtype=torch.double)

    for row, place in ((0, 0), (1, 17)):
        weights = torch.stack([feature(q[row, place]) @ feature(k[row, other]) for other in range(30)])
        expected = performer.out((weights / weights.sum()) @ v[row])
        torch.testing.assert_close(performer(x)[row, place], expected, atol=1e-6, rtol=1e-6)


def test_a_normal_cell_is_three_branches_added():
    """Beside torch's own attention and convolutions with the same weights."""
    torch.manual_seed(0)
    config = tiny()
    cell = NormalCell(config, 2, 0.0).eval()
    attention = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    attention.in_proj_weight, attention.in_proj_bias = cell.attention.qkv.weight, cell.attention.qkv.bias
    attention.out_proj = cell.attention.out
    x = torch.randn(2, 3, 5, 16)
    normal = F.layer_norm(x, (16,), eps=1e-6).flatten(1, 2)
    far = attention(normal, normal, normal)[0].view(x.shape)
    near = x.permute(0, 3, 1, 2)
    first, first_norm, _, second, second_norm, _, third, _ = cell.convolutions
    for conv, norm in ((first, first_norm), (second, second_norm), (third, None)):
        near = F.conv2d(near, conv.weight, conv.bias, padding=1, groups=4)
        near = near / math.sqrt(1 + 1e-5) if norm is not None else near  # as yet no running numbers
        near = near * near.sigmoid()
    y = x + far + near.permute(0, 2, 3, 1)
    hidden = F.linear(F.layer_norm(y, (16,), eps=1e-6), cell.mlp.up.weight, cell.mlp.up.bias)
    expected = y + F.linear(F.gelu(hidden), cell.mlp.down.weight, cell.mlp.down.bias)
    torch.testing.assert_close(cell(x), expected, atol=1e-5, rtol=1e-5)


def test_a_reduction_sees_as_far_as_its_dilations_reach():
    """What changes four pixels reaches the places whose widest kernel covers them, and with attention every place."""
    image = torch.randn(1, 64, 64, 3)
    changed = image.clone()
    changed[0, 32:36, 32:36] += 1
    for kind, everywhere in (("pyramid", False), ("attention", True)):
        torch.manual_seed(0)
        widths = (16, 12, 16) if kind == "pyramid" else TINY["widths"]
        cell = ReductionCell(tiny(widths=widths, reductions=(kind, "performer", "pyramid")), 0, 3).eval()
        touched_HW = (cell(image) - cell(changed)).abs().amax((0, 3)) > 0
        assert bool(touched_HW.all()) is everywhere
        if kind == "pyramid":  # kernel 7, dilation 4: place i reads the rows 4 i - 11 + 4 t for t from 0 to 6
            assert touched_HW.any(1).nonzero().flatten().tolist() == [5, 6, 7, 8, 9, 10, 11]


def test_it_learns_to_tell_directions_of_stripes():
    generator = torch.Generator().manual_seed(0)

    def batch(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Stripes across or down, with random widths, places and noise."""
        kinds = torch.randint(2, (rows,), generator=generator)
        stripes = []
        for kind in kinds.tolist():
            width, start = (3 + torch.randint(4, (2,), generator=generator)).tolist()
            band = ((torch.arange(32) + start) // width % 2).float()
            stripes.append(band.expand(32, 32) if kind else band[:, None].expand(32, 32))
        pixels = torch.stack(stripes)[:, None].expand(-1, 3, -1, -1)
        return pixels + 0.3 * torch.randn(pixels.shape, generator=generator), kinds

    network = Vitae(tiny(drop_path=0.1, classes=2)).initialise(0).train()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(60):
        pixels, kinds = batch(16)
        optimizer.zero_grad()
        F.cross_entropy(network(pixels), kinds).backward()
        optimizer.step()
    pixels, kinds = batch(200)
    with torch.no_grad():
        accuracy = (network.eval()(pixels).argmax(1) == kinds).float().mean()
    assert accuracy > 0.9


def test_first_weights_follow_the_seed():
    one, same, other = (Vitae(tiny()).initialise(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert not torch.equal(one["stages.0.0.attention.directions_MK"], other["stages.0.0.attention.directions_MK"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"widths": (8, 12)}, "widths"),
        ({"widths": (8, 12, 18)}, "stage 2"),
        ({"heads": (1, 2, 5)}, "stage 2"),
        ({"groups": (1, 4, 3)}, "stage 2"),
        ({"ratios": (4, 3, 2)}, "ratios"),
        ({"kernels": (3, 3, 3)}, "kernels"),
        ({"dilations": ((1, 2), (), (1, 2))}, "stage 1"),
        ({"reductions": ("performer", "other", "pyramid")}, "reductions"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"classes": 0}, "classes"),
    ],
)
def test_what_forms_no_network_is_refused_by_name(changed, said):
    with pytest.raises(ValueError, match=said):
        tiny(**changed)
