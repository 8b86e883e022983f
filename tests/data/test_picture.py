"""How pictures are decoded, and which are refused with which words."""

import io
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpcjobs.data import picture
from hpcjobs.data.picture import BACKGROUND, CLIP_MEAN, CLIP_STD, load_picture, picture_path
from hpcjobs.run.errors import InputError

RED = (250, 10, 20)


def normalised(colour: tuple[int, ...]) -> torch.Tensor:
    return (torch.tensor(colour) / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)


def save(path: Path, image: Image.Image, **options: object) -> str:
    image.save(path, **options)
    return path.name


def noise(width: int = 64, height: int = 48) -> Image.Image:
    values = np.random.PCG64(7).random_raw(width * height * 3) % 256
    return Image.fromarray(values.astype(np.uint8).reshape(height, width, 3))


def test_a_picture_is_normalised_and_has_the_size_that_was_asked_for(tmp_path):
    name = save(tmp_path / "a.png", Image.new("RGB", (10, 10), RED))
    loaded = load_picture(tmp_path, name, 16)
    assert loaded.shape == (3, 16, 16)
    assert loaded.dtype == torch.float32
    assert torch.allclose(loaded, normalised(RED).view(3, 1, 1).expand(3, 16, 16))


@pytest.mark.parametrize(
    ("size", "band"),
    [
        ((8, 4), (slice(None), slice(0, 2), slice(None))),
        ((4, 8), (slice(None), slice(None), slice(0, 2))),
    ],
)
def test_a_picture_is_padded_to_a_square_with_the_mean_colour(tmp_path, size, band):
    name = save(tmp_path / "a.png", Image.new("RGB", size, RED))
    loaded = load_picture(tmp_path, name, 8)
    assert BACKGROUND == (122, 116, 104)
    assert torch.allclose(loaded[band], normalised(BACKGROUND).view(3, 1, 1))
    assert torch.allclose(loaded[:, 4, 4], normalised(RED))


def transparent(mode: str) -> Image.Image:
    image = Image.new("RGBA", (8, 8), (*RED, 0))
    if mode == "P":
        image = Image.new("P", (8, 8), 0)
        image.info["transparency"] = 0
    return image.convert(mode) if mode == "LA" else image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_the_mean_colour(tmp_path, mode):
    name = save(tmp_path / "a.png", transparent(mode))
    expected = normalised(BACKGROUND).view(3, 1, 1).expand(3, 8, 8)
    assert torch.allclose(load_picture(tmp_path, name, 8), expected)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("L", "png"),
        ("1", "png"),
        ("P", "gif"),
        ("CMYK", "jpg"),
        ("RGB", "webp"),
        ("RGB", "bmp"),
        ("L", "tif"),
    ],
)
def test_other_colour_modes_and_formats_are_read_as_rgb(tmp_path, mode, suffix):
    name = save(tmp_path / f"a.{suffix}", noise().convert(mode))
    loaded = load_picture(tmp_path, name, 24)
    assert loaded.shape == (3, 24, 24)
    assert loaded.isfinite().all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_greys_are_refused_since_they_would_turn_white(tmp_path, dtype):
    name = save(tmp_path / "a.tif", Image.fromarray(np.full((8, 8), 4000, dtype)))
    with pytest.raises(InputError, match=r"picture a\.tif has values of 16 or 32 bits"):
        load_picture(tmp_path, name, 8)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "x/../../secret.png",
        "link.png",
        "folder/secret.png",
        "{outside}/secret.png",
    ],
)
def test_a_path_that_leaves_the_picture_directory_is_refused(tmp_path, name):
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (root / "x").mkdir(parents=True)
    save(outside / "secret.png", noise())
    save(tmp_path / "secret.png", noise())
    (root / "link.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    with pytest.raises(InputError, match=r"secret\.png is outside|link\.png is outside"):
        load_picture(root, name.format(outside=outside), 8)


def test_an_absolute_path_is_refused_even_inside_the_picture_directory(tmp_path):
    name = save(tmp_path / "a.png", noise())
    with pytest.raises(InputError, match="outside"):
        picture_path(tmp_path, str(tmp_path / name))


def test_links_inside_the_picture_directory_and_to_it_are_followed(tmp_path):
    (tmp_path / "real" / "a").mkdir(parents=True)
    save(tmp_path / "real" / "a" / "x.png", noise())
    (tmp_path / "real" / "b.png").symlink_to("a/x.png")
    (tmp_path / "root").symlink_to("real")
    assert picture_path(tmp_path / "root", "b.png").name == "x.png"


@pytest.mark.parametrize("name", ["none.png", "", ".", "folder", "a.png/b.png"])
def test_what_is_no_file_is_named_as_missing(tmp_path, name):
    (tmp_path / "folder").mkdir()
    save(tmp_path / "a.png", noise())
    with pytest.raises(InputError, match=rf"picture {re.escape(name)} is missing"):
        picture_path(tmp_path, name)


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000, "loop"])
def test_a_name_that_no_disk_takes_is_a_bad_sample_and_no_crash(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="is no usable path"):
        picture_path(tmp_path, name)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.95])
def test_a_truncated_picture_is_named(tmp_path, suffix, kept):
    buffer = io.BytesIO()
    noise().save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    content = buffer.getvalue()
    (tmp_path / f"cut.{suffix}").write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(
        InputError, match=rf"picture cut\.{suffix} (cannot be decoded|is in no picture format)"
    ):
        load_picture(tmp_path, f"cut.{suffix}", 8)


@pytest.mark.parametrize(
    "content", [b"", b"<html>404 Not Found</html>", b"\x89PNG\r\n\x1a\n", bytes(2000)]
)
def test_a_file_that_is_no_picture_is_named(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(
        InputError, match=r"picture a\.jpg (is in no picture format|cannot be decoded)"
    ):
        load_picture(tmp_path, "a.jpg", 8)


def test_a_small_file_that_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    save(tmp_path / "bomb.png", Image.new("1", (400, 300)))
    monkeypatch.setattr(picture, "PIXELS_MAX", 100_000)
    with pytest.raises(InputError, match=r"bomb\.png has more than 100000 pixels: 400 x 300"):
        load_picture(tmp_path, "bomb.png", 8)


def test_pillows_own_guard_is_on_and_its_refusal_is_named(tmp_path, monkeypatch):
    save(tmp_path / "bomb.png", Image.new("1", (400, 300)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    with (
        warnings.catch_warnings(),
        pytest.raises(InputError, match=r"picture bomb\.png has more than"),
    ):
        load_picture(tmp_path, "bomb.png", 8)
