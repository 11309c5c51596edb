"""Perceptual hashes against the formula written out, and real photographs changed in known ways."""

import io
import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest

from athanor.base.errors import AthanorError
from athanor.base.progress import SilentProgress
from athanor.data.copies.pictures import (
    PictureSettings,
    Unreadable,
    duplicate_rows,
    find_picture_copies,
    perceptual_hashes,
    read_folder,
    read_picture,
)
from tests.conftest import REAL_DATA
from tests.verbs.conftest import Verb, verb  # noqa: F401

Image = pytest.importorskip("PIL.Image")
PHOTOS = REAL_DATA / "images" / "photos_imageio.tar"
CHOSEN = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "horse.png",
    "kodim03.png",
    "wood.jpg",
    "page.png",
)


def test_the_hash_is_the_published_formula() -> None:
    """DCT-II written as its double sum; the sign of each of 64 frequencies against the median of 63."""
    grey = np.random.default_rng(0).uniform(0, 255, (2, 32, 32))
    for picture, found in zip(grey, perceptual_hashes(grey), strict=True):
        low = [
            [
                (math.sqrt((1 if u == 0 else 2) / 32) * math.sqrt((1 if v == 0 else 2) / 32))
                * sum(
                    picture[y, x] * math.cos(math.pi * u * (2 * y + 1) / 64) * math.cos(math.pi * v * (2 * x + 1) / 64)
                    for y in range(32)
                    for x in range(32)
                )
                for v in range(8)
            ]
            for u in range(8)
        ]
        flat = [number for row in low for number in row]
        median = sorted(flat[1:])[31]
        assert f"{int(found):064b}" == "".join(str(int(number > median)) for number in flat)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photographs in a folder."""
    if not PHOTOS.is_file():
        pytest.skip("the shared photographs are not on this machine")
    folder = tmp_path_factory.mktemp("photos")
    with tarfile.open(PHOTOS) as archive:
        for name in CHOSEN:
            member = archive.extractfile(name)
            assert member is not None
            picture = Image.open(io.BytesIO(member.read())).convert("RGB")
            picture.thumbnail((360, 360))
            picture.save(folder / f"{Path(name).stem}.png")
    return folder


CHANGES = {
    "half": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "wide": lambda picture: picture.resize((int(picture.width * 1.2), picture.height)),
    "grey": lambda picture: picture.convert("L"),
    "dark": lambda picture: picture.point(lambda level: int(0.75 * level)),
    "trimmed": lambda picture: picture.crop(
        (picture.width // 50, picture.height // 50, picture.width * 49 // 50, picture.height * 49 // 50)
    ),
}


def test_changed_photographs_are_found_and_different_ones_are_not(photos: Path, tmp_path: Path) -> None:
    for path in photos.iterdir():
        picture = Image.open(path)
        picture.save(tmp_path / path.name)
        for name, change in CHANGES.items():
            change(picture).save(tmp_path / f"{path.stem}-{name}.png")
        picture.save(tmp_path / f"{path.stem}-poor.jpg", quality=20)
    read = list(read_folder(tmp_path, SilentProgress()))
    rows = duplicate_rows(read, find_picture_copies(read, PictureSettings()))
    assert all(row["removed"].split("-")[0].split(".")[0] == row["kept"].split("-")[0].split(".")[0] for row in rows)
    assert len(rows) >= 0.98 * len(CHOSEN) * (len(CHANGES) + 1)
    assert {row["kept"] for row in rows} == {f"{path.stem}-wide.png" for path in photos.iterdir()}  # most pixels


def test_a_mirror_image_is_found_on_request(photos: Path, tmp_path: Path) -> None:
    for name in ("chelsea", "coffee"):
        picture = Image.open(photos / f"{name}.png")
        picture.save(tmp_path / f"{name}.png")
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / f"{name}-mirror.png")
    read = list(read_folder(tmp_path, SilentProgress()))
    assert not find_picture_copies(read, PictureSettings())
    assert len(find_picture_copies(read, PictureSettings(mirrored=True))) == 2


def test_an_upright_copy_of_a_turned_photograph_and_transparency_are_read_as_they_look(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    picture = Image.fromarray(draw.integers(0, 255, (6, 9, 3), dtype=np.uint8)).resize((180, 120))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    picture.save(tmp_path / "upright.jpg", quality=95)
    clear = picture.convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    turned, upright, blank = (
        read_picture(tmp_path / name, name) for name in ("turned.jpg", "upright.jpg", "clear.png")
    )
    assert len(find_picture_copies([turned, upright], PictureSettings())) == 1
    assert (blank.thumbnail_TT == 255).all()
    assert not find_picture_copies([blank, blank], PictureSettings())  # nothing to compare


def test_the_verb_lists_them_and_sets_aside_what_is_no_picture(photos: Path, tmp_path: Path, verb: Verb) -> None:  # noqa: F811
    for name in ("wood", "horse"):
        Image.open(photos / f"{name}.png").resize((300, 200)).save(tmp_path / f"{name}.png")
        Image.open(photos / f"{name}.png").resize((150, 100)).save(tmp_path / f"{name}.jpg")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "wood.jpg").read_bytes()[:900])
    (tmp_path / "text.png").write_text("no picture")
    told = verb("data", "pictures", tmp_path)
    assert "4 pictures, 2 copies in 2 clusters" in told and "not read: text.png" in told and "broken.jpg" in told
    row = json.loads(verb("data", "pictures", tmp_path, "--json"))["copies"][0]
    assert row["kept"].endswith(".png") and row["kept_size"][:2] == [300, 200] and row["similarity"] > 0.95
    assert "there is no folder" in verb("data", "pictures", tmp_path / "nowhere", code=2)
    (tmp_path / "empty").mkdir()
    assert "there is no picture" in verb("data", "pictures", tmp_path / "empty", code=2)


def test_no_pictures_are_no_copies(tmp_path: Path) -> None:
    assert find_picture_copies([], PictureSettings()) == []
    (tmp_path / "a.png").write_bytes(b"")
    assert isinstance(read_picture(tmp_path / "a.png", "a.png"), Unreadable)
    with pytest.raises(AthanorError, match="there is no picture"):
        list(read_folder(tmp_path / "nowhere", SilentProgress()))
