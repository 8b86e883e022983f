"""Pictures as both towers want them: padded to a square, resized, normalised."""

import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from hpcjobs.run.errors import InputError

# CLIP's preprocessor_config.json; MGM requires ConvNeXt's to be the same.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BACKGROUND = tuple(int(mean * 255) for mean in CLIP_MEAN)

PIXELS_MAX = 89_478_485
"""Pillow's own warning level: a quarter of a gibibyte as 24-bit RGB. A few bytes can claim more."""

# Which of these a broken file raises depends on its format and on where it is broken.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError)


def picture_path(root: Path, name: str) -> Path:
    """Finds a picture below its root.

    Raises:
        InputError: the path is absolute, leads out of the root (also by a link), or names
            nothing that can be read as a file.
    """
    try:
        path = (root / name).resolve()
        inside = not Path(name).is_absolute() and path.is_relative_to(root.resolve())
        found = inside and path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a link to itself
        raise InputError(f"picture {name!r} is no usable path: {error}") from error
    if not inside:
        raise InputError(f"picture {name} is outside {root}: write paths relative to it")
    if not found:
        raise InputError(f"picture {name} is missing in {root}")
    return path


def load_picture(root: Path, name: str, size_px: int) -> Tensor:
    """Decodes a picture.

    Returns:
        [3, size_px, size_px] in float32, normalised.

    Raises:
        InputError: it is missing, broken, too large to be honest, or outside the root.
    """
    path = picture_path(root, name)
    try:
        with Image.open(path) as opened:
            _refuse_misread(opened)
            picture = _on_background(opened)
    except InputError as error:
        raise InputError(f"picture {name} {error}") from None
    except UnidentifiedImageError as error:
        raise InputError(f"picture {name} is in no picture format that Pillow knows") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"picture {name} has more than {PIXELS_MAX} pixels") from error
    except _DECODE_ERRORS as error:
        raise InputError(f"picture {name} cannot be decoded: {error}") from error
    return to_tensor(picture, size_px)


def to_tensor(picture: Image.Image, size_px: int) -> Tensor:
    """Pads to a square on the mean colour, resizes bicubically and normalises: [3, S, S]."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), BACKGROUND)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    resized = square.resize((size_px, size_px), Image.Resampling.BICUBIC)
    values_SS3 = torch.from_numpy(np.array(resized, dtype=np.float32) / 255)
    normalised_SS3 = (values_SS3 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    return normalised_SS3.permute(2, 0, 1).contiguous()


def _refuse_misread(opened: Image.Image) -> None:
    # Looked at here and not by turning Pillow's warning into an error: warning filters are
    # global, and the check before training decodes in threads.
    if opened.width * opened.height > PIXELS_MAX:
        raise InputError(f"has more than {PIXELS_MAX} pixels: {opened.width} x {opened.height}")
    # Pillow cuts such values off at 255, which makes nearly all of the picture white.
    if opened.mode in ("I", "F") or opened.mode.startswith("I;16"):
        raise InputError(f"has values of 16 or 32 bits (mode {opened.mode}): convert it to 8 bits")


def _on_background(opened: Image.Image) -> Image.Image:
    if not opened.has_transparency_data:
        return opened.convert("RGB")
    layered = opened.convert("RGBA")
    background = Image.new("RGBA", layered.size, (*BACKGROUND, 255))
    return Image.alpha_composite(background, layered).convert("RGB")
