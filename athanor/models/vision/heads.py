"""Heads on any backbone's maps: a class per pixel, boxes around objects, and joints of a body; with their losses.

Each head takes the maps that `features` of a backbone gives, and the backbone's `config.widths` (and `strides`).
Shape letters as in `parts.py`; X the places of all maps in one row, J joints, O objects of one image. Points and boxes
are in pixels of the image, x before y; a box is (left, top, right, bottom).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORED = -100  # a label with this value is not scored (the convention of torch)
CENTRE_RADIUS = 1.5  # in strides: how near the middle of an object a place must be to answer for it
FOCUS, FOREGROUND_SHARE = 2.0, 0.25  # gamma and alpha of the focal loss (Lin et al. 2017, section 5.1)
PRIOR = 0.01  # what share of places a new network takes for an object (Lin et al. 2017, section 4.1)


class FeaturePyramid(nn.Module):
    """Maps of one width, each told what the coarser ones see (Lin et al. 2017, "Feature pyramid networks", section 3).

    Args:
        widths: channels of the maps, the finest first.
        width: channels of all maps that come out.
    """

    def __init__(self, widths: tuple[int, ...], width: int):
        super().__init__()
        self.sideways = nn.ModuleList(nn.Conv2d(one, width, 1) for one in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in widths)

    def forward(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """As many maps of the same sizes."""
        out: list[Tensor] = []
        above: Tensor | None = None
        for map_BCHW, sideways, smooth in reversed(list(zip(maps, self.sideways, self.smooth, strict=True))):
            merged_BCHW = sideways(map_BCHW)
            if above is not None:
                merged_BCHW = merged_BCHW + F.interpolate(above, merged_BCHW.shape[2:], mode="nearest")
            above = merged_BCHW
            out.insert(0, smooth(merged_BCHW))
        return out


def tower(width: int, depth: int) -> nn.Sequential:
    """3x3 convolutions with group normalisation (Wu and He 2018) and relu."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(math.gcd(width, 8), width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def finest_sum(maps: list[Tensor]) -> Tensor:
    """All maps of a pyramid brought to the size of the finest and added (Kirillov et al. 2019, section 3.1)."""
    size = maps[0].shape[2:]
    others = [F.interpolate(map_BCHW, size, mode="bilinear", align_corners=False) for map_BCHW in maps[1:]]
    return sum(others, maps[0])


# --- a class per pixel -------------------------------------------------------------------------------------------


class SegmentationHead(nn.Module):
    """A class for every pixel, from all maps (Kirillov et al. 2019, "Panoptic feature pyramid networks", section 3.1).

    Args:
        widths: channels of the backbone's maps.
        classes: how many there are, background included where it is one.
        width: channels inside the head.
    """

    def __init__(self, widths: tuple[int, ...], classes: int, width: int = 64):
        super().__init__()
        self.pyramid, self.tower = FeaturePyramid(widths, width), tower(width, 1)
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, maps: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        """Scores (B, classes, height, width) for an image of that size."""
        scores_BCHW = self.out(self.tower(finest_sum(self.pyramid(maps))))
        return F.interpolate(scores_BCHW, size, mode="bilinear", align_corners=False)


def segmentation_loss(scores_BCHW: Tensor, labels_BHW: Tensor) -> Tensor:
    """Mean over scored pixels of -log softmax(scores)[label]; pixels labelled -100 are not scored.

    0 where no pixel is scored.
    """
    total = F.cross_entropy(scores_BCHW, labels_BHW, ignore_index=IGNORED, reduction="sum")
    return total / (labels_BHW != IGNORED).sum().clamp_min(1)


# --- boxes around objects ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BoxScores:
    """What a detection head says of every place of all maps."""

    classes_BXC: Tensor  # scores of each class, before the sigmoid
    distances_BX4: Tensor  # pixels from the place to the left, top, right and bottom side of its object
    centre_BX: Tensor  # how near the middle of the object the place is, before the sigmoid
    places_X2: Tensor  # x and y of the place's middle
    strides_X: Tensor
    levels: tuple[int, ...]  # how many places each map has

    def boxes_BX4(self) -> Tensor:
        """The box that each place answers for."""
        left_top, right_bottom = self.distances_BX4.split(2, -1)
        return torch.cat((self.places_X2 - left_top, self.places_X2 + right_bottom), -1)


