"""Heads for pixels, boxes and joints: losses and metrics beside the truth, and learning from generated shapes."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from athanor.models.vision.heads import (
    BoxScores,
    DetectionHead,
    FeaturePyramid,
    Found,
    PoseHead,
    SegmentationHead,
    assign,
    centreness,
    detect,
    detection_loss,
    focal_loss,
    generalised_overlap,
    overlaps,
    pose_loss,
    segmentation_loss,
    soft_argmax,
    suppress,
)
from athanor.models.vision.metrics import average_precision, correct_joints, mean_iou
from athanor.models.vision.resnet import ResNet, ResNetConfig
from athanor.models.vision.swin import Swin, SwinConfig
from athanor.models.vision.vitae import Vitae, VitaeConfig

BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: ResNet(ResNetConfig(widths=(16, 32, 48), depths=(1, 1, 1), block="basic", stem_width=16)),
    "swin": lambda: Swin(SwinConfig(version="v1", stem_width=16, depths=(2, 2), heads=(2, 2), window=4)),
    "vitae": lambda: Vitae(
        VitaeConfig(
            widths=(16, 16, 32), inner_widths=(8, 8, 16), depths=(0, 0, 1), heads=(1, 1, 2), mlp_ratio=2,
            groups=(1, 1, 4),
        )
    ),
}  # fmt: skip


# --- truth of the metrics ------------------------------------------------------------------------------------------


def test_mean_iou_by_hand():
    """Class 0: 2 of 4 pixels, class 1: 1 of 3; class 2 occurs nowhere; one pixel is not scored."""
    truth = torch.tensor([[0, 0, 0, 1], [1, -100, 0, 0]])[:, :4]
    labels = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 0]])
    zero, one = 4 / 6, 1 / 3
    assert mean_iou(labels, truth, 3) == pytest.approx((zero + one) / 2)
    assert mean_iou(truth.clamp_min(0), truth, 3) == 1


def box(*sides: float) -> Tensor:
    return torch.tensor([sides], dtype=torch.float32)


def found(boxes: list[tuple[float, ...]], scores: list[float], labels: list[int]) -> Found:
    return Found(torch.tensor(boxes).view(-1, 4).float(), torch.tensor(scores), torch.tensor(labels).long())


def test_average_precision_by_hand():
    """Surest first: right, wrong, right of three objects: precision 1 up to a third, 2/3 up to two thirds, then 0."""
    boxes = [torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), torch.tensor([[0.0, 0, 4, 4]])]
    labels = [torch.tensor([0, 0]), torch.tensor([0])]
    ours = [
        found([(0, 0, 10, 9), (50, 50, 60, 60), (20, 20, 30, 30)], [0.9, 0.8, 0.3], [0, 0, 0]),
        found([(0, 0, 4, 1)], [0.1], [0]),
    ]
    assert average_precision(ours, boxes, labels, 1) == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision(ours, boxes, labels, 1, overlap=0.25) == pytest.approx((1 + 3 / 4 + 3 / 4) / 3)
    assert average_precision(ours, boxes, labels, 1, overlap=0.95) == pytest.approx(1 / 3 / 3)


def test_average_precision_takes_each_object_once_and_each_class_apart():
    boxes, labels = [torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])], [torch.tensor([0, 1])]
    right = found([(0, 0, 10, 10), (20, 0, 30, 10)], [0.5, 0.4], [0, 1])
    twice = found([(0, 0, 10, 10), (0, 0, 10, 10), (20, 0, 30, 10)], [0.5, 0.6, 0.4], [0, 0, 1])
    swapped = found([(0, 0, 10, 10), (20, 0, 30, 10)], [0.5, 0.4], [1, 0])
    none = found([], [], [])
    assert average_precision([right], boxes, labels, 2) == 1
    assert average_precision([twice], boxes, labels, 2) == 1  # the second comes after full recall
    assert average_precision([swapped], boxes, labels, 2) == 0
    assert average_precision([none], boxes, labels, 2) == 0
    assert average_precision([right], boxes, labels, 3) == 1  # no object of the third class: left out


def test_average_precision_beside_its_definition():
    """The area under max over recall' >= recall of precision(recall'), added up at every threshold."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        right = torch.rand(12, generator=generator) < 0.5
        objects = 15
        boxes = [torch.arange(objects)[:, None] * 20 + torch.tensor([0.0, 0, 10, 10])]
        ours = [(float(place * 20), place * 20.0, place * 20.0 + 10, place * 20.0 + 10) for place in range(12)]
        ours = [one if hit else (900.0, 0.0, 901.0, 1.0) for one, hit in zip(ours, right.tolist(), strict=True)]
        scores = torch.rand(12, generator=generator)
        order = right[scores.argsort(descending=True)].tolist()
        points = [(sum(order[:n]) / objects, sum(order[:n]) / n) for n in range(1, 13)]
        recalls = sorted({0.0, *(recall for recall, _ in points)})
        area = sum(
            (high - low) * max(precision for recall, precision in points if recall >= high)
            for low, high in itertools.pairwise(recalls)
        )
        found_once = [found(ours, scores.tolist(), [0] * 12)]
        truth = [torch.zeros(objects, dtype=torch.long)]
        assert average_precision(found_once, boxes, truth, 1) == pytest.approx(area)


