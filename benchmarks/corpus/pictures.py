"""What picture copies are found: real pictures changed in known ways, and real pictures that are different ones.

    python benchmarks/corpus/pictures.py ../shared/data/images

For each collection (photographs and their tiles of 192 pixels, emoji on white, CIFAR-10): how many pairs of different
pictures are taken for copies, and what share of the changed pictures is recognised, at the settings given.
"""

import argparse
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image, ImageEnhance, ImageOps

from athanor.base.tables import text_table
from athanor.data.copies.pictures import SIDE, PictureSettings, field_vectors, perceptual_hashes

TILE = 192
MOST = 600


def photographs(folder: Path) -> list[Any]:
    """The photographs, and their parts."""
    whole = []
    with tarfile.open(folder / "photos_imageio.tar") as archive:
        for member in archive:
            if member.isfile():
                data = archive.extractfile(member)
                assert data is not None
                whole.append(Image.open(io.BytesIO(data.read())).convert("RGB"))
    return whole + [
        picture.crop((x, y, x + TILE, y + TILE))
        for picture in whole
        for y in range(0, picture.height - TILE + 1, TILE)
        for x in range(0, picture.width - TILE + 1, TILE)
    ]


def column(path: Path) -> list[Any]:
    """The pictures of a parquet file, on white."""
    table = parquet.read_table(path)
    name = next(name for name in table.column_names if name in ("png", "jpeg"))
    pictures = [Image.open(io.BytesIO(data)).convert("RGBA") for data in table.column(name).to_pylist()[:MOST]]
    return [Image.alpha_composite(Image.new("RGBA", one.size, "white"), one).convert("RGB") for one in pictures]


def jpeg(picture: Any, quality: int) -> Any:
    """The picture saved and read again."""
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality)
    return Image.open(data)


def cropped(picture: Any, share: float) -> Any:
    """The picture without a margin of half this share on each side."""
    x, y = int(picture.width * share / 2), int(picture.height * share / 2)
    return picture.crop((x, y, picture.width - x, picture.height - y))


def noisy(picture: Any) -> Any:
    """The picture with noise of 12 grey levels."""
    noise = np.random.default_rng(0).normal(0, 12, (picture.height, picture.width, 3))
    return Image.fromarray(np.clip(np.asarray(picture, dtype=float) + noise, 0, 255).astype(np.uint8))


CHANGES: dict[str, Callable[[Any], Any]] = {
    "half size": lambda one: one.resize((one.width // 2, one.height // 2)),
    "quarter size": lambda one: one.resize((one.width // 4, one.height // 4)),
    "20 % wider": lambda one: one.resize((int(one.width * 1.2), one.height)),
    "JPEG quality 75": lambda one: jpeg(one, 75),
    "JPEG quality 20": lambda one: jpeg(one, 20),
    "JPEG quality 5": lambda one: jpeg(one, 5),
    "grey": lambda one: one.convert("L"),
    "1.3 times as bright": lambda one: ImageEnhance.Brightness(one).enhance(1.3),
    "0.7 of the contrast": lambda one: ImageEnhance.Contrast(one).enhance(0.7),
    "noise": noisy,
    "4 % cropped": lambda one: cropped(one, 0.04),
    "10 % cropped": lambda one: cropped(one, 0.10),
    "20 % cropped": lambda one: cropped(one, 0.20),
    "turned by 2 degrees": lambda one: one.rotate(2),
    "mirrored": ImageOps.mirror,
    "turned by 90 degrees": lambda one: one.rotate(90, expand=True),
}


def thumbnails(pictures: list[Any]) -> Any:
    """thumbnails_NTT."""
    small = [one.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX) for one in pictures]
    return np.stack([np.asarray(one, dtype=np.float64) for one in small])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--distance", type=int, default=PictureSettings().distance)
    parser.add_argument("--correlation", type=float, default=PictureSettings().correlation)
    given = parser.parse_args()
    collections = {
        "photographs": photographs(given.folder),
        "emoji": column(given.folder / "noto_emoji_128px.parquet"),
        "CIFAR-10": column(given.folder / "cifar10_test_5000.parquet"),
    }
    columns: dict[str, list[str]] = {name: [] for name in ("pictures", "different pairs taken for copies", *CHANGES)}
    for pictures in collections.values():
        plain = thumbnails(pictures)
        hashes, units = perceptual_hashes(plain), field_vectors(plain)
        near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= given.distance
        wrong = np.triu(near & (units @ units.T >= given.correlation), 1).sum()
        columns["pictures"].append(str(len(pictures)))
        columns["different pairs taken for copies"].append(f"{wrong} of {len(pictures) * (len(pictures) - 1) // 2}")
        for name, change in CHANGES.items():
            changed = thumbnails([change(one) for one in pictures])
            close = np.bitwise_count(hashes ^ perceptual_hashes(changed)) <= given.distance
            alike = (units * field_vectors(changed)).sum(axis=1) >= given.correlation
            columns[name].append(f"{(close & alike).mean():.3f}")
    print(text_table(["share found", *collections], [[name, *row] for name, row in columns.items()]))


if __name__ == "__main__":
    main()