class DetectionHead(nn.Module):
    """FCOS (Tian et al. 2019, arXiv 1904.01355): every place may answer for one object, no anchors.

    Args:
        widths: channels of the backbone's maps, the finest first.
        strides: pixels per place of these maps.
        classes: kinds of objects; there is no class for background.
        width: channels inside the head.
        depth: convolutions before the scores, and before the distances.
    """

    def __init__(
        self, widths: tuple[int, ...], strides: tuple[int, ...], classes: int, width: int = 64, depth: int = 2
    ):
        super().__init__()
        self.strides = strides
        self.pyramid = FeaturePyramid(widths, width)
        self.class_tower, self.box_tower = tower(width, depth), tower(width, depth)
        self.classes, self.distances = nn.Conv2d(width, classes, 3, padding=1), nn.Conv2d(width, 4, 3, padding=1)
        self.centre = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(widths)))  # one for each map (section 3.2)
        nn.init.constant_(self.classes.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, maps: tuple[Tensor, ...]) -> BoxScores:
        """Scores, distances and places of all maps, the finest first."""
        classes, distances, centres, places, strides = [], [], [], [], []
        for map_BCHW, stride, scale in zip(self.pyramid(maps), self.strides, self.scales, strict=True):
            seen_BCHW = self.box_tower(map_BCHW)
            classes.append(self.classes(self.class_tower(map_BCHW)).flatten(2))
            distances.append((self.distances(seen_BCHW).flatten(2) * scale).exp() * stride)
            centres.append(self.centre(seen_BCHW).flatten(1))
            places.append(middles(map_BCHW.shape[2], map_BCHW.shape[3], stride, map_BCHW))
            strides.append(torch.full((len(places[-1]),), stride, device=map_BCHW.device))
        return BoxScores(
            torch.cat(classes, 2).mT,
            torch.cat(distances, 2).mT,
            torch.cat(centres, 1),
            torch.cat(places),
            torch.cat(strides),
            tuple(len(one) for one in places),
        )


def middles(height: int, width: int, stride: int, like: Tensor) -> Tensor:
    """x and y of the middle of every place of a map, row by row, (H W, 2)."""
    rows = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) * stride
    columns = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) * stride
    return torch.cartesian_prod(rows, columns).flip(1)


def assign(scores: BoxScores, boxes_O4: Tensor) -> Tensor:
    """The object that each place answers for, (X,); `len(boxes)` where there is none (section 3.2).

    A place answers for an object when it lies inside its box and near its middle, and when the object's size is that
    of the place's map: the furthest side lies within 4 to 8 strides (up to 8 for the finest map, any number of pixels
    from 4 for the coarsest). Of several it takes the smallest.
    """
    none = len(boxes_O4)
    if not none:
        return torch.zeros(len(scores.places_X2), dtype=torch.long, device=boxes_O4.device)
    place_X12, stride_X1 = scores.places_X2[:, None], scores.strides_X[:, None]
    side_XO4 = torch.cat((place_X12 - boxes_O4[:, :2], boxes_O4[:, 2:] - place_X12), -1)
    middle_O2 = (boxes_O4[:, :2] + boxes_O4[:, 2:]) / 2
    near_XO = ((place_X12 - middle_O2).abs() <= CENTRE_RADIUS * stride_X1[..., None]).all(-1)
    furthest_XO = side_XO4.amax(-1)
    least_X, most_X = size_limits(scores)
    fits_XO = (furthest_XO >= least_X[:, None]) & (furthest_XO <= most_X[:, None])
    area_O = (boxes_O4[:, 2:] - boxes_O4[:, :2]).prod(-1)
    area_XO = area_O.expand_as(near_XO).masked_fill(~(near_XO & fits_XO & (side_XO4.amin(-1) > 0)), math.inf)
    smallest_X, object_X = area_XO.min(1)
    return object_X.masked_fill(smallest_X.isinf(), none)


def size_limits(scores: BoxScores) -> tuple[Tensor, Tensor]:
    """Least and most pixels to the furthest side of an object, for every place."""
    least_X, most_X = 4.0 * scores.strides_X, 8.0 * scores.strides_X
    least_X[: scores.levels[0]] = 0
    most_X[len(most_X) - scores.levels[-1] :] = math.inf
    return least_X, most_X