def test_correct_joints_by_hand():
    truth = torch.zeros(2, 2, 2)
    ours = torch.tensor([[[3.0, 4.0], [0.0, 5.1]], [[0.0, 1.0], [0.0, 0.0]]])
    seen = torch.tensor([[True, True], [True, False]])
    assert correct_joints(ours, truth, seen, torch.tensor([5.0, 0.5])) == pytest.approx(1 / 3)
    assert correct_joints(ours, truth, seen, torch.tensor([5.0, 1.0])) == pytest.approx(2 / 3)


# --- truth of the losses -------------------------------------------------------------------------------------------


def test_overlaps_by_counting_pixels():
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 12, (2, 30, 2, 2), generator=generator).sort(2).values.flatten(2)
    corners[..., 2:] += 1
    y, x = torch.meshgrid(torch.arange(14), torch.arange(14), indexing="ij")

    def pixels(one: Tensor) -> Tensor:
        left, top, right, bottom = one.tolist()
        return (x >= left) & (x < right) & (y >= top) & (y < bottom)

    for first, second in zip(*corners, strict=True):
        inside = int((pixels(first) & pixels(second)).sum())
        union = int((pixels(first) | pixels(second)).sum())
        hull = torch.cat((torch.minimum(first, second)[:2], torch.maximum(first, second)[2:]))
        around = int(pixels(hull).sum())
        assert float(overlaps(first[None].float(), second[None].float())) == pytest.approx(inside / union)
        expected = inside / union - (around - union) / around
        assert float(generalised_overlap(first.float(), second.float())) == pytest.approx(expected, abs=1e-6)


def test_focal_loss_by_hand():
    scores, truth = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 0.0, 1.0])
    p = [1 / (1 + math.exp(-score)) for score in scores.tolist()]
    expected = -0.25 * (1 - p[0]) ** 2 * math.log(p[0]) - 0.75 * p[1] ** 2 * math.log(1 - p[1])
    expected -= 0.25 * (1 - p[2]) ** 2 * math.log(p[2])
    assert float(focal_loss(scores, truth)) == pytest.approx(expected, rel=1e-6)


def empty_scores(sizes: tuple[int, ...] = (16, 8), strides: tuple[int, ...] = (4, 8)) -> BoxScores:
    head = DetectionHead((4, 4), strides, 2, 8, 1)
    with torch.no_grad():
        return head(tuple(torch.zeros(1, 4, size, size) for size in sizes))


def test_places_answer_for_the_smallest_object_around_them():
    scores = empty_scores()
    large, small = box(0, 0, 64, 64), box(24, 24, 40, 40)
    answers = assign(scores, torch.cat((large, small)))
    places = scores.places_X2
    for answer, place, stride in zip(answers.tolist(), places.tolist(), scores.strides_X.tolist(), strict=True):
        near = all(abs(one - 32) <= 1.5 * stride for one in place)
        furthest = max(max(one - 24, 40 - one) for one in place)
        if stride == 4:  # up to 32 pixels to the furthest side: only the small one
            assert answer == (1 if near and furthest < 16 else 2)
        else:  # from 32: only the large one
            assert answer == (0 if near else 2)
    assert set(answers.tolist()) == {0, 1, 2}
    assert assign(scores, torch.zeros(0, 4)).eq(0).all()


def test_centreness_is_one_in_the_middle():
    sides = torch.tensor([[3.0, 5, 3, 5], [1.0, 2, 4, 2], [0.0, 1, 4, 1]])
    assert centreness(sides).tolist() == pytest.approx([1, math.sqrt(1 / 4), 0])


