"""How well pixels, boxes and joints were found: mean IoU, average precision and PCK.

Shape letters as in `heads.py`.
"""

import torch
from torch import Tensor

from athanor.models.vision.heads import IGNORED, Found, overlaps


def mean_iou(labels: Tensor, truth: Tensor, classes: int) -> float:
    """Mean over classes of intersection over union of their pixels (PASCAL VOC, Everingham et al. 2015, section 4.3).

    Args:
        labels: class of every pixel, any shape.
        truth: the same for the truth; pixels of -100 are not counted.
        classes: how many there are; a class that occurs in neither is left out.
    """
    scored = truth != IGNORED
    pairs = truth[scored] * classes + labels[scored]
    confusion_CC = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    hit_C = confusion_CC.diagonal()
    union_C = confusion_CC.sum(0) + confusion_CC.sum(1) - hit_C
    occurs_C = union_C > 0
    return float((hit_C[occurs_C] / union_C[occurs_C]).mean())


def average_precision(
    found: list[Found], boxes: list[Tensor], labels: list[Tensor], classes: int, overlap: float = 0.5
) -> float:
    """Mean over classes of the area under precision by recall (PASCAL VOC from 2010, section 4.2 of its review).

    A box is right when it overlaps an object of its class by `overlap` or more, and no surer box took that object. For
    each recall the best precision at that recall or beyond counts. Classes without objects are left out.

    Args:
        found: of each image.
        boxes: the truth, (O, 4) of each image.
        labels: the truth, (O,) of each image.
        classes: how many there are.
        overlap: intersection over union from which a box is right; 0.5 is AP50.
    """
    areas = []
    for label in range(classes):
        objects = sum(int((one == label).sum()) for one in labels)
        if objects:
            sure, right = matches(found, boxes, labels, label, overlap)
            areas.append(area_under(right[sure.argsort(descending=True)], objects))
    return sum(areas) / len(areas) if areas else 0.0


def matches(
    found: list[Found], boxes: list[Tensor], labels: list[Tensor], label: int, overlap: float
) -> tuple[Tensor, Tensor]:
    """Score of every box of a class, and 1 where it is right, over all images."""
    sure, right = [torch.zeros(0)], [torch.zeros(0)]
    for one, boxes_O4, labels_O in zip(found, boxes, labels, strict=True):
        own, true = one.labels_O == label, boxes_O4[labels_O == label]
        order = one.scores_O[own].argsort(descending=True)
        share = overlaps(one.boxes_O4[own][order], true)
        taken: set[int] = set()
        hits = torch.zeros(len(order))
        for number, row in enumerate(share):
            best = int(row.argmax()) if len(row) else None
            if best is not None and row[best] >= overlap and best not in taken:
                taken.add(best)
                hits[number] = 1
        sure.append(one.scores_O[own][order].cpu())
        right.append(hits)
    return torch.cat(sure), torch.cat(right)


def area_under(right: Tensor, objects: int) -> float:
    """Area under the best precision at each recall or beyond, from 1 or 0 for each box, the surest first."""
    hits = right.double().cumsum(0)
    precision = hits / torch.arange(1, len(hits) + 1)
    best = precision.flip(0).cummax(0).values.flip(0) if len(precision) else precision
    return float((best * right).sum() / objects)


def correct_joints(joints_BJ2: Tensor, truth_BJ2: Tensor, seen_BJ: Tensor, reach_B: Tensor) -> float:
    """PCK: share of seen joints found within `reach` pixels (Yang and Ramanan 2013, section 7.1).

    Args:
        joints_BJ2: found.
        truth_BJ2: the truth.
        seen_BJ: bool, which joints count.
        reach_B: pixels, for each image: a share of the size of its body.
    """
    near_BJ = torch.linalg.vector_norm(joints_BJ2 - truth_BJ2, dim=-1) <= reach_B[:, None]
    return float((near_BJ & seen_BJ).sum() / seen_BJ.sum().clamp_min(1))
