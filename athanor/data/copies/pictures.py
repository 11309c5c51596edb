"""Pictures that are copies of one another: perceptual hashes name candidates, thumbnails decide.

The hash is pHash (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2): the
signs, against their median, of the 8 x 8 lowest frequencies of a 32 x 32 grey thumbnail, 64 bits. It hardly changes
with size, JPEG quality, brightness and small crops; a mirrored or turned picture has another one, so a picture can be
looked for in its mirror images too. Pictures whose hashes differ in few bits are copies if the grey levels of 8 x 8
fields correlate. Measured on transformed real pictures: `benchmarks/corpus/pictures.py`.

Shapes: N pictures, T = 32 (side of a thumbnail), F = 64 fields.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.base.settings import Settings
from athanor.data.copies.clusters import Copy
from athanor.data.copies.hamming import near_pairs

SIDE, LOW = 32, 8
FLATTEST = 1.0  # standard deviation of grey levels below which a picture has nothing to compare: it is no copy
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64]


class PictureSettings(Settings):
    """What counts as a copy."""

    distance: int = Field(default=12, ge=0, le=31)
    """Most bits of 64 in which the hashes of copies differ."""
    correlation: float = Field(default=0.9, gt=0, le=1)
    """Least correlation of the grey levels of their 8 x 8 fields."""
    mirrored: bool = False
    """Whether a mirror image is a copy."""


@dataclass(frozen=True)
class Picture:
    """A picture that was read.

    Attributes:
        name: its path within the folder.
        width, height, bytes: of the file.
        thumbnail_TT: grey levels, 0 to 255.
    """

    name: str
    width: int
    height: int
    bytes: int
    thumbnail_TT: Floats


@dataclass(frozen=True)
class Unreadable:
    """A file that is no picture, and why."""

    name: str
    reason: str


def _cosines() -> Floats:
    """The DCT-II's lowest rows, orthonormal: cosines_LT[k, n] = c_k cos(pi k (2n + 1) / 2T)."""
    k, n = np.arange(LOW)[:, None], np.arange(SIDE)[None, :]
    scale = np.sqrt(np.where(k == 0, 1.0, 2.0) / SIDE)
    cosines: Floats = scale * np.cos(np.pi * k * (2 * n + 1) / (2 * SIDE))
    return cosines


COSINES_LT = _cosines()


def perceptual_hashes(thumbnails_NTT: Floats) -> Hashes:
    """hashes_N: 64 bits of each thumbnail, row by row, the lowest frequency in the highest bit.

    The median leaves out the lowest frequency, which is the brightness.
    """
    low_NLL = COSINES_LT @ thumbnails_NTT @ COSINES_LT.T
    flat = low_NLL.reshape(len(low_NLL), LOW * LOW)
    bits = flat > np.median(flat[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").reshape(-1).astype(np.uint64)


def read_folder(folder: Path, progress: Progress) -> Iterator[Picture | Unreadable]:
    """Every picture below a folder, in the order of the names.

    Raises:
        AthanorError: there is none, or Pillow, which decodes them, is not installed.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise AthanorError(f"there is no picture in {folder}", allowed=" ".join(SUFFIXES))
    progress.start("reading pictures", len(files), "pictures")
    for path in files:
        yield read_picture(path, str(path.relative_to(folder)))
        progress.advance(1)
    progress.finish()


def read_picture(path: Path, name: str) -> Picture | Unreadable:
    """The thumbnail of one picture: upright, on white, of an animation the first frame."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise AthanorError("reading pictures needs Pillow", fix="pip install 'athanor[pictures]'") from None
    try:
        with Image.open(path) as opened:
            width, height = opened.size
            opened.draft("RGB", (4 * SIDE, 4 * SIDE))  # JPEG is decoded at an eighth of its size where that is enough
            upright = ImageOps.exif_transpose(opened)
            colour = upright.convert("RGBA")
            white = Image.new("RGBA", colour.size, "white")
            grey = Image.alpha_composite(white, colour).convert("L")
            small = grey.resize((SIDE, SIDE), Image.Resampling.BOX)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as problem:
        return Unreadable(name, f"{type(problem).__name__}: {problem}"[:200])
    return Picture(name, width, height, path.stat().st_size, np.asarray(small, dtype=np.float64))


def find_picture_copies(pictures: Sequence[Picture], settings: PictureSettings) -> list[Copy]:
    """Which pictures to remove, each for the sake of one that stays: the one with the most pixels, then bytes.

    Near hashes are found without comparing all pairs (`hamming`), and the same ones.
    """
    if not pictures:
        return []
    thumbnails_NTT = np.stack([picture.thumbnail_TT for picture in pictures])
    size = [(-picture.width * picture.height, -picture.bytes, picture.name) for picture in pictures]
    better = sorted(range(len(pictures)), key=size.__getitem__)  # who stays comes first
    units_NF = field_vectors(thumbnails_NTT)
    flipped = [thumbnails_NTT]
    if settings.mirrored:
        flipped += [thumbnails_NTT[:, :, ::-1], thumbnails_NTT[:, ::-1, :]]
    found: dict[int, dict[int, float]] = {}  # by the worse of two, the better ones and how alike they are
    rank_N = np.empty(len(pictures), dtype=np.int64)
    rank_N[better] = np.arange(len(pictures))
    hashes_N = perceptual_hashes(thumbnails_NTT)
    for turned_NTT in flipped:
        turned_NF = field_vectors(turned_NTT)
        turned_N = hashes_N if turned_NTT is thumbnails_NTT else perceptual_hashes(turned_NTT)
        for ones_P, others_P in near_pairs(turned_N, hashes_N, settings.distance):
            alike_P = np.einsum("pf,pf->p", turned_NF[ones_P], units_NF[others_P])
            for place in np.flatnonzero((alike_P >= settings.correlation) & (ones_P != others_P)).tolist():
                one, other, alike = int(ones_P[place]), int(others_P[place]), float(alike_P[place])
                worse, stays = (one, other) if rank_N[one] > rank_N[other] else (other, one)
                near = found.setdefault(worse, {})
                near[stays] = max(near.get(stays, 0.0), alike)
    gone: dict[int, Copy] = {}
    for number in better:
        there = {other: alike for other, alike in found.get(number, {}).items() if other not in gone}
        if there:
            kept = max(there, key=lambda other: (there[other], -rank_N[other]))
            gone[number] = Copy(number, kept, there[kept])
    return [gone[number] for number in sorted(gone)]


def field_vectors(thumbnails_NTT: Floats) -> Floats:
    """units_NF: grey levels of 8 x 8 fields, of mean 0 and length 1: a product is a correlation; 0 of a flat one."""
    step = SIDE // LOW
    fields = thumbnails_NTT.reshape(-1, LOW, step, LOW, step).mean(axis=(2, 4)).reshape(-1, LOW * LOW)
    centred = fields - fields.mean(axis=1, keepdims=True)
    flat_N = centred.std(axis=1) < FLATTEST
    units: Floats = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    units[flat_N] = 0.0
    return units


def duplicate_rows(pictures: Sequence[Picture], copies: Sequence[Copy]) -> list[dict[str, Any]]:
    """Rows as those of duplicates.jsonl, with the sizes of both pictures."""
    return [
        {"kind": "picture", "removed": pictures[copy.removed].name, "kept": pictures[copy.kept].name,
         "similarity": round(copy.similarity, 4), "removed_size": _size(pictures[copy.removed]),
         "kept_size": _size(pictures[copy.kept])}
        for copy in copies
    ]  # fmt: skip


def _size(picture: Picture) -> list[int]:
    return [picture.width, picture.height, picture.bytes]