def test_a_perfect_answer_costs_next_to_nothing_and_is_found():
    scores = empty_scores()
    boxes, labels = torch.cat((box(4, 6, 20, 18), box(0, 0, 64, 64))), torch.tensor([1, 0])
    answers = assign(scores, boxes)
    answered = answers < 2
    classes = torch.full_like(scores.classes_BXC, -20.0)
    classes[0, answered.nonzero().squeeze(1), labels[answers[answered]]] = 20
    safe = boxes[answers.clamp_max(1)]
    sides = torch.cat((scores.places_X2 - safe[:, :2], safe[:, 2:] - scores.places_X2), -1)
    centre = torch.logit(centreness(sides.clamp_min(1e-3)), eps=1e-6)
    perfect = BoxScores(classes, sides[None], centre[None], scores.places_X2, scores.strides_X, scores.levels)
    entropy = nn.functional.binary_cross_entropy_with_logits(centre[answered], centre[answered].sigmoid())
    assert float(detection_loss(perfect, [boxes], [labels])) == pytest.approx(float(entropy), abs=1e-4)
    assert float(detection_loss(scores, [boxes], [labels])) > float(entropy) + 0.5
    assert average_precision(detect(perfect), [boxes], [labels], 2, overlap=0.99) == 1
    assert detection_loss(scores, [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.long)]).isfinite()


def test_of_boxes_on_one_object_the_surest_stays():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]])
    assert suppress(boxes, torch.tensor([0, 0, 1, 0]), 0.5).tolist() == [0, 2, 3]
    assert suppress(boxes, torch.tensor([0, 0, 1, 0]), 0.95).tolist() == [0, 1, 2, 3]
    assert suppress(boxes[:0], torch.zeros(0, dtype=torch.long), 0.5).tolist() == []


def test_soft_argmax_is_the_mean_place():
    heat = torch.full((1, 1, 4, 6), -1e9)
    heat[0, 0, 1, 2] = heat[0, 0, 1, 5] = 0.0
    assert soft_argmax(heat, 4)[0, 0].tolist() == [(2 + 5 + 1) / 2 * 4, 1.5 * 4]


def test_pose_loss_is_zero_at_the_gaussian_and_scores_what_is_seen():
    joints = torch.tensor([[[16.0, 16.0], [8.0, 24.0]]])
    y, x = torch.meshgrid(torch.arange(8) * 4.0 + 2, torch.arange(8) * 4.0 + 2, indexing="ij")
    heat = torch.stack([-((x - a) ** 2 + (y - b) ** 2) / 32 for a, b in joints[0].tolist()])[None]
    seen = torch.tensor([[True, True]])
    assert float(pose_loss(heat, joints, seen, 4)) < 0.1  # the Gaussian is cut off at the border
    assert float(pose_loss(-heat, joints, seen, 4)) > 0.3
    hidden = torch.tensor([[True, False]])
    joints[0, 1] = 1e4
    assert float(pose_loss(heat, joints, hidden, 4)) < 0.1
    assert float(pose_loss(heat, joints, torch.zeros(1, 2, dtype=torch.bool), 4)) == 0


def test_segmentation_loss_leaves_out_what_is_not_scored():
    scores = torch.randn(2, 3, 4, 5)
    labels = torch.randint(3, (2, 4, 5))
    labels[0, :2] = -100
    scored = labels != -100
    probability = scores.softmax(1).permute(0, 2, 3, 1)[scored].gather(1, labels[scored][:, None])
    assert torch.isclose(segmentation_loss(scores, labels), -probability.log().mean())
    assert float(segmentation_loss(scores, torch.full_like(labels, -100))) == 0


def test_a_pyramid_tells_fine_maps_what_coarse_ones_see():
    maps = tuple(torch.randn(2, width, size, size + 1) for width, size in ((4, 13), (6, 7), (8, 4)))
    pyramid = FeaturePyramid((4, 6, 8), 5)
    out = pyramid(maps)
    assert [one.shape for one in out] == [(2, 5, 13, 14), (2, 5, 7, 8), (2, 5, 4, 5)]
    other = pyramid((*maps[:2], maps[2] + 1))
    assert not torch.allclose(out[0], other[0])
    finer = pyramid((maps[0] + 1, *maps[1:]))
    assert torch.equal(out[1], finer[1]) and torch.equal(out[2], finer[2])


# --- learning from generated shapes ----------------------------------------------------------------------------------


