"""Published vision networks by name: how each is built, and how many parameters it has with 1,000 classes.

Residual networks: He et al. 2016, table 1, with the stride of a bottleneck in its 3x3 convolution as everyone now has
it. Swin: Liu et al. 2021, section 3.3, and 2022, section 4.1, for windows of 7 and images of 224, of 8 and 256 in V2.
ViTAE: Xu et al. 2021, which states 4.8, 6.5, 13.2 and 23.6 million; widths, depths and groups are those of the networks
its authors published, but for 13M, where a ratio of 3 and 80 groups give what the paper states and 2 and 64 do not.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from athanor.models.vision.resnet import ResNet, ResNetConfig
from athanor.models.vision.swin import Swin, SwinConfig
from athanor.models.vision.vitae import Vitae, VitaeConfig

CLASSES = 1_000


@dataclass(frozen=True)
class Size:
    """One row: the network's class, its config and the count of its parameters."""

    build: Callable[..., nn.Module]
    config: ResNetConfig | SwinConfig | VitaeConfig
    parameters: int


def basic(depths: tuple[int, ...], parameters: int) -> Size:
    """A residual network of basic blocks."""
    config = ResNetConfig(widths=(64, 128, 256, 512), depths=depths, block="basic", classes=CLASSES)
    return Size(ResNet, config, parameters)


def bottleneck(depths: tuple[int, ...], parameters: int) -> Size:
    """A residual network of bottlenecks."""
    config = ResNetConfig(widths=(256, 512, 1_024, 2_048), depths=depths, block="bottleneck", classes=CLASSES)
    return Size(ResNet, config, parameters)


def swin(version: str, width: int, third: int, parameters: int) -> Size:
    """A Swin network: 2, 2, `third` and 2 blocks, heads of 32 numbers."""
    window, image_size = (7, 224) if version == "v1" else (8, 256)
    config = SwinConfig(
        version=version,
        stem_width=width,
        depths=(2, 2, third, 2),
        heads=tuple(width // 32 * 2**stage for stage in range(4)),
        window=window,
        image_size=image_size,
        classes=CLASSES,
    )
    return Size(Swin, config, parameters)


def vitae(widths: tuple[int, ...], depth: int, mlp_ratio: int, parameters: int) -> Size:
    """A ViTAE network: three reductions, then `depth` normal cells with heads of 64 numbers and as many groups as a
    fourth of the width."""
    last = widths[-1]
    config = VitaeConfig(
        widths=widths,
        inner_widths=(64, 64, last // 2),
        depths=(0, 0, depth),
        heads=(1, 1, last // 64),
        mlp_ratio=mlp_ratio,
        groups=(1, 1, last // 4),
        classes=CLASSES,
    )
    return Size(Vitae, config, parameters)


SIZES: dict[str, Size] = {
    "resnet-18": basic((2, 2, 2, 2), 11_689_512),
    "resnet-34": basic((3, 4, 6, 3), 21_797_672),
    "resnet-50": bottleneck((3, 4, 6, 3), 25_557_032),
    "resnet-101": bottleneck((3, 4, 23, 3), 44_549_160),
    "resnet-152": bottleneck((3, 8, 36, 3), 60_192_808),
    "swin-t": swin("v1", 96, 6, 28_288_354),
    "swin-s": swin("v1", 96, 18, 49_606_258),
    "swin-b": swin("v1", 128, 18, 87_768_224),
    "swin-l": swin("v1", 192, 18, 196_532_476),
    "swinv2-t": swin("v2", 96, 6, 28_347_154),
    "swinv2-s": swin("v2", 96, 18, 49_728_418),
    "swinv2-b": swin("v2", 128, 18, 87_918_816),
    "vitae-t": vitae((64, 64, 256), 7, 2, 4_882_792),
    "vitae-6m": vitae((64, 64, 256), 10, 2, 6_610_024),
    "vitae-13m": vitae((64, 64, 320), 11, 3, 13_192_552),
    "vitae-s": vitae((96, 192, 384), 14, 3, 24_009_096),
}
