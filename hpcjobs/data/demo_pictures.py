"""Views of the demo's scenes: crops, mirror images, light, and words written over them."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from hpcjobs.data.demo_captions import Scene
from hpcjobs.run.errors import InputError

SIDE_PX = 160
"""Longer side of every view."""
_SOURCE_PX = 480
_FONT_PX = 40

Sources = dict[str, Image.Image]


def load_sources(scenes: Iterable[Scene]) -> Sources:
    """Opens the pictures that scikit-image and scikit-learn bring in their wheels.

    Returns:
        Each file's picture in RGB, at most 480 px wide and high.

    Raises:
        InputError: a package is not installed, or its version lacks a picture.
    """
    return {file: _open(_installed(file)) for scene in scenes for file in scene.files}


def view(scene: Scene, sources: Sources, chance: Random) -> Image.Image:
    """A random view of a scene: most of it, perhaps mirrored, darker or brighter."""
    picture = sources[chance.choice(scene.files)]
    picture = picture.crop(_crop_box(picture.size, chance))
    if scene.flip and chance.random() < 0.5:
        picture = ImageOps.mirror(picture)
    picture = ImageEnhance.Brightness(picture).enhance(chance.uniform(0.8, 1.2))
    scale = SIDE_PX / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC)


def write_word(
    picture: Image.Image, word: str, colour: tuple[int, ...], chance: Random
) -> Image.Image:
    """Writes a word across most of a picture's width, outlined so that it shows on any ground."""
    lettered = picture.copy()
    draw = ImageDraw.Draw(lettered)
    wide = draw.textbbox((0, 0), word, ImageFont.load_default(_FONT_PX))[2]
    size_px = int(_FONT_PX * chance.uniform(0.75, 0.92) * picture.width / wide)
    font, stroke_px = ImageFont.load_default(size_px), max(2, size_px // 12)
    left, top, right, bottom = draw.textbbox((0, 0), word, font, stroke_width=stroke_px)
    x = chance.uniform(0, max(0.0, picture.width - (right - left))) - left
    y = chance.uniform(0, max(0.0, picture.height - (bottom - top))) - top
    draw.text((x, y), word, colour, font, stroke_width=stroke_px, stroke_fill=_outline(colour))
    return lettered


def _installed(file: str) -> Path:
    package, _, inside = file.partition("/")
    # Asking where a package lies does not import it: both take seconds to load.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the demo data is made from pictures of {package}, which is not installed: "
            f"pip install 'hpcjobs[demo]'"
        )
    return Path(spec.submodule_search_locations[0]) / inside


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            layered = opened.convert("RGBA")
    except OSError as error:
        raise InputError(
            f"the demo data needs {path}, which cannot be read: {error}; install the versions "
            f"that were tried with pip install 'hpcjobs[demo]'"
        ) from error
    white = Image.new("RGBA", layered.size, "white")
    picture = Image.alpha_composite(white, layered).convert("RGB")
    picture.thumbnail((_SOURCE_PX, _SOURCE_PX), Image.Resampling.BICUBIC)
    return picture


def _crop_box(size: tuple[int, int], chance: Random) -> tuple[int, int, int, int]:
    width, height = (round(side * chance.uniform(0.82, 1.0)) for side in size)
    left = chance.randint(0, size[0] - width)
    top = chance.randint(0, size[1] - height)
    return left, top, left + width, top + height


def _outline(colour: tuple[int, ...]) -> str:
    red, green, blue = colour
    # Luma of ITU-R BT.601: how bright the letters look.
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "white"