def focal_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Sum of -a (1 - p)^2 log p, with p the probability of the truth (Lin et al. 2017, equation 5)."""
    surprise = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    right = torch.exp(-surprise)
    share = torch.where(truth > 0, FOREGROUND_SHARE, 1 - FOREGROUND_SHARE)
    return (share * (1 - right) ** FOCUS * surprise).sum()


def detection_loss(scores: BoxScores, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
    """Focal loss of the classes + 1 - GIoU of the boxes + cross-entropy of centre-ness (section 3.1, equation 2).

    Boxes count by the centre-ness of their place, sqrt(min(l, r) / max(l, r) min(t, b) / max(t, b)) (equation 3).

    Args:
        scores: of a batch.
        boxes: (O, 4) for each image.
        labels: (O,) for each image, from 0.
    """
    class_loss, box_loss, centre_loss, centres = (scores.classes_BXC.new_zeros(()) for _ in range(4))
    positives = 0
    every = zip(boxes, labels, scores.classes_BXC, scores.boxes_BX4(), scores.centre_BX, strict=True)
    for boxes_O4, labels_O, classes_XC, answer_X4, centre_X in every:
        object_X = assign(scores, boxes_O4)
        found_X = object_X < len(boxes_O4)
        object_P, place_P2 = object_X[found_X], scores.places_X2[found_X]
        truth_XC = torch.zeros_like(classes_XC)
        truth_XC[found_X.nonzero().squeeze(1), labels_O[object_P]] = 1
        class_loss = class_loss + focal_loss(classes_XC, truth_XC)
        box_P4 = boxes_O4[object_P]
        centre_P = centreness(torch.cat((place_P2 - box_P4[:, :2], box_P4[:, 2:] - place_P2), -1))
        box_loss = box_loss + ((1 - generalised_overlap(answer_X4[found_X], box_P4)) * centre_P).sum()
        centre_loss = centre_loss + F.binary_cross_entropy_with_logits(centre_X[found_X], centre_P, reduction="sum")
        centres, positives = centres + centre_P.sum(), positives + len(object_P)
    return (class_loss + centre_loss) / max(positives, 1) + box_loss / centres.clamp_min(1e-6)


def centreness(distances_X4: Tensor) -> Tensor:
    """1 in the middle of a box, 0 at its border (equation 3)."""
    left, top, right, bottom = distances_X4.unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    return (across * torch.minimum(top, bottom) / torch.maximum(top, bottom)).clamp_min(0).sqrt()


def overlaps(one_X4: Tensor, other_Y4: Tensor) -> Tensor:
    """Area of intersection over area of union of every pair of boxes, (X, Y)."""
    inside_XY = common_area(one_X4[:, None], other_Y4)
    return inside_XY / (area(one_X4)[:, None] + area(other_Y4) - inside_XY).clamp_min(1e-9)


def area(boxes: Tensor) -> Tensor:
    """Of each box; 0 where its sides are crossed."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1)


def common_area(one: Tensor, other: Tensor) -> Tensor:
    """Area of the intersection of boxes."""
    left_top = torch.maximum(one[..., :2], other[..., :2])
    right_bottom = torch.minimum(one[..., 2:], other[..., 2:])
    return (right_bottom - left_top).clamp_min(0).prod(-1)


def generalised_overlap(one: Tensor, other: Tensor) -> Tensor:
    """IoU less the share of the smallest box around both that neither covers (Rezatofighi et al. 2019, algorithm 1)."""
    inside = common_area(one, other)
    union = area(one) + area(other) - inside
    around = torch.cat((torch.minimum(one[..., :2], other[..., :2]), torch.maximum(one[..., 2:], other[..., 2:])), -1)
    hull = area(around).clamp_min(1e-9)
    return inside / union.clamp_min(1e-9) - (hull - union) / hull


@dataclass(frozen=True)
class Found:
    """The objects of one image, the surest first."""

    boxes_O4: Tensor
    scores_O: Tensor
    labels_O: Tensor