def scene(generator: torch.Generator, size: int = 64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """An image of noise with one to three shapes that do not overlap; classes of pixels, boxes and kinds."""
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    image, pixels = 0.3 * torch.randn(3, size, size, generator=generator), torch.zeros(size, size, dtype=torch.long)
    boxes, kinds = torch.zeros(0, 4), []
    for _ in range(int(torch.randint(1, 4, (1,), generator=generator))):
        kind = int(torch.randint(2, (1,), generator=generator))
        side = 14 + int(torch.randint(14, (1,), generator=generator))
        left, top = torch.randint(size - side + 1, (2,), generator=generator).tolist()
        one = box(left, top, left + side, top + side)
        if len(boxes) and float(overlaps(one, boxes).max()) > 0:
            continue
        across, down = (x - left) / side * 2 - 1, (y - top) / side * 2 - 1
        inside = (across**2 + down**2 <= 1) if kind else (across.abs() <= 1) & (down.abs() <= 1)
        colour = 0.5 + torch.rand(3, generator=generator)
        colour[kind] = 0  # squares have no red, discs no green
        image = torch.where(inside, image + colour[:, None, None], image)
        pixels[inside] = kind + 1
        boxes, kinds = torch.cat((boxes, one)), [*kinds, kind]
    return image, pixels, boxes, torch.tensor(kinds)


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    images, pixels, boxes, kinds = zip(*(scene(generator) for _ in range(count)), strict=True)
    return torch.stack(images), torch.stack(pixels), list(boxes), list(kinds)


def train(network: nn.ModuleList, steps: int, loss: Callable[[int], Tensor]) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    network.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
        schedule.step()
    network.eval()


def network_of(backbone: str, head: Callable[[nn.Module], nn.Module]) -> nn.ModuleList:
    torch.manual_seed(0)
    body = BACKBONES[backbone]().initialise(0)
    return nn.ModuleList((body, head(body)))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_learns_to_segment(backbone):
    images, pixels, _, _ = scenes(128, 0)
    others, truth, _, _ = scenes(48, 1)
    network = network_of(backbone, lambda body: SegmentationHead(body.config.widths, 3, 24))
    body, head = network

    def loss(step: int) -> Tensor:
        rows = slice(step * 16 % 128, step * 16 % 128 + 16)
        return segmentation_loss(head(body.features(images[rows]), (64, 64)), pixels[rows])

    chance = mean_iou(torch.zeros_like(truth), truth, 3)  # all background
    train(network, 80, loss)
    with torch.no_grad():
        reached = mean_iou(head(body.features(others), (64, 64)).argmax(1), truth, 3)
    assert chance < 0.35 and reached > 0.8


def test_it_learns_to_detect():
    images, _, boxes, kinds = scenes(128, 0)
    others, _, true_boxes, true_kinds = scenes(48, 1)
    network = network_of("resnet", lambda body: DetectionHead(body.config.widths, body.config.strides, 2, 32, 1))
    body, head = network

    def loss(step: int) -> Tensor:
        first = step * 16 % 128
        rows = slice(first, first + 16)
        return detection_loss(head(body.features(images[rows])), boxes[rows], kinds[rows])

    def reached() -> float:
        with torch.no_grad():
            return average_precision(detect(head(body.features(others)), most=20), true_boxes, true_kinds, 2)

    before = reached()
    train(network, 80, loss)
    after = reached()
    assert before < 0.05 and after > 0.9


def figures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Bars turned any way, red at one end and green in the middle, on noise; where both ends and the middle are."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    images, joints = [], []
    for _ in range(count):
        angle, length = torch.rand(2, generator=generator).tolist()
        reach = 10 + 8 * length
        middle = 20 + 24 * torch.rand(2, generator=generator)
        way = torch.tensor([math.cos(2 * math.pi * angle), math.sin(2 * math.pi * angle)])
        along = (x - middle[0]) * way[0] + (y - middle[1]) * way[1]
        beside = (y - middle[1]) * way[0] - (x - middle[0]) * way[1]
        bar = (beside.abs() < 3.5) & (along.abs() < reach)
        image = 0.3 * torch.randn(3, 64, 64, generator=generator) + bar
        image[0] += bar & (along > reach / 2)
        images.append(image)
        joints.append(torch.stack((middle + reach * way, middle, middle - reach * way)))
    return torch.stack(images), torch.stack(joints)


def test_it_learns_to_find_joints():
    images, joints = figures(192, 0)
    others, truth = figures(64, 1)
    network = network_of("resnet", lambda body: PoseHead(body.config.widths, body.config.strides[0], 3, 24))
    body, head = network

    def loss(step: int) -> Tensor:
        rows = slice(step * 16 % 192, step * 16 % 192 + 16)
        seen = torch.ones(joints[rows].shape[:2], dtype=torch.bool)
        return pose_loss(head(body.features(images[rows])), joints[rows], seen, head.stride)

    def reached(places: Tensor) -> float:
        seen = torch.ones(truth.shape[:2], dtype=torch.bool)
        return correct_joints(places, truth, seen, torch.full((len(truth),), 4.0))

    chance = reached(joints.mean(0).expand_as(truth))  # always where joints are on average
    train(network, 100, loss)
    with torch.no_grad():
        found_places = soft_argmax(head(body.features(others)), head.stride)
    assert chance < 0.1 and reached(found_places) > 0.9
