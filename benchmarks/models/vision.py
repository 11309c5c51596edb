"""Time of a training step (forward and backward) of our vision networks beside `transformers`, in one process.

Both see the same images on one thread, and their steps alternate; the clock is CPU time, which a busy neighbour does
not change. Printed: the median of each, and the median of the ratios of neighbours (ours / theirs).

    python benchmarks/models/vision.py [--steps 10] [--only resnet-18]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from torch import Tensor, nn

import athanor  # noqa: F401 - sets how OpenMP's threads wait
from athanor.models.vision.sizes import SIZES


def resnet_18() -> tuple[nn.Module, int]:
    """Theirs, and the side of its images."""
    settings = transformers.ResNetConfig(
        hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=1_000
    )
    return transformers.ResNetForImageClassification(settings), 224


def swin_tiny() -> tuple[nn.Module, int]:
    """Theirs without stochastic depth, and the side of its images."""
    settings = transformers.SwinConfig(num_labels=1_000, drop_path_rate=0.0)
    return transformers.SwinForImageClassification(settings), 224


def swin_v2_tiny() -> tuple[nn.Module, int]:
    """Theirs without stochastic depth, and the side of its images."""
    settings = transformers.Swinv2Config(num_labels=1_000, drop_path_rate=0.0, window_size=8, image_size=256)
    return transformers.Swinv2ForImageClassification(settings), 256


CASES = {"resnet-18": resnet_18, "swin-t": swin_tiny, "swinv2-t": swin_v2_tiny}


def seconds(step: Callable[[], Tensor]) -> float:
    """One forward and backward pass of the sum of squared scores."""
    start = time.process_time()
    step().square().sum().backward()
    return time.process_time() - start


def compare(name: str, steps: int) -> None:
    """Print one line."""
    theirs, side = CASES[name]()
    ours, images = SIZES[name].build(SIZES[name].config).initialise(0), torch.randn(2, 3, side, side)
    ours.train(), theirs.train()
    pairs = []
    for count in range(steps + 2):
        both = [lambda: ours(images), lambda: theirs(images).logits]
        order = (0, 1) if count % 2 else (1, 0)
        taken = {place: seconds(both[place]) for place in order}
        if count >= 2:  # the first two are for warming up
            pairs.append((taken[0], taken[1]))
        ours.zero_grad(), theirs.zero_grad()
    mine, other = (statistics.median(column) * 1_000 for column in zip(*pairs, strict=True))
    ratio = statistics.median(first / second for first, second in pairs)
    print(f"{name:10}  ours {mine:7.1f} ms  transformers {other:7.1f} ms  ratio {ratio:.3f}  ({steps} steps)")


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", choices=CASES)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in [arguments.only] if arguments.only else CASES:
        compare(name, arguments.steps)


if __name__ == "__main__":
    main()