def detect(scores: BoxScores, least: float = 0.05, most: int = 100, overlap: float = 0.6) -> list[Found]:
    """The objects of each image.

    A box's score is the root of its class's probability times its centre-ness; of boxes of one class that overlap by
    more than `overlap` the surest stays (greedy non-maximum suppression).

    Args:
        scores: of a batch.
        least: lowest score.
        most: objects per image.
        overlap: intersection over union from which two boxes are one object.
    """
    sure_BXC = (scores.classes_BXC.sigmoid() * scores.centre_BX.sigmoid()[..., None]).sqrt()
    out = []
    for sure_XC, boxes_X4 in zip(sure_BXC, scores.boxes_BX4(), strict=True):
        place, label = (sure_XC > least).nonzero().unbind(1)
        order = sure_XC[place, label].argsort(descending=True)[: 10 * most]
        place, label = place[order], label[order]
        keep = suppress(boxes_X4[place], label, overlap)[:most]
        out.append(Found(boxes_X4[place[keep]], sure_XC[place, label][keep], label[keep]))
    return out


def suppress(boxes_O4: Tensor, labels_O: Tensor, overlap: float) -> Tensor:
    """Indices of boxes, surest first, that no surer box of the same class overlaps by more than `overlap`."""
    clash_OO = (overlaps(boxes_O4, boxes_O4) > overlap) & (labels_O[:, None] == labels_O)
    kept: list[int] = []
    for number in range(len(boxes_O4)):
        if not bool(clash_OO[number, kept].any()):
            kept.append(number)
    return torch.tensor(kept, dtype=torch.long, device=boxes_O4.device)


# --- joints of a body --------------------------------------------------------------------------------------------


class PoseHead(nn.Module):
    """A map of heat for each joint, at the size of the finest map (Xiao et al. 2018, "Simple baselines").

    Args:
        widths: channels of the backbone's maps.
        stride: pixels per place of the finest.
        joints: how many there are.
        width: channels inside the head.
    """

    def __init__(self, widths: tuple[int, ...], stride: int, joints: int, width: int = 64):
        super().__init__()
        self.stride = stride
        self.pyramid, self.tower = FeaturePyramid(widths, width), tower(width, 2)
        self.out = nn.Conv2d(width, joints, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Heat, (B, J, H, W), before the softmax over all places."""
        return self.out(self.tower(finest_sum(self.pyramid(maps))))


def soft_argmax(heat_BJHW: Tensor, stride: int) -> Tensor:
    """Mean place under the softmax of the heat, x and y in pixels, (B, J, 2) (Sun et al. 2018, equation 2)."""
    places_X2 = middles(heat_BJHW.shape[2], heat_BJHW.shape[3], stride, heat_BJHW)
    return heat_BJHW.flatten(2).softmax(-1) @ places_X2


def pose_loss(heat_BJHW: Tensor, joints_BJ2: Tensor, seen_BJ: Tensor, stride: int, spread: float = 1.0) -> Tensor:
    """Mean over seen joints of |mean place - joint| / stride + JS(heat, Gaussian) (Nibali et al. 2018, equation 9).

    JS is the Jensen-Shannon divergence to a Gaussian around the joint: without it heat may lie anywhere, as long as its
    mean is right.

    Args:
        heat_BJHW: before the softmax.
        joints_BJ2: x and y of each joint in pixels.
        seen_BJ: bool; joints that are not seen are not scored.
        stride: pixels per place of the heat.
        spread: deviation of the Gaussian, in places.
    """
    places_X2 = middles(heat_BJHW.shape[2], heat_BJHW.shape[3], stride, heat_BJHW)
    apart_BJ = torch.linalg.vector_norm(soft_argmax(heat_BJHW, stride) - joints_BJ2, dim=-1) / stride
    square_BJX = (places_X2 - joints_BJ2[:, :, None]).square().sum(-1)
    target = F.log_softmax(-square_BJX / (2 * (spread * stride) ** 2), -1)
    heat = F.log_softmax(heat_BJHW.flatten(2), -1)
    middle = torch.logaddexp(heat, target) - math.log(2)
    divergence_BJ = ((heat.exp() * (heat - middle) + target.exp() * (target - middle)) / 2).sum(-1)
    return ((apart_BJ + divergence_BJ) * seen_BJ).sum() / seen_BJ.sum().clamp_min(1)
